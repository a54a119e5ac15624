"""What the book reports, and how sure it is.

Classification metrics are functions of a confusion matrix: counts add up over speakers, so a
bootstrap over speakers is one matrix product and thousands of resamples take milliseconds.
Letters: U utterances, C classes, S seeds, G groups (speakers). What is undefined is NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Metric = Callable[[np.ndarray], np.ndarray]  # confusion matrices (..., C, C) -> (...,)


def confusion(truth: np.ndarray, prediction: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (C, C) int64: entry [i, j] utterances of class i were called j.

    Both arrays are (U,) integers from 0 to C - 1; anything else is a ValueError.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    truth, prediction = _labels(truth, n_classes), _labels(prediction, n_classes)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape}: both need (U,)")
    cells = np.bincount(truth * n_classes + prediction, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def _labels(values: np.ndarray, n_classes: int) -> np.ndarray:
    """The labels as int64, or a ValueError."""
    labels = np.asarray(values)
    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype}, not integers: map names to 0..C-1 first")
    if labels.size and not (0 <= labels.min() and labels.max() < n_classes):
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels {found} of {n_classes} classes: drop unlabeled ones (-100)")
    return labels.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient part / whole, NaN where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)[()]


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean of the last axis over the entries that are not NaN; NaN if there are none."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def _right(cm: np.ndarray) -> np.ndarray:
    return np.diagonal(cm, axis1=-2, axis2=-1)  # right answers per class, (..., C)


def recalls(cm: np.ndarray) -> np.ndarray:
    """Share of each class that was found: cm[c, c] / Σ_j cm[c, j].

    (..., C, C), rows the truth, becomes (..., C); NaN for a class that does not occur.

    >>> recalls(np.array([[6, 2], [1, 1]])).tolist()
    [0.75, 0.5]
    """
    return _ratio(_right(cm), np.sum(cm, axis=-1))


def precisions(cm: np.ndarray) -> np.ndarray:
    """Share of each class's calls that were right: cm[c, c] / Σ_i cm[i, c].

    (..., C, C) becomes (..., C); NaN for a class that was never called.

    >>> precisions(np.array([[6, 1], [2, 1]])).tolist()
    [0.75, 0.5]
    """
    return _ratio(_right(cm), np.sum(cm, axis=-2))


def wa(cm: np.ndarray) -> np.ndarray:
    """Weighted accuracy, the share of right answers: Σ_c cm[c, c] / Σ_ij cm[i, j].

    Recalls weighted by class frequency, hence plain accuracy; with one label per utterance also
    micro-averaged F1. (..., C, C) becomes (...,); NaN without utterances.

    >>> float(wa(np.array([[6, 2], [1, 1]])))
    0.7
    """
    return _ratio(_right(cm).sum(axis=-1), np.sum(cm, axis=(-2, -1)))


def ua(cm: np.ndarray) -> np.ndarray:
    """Unweighted accuracy: the mean of `recalls` over the classes that occur in the truth.

    Also unweighted average recall or balanced accuracy; guessing one class always gives 1 / C.
    (..., C, C) becomes (...,); NaN without utterances.

    >>> float(ua(np.array([[6, 2], [1, 1]])))
    0.625
    """
    return _mean_defined(recalls(cm))


def macro_f1(cm: np.ndarray) -> np.ndarray:
    """Mean over classes of F1_c = 2 cm[c, c] / (Σ_j cm[c, j] + Σ_i cm[i, c]).

    Over the classes that occur in the truth or are called, as scikit-learn does: a class called but
    never true counts as 0. (..., C, C) becomes (...,); NaN without utterances.

    >>> round(float(macro_f1(np.array([[6, 2], [1, 1]]))), 3)  # (12 / 15 + 2 / 5) / 2
    0.6
    """
    return _mean_defined(_ratio(2 * _right(cm), np.sum(cm, axis=-1) + np.sum(cm, axis=-2)))


def classification(truth: np.ndarray, prediction: np.ndarray, n_classes: int) -> dict[str, float]:
    """WA, UA and macro-F1, always together.

    >>> classification([0, 0, 1, 1], [0, 0, 1, 0], 2)["ua"]
    0.75
    """
    cm = confusion(truth, prediction, n_classes)
    return {"wa": float(wa(cm)), "ua": float(ua(cm)), "macro_f1": float(macro_f1(cm))}


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> dict:
    """Confidence against accuracy, in equally wide bins of the highest probability.

    Probabilities (U, C) must sum to 1 in each row, truth is (U,) int; else a ValueError. Returns
    columns, one row per bin: "low", "high" (the bin contains its upper edge), "count", and the
    means "confidence" and "accuracy" (NaN in an empty bin).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or (len(p),) != np.shape(truth):
        raise ValueError(f"probabilities {p.shape}, truth {np.shape(truth)}: need (U, C) and (U,)")
    if not (np.all(p >= 0) and np.allclose(p.sum(axis=1), 1, atol=1e-3)):  # NaN fails too
        raise ValueError("each row of probabilities must sum to 1: apply softmax to the logits")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == _labels(truth, p.shape[1])
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(index, minlength=bins)
    sums = {"confidence": confidence, "accuracy": right}
    means = {k: _ratio(np.bincount(index, v, minlength=bins), count) for k, v in sums.items()}
    return {"low": edges[:-1], "high": edges[1:], "count": count, **means}


