"""From a corpus as its owner releases it to a checked manifest.

One module per corpus reads labels and names (`utterances`, which opens no audio); its card in
``data_manifests`` says what is known without a copy. `build` puts both together with what the
audio files tell.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, counts, measure
from serlib.corpora.counts import Report
from serlib.data import manifest
from serlib.data.tables import ManifestError, typed

# One module each (with _ for -), and one card. The last three are formats: any corpus in them.
CORPORA = (
    "iemocap", "msp-podcast", "emotiw2018", "meiju2025", "ravdess", "cremad", "emodb", "meld",
    "folder", "emobox", "audformat",
)  # fmt: skip


def utterances(name: str, root: str | os.PathLike, *, version: str = "") -> pd.DataFrame:
    """The rows of a corpus from labels and names alone, completed with what its card says.

    Raises:
        ManifestError: If there is no such corpus, or `root` is not its tree.
    """
    if name not in CORPORA:
        raise ManifestError(f"no corpus {name!r}: use one of {', '.join(CORPORA)}")
    root, card = Path(root).expanduser(), cards.read(name)
    if not root.is_dir():
        raise ManifestError(f"no folder {root}: give the one that the corpus was unpacked to")
    loader = importlib.import_module(f"serlib.corpora.{name.replace('-', '_')}")
    df = loader.utterances(root, version=version).reset_index(drop=True)
    if df.empty:
        raise ManifestError(f"{root} holds no labeled utterance of {name}: is the copy complete?")
    notes = df.attrs.get("notes", [])
    known = dict(
        dataset=card.dataset, license=card.license, language=card.language or None,
        style=card.style or None, type="raw", task="category",
        dataset_version=version or counts.recognize(df, card) or None,
    )  # fmt: skip
    for column, value in known.items():
        if column not in df or (df[column].isna().all() and column != "dataset_version"):
            df[column] = value
    if "key" not in df:
        df["key"] = df["dataset"] + "-" + df["utt_id"]
    df["length"] = None
    df = typed(df)
    df.attrs["notes"] = notes
    return df


def build(
    name: str,
    root: str | os.PathLike,
    *,
    version: str = "",
    verify: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, Report]:
    """Turn a corpus tree into a manifest, whose paths start from `root`.

    A `version` of "" is recognized by the sizes of its splits, where the card has them. `verify`,
    `workers` and `progress` are those of `measure.measure`.

    Returns:
        The manifest, and the report; files that are missing or cannot be used are in the report,
        by name, and not in the manifest.

    Raises:
        ManifestError: If `root` is not such a tree, or none of its files can be used.
    """
    df, card = utterances(name, root, version=version), cards.read(name)
    notes, root = df.attrs.pop("notes"), Path(os.path.realpath(Path(root).expanduser()))
    df["wav"] = wavs = [_there(root, wav) for wav in df["wav"]]
    how = dict(verify=verify, workers=workers, progress=progress)
    facts = measure.measure(root, wavs, **how).loc[wavs]
    bad = facts["error"].notna().to_numpy()
    excluded = dict(zip(df["wav"][bad], facts["error"][bad], strict=True))
    if bad.all():
        wav, why = next(iter(excluded.items()))
        raise ManifestError(f"none of {len(df):,} files under {root} can be used; {wav} {why}")
    df = _with_facts(df[~bad].reset_index(drop=True), facts[~bad])
    same = counts.duplicates(df)
    repeated = {key for keys, _ in same for key in keys}
    for key, its in zip(df["key"], df["flags"], strict=True):
        its += ["duplicate_audio"] if key in repeated else []
    df = typed(df)
    version = next(iter(df["dataset_version"].dropna()), "")
    checked, differences = counts.compare(df, card, version)
    return df, Report(
        corpus=card.name, version=version, utterances=len(df),
        hours=float(df["length"].sum() / 3600), excluded=excluded, notes=tuple(notes),
        duplicates=tuple(same), problems=tuple(manifest.check(df)), checked=tuple(checked),
        differences=tuple(differences), countable=bool(card.expected), classes=counts.classes(df),
        flags=counts.flags(df),
    )  # fmt: skip


def _there(root: Path, wav: str) -> str:
    """The path of a recording, or if it is missing of the WAV that `clips.extract` made of it."""
    sound = f"{os.path.splitext(wav)[0]}.wav"
    return sound if not (root / wav).exists() and (root / sound).exists() else wav


def _with_facts(df: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Fill the columns of the audio; a segment's length is its own, not its file's."""
    for name in ("sha256", "bytes", "sample_rate", "channels", "num_frame"):
        df[name] = facts[name].to_numpy()
    seconds = (facts["num_frame"] / facts["sample_rate"]).astype(float).to_numpy()
    span = df["end"].fillna(pd.Series(seconds)) - df["start"].fillna(0.0)
    df["length"] = span.round(4)
    said = df["text"].notna() if df["text"].notna().any() else pd.Series(True, index=df.index)
    df["flags"] = [
        [*its, *more, *([] if has else ["missing_text"])]
        for its, more, has in zip(df["flags"], measure.flags(facts, span), said, strict=True)
    ]
    return df
