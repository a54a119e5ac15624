"""Any corpus that is a folder of audio, with labels in a table or in the paths themselves.

    corpus.yaml                     beside the audio; all of it is optional
        table: labels.csv           default: the only table in the folder, or train.csv, test.csv
        pattern: '(?P<speaker>[^/]+)/(?P<emo>[^/]+)/.*[.]wav'   of paths: no table is needed
        dataset: mine               default: the folder's name
        columns: {wav: file, emo: label, speaker: person}         manifest's name: table's name
        labels: {joy: happiness, "?": null}                       label there: emotion here
        attr_scale: [1, 5]          of valence, arousal and dominance
        cells: {language: deu, style: natural, license: CC-BY-4.0}    the same in every row

What `columns` does not name is taken from a column, or a named group of the pattern, of the
manifest's own name, or of a usual one (`files.USUAL`). A pattern is a regular expression over the
whole path from the folder; beside a table that is named it adds what the paths tell.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serlib.corpora import files
from serlib.corpora.emobox import emotion
from serlib.data import spelling, tables
from serlib.data.manifest import ATTRIBUTES
from serlib.data.tables import COLUMNS, EMOTIONS, KINDS, ManifestError

MAP = "corpus.yaml"
TABLES = (".csv", ".tsv", ".txt")
GENDERS = dict(f="female", female="female", w="female", m="male", male="male", other="other")
KEYS = dict(
    table=str, pattern=str, dataset=str, columns=dict, labels=dict, attr_scale=list, cells=dict
)
_SHAPES = {str: "a text", dict: "a map, {name: value}", list: "a list, [low, high]"}
# Not taken from a table that does not say so: they are given, or measured.
_OURS = frozenset(
    "emotion dataset dataset_version sha256 bytes sample_rate channels num_frame length".split()
)
# A repetition of what repeats can try paths for hours.
_ENDLESS = re.compile(r"[+*}]\)[+*{]")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """The rows of the table, or of the files that fit the pattern, as `corpus.yaml` maps them.

    A file is found by its path from `root`, or by its bare name or stem if only one file below
    `root` is called so. `version` goes into the manifest as it is.

    Raises:
        ManifestError: If there is neither table nor pattern; if the map names what is not there;
            if a number, label, gender or split is unknown; if attributes come without their scale;
            if rows name one recording or utterance twice.
    """
    content = _map(root / MAP)
    dataset = (content.get("dataset") or root.resolve().name).lower()
    source, table, notes = _table(root, content)
    used = _columns(source, table, content.get("columns", {}))
    df = pd.DataFrame({name: table[column] for name, column in used.items()}, dtype=object)
    more = [column for column in table if column not in used.values() and column not in COLUMNS]
    df[more] = table[more]
    for name in [name for name in df if KINDS.get(name) in ("int", "float")]:
        df[name] = files.numbers(df[name], table.attrs.get("decimal", "."))
    for name, value in content.get("cells", {}).items():
        df[name] = [value] * len(df)
    if "utt_id" not in df:
        df["utt_id"] = _names(df)
    _no_repeats(df)
    _label(df, source, content.get("labels", {}))
    _attributes(df, source, content.get("attr_scale"))
    notes = [f"{source}: " + ", ".join(f"{k} = {v}" for k, v in used.items()), *notes]
    df = files.rows(dataset, df, notes)
    return df.assign(dataset=dataset, dataset_version=version or None)


def _map(path: Path) -> Mapping[str, Any]:
    content = files.settings(path) if path.is_file() else {}
    for key, value in content.items():
        if key not in KEYS:
            raise ManifestError(f"{path}: no {key!r} here: use {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise ManifestError(f"{path}: {key} is not {_SHAPES[KEYS[key]]}")
    return content


def _table(root: Path, content: Mapping[str, Any]) -> tuple[str, pd.DataFrame, list[str]]:
    """What it is called, its cells, with paths from `root` in a column of paths, and remarks."""
    pattern = _compiled(content["pattern"]) if "pattern" in content else None
    if pattern and "table" not in content:
        paths = [file.relative_to(root).as_posix() for file in files.walk(root)]
        paths = [path for path in paths if not path.endswith((*TABLES, ".jsonl", MAP))]
        source, column = "pattern", "wav"
        table = pd.DataFrame({column: paths}, index=paths, dtype=object)
    else:
        source, table = _labels(root, content.get("table"))
        column = _columns(source, table, content.get("columns", {}), ("wav",))["wav"]
        table[column] = _locate(root, table[column])
    if pattern is None:
        return source, table, []
    if both := sorted({*pattern.groupindex} & {*table}):
        raise ManifestError(
            f"{MAP}: {both[0]!r} is in the pattern and in {source}: rename the group"
        )
    found = [pattern.fullmatch(path) for path in table[column]]
    for name in pattern.groupindex:
        table[name] = [match and match[name] for match in found]
    fits = np.array([match is not None for match in found], dtype=bool)
    odd = [path for path in table[column][~fits] if path.lower().endswith(files.AUDIO)]
    if source == "pattern":
        table = table[fits]
    if table.empty:
        raise ManifestError(
            f"{MAP}: no path below {root} fits the pattern ({files.few(odd)}): mend it"
        )
    note = f"{len(odd):,} paths do not fit the pattern ({files.few(odd)})"
    return source, table, [note] * bool(odd)


def _compiled(pattern: str) -> re.Pattern:
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ManifestError(
            f"{MAP}: pattern is no regular expression ({error}): mend it"
        ) from error
    if _ENDLESS.search(pattern):
        raise ManifestError(f"{MAP}: pattern repeats what repeats, as (a+)+: repeat it once")
    if not found.groupindex or {*found.groupindex} & {*files.USUAL["wav"]}:
        raise ManifestError(
            f"{MAP}: pattern names nothing but the path: write named groups, as (?P<speaker>[^/]+)"
        )
    return found


def _labels(root: Path, name: str | None) -> tuple[str, pd.DataFrame]:
    """The table that is named, or the only one, or those of train, dev and test in one."""
    if name:
        found = [files.need(root, name, hint=f"{MAP} names this table")]
    else:
        every = [root / n for n in files.names(root) if n.lower().endswith(TABLES[:2])]
        found = [path for path in every if not _is_ours(path)]
    if len(found) != 1 and not (found and all(_split(path.name) for path in found)):
        raise ManifestError(
            f"{len(found)} tables of labels (.csv or .tsv) in {root}: name the right one in {MAP}, "
            "as table: labels.csv, or write a pattern of the paths there"
        )
    parts = [files.table(path) for path in found]
    for path, part in zip(found, parts, strict=True):
        part.index = [f"{path.name}, row {i + 1}" for i in part.index]  # for messages
        if {*part} != {*parts[0]}:
            raise ManifestError(f"{path} has other columns than {found[0]}: name one in {MAP}")
    table = pd.concat(parts)
    if len(parts) > 1 and not {*table} & {*files.USUAL["split"]}:
        table["split"] = [_split(where) for where in table.index]
    return ", ".join(path.name for path in found), table


def _is_ours(path: Path) -> bool:
    """Whether a table was written by a build: a manifest, or the list of what it left out."""
    first = files.text(path).split("\n", 1)[0]
    return path.name.endswith(".excluded.tsv") or {*tables.REQUIRED} <= {*first.split(",")}


def _split(name: str) -> str | None:
    """The one split that a file's name tells: my_train.csv."""
    words = re.split(r"[^a-z0-9]+", name.lower().partition(",")[0])
    found = {files.SPLITS[word] for word in words if word in files.SPLITS}
    return found.pop() if len(found) == 1 else None


