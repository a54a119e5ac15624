"""The utterance table, one row per utterance and the same for every corpus.

A manifest is a pandas table with the columns `COLUMNS`, a superset of EmoBox's JSONL (Ma et al.,
2024) with labels named as audformat names them. Columns that are not in `COLUMNS` travel along.
How to read and write it is in `tables`, how to split it in `splits`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd

from serlib.data import parsing, spelling, tables
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
RANGES = {  # column -> least and most that can be true; Hz, seconds, years
    **dict.fromkeys(ATTRIBUTES, (1, 7)), "bytes": (1, 10**12), "sample_rate": (1_000, 1_000_000),
    "channels": (1, 256), "channel": (1, 256), "num_frame": (1, 10**12), "length": (1e-3, 86_400),
    "n_raters": (0, 1_000), "age": (0, 120), "turn": (0, 10**6), "fold": (1, 10**6),
}  # fmt: skip
ROUNDING = 0.02  # seconds, shares and attributes are often rounded to two digits


def check(df: pd.DataFrame) -> list[str]:
    """List what is wrong with a manifest, each with the number of rows and the first key.

    Checked are the rules of `COLUMNS`: keys, (dataset, utt_id) and groups present and unique as
    they must be; wav a relative POSIX path that stays inside its root; numbers in their `RANGES`;
    labels and flags from their lists; names that are placeholders ("N/A") or mix alphabets; and
    what contradicts itself: length, start, end and the file's samples, attributes and their raw
    values, channels, the shares of raters and an emotion that they voted for, and one recording
    with two rows or two emotions, unless flagged duplicate_audio.
    """
    try:
        df = tables.typed(df)
    except ManifestError as error:
        return [str(error)]
    problems = []

    def report(wrong: pd.Series, what: str) -> None:
        wrong = wrong.fillna(False).astype(bool)
        if wrong.any():
            first = df["key"][wrong].iloc[0]
            problems.append(parsing.one_line(f"{what}: {wrong.sum()} rows, first {first}"))

    for name in ("dataset", "utt_id", "wav", "group", "length"):
        report(df[name].isna(), f"{name} is missing")
    report(df.duplicated(["dataset", "utt_id"]), "(dataset, utt_id) repeats an earlier row")
    report(df["wav"].map(_stray).notna(), "wav is not a relative POSIX path inside its root")
    for name, (low, high) in RANGES.items():
        report((df[name] < low) | (df[name] > high), f"{name} is outside {low}..{high}")
    for name, allowed in ENUMS.items():
        wrong = {x for x in df[name].dropna().unique() if not re.fullmatch(allowed, x)}
        report(df[name].isin(wrong), f"{name} is not one of {allowed}")
    odd = df["flags"].map(
        lambda f: not isinstance(f, list) or not all(isinstance(x, str) and x in FLAGS for x in f)
    )
    report(odd, f"flags are not a list of {', '.join(sorted(FLAGS))}")
    df["flags"] = df["flags"].where(~odd, None)
    for wrong, what in (*_names(df), *_times(df), *_ratings(df), *_recordings(df)):
        report(wrong, what)
    return problems


Found = Iterator[tuple[pd.Series, str]]  # which rows, and what is wrong there


def _names(df: pd.DataFrame) -> Found:
    for name in ("speaker", "group"):
        both = df.dropna(subset=["dataset", name]).drop_duplicates(["dataset", name])
        bare = {
            n: n.removeprefix(f"{d}-") for d, n in zip(both["dataset"], both[name], strict=True)
        }
        none = {n for n, own in bare.items() if spelling.unknown(own)}
        yield df[name].isin(none), f"{name} says that it is not known: leave the cell empty"
        odd = spelling.disguised(bare)
        yield df[name].isin(odd), f"{name} has letters of another alphabet that look alike"


def _times(df: pd.DataFrame) -> Found:
    whole = df["num_frame"].astype("Float64") / df["sample_rate"]
    whole = pd.Series(whole.to_numpy("float64", na_value=np.nan))
    start, end = df["start"].fillna(0), df["end"].fillna(whole)
    wrong = (start < 0) | (df["end"] <= start)
    yield wrong, "start and end are not 0 <= start < end"
    behind = (end > whole + ROUNDING) | (start >= whole)
    yield ~wrong & behind, "start or end is behind the end of the file (num_frame / sample_rate)"
    off = ~wrong & ~behind & ((df["length"] - (end - start)).abs() > ROUNDING)
    yield off, "length is not end - start (of a whole file: num_frame / sample_rate)"
    yield df["channel"] > df["channels"], "channel is none of the file's channels"
    stereo = pd.Series(["stereo" in (f or ()) for f in df["flags"]], index=df.index)
    odd = df["channels"].notna() & (stereo != (df["channels"] > 1))
    yield odd, "channels and the flag stereo contradict each other"


def _ratings(df: pd.DataFrame) -> Found:
    scales = [s if _is_scale(s) else (np.nan, np.nan) for s in df["attr_scale"]]
    low, high = np.array(scales, dtype="float64").reshape(-1, 2).T
    yield df["attr_scale"].notna() & np.isnan(low), "attr_scale is not [low, high], two numbers"
    for name in ATTRIBUTES:
        raw = df[f"{name}_raw"]
        yield (raw < low) | (raw > high), f"{name}_raw is outside attr_scale"
        off = (df[name] - 1 - 6 * (raw - low) / (high - low)).abs()
        off = raw.between(low, high) & (off > ROUNDING * np.maximum(1, 6 / (high - low)))
        yield off, f"{name} is not 1 + 6 ({name}_raw - low) / (high - low), as of attr_scale"
    given = df["emotion_dist"]
    dists = given.where(given.map(_is_shares).astype(bool), None)
    yield given.notna() & dists.isna(), "emotion_dist is not shares of known emotions that sum to 1"
    counted = ~df["emotion_source"].isin(["acted", "none"])
    counted &= df["emotion"].notna() & ~df["emotion"].isin(["other", "no_agreement"])
    against = [d and _outvoted(e, d) for e, d in zip(df["emotion"], dists, strict=True)]
    yield counted & pd.Series(against, dtype=bool), "emotion is outvoted by emotion_dist"


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # NaN is not


def _is_scale(scale: Any) -> bool:
    pair = isinstance(scale, list) and len(scale) == 2 and all(map(_number, scale))
    return pair and scale[0] < scale[1]


def _is_shares(dist: Any) -> bool:
    if not isinstance(dist, dict) or not dist.keys() <= set(EMOTIONS):
        return False
    shares = list(dist.values())
    whole = all(map(_number, shares)) and min(shares, default=-1) >= 0
    return whole and abs(sum(shares) - 1) <= ROUNDING


def _outvoted(emotion: str | None, dist: Mapping[str, float]) -> bool:
    """Nobody voted for it, or more than half did for another: weaker ones may be ties or rules.

    (IEMOCAP's raters may name several emotions, so its majority need not have the largest share.)
    """
    most = max(dist, key=dist.__getitem__)
    return dist[most] > dist.get(emotion, 0) and (emotion not in dist or dist[most] > 0.5)


def _recordings(df: pd.DataFrame) -> Found:
    flagged = pd.Series(["duplicate_audio" in (f or ()) for f in df["flags"]], index=df.index)
    part = ["start", "end", "channel"]  # two segments of one file may well differ
    differ = pd.Series(False, index=df.index)
    for file in ("sha256", "wav"):
        labels = df.groupby([file, *part], dropna=False)["emotion"].transform("nunique")
        differ |= (labels > 1) & df[file].notna()
    yield differ & ~flagged, "equal audio has different emotions (flag duplicate_audio)"
    again = df.duplicated(["wav", *part]) & df["wav"].notna()
    yield again & ~differ, "wav, start, end and channel repeat an earlier row"


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
    """The file of a manifest row below `root`; it need not exist.

    A manifest from elsewhere must not read other files of this machine, so its paths cannot leave
    `root`. A link at such a path can: whoever owns the folder has put it there, as a cache of
    Hugging Face does with every file, or one who keeps the audio on another disk.

    Raises:
        ManifestError: If `wav` is not a relative POSIX path, or climbs out of `root`.
    """
    if why := _stray(wav):
        raise ManifestError(f"wav {wav!r} {why}")
    return Path(os.path.realpath(root), wav)


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
