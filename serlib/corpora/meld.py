"""MELD: dialogues of a television series, labeled with what the whole clip shows.

The card has the layout and the source. The ids of dialogues and utterances count anew in each
split. The clips are videos: `serlib.corpora.clips` pulls the sound out.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files
from serlib.data.tables import ManifestError

DATASET = "meld"
EMOTIONS = cards.read(DATASET).labels
FOLDERS = dict(  # final_videos_test* in the last one are no clips
    train="train_splits", dev="dev_splits_complete", test="output_repeated_splits_test"
)
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
MANY = {"all", "both", "everybody", "everyone"}  # who answer in chorus


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every line of the three tables; a talker that is several people is missing.

    Columns `sentiment`, `season` and `episode` travel along. There is no gender in MELD. The
    group is the dialogue.

    Raises:
        ManifestError: If there is no table, or it lacks a column or holds another emotion.
    """
    parts, notes = [], []
    for split in FOLDERS:
        path = _find(root, split, f"{split}_sent_emo.csv")
        if path is None:
            notes.append(f"no {split}_sent_emo.csv: {split} is missing")
            continue
        parts.append(_part(root, split, files.table(path, COLUMNS)))
    if not parts:
        raise ManifestError(f"no train_sent_emo.csv in {root}: give the folder MELD.Raw")
    df = pd.concat(parts, ignore_index=True)
    if unknown := set(df["emo"].dropna()) - set(EMOTIONS):
        raise ManifestError(f"{root}: no emotion {sorted(unknown)[0]!r} is known in MELD")
    return files.rows(DATASET, df, notes, EMOTIONS, group="dialogue")


def _find(root: Path, split: str, name: str) -> Path | None:
    """An entry at the top, in the split's own folder, or in data/MELD as in the repository."""
    for folder in (root, root / split, root / "data" / "MELD"):
        if found := files.child(folder, name):
            return found
    return None


def _part(root: Path, split: str, table: pd.DataFrame) -> pd.DataFrame:
    numbers = table["Dialogue_ID"].fillna("") + " " + table["Utterance_ID"].fillna("")
    if (odd := ~numbers.str.fullmatch(r"\d+ \d+")).any():
        row = int(odd.argmax())
        raise ManifestError(f"{split}_sent_emo.csv, row {row + 1}: {numbers[row]!r} names no clip")
    clip = "dia" + table["Dialogue_ID"] + "_utt" + table["Utterance_ID"]
    df = pd.DataFrame(
        dict(
            utt_id=f"{split}_" + clip, wav=_paths(root, split, clip),
            emo=table["Emotion"].str.lower(), speaker=[speaker(name) for name in table["Speaker"]],
            text=table["Utterance"], text_source="human", split=split,
            dialogue=f"{DATASET}-{split}_dia" + table["Dialogue_ID"],
            turn=table["Utterance_ID"].astype(int) + 1,
        )
    )  # fmt: skip
    for name in ("Sentiment", "Season", "Episode"):
        if name in table:
            df[name.lower()] = table[name]
    return df


def speaker(name: str | None) -> str | None:
    """A speaker's name in the manifest, None for several at once."""
    if name is None or name.lower() in MANY or any(x in name for x in (" and ", ",", "/", "&")):
        return None
    return name


def _paths(root: Path, split: str, clips: pd.Series) -> list[str]:
    """Where the clips lie; one that is nowhere is named as it should lie, and so reported."""
    folder = _find(root, split, FOLDERS[split])
    there = files.clips(root, folder)
    before = (folder.relative_to(root) if folder else Path(FOLDERS[split])).as_posix()
    return [there.get(clip, f"{before}/{clip}.mp4") for clip in clips]
