"""Losses of a number on a scale, such as valence from 1 to 7.

Shapes: predicted (B, A) floating point, target (B, A), B utterances and A attributes. A target of
NaN is unknown and contributes nothing: neither to a mean nor to a count. Every loss is computed per
attribute over the utterances that have it, then averaged over the attributes that any utterance of
the batch has, so that a rarely rated attribute weighs as much as the others. Without any target the
loss is 0 and its gradient is zero. A loss is a scalar in float32 at least; a ValueError says that
the shapes differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-8  # a squared distance on the scale below which numbers count as equal


def _known(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and target with zeros where unknown, and the mask of what is known, (B, A)."""
    if predicted.ndim != 2 or predicted.shape != target.shape:
        raise ValueError(
            f"predicted {tuple(predicted.shape)}, target {tuple(target.shape)}: both need (B, A)"
        )
    known = ~target.isnan()
    wide = torch.promote_types(predicted.dtype, torch.float32)
    # masked_fill and not a product, because 0 * NaN is NaN
    return predicted.to(wide).masked_fill(~known, 0), target.to(wide).masked_fill(~known, 0), known


def _mean(losses: Tensor, known: Tensor) -> Tensor:
    """Mean over utterances, then over the attributes that have any; (B, A) to a scalar."""
    n = known.sum(0)
    return (losses.sum(0) / n.clamp(min=1)).sum() / (n > 0).sum().clamp(min=1)


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error l = (y - ŷ)², in squared units of the scale.

    >>> mse(torch.tensor([[1.0], [5.0], [9.0]]), torch.tensor([[2.0], [2.0], [torch.nan]]))
    tensor(5.)
    """
    predicted, target, known = _known(predicted, target)
    return _mean((predicted - target) ** 2, known)


def gaussian_mse(
    predicted: Tensor, target: Tensor, *, mu: float = 4.0, sigma: float = 1.0, detach: bool = False
) -> Tensor:
    """Squared error that counts less the farther the *prediction* is from μ.

        l = exp(-(ŷ - μ)² / 2σ²) (y - ŷ)²

    Zgórzyński et al. (2025), whose aim is a wider range of predictions than MSE gives. μ = 4 is the
    paper's, the middle of the scale; σ is not in it, and 1 is our choice. The weight depends on ŷ,
    so the loss is not monotonic in the error: at y = 4 and σ = 1, ŷ = 3 costs 0.61 and ŷ = 7 costs
    0.10. With the weight in the graph the gradient has a second part,

        ∂l/∂ŷ = w [2 (ŷ - y) - (ŷ - μ) (y - ŷ)² / σ²],   w = exp(-(ŷ - μ)² / 2σ²),

    which can push ŷ from μ whatever y is. `detach` takes that part away and leaves a weighted MSE.

    Args:
        predicted: ŷ (B, A).
        target: y (B, A).
        mu: μ, where errors count in full.
        sigma: σ > 0, in units of the scale; large values approach MSE.
        detach: treat the weight as a constant. The value is the same, the gradient is not.

    Raises:
        ValueError: σ is not positive.

    >>> round(gaussian_mse(torch.tensor([[7.0]]), torch.tensor([[4.0]]), sigma=1.0).item(), 3)
    0.1
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: need sigma > 0, in units of the scale")
    predicted, target, known = _known(predicted, target)
    center = predicted.detach() if detach else predicted
    weight = torch.exp(-((center - mu) ** 2) / (2 * sigma**2))
    return _mean((weight * (predicted - target) ** 2).masked_fill(~known, 0), known)


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """L = mean over attributes of 1 - ρ, ρ the concordance correlation over the batch.

        ρ = 2 cov(ŷ, y) / (var(ŷ) + var(y) + (mean(ŷ) - mean(y))²)

    Variances and covariance divide by the number of utterances (the population form, Lin 1989, as
    `measures.ccc`). The challenge baseline's loss (Naini et al. 2025), who add the three attributes
    up, three times this. ρ is a property of a batch, not a mean over utterances: two half batches
    have not the loss of the whole one. If one side is constant, or there is one utterance, ρ is 0;
    where it is the target's, no prediction changes that and the gradient is zero. An attribute
    where nothing is known, or both sides are the same constant, has no ρ and is left out.

    >>> ccc_loss(torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    tensor(0.3333)
    """
    predicted, target, known = _known(predicted, target)
    n = known.sum(0).clamp(min=1)
    gap = (predicted.sum(0) - target.sum(0)) / n
    # around their means
    x, y = ((v - v.sum(0) / n).masked_fill(~known, 0) for v in (predicted, target))
    covariance = (x * y).sum(0) / n  # (A,)
    spread = (x**2).sum(0) / n + (y**2).sum(0) / n + gap**2  # the denominator of ρ
    defined = spread > FLAT
    loss = (1 - 2 * covariance / spread.clamp(min=FLAT)).masked_fill(~defined, 0)
    return loss.sum() / defined.sum().clamp(min=1)
