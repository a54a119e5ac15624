"""Speech emotion recognizers: encoder, pooling over time, heads, named outputs.

    batch -> encoder -> frames (B, T, D) -> pooling -> embedding (B, E) -> head -> logits (B, C)
                                         -> head of "asr" -> logits (B, T, V)

A model maps a ``Batch`` to a dictionary; losses and evaluation pick what they need from it by name,
so that further tasks on the same embedding or frames add names and change nothing.

Letters: B batch, N samples, T frames, D width, E width of the embedding, L layers, C classes, V
characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from serlib import settings
from serlib.data import text
from serlib.data.batching import Batch
from serlib.models import adapters, heads
from serlib.models.coattention import CoAttention
from serlib.models.encoders import wav2vec2
from serlib.models.encoders.load import load_encoder
from serlib.models.pooling import AttentiveStatistics, MeanPool, Standardize, SumPool
from serlib.settings import Count, Range, SettingError, Share, Weight, Whole

TASKS = ("emotion", "gender", "speaker", "asr", "attributes")
SIZES = {"gender": 2, "asr": len(text.ALPHABET), "attributes": 3}  # that no corpus decides


@dataclass(frozen=True)
class ModelConfig:
    """What a recognizer is made of.

    Attributes:
        encoder: Name or folder, see ``load_encoder``.
        context: What Whisper sees: "full", the zeros up to its 30 s included, or the "short" one,
            the clip alone, see ``whisper.WhisperEncoder``.
        n_classes: C.
        pooling: "mean", "sum" or "attentive" (mean and deviation with learned weights).
        tasks: "emotion" first, if at all, then any of "gender", "speaker", "asr", "attributes".
        layers: "last" takes the encoder's output, "weighted" a learned average of all L + 1 hidden
            states, shared by the tasks; a number such as "0" takes that hidden state alone, without
            the final LayerNorm that the output of a pre-norm encoder has.
        layer_softmax: False leaves the weights of that average free, see ``heads.LayerSum``.
        layer_norm: Normalize each frame of each layer before the average.
        layer_start: What its weights start from: "equal", "last" or "first".
        layer_speed: How fast they may move against the heads, 0 not at all, see ``heads.LayerSum``.
        standardize: Give each dimension of the chosen states zero mean and unit variance over
            train, before the average and the pooling, see ``pooling.Standardize``. Papers do not
            say; the default takes states as they come, and a tuned encoder sets its own scale. With
            a frozen one turn it on: in published encoders a few dimensions are a hundred times the
            others, and heads learn little from them.
        head: "linear", or "mlp" with one hidden layer; "asr" then has an LSTM before it.
        hidden: Width of that layer, and of the LSTM.
        dropout: Before the layer that gives the logits: of the embedding ("linear") or of the
            hidden layer ("mlp").
        input_dropout: Of the embedding, before an "mlp".
        co_attention: "concat" or "sum" lets the emotion's hidden layer attend to those of the other
            tasks, see ``coattention.CoAttention``; "none" keeps the heads apart.
        freeze: What stays as pre-trained: "cnn", "all" or "none".
        freeze_layers: With "cnn", also so many of the lowest transformer layers.
        encoder_dropout: One value for every dropout of the encoder; None keeps the checkpoint's.
        spec_augment: Share of frames hidden from the transformer in training, in spans; 0 is off.
        n_layers: Keep the first so many transformer layers; None keeps all.
        random_init: Start the encoder from random weights, as a control.
        lora: Rank of adapters that are trained in the encoder instead of its weights, at
            `lr_encoder`, see ``adapters.add_lora``; 0 trains the weights.
        checkpoint_layers: Compute layers twice instead of keeping their activations, for small
            GPUs, see ``adapters.checkpoint_layers``.
        compile: Compile the transformer layers, see ``adapters.compile_layers``; needs a compiler.
        masked_encoder: False hides the lengths from the encoder: it normalizes over the padding and
            attends to it, as published code does that passes no attention mask.
        masked_pooling: False pools over the padded frames too, as published code does that takes
            the mean over the whole batch. Both switches make a clip's output depend on its batch.
    """

    encoder: str
    context: Literal["full", "short"] = "full"
    n_classes: Annotated[int, Range(2)] = 4
    tasks: tuple[Literal[TASKS], ...] = ("emotion",)
    pooling: Literal["mean", "sum", "attentive"] = "mean"
    layers: str = "last"
    layer_softmax: bool = True
    layer_norm: bool = False
    layer_start: Literal[heads.LayerSum.STARTS] = "equal"
    layer_speed: Weight = 1.0
    standardize: bool = False
    head: Literal["linear", "mlp"] = "linear"
    hidden: Count = 256
    dropout: Share = 0.0
    input_dropout: Share = 0.0
    co_attention: Literal["none", *CoAttention.COMBINE] = "none"
    freeze: Literal["cnn", "all", "none"] = "cnn"
    freeze_layers: Whole = 0
    encoder_dropout: Share | None = None
    spec_augment: Share = 0.0
    n_layers: Count | None = None
    random_init: bool = False
    lora: Whole = 0
    checkpoint_layers: bool = False
    compile: bool = False
    masked_encoder: bool = True
    masked_pooling: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, see `settings`, and parts that do not go together."""
        settings.settle(self)
        if self.layers not in ("last", "weighted") and not re.fullmatch("[0-9]+", self.layers):
            raise SettingError(
                f"layers={self.layers!r}, expected one of last, weighted or a number"
            )
        heads.check_tasks(self.tasks)
        if self.co_attention != "none" and (self.head != "mlp" or self.tasks[0] != "emotion"):
            raise SettingError("co_attention needs head='mlp', and the emotion as the first task")
        if self.co_attention != "none" and len(self.tasks) < 2:
            raise SettingError("co_attention needs another task beside the emotion")
        if self.lora and self.freeze != "cnn":
            raise SettingError(f"lora={self.lora}, freeze={self.freeze!r}: a rank needs 'cnn'")
        if self.input_dropout and self.head == "linear":
            raise SettingError("input_dropout is for head='mlp'; with 'linear' set dropout instead")