def ece(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: Σ_b (n_b / U) |accuracy_b - confidence_b| over bins b.

    0 is calibrated; NaN without utterances. Guo et al. (ICML 2017), eq. 3; input as `reliability`.

    >>> round(ece(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 3)  # |0.5 - 0.9|
    0.4
    """
    table = reliability(probabilities, truth, bins)
    gap = np.nan_to_num(np.abs(table["accuracy"] - table["confidence"]))
    return float(_ratio(table["count"] @ gap, table["count"].sum()))


def ccc(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Concordance correlation: 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²).

    Variances and covariance divide by U (the population form of Lin 1989; the sample form differs
    on small sets). 0 if one is constant, NaN if both are the same constant or U < 2.

    >>> round(ccc([0, 1, 2], [0, 1, 1]), 3)
    0.667
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"truth {x.shape} and prediction {y.shape}: both need (U,)")
    if len(x) < 2 or len(np.unique([x, y])) < 2:
        return math.nan  # decided here, because rounding makes the variance of equal numbers > 0
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    return float(_ratio(2 * covariance, x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """Equal error rate of a verifier: the error where it accepts as many as it rejects wrongly.

    Over thresholds on the score, false rejections rise and false acceptances fall; the rate is
    their mean where they cross. 0.5 is guessing. NaN without both kinds of trials.

    Args:
        scores: (U,) one per trial, larger means more alike.
        same: (U,) bool, whether the trial's two sides really are the same speaker.

    >>> eer(np.array([0.9, 0.6, 0.7, 0.1]), np.array([True, True, False, False]))
    0.5
    """
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if scores.shape != same.shape or np.isnan(scores).any():
        raise ValueError(f"scores {scores.shape} without NaN and same {same.shape} must agree")
    if same.all() or not same.any():
        return math.nan
    order = np.argsort(scores, kind="stable")
    last = np.r_[np.diff(scores[order]) > 0, True]  # equal scores are rejected together
    rejected = np.r_[0, np.cumsum(same[order])[last] / same.sum()]
    accepted = np.r_[1, 1 - np.cumsum(~same[order])[last] / (~same).sum()]
    best = np.abs(rejected - accepted).argmin()
    return float((rejected[best] + accepted[best]) / 2)


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    >>> print(Interval(0.61234, 0.571, 0.65, level=0.95), 0 in Interval(0.02, 0.01, 0.03, 0.95))
    0.612 [0.571, 0.650] False
    """

    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        """Three decimals, as the tables print it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __contains__(self, value: float) -> bool:
        """Whether low <= value <= high; False if the bounds are NaN."""
        return self.low <= value <= self.high


def bootstrap(
    metric: Metric,
    truth: np.ndarray,
    predictions: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap over speakers and training seeds.

    Each of n resamples draws G speakers, with all their utterances, and S seeds, with replacement;
    its statistic is the mean over the drawn seeds of metric(confusion matrix). Utterances of one
    speaker are alike, so resampling utterances would give too narrow an interval; with fewer than
    about ten speakers this one is too narrow as well. Efron and Tibshirani (1993), ch. 13; speakers
    and seeds are drawn independently (the pigeonhole bootstrap, Owen 2007).

    Args:
        metric: `wa`, `ua`, `macro_f1` or another function of confusion matrices (..., C, C).
        truth: (U,) int labels.
        predictions: (U,) int for one model, or (S, U) for S seeds of it.
        groups: (U,) speaker of each utterance, none missing.
        n_classes: C.
        n: resamples; those where the metric is undefined are left out.
        seed: of the resampling.
        level: coverage wanted.

    Returns:
        value = mean over seeds on the data as they are; bounds NaN with fewer than two groups.
    """
    tables = _tables(truth, [predictions], groups, n_classes)
    return _interval(metric, tables, np.ones(1), n, seed, level)


def paired_bootstrap(
    metric: Metric,
    truth: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(b) - metric(a), both on the same resampled speakers and seeds.

    Sharper than comparing two intervals, because a hard speaker is hard for both; if 0 is outside,
    b and a differ. Arguments as in `bootstrap`; seed s of a is paired with seed s of b.
    """
    tables = _tables(truth, [predictions_a, predictions_b], groups, n_classes)
    return _interval(metric, tables, np.array([-1.0, 1.0]), n, seed, level)


def bootstrap_ratio(
    systems: Sequence[tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a ratio of sums over utterances, such as WER: edits / words.

    Resampling as in `bootstrap`. Two systems give the interval of second - first, paired.

    Args:
        systems: One or two pairs (numerators, denominators), each (U,) or (S, U).
        groups: (U,) speaker of each utterance.
        n: resamples.
        seed: of the resampling.
        level: coverage wanted.
    """
    parts = np.stack([np.stack([np.atleast_2d(x) for x in pair], -1) for pair in systems])
    names, index = _speakers(np.asarray(groups))  # parts (K, S, U, 2)
    tables = np.stack([parts[:, :, index == g].sum(2) for g in range(len(names))], 2)
    sign = np.ones(1) if len(systems) == 1 else np.array([-1.0, 1.0])
    return _interval(lambda t: _ratio(t[..., 0], t[..., 1]), tables, sign, n, seed, level)


def _tables(truth: np.ndarray, systems: list, groups: np.ndarray, n_classes: int) -> np.ndarray:
    """Confusion counts (K systems, S, G, C, C), one matrix per system, seed and group."""
    truth, groups = _labels(truth, n_classes), np.asarray(groups)
    predictions = [np.atleast_2d(_labels(p, n_classes)) for p in systems]  # K of (S, U)
    s = len(predictions[0])
    shapes = [truth.shape, groups.shape, *(p.shape for p in predictions)]
    if shapes != [(truth.size,)] * 2 + [(s, truth.size)] * len(systems):
        raise ValueError(f"truth, groups, predictions {shapes}: need (U,), (U,) and equal (S, U)")
    names, index = _speakers(groups)
    shape = len(systems), s, len(names), n_classes, n_classes
    table = np.arange(len(systems) * s).reshape(-1, s, 1) * len(names) + index  # (K, S, U)
    cell = (table * n_classes + truth) * n_classes + np.stack(predictions)
    return np.bincount(cell.ravel(), minlength=math.prod(shape)).reshape(shape)


def _speakers(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if any(group is None or group != group for group in groups.tolist()):
        raise ValueError("a speaker is missing: name every utterance's speaker, or drop it")
    return np.unique(groups, return_inverse=True)


def _interval(
    metric: Metric, tables: np.ndarray, sign: np.ndarray, n: int, seed: int, level: float
) -> Interval:
    """Interval of Σ_k sign[k] metric(system k), from counts (K, S, G, ...)."""
    k, s, g, *cell = tables.shape
    value = float(sign @ metric(tables.sum(axis=2)).mean(axis=1))
    flat = np.moveaxis(tables, 2, 0).reshape(g, k * s * math.prod(cell)).astype(np.float64)
    rng, statistics = np.random.default_rng(seed), np.full(n, np.nan)
    for i in range(0, n if g > 1 else 0, 500):  # in blocks, to bound the memory
        size = min(500, n - i)
        speakers = rng.multinomial(g, np.full(g, 1 / g), size=size).astype(np.float64)  # (n, G)
        seeds = rng.multinomial(s, np.full(s, 1 / s), size=size)[:, None]  # (n, 1, S)
        score = metric((speakers @ flat).reshape(size, k, s, *cell))  # (n, K, S)
        statistics[i : i + size] = np.where(seeds > 0, seeds * score, 0).sum(axis=2) @ sign / s
    defined = statistics[~np.isnan(statistics)]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(defined, tails) if len(defined) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), level)
