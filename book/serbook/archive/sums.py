"""Sums over each talker, from which scores and their intervals come out again.

Of every role (dev, test, another corpus) of a run:

    utterances   a mask that only says which runs were scored on the same ones
    speakers     masks of the G talkers, sorted, the same in all runs of an archive
    confusion    [g, truth, predicted, count] with g the place in `speakers`; counts above 0 only
    ratios       of wer, cer, gender, speaker: [numerator, denominator] of each talker
    moments      (G, A, 6) of valence, arousal and dominance, see `attributes.moments`
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from serlib.experiments.sweep import METRICS
from serlib.metrics import intervals
from serlib.tasks import attributes
from serlib.tasks.answers import task_ratio

# And the column that a table of predictions has if it has the metric.
RATIOS = {"wer": "reference", "cer": "reference", "gender": "gender_truth",
          "speaker": "speaker_id_truth"}  # fmt: skip

LARGEST = 10**7  # cells of all talkers' confusion matrices; 8 classes and 150,000 talkers


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
        labeled = (table["truth"] >= 0).to_numpy()
        cells = np.stack([index, table["truth"], table["prediction"]], 1)[labeled]
        cells, counts = np.unique(cells, axis=0, return_counts=True)
        found["confusion"] = np.column_stack([cells, counts]).tolist()
    ratios = {m: each(np.stack(task_ratio(table, m), 1)) for m, c in RATIOS.items() if c in table}
    if ratios:
        found["ratios"] = ratios
    if "valence_truth" in table:
        found["moments"] = each(attributes.moments(table))
    return found


def unpack(found: Mapping, metric: str, n_classes: int) -> np.ndarray:
    """Sums (G, ...) of a metric as `statistic` takes them.

    Raises:
        ValueError: They are not there, or are no such sums.
    """
    g = len(found["speakers"])
    if g * n_classes**2 > LARGEST:
        raise ValueError(f"{g:,} talkers and {n_classes} classes are more than any corpus has")
    if found["speakers"] != sorted(set(found["speakers"])):
        raise ValueError("talkers are not in the order of their masks, each once")
    if metric in METRICS:
        cells = np.array(found.get("confusion", ()), int).reshape(-1, 4)
        if not len(cells):
            raise ValueError("no confusion counts")
        places, counts = tuple(cells[:, :3].T), cells[:, 3]
        counted = np.zeros((g, n_classes, n_classes))
        outside = (cells[:, :3] < 0) | (cells[:, :3] >= counted.shape)
        if outside.any() or (counts < 1).any() or len(np.unique(cells[:, :3], axis=0)) < len(cells):
            raise ValueError(f"confusion counts do not fit {g} talkers and {n_classes} classes")
        counted[places] = counts
        return counted
    kind, shape = ("ratios", (g, 2)) if metric in RATIOS else ("moments", (g, 3, 6))
    part = found.get(kind, {})
    part = part.get(metric) if kind == "ratios" else part
    if not part:
        raise ValueError(f"no sums for {metric}")
    values = np.array(part, float)
    if values.shape != shape or (values[..., 0] < 0).any():
        raise ValueError(f"the sums for {metric} do not fit {g} talkers")
    return values


def statistic(metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """The metric as a function of sums over any talkers."""
    if metric in METRICS:
        return METRICS[metric]
    return attributes.MEASURES.get(
        metric, lambda sums: intervals.quotient(sums[..., 0], sums[..., 1])
    )


def score(found: Mapping, metric: str, n_classes: int) -> float:
    """The metric over all talkers."""
    return float(statistic(metric)(unpack(found, metric, n_classes).sum(0)))


def single(found: Mapping) -> int:
    """How many talkers have one labeled clip."""
    talkers = [g for g, *_, count in found.get("confusion", ()) for _ in range(min(count, 2))]
    return int((np.bincount(talkers, minlength=1) == 1).sum())
