"""Losses of class labels, each one readable function: cross-entropy, focal, and class weights.

Shapes: logits (B, C) floating point, target (B,) int64, class weights (C,) on any device, None for
all alike. A target of IGNORE contributes nothing: a multi-task batch may lack a label for some
utterances. A loss is a scalar float32, computed so whatever precision the network ran in.

Counts (C,) are the training utterances n_c per class, not those of a batch; a ValueError refuses
them if one is negative or not finite, or all are zero. A class that does not occur has weight 0.

All weighted losses take the same mean, Σ_i w_{y_i} l_i / Σ_i w_{y_i} over the utterances with a
target, as torch does: the scale of the loss does not depend on which classes a batch drew, and a
batch of a single class is not weighted at all. Dividing by B instead, as some papers do, makes
batches rich in rare classes count more. Without any target the loss is 0 and its gradient is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch user expects)
from torch import Tensor

IGNORE = -100  # torch's own default


def inverse_frequency_weights(counts: Sequence[float] | Tensor) -> Tensor:
    """Weights w_c = N / (C n_c), N = Σ n_c and C the number of classes that occur.

    (C,) float32. Averaged over the N utterances they are 1. The challenge baseline's choice (Naini
    et al. 2025), and scikit-learn's "balanced".

    >>> inverse_frequency_weights([6, 2, 0]).tolist()
    [0.6666666865348816, 2.0, 0.0]
    """
    n = checked_counts(counts)
    seen = n > 0
    return torch.where(seen, n.sum() / (seen.sum() * n), 0.0).float()


def checked_counts(counts: Sequence[float] | Tensor) -> Tensor:
    """The counts as float64 (C,), or a ValueError."""
    n = torch.as_tensor(counts, dtype=torch.float64)
    if n.ndim != 1 or not torch.isfinite(n).all() or (n < 0).any() or n.sum() == 0:
        raise ValueError(f"counts {n.tolist()}: need (C,) numbers of utterances, not all zero")
    return n


def effective_number(counts: Sequence[float] | Tensor, beta: float) -> Tensor:
    """Effective number of utterances E_c = (1 - β^n_c) / (1 - β).

    It saturates at 1 / (1 - β), because further examples of a class repeat earlier ones: β = 0
    gives 1 for every class that occurs, β → 1 gives n_c. (C,) float64, 0 where the count is 0; a
    ValueError for β outside [0, 1). Cui et al. (CVPR 2019), proposition 1.

    >>> effective_number([0, 1, 2, 1000], 0.5).tolist()
    [0.0, 1.0, 1.5, 2.0]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}: need 0 <= beta < 1")
    return (1 - torch.pow(beta, checked_counts(counts))) / (1 - beta)


def class_balanced_weights(counts: Sequence[float] | Tensor, beta: float) -> Tensor:
    """Weights w_c ∝ 1 / E_c, scaled to Σ_c w_c = C, the number of classes that occur.

    (C,) float32, between no weights (β = 0) and inverse frequency (β → 1). Cui et al. (CVPR 2019),
    section 4; of their β, 0.9 to 0.9999, the recipes take 0.999.

    >>> class_balanced_weights([1, 2, 0], 0.5).tolist()  # 1 and 2/3, times 2 / (5/3)
    [1.2000000476837158, 0.800000011920929, 0.0]
    """
    number = effective_number(counts, beta)
    seen = number > 0
    weight = torch.where(seen, 1 / number, 0.0)
    return (weight * seen.sum() / weight.sum()).float()


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy l = -log softmax(logits)_y, weighted mean over the batch.

    >>> cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, IGNORE]))  # log 4
    tensor(1.3863)
    """
    logits = logits.float()
    weight = None if weight is None else weight.to(logits)
    losses = F.cross_entropy(logits, target, weight, ignore_index=IGNORE, reduction="none")
    return _mean(losses, target, weight)


def _mean(losses: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Σ losses / Σ w_y over the utterances with a target, 0 if there are none.

    Losses (B,) are already multiplied by w_y, and 0 where the target is IGNORE.
    """
    kept = target != IGNORE
    total = kept.sum() if weight is None else (weight[target.clamp(min=0)] * kept).sum()
    return losses.sum() / torch.where(total > 0, total, 1)


def focal(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, weight: Tensor | None = None
) -> Tensor:
    """Focal loss l = -(1 - p_y)^γ log p_y, p = softmax(logits), weighted mean over the batch.

    Easy utterances (p_y near 1) fade out; γ = 0 is `cross_entropy`. Lin et al. (ICCV 2017), eqs. 4
    and 5, for C classes instead of two; γ = 2 is the paper's best. A ValueError for γ < 0.

    >>> focal(torch.zeros(1, 2), torch.tensor([0]))  # log 2 / 4
    tensor(0.1733)
    """
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}: need gamma >= 0")
    log_p = F.log_softmax(logits.float(), dim=-1)
    log_p = log_p.gather(1, target.clamp(min=0)[:, None]).squeeze(1)  # (B,)
    # 1 - p without cancellation; the floor keeps the gradient finite at p = 1 when gamma < 1.
    missing = (-torch.expm1(log_p)).clamp(min=1e-8)
    losses = -(missing**gamma) * log_p
    if weight is not None:
        weight = weight.to(losses)
        losses = losses * weight[target.clamp(min=0)]
    return _mean(losses.masked_fill(target == IGNORE, 0), target, weight)
