"""Several pre-trained experts on one utterance: each pooled over time, their sequence fused.

    stream k -> frames (B, T_k, D_k) -> attentive statistics (B, 2 D_k) -> projection and dense
    layers (B, D)       K experts, in order -> sequence (B, K, D) -> LSTM -> features (B, H) -> one
    linear layer -> C emotion logits and 3 attributes, the latter on 1-7

Zgórzyński et al. (Interspeech 2025): Whisper's encoder, WavLM and RoBERTa. A frozen expert is no
part of the model: it gave its frames beforehand, which are stored. A fine-tuned one lives inside
and takes waves or token ids.

Letters: B batch, K experts, T_k and D_k frames and width of expert k, D common width, H width of
the fused features, C classes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from serlib import settings
from serlib.data.batching import Batch
from serlib.data.manifest import ATTRIBUTES
from serlib.models import heads
from serlib.models.encoders.checkpoints import EncoderError
from serlib.models.encoders.load import family, load_encoder
from serlib.models.pooling import AttentiveStatistics, Standardize
from serlib.settings import Count, Range, SettingError, Share, Whole

TASKS = ("emotion", "attributes")
FUSIONS = ("lstm", "concat", "attention")


@dataclass(frozen=True)
class FusionConfig:
    """What a fusion of experts is made of. The paper states no number, and no default is its own.

    Attributes:
        experts: Names or folders, see ``load_encoder``, in the order of the sequence. Stated:
            Whisper's encoder, WavLM, RoBERTa; their sizes are not, nor is their order.
        n_classes: C.
        tasks: What is answered and trained: "emotion", "attributes" or both. The last layer has
            the outputs of both either way, so that weights pass from one phase to the next.
        fusion: "lstm" as the paper has it. Ours, to compare: "concat", all embeddings side by side
            into one dense layer of about as many parameters; "attention", their weighted mean,
            blind to the order.
        width: D, of every expert's embedding.
        hidden: H, of the LSTM. One layer, run forward over the experts, and its output after the
            last of them, are our choice.
        bidirectional: Read the sequence from both ends; the last states of both are taken, 2 H.
        dense: Dense layers behind the projection. Each of these layers is Linear, LayerNorm, ReLU,
            Dropout; that there are "projection layers" and "dense layers" is stated, no more.
        bottleneck: Hidden width of each expert's attention over time; unstated.
        dropout: In those layers, and before the last one.
        tuned: Experts that are fine-tuned; the others are frozen. Unstated which.
        freeze: What stays as pre-trained in those: "cnn" or "none".
        n_layers: Keep the first so many transformer layers of every expert; None keeps all.
        context: What Whisper sees, "full" or "short", see ``recognizer.ModelConfig``.
        standardize: Scale each dimension of every expert's output over the frames of train, before
            its pooling, see ``pooling.Standardize``. Unstated, and off.
        random_init: Experts of random weights, as a control.
    """

    experts: tuple[str, ...]
    n_classes: Annotated[int, Range(2)] = 8
    tasks: tuple[Literal[TASKS], ...] = TASKS
    fusion: Literal[FUSIONS] = "lstm"
    width: Count = 256
    hidden: Count = 256
    bidirectional: bool = False
    dense: Whole = 1
    bottleneck: Count = 128
    dropout: Share = 0.1
    tuned: tuple[str, ...] = ()
    freeze: Literal["cnn", "none"] = "cnn"
    n_layers: Count | None = None
    context: Literal["full", "short"] = "full"
    standardize: bool = False
    random_init: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, see `settings`, and parts that do not go together."""
        settings.settle(self)
        names = [key(name) for name in self.experts]
        if not names or len(set(names)) < len(names):
            raise SettingError(f"experts={self.experts}: at least one, each once")
        if strangers := set(self.tuned) - set(self.experts):
            raise SettingError(f"tuned={sorted(strangers)}: not among experts={self.experts}")
        heads.check_tasks(self.tasks)
        if self.bidirectional and self.fusion != "lstm":
            raise SettingError(
                "bidirectional=True needs fusion='lstm': nothing else has a direction"
            )

    @property
    def frozen(self) -> tuple[str, ...]:
        """Experts that give stored frames, in order."""
        return tuple(name for name in self.experts if name not in self.tuned)