def _columns(
    source: str, table: pd.DataFrame, given: Mapping[str, str], needed: tuple = ("wav", "emo")
) -> dict[str, str]:
    """Manifest's column -> table's column."""
    usual = {other: name for name, others in files.USUAL.items() for other in others}
    for name, column in given.items():
        if name not in COLUMNS:
            close = difflib.get_close_matches(str(name).lower(), COLUMNS, 1)
            meant = usual.get(str(name).lower()) or (close[0] if close else "emo")
            raise ManifestError(
                f"{MAP}: columns: {name!r} is no column of manifests: write {meant}: {column}"
            )
        if not isinstance(column, str) or column not in table:
            raise ManifestError(f"{source} has no column {column!r}, but {', '.join(table)}")
    used = {"emo" if name == "emotion" else name: column for name, column in given.items()}
    lower = {column.lower(): column for column in reversed(list(table))}
    for name in COLUMNS:
        found = [lower[c] for c in files.USUAL.get(name, (name,)) if c in lower]
        free = [column for column in found if column not in used.values()]
        if name not in used and free and name not in _OURS:
            used[name] = free[0]
    if absent := [name for name in needed if name not in used]:
        raise ManifestError(
            f"{source}: no column for {absent[0]} among {', '.join(table)}: write {MAP} with "
            f"columns: {{{absent[0]}: <its name>}}"
        )
    return used


