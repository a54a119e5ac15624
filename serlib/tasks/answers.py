"""What a model answered for each task beside the emotion, as columns, and the scores of them.

Letters: B batch, U utterances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from serlib.data import text
from serlib.data.batching import Batch
from serlib.data.manifest import ATTRIBUTES
from serlib.losses.classification import IGNORE
from serlib.metrics import recognition
from serlib.tasks import attributes

# The scores that a task's answers may have, by name; `evaluation.score` gives them.
SCORES = {
    "emotion": ("wa", "ua", "macro_f1", "ece"), "gender": ("gender",), "speaker": ("speaker",),
    "asr": ("wer", "cer"), "attributes": ("ccc", *(f"ccc_{a}" for a in ATTRIBUTES), "rmse"),
}  # fmt: skip


def task_answers(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, list]:
    """Columns of the prediction table for the tasks beside the emotion, one value per clip."""
    columns = {}
    for task, column in (("gender", "gender"), ("speaker", "speaker_id")):
        if task in outputs:
            columns[column] = outputs[task].argmax(-1).tolist()
            if task in batch.extra:
                columns[f"{column}_truth"] = batch.extra[task].tolist()
    if "asr" in outputs:
        best, lengths = outputs["asr"].argmax(-1).cpu().numpy(), outputs["asr_lengths"].tolist()
        heard = (text.collapse(row[:n]) for row, n in zip(best, lengths, strict=True))
        columns["hypothesis"] = [text.decode(numbers) for numbers in heard]
        if "tokens" in batch.extra:
            tokens, n_tokens = batch.extra["tokens"].tolist(), batch.extra["n_tokens"].tolist()
            said = (row[:n] for row, n in zip(tokens, n_tokens, strict=True))
            columns["reference"] = [text.decode(numbers) for numbers in said]
    if "attributes" in outputs:
        columns |= attributes.answers(outputs, batch)
    return columns


def task_ratio(table: pd.DataFrame, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators (U,) whose sums give a metric; (0, 0) where nothing is known.

    Args:
        table: Predictions with the columns of ``task_answers``.
        metric: "gender" and "speaker": right answers over known ones. "wer" and "cer": edits over
            words and over characters of the reference.

    Raises:
        ValueError: The table lacks the columns.
    """
    if metric in ("wer", "cer") and "reference" in table:
        unit = "words" if metric == "wer" else "characters"
        pairs = zip(table["reference"], table["hypothesis"], strict=True)
        counts = np.array([recognition.edits(unit, *pair) for pair in pairs]).reshape(-1, 2)
        return counts[:, 0], counts[:, 1]
    column = {"gender": "gender", "speaker": "speaker_id"}.get(metric)
    if f"{column}_truth" not in table:
        raise ValueError(f"no answers for {metric!r} in columns {', '.join(table.columns)}")
    known = table[f"{column}_truth"] != IGNORE
    right = known & (table[column] == table[f"{column}_truth"])
    return right.to_numpy(int), known.to_numpy(int)


def ratio_range(metric: str) -> tuple[float, float]:
    """The lowest and the highest that a metric of `task_ratio` can be: a WER may exceed 1."""
    return (0, math.inf) if metric in ("wer", "cer") else (0, 1)


def task_scores(table: pd.DataFrame) -> dict[str, float]:
    """Every metric of ``task_ratio``, and of ``attributes``, that a table of predictions allows."""
    needs = dict.fromkeys(("wer", "cer"), "reference")
    needs |= {"gender": "gender_truth", "speaker": "speaker_id_truth"}
    sums = {m: np.sum(task_ratio(table, m), 1) for m, column in needs.items() if column in table}
    found = {m: float(right / known) for m, (right, known) in sums.items() if known}
    return found | (attributes.scores(table) if "valence_truth" in table else {})