def key(name: str) -> str:
    """An expert's name as a module's: torch separates those by dots."""
    return str(name).replace(".", "_")


def load(
    config: FusionConfig, *, seed: int = 0, names: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Experts by name, in order, all or some; those that are not `tuned` wholly frozen.

    The seed is of weights that are drawn; for errors see ``load_encoder``.
    """
    seed, found = seed if config.random_init else 0, {}
    heard = [name for name in config.experts if family(name) == "whisper"]
    if config.context == "short" and not heard:
        raise EncoderError("context='short' is for Whisper, which is none of the experts: drop it.")
    for name in config.experts if names is None else names:
        make, freeze = (_load, config.freeze) if name in config.tuned else (_shared, "all")
        context = config.context if name in heard else "full"
        found[name] = make(name, freeze, config.n_layers, config.random_init, seed, context)
    return found


def _load(
    name: str, freeze: str, n_layers: int | None, random_init: bool, seed: int, context: str
) -> nn.Module:
    return load_encoder(
        name, freeze=freeze, n_layers=n_layers, random_init=random_init, seed=seed, context=context
    )


# A frozen expert is one for all models of this process, since nothing changes it.
_shared = functools.lru_cache(maxsize=4)(_load)


class Expert(nn.Module):
    """One expert's part of the model: frames (B, T_k, D_k) to an embedding (B, D)."""

    def __init__(self, width: int, config: FusionConfig) -> None:
        """D_k, and the settings."""
        super().__init__()
        self.scale = Standardize(1, width, of_clips=False) if config.standardize else None
        self.pool = AttentiveStatistics(width, config.bottleneck)
        sizes = [2 * width] + [config.width] * (config.dense + 1)
        self.layers = nn.Sequential()
        for n_in, n_out in zip(sizes, sizes[1:], strict=False):
            parts = nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()
            self.layers.extend([*parts, nn.Dropout(config.dropout)])

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T_k, D_k) and how many of them are real (B,), to (B, D)."""
        if self.scale is not None:
            (frames,) = self.scale([frames], lengths)
        return self.layers(self.pool(frames, lengths))


class Recurrence(nn.Module):
    """An LSTM over the experts: (B, K, D) to its output after the last one, (B, H) or (B, 2 H)."""

    def __init__(self, config: FusionConfig) -> None:
        """See ``FusionConfig``."""
        super().__init__()
        self.lstm = nn.LSTM(
            config.width, config.hidden, batch_first=True, bidirectional=config.bidirectional
        )
        self.size = config.hidden * (2 if config.bidirectional else 1)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, None]:
        """Features of each utterance; there are no weights to show."""
        _, (last, _) = self.lstm(embeddings)  # (directions, B, H)
        return last.transpose(0, 1).flatten(1), None


class Concatenation(nn.Module):
    """One dense layer over all experts: (B, K, D) to (B, M).

    M is chosen such that it has about as many parameters as the LSTM: 4 H (D + H + 2) for one
    direction, against (K D + 1) M here.
    """

    def __init__(self, config: FusionConfig) -> None:
        """See ``FusionConfig``."""
        super().__init__()
        n_in, h = len(config.experts) * config.width, config.hidden
        self.size = max(1, round(4 * h * (config.width + h + 2) / (n_in + 1)))
        self.dense = nn.Sequential(nn.Linear(n_in, self.size), nn.ReLU())

    def forward(self, embeddings: Tensor) -> tuple[Tensor, None]:
        """Features of each utterance; there are no weights to show."""
        return self.dense(embeddings.flatten(1)), None


class Mixture(nn.Module):
    """A weighted mean of the experts: (B, K, D) to (B, D), whatever their order.

        e_k = v · tanh(W h_k + b)        a = softmax_k(e)        output = Σ_k a_k h_k

    The attention of the pooling, over experts instead of frames; W is (H, D).
    """

    def __init__(self, config: FusionConfig) -> None:
        """See ``FusionConfig``."""
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(config.width, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1, False)
        )
        self.size = config.width

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D), and the weights (B, K) in the order of the experts."""
        weights = self.score(embeddings)[..., 0].float().softmax(1)  # (B, K)
        return (weights[..., None] * embeddings).sum(1), weights


