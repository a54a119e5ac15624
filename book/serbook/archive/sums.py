"""Sums over each speaker, from which scores and their intervals come out again.

Of every role (dev, test, another corpus) of a run:

    utterances   a mask that only says which runs were scored on the same ones
    speakers     masks of the G speakers, sorted, the same in all runs of an archive
    confusion    [g, truth, predicted, count], sorted, g the place in `speakers`; counts above 0
    ratios       of wer, cer, gender, speaker: [numerator, denominator] of each speaker
    moments      (G, A, 6) of valence, arousal and dominance, see `attributes.moments`

Letters: G speakers, U utterances, C classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from serlib.data.manifest import ATTRIBUTES
from serlib.experiments.sweep import METRICS
from serlib.metrics import intervals
from serlib.tasks import attributes
from serlib.tasks.answers import task_ratio

# And the column that a table of predictions has if it has the metric.
RATIOS = {"wer": "reference", "cer": "reference", "gender": "gender_truth",
          "speaker": "speaker_id_truth"}  # fmt: skip
LARGEST = 10**7  # cells of all speakers' confusion matrices; 8 classes and 150,000 speakers


class Masks:
    """Hashes of names with a key that is forgotten with this object, so that none can be tried."""

    def __init__(self) -> None:
        """Draw the key."""
        self._key = secrets.token_bytes(32)

    def of(self, name: str) -> str:
        """Twelve hexadecimal digits; equal names have equal ones."""
        return hashlib.blake2b(name.encode(), key=self._key, digest_size=6).hexdigest()


def add_up(table: pd.DataFrame, n_classes: int, masks: Masks) -> dict:
    """The sums of a table of predictions, see the module's text.

    Args:
        table: As `evaluation.predict` makes it, with the column `speaker`.
        n_classes: C.
        masks: Of the archive.
    """
    names, index = np.unique(table["speaker"].map(masks.of).to_numpy(str), return_inverse=True)
    found = {"utterances": masks.of(json.dumps(list(table.index))), "speakers": names.tolist()}

    def each(parts: np.ndarray) -> list:
        """Sums (G, ...) of what utterances have, (U, ...)."""
        total = np.zeros((len(names), *parts.shape[1:]), parts.dtype)
        np.add.at(total, index, parts)
        return total.tolist()

    if "prediction" in table:
        cells = np.stack([index, table["truth"], table["prediction"]])
        counted = np.zeros((len(names), n_classes, n_classes), int)
        np.add.at(counted, tuple(cells[:, cells[1] >= 0]), 1)
        found["confusion"] = _cells(counted).tolist()
    ratios = {m: each(np.stack(task_ratio(table, m), 1)) for m, c in RATIOS.items() if c in table}
    if ratios:
        found["ratios"] = ratios
    if "valence_truth" in table:
        found["moments"] = each(attributes.moments(table))
    return found


def _cells(counted: np.ndarray) -> np.ndarray:
    """Places and values of the counts (G, C, C) that are not 0, in order, (cells, 4)."""
    places = np.argwhere(counted)
    return np.column_stack([places, counted[tuple(places.T)]])


def unpack(found: Mapping, metric: str, n_classes: int) -> np.ndarray:
    """Sums (G, ...) of a metric as `statistic` takes them.

    Raises:
        ValueError: They are not there, or are no such sums.
    """
    g = len(found["speakers"])
    if g * n_classes**2 > LARGEST:
        raise ValueError(f"{g:,} speakers and {n_classes} classes are more than any corpus has")
    if found["speakers"] != sorted(set(found["speakers"])):
        raise ValueError("speakers are not in the order of their masks, each once")
    part, shape = found.get("moments"), (g, 3, 6)
    if metric in METRICS:
        part, shape = found.get("confusion"), (g, n_classes, n_classes)
    elif metric in RATIOS:
        part, shape = found.get("ratios", {}).get(metric), (g, 2)
    if not part:
        raise ValueError(f"no sums for {metric}")
    values = np.array(part, float)
    try:
        if metric in METRICS:
            cells, values = values.astype(int), np.zeros(shape)
            values[tuple(cells[:, :3].T)] = cells[:, 3]
            fine = np.array_equal(_cells(values), cells) and values.min() >= 0
        else:
            fine = values.shape == shape and values[..., 0].min() >= 0
    except IndexError:
        fine = False
    if not fine:
        raise ValueError(f"the sums for {metric} do not fit {g} speakers and {n_classes} classes")
    return values


def statistic(metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """The metric as a function of sums over any speakers."""
    if metric in METRICS:
        return METRICS[metric]
    return attributes.MEASURES.get(
        metric, lambda sums: intervals.quotient(sums[..., 0], sums[..., 1])
    )


def score(found: Mapping, metric: str, n_classes: int) -> float:
    """The metric over all speakers."""
    return float(statistic(metric)(unpack(found, metric, n_classes).sum(0)))


def scores(found: Mapping, n_classes: int) -> dict[str, float]:
    """All metrics over all speakers that sums give, without those that are undefined."""
    parts = {"confusion": METRICS, "ratios": found.get("ratios", ()),
             "moments": ("rmse", "ccc", *(f"ccc_{a}" for a in ATTRIBUTES))}  # fmt: skip
    names = [metric for part, names in parts.items() if part in found for metric in names]
    values = {metric: score(found, metric, n_classes) for metric in names}
    return {metric: value for metric, value in values.items() if not math.isnan(value)}


def single(found: Mapping) -> int:
    """How many speakers have one labeled clip."""
    labeled = np.zeros(len(found["speakers"]), int)
    for g, *_, count in found.get("confusion", ()):
        labeled[g] += count
    return int((labeled == 1).sum())
