"""RAVDESS, its speech part: 24 actors, two statements, eight emotions, two intensities.

The card has the source. The fields of a name such as ``03-01-05-02-01-02-07`` are: audio only (03),
speech (01), angry (05), strong (02), statement 01, its second repetition (02), actor 07; actors of
odd number are men.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files

DATASET = "ravdess"
NAME = re.compile(
    r"(?P<kind>0[1-3]-0[12])-(?P<emo>0[1-8])-(?P<intensity>0[12])-(?P<text>0[12])-0[12]-"
    r"(?P<speaker>0[1-9]|1\d|2[0-4])"
)
CARD = cards.read(DATASET)
EMOTIONS, TEXTS = CARD.labels, CARD.texts
FOLD = 4  # actors per fold, two women and two men (our choice; EmoBox too has six folds of four)


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every spoken recording; songs and videos are left out and counted.

    Copies from Kaggle hold all recordings twice, in ``Actor_01`` and again in a folder with all
    actors; the first of them counts.

    Raises:
        ManifestError: If there is no recording.
    """
    example = "Actor_01/03-01-01-01-01-01-01.wav"
    found, notes = files.acted(root, _folders(root), NAME, example, TEXTS)
    spoken = found[found["kind"] == "03-01"].drop(columns="kind")
    df = spoken.drop_duplicates("utt_id").sort_values("wav", ignore_index=True)
    other, again = len(found) - len(spoken), len(spoken) - len(df)
    notes += [f"{other} recordings are songs or videos: skipped"] * bool(other)
    notes += [f"{again} recordings lie in the copy twice: skipped there"] * bool(again)
    actor = df["speaker"].astype(int)
    df["gender"] = (actor % 2).map({0: "female", 1: "male"})
    df["fold"] = (actor - 1) // FOLD + 1
    return files.rows(DATASET, df, notes, EMOTIONS)


def _folders(root: Path) -> list[Path]:
    """Where recordings may lie, nearest first: root, its folders of actors, and theirs."""
    inner = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    deeper = [q for p in inner for q in sorted(p.glob("Actor_*")) if q.is_dir()]
    return [root, *inner, *deeper]
