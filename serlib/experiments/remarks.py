"""What must be said of a corpus and of a run beside its scores, from the corpus's own table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from serlib import records
from serlib.data.text import encode


def left_out(table: pd.DataFrame, labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Of which emotions how many rows are of no class, their label below 0; nothing if none are."""
    others = table.loc[labels < 0, "emotion"].value_counts()
    counts = ", ".join(f"{name} {n}" for name, n in others.items())
    told = f"{counts} of {len(table)} utterances left out: not among the classes"
    return [f"{told} {', '.join(classes)} (a recipe's `classes` names others)"] if counts else []


def few_sentences(table: pd.DataFrame) -> tuple[str, ...]:
    """A warning for speech recognition where sentences come ten times or more, on average."""
    said = _said(table)
    if not len(said) or 10 * said.nunique() > len(said):
        return ()
    return (
        f"{said.nunique()} different transcripts in {len(said)} utterances: CTC can memorize them, "
        "and word errors say nothing about recognition",
    )


def repetition(table: pd.DataFrame) -> dict[str, float]:
    """How far speech recognition can know test's sentences, of a table with column ``role``.

    Returns:
        ``train_texts``, the different transcripts in train, and ``test_heard``, the share of test's
        clips with a transcript whose transcript is among them.
    """
    train, test = (_said(table[table["role"] == role]) for role in ("train", "test"))
    heard = float(test.isin(set(train)).mean()) if len(test) else 0.0
    return {"train_texts": train.nunique(), "test_heard": heard}


def repeated(run: records.Run) -> str:
    """What must be said beside word errors: that most of test's sentences were trained on."""
    if (heard := run.summary.get("test_heard", 0)) <= 0.5:
        return ""
    different = run.summary["train_texts"]
    return f"{heard:.0%} of test's clips say one of train's {different} sentences"


def speech(table: pd.DataFrame) -> str:
    """Which speech a model was trained on, in words, of a table with column ``role``."""
    train = table[table["role"] == "train"]
    named = (train[c].dropna().unique() for c in ("dataset", "language", "style") if c in train)
    count = f"{len(train)} utterances of {train['speaker'].nunique() or 'unknown'} speakers"
    return ", ".join(filter(None, [*(" and ".join(sorted(names)) for names in named), count]))


def _said(table: pd.DataFrame) -> pd.Series:
    """Transcripts as CTC is taught them, of the rows that have one."""
    said = table["text"].map(lambda text: tuple(encode(text)))
    return said[said.astype(bool)]
