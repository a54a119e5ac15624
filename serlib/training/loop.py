"""The training loop: from batches and a loss to the weights of the epoch that did best on dev.

``train_epoch`` goes over the steps and ``fit`` over the epochs; read these two first. A step is

    ``accumulate`` batches -> forward (bf16 or fp32) -> loss (fp32) -> backward -> clip -> AdamW

The learning rates are functions of the share of training that is done, so there is no scheduler to
store; all else that an epoch depends on is in the checkpoint. A killed run ends where an
uninterrupted one does, bit for bit on a CPU. On several processes (``accelerate launch``) each
takes its share of every step. A model that FSDP shards (version 2) is trained and stored alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    set_seed,
)
from torch import Tensor, nn

from serlib import records, settings
from serlib.data.batching import Batch
from serlib.settings import Count, Positive, Seed, Share, Weight
from serlib.training import processes, trackers
from serlib.training.checkpoint import Checkpoint, random_state, whole
from serlib.training.meter import Meter, Report
from serlib.training.precision import PRECISIONS, autocast, to_float32
from serlib.training.selection import best_epoch, improves, may_improve, selected_epoch
from serlib.training.speed import Gauge

# A model's outputs, in float32, and their batch to a scalar: the mean over the batch's clips.
Loss = Callable[[dict[str, Tensor], Batch], Tensor]
# Epoch (from 1) to its batches, the same ones whenever asked (a resumed run asks again). Without a
# len() they are all held in memory. On several processes: this one's share, equally many on each.
TrainBatches = Callable[[int], Iterable[Batch]]
# Of an epoch's optimizer steps: the share of the whole training that is done in its middle, and its
# ``accumulate`` batches on the device, each with its share of the step's loss.
Steps = Iterable[tuple[float, Iterable[tuple[Batch, Tensor]]]]
# A model, in eval mode, to its scores on dev.
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; a recipe gives each value its source.

    Attributes:
        epochs: Passes over the training data, at most.
        lr_encoder: Peak learning rate of ``model.encoder_parameters()``.
        lr_head: Peak learning rate of ``model.head_parameters()``.
        weight_decay: AdamW's, on weights of two dimensions or more (not on biases and norms).
        warmup: Share of all steps over which the learning rates rise from 0 to their peaks.
        schedule: What follows: "linear" or "cosine" decay to 0, or "constant".
        clip: Largest norm of the gradient over all parameters; None does not clip.
        accumulate: Batches per optimizer step.
        precision: "fp32", "bf16" or "auto" (see ``precision.autocast``); losses are always fp32.
        patience: Stop after this many epochs without a better dev score; None runs them all.
        select: Dev score that chooses the epoch: the largest wins, with a minus ("-wer") the
            smallest, the first of equals. "last" takes the last epoch, as papers without dev set.
        budget_seconds: Audio per batch, padding included; for whoever makes the batches.
        seed: Of dropout and of all else that is drawn during training.
    """

    epochs: Count = 10
    lr_encoder: Weight = 1e-5
    lr_head: Weight = 1e-3
    weight_decay: Weight = 0.01
    warmup: Share = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip: Positive | None = 1.0
    accumulate: Count = 1
    precision: Literal[PRECISIONS] = "auto"
    patience: Count | None = None
    select: str = "ua"
    budget_seconds: Positive = 60.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, see `settings`."""
        settings.settle(self)
        if self.patience is not None and self.select == "last":
            raise settings.SettingError("patience needs a dev score in select, not 'last'")


def train_epoch(
    model: nn.Module,
    steps: Steps,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    meter: Meter,
) -> None:
    """One pass over the training data; each step moves the weights once.

    A step takes the mean of the loss over all its clips: a batch of n of its N clips has the share
    n / N, and the gradients of its batches add up. Nothing in here makes the host wait for the GPU:
    losses stay there until the meter reads many at a time.
    """
    model.train()  # dropout is on
    optimizer.zero_grad()
    for done, batches in steps:  # done: share of the whole training, from 0 to 1
        for group in optimizer.param_groups:  # encoder and heads, each with its own peak
            group["lr"] = group["peak"] * learning_rate_scale(done, config)
        for batch, share in batches:
            with autocast(batch.inputs.device, config.precision):  # bf16 where it helps
                outputs = model(batch)
            value = loss(to_float32(outputs), batch)
            (value * share).backward()  # adds to the gradients of this step's earlier batches
            meter.add(batch, value)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf)
        optimizer.step()  # AdamW
        optimizer.zero_grad()
        meter.add_norm(whole(norm))


def fit(
    model: nn.Module,
    loss: Loss,
    train_batches: TrainBatches,
    evaluate: Evaluate,
    config: TrainConfig,
    run: records.Run | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train ``model`` in place; it ends with the weights of the selected epoch, in eval mode.

    Args:
        model: Batch to named outputs; has ``encoder_parameters()`` and ``head_parameters()``.
        loss: See ``Loss``.
        train_batches: See ``TrainBatches``.
        evaluate: See ``Evaluate``.
        config: The settings.
        run: Gets a line per epoch, a checkpoint to continue from, and ``model.safetensors``.
        progress: Show a bar where somebody watches, else print one line per epoch.

    Returns:
        One row per epoch: those of ``Meter.row``, learning rates (of the last step), ``dev_*``,
        ``best`` (whether no epoch before was as good) and ``seconds`` in all.
    """
    with isolated_accelerator(**trackers.arguments(run)) as accelerator:
        set_seed(config.seed, device_specific=True)
        device, main = accelerator.device, accelerator.is_main_process
        setup = asdict(config) | {"processes": accelerator.num_processes}
        checkpoint = Checkpoint(run, setup, writes=main)
        unfinished = may_improve(checkpoint.rows(), config.epochs, config.patience)
        gauge = measured(model, train_batches, config, device) if unfinished else None
        optimizer = make_optimizer(model, config, fused=device.type in ("cpu", "cuda"))
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        rows = checkpoint.resume(model, optimizer, device, accelerator.process_index)
        report = Report(config.epochs, len(rows), progress and main)
        track = trackers.start(accelerator, run, setup)
        while may_improve(rows, config.epochs, config.patience):
            epoch, started = len(rows) + 1, time.perf_counter()
            batches, meter = train_batches(epoch), Meter(epoch, gauge)
            steps = report.over(epoch_steps(epoch, batches, wrapped, config, accelerator))
            train_epoch(wrapped, steps, loss, optimizer, config, meter)
            row = meter.row()
            row |= {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}
            row |= dev_scores(evaluate, model)
            row["best"] = improves(rows, row, config.select)
            rows.append(row | {"seconds": time.perf_counter() - started})
            draws = processes.gather(random_state(device))
            checkpoint.save(model, optimizer, rows, best_epoch(rows), draws)
            report.epoch(rows[-1], config.select)
            track(rows[-1])
        report.close()
        trackers.finish(accelerator)
        accelerator.wait_for_everyone()  # the main process may still be writing the weights
        checkpoint.finish(model, selected_epoch(rows, config.select))
    return pd.DataFrame(rows)


