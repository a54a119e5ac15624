"""Sums over each speaker, from which scores and their intervals come out again.

Of every role (dev, test, another corpus) of a run:

    utterances   a mask that only says which runs were scored on the same ones
    speakers     masks of the G speakers, sorted, the same in all runs of an archive
    parts        confusion (G, C, C): counts by truth and prediction; wer, cer, gender, speaker
                 (G, 2): numerator and denominator; moments (G, A, 6), see `attributes.moments`

Letters: A attributes, C classes, G speakers, U utterances.
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
from serlib.experiments.runs import METRICS
from serlib.metrics import intervals
from serlib.tasks import attributes
from serlib.tasks.answers import ratio_range, task_ratio

# And the column that a table of predictions has if it has the metric.
RATIOS = {"wer": "reference", "cer": "reference", "gender": "gender_truth",
          "speaker": "speaker_id_truth"}  # fmt: skip
PARTS = ("confusion", *RATIOS, "moments")


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
    parts = {m: np.stack(task_ratio(table, m), 1) for m, c in RATIOS.items() if c in table}
    if "valence_truth" in table:
        parts["moments"] = attributes.moments(table)
    found = {part: np.zeros((len(names), *x.shape[1:]), x.dtype) for part, x in parts.items()}
    for part, x in parts.items():
        np.add.at(found[part], index, x)
    if "prediction" in table:
        found["confusion"] = np.zeros((len(names), n_classes, n_classes), int)
        cells = np.stack([index, table["truth"], table["prediction"]])
        np.add.at(found["confusion"], tuple(cells[:, cells[1] >= 0]), 1)
    return {
        "utterances": masks.of(json.dumps(list(table.index))), "speakers": names.tolist(),
        "parts": {part: x.tolist() for part, x in found.items()},
    }  # fmt: skip


def unpack(found: Mapping, metric: str, n_classes: int) -> np.ndarray:
    """Sums (G, ...) of a metric as `statistic` takes them.

    Raises:
        ValueError: They are not there, or are no such sums.
    """
    if found["speakers"] != sorted(set(found["speakers"])):
        raise ValueError("speakers are not in the order of their masks, each once")
    kind = "confusion" if metric in METRICS else metric if metric in RATIOS else "moments"
    shape = {"confusion": (n_classes, n_classes), "moments": (len(ATTRIBUTES), 6)}.get(kind, (2,))
    if kind not in found["parts"]:
        raise ValueError(f"no sums for {metric}")
    values = np.array(found["parts"][kind], float)
    counts = values if kind == "confusion" else values[..., 0]
    if values.shape != (len(found["speakers"]), *shape) or not len(values) or counts.min() < 0:
        raise ValueError(f"the sums for {metric} are no counts of its speakers and classes")
    return values


def statistic(metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """The metric as a function of sums over any speakers."""
    ratio = lambda sums: intervals.quotient(sums[..., 0], sums[..., 1])  # noqa: E731
    return METRICS.get(metric) or attributes.MEASURES.get(metric, ratio)


def within(metric: str) -> tuple[float, float]:
    """The lowest and the highest that the metric can be."""
    if metric in METRICS:
        return 0, 1
    return attributes.within(metric) if metric in attributes.MEASURES else ratio_range(metric)


def score(found: Mapping, metric: str, n_classes: int) -> float:
    """The metric over all speakers."""
    return float(statistic(metric)(unpack(found, metric, n_classes).sum(0)))


def scores(found: Mapping, n_classes: int) -> dict[str, float]:
    """All metrics over all speakers that sums give, without those that are undefined."""
    several = {"confusion": METRICS, "moments": ("rmse", "ccc", *(f"ccc_{a}" for a in ATTRIBUTES))}
    names = [metric for part in found["parts"] for metric in several.get(part, (part,))]
    values = {metric: score(found, metric, n_classes) for metric in names}
    return {metric: value for metric, value in values.items() if not math.isnan(value)}


def single(found: Mapping) -> int:
    """How many speakers have one labeled clip."""
    clips = np.array(found["parts"].get("confusion", [[[0]]])).sum((1, 2))
    return int((clips == 1).sum())
