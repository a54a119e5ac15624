"""Every loss of the book as one readable function.

Shapes: logits (B, C) floating point, target (B,) int64. A target of IGNORE contributes nothing: a
multi-task batch may lack a label for some utterances. Everything is computed in float32, whatever
precision the network ran in.

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

    Averaged over the N utterances they are 1. The challenge baseline's choice (Naini et al. 2025),
    and scikit-learn's "balanced". A class that does not occur has weight 0.

    Args:
        counts: (C,) training utterances n_c per class.

    Returns:
        (C,) float32.

    Raises:
        ValueError: a count is negative or not finite, or all are zero.

    >>> inverse_frequency_weights([6, 2, 0]).tolist()
    [0.6666666865348816, 2.0, 0.0]
    """
    n = _counts(counts)
    seen = n > 0
    return torch.where(seen, n.sum() / (seen.sum() * n), 0.0).float()


def _counts(counts: Sequence[float] | Tensor) -> Tensor:
    """The counts as float64 (C,), or a ValueError."""
    n = torch.as_tensor(counts, dtype=torch.float64)
    if n.ndim != 1 or not torch.isfinite(n).all() or (n < 0).any() or n.sum() == 0:
        raise ValueError(f"counts {n.tolist()}: need (C,) numbers of utterances, not all zero")
    return n


def effective_number(counts: Sequence[float] | Tensor, beta: float) -> Tensor:
    """Effective number of utterances E_c = (1 - β^n_c) / (1 - β).

    It saturates at 1 / (1 - β), because further examples of a class repeat earlier ones: β = 0
    gives 1 for every class that occurs, β → 1 gives n_c. Cui et al. (CVPR 2019), proposition 1.

    Args:
        counts: (C,) training utterances n_c per class.
        beta: β in [0, 1).

    Returns:
        (C,) float64; 0 where the count is 0.

    Raises:
        ValueError: β outside [0, 1), or counts as in `inverse_frequency_weights`.

    >>> effective_number([0, 1, 2, 1000], 0.5).tolist()
    [0.0, 1.0, 1.5, 2.0]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}: need 0 <= beta < 1")
    return (1 - torch.pow(beta, _counts(counts))) / (1 - beta)


def class_balanced_weights(counts: Sequence[float] | Tensor, beta: float) -> Tensor:
    """Weights w_c ∝ 1 / E_c, scaled to Σ_c w_c = C, the number of classes that occur.

    Between no weights (β = 0) and inverse frequency (β → 1). Cui et al. (CVPR 2019), section 4. A
    class that does not occur has weight 0. Arguments and errors as in `effective_number`.

    >>> class_balanced_weights([1, 2, 0], 0.5).tolist()  # 1 and 2/3, times 2 / (5/3)
    [1.2000000476837158, 0.800000011920929, 0.0]
    """
    number = effective_number(counts, beta)
    seen = number > 0
    weight = torch.where(seen, 1 / number, 0.0)
    return (weight * seen.sum() / weight.sum()).float()


def cross_entropy(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy l = -log softmax(logits)_y, weighted mean over the batch.

    Args:
        logits: (B, C) float.
        target: (B,) int64, 0 to C - 1 or IGNORE.
        weight: (C,) class weights; None weighs all utterances alike.
        label_smoothing: ε; the target becomes 1 - ε on y plus ε / C on every class. With weights,
            class c's share is weighted by w_c, as torch does.

    Returns:
        Scalar float32; 0 with a zero gradient if no utterance has a target.

    >>> cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, IGNORE]))  # log 4
    tensor(1.3863)
    """
    logits = logits.float()
    weight = None if weight is None else weight.to(logits)
    losses = F.cross_entropy(
        logits,
        target,
        weight,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return _mean(losses, target, weight)


def _mean(losses: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Σ losses / Σ w_y over the utterances with a target, 0 if there are none.

    Args:
        losses: (B,) already multiplied by w_y, 0 where the target is IGNORE.
        target: (B,) int64.
        weight: (C,) or None.
    """
    kept = target != IGNORE
    total = kept.sum() if weight is None else (weight[target.clamp(min=0)] * kept).sum()
    return losses.sum() / torch.where(total > 0, total, 1)


def class_balanced_cross_entropy(
    logits: Tensor, target: Tensor, counts: Sequence[float] | Tensor, *, beta: float = 0.999
) -> Tensor:
    """Cross-entropy with `class_balanced_weights`: Cui et al. (CVPR 2019), section 4.1.

    The paper divides by B where this divides by the sum of the weights. β = 0.999 is one of the
    values the paper tries (0.9 to 0.9999), our choice among them.

    Args:
        logits: (B, C) float.
        target: (B,) int64 with IGNORE.
        counts: (C,) utterances per class of the training set, not of the batch.
        beta: β in [0, 1).

    >>> class_balanced_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), [9, 1])  # log 2
    tensor(0.6931)
    """
    return cross_entropy(logits, target, weight=class_balanced_weights(counts, beta))


def focal(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, weight: Tensor | None = None
) -> Tensor:
    """Focal loss l = -(1 - p_y)^γ log p_y, p = softmax(logits), weighted mean over the batch.

    Easy utterances (p_y near 1) fade out; γ = 0 is `cross_entropy`. Lin et al. (ICCV 2017), eqs. 4
    and 5, for C classes instead of two.

    Args:
        logits: (B, C) float.
        target: (B,) int64 with IGNORE.
        gamma: γ >= 0; 2 is the paper's best.
        weight: (C,) class weights or None.

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


