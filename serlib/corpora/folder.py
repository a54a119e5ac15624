"""Any corpus that is a folder of audio and one table: the table's columns are named in a map.

    corpus.yaml                     beside the audio; all of it is optional
        table: labels.csv           default: the only table in the folder
        dataset: mine               default: the folder's name
        columns: {wav: file, emo: label, speaker: talker_id}      manifest's name: table's name
        labels: {joy: happiness, "?": null}                       label there: emotion here
        attr_scale: [1, 5]          of valence, arousal and dominance
        cells: {language: deu, style: natural, license: CC-BY-4.0}    the same in every row

What `columns` does not name is taken from a column of the manifest's own name, or of a usual one
(`files.USUAL`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from serlib.corpora import files
from serlib.corpora.emobox import emotion
from serlib.data.manifest import ATTRIBUTES
from serlib.data.tables import COLUMNS, EMOTIONS, ManifestError

MAP = "corpus.yaml"
TABLES = (".csv", ".tsv", ".txt")
GENDERS = dict(f="female", female="female", w="female", m="male", male="male", other="other")
KEYS = ("table", "dataset", "columns", "labels", "attr_scale", "cells")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """The rows of the table, as `corpus.yaml` or the usual names map it.

    A file is found by its path from `root`, or by its bare name or stem if only one file below
    `root` is called so. `version` goes into the manifest as it is.

    Raises:
        ManifestError: If there is not one table; if the map names what is not there; if a label,
            gender or split is unknown; if attributes come without their scale.
    """
    path = root / MAP
    content = yaml.safe_load(files.text(path)) if path.is_file() else {}
    if not isinstance(content, Mapping):
        raise ManifestError(f"{path} is not a map of {', '.join(KEYS)}")
    if unknown := {*content} - {*KEYS}:
        raise ManifestError(f"{path}: no {sorted(unknown)[0]!r} here: use {', '.join(KEYS)}")
    dataset = str(content.get("dataset") or root.resolve().name).lower()
    source = _table(root, content.get("table"))
    table = files.table(source)
    used = _columns(source, table, content.get("columns") or {})
    df = pd.DataFrame({name: table[column] for name, column in used.items()}, dtype=object)
    more = [column for column in table if column not in used.values() and column not in COLUMNS]
    df[more] = table[more]
    for name, value in (content.get("cells") or {}).items():
        df[name] = value
    df["wav"] = _locate(root, df["wav"])
    if "utt_id" not in df:
        df["utt_id"] = _names(df)
    _label(df, source, content.get("labels") or {})
    _attributes(df, source, content.get("attr_scale"))
    notes = [f"{source.name}: " + ", ".join(f"{k} = {v}" for k, v in used.items())]
    if "speaker" in df:
        known = [isinstance(s, str) and s.lower() != "unknown" for s in df["speaker"]]
        df["speaker"] = df["speaker"].where(known, None)
    df = files.rows(dataset, df, notes)
    return df.assign(dataset=dataset, dataset_version=version or None)


def _table(root: Path, name: str | None) -> Path:
    if name:
        return files.need(root, name, hint=f"{MAP} names this table")
    found = [n for n in files.names(root) if n.lower().endswith(TABLES[:2])]
    if len(found) != 1:
        there = f"{len(found)} tables (.csv or .tsv) in {root}"
        raise ManifestError(f"{there}: name the right one in {MAP}, as table: labels.csv")
    return root / found[0]


def _columns(source: Path, table: pd.DataFrame, given: Mapping[str, str]) -> dict[str, str]:
    """Manifest's column -> table's column."""
    if absent := [column for column in given.values() if column not in table]:
        raise ManifestError(f"{source} has no column {absent[0]!r}, but {', '.join(table)}")
    lower = {column.lower(): column for column in reversed(list(table))}
    used = dict(given)
    for name in COLUMNS:
        found = [lower[c] for c in files.USUAL.get(name, (name,)) if c in lower]
        free = [column for column in found if column not in used.values()]
        if name not in used and free and name not in ("emotion", "dataset", "dataset_version"):
            used[name] = free[0]
    if absent := [name for name in ("wav", "emo") if name not in used]:
        raise ManifestError(
            f"{source}: no column for {absent[0]} among {', '.join(table)}: write {MAP} with "
            f"columns: {{{absent[0]}: <its name>}}"
        )
    return used


def _locate(root: Path, cells: pd.Series) -> list[str]:
    """Paths from `root`; a name that is nowhere stays, and is reported as missing."""
    if cells.isna().any():
        raise ManifestError(f"row {int(cells.isna().argmax()) + 1} names no file")
    places = defaultdict(list)  # name or stem -> paths
    for file in files.walk(root):
        if file.suffix.lower() not in TABLES:
            for name in {file.name, file.stem}:
                places[name].append(file.relative_to(root).as_posix())
    found = []
    for cell in cells:
        path = cell.removeprefix("./")
        where = places.get(path, []) if "/" not in path else []
        if len(where) > 1 and path not in where:
            raise ManifestError(f"{path!r} is {where[0]} or {where[1]}: give paths, not names")
        found.append(path if path in where or not where else where[0])
    return found


def _names(df: pd.DataFrame) -> list[str]:
    """Names of utterances: the file without its suffix, with the start if it is cut up."""
    names = [wav.rsplit(".", 1)[0].replace("/", "_") for wav in df["wav"]]
    if len(set(names)) == len(names) or "start" not in df:
        return names
    return [f"{name}_{start}" for name, start in zip(names, df["start"], strict=True)]


def _label(df: pd.DataFrame, source: Path, labels: Mapping[Any, str | None]) -> None:
    labels = {str(k): v for k, v in labels.items()}
    if wrong := set(labels.values()) - {*EMOTIONS, None}:
        raise ManifestError(f"{MAP}: no emotion {sorted(wrong)[0]!r}: use {', '.join(EMOTIONS)}")
    known = {e: labels[e] if e in labels else emotion(e) for e in set(df["emo"].dropna())}
    if unknown := sorted(e for e in known if known[e] is None and e not in labels):
        raise ManifestError(
            f"{source}: what is {', '.join(unknown[:5])}? Say it in {MAP}, as labels: "
            f"{{{unknown[0]}: happiness}} (null leaves the row without an emotion)"
        )
    df["emotion"] = [known.get(e) for e in df["emo"]]
    for name, words in (("gender", GENDERS), ("split", files.SPLITS)):
        if name in df:
            given = df[name].astype("string").str.lower()
            if odd := sorted(set(given.dropna()) - set(words) - {"unknown"}):
                raise ManifestError(f"{source}: {name} {odd[0]!r} is none of {', '.join(words)}")
            df[name] = given.map(words)


def _attributes(df: pd.DataFrame, source: Path, scale: Any) -> None:
    found = [name for name in ATTRIBUTES if name in df]
    if found and not (isinstance(scale, list) and len(scale) == 2 and scale[0] < scale[1]):
        raise ManifestError(f"{source} holds {', '.join(found)}: say in {MAP} attr_scale: [1, 5]")
    for name in found:
        files.attribute(df, name, pd.to_numeric(df[name], errors="coerce"), *scale)
