"""RAVDESS, its speech part: 24 actors, two statements, eight emotions, two intensities.

    Actor_07/03-01-05-02-01-02-07.wav
             audio only (03), speech (01), angry (05), strong (02), statement 01, its second
             repetition (02), actor 07; actors of odd number are men

Source: Livingstone and Russo, PLoS ONE 13(5), 2018.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files

DATASET = "ravdess"
NAME = re.compile(r"(0[1-3]-0[12])-(0[1-8])-(0[12])-(0[12])-0[12]-(0[1-9]|1\d|2[0-4])")
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
    found, notes = files.recordings(root, _folders(root), NAME, "Actor_01/03-01-01-01-01-01-01.wav")
    spoken = [(match, wav) for match, wav in found if match[1] == "03-01"]
    first = {match[0]: _row(match, wav) for match, wav in reversed(spoken)}
    other, again = len(found) - len(spoken), len(spoken) - len(first)
    notes += [f"{other} recordings are songs or videos: skipped"] * bool(other)
    notes += [f"{again} recordings lie in the copy twice: skipped there"] * bool(again)
    rows = sorted(first.values(), key=lambda row: row["wav"])
    return files.rows(DATASET, rows, notes, EMOTIONS)


def _folders(root: Path) -> list[Path]:
    """Where recordings may lie, nearest first: root, its folders of actors, and theirs."""
    inner = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    deeper = [q for p in inner for q in sorted(p.glob("Actor_*")) if q.is_dir()]
    return [root, *inner, *deeper]


def _row(match: re.Match, wav: str) -> dict:
    _, code, intensity, statement, actor = match.groups()
    return dict(
        utt_id=match[0], wav=wav, emo=code, emotion_source="acted", intensity=intensity,
        speaker=actor, gender="male" if int(actor) % 2 else "female", text=TEXTS[statement],
        text_source="prompt", fold=(int(actor) - 1) // FOLD + 1,
    )  # fmt: skip
