"""Losses and pooling of whole batches against loops over their samples.

The loops are what one writes first, and what some released code does. They give the same numbers,
which a test holds them to, so that only time is compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch user expects)
from torch import Tensor

from serlib.losses import classification, contrastive
from serlib.losses.ctc import ctc_loss
from serlib.models.pooling import VARIANCE_FLOOR, AttentiveStatistics

N_CLASSES, N_CHARACTERS = 8, 32


def swfc_by_sample(
    features: Tensor, target: Tensor, class_weight: Tensor, *, gamma: float = 2.4, tau: float = 0.8
) -> Tensor:
    """`contrastive.swfc` in its original form, one anchor at a time; arguments as there."""
    z, total = F.normalize(features, dim=1), features.sum() * 0
    labeled = [i for i, y in enumerate(target.tolist()) if y != classification.IGNORE]
    for i in labeled:
        others = [k for k in labeled if k != i]
        same = target[others] == target[i]
        if same.any():
            log_p = (z[others] @ z[i] / tau).log_softmax(0)[same]
            total = total - class_weight[target[i]] * ((1 - log_p.exp()) ** gamma * log_p).mean()
    return total / max(len(labeled), 1)


def ctc_by_clip(logits: Tensor, lengths: Tensor, tokens: Tensor, n_tokens: Tensor) -> Tensor:
    """`ctc_loss` by clips, one clip at a time; arguments as there."""
    found = []
    for x, n, y, s in zip(logits, lengths.tolist(), tokens, n_tokens.tolist(), strict=True):
        doubles = int((y[1:s] == y[: max(s - 1, 0)]).sum())
        if 0 < s <= n - doubles:
            log_p = x[:n].log_softmax(-1)[:, None]  # (T, 1, V)
            found.append(F.ctc_loss(log_p, y[None, :s], [n], [s], reduction="sum"))
    return torch.stack(found).mean() if found else logits.sum() * 0


def statistics_by_clip(pool: AttentiveStatistics, frames: Tensor, lengths: Tensor) -> Tensor:
    """`pooling.AttentiveStatistics`, one clip at a time; arguments as there."""
    found = []
    for clip, n in zip(frames, lengths.tolist(), strict=True):
        x = clip[:n]
        weights = pool.score(torch.tanh(pool.hidden(x))).softmax(0)
        mean = (weights * x).sum(0)
        variance = (weights * (x - mean) ** 2).sum(0).clamp(min=VARIANCE_FLOOR)
        found.append(torch.cat([mean, variance.sqrt()]))
    return torch.stack(found)


def cases(
    n_clips: int, *, n_frames: int = 290, width: int = 768, device: str = "cpu"
) -> dict[str, tuple[Tensor, Callable[[], Tensor], Callable[[], Tensor]]]:
    """By name: what gets the gradient, the batched version, and the loop, both to a scalar.

    Args:
        n_clips: B, of a half to a whole of ``n_frames`` frames each.
        n_frames: T; 290 are 5.8 s at 50 per second.
        width: D of the frames; the features of SWFC have 256, a recognizer's hidden layer.
        device: Where they are.
    """
    torch.manual_seed(0)
    features = torch.randn(n_clips, 256, device=device, requires_grad=True)
    target = torch.randint(N_CLASSES, (n_clips,), device=device)
    weight = torch.rand(N_CLASSES, device=device)
    lengths = torch.randint(n_frames // 2, n_frames + 1, (n_clips,))
    logits = torch.randn(n_clips, n_frames, N_CHARACTERS, device=device, requires_grad=True)
    n_tokens = lengths // 5  # 10 characters a second
    tokens = torch.randint(1, N_CHARACTERS, (n_clips, int(n_tokens.max())), device=device)
    frames = torch.randn(n_clips, n_frames, width, device=device, requires_grad=True)
    pool = AttentiveStatistics(width).to(device)
    return {
        "SWFC": (
            features,
            lambda: contrastive.swfc(features, target, weight),
            lambda: swfc_by_sample(features, target, weight),
        ),
        "CTC": (
            logits,
            lambda: ctc_loss(logits, lengths, tokens, n_tokens),
            lambda: ctc_by_clip(logits, lengths, tokens, n_tokens),
        ),
        "statistics pooling": (
            frames,
            lambda: pool(frames, lengths).square().sum(),
            lambda: statistics_by_clip(pool, frames, lengths).square().sum(),
        ),
    }


def seconds(x: Tensor, loss: Callable[[], Tensor]) -> float:
    """One forward and backward pass, until the device has done it."""
    x.grad, started = None, time.perf_counter()
    loss().backward()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def run(
    *, repeats: int = 5, sizes: tuple[int, ...] = (8, 32, 128), device: str = "cpu", **shape
) -> pd.DataFrame:
    """Time forward and backward passes: a data frame with a row per loss and batch size.

    Args:
        repeats: Measured passes of each version, in turns, after one that is not measured.
        sizes: Clips in a batch.
        device: "cpu" or "cuda".
        **shape: ``n_frames`` and ``width``, see `cases`.

    Returns:
        Columns ``clips``, ``batched ms`` and ``loop ms`` (medians), and ``ratio``, loop by batched.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: measure at least once.")
    rows = []
    for n_clips in sizes:
        for name, (x, *versions) in cases(n_clips, device=device, **shape).items():
            times = [[seconds(x, version) for version in versions] for _ in range(repeats + 1)]
            batched, loop = (
                1000 * statistics.median(column) for column in zip(*times[1:], strict=True)
            )
            rows.append((name, n_clips, batched, loop, loop / batched))
    columns = ["loss", "clips", "batched ms", "loop ms", "ratio"]
    return pd.DataFrame(rows, columns=columns).set_index("loss")
