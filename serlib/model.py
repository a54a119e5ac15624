"""Speech emotion recognizers: encoder, pooling over time, heads, named outputs.

    batch -> encoder -> frames (B, T, D) -> pooling -> embedding (B, E) -> head -> logits (B, C)

A model maps a ``Batch`` to a dictionary; losses and evaluation pick what they need from it by name,
so that further heads (other tasks on the same embedding or frames) add names and change nothing.

Letters: B batch, N samples, T frames, D width, E width of the embedding, L layers, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serlib import encoders, heads
from serlib.batching import Batch

POOLING = ("mean", "sum", "attentive")
LAYERS = ("last", "weighted")
HEADS = ("linear", "mlp")


@dataclass(frozen=True)
class ModelConfig:
    """What a recognizer is made of.

    Attributes:
        encoder: Name or folder, see ``encoders.load``.
        n_classes: C.
        pooling: "mean", "sum" or "attentive" (mean and deviation with learned weights).
        layers: "last" takes the encoder's output, "weighted" a learned average of all L + 1 hidden
            states.
        head: "linear", or "mlp" with one hidden layer.
        hidden: Width of that layer.
        dropout: Before the layer that gives the logits: of the embedding ("linear") or of the
            hidden layer ("mlp").
        input_dropout: Of the embedding, before an "mlp".
        freeze: What stays as pre-trained: "cnn", "all" or "none".
        encoder_dropout: One value for every dropout of the encoder; None keeps the checkpoint's.
        spec_augment: Share of frames hidden from the transformer in training, in spans; 0 is off.
        n_layers: Keep the first so many transformer layers; None keeps all.
        random_init: Start the encoder from random weights, as a control.
        masked_encoder: False hides the lengths from the encoder: it normalizes over the padding and
            attends to it, as published code does that passes no attention mask.
        masked_pooling: False pools over the padded frames too, as published code does that takes
            the mean over the whole batch. Both switches make a clip's output depend on its batch.
    """

    encoder: str
    n_classes: int = 4
    pooling: str = "mean"
    layers: str = "last"
    head: str = "linear"
    hidden: int = 256
    dropout: float = 0.0
    input_dropout: float = 0.0
    freeze: str = "cnn"
    encoder_dropout: float | None = None
    spec_augment: float = 0.0
    n_layers: int | None = None
    random_init: bool = False
    masked_encoder: bool = True
    masked_pooling: bool = True

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        for name, known in (("pooling", POOLING), ("layers", LAYERS), ("head", HEADS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}, expected one of {known}.")
        if self.n_classes < 2:
            raise ValueError(f"n_classes={self.n_classes}: a choice needs at least 2.")
        if self.input_dropout and self.head == "linear":
            raise ValueError("input_dropout is for head='mlp'; with 'linear' set dropout instead.")


class SER(nn.Module):
    """A fine-tuned encoder with one embedding per clip and a head for its emotion.

    Attributes:
        config: The settings.
        encoder: From ``encoders.load``.
        heads: One module per task, from the embedding (B, E) to its output.
    """

    def __init__(
        self, config: ModelConfig, *, seed: int = 0, encoder: encoders.Encoder | None = None
    ) -> None:
        """Build the parts; the random state of the process is neither used nor changed.

        Args:
            config: The settings.
            seed: Of the heads' weights (and of the encoder's, with ``random_init``).
            encoder: Use this one instead of loading ``config.encoder``.
        """
        super().__init__()
        self.config = config
        self.encoder = encoder or encoders.load(
            config.encoder,
            freeze=config.freeze,
            dropout=config.encoder_dropout,
            spec_augment=config.spec_augment,
            n_layers=config.n_layers,
            random_init=config.random_init,
            seed=seed,
        )
        width = self.encoder.width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layer_sum = (
                heads.LayerSum(self.encoder.n_layers + 1) if config.layers == "weighted" else None
            )
            self.pool = {
                "mean": heads.MeanPool,
                "sum": heads.SumPool,
                "attentive": lambda: heads.AttentiveStatistics(width),
            }[config.pooling]()
            embedding = 2 * width if config.pooling == "attentive" else width
            self.heads = nn.ModuleDict({"emotion": make_head(config, embedding)})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named outputs of a batch of waves (B, N) or of stored CNN features (B, T, Dc).

        Returns:
            ``emotion``: logits (B, C); ``embedding`` (B, E); with a weighted sum of layers also
            ``layer_weights`` (L + 1,).
        """
        frames, lengths = self.frames(batch)
        outputs = {"embedding": self.pool(frames, lengths)}
        for task, head in self.heads.items():
            outputs[task] = head(outputs["embedding"])
        if self.layer_sum is not None:
            outputs["layer_weights"] = self.layer_sum.weights
        return outputs

    def frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) of the chosen layers, and how many of each clip are pooled (B,)."""
        lengths = batch.lengths
        if not self.config.masked_encoder:
            lengths = torch.full_like(lengths, batch.inputs.shape[1])
        encoded = self.encoder(batch.inputs, lengths)
        frames = encoded.frames if self.layer_sum is None else self.layer_sum(encoded.layers)
        if not self.config.masked_pooling:
            return frames, torch.full_like(batch.lengths, frames.shape[1])
        waves = batch.inputs.ndim == 2
        return frames, self.encoder.frame_lengths(batch.lengths) if waves else batch.lengths

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came pre-trained."""
        return self.encoder.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All others: layer weights, pooling, heads."""
        names = ((name.split(".")[0], p) for name, p in self.named_parameters())
        return (parameter for part, parameter in names if part != "encoder")


class FrozenProbe(nn.Module):
    """A linear head on vectors that a frozen encoder gave once per clip.

    With ``n_layers`` the vectors are averages over time of all hidden states, (B, L + 1, D), and a
    learned weighting of the layers comes first. Averaging over time and over layers commute, so
    this is the weighted-sum probe of SUPERB (Yang et al. 2021) with mean pooling, at the cost of
    its head alone.
    """

    def __init__(
        self, width: int, n_classes: int, *, n_layers: int | None = None, seed: int = 0
    ) -> None:
        """Build the head.

        Args:
            width: D.
            n_classes: C.
            n_layers: Hidden states per clip, L + 1; None for one vector (B, D).
            seed: Of the weights; the random state of the process is neither used nor changed.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layer_sum = heads.LayerSum(n_layers) if n_layers else None
            self.heads = nn.ModuleDict({"emotion": heads.LinearHead(width, n_classes)})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs as those of ``SER``, from ``batch.inputs`` (B, D) or (B, L + 1, D)."""
        embedding = batch.inputs.float()
        if self.layer_sum is not None:  # a clip is one frame: (L + 1, B, 1, D)
            embedding = self.layer_sum(embedding.transpose(0, 1)[:, :, None])[:, 0]
        outputs = {task: head(embedding) for task, head in self.heads.items()}
        if self.layer_sum is not None:
            outputs["layer_weights"] = self.layer_sum.weights
        return outputs | {"embedding": embedding}

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None: the encoder is not here."""
        return iter(())

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        return self.parameters()


def make_head(config: ModelConfig, width: int) -> nn.Module:
    """The head that a configuration asks for: (B, E) to (B, C)."""
    if config.head == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), heads.LinearHead(width, config.n_classes))
    mlp = heads.MLPHead(width, config.hidden, config.n_classes, config.dropout)
    return nn.Sequential(nn.Dropout(config.input_dropout), mlp)
