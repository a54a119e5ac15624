"""The utterance table, one row per utterance and the same for every corpus, and how to split it.

A manifest is a pandas table with the columns `COLUMNS`, a superset of EmoBox's JSONL (Ma et al.,
2024) with labels named as audformat names them. Columns that are not in `COLUMNS` travel along.
A split is only as good as the check that nothing is shared: `leaks` counts what is,
`assert_disjoint` refuses it, and `protocol` makes the usual splits, the bad ones on request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd

from serlib import tables
from serlib.tables import (  # noqa: F401 the table itself, used from here
    COLUMNS,
    EMOTIONS,
    ManifestError,
    digest,
    from_emobox,
    read,
    rows,
    to_emobox,
    write,
)  # fmt: skip

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
LEAKY = frozenset({"random", "prefix", "dialogue"})
# What one fold is:
PROTOCOLS = {
    "official": "train and dev as released; test is 'test', or 'test1' for fold 1 and so on",
    "session": "one value of the column fold: the corpus's default cross-validation",
    "speaker": "one talker",
    "prefix": "one first token of utt_id: IEMOCAP's Ses01F says who wears markers, not who talks",
    "dialogue": "a fifth of the dialogues",
    "random": "a fifth of the utterances",
}


class LeakError(ManifestError):
    """Train, dev and test are not as separate as they must be."""


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
    labels = df.groupby("sha256")["emotion"].transform("nunique")
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
        (U,) int64 in 0..C-1, or -100 (`losses.IGNORE`) where the emotion is not in `classes`.

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


@dataclass(frozen=True)
class Leak:
    """Values of one column that occur on both sides of a split.

    Attributes:
        column: The column.
        shared: Number of different values in common.
        share_of_test: Share of all test rows that hold one of them, 0..1.
        examples: The first three of them, sorted.
    """

    column: str
    shared: int
    share_of_test: float
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line for messages and tables."""
        some = ", ".join(self.examples) + (", ..." if self.shared > len(self.examples) else "")
        return f"{self.shared} {self.column} ({some}) in {self.share_of_test:.1%} of the rows"


def leaks(
    train_df: pd.DataFrame,
    test_df: pd.DataFrame,
    columns: Sequence[str] = ("group", "speaker", "dialogue", "session", "text", "sha256"),
) -> list[Leak]:
    """Count what train and test share, column by column; columns that share nothing are left out.

    Values are compared as they stand ("Yes." is not "yes"), and a missing value equals none.

    Raises:
        ManifestError: If a column is not there.
    """
    found = []
    for column in columns:
        if column not in train_df or column not in test_df:
            raise ManifestError(f"no column {column!r} to compare: add it or leave it out")
        hit = test_df[column].isin(set(train_df[column].dropna())) & test_df[column].notna()
        if hit.any():
            shared = sorted(set(test_df[column][hit].astype(str)))
            found.append(Leak(column, len(shared), float(hit.mean()), tuple(shared[:3])))
    return found


def assert_disjoint(
    train: pd.DataFrame,
    dev: pd.DataFrame,
    test: pd.DataFrame,
    columns: Sequence[str] = ("group", "speaker", "sha256"),
) -> None:
    """Refuse a split whose parts share a group, a speaker or a file.

    Raises:
        LeakError: Telling what is shared and which share of the rows it touches; also if a
            `group` is missing, since then nothing can be proved.
    """
    parts = {"train": train, "dev": dev, "test": test}
    found = []
    for name, part in parts.items():
        if "group" in columns and (missing := int(part["group"].isna().sum())):
            found.append(f"{name} has {missing} rows without a group")
    for first, second in (("train", "test"), ("dev", "test"), ("train", "dev")):
        shared = leaks(parts[first], parts[second], columns)
        found += [f"{first} shares with {second} {leak} of {second}" for leak in shared]
    if found:
        raise LeakError("; ".join(found) + ": put each of these on one side only")


def protocol(
    df: pd.DataFrame,
    name: str,
    *,
    fold: int = 1,
    folds: int | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> pd.Series:
    """Give each row its role in one fold of a usual protocol, see `PROTOCOLS`.

    Test is fold `fold`; dev is the next fold that shares no group with test (just the next, if
    all do); train is the rest. Rows that lack the column that is divided have no role.

    Args:
        df: A manifest.
        name: One of `PROTOCOLS`.
        fold: From 1.
        folds: Deal the units at random into so many folds instead of one fold per unit.
        seed: Of the dealing.
        allow_leaks: Return the split even if a group, a speaker or a file crosses it. Without it
            those in `LEAKY` are refused, and the others if `assert_disjoint` refuses them.

    Returns:
        "train", "dev", "test" or None per row, with the index of `df`.

    Raises:
        LeakError: If the split leaks and `allow_leaks` is False.
        ManifestError: If the name, fold or column is not there, or a part would be empty.
    """
    if name not in PROTOCOLS:
        raise ManifestError(f"no protocol {name!r}: use one of {', '.join(PROTOCOLS)}")
    if name in LEAKY and not allow_leaks:
        raise LeakError(f"protocol {name!r} leaks by design: pass allow_leaks=True to measure it")
    roles = _official(df, fold) if name == "official" else _cross(df, name, fold, folds, seed)
    part = {role: df[roles == role] for role in ("train", "dev", "test")}
    if part["train"].empty or part["test"].empty:
        raise ManifestError(f"protocol {name!r}, fold {fold}: nothing to train on or to test")
    if not allow_leaks:
        assert_disjoint(**part)
    return roles


def _official(df: pd.DataFrame, fold: int) -> pd.Series:
    roles = {"train": "train", "dev": "dev", "test": "test", f"test{fold}": "test"}
    return pd.Series([roles.get(split) for split in df["split"]], index=df.index, dtype=object)


def _cross(df: pd.DataFrame, name: str, fold: int, folds: int | None, seed: int) -> pd.Series:
    if folds is None and name in ("dialogue", "random"):
        folds = 5
    number, count = _deal(_units(df, name), folds, seed)
    if count < 3 or not 1 <= fold <= count:
        raise ManifestError(f"fold {fold} of {count}: needs 3 folds or more, and one of them")
    others = [(fold - 1 + step) % count + 1 for step in range(1, count)]
    tested = set(df["group"][number == fold].dropna())
    apart = (k for k in others if not df["group"][number == k].isin(tested).any())
    role = dict.fromkeys(others, "train") | {next(apart, others[0]): "dev", fold: "test"}
    return pd.Series([role.get(k) for k in number], index=df.index, dtype=object)


def _units(df: pd.DataFrame, name: str) -> pd.Series:
    if name != "prefix":
        return df[{"session": "fold", "random": "key"}.get(name, name)]
    tokens = df["utt_id"].str.split("_")
    if (tokens.str.len() < 2).any():
        raise ManifestError("protocol 'prefix' needs names like Ses01F_impro01_M003 in utt_id")
    return tokens.str[0]


def _deal(units: pd.Series, folds: int | None, seed: int) -> tuple[pd.Series, int]:
    """Number the folds from 1: one per unit in sorted order, or shuffled into `folds`."""
    names = np.array(sorted(units.dropna().unique()), dtype=object)
    if folds is not None:
        names = np.random.default_rng(seed).permutation(names)
    folds = min(folds or len(names), len(names))
    return units.map({unit: i % folds + 1 for i, unit in enumerate(names)}), folds
