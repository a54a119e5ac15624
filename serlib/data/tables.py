"""The file format of manifests: typed columns in CSV or JSONL, which hold the same table.

Missing is None in columns of text and JSON, NaN in floats and <NA> in whole numbers; in a file it
is an empty cell or null, and an empty text is missing. What a good manifest is `manifest` says.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gc
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serlib import records
from serlib.data import parsing
from serlib.data.parsing import ManifestError
from serlib.data.spelling import clean, identity

# Column -> kind of its cells. Attributes (valence, arousal, dominance) are on 1..7, times in
# seconds, `channel` counts from 1, `group` must not cross a split, `speaker` is the true talker.
KINDS = {
    "key": "text", "dataset": "text", "dataset_version": "text", "utt_id": "text", "wav": "text",
    "sha256": "text", "bytes": "int", "sample_rate": "int", "channels": "int", "num_frame": "int",
    "channel": "int", "start": "float", "end": "float", "length": "float", "type": "text",
    "task": "text", "emo": "text", "emotion": "text", "emotion_source": "text",
    "emotion_dist": "json", "n_raters": "int", "valence": "float", "arousal": "float",
    "dominance": "float", "valence_raw": "float", "arousal_raw": "float",
    "dominance_raw": "float", "attr_scale": "json", "intensity": "text", "speaker": "text",
    "gender": "text", "age": "int", "language": "text", "text": "text", "text_source": "text",
    "session": "text", "dialogue": "text", "turn": "int", "group": "text", "split": "text",
    "fold": "int", "style": "text", "license": "text", "flags": "json",
}  # fmt: skip
COLUMNS = tuple(KINDS)
EMOTIONS = tuple(
    "anger contempt disgust fear happiness excitement neutral calm sadness surprise frustration "
    "boredom other no_agreement".split()
)
_PLAIN = {"string", "floating", "integer", "mixed-integer-float", "empty"}  # of infer_dtype
REQUIRED = ("key", "dataset", "utt_id", "wav", "length", "emotion", "speaker", "group")
NAMES = ("speaker", "group", "session", "dialogue")  # each name has one spelling in a table
_JSON = json.JSONEncoder(ensure_ascii=False)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector of cyclic garbage: it goes through millions of cells, for nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_no_collection()
def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read a manifest, .csv or .jsonl; both give the same table.

    All spellings of one speaker, group, session or dialogue (see `identity`) become the first of
    them, without invisible characters; paths lose what leads nowhere ("./a//b" is "a/b"). A column
    that is not in `COLUMNS` becomes numbers if each of its cells is a number as Python prints it
    ("12", "0.5"), else it stays text ("007" does).

    Returns:
        Columns `COLUMNS`, absent ones filled with missing, then the file's other columns.

    Raises:
        ManifestError: If the file is empty, not UTF-8 or not rectangular; if a `REQUIRED` column
            is not there, or a name looks like a misspelt one of `COLUMNS`; if a cell does not
            parse, or a key is missing or repeated.
    """
    parse = {".csv": parsing.csv_cells, ".jsonl": parsing.jsonl}[suffix(path)]
    try:
        return typed(parse(parsing.utf8(path)))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


