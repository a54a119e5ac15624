"""The utterance table, one row per utterance and the same for every corpus.

A manifest is a pandas table with the columns `COLUMNS`, a superset of EmoBox's JSONL (Ma et al.,
2024) with labels named as audformat names them. Columns that are not in `COLUMNS` travel along.
How to read and write it is in `tables`, how to split it in `splits`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd

from serlib.data import tables
from serlib.data.tables import EMOTIONS, ManifestError

# MSP-Podcast's order A S H U F D C N, and the usual four of IEMOCAP.
CLASSES_8 = tuple("anger sadness happiness surprise fear disgust contempt neutral".split())
CLASSES_4 = ("neutral", "happiness", "anger", "sadness")
ENUMS = {
    "emotion": "|".join(EMOTIONS),
    "emotion_source": "acted|majority|perceived_voice|none",
    "gender": "female|male|other",
    "sha256": "[0-9a-f]{64}",
    "text_source": "human|prompt|asr:.+",
    "split": "train|dev|test|test1|test2|test3|unlabelled",
    "style": "acted|elicited|natural",
}
FLAGS = frozenset(
    "no_audio duplicate_audio stereo aiff_in_wav too_short too_long missing_text".split()
)
ATTRIBUTES = ("valence", "arousal", "dominance")


def check(df: pd.DataFrame) -> list[str]:
    """List what is wrong with a manifest, each with the number of rows and the first key.

    Checked are the rules of `COLUMNS`: keys, (dataset, utt_id) and groups present and unique as
    they must be; wav a relative POSIX path that stays inside its root; length > 0; attributes in
    1..7; labels and flags from their lists; and equal audio with different emotions, unless
    flagged duplicate_audio.
    """
    try:
        df = tables.typed(df)
    except ManifestError as error:
        return [str(error)]
    problems = []

    def report(wrong: pd.Series, what: str) -> None:
        wrong = wrong.fillna(False).astype(bool)
        if wrong.any():
            problems.append(f"{what}: {wrong.sum()} rows, first {df['key'][wrong].iloc[0]}")

    for name in ("dataset", "utt_id", "wav", "group", "length"):
        report(df[name].isna(), f"{name} is missing")
    report(df.duplicated(["dataset", "utt_id"]), "(dataset, utt_id) repeats an earlier row")
    report(df["wav"].map(_stray).notna(), "wav is not a relative POSIX path inside its root")
    report(df["length"] <= 0, "length is not above 0 s")
    report((df["start"] < 0) | (df["end"] <= df["start"]), "start and end are not 0 <= start < end")
    report(df["channel"] < 1, "channel does not count from 1")
    for name in ATTRIBUTES:
        report((df[name] < 1) | (df[name] > 7), f"{name} is outside 1..7")
    for name, allowed in ENUMS.items():
        wrong = {x for x in df[name].dropna().unique() if not re.fullmatch(allowed, x)}
        report(df[name].isin(wrong), f"{name} is not one of {allowed}")
    odd = df["flags"].map(lambda flags: not isinstance(flags, list) or not FLAGS.issuperset(flags))
    report(odd, f"flags are not a list of {', '.join(sorted(FLAGS))}")
    report(df["emotion_dist"].map(_no_shares), "emotion_dist is not shares that sum to 1")
    part = ["sha256", "start", "end"]  # two segments of one file may well differ
    labels = (
        df.groupby(part, dropna=False)["emotion"].transform("nunique").where(df["sha256"].notna())
    )
    flagged = df["flags"].map(lambda f: "duplicate_audio" in f)
    report((labels > 1) & ~flagged, "equal audio has different emotions (flag duplicate_audio)")
    return problems


def _no_shares(dist: Any) -> bool:
    if dist is None:
        return False
    shares = list(dist.values()) if isinstance(dist, dict) else []
    return min(shares, default=-1) < 0 or abs(sum(shares) - 1) > 0.02  # rounded to two digits


def _stray(wav: str | None) -> str | None:
    """Why a path is not relative, POSIX and inside its root, or None."""
    if not wav or "\0" in wav:
        return "is empty or holds a null byte"
    if "\\" in wav or PureWindowsPath(wav).drive:
        return "is a Windows path: use / and no drive"
    if wav.startswith("/"):
        return "is absolute: make it relative to the corpus folder"
    return "climbs out with ..: write it from the corpus folder" if ".." in wav.split("/") else None


def resolve(root: str | os.PathLike, wav: str) -> Path:
    """The file of a manifest row, links followed; it need not exist.

    Raises:
        ManifestError: If `wav` is not a relative POSIX path, or leads out of `root`, be it by a
            symbolic link: a manifest from elsewhere must not read other files of this machine.
    """
    if why := _stray(wav):
        raise ManifestError(f"wav {wav!r} {why}")
    base = Path(os.path.realpath(root))
    path = Path(os.path.realpath(base / wav))
    if not path.is_relative_to(base):
        raise ManifestError(f"wav {wav!r} links to {path}, outside {base}: move the root up")
    return path


def label_ids(
    df: pd.DataFrame, classes: Sequence[str], merge: Mapping[str, str] | None = None
) -> np.ndarray:
    """Number the emotions.

    Args:
        df: U rows.
        classes: Names from `EMOTIONS`; class c is the c-th.
        merge: Emotions to count as another one first, e.g. ``{"excitement": "happiness"}``.

    Returns:
        (U,) int64 in 0..C-1, or -100 (`IGNORE` of the losses) for an emotion of no class.

    Raises:
        ManifestError: If a name is unknown or repeated, or a merged emotion is itself a class.
    """
    merge = dict(merge or {})
    if unknown := {*classes, *merge, *merge.values()} - set(EMOTIONS):
        raise ManifestError(f"no emotion {sorted(unknown)[0]!r}: use {', '.join(EMOTIONS)}")
    if len(set(classes)) < len(classes) or set(merge) & set(classes):
        raise ManifestError(f"classes {classes} repeat a name or hold one that is merged away")
    ids = {name: i for i, name in enumerate(classes)}
    return np.array([ids.get(merge.get(e, e), -100) for e in df["emotion"]], dtype=np.int64)
