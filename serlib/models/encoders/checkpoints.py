"""What all encoders share: a checkpoint's files, reading them, and what comes out of it.

A folder is an ordinary one of Hugging Face: ``config.json``, weights in safetensors, and a
``preprocessor_config.json`` or ``processor_config.json`` (speech), or ``tokenizer.json`` (text).
`load` is the door.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import serlib
from serlib import records
from serlib.data.audio import SAMPLE_RATE

DEMO = Path(serlib.__file__).parent / "corpora" / "demo" / "encoders"
CONFIG, EXTRACTOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
PROCESSOR = "processor_config.json"  # where transformers 5 puts an extractor beside a tokenizer
# Not model*.safetensors: some publish a second set of weights beside, such as model.fp32-*.
WEIGHTS = ("model.safetensors", "model-*.safetensors")
INDEX = "model.safetensors.index.json"  # which shard each tensor is in
SPEECH, TEXT = ("wav2vec2", "hubert", "wavlm", "whisper"), ("roberta", "bert")
FAMILIES = SPEECH + TEXT
# Settings that act in training only, or not at all.
_NO_MATTER = re.compile("_|.*(drop|mask_|spec_|version|dtype)")


class EncoderError(ValueError):
    """An encoder that cannot be loaded as asked; the message names the fix."""


@dataclass(frozen=True)
class Encoded:
    """What an encoder hands on; padded frames are zero. For text, a frame is a token.

    Attributes:
        frames: (B, T, D), the output. Equal to ``layers[-1]``, except in pre-norm models (Whisper,
            and wave models with "stable layer norm", the large checkpoints), where it is the final
            LayerNorm of that.
        lengths: (B,) int64, valid frames; on the CPU, where no GPU waits for them to be read.
        layers: L + 1 tensors (B, T, D). ``layers[0]`` is the input of the first transformer layer
            (features plus positions), ``layers[i]`` the output of layer i before any final
            LayerNorm, as in transformers 5 (version 4 normalized the last one).
    """

    frames: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...]


class Pretrained(nn.Module):
    """A pre-trained model behind the interface of all encoders; ``load_encoder`` makes it.

    Attributes:
        family: The checkpoint's model type.
        modality: "speech" or "text".
        width: D.
        n_layers: L.
        pre_norm: Whether the layers normalize their inputs; a LayerNorm then follows the last.
        freeze: What is not trained, "cnn", "all" or "none".
        freeze_layers: With "cnn", how many of the lowest layers are not trained either.
        lora: Rank of the adapters in it, see ``adapters.add_lora``; 0 without.
    """

    FACTS = ("family", "modality", "freeze", "n_layers", "width", "final")
    DROPOUTS: tuple[str, ...] = ()  # names of the configuration's rates
    OPTIONS: tuple[str, ...] = ()  # of `load_encoder`, that not all families have
    REFUSED: tuple[str, ...] = ()  # settings of a checkpoint that would need other code
    OPTIONAL: tuple[str, ...] = ()  # weights that a checkpoint may lack
    modality = "speech"
    pre_norm = False
    lora = 0

    def __init__(self, model: nn.Module, freeze: str, freeze_layers: int = 0) -> None:
        """Wrap a transformers model, and freeze what is not to be trained."""
        super().__init__()
        self.model, self.freeze, config = model, freeze, model.config
        self.freeze_layers = freeze_layers if freeze == "cnn" else 0
        self.family, self.width = config.model_type, config.hidden_size
        self.n_layers = len(self.stack)
        self.spec_augment = getattr(config, "mask_time_prob", 0.0)
        for part in {"all": [model], "cnn": self.frozen(), "none": []}[freeze]:
            part.requires_grad_(False)
        self.eval()

    @classmethod
    def build(cls, config, folder: Path, *, weights: bool, **options: object) -> Pretrained:
        """Make one from a folder and its configuration, of random weights or the folder's.

        A family says what it needs `beside` the weights, which model is the `stock` one, and how to
        `rename` a checkpoint's weights. For the options see ``load_encoder``.
        """
        for setting in cls.REFUSED:
            if getattr(config, setting, False):
                raise EncoderError(
                    f"{folder}: {setting} is not supported. Take another checkpoint."
                )
        beside, model = cls.beside(folder, config), cls.stock(config)
        if weights:
            fill(model, folder, cls.rename, cls.OPTIONAL)
        return cls(model, beside, **options)

    @property
    def stack(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        inner = self.transformer
        return inner.layer if hasattr(inner, "layer") else inner.layers

    @property
    def transformer(self) -> nn.Module:
        """What holds the layers; of Whisper, whose encoder alone is loaded, the model itself."""
        return getattr(self.model, "encoder", self.model)

    @property
    def final(self) -> str:
        """What the output is, in words."""
        return "LayerNorm of layer L" if self.pre_norm else "layer L"

    @property
    def facts(self) -> dict[str, object]:
        """What was loaded, and how; plain values."""
        facts = {name: getattr(self, name) for name in self.FACTS}
        facts |= {name: getattr(self.model.config, name) for name in self.DROPOUTS}
        return facts | ({"lora": self.lora} if self.lora else {})

    def frozen(self) -> list[nn.Module]:
        """What freeze="cnn" leaves as it was: all that is below the first trained layer."""
        return []

    def train(self, mode: bool = True) -> Pretrained:
        """Switch dropout; what is frozen keeps it off, so that its output may be stored."""
        super().train(mode and self.freeze != "all")
        for part in self.frozen() if self.freeze_layers else ():
            part.eval()
        return self

    def forward(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Encode clips, or go on from where stored features stop.

        Args:
            inputs: Waves (B, N) or token ids (B, S), each from ``prepare``, padded with anything;
                CNN features (B, T, Dc) of a wave model; or hidden states (B, T, K, D), of which
                there are L + 1, or fewer, see ``stored``.
            lengths: (B,) int64, in samples for waves, else in frames or tokens.
        """
        return (self.stored if inputs.ndim == 4 else self.encode)(inputs, lengths)

    def through(self, states: Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
        """All L + 1 states (B, T, D) from the lowest; ``mask`` is True at keys to attend to."""
        states = list(states)
        for layer in self.stack[len(states) - 1 :]:
            states.append(layer(states[-1], mask))
        return states

    def last(self, layers: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The output (B, T, D) that belongs to all L + 1 states; RuntimeError if they are not."""
        if len(layers) != self.n_layers + 1:  # transformers changes, or other states were stored
            raise RuntimeError(f"{len(layers)} states from {self.n_layers} layers: model changed.")
        return self.transformer.layer_norm(layers[-1]) if self.pre_norm else layers[-1]

    def stored(self, states: Tensor, lengths: Tensor) -> Encoded:
        """Go on from the lowest stored states (B, T, K, D); lengths (B,) are in frames.

        K is L + 1, or ``freeze_layers`` + 1 if the layers above are trained. One state alone, of a
        wholly frozen encoder, is the one that is asked for, and is handed on as it is.
        """
        lengths = checked(states, lengths, 4, 1, "frames")
        alone = states.shape[2] == 1 and self.freeze == "all"
        if not alone and states.shape[2] not in (self.freeze_layers + 1, self.n_layers + 1):
            raise ValueError(
                f"{states.shape[2]} stored states, but this encoder has {self.n_layers} layers, "
                f"{self.freeze_layers} of them frozen: store them again with this encoder."
            )
        valid = valid_mask(states, lengths)
        known = blank(states, valid).to(self.model.dtype).unbind(2)
        if alone:
            return Encoded(known[0], lengths, known)
        return self.finished(list(known), valid, lengths)

    def finished(self, states: list[Tensor], valid: Tensor | None, lengths: Tensor) -> Encoded:
        """What is handed on, from all states (B, T, D), which are zero where padded."""
        frames = self.last(states)
        frames = blank(frames, valid) if self.pre_norm else frames
        return Encoded(frames, lengths, tuple(states))

    def settings(self) -> str:
        """What decides the output beside weights and configuration."""
        return ""

    def digest(self, part: str = "all") -> str:
        """SHA-256 of the weights and settings that decide the output of a part.

        Args:
            part: "all"; with frozen layers "lower", all that they keep as it was: models that were
                tuned above it share its digest; of wave models the "cnn".
        """
        model = self.model
        if part == "lower" and self.freeze_layers:
            model = nn.ModuleList(self.frozen())
        elif part != "all":
            raise ValueError(f"{part=} of {self.family}: take all, or with frozen layers lower")
        return content_digest(model, self.model.config, self.settings())


def content_digest(
    module: nn.Module, config, settings: str, which: Callable[[str], object] | None = None
) -> str:
    """SHA-256 of a module's weights, of settings, and of the configuration that matters.

    ``which`` says of a name in the configuration if it matters; None takes all that decide more
    than training.
    """
    which, values = which or (lambda key: not _NO_MATTER.match(key)), config.to_dict()
    content = [f"{key}={values[key]}" for key in sorted(values) if which(key)]
    total, state = hashlib.sha256(f"{content} {settings}".encode()), module.state_dict()
    if not any(value.any() for name, value in state.items() if "lora_B" in name):
        # Adapters that have learned nothing yet (see `adapters.add_lora`) change nothing.
        state = {n.replace("base_layer.", ""): x for n, x in state.items() if "lora_" not in n}
    for name, value in sorted(state.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


def frame_mask(lengths: Tensor, n_frames: int, device: torch.device | None = None) -> Tensor:
    """True where a frame is valid, t < lengths[b]: (B, T) on a device; None is that of lengths.

    >>> frame_mask(torch.tensor([1, 3]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    lengths = lengths.to(device or lengths.device, non_blocking=True)
    return torch.arange(n_frames, device=lengths.device) < lengths[:, None]


def valid_mask(x: Tensor, lengths: Tensor) -> Tensor | None:
    """Which frames of x (B, T, ...) are valid, (B, T) on its device; None if all.

    Without padding a mask is not needed, and the fastest attention takes none.
    """
    if int(lengths.min()) == x.shape[1]:
        return None
    return frame_mask(lengths, x.shape[1], x.device)


def hidden(config, lengths: Tensor, n_frames: int) -> Tensor | None:
    """SpecAugment's spans (B, T), True where a frame is hidden; None if none can be.

    Drawn on the CPU from numpy's generator, as transformers draws them, within each clip's own
    ``lengths`` (B,). The stock models ask the device for these and index by the spans there, so
    that the host waits for the GPU five times a batch.
    """
    if n_frames < config.mask_time_length:  # the stock code refuses shorter ones
        return None
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    spans = _compute_mask_indices(
        (len(lengths), n_frames), config.mask_time_prob, config.mask_time_length,
        attention_mask=frame_mask(lengths, n_frames).long(), min_masks=config.mask_time_min_masks,
    )  # fmt: skip
    return torch.from_numpy(spans)


def blank(x: Tensor, valid: Tensor | None) -> Tensor:
    """Frames (B, T, ...) with zeros for the padding, whatever that holds.

    Not a product, because 0 · NaN is NaN; on a CPU ``masked_fill`` takes nearly twice as long.
    """
    return x if valid is None else x.where(valid.view(*valid.shape, *[1] * (x.ndim - 2)), 0)


def checked(inputs: Tensor, lengths: Tensor, ndim: int, shortest: int, unit: str) -> Tensor:
    """Lengths on the CPU, after checking that they fit the inputs (B, N, ...)."""
    lengths = lengths.cpu()
    fits = inputs.ndim == ndim and lengths.shape == inputs.shape[:1] and len(lengths) > 0
    if not fits or lengths.min() < shortest or lengths.max() > inputs.shape[1]:
        shapes = f"{ndim} dimensions expected, got {tuple(inputs.shape)}"
        raise ValueError(f"{shapes}; lengths from {shortest} {unit}, got {lengths.tolist()}.")
    return lengths


def read_json(folder: Path, name: str) -> dict:
    """The object in a file; {} if there is none."""
    about = records.read_json(folder / name) if (folder / name).is_file() else {}
    return about if isinstance(about, dict) else {}


def read_extractor(folder: Path) -> dict:
    """The settings of a speech checkpoint's feature extractor, which must be for 16 kHz."""
    about = read_json(folder, EXTRACTOR) or read_json(folder, PROCESSOR).get("feature_extractor")
    if not isinstance(about, dict):
        raise EncoderError(f"{folder}: {EXTRACTOR} holds no settings. Fetch it again.")
    if (rate := about.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise EncoderError(f"{folder}: made for {rate} Hz; serlib has 16 kHz.")
    return about


def fill(
    model: nn.Module, folder: Path, rename: Callable[[str], str], optional: Collection[str] = ()
) -> None:
    """Give a model the weights in a folder's safetensors, in the model's own precision.

    Args:
        model: Its state must be in the folder, whole.
        folder: With model.safetensors, or else the shards model-*.safetensors.
        rename: From a name in the folder to the model's. Tensors that the model has no name for
            (heads, decoders) are not read.
        optional: Names of the model that may be missing.

    Raises:
        EncoderError: Weights are damaged, missing, or of another shape.
    """
    from safetensors import SafetensorError, safe_open

    whole, weights, wanted = folder / WEIGHTS[0], {}, model.state_dict().keys()
    try:
        for file in [whole] if whole.is_file() else sorted(folder.glob(WEIGHTS[1])):
            with safe_open(file, framework="pt") as tensors:
                names = ((rename(key), key) for key in tensors.keys())  # noqa: SIM118
                weights |= {name: tensors.get_tensor(key) for name, key in names if name in wanted}
        missing = set(model.load_state_dict(weights, strict=False).missing_keys)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise EncoderError(f"{folder}: weights unreadable ({error}). Fetch them again.") from error
    if bad := [name for name, x in weights.items() if not x.isfinite().all()]:
        raise EncoderError(f"{folder}: {bad[0]} holds NaN or infinity. Fetch the weights again.")
    if missing := sorted(missing - set(optional)):
        raise EncoderError(f"{folder}: no weights for {missing}. Fetch them again.")
