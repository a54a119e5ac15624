"""wav2vec 2.0, HuBERT and WavLM, giving a clip the same frames alone and in any batch.

Padding leaks in the stock models: "base" checkpoints normalize over it, and a clip's features move
by tens of percent with its neighbors. Here everything sees valid frames only. Three stages, so that
a frozen CNN need run only once per clip:

    prepare        one wave (N,)        scaled as in pre-training, before padding
    extract        waves (B, N)         the CNN: features (B, T, Dc), as a rule 50 frames a second
    contextualize  features (B, T, Dc)  the transformer: ``Encoded``
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from serlib import audio, records
from serlib.heads import frame_mask

FAMILIES = ("wav2vec2", "hubert", "wavlm")
DEMO = Path(__file__).parent / "demo" / "encoders"
_CONFIG, _EXTRACTOR = "config.json", "preprocessor_config.json"
_DROPOUTS = tuple(f"{at}_dropout" for at in ("hidden", "attention", "activation", "feat_proj"))


class EncoderError(ValueError):
    """An encoder that cannot be loaded as asked; the message names the fix."""


@dataclass(frozen=True)
class Encoded:
    """What an encoder hands on; padded frames are zero.

    Attributes:
        frames: (B, T, D), the output. Equal to ``layers[-1]``, except in pre-norm models ("stable
            layer norm", the large checkpoints), where it is the final LayerNorm of that.
        lengths: (B,) int64, valid frames; on the CPU, where no GPU waits for them to be read.
        layers: L + 1 tensors (B, T, D). ``layers[0]`` is the input of the first transformer layer
            (projected features plus positions), ``layers[i]`` the output of layer i before any
            final LayerNorm, as in transformers 5 (version 4 normalized the last one).
    """

    frames: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...]


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


class Encoder(nn.Module):
    """A pre-trained speech encoder, made by ``load``; ``facts`` says what was loaded, and how.

    ``width`` is D, ``cnn_width`` Dc and ``n_layers`` L. A frame sees ``receptive_field`` samples,
    the next one starts ``stride`` later (400 and 320 in the published ones: 25 and 20 ms).
    """

    def __init__(self, model: nn.Module, *, do_normalize: bool, masked: bool, freeze: str) -> None:
        """Wrap a transformers model; see ``load``."""
        super().__init__()
        self.model, self.freeze, config = model, freeze, model.config
        self.family, self.pre_norm = config.model_type, config.do_stable_layer_norm
        self.masked = masked and config.feat_extract_norm == "group"
        self.width, self.cnn_width = config.hidden_size, config.conv_dim[-1]
        self.n_layers = config.num_hidden_layers
        self.convs = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.stride = math.prod(config.conv_stride)
        self.receptive_field = 1
        for kernel, stride in reversed(self.convs):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel
        self.facts = {
            "norm": config.feat_extract_norm,
            "masked_group_norm": self.masked,
            "final": "LayerNorm of layer L" if self.pre_norm else "layer L",
            "do_normalize": do_normalize,
            "spec_augment": config.mask_time_prob,
        }
        for name in "family freeze n_layers width cnn_width stride receptive_field".split():
            self.facts[name] = getattr(self, name)
        self.facts |= {name: getattr(config, name) for name in _DROPOUTS}
        frozen = {"all": model, "cnn": model.feature_extractor, "none": nn.Identity()}[freeze]
        frozen.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Switch dropout; off for good in a wholly frozen encoder."""
        return super().train(mode and self.freeze != "all")

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
        lengths = _checked(waves, lengths, 2, self.receptive_field, "samples (use prepare)")
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
        lengths, n_frames = _checked(features, frame_lengths, 3, 1, "frames"), features.shape[1]
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
        return Encoded(blank(self._last(layers)), lengths, tuple(blank(layer) for layer in layers))

    def _last(self, layers: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
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
        for layer in encoder.layers:
            if self.family == "wavlm":  # its first layer makes the position bias of all
                x, bias = layer(x, attention_mask=valid, position_bias=bias)
            else:  # true = attend to this key, for every head and query
                x = layer(x, attention_mask=None if valid is None else valid[:, None, None])
            layers.append(x)
        if len(layers) != self.n_layers + 1:
            raise RuntimeError(f"{len(layers)} states from {self.n_layers} layers: model changed.")
        return layers

    def forward(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Encode waves, or go on from where stored features stop.

        Args:
            inputs: Waves (B, N), CNN features (B, T, Dc), or all hidden states (B, T, L + 1, D).
            lengths: (B,) int64, in samples for waves, else in frames.
        """
        if inputs.ndim == 4:
            lengths = _checked(inputs, lengths, 4, 1, "frames")
            padded = ~frame_mask(lengths, inputs.shape[1]).to(inputs.device)
            inputs = inputs.to(self.model.dtype).masked_fill(padded[..., None, None], 0)
            layers = inputs.unbind(2)
            return Encoded(self._last(layers).masked_fill(padded[..., None], 0), lengths, layers)
        if inputs.ndim == 2:
            inputs, lengths = self.extract(inputs, lengths)
        return self.contextualize(inputs, lengths)

    def digest(self, part: str = "all") -> str:
        """SHA-256 of the weights and settings that decide the output: of "all", or of the "cnn"."""
        # Dropout and SpecAugment act in training only; names, versions and paths not at all.
        pattern = {"all": "(?!_|.*(drop|mask_|spec_|version|dtype))", "cnn": "(conv|feat_extract)_"}
        config = self.model.config.to_dict()
        settings = [
            f"{key}={config[key]}" for key in sorted(config) if re.match(pattern[part], key)
        ]
        content = hashlib.sha256(f"{settings} {self.masked} {self.facts['do_normalize']}".encode())
        module = self.model if part == "all" else self.model.feature_extractor
        for name, value in sorted(module.state_dict().items()):
            content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        return content.hexdigest()


def _checked(inputs: Tensor, lengths: Tensor, ndim: int, shortest: int, unit: str) -> Tensor:
    """Lengths on the CPU, after checking that they fit the inputs."""
    lengths = lengths.cpu()
    fits = inputs.ndim == ndim and lengths.shape == inputs.shape[:1] and len(lengths) > 0
    if not fits or lengths.min() < shortest or lengths.max() > inputs.shape[1]:
        shapes = f"{ndim} dimensions expected, got {tuple(inputs.shape)}"
        raise ValueError(f"{shapes}; lengths from {shortest} {unit}, got {lengths.tolist()}.")
    return lengths


def load(
    name: str | Path,
    *,
    masked_group_norm: bool = True,
    freeze: str = "cnn",
    dropout: float | None = None,
    spec_augment: float = 0.0,
    random_init: bool = False,
    seed: int = 0,
    n_layers: int | None = None,
) -> Encoder:
    """Load an encoder, in float32 and evaluation mode.

    Args:
        name: Shipped ("demo-wavlm"), a folder, or on the hub ("microsoft/wavlm-large").
        masked_group_norm: False lets padding into a clip's features, as the stock models do.
        freeze: What is not trained: the "cnn" (as in the papers), "all" or "none".
        dropout: Replaces all of the checkpoint's rates; None keeps them.
        spec_augment: Share of frames hidden in training, in spans (drawn from numpy's RNG). The
            checkpoint sets the spans' length and their least number: as a rule 2 of 10 frames,
            which hide 0.4 s of every clip however small the share.
        random_init: Load the architecture only and draw the weights.
        seed: Decides weights that are drawn; torch's global state is left alone.
        n_layers: Keep the first layers only. A final LayerNorm stays.

    Raises:
        EncoderError: Not found, files missing or damaged, unsupported model or option.
    """
    if freeze not in ("cnn", "all", "none"):
        raise EncoderError(f"freeze={freeze!r}: choose cnn, all or none.")
    folder = locate(name, weights=not random_init)
    extractor, config = records.read_json(folder / _EXTRACTOR), _config(folder)
    if extractor.get("sampling_rate", audio.SAMPLE_RATE) != audio.SAMPLE_RATE:
        raise EncoderError(f"{name}: made for {extractor['sampling_rate']} Hz; serlib has 16 kHz.")
    if n_layers is not None and not 1 <= n_layers <= config.num_hidden_layers:
        raise EncoderError(f"n_layers={n_layers}: {name} has {config.num_hidden_layers}.")
    config.num_hidden_layers = n_layers or config.num_hidden_layers
    config.update({} if dropout is None else dict.fromkeys(_DROPOUTS, float(dropout)))
    config.update({"layerdrop": 0.0, "apply_spec_augment": spec_augment > 0})
    config.update({"mask_time_prob": float(spec_augment), "mask_feature_prob": 0.0})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _model(config, None if random_init else folder)
    normalize = bool(extractor.get("do_normalize", True))  # as the extractor itself defaults
    return Encoder(model, do_normalize=normalize, masked=masked_group_norm, freeze=freeze)


def locate(name: str | Path, *, weights: bool = True) -> Path:
    """Folder: shipped, else ``name`` itself, else $SERLIB_HOME/encoders/<name>, else the hub's."""
    from huggingface_hub import snapshot_download

    filled = records.home() / "encoders" / name
    folder = next((f for f in (DEMO / name, Path(name), filled) if f.is_dir()), None)
    files = {_CONFIG: _CONFIG, _EXTRACTOR: _EXTRACTOR}  # or the pattern of their shards
    files |= {"model.safetensors": "model*.safetensors"} if weights else {}
    fix = (
        f"Fill {folder or filled} with {', '.join(files)}. Where there is a network, or from a "
        'pytorch_model.bin that you trust:\npython -c "from transformers import AutoModel as M, '
        f"AutoFeatureExtractor as E; s, t = '{folder or name}', '{folder or filled}'; "
        'M.from_pretrained(s).save_pretrained(t); E.from_pretrained(s).save_pretrained(t)"'
    )
    if folder is None:
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=list(files.values())))
        except Exception as error:  # offline, unknown, gated, not a name at all: one fix for all
            shipped = ", ".join(sorted(f.name for f in DEMO.glob("*-*")))
            reason = f"not shipped ({shipped}), no folder, no answer from the hub"
            raise EncoderError(f"{name}: {reason} ({type(error).__name__}). {fix}") from error
    if missing := [file for file, pattern in files.items() if not any(folder.glob(pattern))]:
        raise EncoderError(f"{name}: {folder} lacks {', '.join(missing)}. {fix}")
    return folder


def _config(folder: Path):
    """The checkpoint's transformers configuration; refused if it cannot be run as described."""
    from transformers import AutoConfig

    family = records.read_json(folder / _CONFIG).get("model_type")
    if family not in FAMILIES:
        raise EncoderError(f"{folder}: {family!r} is not supported; serlib runs {FAMILIES}.")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for option in ("add_adapter", "conv_pos_batch_norm"):  # another frame rate; clips get mixed
        if getattr(config, option, False):
            raise EncoderError(f"{folder}: {option} is not supported. Choose another checkpoint.")
    return config


def _model(config, folder: Path | None) -> nn.Module:
    """The transformers model, with random weights or those in the folder's safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModel

    # WavLM has eager attention only, and its masks of two types make torch warn in every process.
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
    attention = "eager" if config.model_type == "wavlm" else "sdpa"
    model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if folder is None:
        return model
    weights = {}
    try:
        for shard in sorted(folder.glob("model*.safetensors")):
            for name, value in load_file(shard).items():
                name = name.removeprefix(f"{config.model_type}.")  # saved with a head
                name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
                name = name.replace("conv.weight_v", "conv.parametrizations.weight.original1")
                weights[name] = value
        missing = set(model.load_state_dict(weights, strict=False).missing_keys)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise EncoderError(f"{folder}: weights unreadable ({error}). Fetch them again.") from error
    if missing - {"masked_spec_embed"}:  # SpecAugment may be new to the checkpoint
        raise EncoderError(f"{folder}: no weights for {sorted(missing)}. Fetch them again.")
    return model