class SER(nn.Module):
    """A fine-tuned encoder with one embedding per clip and a head per task.

    Attributes:
        config: The settings.
        n_speakers: Talkers of the training set, which the speaker head tells apart.
        encoder: From ``load_encoder``.
        heads: One module per task, from the embedding (B, E), for "asr" from the frames (B, T, D).
        fusion: The co-attention between them, or None.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        n_speakers: int = 0,
        seed: int = 0,
        encoder: wav2vec2.Encoder | None = None,
    ) -> None:
        """Build the parts; the random state of the process is neither used nor changed.

        The seed is of the heads' weights (and of the encoder's, with ``random_init``). A given
        encoder is used instead of loading ``config.encoder``.
        """
        super().__init__()
        if "speaker" in config.tasks and n_speakers < 2:
            raise SettingError(f"n_speakers={n_speakers}: the task 'speaker' needs at least 2.")
        self.config, self.n_speakers = config, n_speakers
        same = "context freeze freeze_layers spec_augment n_layers random_init".split()
        self.encoder = encoder or load_encoder(
            config.encoder,
            dropout=config.encoder_dropout,
            seed=seed,
            **{name: getattr(config, name) for name in same},
        )
        adapters.apply(self.encoder, config.lora, config.checkpoint_layers, config.compile, seed)
        if config.layers.isdigit() and int(config.layers) > self.encoder.n_layers:
            raise SettingError(f"layers={config.layers!r}: the last is {self.encoder.n_layers}.")
        width, weighted = self.encoder.width, config.layers == "weighted"
        n_states = self.encoder.n_layers + 1 if weighted else 1
        self.scale = None
        if config.standardize:
            self.scale = Standardize(n_states, width, of_clips=config.pooling == "mean")
        if config.freeze == "all" and not config.random_init:
            self._leave_out_encoder()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layer_sum = None
            if weighted:
                self.layer_sum = heads.LayerSum(
                    n_states,
                    softmax=config.layer_softmax,
                    layer_norm=config.layer_norm,
                    start=config.layer_start,
                    speed=config.layer_speed,
                )
            attentive = config.pooling == "attentive"
            simple = {"mean": MeanPool, "sum": SumPool}
            self.pool = AttentiveStatistics(width) if attentive else simple[config.pooling]()
            # The emotion's head comes first, so that it starts alike with and without the others.
            sizes = {"emotion": config.n_classes, "speaker": n_speakers, **SIZES}
            self.heads = nn.ModuleDict()
            for task in config.tasks:
                n_in = width if task == "asr" or not attentive else 2 * width
                self.heads[task] = make_head(config, task, n_in, sizes[task])
            self.fusion = None
            if config.co_attention != "none":
                others = config.tasks[1:]
                self.fusion = CoAttention(config.hidden, others, combine=config.co_attention)
                # The emotion's last linear layer takes the fused features.
                self.heads["emotion"][-1] = heads.LinearHead(self.fusion.width, config.n_classes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named outputs of a batch, whose inputs are any that the encoder takes.

        Returns:
            Logits per task: ``emotion`` (B, C), ``gender`` (B, 2), ``speaker`` (B, n_speakers),
            ``asr`` (B, T, V) with ``asr_lengths`` (B,); ``attributes`` (B, 3) on 1 to 7;
            ``embedding`` (B, E); with the emotion ``features`` (B, H), which its last linear layer
            takes. With a weighted sum of layers also ``layer_weights`` (L + 1,), with co-attention
            ``task_weights`` (B, J) and, if it attends to "asr", ``frame_weights`` (B, T).
        """
        frames, lengths = self.frames(batch)
        embedding = self.pool(frames, lengths)
        hidden = {
            task: head.hidden(frames if task == "asr" else embedding)
            for task, head in self.heads.items()
        }
        outputs = {"embedding": embedding}
        if self.fusion is not None:  # between the two layers of each branch
            others = {task: hidden[task] for task in self.config.tasks[1:]}
            hidden["emotion"], weights, over_frames = self.fusion(
                hidden["emotion"], others, lengths
            )
            outputs["task_weights"] = weights
            outputs |= {} if over_frames is None else {"frame_weights": over_frames}
        outputs |= {task: head.output(hidden[task]) for task, head in self.heads.items()}
        if "emotion" in self.heads:
            outputs["features"] = hidden["emotion"]
        if "asr" in self.heads:
            outputs["asr_lengths"] = lengths
        if "attributes" in self.heads:
            outputs["attributes"] = heads.scaled_sigmoid(outputs["attributes"])
        if self.layer_sum is not None:
            outputs["layer_weights"] = self.layer_sum.weights
        return outputs

    def frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) of the chosen layers, and how many of each clip are pooled (B,)."""
        lengths = batch.lengths
        if not self.config.masked_encoder:
            lengths = torch.full_like(lengths, batch.inputs.shape[1])
        encoded, layer = self.encoder(batch.inputs, lengths), self.config.layers
        lengths = batch.lengths
        if batch.inputs.ndim == 2:  # waves
            lengths = self.encoder.frame_lengths(lengths)
        if not self.config.masked_pooling:
            lengths = torch.full_like(lengths, encoded.frames.shape[1])
        states = encoded.layers
        if layer == "last":
            states = [encoded.frames]
        elif layer != "weighted" and len(states) > 1:  # else the only one that was stored
            states = [states[int(layer)]]
        states = states if self.scale is None else self.scale(states, lengths)
        return states[0] if self.layer_sum is None else self.layer_sum(states), lengths

    def _leave_out_encoder(self) -> None:
        """Keep an encoder that stays as it was loaded out of what is stored of the model."""

        def leave_out(module: nn.Module, state: dict, prefix: str, _: dict) -> None:
            for name in [name for name in state if name.startswith(f"{prefix}encoder.")]:
                del state[name]

        def not_missed(module: nn.Module, found) -> None:
            found.missing_keys[:] = [x for x in found.missing_keys if ".encoder." not in f".{x}"]

        self.register_state_dict_post_hook(leave_out)
        self.register_load_state_dict_post_hook(not_missed)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that came pre-trained."""
        return self.encoder.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All others: layer weights, pooling, heads."""
        names = ((name.split(".")[0], p) for name, p in self.named_parameters())
        return (parameter for part, parameter in names if part != "encoder")


def make_head(config: ModelConfig, task: str, width: int, n: int) -> nn.Module:
    """The head of a task that a configuration asks for.

    Of one label per clip, (B, E) to (B, C); of "asr" one character per frame, (B, T, D) to
    (B, T, V).
    """
    if config.head == "linear":
        head = heads.LinearHead(width, n)
        return head if task == "asr" else heads.Head(nn.Dropout(config.dropout), head)
    if task == "asr":
        return heads.RecurrentHead(width, config.hidden, n, config.dropout)
    return heads.MLPHead(
        width, config.hidden, n, config.dropout, input_dropout=config.input_dropout
    )
