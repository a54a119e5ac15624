"""wav2vec 2.0, HuBERT and WavLM behind the interface of `serlib.models.encoders.load`.

In the stock models padding leaks: "base" checkpoints normalize over it, and a clip's features move
by tens of percent with its neighbors. Here everything sees valid frames only. They have three
stages, so that what is frozen need run only once per clip:

    prepare        one wave (N,)        scaled as in pre-training, before padding
    extract        waves (B, N)         the CNN: features (B, T, Dc), as a rule 50 frames a second
    contextualize  features (B, T, Dc)  the transformer: ``Encoded``
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from serlib import records
from serlib.data import audio
from serlib.models.encoders import wavlm
from serlib.models.encoders.checkpoints import (
    EXTRACTOR,
    Encoded,
    EncoderError,
    Pretrained,
    checked,
    content_digest,
    fill,
    frame_mask,
)


def masked_group_norm(x: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalization of x (B, C, T) with statistics over each clip's own frames.

    y[b, c, t] = (x[b, c, t] - mean) / sqrt(var + eps) · weight[c] + bias[c] at t < lengths[b], else
    0; mean and population variance over the channel group at t < lengths[b]. Without padding it is
    ``norm(x)`` itself. Our choice: the stock layer takes the padding into both.

    >>> x = torch.tensor([[[1.0, 3.0, 0.0, 0.0]]])
    >>> masked_group_norm(x, torch.tensor([2]), nn.GroupNorm(1, 1)).round(decimals=3).tolist()
    [[[-1.0, 1.0, 0.0, 0.0]]]
    """
    n_frames = x.shape[-1]
    if int(lengths.min()) == n_frames:
        return norm(x)
    clips = [norm(clip[None, :, :n])[0] for clip, n in zip(x, lengths.tolist(), strict=True)]
    return torch.stack([functional.pad(c, (0, n_frames - c.shape[-1])) for c in clips])


