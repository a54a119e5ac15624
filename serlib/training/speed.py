"""How fast a training is against what its machine can do: work, matmul peak, memory.

The floating-point operations of a model are counted with `torch.utils.flop_counter`, once per
training and outside of it, on one clip at three lengths. The parabola through the three is exact
for what a transformer does (linear and attention parts), so each batch's work is known from its
padded length alone, and nothing is counted inside a step.

Letters: B batch, T frames, N samples.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils import flop_counter

from serlib import records
from serlib.data.batching import Batch
from serlib.training import processes
from serlib.training.checkpoint import random_state, set_random_state
from serlib.training.precision import autocast

GIB = 2**30
MATRIX = {"cuda": 8192, "cpu": 1024}  # rows of the square matrices whose product is the peak
REPEATS = 10  # of that product; the best counts

aten = torch.ops.aten


def _conv_backward(grad, x, w, _b, _s, _p, _d, transposed, _o, _groups, mask, **_) -> int:
    """Each gradient of a convolution costs as much as the convolution.

    torch's own formula counts the weight gradient of G groups G times.
    """
    return flop_counter.conv_flop_count(x, w, grad, transposed=transposed) * sum(mask[:2])


def _lstm(times: int) -> Callable:
    """2 operations per weight of every matrix, step and clip; torch has no formula."""

    def count(x: Tensor, *args, **_) -> int:
        weights = args[0] if isinstance(args[0], (list, tuple)) else args[:2]
        matrices = [w for w in weights if w.dim() == 2]
        return 2 * times * math.prod(x.shape[:2]) * sum(w.numel() for w in matrices)

    count._get_raw = True  # takes tensors, not their shapes
    return count


FORMULAS = {
    aten.convolution_backward: _conv_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v)
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(grad, q, k, v)
    ),
    aten._cudnn_rnn: _lstm(1),
    aten._cudnn_rnn_backward: _lstm(2),
    aten.mkldnn_rnn_layer: _lstm(1),
    aten.mkldnn_rnn_layer_backward: _lstm(2),
}


def count(model: nn.Module, batch: Batch, precision: str = "fp32") -> int:
    """Floating-point operations of one forward and backward pass, a multiplication counting one.

    Matrix products, convolutions, attention and LSTMs; element-wise work is left out, as usual.
    Frozen parts count forward only. Neither weights, gradients nor random states change. Compiled
    layers are counted as they are written: under a counter torch.compile gives up, and for good.

    Args:
        model: In the mode it is to be counted in.
        batch: On the model's device.
        precision: As in `precision.autocast`.
    """
    device = batch.inputs.device
    before, grads = random_state(device), [p.grad for p in model.parameters()]
    try:
        for p in model.parameters():
            p.grad = None
        counter = flop_counter.FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with torch.compiler.set_stance("force_eager"), counter:
            with torch.enable_grad(), autocast(device, precision):
                outputs = model(batch).values()
            sum(x.float().sum() for x in outputs if x.requires_grad).backward()
    finally:
        set_random_state(before, device)
        for p, grad in zip(model.parameters(), grads, strict=True):
            p.grad = grad
    return counter.get_total_flops()


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a batch: B · (a + b · w + c · w²), w its padded length."""

    widths: tuple[int, ...]
    flops: tuple[int, ...]  # of one clip of each width

    def __call__(self, batch: Batch) -> float:
        """Of one step on this batch, forward and backward."""
        at, known = batch.inputs.shape[1], self.widths
        total = 0.0
        for w, y in zip(known, self.flops, strict=True):  # Lagrange's form of the parabola
            total += y * math.prod((at - v) / (w - v) for v in known if v != w)
        return len(batch.keys) * total