@_no_collection()
def write(df: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write a manifest, .csv or .jsonl, atomically; `read` gives back the table that `read` gave.

    Raises:
        ManifestError: If `read` would not accept the table.
    """
    df, kind = typed(df), suffix(path)
    if kind == ".jsonl":
        text = "".join(f"{_JSON.encode(row)}\n" for row in rows(df))
    else:
        lists = [_dumped(df[n]) if KINDS.get(n) == "json" else df[n] for n in df]
        cells = [_plain(column) for column in lists]
        text = _csv(df.columns, cells, csv.QUOTE_MINIMAL)
        if "\r" in text:  # csv leaves it without quotes, where it would end the row
            text = _csv(df.columns, cells, csv.QUOTE_ALL)
    records.atomic_write(path, text)


def _csv(header: pd.Index, columns: list[list], quoting: int) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n", quoting=quoting)
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


@_no_collection()
def rows(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts of plain Python values, None for missing."""
    names, columns = list(df), [_plain(df[name]) for name in df]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(cells: pd.Series) -> list:
    values, missing = cells.tolist(), cells.isna().to_numpy()
    if not missing.any():
        return values
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def digest(df: pd.DataFrame) -> str:
    """Hash the table: every cell and the order of rows count, the order of columns does not."""
    df, total = typed(df), hashlib.sha256()
    for name in sorted(df.columns[df.notna().any()]):
        total.update(json.dumps([name, _plain(df[name])], sort_keys=True).encode())
    return total.hexdigest()[:12]


def misspelt(df: pd.DataFrame) -> dict[str, str]:
    """Other columns that are most likely one of `COLUMNS`: name there -> name meant.

    Case and blanks apart the name is the same, or it is close to that of a column without cells.
    """
    strangers, found = [name for name in df if name not in KINDS], {}
    if not strangers:
        return found
    free = [c for c in COLUMNS if c not in df or df[c].isna().all()]
    free += [] if "flags" in free or df["flags"].astype(bool).any() else ["flags"]  # all []
    for name in strangers:
        plain = re.sub(r"[\s-]+", "_", identity(str(name)))
        same = [plain] if plain in KINDS else [c for c in free if sorted(c) == sorted(plain)]
        as_long = [c for c in free if len(c) == len(plain)]
        close = same or difflib.get_close_matches(plain, as_long, 1, 0.8)
        close = close or difflib.get_close_matches(plain, free, 1, 0.81)
        found |= {name: close[0]} if close else {}
    return found


def suffix(path: str | os.PathLike) -> str:
    """The file format that a manifest's name asks for, ".csv" or ".jsonl"."""
    kind = Path(path).suffix
    if kind not in (".csv", ".jsonl"):
        raise ManifestError(f"{path}: a manifest's name ends in .csv or .jsonl")
    return kind


def typed(raw: pd.DataFrame) -> pd.DataFrame:
    """Check the columns and the keys, and give each column its type; see `read`."""
    if raw.empty:
        raise ManifestError("no rows: a manifest has at least one utterance")
    if absent := [name for name in REQUIRED if name not in raw]:
        raise ManifestError(
            f"columns {', '.join(absent)} are missing, there are {', '.join(map(str, raw))}: add "
            "them, or build a manifest from this table (serlib manifest build folder, or emobox)"
        )
    nothing = pd.Series([None] * len(raw), dtype=object)
    parse = {"text": _text, "int": _number, "float": _number, "json": _json, None: _extra}

    def cells(name: str) -> pd.Series:
        if name not in raw:
            return nothing
        if raw[name].dtype == np.float64 and KINDS.get(name) in ("int", "float"):
            return raw[name].reset_index(drop=True)
        given = raw[name].to_numpy(dtype=object, copy=True)
        given[pd.isna(given)] = None
        given[given == ""] = None
        return pd.Series(given, dtype=object)

    every = [*COLUMNS, *(name for name in raw if name not in KINDS)]
    df = pd.DataFrame({name: parse[KINDS.get(name)](name, cells(name)) for name in every})
    for name in NAMES:
        df[name] = _one_spelling(df[name])
    odd = df["wav"].str.contains("./", regex=False, na=False)
    odd |= df["wav"].str.contains("//", regex=False, na=False)
    df.loc[odd, "wav"] = df["wav"][odd].map(_path)
    for name, meant in misspelt(df).items():
        raise ManifestError(
            f"column {name!r} is no column of manifests, but looks like {meant!r}: "
            "rename it, to that or to a name that is less alike"
        )
    blank = np.array([not (key and (key[0].isalnum() or clean(key))) for key in df["key"]])
    if blank.any():
        raise ManifestError(f"row {blank.argmax() + 1} has no key: give it one")
    if (again := df["key"].duplicated()).any():
        key = df["key"][again].iloc[0]
        where = ", ".join(str(i + 1) for i in np.flatnonzero(df["key"] == key))
        raise ManifestError(f"key {key!r} stands in rows {where}: make keys unique")
    return df


def _one_spelling(cells: pd.Series) -> pd.Series:
    first: dict[str, str] = {}
    given = cells.dropna().unique()
    spelled = {name: first.setdefault(identity(name), clean(name)) or None for name in given}
    same = all(name == spelling for name, spelling in spelled.items())
    return cells if same else pd.Series([spelled.get(name) for name in cells], dtype=object)


def _path(wav: str) -> str:
    """Without "." and empty parts; a path that is absolute stays so."""
    parts = "/".join(part for part in wav.split("/") if part not in ("", "."))
    return f"/{parts}" if wav.startswith("/") else parts


def _text(name: str, cells: pd.Series) -> pd.Series:
    if pd.api.types.infer_dtype(cells, skipna=True) in ("string", "empty"):
        return cells
    return _dumped(cells)


def _dumped(cells: pd.Series) -> pd.Series:
    known: dict[str, str] = {}  # most are alike

    def form(cell: Any) -> str | None:
        if cell is None or isinstance(cell, str):
            return cell
        value = cell.item() if isinstance(cell, np.generic) else cell
        if (same := repr(value)) not in known:
            known[same] = _JSON.encode(value)
        return known[same]

    return pd.Series([form(cell) for cell in cells], dtype=object)


def _number(name: str, cells: pd.Series) -> pd.Series:
    scalar = cells
    if pd.api.types.infer_dtype(cells, skipna=True) not in _PLAIN:
        scalar = cells.map(lambda cell: None if isinstance(cell, (bool, list, dict)) else cell)
    codes, cells_once = pd.factorize(scalar)  # many are alike
    try:
        numbers = pd.to_numeric(cells_once, errors="coerce")
    except OverflowError:  # whole numbers of hundreds of digits
        cells_once = np.array([str(c) if type(c) is int else c for c in cells_once], dtype=object)
        numbers = pd.to_numeric(cells_once, errors="coerce")
    values = pd.Series(np.append(np.asarray(numbers, dtype="float64"), np.nan)[codes])
    wrong = cells.notna() & ~np.isfinite(values)
    if KINDS[name] == "int":
        wrong |= (values % 1 > 0) | (values.abs() > 2**53)
    if wrong.any():
        row, kind = int(wrong.argmax()), {"int": "whole", "float": "finite"}[KINDS[name]]
        cell = cells.astype(object)[row]
        raise ManifestError(f"row {row + 1}, column {name}: {cell!r} is no {kind} number")
    return values.astype("Int64") if KINDS[name] == "int" else values


def _json(name: str, cells: pd.Series) -> pd.Series:
    parsed: dict[str, Any] = {}  # most are alike: parsed once
    for row, text in enumerate(cells, start=1):
        if type(text) is str and text not in parsed:
            with contextlib.suppress(ValueError, RecursionError):
                parsed[text] = parsing.json_value(text)
            if parsed.get(text) is None:
                raise ManifestError(f"row {row}, column {name}: {text!r} is no JSON")
    values = [parsed[cell] if type(cell) is str else cell for cell in cells]
    if name == "flags":
        values = [[] if value is None else value for value in values]
    # Each row gets a list or dict of its own: rows are changed one at a time.
    values = [value.copy() if type(value) in (list, dict) else value for value in values]
    return pd.Series(values, dtype=object)


def _extra(name: str, cells: pd.Series) -> pd.Series:
    text = _text(name, cells)
    given = text.dropna()
    if len(given) and given.str.fullmatch(r"0|-?[1-9]\d{0,17}").all():
        return text.astype("Int64")
    if len(given) and given.str.fullmatch(r"-?\d[\d.e+-]*").all():
        values = pd.to_numeric(text, errors="coerce")
        if all(c in (repr(x), f"{x:.0f}") for x, c in zip(values[given.index], given, strict=True)):
            return values.astype("float64")
    return text