def measured(
    model: nn.Module, train_batches: TrainBatches, config: TrainConfig, device: torch.device
) -> Gauge | None:
    """The model moved to its device, and the work of its batches; None if there are none."""
    batch = next(iter(train_batches(1)), None)
    model.to(device)
    return None if batch is None else Gauge(model, batch, device, config.precision)


def epoch_windows(batches: Iterable[Batch], size: int) -> tuple[Iterator[list[Batch]], int]:
    """Groups of ``size`` batches, one per optimizer step, and their number.

    The last group holds what is left, so no batch is dropped.

    >>> windows, steps = epoch_windows([1, 2, 3, 4, 5], 2)
    >>> list(windows), steps
    ([[1, 2], [3, 4], [5]], 3)
    """
    batches = batches if hasattr(batches, "__len__") else list(batches)
    counts = processes.gather(len(batches))
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"batches per process {counts}: expected one number, and at least 1.")
    iterator = iter(batches)
    windows = iter(lambda: list(islice(iterator, size)), [])
    return windows, math.ceil(len(batches) / size)


def epoch_steps(
    epoch: int,
    batches: Iterable[Batch],
    model: nn.Module,
    config: TrainConfig,
    accelerator: Accelerator,
) -> Steps:
    """The steps of an epoch (from 1), for ``train_epoch``; see ``Steps``."""
    windows, n = epoch_windows(batches, config.accumulate)
    for step, window in enumerate(windows):
        done = (epoch - 1 + (step + 0.5) / n) / config.epochs  # at the middle of this step
        yield done, shared(window, model, accelerator)


