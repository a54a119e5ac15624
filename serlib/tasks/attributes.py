"""The task "attributes": valence, arousal and dominance as numbers from 1 to 7.

Targets, answers and scores; the losses are in `losses.regression`.

Letters: B batch, U utterances, A = 3 attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from serlib.data.batching import Batch
from serlib.data.manifest import ATTRIBUTES
from serlib.metrics import intervals, measures

CENTER = 4.0  # of the scale; sums of squares around it keep their digits


def targets(table: pd.DataFrame) -> np.ndarray:
    """Rated attributes (U, A) float32 on 1 to 7, NaN where unknown.

    Raises:
        ValueError: A number is off the scale: rescale the corpus when its manifest is made.
    """
    columns = [
        pd.to_numeric(table[a]) if a in table else pd.Series(np.nan, table.index)
        for a in ATTRIBUTES
    ]
    values = np.stack([c.to_numpy(np.float32, na_value=np.nan) for c in columns], 1)
    off = values[(values < 1) | (values > 7)]
    if len(off):
        raise ValueError(f"{len(off)} attributes are off the scale of 1 to 7, such as {off[0]:g}")
    return values


def answers(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, list]:
    """Columns ``valence``, ``arousal``, ``dominance``, each with ``_truth`` if the batch has it.

    Raises:
        ValueError: A prediction is not finite.
    """
    predicted = outputs["attributes"].cpu()
    broken = (~predicted.isfinite().all(1)).tolist()
    if any(broken):
        names = [key for key, bad in zip(batch.keys, broken, strict=True) if bad]
        raise ValueError(
            f"{len(names)} utterances have attributes that are not finite, such as {names[:5]}: "
            "the weights have diverged or the input is not finite."
        )
    columns = {a: predicted[:, i].tolist() for i, a in enumerate(ATTRIBUTES)}
    if "attributes" in batch.extra:
        truth = batch.extra["attributes"].cpu()
        columns |= {f"{a}_truth": truth[:, i].tolist() for i, a in enumerate(ATTRIBUTES)}
    return columns


def moments(table: pd.DataFrame) -> np.ndarray:
    """What CCC and RMSE are made of: (U, A, 6) with 1, x, y, x², y², x y of each utterance.

    x is the truth and y the prediction, both less the middle of the scale; zeros where the truth is
    unknown. Sums over any utterances go into `MEASURES`.

    Raises:
        ValueError: The table lacks the columns of `answers`.
    """
    wanted = [*ATTRIBUTES, *(f"{a}_truth" for a in ATTRIBUTES)]
    if missing := [name for name in wanted if name not in table]:
        raise ValueError(f"no attributes: columns {', '.join(missing)} are missing")
    y = table[list(ATTRIBUTES)].to_numpy(float) - CENTER
    x = table[[f"{a}_truth" for a in ATTRIBUTES]].to_numpy(float) - CENTER
    known = ~np.isnan(x)
    parts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1)
    return np.where(known[..., None], parts, 0)


def ccc_of(sums: np.ndarray) -> np.ndarray:
    """`measures.ccc` from sums of `moments`: (..., 6) to (...); NaN where it is undefined."""
    n, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums, float), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = x / n, y / n
        spread = xx / n - mean_x**2 + yy / n - mean_y**2 + (mean_x - mean_y) ** 2
        value = 2 * (xy / n - mean_x * mean_y) / spread
    return np.where((n >= 2) & (spread > 1e-9), value, np.nan)


def rmse_of(sums: np.ndarray) -> np.ndarray:
    """Root of the mean squared error from sums of `moments`: (..., 6) to (...)."""
    n, _, _, xx, yy, xy = np.moveaxis(np.asarray(sums, float), -1, 0)
    return np.sqrt(np.maximum(intervals.quotient(xx + yy - 2 * xy, n), 0))


def sd_of(sums: np.ndarray) -> np.ndarray:
    """Standard deviation of the predictions from sums of `moments`: (..., 6) to (...)."""
    n, _, y, _, yy, _ = np.moveaxis(np.asarray(sums, float), -1, 0)
    return np.sqrt(np.maximum(intervals.quotient(yy, n) - intervals.quotient(y, n) ** 2, 0))


def _each(name: str, measure: Callable) -> Iterator[tuple[str, Callable]]:
    """A measure's mean over the attributes, and the measure of each."""
    yield name, lambda sums: measures.mean_defined(measure(sums))
    for i, attribute in enumerate(ATTRIBUTES):
        yield f"{name}_{attribute}", lambda sums, i=i: measure(sums[..., i, :])


# Sums of moments (..., A, 6) to a number (...); "ccc" and so on are means over the attributes.
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict(_each("ccc", ccc_of)), **dict(_each("rmse", rmse_of)), **dict(_each("sd", sd_of)),
}  # fmt: skip


def within(name: str) -> tuple[float, float]:
    """The lowest and the highest that one of `MEASURES` can be."""
    return (-1, 1) if name.startswith("ccc") else (0, np.inf)


def scores(table: pd.DataFrame) -> dict[str, float]:
    """``ccc_valence`` and so on, their mean ``ccc``, and ``rmse`` on the scale of 1 to 7.

    The CCC of an attribute whose truth and predictions are one constant is undefined and not in the
    mean; without any truth there are no scores.
    """
    sums = moments(table).sum(0)
    if not sums[:, 0].any():
        return {}
    names = [f"ccc_{a}" for a in ATTRIBUTES] + ["ccc", "rmse"]
    return {name: float(MEASURES[name](sums)) for name in names}
