"""The encoder of Whisper (Radford et al., 2023), giving a clip the same frames in any batch.

Whisper takes no masks: a clip is followed by zeros up to 30 s, and the zeros are part of what it
was trained on. Three steps:

    prepare   one wave (N,)    as it is
    log_mel   waves (B, N)     log-mel spectrogram (B, F, 2 T), as Whisper's own extractor
    forward   waves (B, N)     ``Encoded``, of the real frames only: ceil(N / 320)

A clip longer than the context is cut into windows that follow one another, and their frames are
joined (our choice; Whisper itself transcribes window by window).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from serlib.data.audio import SAMPLE_RATE
from serlib.models.encoders import checkpoints
from serlib.models.encoders.checkpoints import EXTRACTOR, Encoded, EncoderError, Pretrained

DYNAMIC_RANGE = 8.0  # powers of ten below a window's loudest bin; the rest is cut off


def log_mel(waves: Tensor, filters: Tensor, n_fft: int, hop: int) -> Tensor:
    """Whisper's spectrogram: x = log10 max(|STFT|² · filters, 1e-10), cut off, and scaled.

    y = (max(x, max x - 8) + 4) / 4, the inner maximum over each row's own spectrogram, padding
    included. In float32 whatever autocast says.

    Waves (B, N), padded as they are to be seen, and filters (n_fft / 2 + 1, F) give (B, F, N / hop)
    float32: a Hann window of n_fft samples, hop samples from one frame to the next.
    """
    with torch.autocast(waves.device.type, enabled=False):
        window = torch.hann_window(n_fft, device=waves.device)
        spectrum = torch.stft(waves.float(), n_fft, hop, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square().contiguous()
        x = (filters.T @ power).clamp(min=1e-10).log10()
        return (x.maximum(x.amax((1, 2), keepdim=True) - DYNAMIC_RANGE) + 4) / 4


class WhisperEncoder(Pretrained):
    """Whisper's encoder, made by ``load_encoder``; ``facts`` says what was loaded, and how.

    A frame is ``stride`` samples (320: 20 ms). A window has ``window_frames`` frames or
    ``window_samples`` samples (1,500 and 480,000: 30 s). ``context`` is "full" or "short".

    The short context is a variant of ours: a clip is padded to whole frames only, attention sees
    nothing else, and the positions are the first ones. It costs a sixth of the arithmetic for
    clips of 6 s, and the frames are not those of the full context: the model has not seen speech
    without the zeros after it in training. Clips as long as the context are the same in both.
    """

    FACTS = Pretrained.FACTS + ("context", "context_seconds", "spec_augment", "n_mels", "stride")
    DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
    OPTIONS = ("context", "freeze_layers", "spec_augment")
    pre_norm = True

    def __init__(
        self, model: nn.Module, extractor, *, context: str, freeze: str, freeze_layers: int = 0
    ) -> None:
        """Wrap a transformers encoder and its feature extractor; see ``load_encoder``."""
        super().__init__(model, freeze, freeze_layers)
        config = model.config
        self.context, self.n_fft, self.hop = context, extractor.n_fft, extractor.hop_length
        self.fill_value = float(extractor.padding_value)
        self.n_mels, self.window_frames = config.num_mel_bins, config.max_source_positions
        self.stride = self.hop * model.conv1.stride[0] * model.conv2.stride[0]
        self.window_samples = self.window_frames * self.stride
        self.context_seconds = self.window_samples / SAMPLE_RATE
        # No buffer: it stays in float32 in a model of any precision.
        self.filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32)

    @staticmethod
    def beside(folder: Path, config):
        """Whisper's feature extractor, of which only the settings and the mel filters are used."""
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor.from_dict(checkpoints.read_extractor(folder))
        if extractor.feature_size != config.num_mel_bins:
            found = f"{extractor.feature_size} mel bands, the model {config.num_mel_bins}"
            fix = "Fetch both again, from one checkpoint."
            raise EncoderError(f"{folder}: {EXTRACTOR} has {found}. {fix}")
        if extractor.dither:
            raise EncoderError(f"{folder}: dither is random noise; set it to 0 in {EXTRACTOR}.")
        return extractor

    @staticmethod
    def stock(config) -> nn.Module:
        """The transformers encoder; the decoder is neither made nor read."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Stock

        config._attn_implementation = "sdpa"
        return Stock(config)

    @staticmethod
    def rename(name: str) -> str:
        """The encoder's name of a weight in the folder, which may hold a complete Whisper."""
        return re.sub(r"^(model\.)?(encoder\.)?", "", name)

    def frozen(self) -> list[nn.Module]:
        """The two convolutions, and with ``freeze_layers`` positions and layers above them."""
        model, k = self.model, self.freeze_layers
        above = [model.embed_positions, *model.layers[:k]] if k else []
        return [model.conv1, model.conv2, *above]

    def prepare(self, wave: np.ndarray) -> np.ndarray:
        """One wave (N,) at 16 kHz, as float32; ValueError without samples."""
        wave = np.asarray(wave, np.float32)
        if wave.ndim != 1 or not len(wave):
            raise ValueError(f"a wave of shape {wave.shape}: need (N,) with N > 0")
        return wave

    def frame_lengths(self, n_samples: Tensor | int) -> Tensor:
        """Frames of clips of ``n_samples``: ceil(n / stride)."""
        return -(-torch.as_tensor(n_samples) // self.stride)

    def encode(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Waves (B, N) to all states of the clips' own frames."""
        lengths = checkpoints.checked(inputs, lengths, 2, 1, "samples")
        windows, sizes, rows, columns = self._cut(inputs, lengths)
        states = self._transform(*self._spectrograms(windows, sizes))
        frames = self.frame_lengths(lengths)
        padded = ~checkpoints.frame_mask(frames, int(frames.max()), inputs.device)[..., None]
        n_windows = -(-int(lengths.max()) // self.window_samples)

        def join(x: Tensor) -> Tensor:
            """Windows (W, n, D) to clips (B, T, D)."""
            if n_windows > 1:
                joined = x.new_zeros(len(lengths), n_windows, *x.shape[1:])
                joined[rows, columns] = x
                x = joined.flatten(1, 2)
            return x[:, : padded.shape[1]].masked_fill(padded, 0)

        return Encoded(join(self.last(states)), frames, tuple(join(state) for state in states))

    def _cut(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows (W, N) with zeros after the clip, samples in each, whose they are, which one."""
        valid = checkpoints.frame_mask(lengths, waves.shape[1], waves.device)
        waves = waves.masked_fill(~valid, self.fill_value)
        size = self.window_samples
        n_windows = -(-int(lengths.max()) // size)
        waves = waves[:, : n_windows * size]
        waves = functional.pad(waves, (0, n_windows * size - waves.shape[1]), value=self.fill_value)
        filled = (lengths[:, None] - size * torch.arange(n_windows)).clamp(0, size)
        rows, columns = filled.nonzero(as_tuple=True)
        sizes, windows = filled[rows, columns], waves.unflatten(1, (n_windows, size))
        rows, columns = (x.to(waves.device, non_blocking=True) for x in (rows, columns))
        return windows[rows, columns], sizes, rows, columns

    def _spectrograms(self, windows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel spectrograms (W, F, 2 T) of windows, and how many frames (W,) the model sees."""
        frames, ratio = self.frame_lengths(sizes), self.stride // self.hop
        self.filters = self.filters.to(windows.device)  # once, and then it stays there
        if self.context == "full":
            mels = log_mel(windows, self.filters, self.n_fft, self.hop)
            seen = torch.full_like(frames, self.window_frames)
        else:
            clips = (
                log_mel(window[None, : n * self.stride], self.filters, self.n_fft, self.hop)[0]
                for window, n in zip(windows, frames.tolist(), strict=True)
            )
            longest, seen = ratio * int(frames.max()), frames
            mels = torch.stack([functional.pad(c, (0, longest - c.shape[-1])) for c in clips])
        return self._augment(mels, ratio * frames), seen

    def _augment(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Hide spans of the clips' own columns in training, as the stock model does: with zeros."""
        config = self.model.config
        if not (self.training and config.apply_spec_augment):
            return mels
        if (spans := checkpoints.hidden(config, lengths, mels.shape[-1])) is None:
            return mels
        return mels.masked_fill(spans.to(mels.device, non_blocking=True)[:, None], 0)

    def _transform(self, mels: Tensor, seen: Tensor) -> list[Tensor]:
        """All L + 1 states (W, T, D) of spectrograms (W, F, 2 T) with ``seen`` (W,) frames each.

        Written out instead of calling the stock encoder, which insists on the full context.
        """
        model, n_frames = self.model, mels.shape[-1] * self.hop // self.stride
        x, mask = functional.gelu(model.conv1(mels.to(model.dtype))), None
        if int(seen.min()) < n_frames:
            mask = checkpoints.frame_mask(seen, n_frames, x.device)[:, None, None]
        # A clip's last output of conv2 sees columns 2 T - 3 to 2 T - 1 of conv1, so none of what
        # conv1 makes of the padding after it.
        x = functional.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions.weight[:n_frames]
        x = functional.dropout(x, model.dropout, self.training and not self.freeze_layers)
        return self.through([x], mask)

    def finished(self, states: list[Tensor], valid: Tensor | None, lengths: Tensor) -> Encoded:
        """Run the layers above the known states (B, T, D), in each window of the context.

        Only with the short context, or if all are known: in the full one layers also see what is
        after the clip, and that is not stored.
        """
        if len(states) <= self.n_layers:
            if self.context == "full":
                raise ValueError("context='full': states of some layers do not hold all they see.")
            windows = []
            for start in range(0, states[0].shape[1], self.window_frames):
                x = [state[:, start : start + self.window_frames] for state in states]
                seen = (lengths - start).clamp(1, x[0].shape[1])  # of what is all padding, any
                mask = checkpoints.valid_mask(x[0], seen)
                windows.append(self.through(x, None if mask is None else mask[:, None, None]))
            joined = (torch.cat(state, 1) for state in zip(*windows, strict=True))
            states = [checkpoints.blank(state, valid) for state in joined]
        return super().finished(states, valid, lengths)

    def settings(self) -> str:
        """What decides the output beside weights and configuration."""
        filters = hashlib.sha256(self.filters.cpu().numpy()).hexdigest()
        return f"{self.context} {self.n_fft} {self.hop} {self.fill_value} {filters}"
