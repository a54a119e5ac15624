"""From a model and batches to one prediction per utterance, and from predictions to scores.

Two steps on purpose: predictions are written to the run folder, and every score, interval and
comparison of the book is computed from them, never from numbers kept along the way.

Letters: B batch, C classes, U utterances.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from serlib.data.batching import Batch
from serlib.losses.classification import IGNORE
from serlib.metrics import measures
from serlib.tasks.answers import task_answers, task_scores
from serlib.training import processes
from serlib.training.precision import autocast, evaluating, to_float32


class DivergedError(ValueError):
    """A model whose answers are no numbers; the message names the utterances."""


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device | str | None = None,
    *,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Class probabilities of every utterance, p = softmax(logits).

    The result depends neither on the batch size nor on the order of the batches: rows are in the
    order of ``batch.index``. In float32 it is equal to about 1e-6; in bf16 to about 1e-2.

    Args:
        model: Maps a batch to {"emotion": logits (B, C), ...}.
        batches: Batches that hold each utterance once.
        device: Where to compute; the model is moved there. None: where the model is.
        precision: As in ``autocast``.

    Returns:
        A table of U rows, index ``key``: ``truth`` (``classification.IGNORE`` where unlabeled),
        ``prediction`` (the class with the largest logit, the first of equals), ``p_0`` to
        ``p_{C-1}``; of a multi-task model also ``task_answers``. A model without the emotion has
        only those.

    Raises:
        ValueError: No batches, an utterance more than once, or logits that are not finite.
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), "cpu")
    model.to(device)
    keys, index, truth, logits, others = [], [], [], [], []
    with evaluating(model):
        for batch in batches:
            keys += batch.keys
            index.append(batch.index)
            truth.append(batch.emotion)
            batch = batch.to(device)
            with autocast(device, precision):
                outputs = model(batch)
            if "emotion" in outputs:
                logits.append(to_float32(outputs)["emotion"])  # stays on the device: no waiting
            if columns := task_answers(outputs, batch):
                others.append(pd.DataFrame(columns, index=pd.Index(batch.keys, name="key")))
    if not keys:
        raise ValueError("nothing to predict: the batches are empty.")
    joined = (torch.cat(parts).cpu() if parts else None for parts in (index, truth, logits))
    table = _table(keys, *joined)
    return table.join(pd.concat(others)) if others else table


def together(predictions: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The predictions of all processes, each utterance once, in the order of ``keys``.

    Args:
        predictions: This process's, of its `processes.share` of the batches; alone, of all.
        keys: The utterances that must be there.

    Raises:
        ValueError: Some are missing, or others are there.
    """
    table = pd.concat(parts) if len(parts := processes.gather(predictions)) > 1 else parts[0]
    table = table[~table.index.duplicated()]
    if odd := sorted(set(table.index) ^ set(keys)):
        raise ValueError(f"{len(odd)} utterances are missing or were not asked for: {odd[:5]}")
    return table.loc[list(keys)]


def score(predictions: pd.DataFrame, n_classes: int) -> dict[str, float]:
    """Scores of the labeled utterances in a table from ``predict``.

    Args:
        predictions: Columns ``truth``, ``prediction`` and ``p_0`` to ``p_{C-1}``.
        n_classes: C.

    Returns:
        ``wa``, ``ua`` and ``macro_f1`` (see ``metrics``), ``ece`` (expected calibration error) and
        ``n``, the labeled utterances. Without any, the scores are NaN and ``n`` is 0. Then
        ``task_scores``, if the table has other tasks' answers; a table without the emotion's has
        only these.

    Raises:
        ValueError: The table has probabilities for another number of classes.

    >>> table = pd.DataFrame({"truth": [0, 1, IGNORE], "prediction": [0, 1, 1],
    ...                       "p_0": [1.0, 0.0, 0.0], "p_1": [0.0, 1.0, 1.0]})
    >>> score(table, 2)
    {'wa': 1.0, 'ua': 1.0, 'macro_f1': 1.0, 'ece': 0.0, 'n': 2}
    """
    others = task_scores(predictions)
    if "prediction" not in predictions:
        return others
    columns = [name for name in predictions.columns if str(name).startswith("p_")]
    if columns != [f"p_{c}" for c in range(n_classes)]:
        raise ValueError(f"probabilities {columns} do not fit n_classes={n_classes}.")
    labeled = predictions[predictions["truth"] != IGNORE]
    if labeled.empty:
        return {"wa": np.nan, "ua": np.nan, "macro_f1": np.nan, "ece": np.nan, "n": 0} | others
    truth, predicted = labeled["truth"].to_numpy(), labeled["prediction"].to_numpy()
    scores = measures.classification(truth, predicted, n_classes)
    calibration = measures.ece(labeled[columns].to_numpy(), truth)
    scores = {name: float(scores[name]) for name in ("wa", "ua", "macro_f1")}
    return {**scores, "ece": float(calibration), "n": len(labeled), **others}


def _table(keys: list[str], index: Tensor, truth: Tensor, logits: Tensor | None) -> pd.DataFrame:
    """Rows in the order of ``index`` (U,), from truth (U,) and logits (U, C) if there are any."""
    duplicated = pd.Index(keys)[pd.Index(keys).duplicated()].unique()
    if len(duplicated):
        raise ValueError(
            f"{len(duplicated)} utterances come more than once, such as {list(duplicated[:5])}: "
            "give each of them in one batch only."
        )
    order = np.argsort(index.numpy(), kind="stable")
    named = pd.Index(keys, name="key")
    if logits is None:
        return pd.DataFrame({"truth": truth.numpy()}, index=named).iloc[order]
    broken = ~logits.isfinite().all(dim=1)
    if broken.any():
        examples = [key for key, bad in zip(keys, broken.tolist(), strict=True) if bad]
        raise DivergedError(
            f"{len(examples)} utterances have logits that are not finite, such as {examples[:5]}: "
            "the weights have diverged or the input is not finite."
        )
    probabilities = logits.double().softmax(dim=1).numpy()
    table = {"truth": truth.numpy(), "prediction": logits.argmax(dim=1).numpy()}
    table |= {f"p_{c}": probabilities[:, c] for c in range(probabilities.shape[1])}
    return pd.DataFrame(table, index=named).iloc[order]
