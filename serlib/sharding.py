"""Weights and optimizer states that may be spread over processes, copied and loaded as a whole.

FSDP (version 2) turns each parameter into a DTensor, of which a process has a slice. Without it
these functions do what their names say and nothing else. With it all processes must call them.
DTensors are known by their ``full_tensor``: importing the class would cost every start a second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the CPU, sharing no memory with it (nor, for ties, with itself)."""
    weights = {k: whole(v.detach()) for k, v in model.state_dict().items()}
    return {k: v.to("cpu", copy=True).contiguous() for k, v in weights.items()}


def whole(x: Any) -> Any:
    """A tensor that FSDP has sharded, gathered, on every process; in a dict or list each of them.

    What is not sharded stays as it is.
    """
    if isinstance(x, dict):
        return {name: whole(value) for name, value in x.items()}
    if isinstance(x, list):
        return [whole(value) for value in x]
    return x.full_tensor() if hasattr(x, "full_tensor") else x


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