class Encoder(Pretrained):
    """wav2vec 2.0, HuBERT or WavLM, made by ``load_encoder``; ``facts`` says what was loaded.

    ``width`` is D, ``cnn_width`` Dc and ``n_layers`` L. A frame sees ``receptive_field`` samples,
    the next one starts ``stride`` later (400 and 320 in the published ones: 25 and 20 ms).
    """

    DROPOUTS = tuple(f"{at}_dropout" for at in ("hidden", "attention", "activation", "feat_proj"))

    def __init__(
        self,
        model: nn.Module,
        *,
        do_normalize: bool,
        masked: bool,
        freeze: str,
        freeze_layers: int = 0,
        attention: str = "fused",
    ) -> None:
        """Wrap a transformers model; see ``load_encoder``."""
        super().__init__(model, freeze)
        config = model.config
        self.freeze_layers = freeze_layers if freeze == "cnn" else 0
        if self.family == "wavlm" and attention == "fused":
            wavlm.install(model.encoder.layers)
        self.pre_norm = config.do_stable_layer_norm
        self.masked = masked and config.feat_extract_norm == "group"
        self.padding_leaks = not masked and config.feat_extract_norm == "group"
        self.cnn_width = config.conv_dim[-1]
        self.convs = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.stride = math.prod(config.conv_stride)
        self.receptive_field = 1
        for kernel, stride in reversed(self.convs):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel
        self.facts |= {
            "norm": config.feat_extract_norm,
            "masked_group_norm": self.masked,
            "final": "LayerNorm of layer L" if self.pre_norm else "layer L",
            "do_normalize": do_normalize,
            "spec_augment": config.mask_time_prob,
            "attention": attention,
        }
        for name in "cnn_width stride receptive_field".split():
            self.facts[name] = getattr(self, name)
        self.facts |= {name: getattr(config, name) for name in self.DROPOUTS}
        if freeze == "cnn":
            for part in self._frozen():
                part.requires_grad_(False)
            if self.freeze_layers and getattr(model, "masked_spec_embed", None) is not None:
                model.masked_spec_embed.requires_grad_(False)  # SpecAugment's, which is off

    def _frozen(self) -> list[nn.Module]:
        """What freeze="cnn" leaves as it was: all that is below the first trained layer."""
        model, below = self.model, []
        if self.freeze_layers:
            transformer = model.encoder
            below = [model.feature_projection, transformer.pos_conv_embed, transformer.dropout]
            below += [] if self.pre_norm else [transformer.layer_norm]
            below += transformer.layers[: self.freeze_layers]
        return [model.feature_extractor, *below]

    def train(self, mode: bool = True) -> Encoder:
        """Switch dropout; what is frozen keeps it off, so that its output may be stored."""
        super().train(mode)
        for part in self._frozen() if self.freeze_layers else ():
            part.eval()
        return self

    @classmethod
    def build(cls, config, folder: Path, *, weights: bool, **options: object) -> Encoder:
        """Make one from a folder and its configuration; see ``load_encoder``."""
        for option in ("add_adapter", "conv_pos_batch_norm"):  # another frame rate; clips get mixed
            if getattr(config, option, False):
                raise EncoderError(f"{folder}: {option} is not supported. Take another checkpoint.")
        extractor, model = records.read_json(folder / EXTRACTOR), _model(config, folder, weights)
        if extractor.get("sampling_rate", audio.SAMPLE_RATE) != audio.SAMPLE_RATE:
            rate = extractor["sampling_rate"]
            raise EncoderError(f"{folder}: made for {rate} Hz; serlib has 16 kHz.")
        normalize = bool(extractor.get("do_normalize", True))  # as the extractor itself defaults
        return cls(model, do_normalize=normalize, **options)

    def prepare(self, wave: np.ndarray) -> np.ndarray:
        """One wave (N,) at 16 kHz to what ``extract`` takes: (max(N, receptive_field),) float32.

        Zero mean and unit variance if the checkpoint was trained so; zeros to the first frame.
        """
        wave = audio.normalize(wave) if self.facts["do_normalize"] else np.asarray(wave, np.float32)
        return np.pad(wave, (0, max(self.receptive_field - len(wave), 0)))

    def frame_lengths(self, n_samples: Tensor | int) -> Tensor:
        """Frames of clips of ``n_samples``; at least 1, as ``prepare`` pads short clips.

        Each convolution turns n into floor((n - kernel) / stride) + 1.
        """
        n = torch.as_tensor(n_samples).clamp(min=self.receptive_field)
        for kernel, stride in self.convs:
            n = (n - kernel) // stride + 1
        return n

    def extract(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The CNN: features (B, T, Dc), zero where padded, and (B,) valid frames on the CPU.

        Args:
            waves: (B, N), each from ``prepare``, padded with anything.
            lengths: (B,) int64, valid samples; ValueError if shorter than the receptive field.
        """
        lengths = checked(waves, lengths, 2, self.receptive_field, "samples (use prepare)")
        x = waves.to(self.model.dtype)[:, None]  # (B, 1, N)
        layers = self.model.feature_extractor.conv_layers
        for layer, (kernel, stride) in zip(layers, self.convs, strict=True):
            lengths = (lengths - kernel) // stride + 1
            if self.masked and isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                x = layer.activation(masked_group_norm(layer.conv(x), lengths, layer.layer_norm))
            else:
                x = layer(x)
        valid = frame_mask(lengths, x.shape[-1]).to(x.device)
        return x.transpose(1, 2).masked_fill(~valid[..., None], 0), lengths  # (B, T, Dc)

    def contextualize(self, features: Tensor, frame_lengths: Tensor) -> Encoded:
        """The transformer: features (B, T, Dc) and their lengths (B,) in frames to ``Encoded``."""
        lengths = checked(features, frame_lengths, 3, 1, "frames")
        valid = self._valid(features, lengths)
        x = self.model.feature_projection(_blank(features, valid).to(self.model.dtype))
        x = x[0] if isinstance(x, tuple) else x  # HuBERT's returns the projection alone
        if x.shape[1] >= self.model.config.mask_time_length:  # the stock code refuses shorter ones
            x = self.model._mask_hidden_states(x, attention_mask=valid)  # SpecAugment
        x, encoder = _blank(x, valid), self.model.encoder
        x = x + encoder.pos_conv_embed(x)
        x = encoder.dropout(x if self.pre_norm else encoder.layer_norm(x))
        return self._transform([_blank(x, valid)], valid, lengths)

    def stored(self, states: Tensor, lengths: Tensor) -> Encoded:
        """Go on from the lowest stored states (B, T, K, D); lengths (B,) are in frames.

        K is L + 1, or ``freeze_layers`` + 1 if the layers above are trained.
        """
        lengths = checked(states, lengths, 4, 1, "frames")
        if states.shape[2] not in (self.freeze_layers + 1, self.n_layers + 1):
            raise ValueError(
                f"{states.shape[2]} stored states, but this encoder has {self.n_layers} layers, "
                f"{self.freeze_layers} of them frozen: store them again with this encoder."
            )
        valid = self._valid(states, lengths)
        known = _blank(states, valid).to(self.model.dtype).unbind(2)
        return self._transform(list(known), valid, lengths)

    @staticmethod
    def _valid(x: Tensor, lengths: Tensor) -> Tensor | None:
        """Which frames are valid (B, T); None if all, so attention can use its fastest kernel."""
        if int(lengths.min()) == x.shape[1]:
            return None
        return frame_mask(lengths, x.shape[1]).to(x.device, non_blocking=True)

    def last(self, layers: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The output (B, T, D) that belongs to all L + 1 states."""
        return self.model.encoder.layer_norm(layers[-1]) if self.pre_norm else layers[-1]

    def _transform(self, states: list[Tensor], valid: Tensor | None, lengths: Tensor) -> Encoded:
        """Run the layers above the states (B, T, D) that are known, the lowest first.

        The known ones are zero where padded, and so is each new one. Written out instead of calling
        the stock encoder: it starts from stored states, has no LayerDrop to shorten the list, and
        the states carry gradients under checkpointing.
        """
        layers, bias = self.model.encoder.layers, None
        above = layers[len(states) - 1 :]
        if self.family == "wavlm" and above:  # all layers share the first one's position bias
            bias = wavlm.position_bias(layers, states[0].shape[1], len(states[0]))
        for layer in above:
            x = states[-1]
            if self.family == "wavlm":
                x, _ = layer(x, attention_mask=valid, position_bias=bias)
            else:  # true = attend to this key, for every head and query
                x = layer(x, attention_mask=None if valid is None else valid[:, None, None])
            states = [*states, _blank(x, valid)]
        layers = tuple(self.counted(states))
        frames = _blank(self.last(layers), valid) if self.pre_norm else layers[-1]
        return Encoded(frames, lengths, layers)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Encode waves, or go on from where stored features stop.

        Args:
            inputs: Waves (B, N), CNN features (B, T, Dc), or hidden states (B, T, K, D).
            lengths: (B,) int64, in samples for waves, else in frames.
        """
        if inputs.ndim == 4:
            return self.stored(inputs, lengths)
        if inputs.ndim == 2:
            inputs, lengths = self.extract(inputs, lengths)
        return self.contextualize(inputs, lengths)

    def settings(self) -> str:
        """What decides the output beside weights and configuration."""
        return f"{self.masked} {self.facts['do_normalize']}"

    def digest(self, part: str = "all") -> str:
        """SHA-256 of the weights and settings that decide the output of a part.

        Args:
            part: "all"; the "cnn"; or "lower", all that ``freeze_layers`` keeps as it was: models
                that were tuned above it share its digest.
        """
        if part == "lower" and self.freeze_layers:
            below = nn.ModuleList(self._frozen())
            return content_digest(below, self.model.config, self.settings())
        if part == "all":
            return super().digest()
        if part != "cnn":
            raise ValueError(f"{part=}: all, cnn, or with frozen layers lower")
        which = re.compile("(conv|feat_extract)_").match
        return content_digest(
            self.model.feature_extractor, self.model.config, self.settings(), which
        )


def _blank(x: Tensor, valid: Tensor | None) -> Tensor:
    """Frames (B, T, ...) with zeros for the padding, whatever that holds.

    Not a product, because 0 · NaN is NaN; on a CPU ``masked_fill`` takes nearly twice as long.
    """
    return x if valid is None else x.where(valid.view(*valid.shape, *[1] * (x.ndim - 2)), 0)


def _model(config, folder: Path, weights: bool) -> nn.Module:
    """The transformers model, with random weights or those in the folder's safetensors."""
    from transformers import AutoModel

    attention = "eager" if config.model_type == "wavlm" else "sdpa"  # `wavlm` replaces it
    model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=attention)

    def rename(name: str) -> str:
        name = name.removeprefix(f"{config.model_type}.")  # saved with a head
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        return name.replace("conv.weight_v", "conv.parametrizations.weight.original1")

    if weights:  # SpecAugment may be new to the checkpoint
        fill(model, folder, rename, optional={"masked_spec_embed"})
    return model
