"""Pre-trained encoders behind one interface; wav2vec 2.0, HuBERT and WavLM themselves.

``load`` takes them and also Whisper (`serlib.whisper`) and RoBERTa (`serlib.roberta`). Each gives a
clip the same frames alone and in any batch:

    prepare   one item, a wave (N,) or a text, to an array: what a batch is made of
    forward   waves (B, N) or token ids (B, S), and lengths (B,), to ``Encoded``

In the stock wave models padding leaks: "base" checkpoints normalize over it, and a clip's features
move by tens of percent with its neighbors. Here everything sees valid frames only. They have three
stages, so that a frozen CNN need run only once per clip:

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

from serlib import audio, records, wavlm
from serlib.checkpoints import DEMO as DEMO
from serlib.checkpoints import (
    EXTRACTOR,
    Encoded,
    EncoderError,
    Pretrained,
    checked,
    content_digest,
    fill,
    locate,
    read_config,
)
from serlib.checkpoints import FAMILIES as FAMILIES
from serlib.heads import frame_mask
from serlib.roberta import TextEncoder
from serlib.whisper import WhisperEncoder


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
    """wav2vec 2.0, HuBERT or WavLM, made by ``load``; ``facts`` says what was loaded, and how.

    ``width`` is D, ``cnn_width`` Dc and ``n_layers`` L. A frame sees ``receptive_field`` samples,
    the next one starts ``stride`` later (400 and 320 in the published ones: 25 and 20 ms).
    """

    DROPOUTS = tuple(f"{at}_dropout" for at in ("hidden", "attention", "activation", "feat_proj"))

    def __init__(
        self, model: nn.Module, *, do_normalize: bool, masked: bool, freeze: str, attention: str
    ) -> None:
        """Wrap a transformers model; see ``load``."""
        super().__init__(model, freeze)
        config = model.config
        if self.family == "wavlm" and attention == "fused":
            wavlm.install(model.encoder.layers)
        self.pre_norm = config.do_stable_layer_norm
        self.masked = masked and config.feat_extract_norm == "group"
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
            model.feature_extractor.requires_grad_(False)

    @classmethod
    def build(cls, config, folder: Path, *, weights: bool, **options: object) -> Encoder:
        """Make one from a folder and its configuration; see ``load``."""
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
        lengths, n_frames = checked(features, frame_lengths, 3, 1, "frames"), features.shape[1]
        valid = None  # nothing padded: attention needs no mask and can use its fastest kernel
        if int(lengths.min()) < n_frames:
            valid = frame_mask(lengths, n_frames).to(features.device, non_blocking=True)

        def blank(x: Tensor) -> Tensor:
            return x if valid is None else x.masked_fill(~valid[..., None], 0)

        x = self.model.feature_projection(blank(features).to(self.model.dtype))
        x = x[0] if isinstance(x, tuple) else x  # HuBERT's returns the projection alone
        if n_frames >= self.model.config.mask_time_length:  # the stock code refuses shorter ones
            x = self.model._mask_hidden_states(x, attention_mask=valid)  # SpecAugment
        layers = self._transform(blank(x), valid)
        return Encoded(blank(self.last(layers)), lengths, tuple(blank(layer) for layer in layers))

    def last(self, layers: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The output (B, T, D) that belongs to all L + 1 states."""
        return self.model.encoder.layer_norm(layers[-1]) if self.pre_norm else layers[-1]

    def _transform(self, x: Tensor, valid: Tensor | None) -> list[Tensor]:
        """All L + 1 states from x (B, T, D); ``valid`` (B, T) is None if nothing is padded.

        Written out instead of calling the stock encoder: it starts from stored features, has no
        LayerDrop to shorten the list, and the states carry gradients under checkpointing.
        """
        encoder = self.model.encoder
        x = x + encoder.pos_conv_embed(x)
        x = encoder.dropout(x if self.pre_norm else encoder.layer_norm(x))
        layers, bias = [x], None
        if self.family == "wavlm":  # all layers share the first one's position bias
            bias = wavlm.position_bias(encoder.layers, x.shape[1], len(x))
        for layer in encoder.layers:
            if self.family == "wavlm":
                x, _ = layer(x, attention_mask=valid, position_bias=bias)
            else:  # true = attend to this key, for every head and query
                x = layer(x, attention_mask=None if valid is None else valid[:, None, None])
            layers.append(x)
        return self.counted(layers)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Encode waves, or go on from where stored features stop.

        Args:
            inputs: Waves (B, N), CNN features (B, T, Dc), or all hidden states (B, T, L + 1, D).
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
        """SHA-256 of the weights and settings that decide the output: of "all", or of the "cnn"."""
        if part == "all":
            return super().digest()
        which = re.compile("(conv|feat_extract)_").match
        return content_digest(
            self.model.feature_extractor, self.model.config, self.settings(), which
        )