class Fusion(nn.Module):
    """Experts' frames to emotion and attributes; see the head of the module.

    Attributes:
        config: The settings.
        encoders: Fine-tuned experts by ``key``, inside the model.
        experts: Each expert's pooling and layers, by ``key``. They start from weights that depend
            on the seed and the expert's name only, so neither on order nor on company.
        fuse: From embeddings (B, K, D) to features (B, H).
        output: The single linear layer, C + 3 outputs.
    """

    def __init__(
        self,
        config: FusionConfig,
        widths: Mapping[str, int],
        *,
        seed: int = 0,
        tuned: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Build the parts; the random state of the process is neither used nor changed.

        Widths D_k are of every expert, by name; ``tuned`` are the fine-tuned ones, as from
        ``load``. A ValueError says that they do not fit the experts of the configuration.
        """
        super().__init__()
        given, wanted = set(tuned or {}), set(config.tuned)
        if set(widths) != set(config.experts) or given != wanted:
            raise ValueError(
                f"widths of {sorted(widths)} and fine-tuned encoders {sorted(given)}, but the "
                f"experts are {sorted(config.experts)}, fine-tuned {sorted(wanted)}"
            )
        self.config, self.widths = config, {name: widths[name] for name in config.experts}
        self.encoders = nn.ModuleDict({key(name): x for name, x in (tuned or {}).items()})
        self.experts = nn.ModuleDict()
        for name, width in self.widths.items():
            with _drawn(seed, name):
                self.experts[key(name)] = Expert(width, config)
        kinds = {"lstm": Recurrence, "concat": Concatenation, "attention": Mixture}
        with _drawn(seed, config.fusion):
            self.fuse = kinds[config.fusion](config)
            self.dropout = nn.Dropout(config.dropout)
            self.output = nn.Linear(self.fuse.size, config.n_classes + len(ATTRIBUTES))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named outputs of a batch with a stream for every expert.

        A stream has frames (B, T_k, D_k) of a frozen expert, and waves (B, N) or token ids (B, S)
        of a fine-tuned one; with its own lengths (B,).

        Returns:
            ``emotion``, logits (B, C), and ``attributes`` (B, 3) on 1-7, those of the tasks;
            ``features`` (B, H), what the last linear layer takes; ``embeddings`` (B, K, D); with
            fusion "attention" ``expert_weights`` (B, K).

        Raises:
            ValueError: A stream is missing, or holds something else.
        """
        embeddings = torch.stack([self._embed(name, batch) for name in self.config.experts], 1)
        features, weights = self.fuse(embeddings)
        scores = self.output(self.dropout(features))
        outputs = {"features": features, "embeddings": embeddings}
        if weights is not None:
            outputs["expert_weights"] = weights
        if "emotion" in self.config.tasks:
            outputs["emotion"] = scores[:, : self.config.n_classes]
        if "attributes" in self.config.tasks:
            outputs["attributes"] = heads.scaled_sigmoid(scores[:, self.config.n_classes :])
        return outputs

    def _embed(self, name: str, batch: Batch) -> Tensor:
        """One expert's embedding (B, D)."""
        if name not in batch.streams:
            raise ValueError(f"no stream {name!r} in a batch of {sorted(batch.streams)}")
        frames, lengths = batch.streams[name]
        if key(name) in self.encoders:
            encoded = self.encoders[key(name)](frames, lengths)
            frames, lengths = encoded.frames, encoded.lengths
        elif frames.ndim != 3 or frames.shape[2] != self.widths[name]:
            raise ValueError(
                f"stream {name!r} is {tuple(frames.shape)}: the expert is frozen and needs its "
                f"frames (B, T, {self.widths[name]}), see features.cache"
            )
        return self.experts[key(name)](frames, lengths)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came pre-trained: of the fine-tuned experts."""
        return self.encoders.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All others."""
        for part in (self.experts, self.fuse, self.output):
            yield from part.parameters()


@contextmanager
def _drawn(seed: int, name: str) -> Iterator[None]:
    """Inside, torch draws what depends on the seed and the name; outside, nothing has changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        yield
