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

from serlib.data import audio
from serlib.models.encoders import checkpoints, wavlm
from serlib.models.encoders.checkpoints import Encoded, Pretrained


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

    FACTS = Pretrained.FACTS + (
        "norm", "masked_group_norm", "do_normalize", "spec_augment", "attention", "cnn_width",
        "stride", "receptive_field",
    )  # fmt: skip
    DROPOUTS = tuple(f"{at}_dropout" for at in ("hidden", "attention", "activation", "feat_proj"))
    OPTIONS = ("masked_group_norm", "attention", "freeze_layers", "spec_augment")
    REFUSED = ("add_adapter", "conv_pos_batch_norm")  # another frame rate; clips get mixed
    OPTIONAL = ("masked_spec_embed",)  # SpecAugment may be new to the checkpoint

    def __init__(
        self,
        model: nn.Module,
        do_normalize: bool,
        *,
        masked_group_norm: bool,
        freeze: str,
        freeze_layers: int = 0,
        attention: str = "fused",
    ) -> None:
        """Wrap a transformers model; see ``load_encoder``."""
        super().__init__(model, freeze, freeze_layers)
        config = model.config
        self.do_normalize, self.attention = do_normalize, attention
        if self.family == "wavlm" and attention == "fused":
            wavlm.install(self.stack)
        self.norm = config.feat_extract_norm
        self.masked_group_norm = masked_group_norm and self.norm == "group"
        self.padding_leaks = not masked_group_norm and self.norm == "group"
        self.cnn_width = config.conv_dim[-1]
        self.convs = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.stride = math.prod(config.conv_stride)
        self.receptive_field = 1
        for kernel, stride in reversed(self.convs):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel
        if self.freeze_layers and getattr(model, "masked_spec_embed", None) is not None:
            model.masked_spec_embed.requires_grad_(False)  # SpecAugment's, which is off

    @staticmethod
    def beside(folder: Path, config) -> bool:
        """Whether waves are normalized; if the folder does not say, as the extractor defaults."""
        return bool(checkpoints.read_extractor(folder).get("do_normalize", True))

    @staticmethod
    def stock(config) -> nn.Module:
        """The transformers model."""
        from transformers import AutoModel

        attention = "eager" if config.model_type == "wavlm" else "sdpa"  # `wavlm` replaces it
        return AutoModel.from_config(config, dtype=torch.float32, attn_implementation=attention)

    @staticmethod
    def rename(name: str) -> str:
        """The model's name of a checkpoint's weight."""
        name = re.sub(r"^(wav2vec2|hubert|wavlm)\.", "", name)  # saved with a head
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        return name.replace("conv.weight_v", "conv.parametrizations.weight.original1")

    @property
    def pre_norm(self) -> bool:
        """As in the large checkpoints."""
        return self.model.config.do_stable_layer_norm

    def frozen(self) -> list[nn.Module]:
        """The CNN, and with ``freeze_layers`` all that is between it and the trained layers."""
        model, below = self.model, []
        if self.freeze_layers:
            transformer = model.encoder
            below = [model.feature_projection, transformer.pos_conv_embed, transformer.dropout]
            below += [] if self.pre_norm else [transformer.layer_norm]
            below += transformer.layers[: self.freeze_layers]
        return [model.feature_extractor, *below]

    def prepare(self, wave: np.ndarray) -> np.ndarray:
        """One wave (N,) at 16 kHz to what ``extract`` takes: (max(N, receptive_field),) float32.

        Zero mean and unit variance if the checkpoint was trained so; zeros to the first frame.
        """
        wave = audio.normalize(wave) if self.do_normalize else np.asarray(wave, np.float32)
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
        shortest, unit = self.receptive_field, "samples (use prepare)"
        lengths = checkpoints.checked(waves, lengths, 2, shortest, unit)
        x = waves.to(self.model.dtype)[:, None]  # (B, 1, N)
        layers = self.model.feature_extractor.conv_layers
        for layer, (kernel, stride) in zip(layers, self.convs, strict=True):
            lengths = (lengths - kernel) // stride + 1
            norm = getattr(layer, "layer_norm", None)
            if self.masked_group_norm and isinstance(norm, nn.GroupNorm):
                x = layer.activation(masked_group_norm(layer.conv(x), lengths, norm))
            else:
                x = layer(x)
        valid = checkpoints.frame_mask(lengths, x.shape[-1], x.device)
        return x.transpose(1, 2).masked_fill(~valid[..., None], 0), lengths  # (B, T, Dc)

    def contextualize(self, features: Tensor, frame_lengths: Tensor) -> Encoded:
        """The transformer: features (B, T, Dc) and their lengths (B,) in frames to ``Encoded``."""
        lengths = checkpoints.checked(features, frame_lengths, 3, 1, "frames")
        valid = checkpoints.valid_mask(features, lengths)
        x = self.model.feature_projection(checkpoints.blank(features, valid).to(self.model.dtype))
        x = x[0] if isinstance(x, tuple) else x  # HuBERT's returns the projection alone
        x = self._augment(x, lengths)
        x, encoder = checkpoints.blank(x, valid), self.model.encoder
        x = x + encoder.pos_conv_embed(x)
        x = encoder.dropout(x if self.pre_norm else encoder.layer_norm(x))
        return self.finished([checkpoints.blank(x, valid)], valid, lengths)

    def _augment(self, x: Tensor, lengths: Tensor) -> Tensor:
        """SpecAugment in training: hidden frames of x (B, T, D) become one learned vector."""
        config = self.model.config
        if not (self.training and config.apply_spec_augment and config.mask_time_prob > 0):
            return x
        if (spans := checkpoints.hidden(config, lengths, x.shape[1])) is None:
            return x
        spans = spans.to(x.device, non_blocking=True)[..., None]
        return torch.where(spans, self.model.masked_spec_embed.to(x.dtype), x)

    def finished(self, states: list[Tensor], valid: Tensor | None, lengths: Tensor) -> Encoded:
        """Run the layers above the states (B, T, D) that are known, the lowest first.

        The known ones are zero where padded, and so is each new one. Written out instead of calling
        the stock encoder: it starts from stored states, has no LayerDrop to shorten the list, and
        the states carry gradients under checkpointing.
        """
        above, bias = self.stack[len(states) - 1 :], None
        if self.family == "wavlm" and above:  # all layers share the first one's position bias
            bias = wavlm.position_bias(self.stack, states[0].shape[1], len(states[0]))
        for layer in above:
            x = states[-1]
            if self.family == "wavlm":
                x, _ = layer(x, attention_mask=valid, position_bias=bias)
            else:  # true = attend to this key, for every head and query
                x = layer(x, attention_mask=None if valid is None else valid[:, None, None])
            states = [*states, checkpoints.blank(x, valid)]
        return super().finished(states, valid, lengths)

    def encode(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Waves (B, N), or CNN features (B, T, Dc), to all states."""
        if inputs.ndim == 2:
            inputs, lengths = self.extract(inputs, lengths)
        return self.contextualize(inputs, lengths)

    def settings(self) -> str:
        """What decides the output beside weights and configuration."""
        return f"{self.masked_group_norm} {self.do_normalize}"

    def digest(self, part: str = "all") -> str:
        """As of all encoders, and of the "cnn"."""
        if part != "cnn":
            return super().digest(part)
        module, which = self.model.feature_extractor, re.compile("(conv|feat_extract)_").match
        return checkpoints.content_digest(module, self.model.config, self.settings(), which)