def _locate(root: Path, cells: pd.Series) -> list[str]:
    """Paths from `root`; a name that is nowhere stays, and is reported as missing."""
    if cells.isna().any():
        raise ManifestError(f"{cells.isna().idxmax()} names no file")
    places = defaultdict(list)  # path, name or stem, in one Unicode form -> paths
    for file in files.walk(root):
        if file.suffix.lower() not in TABLES:
            path = file.relative_to(root).as_posix()
            for name in {path, file.name, file.stem}:
                places[unicodedata.normalize("NFC", name)].append(path)
    tops = [f"{top(root)}/" for top in (os.path.abspath, os.path.realpath)]
    found = []
    for cell in cells:
        path = next((cell.removeprefix(top) for top in tops if cell.startswith(top)), cell)
        path = path.removeprefix("./")
        where = places.get(unicodedata.normalize("NFC", path), [])
        if len(where) > 1 and path not in where:
            raise ManifestError(f"{path!r} is {where[0]} or {where[1]}: give paths, not names")
        found.append(path if path in where or not where else where[0])
    return found


def _names(df: pd.DataFrame) -> list[str]:
    """Names of utterances: the file without its suffix, with more of it where that is not one."""
    names = [wav.rsplit(".", 1)[0].replace("/", "_") for wav in df["wav"]]
    if df.groupby(names)["wav"].nunique().max() > 1:  # a/b.wav and a_b.wav, or a.wav and a.flac
        names = df["wav"].tolist()
    for part in ("start", "channel"):
        if len(set(names)) < len(names) and part in df:
            names = [f"{name}_{cell}" for name, cell in zip(names, df[part], strict=True)]
    return names


def _no_repeats(df: pd.DataFrame) -> None:
    recording = [name for name in ("wav", "start", "end", "channel") if name in df]
    for columns in (recording, ["utt_id"]):
        twice = df[df.duplicated(columns, keep=False)]
        for _, same in twice.groupby(columns, dropna=False, sort=False):
            one, other = same.index[:2]
            what = f"{columns[0]} {same[columns[0]].iloc[0]}"
            raise ManifestError(f"{one} and {other} are both {what}: keep one of them")


def _label(df: pd.DataFrame, source: str, labels: Mapping[Any, str | None]) -> None:
    labels = {"null" if k is None else k: v for k, v in labels.items()}
    if wrong := [str(v) for v in labels.values() if v not in (*EMOTIONS, None)]:
        raise ManifestError(f"{MAP}: no emotion {wrong[0]!r}: use {', '.join(EMOTIONS)}")
    known = {e: labels[e] if e in labels else emotion(e) for e in set(df["emo"].dropna())}
    if unknown := sorted(e for e in known if known[e] is None and e not in labels):
        first = unknown[0] if re.fullmatch(r"\w+", unknown[0]) else json.dumps(unknown[0])
        raise ManifestError(
            f"{source}: what is {', '.join(unknown[:5])}? Say it in {MAP}, as labels: "
            f"{{{first}: happiness}} (null leaves the row without an emotion)"
        )
    df["emotion"] = [known.get(e) for e in df["emo"]]
    for name, words in (("gender", GENDERS), ("split", files.SPLITS)):
        if name in df:
            given = df[name].astype("string").str.lower()
            odd = sorted(w for w in set(given.dropna()) - set(words) if not spelling.unknown(w))
            if odd:
                raise ManifestError(f"{source}: {name} {odd[0]!r} is none of {', '.join(words)}")
            df[name] = given.map(words)


def _attributes(df: pd.DataFrame, source: str, ends: list | None) -> None:
    found = [name for name in ATTRIBUTES if name in df]
    scale = files.scale(ends)
    if found and scale is None:
        raise ManifestError(f"{source} holds {', '.join(found)}: say in {MAP} attr_scale: [1, 5]")
    for name in found:
        files.attribute(df, name, df[name], *scale)
