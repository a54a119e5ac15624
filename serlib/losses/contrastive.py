"""The contrastive loss SWFC: sample-weighted, focal, supervised. Computed in float32.

Letters: B batch, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serlib.losses.classification import IGNORE, checked_counts


def swfc_weights(counts: Sequence[float] | Tensor, power: float = 1.1) -> Tensor:
    """Weights w_c = (n / n_c)^a / Σ_k (n / n_k)^a, n = Σ n_c; they sum to 1 over the classes.

    a = 0 weighs the classes that occur alike, a = 1 is inverse frequency on another scale. Shi and
    Huang (ACL 2023, MultiEMO), as released; a = 1.1 is their script's for IEMOCAP, 1.2 for MELD.
    (C,) float32, from counts as in `classification`; a ValueError for a negative or not finite a.

    >>> swfc_weights([1, 3, 0], 1.0).tolist()  # 4 and 4/3, over 16/3
    [0.75, 0.25, 0.0]
    """
    if not 0 <= power < float("inf"):
        raise ValueError(f"power is {power}: need a finite power >= 0")
    n = checked_counts(counts)
    seen = n > 0
    log_weight = torch.where(seen, -power * n.clamp(min=1e-9).log(), -torch.inf)
    return log_weight.softmax(0).float()  # divides by the sum, without overflow


def swfc(
    features: Tensor,
    target: Tensor,
    class_weight: Tensor,
    *,
    gamma: float = 2.4,
    tau: float = 0.8,
    form: str = "original",
) -> Tensor:
    """Sample-weighted focal contrastive loss, in the form that is cited and the one printed.

        s_ij = cos(z_i, z_j)        p_ij = exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ)
        original: L = -1/N Σ_i w_{y_i} 1/|P(i)| Σ_{j∈P(i)} (1 - p_ij)^γ log p_ij
        printed:  L = -1/N Σ_i w_{y_i} Σ_{j≠i} (1 - p_ij)^γ p_ij

    P(i) are the others of i's class. "original" is Shi and Huang's (ACL 2023, MultiEMO), as in
    their released code. "printed" is the formula of Wang et al. (2025), who cite it: no logarithm
    and no positives, so labels enter through the weights alone. At γ = 0 it is the constant
    -mean(w); for N well above γ it is least where all similarities are equal. Section 2.4 names dot
    product and category weight; here both are the original's. A counter-example, not to train with.

    Decided, as the released code does where it meets the case:

    - N counts all labeled utterances; one without a positive adds 0 and stays in N;
    - a target of IGNORE is no anchor, no positive, no negative, and not in N;
    - no positives at all, one utterance or none: 0 with a zero gradient ("original");
    - a vector of length 0 has similarity 0 to all, and a zero gradient.

    Args:
        features: (B, D) float.
        target: (B,) int64, 0 to C - 1 or IGNORE.
        class_weight: (C,), from `swfc_weights`.
        gamma: γ >= 0; MultiEMO takes 2.4 for IEMOCAP, 2.0 for MELD.
        tau: τ > 0; 0.8 and 1.4.
        form: "original" or "printed".

    Returns:
        Scalar float32 (float64 for float64 features).

    Raises:
        ValueError: γ, τ or the form cannot be meant.

    >>> z, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> swfc(z, y, torch.tensor([1.0, 1.0]), gamma=0.0, tau=1.0)  # 2/3 log(1 + 1/e)
    tensor(0.2088)
    """
    if not gamma >= 0 or not tau > 0 or form not in ("original", "printed"):
        raise ValueError(f"{gamma=}, {tau=}, {form=}: need γ >= 0, τ > 0, original or printed")
    labeled = target != IGNORE
    z = features.to(torch.promote_types(features.dtype, torch.float32))
    z = z.masked_fill(~labeled[:, None], 0)
    square = z.square().sum(1, keepdim=True)
    flat = square < 1e-24  # the square root would have an infinite gradient
    z = (z / square.masked_fill(flat, 1).sqrt()).masked_fill(flat, 0)
    pair = labeled & labeled[:, None] & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    # The lowest number and not -inf, whose softmax is NaN where an utterance has no other.
    s = (z @ z.T / tau).masked_fill(~pair, torch.finfo(z.dtype).min)
    log_p = s.log_softmax(1)  # (B, B)
    weight = class_weight.to(z)[target.clamp(min=0)]  # (B,)
    if form == "original":
        pair = pair & (target == target[:, None])
    log_p = log_p.masked_fill(~pair, -1)  # any number whose power is smooth; left out below
    # 1 - p without cancellation; the floor keeps the gradient finite at p = 1 when gamma < 1.
    missing = (-torch.expm1(log_p)).clamp(min=1e-8) ** gamma
    term = missing * (log_p if form == "original" else log_p.exp())
    term = term.masked_fill(~pair, 0).sum(1)
    if form == "original":
        term = term / pair.sum(1).clamp(min=1)
    return -(weight * term).sum() / labeled.sum().clamp(min=1)
