"""An epoch's numbers: mean losses, norms and grades of use, and the line that shows them.

The device's numbers are read every `READ_EVERY` steps, so the loop does not wait for a GPU.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from serlib.data.batching import Batch
from serlib.training import processes
from serlib.training.speed import Gauge

READ_EVERY = 50  # steps between two looks at the losses: each look makes the host wait for the GPU


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite; ``keys`` are the utterances that were in it."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        """Name the first utterances in the message too."""
        more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
        super().__init__(
            f"{message}; utterances {', '.join(keys[:8])}{more}. Look at these clips and their "
            "labels, or lower the learning rates, or set clip."
        )
        self.keys = list(keys)


class Meter:
    """Losses, gradient norms and amounts of audio of one epoch.

    Losses and norms are kept as tensors on the device and read in groups, so that a step never
    waits for its own result.
    """

    def __init__(self, epoch: int, gauge: Gauge | None = None) -> None:
        """Start the clock.

        Args:
            epoch: Its number, from 1.
            gauge: What to hold its speed against.
        """
        self.epoch, self.started, self.gauge = epoch, time.perf_counter(), gauge
        self.flops = 0.0
        self.real = self.padded = 0.0  # seconds of audio without and with padding
        self.clips: list[int] = []  # per batch, in the order of values["loss"]
        self.steps, self.keys = 1, []  # the step that goes on, and its utterances so far
        self.values: dict[str, list[float]] = {"loss": [], "gradient norm": []}
        self.unread: list[tuple[str, int, Sequence[str], Tensor]] = []
        if gauge:
            gauge.start()

    def add(self, batch: Batch, loss: Tensor) -> None:
        """Note one batch of a step and its loss, a scalar on any device."""
        self.unread.append(("loss", self.steps, batch.keys, loss.detach()))
        self.keys += batch.keys
        self.clips.append(len(batch.keys))
        self.real += batch.seconds
        self.padded += batch.seconds / (1 - batch.padding)
        self.flops += self.gauge.cost(batch) if self.gauge else math.nan

    def add_norm(self, norm: Tensor) -> None:
        """Note the gradient norm over the batches of a step, which ends it."""
        self.unread.append(("gradient norm", self.steps, self.keys, norm))
        if self.steps % READ_EVERY == 0:
            self.read()
        self.steps, self.keys = self.steps + 1, []

    def read(self) -> None:
        """Move what was noted since the last time to the host.

        Raises:
            NonFiniteError: The first value that is not finite, with its epoch, step (both from 1)
                and utterances.
        """
        values = torch.stack([value.float() for *_, value in self.unread]).tolist()
        for (what, step, keys, _), value in zip(self.unread, values, strict=True):
            if not math.isfinite(value):
                where = f"epoch {self.epoch}, step {step}"
                raise NonFiniteError(f"the {what} is {value} in {where}", keys)
            self.values[what].append(value)
        self.unread.clear()

    def row(self, gather: Callable = processes.gather) -> dict[str, float]:
        """The epoch in numbers, over all processes, whose items `gather` lists.

        Returns:
            ``epoch``; ``loss``, mean over clips; ``gradient_norm``, mean over steps, before
            clipping; ``steps``; ``clips``; ``audio_seconds`` without padding; ``padding``, share of
            padded audio in all; ``train_seconds``; ``audio_seconds_per_second``; ``tflops``, 10^12
            floating-point operations per second, work on padding included; then `Gauge.row`.
        """
        if self.unread:
            self.read()
        total = math.fsum(n * x for n, x in zip(self.clips, self.values["loss"], strict=True))
        parts = gather((total, sum(self.clips), self.real, self.padded, self.flops))
        sums = (math.fsum(column) for column in zip(*parts, strict=True))
        total, clips, real, padded, flops = sums
        seconds = time.perf_counter() - self.started
        norms = self.values["gradient norm"]
        row = {
            "epoch": self.epoch,
            "loss": total / clips,
            "gradient_norm": math.fsum(norms) / len(norms),
            "steps": len(norms),
            "clips": int(clips),
            "audio_seconds": real,
            "padding": 1 - real / padded if padded else 0.0,
            "train_seconds": seconds,
            "audio_seconds_per_second": real / seconds,
            "tflops": flops / seconds / 1e12,
        }
        return row | (self.gauge.row(row["tflops"], gather) if self.gauge else {})


def is_watched() -> bool:
    """Whether a bar that moves can be seen: a terminal, or a notebook open in a browser.

    papermill and nbclient start kernels too, but only the Jupyter server names its session.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        return "JPY_SESSION_NAME" in os.environ
    return sys.stderr.isatty()


class Report:
    """Progress of a run: one bar where somebody watches, else one line per epoch."""

    def __init__(self, epochs: int, done: int = 0, shown: bool = True) -> None:
        """Begin after ``done`` of ``epochs``; show nothing unless ``shown``."""
        self.epochs, self.shown, self.bar = epochs, shown, None
        if shown and is_watched():
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(total=epochs, initial=done, desc="training", bar_format=form)

    def over(self, steps: Iterable[tuple]) -> Iterator[tuple]:
        """Steps of an epoch (see `loop.Steps`), and the bar follows them."""
        for done, batches in steps:
            yield done, batches
            if self.bar is not None:
                self.bar.update(done * self.epochs - self.bar.n)

    def epoch(self, row: dict, select: str) -> None:
        """Tell how an epoch went."""
        if not self.shown:
            return
        name = f"dev_{select.removeprefix('-')}"
        score = f", dev {name[4:]} {row[name]:.3f}" if name in row else ""
        work = ""
        if math.isfinite(row.get("tflops", math.nan)):
            work = f" ({row['tflops']:.2g} TFLOP/s, {row['peak_share']:.0%} of peak)"
        text = (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}: loss {row['loss']:.4f}"
            f"{score}{' (best)' if row['best'] else ''}, padding {row['padding']:.0%}, "
            f"{row['audio_seconds_per_second']:.0f} audio s/s{work}, "
            f"{row['peak_memory_gb']:.1f} GB, {row['seconds']:.1f} s"
        )
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.set_postfix_str(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
