"""What the training loop keeps: an epoch's numbers, its checkpoint, its line on the screen.

``training.fit`` is the loop; these are its three notebooks, separate so that the loop stays short.
"""

from __future__ import annotations

import io
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from serlib import records
from serlib.batching import Batch
from serlib.sharding import copy_weights, load_optimizer, load_weights, whole

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

    def __init__(self, epoch: int, cost: Callable[[Batch], float] | None = None) -> None:
        """Start the clock.

        Args:
            epoch: Its number, from 1.
            cost: Floating-point operations of a step on a batch, see `throughput.cost`.
        """
        self.epoch, self.started = epoch, time.perf_counter()
        self.cost, self.flops = cost or (lambda batch: math.nan), 0.0
        self.real = self.padded = 0.0  # seconds of audio without and with padding
        self.clips: list[int] = []  # per batch, in the order of values["loss"]
        self.values: dict[str, list[float]] = {"loss": [], "gradient norm": []}
        self.unread: list[tuple[str, int, Sequence[str], Tensor]] = []

    def add(self, step: int, batch: Batch, loss: Tensor) -> None:
        """Note one batch and its loss, a scalar on any device."""
        self.unread.append(("loss", step, batch.keys, loss.detach()))
        self.clips.append(len(batch.keys))
        self.real += batch.seconds
        self.padded += batch.seconds / (1 - batch.padding)
        self.flops += self.cost(batch)

    def add_norm(self, step: int, window: Sequence[Batch], norm: Tensor) -> None:
        """Note the gradient norm of one step over the batches in ``window``."""
        keys = [key for batch in window for key in batch.keys]
        self.unread.append(("gradient norm", step, keys, norm))
        if (step + 1) % READ_EVERY == 0:
            self.read()

    def read(self) -> None:
        """Move what was noted since the last time to the host.

        Raises:
            NonFiniteError: The first value that is not finite, with its epoch, step (both from 1)
                and utterances.
        """
        values = torch.stack([value.float() for *_, value in self.unread]).tolist()
        for (what, step, keys, _), value in zip(self.unread, values, strict=True):
            if not math.isfinite(value):
                where = f"epoch {self.epoch}, step {step + 1}"
                raise NonFiniteError(f"the {what} is {value} in {where}", keys)
            self.values[what].append(value)
        self.unread.clear()

    def row(self, gather: Callable[[list], list]) -> dict[str, float]:
        """The epoch in numbers, over all processes.

        Args:
            gather: A list with this process's item to the list of all processes' items.

        Returns:
            ``epoch``; ``loss``, mean over clips; ``gradient_norm``, mean over steps, before
            clipping; ``steps``; ``clips``; ``audio_seconds`` without padding; ``padding``, share of
            padded audio in all; ``train_seconds``; ``audio_seconds_per_second``; ``tflops``, 10^12
            floating-point operations per second, work on padding included.
        """
        if self.unread:
            self.read()
        total = math.fsum(n * x for n, x in zip(self.clips, self.values["loss"], strict=True))
        parts = gather([(total, sum(self.clips), self.real, self.padded, self.flops)])
        sums = (math.fsum(column) for column in zip(*parts, strict=True))
        total, clips, real, padded, flops = sums
        seconds = time.perf_counter() - self.started
        norms = self.values["gradient norm"]
        return {
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


class Checkpoint:
    """The state after an epoch, in the run's folder; without a run, the best weights in memory.

        checkpoint/weights-0007.safetensors   the model after epoch 7; last and best epoch are kept
        checkpoint/state.pt                   all else, as of the last epoch

    Replacing ``state.pt`` is what completes an epoch. A process killed at any moment leaves a state
    file that names weights which are there: an epoch's weights are written before it, those that
    nobody needs any more are deleted after it.
    """

    def __init__(self, run: records.Run | None, setup: dict, writes: bool = True) -> None:
        """Begin.

        Args:
            run: Where to write.
            setup: Plain values that must be the same when a run is continued.
            writes: Whether this process is the one of several that writes.
        """
        self.run, self.setup, self.writes = run, setup, writes
        self.memory: dict[str, Tensor] = {}

    def rows(self) -> list[dict]:
        """What is known of each complete epoch."""
        if self.run is None or not self._state.exists():
            return []
        return torch.load(self._state, map_location="cpu", weights_only=True, mmap=True)["rows"]

    def save(
        self, model: nn.Module, optimizer: Optimizer, rows: list[dict], best: int, draws: list[dict]
    ) -> None:
        """Complete epoch ``len(rows)``.

        Args:
            model: Its weights are copied.
            optimizer: Its state is copied.
            rows: What is known of each epoch so far, plain values.
            best: The epoch (from 1) to keep besides the last.
            draws: ``random_state`` of each process.
        """
        if self.run is None:
            self.memory = copy_weights(model) if best == len(rows) else self.memory
            return
        # Every process takes part in gathering what is sharded.
        weights, optimizer_state = copy_weights(model), whole(optimizer.state_dict())
        if self.writes:
            records.atomic_write(self._weights(len(rows)), safetensors.torch.save(weights))
            state = {"setup": self.setup, "rows": rows, "random": draws}
            buffer = io.BytesIO()
            torch.save(state | {"optimizer": optimizer_state}, buffer)
            records.atomic_write(self._state, buffer.getvalue())
            for file in self._state.parent.glob("weights-*.safetensors"):
                if file not in (self._weights(len(rows)), self._weights(best)):
                    file.unlink()
            self.run.log(**rows[-1])

    def resume(
        self, model: nn.Module, optimizer: Optimizer, device: torch.device, process: int = 0
    ) -> list[dict]:
        """Go to the end of the last complete epoch.

        Returns:
            The rows up to there, none at the beginning.

        Raises:
            ValueError: The checkpoint was made with another ``setup``.
        """
        if self.run is None:
            return []
        if not self._state.exists():
            self._log([])
            return []
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        if state["setup"] != self.setup:
            differ = [k for k, v in self.setup.items() if state["setup"].get(k) != v]
            raise ValueError(
                f"{self.run.path} was begun with other values of {', '.join(differ)}: go back to "
                "those, or delete that folder to start anew."
            )
        load_weights(model, safetensors.torch.load_file(self._weights(len(state["rows"]))))
        load_optimizer(optimizer, state["optimizer"])
        set_random_state(state["random"][process], device)
        self._log(state["rows"])
        return state["rows"]

    def finish(self, model: nn.Module, best: int) -> None:
        """Load the weights of the best epoch, and store them as the run's ``model.safetensors``."""
        if self.run is not None:
            self.memory = safetensors.torch.load_file(self._weights(best))
        load_weights(model, self.memory)
        model.eval()
        if self.run is not None and self.writes:
            file = self.run.path / "model.safetensors"
            records.atomic_write(file, safetensors.torch.save(self.memory))

    def _log(self, rows: list[dict]) -> None:
        """Make the run's log agree with the state: a kill may have fallen between the two."""
        if self.writes:
            self.run.rewind(len(rows))
            for row in rows[len(self.run.history()) :]:
                self.run.log(**row)

    @property
    def _state(self) -> Path:
        return self.run.path / "checkpoint" / "state.pt"

    def _weights(self, epoch: int) -> Path:
        return self._state.with_name(f"weights-{epoch:04d}.safetensors")


def random_state(device: torch.device) -> dict:
    """States of the random generators of python, numpy, torch and the device, as plain values."""
    name, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    state["numpy"] = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    """Undo everything drawn since ``random_state``."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])


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

    def step(self, position: float) -> None:
        """Move the bar to ``position``, in epochs."""
        if self.bar is not None:
            self.bar.update(position - self.bar.n)

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
