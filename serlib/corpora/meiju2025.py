"""MEIJU 2025, track 1, English: clips of television series with an emotion and an intent.

The card has the layout, as the challenge's baseline code reads it, and the source. Lines of the
lists are "<clip> <emotion> <intent>", names only for the test set; tables of transcripts have the
columns name and sentence. The clips are videos: `serlib.corpora.clips` pulls the sound out.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files
from serlib.data.tables import ManifestError

DATASET = "meiju2025"
EMOTIONS = cards.read(DATASET).labels
INTENTS = tuple(
    "questioning agreeing acknowledging encouraging consoling suggesting wishing neutral".split()
)
SPLITS = dict(Training="train", Validation="dev", Testing="test")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every clip of the lists, and the unlabeled ones; `intent` is a column of its own.

    Raises:
        ManifestError: If there is no list, or a line of one is not as above.
    """
    inner = ("", "English", "Track1/English")
    top = next((root / path for path in inner if files.child(root / path, "Annotation")), root)
    labels = files.need(top, "Annotation", hint="give the folder Track1/English")
    parts, notes = [], []
    for word, split in SPLITS.items():
        path = files.child(labels, f"{word}_files.txt")
        if path is None:
            notes.append(f"no {word}_files.txt: {split} is missing")
            continue
        folder = files.child(labels, word) or files.child(top, word) or labels / word
        said = _said(files.child(labels, f"{word}_transcription.csv"))
        parts += _listed(root, path, folder, split, said)
    if not parts:
        raise ManifestError(f"no Training_files.txt in {labels}: give the folder Track1/English")
    unlabeled = sorted(files.clips(root, files.child(top, "NoAnnotation")).items())
    parts += [_row(stem, wav, "unlabelled") for stem, wav in unlabeled]
    return files.rows(DATASET, parts, notes, EMOTIONS)


def _said(path: Path | None) -> dict[str, str]:
    """Stem of a clip -> its sentence."""
    if path is None:
        return {}
    table = files.table(path, ("name", "sentence"))
    if table["name"].isna().any():
        row = int(table["name"].isna().argmax()) + 1
        raise ManifestError(f"{path}, row {row}: no name of a clip: add it or delete the row")
    return {n.rsplit(".", 1)[0]: s for n, s in zip(table["name"], table["sentence"], strict=True)}


def _listed(root: Path, path: Path, folder: Path, split: str, said: dict[str, str]) -> list[dict]:
    there, rows = files.clips(root, folder), []
    for number, line in enumerate(files.text(path).split("\n"), start=1):
        if not line.strip():
            continue
        name, *labels = line.split()
        if labels and (len(labels) != 2 or labels[0] not in EMOTIONS or labels[1] not in INTENTS):
            raise ManifestError(
                f"{path}, line {number}: {line!r} is not a clip with one of the emotions "
                f"{', '.join(EMOTIONS)} and one of the intents {', '.join(INTENTS)}"
            )
        stem = name.rsplit(".", 1)[0]
        wav = there.get(stem) or (folder / name).relative_to(root).as_posix()
        rows.append(_row(stem, wav, split, *(labels or (None, None)), said.get(stem)))
    return rows


def _row(stem: str, wav: str, split: str, emo=None, intent=None, text=None) -> dict:
    return dict(
        utt_id=f"{split}_{stem}", wav=wav, emo=emo, intent=intent, text=text, split=split
    )  # fmt: skip
