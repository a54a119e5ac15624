"""How sure a score is: bootstrap intervals over speakers and training seeds.

Counts and sums add up over speakers, so a bootstrap over speakers is one matrix product and
thousands of resamples take milliseconds. Letters: U utterances, C classes, S seeds, G groups
(speakers), K systems. What is undefined is NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Metric = Callable[[np.ndarray], np.ndarray]  # confusion matrices (..., C, C) -> (...,)


def labels(values: np.ndarray, n_classes: int) -> np.ndarray:
    """Class numbers as int64, or a ValueError if some are not in 0 to C - 1."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"labels are {found.dtype}, not integers: map names to 0..C-1 first")
    if found.size and not (0 <= found.min() and found.max() < n_classes):
        ends = f"{found.min()} to {found.max()}"
        raise ValueError(f"labels {ends} of {n_classes} classes: drop unlabeled ones (-100)")
    return found.astype(np.int64)


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient part / whole, NaN where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)[()]


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
    note: str = ""  # what its reader must know of the groups

    def __str__(self) -> str:
        """Three decimals, as the tables print it."""
        told = f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{told} ({self.note})" if self.note else told

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
    **resampling: float,
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
        resampling: ``n`` = 2000 resamples, of which those where the metric is undefined are left
            out; ``seed`` = 0 of the draws; ``level`` = 0.95, the coverage wanted.

    Returns:
        value = mean over seeds on the data as they are; bounds NaN with fewer than two groups.
    """
    tables = _tables(truth, [predictions], groups, n_classes)
    return _interval(metric, tables, np.ones(1), **resampling)


def paired_bootstrap(
    metric: Metric,
    truth: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    **resampling: float,
) -> Interval:
    """Interval of metric(b) - metric(a), both on the same resampled speakers and seeds.

    Sharper than comparing two intervals, because a hard speaker is hard for both; if 0 is outside,
    b and a differ. Arguments as in `bootstrap`; seed s of a is paired with seed s of b.
    """
    tables = _tables(truth, [predictions_a, predictions_b], groups, n_classes)
    return _interval(metric, tables, np.array([-1.0, 1.0]), **resampling)


def bootstrap_ratio(
    systems: Sequence[tuple[np.ndarray, np.ndarray]], groups: np.ndarray, **resampling: float
) -> Interval:
    """Interval of a ratio of sums over utterances, such as WER: edits / words.

    Systems are one or two pairs (numerators, denominators), each (U,) or (S, U). All else is as in
    `bootstrap_sums`.
    """
    pairs = [np.stack([np.atleast_2d(x) for x in pair], -1) for pair in systems]
    ratio = lambda t: quotient(t[..., 0], t[..., 1])  # noqa: E731
    return bootstrap_sums(ratio, pairs, groups, **resampling)


def bootstrap_sums(
    statistic: Callable[[np.ndarray], np.ndarray],
    systems: Sequence[np.ndarray],
    groups: np.ndarray,
    **resampling: float,
) -> Interval:
    """Interval of a function of sums over utterances, such as CCC of numbers, sums and squares.

    Resampling as in `bootstrap`. Two systems give the interval of second - first, paired.

    Args:
        statistic: Sums (..., M) to values (...,); NaN where undefined.
        systems: One or two arrays (S, U, M) of what is added up; M may be several axes.
        groups: (U,) speaker of each utterance.
        resampling: as in `bootstrap`.
    """
    parts = np.stack(systems)
    names, index = _speakers(np.asarray(groups))  # parts (K, S, U, M)
    tables = np.stack([parts[:, :, index == g].sum(2) for g in range(len(names))], 2)
    sign = np.ones(1) if len(systems) == 1 else np.array([-1.0, 1.0])
    return _interval(statistic, tables, sign, **resampling)


def _tables(truth: np.ndarray, systems: list, groups: np.ndarray, n_classes: int) -> np.ndarray:
    """Confusion counts (K systems, S, G, C, C), one matrix per system, seed and group."""
    truth, groups = labels(truth, n_classes), np.asarray(groups)
    predictions = [np.atleast_2d(labels(p, n_classes)) for p in systems]  # K of (S, U)
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
    metric: Metric,
    tables: np.ndarray,
    sign: np.ndarray,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
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