def swfc_weights(counts: Sequence[float] | Tensor, power: float = 1.1) -> Tensor:
    """Weights w_c = (n / n_c)^a / Σ_k (n / n_k)^a, n = Σ n_c; they sum to 1 over the classes.

    a = 0 weighs the classes that occur alike, a = 1 is inverse frequency on another scale. Shi and
    Huang (ACL 2023, MultiEMO), as released. A class that does not occur has weight 0.

    Args:
        counts: (C,) training utterances n_c per class, not those of the batch.
        power: a >= 0; 1.1 is their script's for IEMOCAP, 1.2 for MELD.

    Returns:
        (C,) float32.

    Raises:
        ValueError: a negative or not finite, or counts as in `inverse_frequency_weights`.

    >>> swfc_weights([1, 3, 0], 1.0).tolist()  # 4 and 4/3, over 16/3
    [0.75, 0.25, 0.0]
    """
    if not 0 <= power < float("inf"):
        raise ValueError(f"power is {power}: need a finite power >= 0")
    n = _counts(counts)
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
    -mean(w); for N well above γ it is least where all similarities are equal. What its s_ij and w_i
    are is not said; here the original's. It is a counter-example: do not train with it.

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


def ctc(
    logits: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    n_tokens: Tensor,
    *,
    reduction: str = "clips",
) -> Tensor:
    """Connectionist temporal classification: l = -log Σ_π Π_t p_t(π_t), blank 0.

    The sum runs over all ways π to spread a clip's characters over its frames, with repeats and
    blanks. Graves et al. (ICML 2006), eq. 14.

    `reduction` decides what a weight on this loss means:

    - "sum": Σ l over the batch, the default of the library that Cai et al. (2021) used. Twice the
      clips in a batch, or twice the characters in a clip, weigh twice;
    - "clips": mean of l over the batch's clips: long transcripts weigh more, the batch size not;
    - "characters": mean over clips of l / S, torch's "mean": neither weighs.

    A clip counts if it has a transcript that fits its frames: S plus one blank in each double
    letter. All others contribute nothing, and 0 with a zero gradient comes of a batch without any.

    Args:
        logits: (B, T, V).
        lengths: (B,) valid frames.
        tokens: (B, S) int64, characters from 1 on, padded with anything.
        n_tokens: (B,) characters of each clip; 0 where the transcript is unknown.
        reduction: "sum", "clips" or "characters".

    Returns:
        Scalar float32.

    >>> logits = torch.zeros(1, 2, 2)  # two frames, p = 1/2 each: of "aa", "-a", "a-", "--"
    >>> ctc(logits, torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))  # log 4/3
    tensor(0.2877)
    """
    if reduction not in ("sum", "clips", "characters"):
        raise ValueError(f"reduction={reduction!r}: choose sum, clips or characters")
    lengths, n_tokens = lengths.to(logits.device), n_tokens.to(logits.device)
    place = torch.arange(tokens.shape[1], device=logits.device)
    tokens = tokens.to(logits.device).masked_fill(place >= n_tokens[:, None], 0)
    doubles = ((tokens[:, 1:] == tokens[:, :-1]) & (place[1:] < n_tokens[:, None])).sum(1)
    usable = (n_tokens > 0) & (n_tokens + doubles <= lengths)
    losses = F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        tokens,
        lengths,
        n_tokens * usable,  # an impossible target would make the gradient NaN, not only the loss
        reduction="none",
    ).masked_fill(~usable, 0)
    if reduction == "characters":
        losses = losses / n_tokens.clamp(min=1)
    return losses.sum() if reduction == "sum" else losses.sum() / usable.sum().clamp(min=1)


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """L = Σ_k w_k L_k over the tasks k; a task of weight 0 is left out, and trains nothing.

    >>> weighted_sum({"emotion": torch.tensor(2.0), "asr": torch.tensor(9.0)},
    ...              {"emotion": 1.0, "asr": 0.1})
    tensor(2.9000)
    """
    return sum(weights[task] * loss for task, loss in terms.items() if weights[task])
