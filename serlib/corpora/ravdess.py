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

from serlib.corpora import files
from serlib.data.tables import ManifestError

DATASET = "ravdess"
NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happiness", "04": "sadness", "05": "anger", "06": "fear",
    "07": "disgust", "08": "surprise",
}  # fmt: skip
TEXTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
ACTORS = range(1, 25)
FOLD = 4  # actors per fold, two women and two men (our choice; EmoBox too has six folds of four)


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every spoken recording; songs and videos are left out and counted.

    Copies from Kaggle hold all recordings twice, in ``Actor_01`` and again in a folder with all
    actors; the first of them counts.

    Raises:
        ManifestError: If there is no recording.
    """
    rows, odd, other, again = {}, [], 0, 0
    for folder in _folders(root):
        for name in files.names(folder, ".wav"):
            match = NAME.fullmatch(name[:-4])
            if match is None or int(match[7]) not in ACTORS:
                odd.append(name)
            elif match[1] != "03" or match[2] != "01":
                other += 1
            elif match[0] in rows:
                again += 1
            else:
                wav = (folder / name).relative_to(root).as_posix()
                rows[match[0]] = _row(match, wav)
    if not rows:
        raise ManifestError(
            f"no recording like Actor_01/03-01-01-01-01-01-01.wav in {root}: give the folder that "
            "Audio_Speech_Actors_01-24.zip was unpacked to"
        )
    df = pd.DataFrame(rows.values()).sort_values("wav", ignore_index=True)
    notes = files.odd_names(odd, "03-01-01-01-01-01-01.wav")
    notes += [f"{other} recordings are songs or videos: skipped"] * bool(other)
    notes += [f"{again} recordings lie in the copy twice: skipped there"] * bool(again)
    df.attrs["notes"] = notes
    return df


def _folders(root: Path) -> list[Path]:
    """Where recordings may lie, nearest first: root, its folders of actors, and theirs."""
    inner = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    deeper = [q for p in inner for q in sorted(p.glob("Actor_*")) if q.is_dir()]
    return [root, *inner, *deeper]


def _row(match: re.Match, wav: str) -> dict:
    _, _, code, intensity, statement, _, actor = match.groups()
    speaker = f"{DATASET}-{actor}"
    return dict(
        utt_id=match[0], wav=wav, emo=code, emotion=EMOTIONS[code], emotion_source="acted",
        intensity=intensity, speaker=speaker, gender="male" if int(actor) % 2 else "female",
        text=TEXTS[statement], text_source="prompt", group=speaker,
        fold=(int(actor) - 1) // FOLD + 1,
    )  # fmt: skip