def shared(
    window: Sequence[Batch], model: nn.Module, accelerator: Accelerator
) -> Iterator[tuple[Batch, Tensor]]:
    """A step's batches on the device, with shares that make the sum of their losses one mean.

    A batch of n out of the step's N clips, on all processes, counts n / N (times the number of
    processes, which average their gradients). So for a loss that is a mean over clips, accumulating
    equals one large batch, also when batches differ in size or the window is short, where
    ``Accelerator.accumulate`` weighs all alike. A class-weighted mean is only close to it.
    """
    clips = [len(batch.keys) for batch in window]
    total = torch.full((), float(sum(clips)), device=accelerator.device)  # made there: no waiting
    total = accelerator.reduce(total, reduction="sum")
    for i, (n, batch) in enumerate(zip(clips, window, strict=True), start=1):
        # Processes exchange gradients once per step, with its last batch.
        with nullcontext() if i == len(window) else accelerator.no_sync(model):
            yield batch.to(accelerator.device), n * accelerator.num_processes / total


def learning_rate_scale(done: float, config: TrainConfig) -> float:
    """Factor on the peak learning rates when a share ``done`` (0 to 1) of all steps is done.

    With w = ``warmup``: done / w during the warm-up, then with r = (done - w) / (1 - w)
    linear: 1 - r; cosine: (1 + cos(pi r)) / 2; constant: 1.

    >>> [learning_rate_scale(done, TrainConfig(warmup=0.5)) for done in (0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < config.warmup:
        return done / config.warmup
    rest = min((done - config.warmup) / (1 - config.warmup), 1.0)
    decay = {"linear": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2, "constant": 1.0}
    return decay[config.schedule]


def make_optimizer(
    model: nn.Module, config: TrainConfig, *, fused: bool = False
) -> torch.optim.AdamW:
    """AdamW over up to four groups: encoder and head, with weight decay and without."""
    parts = {
        "encoder": (list(model.encoder_parameters()), config.lr_encoder),
        "head": (list(model.head_parameters()), config.lr_head),
    }
    groups = []
    for name, (parameters, lr) in parts.items():
        for matrix, decay in ((True, config.weight_decay), (False, 0.0)):
            members = [p for p in parameters if p.requires_grad and (p.dim() >= 2) == matrix]
            if members:
                groups.append({"params": members, "name": name, "peak": lr, "weight_decay": decay})
    grouped = sorted(id(p) for group in groups for p in group["params"])
    trainable = sorted(id(p) for p in model.parameters() if p.requires_grad)
    if not trainable or grouped != trainable:
        raise ValueError(
            f"{len(trainable)} trainable parameters, {len(grouped)} of them in "
            "encoder_parameters() and head_parameters(): each must be in one, and some must be."
        )
    return torch.optim.AdamW(groups, lr=0.0, fused=fused)


@contextmanager
def isolated_accelerator(**arguments) -> Iterator[Accelerator]:
    """An Accelerator that leaves no trace: accelerate keeps its settings in three singletons.

    Left alone, the first fit of a process would decide for all later ones. Precision is not handed
    to accelerate, which would patch ``model.forward`` for good; it is visible in the loop.

    Raises:
        ValueError: It is configured for version 1 of FSDP.
    """
    singletons = [owner._shared_state for owner in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in singletons]
    for state in singletons:
        state.clear()
    try:
        accelerator = Accelerator(
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # see shared
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            **arguments,
        )
        if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
            raise ValueError("FSDP version 1 hides the model's parts: set fsdp_version to 2")
        yield accelerator
    finally:
        for state, old in zip(singletons, before, strict=True):
            state.clear()
            state.update(old)


def dev_scores(evaluate: Evaluate, model: nn.Module) -> dict[str, float]:
    """The main process's scores, on every process, so that all select and stop alike."""
    model.eval()
    scores = {f"dev_{name}": float(value) for name, value in evaluate(model).items()}
    return processes.say(scores)
