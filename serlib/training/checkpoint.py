"""What outlives an epoch: weights, optimizer and random states, kept so that a killed run goes on.

Weights and optimizer states may be spread over processes (FSDP); they are copied and loaded as a
whole.
"""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from serlib import records


class Checkpoint:
    """The state after an epoch, in the run's folder; without a run, the best weights in memory.

        checkpoint/weights-0007.safetensors   the model after epoch 7; last and best epoch are kept
        checkpoint/state.pt                   all else, as of the last epoch

    Replacing ``state.pt`` is what completes an epoch. A process killed at any moment leaves a state
    file that names weights which are there: an epoch's weights are written before it, those that
    nobody needs any more are deleted after it. It holds their SHA-256, and its own parts have
    checksums, so that nothing goes on from a file that was cut or changed.
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
        self.sums: dict[int, str] = {}  # of the weights that are kept, by epoch

    def rows(self) -> list[dict]:
        """What is known of each complete epoch; a DamagedError if the state cannot be read."""
        if self.run is None or not self._state.exists():
            return []
        return self._read()["rows"]

    def _read(self) -> dict:
        try:
            with zipfile.ZipFile(self._state) as parts:
                if odd := parts.testzip():
                    raise zipfile.BadZipFile(f"its part {odd} was changed")
            state = torch.load(self._state, map_location="cpu", weights_only=True, mmap=True)
            self.sums = state["weights"]
        except OSError:
            raise
        except Exception as error:  # torch and zipfile have many
            raise self._damaged(self._state) from error
        return state

    def _weights_of(self, epoch: int) -> dict[str, Tensor]:
        """The weights after an epoch, if they are those that were stored."""
        path = self._weights(epoch)
        if epoch not in self.sums:  # another process wrote them
            self._read()
        if not path.is_file() or records.sha256(path) != self.sums.get(epoch):
            raise self._damaged(path)
        return safetensors.torch.load_file(path)

    def _damaged(self, path: Path) -> records.DamagedError:
        return records.DamagedError(
            f"{path} is damaged: delete the folder {path.parent}, and the run begins anew"
        )

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
        weights, optimizer_state = copy_weights(model), on_host(whole(optimizer.state_dict()))
        if self.writes:
            data = safetensors.torch.save(weights)
            records.atomic_write(self._weights(len(rows)), data)
            self.sums[len(rows)] = hashlib.sha256(data).hexdigest()
            self.sums = {e: s for e, s in self.sums.items() if e in (best, len(rows))}
            state = {"setup": self.setup, "rows": rows, "random": draws, "weights": self.sums}
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
            RecordError: The checkpoint was made with another ``setup``, or is damaged.
        """
        if self.run is None:
            return []
        rows = self.rows()
        if self.writes:  # a kill may have fallen between the state and the log: make them agree
            self.run.relog(rows)
        if not rows:
            return []
        state = self._read()
        if state["setup"] != self.setup:
            differ = [k for k, v in self.setup.items() if state["setup"].get(k) != v]
            raise records.RecordError(
                f"{self.run.path} was begun with other values of {', '.join(differ)}: go back to "
                "those, or delete that folder to start anew"
            )
        load_weights(model, self._weights_of(len(rows)))
        load_optimizer(optimizer, state["optimizer"])
        set_random_state(state["random"][process], device)
        return rows

    def finish(self, model: nn.Module, best: int) -> None:
        """Load the weights of the best epoch, and store them as the run's ``model.safetensors``."""
        if self.run is not None:
            self.memory = self._weights_of(best)
        load_weights(model, self.memory)
        model.eval()
        if self.run is not None and self.writes:
            file = self.run.path / "model.safetensors"
            records.atomic_write(file, safetensors.torch.save(self.memory))

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


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the CPU, sharing no memory with it (nor, for ties, with itself)."""
    weights = on_host({k: whole(v.detach()) for k, v in model.state_dict().items()})
    return {k: v.contiguous() for k, v in weights.items()}


def on_host(x: Any) -> Any:
    """Copies of tensors, in dicts and lists, on the CPU; for a GPU the host waits once for all."""
    copies = _each(x, lambda t: t.to("cpu", copy=True, non_blocking=True))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copies


def whole(x: Any) -> Any:
    """A tensor that FSDP has sharded, gathered, on every process; in a dict or list each of them.

    What is not sharded stays as it is.
    """
    return _each(x, lambda t: t.full_tensor() if hasattr(t, "full_tensor") else t)


def _each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with each tensor in it changed, in dicts and lists too."""
    if isinstance(x, dict):
        return {name: _each(value, change) for name, value in x.items()}
    if isinstance(x, list):
        return [_each(value, change) for value in x]
    return change(x) if torch.is_tensor(x) else x


def _like(x: Tensor, other: Tensor) -> Tensor:
    """``x``, known to every process, sharded as the other tensor is."""
    if not hasattr(other, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    x = x.to(other.device, other.dtype)
    return distribute_tensor(x, other.device_mesh, other.placements, src_data_rank=None)


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model, sharded or not, weights that are whole."""
    own = model.state_dict()
    shared = {k: _like(x, own[k]) if k in own else x for k, x in weights.items()}
    model.load_state_dict(shared)


def load_optimizer(optimizer: Optimizer, state: dict) -> None:
    """Give an optimizer, of sharded parameters or not, a state whose tensors are whole."""
    members = [p for group in optimizer.param_groups for p in group["params"]]
    shared = {
        i: {k: _like(x, members[i]) if torch.is_tensor(x) and x.dim() else x for k, x in of.items()}
        for i, of in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": shared})
