"""How a model computes: in float32, or in bfloat16 where the device has it; and in which mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """The context in which a forward pass runs; it overrides any context around it.

    Args:
        device: Where the model is.
        precision: "fp32"; "bf16": matrix products in bfloat16; "auto": bf16 on a CUDA device that
            computes in it, fp32 elsewhere (on a CPU bf16 pays only with matrix instructions).

    Raises:
        ValueError: Another ``precision``, or bf16 on a CPU that does not compute in it.

    >>> autocast("cpu", "auto")._enabled
    False
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}, expected one of {PRECISIONS}.")
    device = torch.device(device)
    helps = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = precision == "bf16" or (precision == "auto" and helps)
    if bf16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("precision='bf16': this CPU does not compute in bfloat16; take fp32.")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def to_float32(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's outputs with the half-precision ones raised to float32, for losses and softmax."""
    half = (torch.bfloat16, torch.float16)
    return {name: x.float() if x.dtype in half else x for name, x in outputs.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards each submodule is back in its own mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
