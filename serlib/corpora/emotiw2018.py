"""EmotiW 2018's audio-video challenge (AFEW): clips of films in folders of seven emotions.

The card has the layout, which is Emotion-FAN's, and the source. The clips are videos:
`serlib.corpora.clips` pulls the sound out. Labels of the test set are closed, and papers report on
Val. How the XML files are built is not documented in public; they are read leniently, and without
them nobody can prove that a speaker is on one side only.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from serlib.corpora import cards, files
from serlib.data.tables import ManifestError

DATASET = "emotiw2018"
EMOTIONS = cards.read(DATASET).labels
SPLITS = {"Train": "train", "Val": "dev", "Test": "test"}
_CLIP = re.compile(r"\d{9}")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every clip; those of the test set without an emotion.

    `film` is the film's title where an XML file gives it. The group is the actor, else the clip.

    Raises:
        ManifestError: If there is no clip, or a folder of an unknown emotion with clips in it.
    """
    rows, notes = [], []
    for word, split in SPLITS.items():
        people = _people(files.child(root, f"{word}_6.xml"), notes, word)
        for folder, code in _folders(root, word):
            clips = files.clips(root, folder).items()
            rows += [_row(stem, wav, code, split, people) for stem, wav in clips]
    if not rows:
        raise ManifestError(f"no clip like Train_AFEW/Angry/000046280.avi in {root}")
    rows = sorted(rows, key=lambda row: (row["split"], row["utt_id"]))
    return files.rows(DATASET, rows, notes, EMOTIONS)


def _folders(root: Path, word: str) -> list[tuple[Path, str | None]]:
    """Folders of one split with the emotion that they stand for."""
    top = files.child(root, f"{word}_AFEW", word)
    if top is None:
        return []
    if word == "Test":
        return [(files.child(top, "Test_vid_Distribute") or top, None)]
    inner = [(top / name, name) for name in files.names(top) if (top / name).is_dir()]
    unknown = [n for path, n in inner if n not in EMOTIONS and files.clips(root, path)]
    if unknown:
        raise ManifestError(f"{top / unknown[0]}: no emotion; use {', '.join(EMOTIONS)}")
    return [(path, name) for path, name in inner if name in EMOTIONS]


def _row(stem: str, wav: str, code: str | None, split: str, people: dict) -> dict:
    actor, gender, film = people.get(stem, (None, None, None))
    return dict(
        utt_id=f"{split}_{stem}", wav=wav, emo=code, speaker=actor, gender=gender, split=split,
        film=film,
    )  # fmt: skip


def _people(path: Path | None, notes: list[str], word: str) -> dict[str, tuple]:
    """Clip -> (actor, gender, film), from every element that names a clip and an actor."""
    if path is None:
        if word != "Test":
            notes.append(f"no {word}_6.xml: actors of {word} are missing")
        return {}
    try:
        top = ElementTree.fromstring(files.text(path))
    except ElementTree.ParseError as error:
        raise ManifestError(f"{path} is no XML ({error}): copy it again") from error
    found = {}
    for element in top.iter():
        facts: dict[str, str] = {}
        clips: set[str] = set()  # an element that holds several clips says nothing of one
        for part in element.iter():
            said = {**part.attrib, part.tag: part.text or ""}
            facts |= {name: value.strip() for name, value in said.items() if value.strip()}
            clips.update(clip for value in said.values() for clip in _CLIP.findall(value))
        if len(clips) == 1 and "NameOfActor" in facts:
            gender = facts.get("Gender", "").lower()
            gender = gender if gender in ("female", "male") else None
            found[clips.pop()] = (facts["NameOfActor"], gender, facts.get("MovieTitle"))
    return found