def load(
    name: str | Path,
    *,
    masked_group_norm: bool = True,
    attention: str = "fused",
    context: str = "full",
    freeze: str = "cnn",
    dropout: float | None = None,
    spec_augment: float = 0.0,
    random_init: bool = False,
    seed: int = 0,
    n_layers: int | None = None,
) -> Encoder | WhisperEncoder | TextEncoder:
    """Load an encoder, in float32 and evaluation mode.

    Args:
        name: Shipped ("demo-wavlm"), a folder, or on the hub ("microsoft/wavlm-large").
        masked_group_norm: False lets padding into a clip's features, as the stock wav2vec 2.0,
            HuBERT and WavLM do.
        attention: "fused" replaces WavLM's attention by `serlib.wavlm`'s, the same but faster and
            open to adapters; "stock" keeps it.
        context: What Whisper sees: the "full" one, zeros after the clip included, as in its
            training; or the "short" one, the clip alone, our variant: cheaper, another result.
        freeze: What is not trained: the "cnn" (as in the papers; Whisper's are its two
            convolutions, a text encoder has none), "all" or "none".
        dropout: Replaces all of the checkpoint's rates; None keeps them.
        spec_augment: Share of frames hidden in training, in spans (drawn from numpy's RNG). The
            checkpoint sets the spans' length and their least number: as a rule 2 of 10 frames,
            which hide 0.4 s of every clip however small the share. In Whisper, as in its stock
            model, it hides frames of the spectrogram, half as long. Not for text.
        random_init: Load the architecture only and draw the weights.
        seed: Decides weights that are drawn; torch's global state is left alone.
        n_layers: Keep the first layers only. A final LayerNorm stays.

    Raises:
        EncoderError: Not found, files missing or damaged, unsupported model or option.
    """
    if freeze not in ("cnn", "all", "none"):
        raise EncoderError(f"freeze={freeze!r}: choose cnn, all or none.")
    if context not in ("full", "short"):
        raise EncoderError(f"context={context!r}: choose full or short.")
    if attention not in wavlm.ATTENTIONS:
        raise EncoderError(f"attention={attention!r}: choose fused or stock.")
    folder = locate(name, weights=not random_init)
    config = read_config(folder)
    kind = {"whisper": WhisperEncoder, "roberta": TextEncoder}.get(config.model_type, Encoder)
    own = {Encoder: {"masked": masked_group_norm, "attention": attention}}
    own[WhisperEncoder] = {"context": context}
    for option, applies, fix in (
        ("masked_group_norm=False", masked_group_norm or kind is Encoder, "for wave models"),
        (
            f"attention={attention!r}",
            attention == "fused" or config.model_type == "wavlm",
            "for WavLM",
        ),
        (f"context={context!r}", context == "full" or kind is WhisperEncoder, "for Whisper"),
        (f"spec_augment={spec_augment}", not spec_augment or kind is not TextEncoder, "for speech"),
    ):
        if not applies:
            raise EncoderError(f"{option} is {fix}, and {name} is {config.model_type}: drop it.")
    if n_layers is not None and not 1 <= n_layers <= config.num_hidden_layers:
        raise EncoderError(f"n_layers={n_layers}: {name} has {config.num_hidden_layers}.")
    config.num_hidden_layers = n_layers or config.num_hidden_layers
    config.update({} if dropout is None else dict.fromkeys(kind.DROPOUTS, float(dropout)))
    if kind is not TextEncoder:
        config.update({"layerdrop": 0.0, "apply_spec_augment": spec_augment > 0})
        config.update({"mask_time_prob": float(spec_augment), "mask_feature_prob": 0.0})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return kind.build(
            config, folder, weights=not random_init, freeze=freeze, **own.get(kind, {})
        )


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