def cost(model: nn.Module, batch: Batch, precision: str = "fp32") -> Callable[[Batch], float]:
    """What a model's batches cost, measured on the first clip of one of them.

    Cut to its whole, half and quarter padded length. With several streams, all are cut alike, and
    `Cost` takes the length of the first for all. If a model cannot be counted so, a warning says
    why, and the cost is NaN.
    """
    width = batch.inputs.shape[1]
    widths = sorted({max(1, width // n) for n in (1, 2, 4)})
    was = model.training
    try:
        model.train()
        flops = [count(model, _one_clip(batch, w / width), precision) for w in widths]
    except Exception as error:  # speed is not worth losing a training for
        why = f"{type(error).__name__}: {error}"
        warnings.warn(f"no TFLOP/s: the model's work cannot be counted ({why})", stacklevel=2)
        return lambda batch: math.nan
    finally:
        model.train(was)
    return Cost(tuple(widths), tuple(flops))


def _one_clip(batch: Batch, share: float) -> Batch:
    """The first clip, cut to a share of the padded length and full of it."""

    def cut(x: Tensor) -> tuple[Tensor, Tensor]:
        n = max(1, round(x.shape[1] * share))
        return x[:1, :n], torch.tensor([n])

    inputs, lengths = cut(batch.inputs)
    extra = {name: x[:1] for name, x in batch.extra.items()}
    streams = {name: cut(x) for name, (x, _) in batch.streams.items()}
    first = {name: getattr(batch, name)[:1] for name in ("emotion", "keys", "index")}
    return replace(batch, inputs=inputs, lengths=lengths, extra=extra, streams=streams, **first)


def peak(device: torch.device | str, precision: str = "fp32") -> float:
    """TFLOP/s of a large square matrix product, the most a model here could reach.

    Measured once per machine, device, threads and precision, and kept under $SERLIB_HOME/peaks; the
    best of ten. Delete that folder to measure anew, for instance if the machine was busy.
    """
    device = torch.device(device)
    half = torch.is_autocast_enabled(device.type) or autocast(device, precision)._enabled
    about = {
        "machine": platform.node(),
        "device": name_of(device),
        "dtype": "bfloat16" if half else "float32",
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
    }
    path = records.home() / "peaks" / f"{records.digest(about)}.json"
    if not path.exists():  # two processes at once measure twice
        found = measure_peak(device, getattr(torch, about["dtype"]))
        records.write_json(path, about | {"tflops": found})
    return records.read_json(path)["tflops"]


def measure_peak(device: torch.device, dtype: torch.dtype, n: int | None = None) -> float:
    """TFLOP/s of the fastest of ten products of two random matrices (n, n): 2 n³ operations."""
    n = n or MATRIX.get(device.type, MATRIX["cpu"])
    generator = torch.Generator(device).manual_seed(0)  # the loop's random states stay as they are
    a, b = (torch.randn(n, n, device=device, generator=generator).to(dtype) for _ in range(2))
    best = math.inf
    for i in range(REPEATS + 2):  # two to warm up
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start) if i >= 2 else best
    return 2 * n**3 / best / 1e12


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def name_of(device: torch.device) -> str:
    """The product's name of a GPU, else what the CPU calls itself and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


class Gauge:
    """What to hold an epoch's speed against; made once per training, before its first step."""

    def __init__(self, model: nn.Module, batch: Batch, device: torch.device, precision: str):
        """Count the model's work and look up, or measure, the machine's peak.

        Args:
            model: On the device, not yet wrapped for several processes.
            batch: One that it will train on.
            device: Where.
            precision: As in `precision.autocast`.
        """
        self.device, self.peak = device, peak(device, precision)
        self.cost = cost(model, batch.to(device), precision)

    def start(self) -> None:
        """Forget the memory that was needed so far (on a GPU; a CPU cannot)."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def row(self, tflops: float, gather: Callable = processes.gather) -> dict[str, float]:
        """``peak_share``, TFLOP/s over all processes' peaks, and ``peak_memory_gb``.

        The memory is that of tensors on a GPU in this epoch, on a CPU of the process since it
        began; of several processes the largest. GB are 2^30 bytes.
        """
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(self.device)
        else:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peaks, memory = zip(*gather((self.peak, used / GIB)), strict=True)
        return {"peak_share": tflops / math.fsum(peaks), "peak_memory_gb": max(memory)}


def summary(history: pd.DataFrame) -> dict[str, float]:
    """A training's speed, for its run: medians over epochs, the largest memory, all padding.

    Args:
        history: From `loop.fit`.
    """
    speeds = ["audio_seconds_per_second", "tflops", "peak_share"]
    padded = (history["audio_seconds"] / (1 - history["padding"])).sum()
    return {name: float(np.median(history[name])) for name in speeds} | {
        "peak_memory_gb": float(history["peak_memory_gb"].max()),
        "padding": float(1 - history["audio_seconds"].sum() / padded),
        "train_seconds": float(history["train_seconds"].sum()),
    }
