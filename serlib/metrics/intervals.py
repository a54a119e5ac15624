"""How sure a score is: intervals over speakers and training seeds.

Utterances of one speaker are alike, and so are all answers of one training, so neither are counted
as if they were independent. A score's variance has two parts, which add up::

    V_G = (G - 1) / G · Σ_g (θ_(-g) - θ)²         speakers: the delete-one jackknife
    V_S = Σ_s (θ_s - θ)² / (S (S - 1))            seeds: as of any mean; 0 if there is one
    interval = θ ± t · √(V_G + V_S), cut to the score's range

θ is the mean over seeds of the score θ_s on all utterances; θ_(-g) is the same without speaker g;
of two systems all three are differences. Both parts hold the noise of speaker and seed together, so
their sum is a little too large, and the interval rather too wide than too narrow.

t is the quantile of Student's distribution with Satterthwaite's degrees of freedom ν, rounded down:
(V_G + V_S)² / (V_G² / ν_G + V_S² / ν_S), ν_S = S - 1, and ν_G = n² / Σ_g n_g² - 1, which is G - 1
if all speakers said the same amount n_g. Two seeds tell too little of their spread for ν: there t
is the mean of both parts' own quantiles, weighted by V_G and V_S (Cochran and Cox).

With one seed an interval is over speakers only. With fewer than three speakers, or where only one
speaker makes the score defined, it has no bounds and says "cannot tell".

Sources: Efron and Stein (1981) and Cameron and Miller (2015), section VI, on the jackknife over
clusters (CV3) and t; Cameron, Gelbach and Miller (2011) on adding up the variances of two ways;
Kish (1965) and Carter, Schnepel and Steigerwald (2017) on the effective number of clusters, here
ν_G + 1; Satterthwaite (1946); Cochran and Cox (1950). By simulation of equally good systems
(`tests/test_intervals.py`) at most 7 % of these intervals miss zero at level 0.95. With two seeds
it is less, at the price of width: three are worth far more.

Letters: U utterances, C classes, S seeds, G groups (speakers), K systems. What is undefined is NaN,
never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

Metric = Callable[[np.ndarray], np.ndarray]  # confusion matrices (..., C, C) -> (...,)
FEWEST = 3  # speakers that say anything of others


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
    note: str = ""  # what its reader must know, such as why there are no bounds

    @property
    def bounded(self) -> bool:
        """Whether all three numbers are known."""
        return not any(map(math.isnan, (self.value, self.low, self.high)))

    @property
    def decides(self) -> bool:
        """Whether it tells the value from zero; without bounds, or any width, it does not.

        >>> Interval(0.02, 0.01, 0.03, 0.95).decides, Interval(0.02, 0.02, 0.02, 0.95).decides
        (True, False)
        """
        return self.low < self.high and 0 not in self

    def __str__(self) -> str:
        """Three decimals, as the tables print it."""
        bounds = f" [{self.low:.3f}, {self.high:.3f}]" if self.bounded else ""
        return f"{self.value:.3f}{bounds}" + (f" ({self.note})" if self.note else "")

    def __contains__(self, value: float) -> bool:
        """Whether low <= value <= high; False if the bounds are NaN."""
        return self.low <= value <= self.high

    def __rsub__(self, number: float) -> Interval:
        """The interval of number - value.

        >>> print(1 - Interval(0.2, 0.1, 0.4, 0.95))
        0.800 [0.600, 0.900]
        """
        ends = number - self.value, number - self.high, number - self.low
        return Interval(*ends, self.level, self.note)


def jackknife(
    metric: Metric,
    truth: np.ndarray,
    predictions: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    level: float = 0.95,
) -> Interval:
    """Interval of a score over speakers and training seeds; the module's text has the formula.

    Args:
        metric: `wa`, `ua`, `macro_f1` or another function of confusion matrices (..., C, C) whose
            values are from 0 to 1.
        truth: (U,) int labels.
        predictions: (U,) int for one model, or (S, U) for S seeds of it.
        groups: (U,) speaker of each utterance, none missing.
        n_classes: C.
        level: The coverage wanted.

    Returns:
        value = mean over seeds; bounds NaN with fewer than `FEWEST` groups.
    """
    tables = _tables(truth, [predictions], groups, n_classes)
    return _interval(metric, tables, level, (0, 1))


def paired_jackknife(
    metric: Metric,
    truth: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(b) - metric(a), both on the same speakers and seeds.

    Sharper than comparing two intervals, because a hard speaker is hard for both; if it `decides`,
    b and a differ. Arguments as in `jackknife`; seed s of a is paired with seed s of b.
    """
    tables = _tables(truth, [predictions_a, predictions_b], groups, n_classes)
    return _interval(metric, tables, level, (0, 1))


