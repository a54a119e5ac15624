"""The scores that the book reports; how sure they are, `intervals` says.

Classification metrics are functions of a confusion matrix. Letters: U utterances, C classes. What
is undefined is NaN, never 0.
"""

from __future__ import annotations

import math

import numpy as np

from serlib.metrics.intervals import labels, quotient


def confusion(truth: np.ndarray, prediction: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (C, C) int64: entry [i, j] utterances of class i were called j.

    Both arrays are (U,) integers from 0 to C - 1; anything else is a ValueError.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    truth, prediction = labels(truth, n_classes), labels(prediction, n_classes)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape}: both need (U,)")
    cells = np.bincount(truth * n_classes + prediction, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean of the last axis over the entries that are not NaN; NaN if there are none."""
    defined = ~np.isnan(values)
    return quotient(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def _right(cm: np.ndarray) -> np.ndarray:
    return np.diagonal(cm, axis1=-2, axis2=-1)  # right answers per class, (..., C)


def recalls(cm: np.ndarray) -> np.ndarray:
    """Share of each class that was found: cm[c, c] / Σ_j cm[c, j].

    (..., C, C), rows the truth, becomes (..., C); NaN for a class that does not occur.

    >>> recalls(np.array([[6, 2], [1, 1]])).tolist()
    [0.75, 0.5]
    """
    return quotient(_right(cm), np.sum(cm, axis=-1))


def wa(cm: np.ndarray) -> np.ndarray:
    """Weighted accuracy, the share of right answers: Σ_c cm[c, c] / Σ_ij cm[i, j].

    Recalls weighted by class frequency, hence plain accuracy; with one label per utterance also
    micro-averaged F1. (..., C, C) becomes (...,); NaN without utterances.

    >>> float(wa(np.array([[6, 2], [1, 1]])))
    0.7
    """
    return quotient(_right(cm).sum(axis=-1), np.sum(cm, axis=(-2, -1)))


def ua(cm: np.ndarray) -> np.ndarray:
    """Unweighted accuracy: the mean of `recalls` over the classes that occur in the truth.

    Also unweighted average recall or balanced accuracy; guessing one class always gives 1 / C.
    (..., C, C) becomes (...,); NaN without utterances.

    >>> float(ua(np.array([[6, 2], [1, 1]])))
    0.625
    """
    return mean_defined(recalls(cm))


def macro_f1(cm: np.ndarray) -> np.ndarray:
    """Mean over classes of F1_c = 2 cm[c, c] / (Σ_j cm[c, j] + Σ_i cm[i, c]).

    Over the classes that occur in the truth or are called, as scikit-learn does: a class called but
    never true counts as 0. (..., C, C) becomes (...,); NaN without utterances.

    >>> round(float(macro_f1(np.array([[6, 2], [1, 1]]))), 3)  # (12 / 15 + 2 / 5) / 2
    0.6
    """
    return mean_defined(quotient(2 * _right(cm), np.sum(cm, axis=-1) + np.sum(cm, axis=-2)))


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
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels(truth, p.shape[1])
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(index, minlength=bins)
    sums = {"confidence": confidence, "accuracy": right}
    means = {k: quotient(np.bincount(index, v, minlength=bins), count) for k, v in sums.items()}
    return {"low": edges[:-1], "high": edges[1:], "count": count, **means}


def ece(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: Σ_b (n_b / U) |accuracy_b - confidence_b| over bins b.

    0 is calibrated; NaN without utterances. Guo et al. (ICML 2017), eq. 3; input as `reliability`.

    >>> round(ece(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 3)  # |0.5 - 0.9|
    0.4
    """
    table = reliability(probabilities, truth, bins)
    gap = np.nan_to_num(np.abs(table["accuracy"] - table["confidence"]))
    return float(quotient(table["count"] @ gap, table["count"].sum()))


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
    return float(quotient(2 * covariance, x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """Equal error rate of a verifier: the error where it accepts as many as it rejects wrongly.

    Over thresholds on the score, false rejections rise and false acceptances fall; the rate is
    where they cross, see `crossing`. 0.5 is guessing. NaN without both kinds of trials. Scores (U,)
    are larger if more alike; same (U,) says if both sides of a trial are the same speaker.

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
    return float(crossing(rejected, accepted))


def crossing(rejected: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """The height at which a rising and a falling curve cross, straight between their points.

    Rejected (..., T) goes from 0 to 1 and accepted (..., T) from 1 to 0 over T thresholds; the
    result is (...,).

    >>> float(crossing(np.array([0, 0.2, 1]), np.array([1, 0.6, 0])))  # 0.4 before, 1 behind
    0.4285714285714286
    """
    gap = rejected - accepted
    after = np.maximum((gap >= 0).argmax(-1), 1)[..., None]  # the first point at or past it
    low, high = (np.take_along_axis(gap, at, -1) for at in (after - 1, after))
    share = (low / (low - high))[..., 0]  # of the way between the two points
    ends = [np.take_along_axis(rejected, at, -1)[..., 0] for at in (after - 1, after)]
    return ends[0] + share * (ends[1] - ends[0])