def jackknife_ratio(
    systems: Sequence[tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray,
    level: float = 0.95,
    within: tuple[float, float] | None = None,
) -> Interval:
    """Interval of a ratio of sums over utterances, such as WER: edits / words.

    Systems are one or two pairs (numerators, denominators), each (U,) or (S, U). All else is as in
    `jackknife_sums`; no `within` is from 0 where no numerator is below, and to 1 where none exceeds
    its denominator.
    """
    pairs = [np.stack([np.atleast_2d(x) for x in pair], -1) for pair in systems]
    ratio = lambda t: quotient(t[..., 0], t[..., 1])  # noqa: E731
    if within is None:
        part, whole = np.moveaxis(np.stack(pairs), -1, 0)
        within = 0 if np.all(part >= 0) else -math.inf, 1 if np.all(part <= whole) else math.inf
    return jackknife_sums(ratio, pairs, groups, level, within)


def jackknife_sums(
    statistic: Callable[[np.ndarray], np.ndarray],
    systems: Sequence[np.ndarray],
    groups: np.ndarray,
    level: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Interval of a function of sums over utterances, such as CCC of numbers, sums and squares.

    As `jackknife`. Two systems give the interval of second - first, paired.

    Args:
        statistic: Sums (..., M) to values (...,); NaN where undefined.
        systems: One or two arrays (S, U, M) of what is added up; M may be several axes.
        groups: (U,) speaker of each utterance.
        level: The coverage wanted.
        within: The lowest and the highest that the statistic can be, to which bounds are cut.
    """
    parts = np.stack(systems)
    names, index = _speakers(np.asarray(groups))  # parts (K, S, U, M)
    tables = np.zeros((*parts.shape[:2], len(names), *parts.shape[3:]))
    np.add.at(np.moveaxis(tables, 2, 0), index, np.moveaxis(parts, 2, 0))
    return _interval(statistic, tables, level, within)


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
    metric: Metric, tables: np.ndarray, level: float, within: tuple[float, float]
) -> Interval:
    """Interval from counts (K, S, G, ...); of two systems of the second less the first."""
    said = np.abs(tables).sum((0, 1, *range(3, tables.ndim)))  # how much each speaker adds, (G,)
    said, tables = said[said > 0], tables[:, :, said > 0]
    k, s, g = tables.shape[:3]
    sign = np.array([-1.0, 1.0])[-k:]
    total = tables.sum(2)
    scores = sign @ metric(total)  # (S,)
    left_out = np.tensordot(sign, metric(total[:, :, None] - tables), 1).mean(0)  # (G,)
    if k == 2:
        within = within[0] - within[1], within[1] - within[0]
    return from_left_out(scores, left_out, said, level, within)


def from_left_out(
    scores: np.ndarray,
    left_out: np.ndarray,
    said: np.ndarray,
    level: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The interval of a score, however it is computed, by the formula of the module's text.

    Args:
        scores: (S,) of all utterances, for each seed.
        left_out: (G,) without each speaker in turn, means over seeds.
        said: (G,) how much of the data each speaker is.
        level: The coverage wanted.
        within: The lowest and the highest that the score can be, to which bounds are cut.
    """
    value, s, g = float(np.mean(scores)), len(scores), len(left_out)
    if g < FEWEST:
        note = f"cannot tell: {g} speaker{'s' * (g != 1)}"
        return Interval(value, math.nan, math.nan, level, note)
    of_speakers = (g - 1) / g * float(((left_out - value) ** 2).sum())
    of_seeds = float(scores.var(ddof=1)) / s if s > 1 else 0.0
    if math.isnan(of_speakers + of_seeds):
        note = "undefined" if math.isnan(value) else "cannot tell: it rests on one speaker"
        return Interval(value, math.nan, math.nan, level, note)
    nu = max(1.0, said.sum() ** 2 / (said**2).sum() - 1)
    half = _quantile(of_speakers, of_seeds, nu, s - 1, level) * math.sqrt(of_speakers + of_seeds)
    if half <= 1e-9 * max(1, abs(value)):  # all speakers alike, up to rounding
        proof = within[0] < 0 and abs(value) > 1e-9  # of a difference it would be one
        end, note = (math.nan, "cannot tell: no spread") if proof else (value, "")
        return Interval(value, end, end, level, note)
    return Interval(value, max(value - half, within[0]), min(value + half, within[1]), level)


def _quantile(of_speakers: float, of_seeds: float, nu: float, nu_s: int, level: float) -> float:
    """Student's t for the sum of two variances with `nu` and `nu_s` degrees of freedom."""
    at, both = (1 + level) / 2, of_speakers + of_seeds
    if not of_seeds:
        return float(stdtrit(nu, at))
    if nu_s == 1:
        return float(stdtrit(nu, at) * of_speakers + stdtrit(1, at) * of_seeds) / both
    joint = math.floor(both**2 / (of_speakers**2 / nu + of_seeds**2 / nu_s) + 1e-9)
    return float(stdtrit(max(joint, min(nu, nu_s)), at))
