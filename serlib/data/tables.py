"""The file format of manifests: typed columns in CSV or JSONL, which hold the same table.

Missing is None in columns of text and JSON, NaN in floats and <NA> in whole numbers; in a file it
is an empty cell or null, and an empty text is missing. What a good manifest is `manifest` says.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serlib import records

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
_TRUTH = re.compile(r'(^|[,"\n])(true|false)([,"\n\r]|$)')  # pandas takes it for 1 and 0
_PLAIN = {"string", "floating", "integer", "mixed-integer-float", "empty"}  # of infer_dtype
REQUIRED = ("key", "dataset", "utt_id", "wav", "length", "emotion", "speaker", "group")


class ManifestError(ValueError):
    """A manifest, or what is asked of it, is not as it must be."""


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read a manifest, .csv or .jsonl; both give the same table.

    A column that is not in `COLUMNS` becomes numbers if each of its cells is a number as Python
    prints it ("12", "0.5"), else it stays text ("007" does).

    Returns:
        Columns `COLUMNS`, absent ones filled with missing, then the file's other columns.

    Raises:
        ManifestError: If the file is empty, not UTF-8 or not rectangular; if a `REQUIRED` column
            is not there; if a cell does not parse, or a key is missing or repeated.
    """
    parse = {".csv": _parse_csv, ".jsonl": parse_jsonl}[suffix(path)]
    try:
        return typed(parse(utf8(path)))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def write(df: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write a manifest, .csv or .jsonl, atomically; `read` gives back the table that `read` gave.

    Raises:
        ManifestError: If `read` would not accept the table.
    """
    df, kind = typed(df), suffix(path)
    if kind == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(df))
    else:
        lists = {name: _dumped(df[name]) for name, kind in KINDS.items() if kind == "json"}
        df = df.assign(**lists)
        text = df.to_csv(index=False, lineterminator="\n")
        if "\r" in text:  # csv leaves it without quotes, where it would end the row
            text = df.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    records.atomic_write(path, text)


def rows(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts of plain Python values, None for missing."""
    return df.astype(object).where(df.notna(), None).to_dict("records")


def digest(df: pd.DataFrame) -> str:
    """Hash the table: every cell and the order of rows count, the order of columns does not."""
    df, total = typed(df), hashlib.sha256()
    cells = df.astype(object).where(df.notna(), None)
    for name in sorted(df.columns[df.notna().any()]):
        total.update(json.dumps([name, cells[name].tolist()], sort_keys=True).encode())
    return total.hexdigest()[:12]


def identity(name: str) -> str:
    """One form for all spellings of a name: of a speaker, a group, a file.

    Unicode forms, width, case, blanks around and invisible characters do not count, nor does the
    ".0" that a number gets in a spreadsheet: "Ｓ01 ", "s01" are one, "7.0" and "7", not "07".

    >>> identity("\u00a0ANNA\u200b") == identity("anna"), identity("7.0"), identity("07")
    (True, '7', '07')
    """
    seen = "".join(
        c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf"
    )
    folded = unicodedata.normalize("NFKC", " ".join(seen.split()).casefold())
    return folded.split(".")[0] if re.fullmatch(r"-?\d+\.0+", folded) else folded


def suffix(path: str | os.PathLike) -> str:
    """The file format that a manifest's name asks for, ".csv" or ".jsonl"."""
    kind = Path(path).suffix
    if kind not in (".csv", ".jsonl"):
        raise ManifestError(f"{path}: a manifest's name ends in .csv or .jsonl")
    return kind


def utf8(path: str | os.PathLike) -> str:
    """The text of a file, or a ManifestError."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ManifestError(f"line {line} is not UTF-8: save the file as UTF-8") from error
    if "\0" in text:
        raise ManifestError("holds null bytes: save the file as UTF-8")
    return text


def _parse_csv(text: str) -> pd.DataFrame:
    # Twice over the text: pandas fills up rows that are too short, as where a file's end is lost.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if "" in header or len(set(header)) < len(header):
            raise ManifestError(f"column names are empty or repeated: {', '.join(header)}")
        wide = np.fromiter(map(len, filter(None, reader)), dtype=np.int64)
    except csv.Error as error:
        raise ManifestError(f"line {reader.line_num} is not CSV ({error}): fix it") from error
    if (odd := wide != len(header)).any():
        number = int(odd.argmax())
        raise ManifestError(
            f"row {number + 1} has {wide[number]} cells, the header {len(header)}: put quotes "
            "around texts with commas"
        )
    return _cells(text, header) if header else pd.DataFrame()


def _cells(text: str, header: list[str]) -> pd.DataFrame:
    """The cells as texts; columns of numbers as such, if pandas takes each cell for one, as we do.

    If it does not, they stay texts, so that `typed` can say which cell is wrong and what it holds.
    """
    plain = dict(keep_default_na=False, index_col=False)
    numbers = [name for name in header if KINDS.get(name) in ("int", "float")]
    kinds = dict.fromkeys(header, object) | dict.fromkeys(numbers, "float64")
    lower = text.lower()
    if not (("true" in lower or "false" in lower) and _TRUTH.search(lower)):
        with contextlib.suppress(ValueError):
            empty = dict.fromkeys(numbers, [""])
            df = pd.read_csv(io.StringIO(text, newline=""), dtype=kinds, na_values=empty, **plain)
            whole = df[[name for name in numbers if KINDS[name] == "int"]].to_numpy()
            odd = (whole % 1 > 0) | (np.abs(whole) > 2**53)
            if not (odd.any() or np.isinf(df[numbers].to_numpy()).any()):
                return df
    return pd.read_csv(io.StringIO(text, newline=""), dtype=object, **plain)


def parse_jsonl(text: str) -> pd.DataFrame:
    """One row per line, a JSON object; cells as they are, not yet `typed`."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ManifestError(f"line {number} is not JSON ({error})") from error
            if not isinstance(found[-1], dict):
                raise ManifestError(f"line {number} is not one JSON object")
    return pd.DataFrame(found, dtype=object)


def typed(raw: pd.DataFrame) -> pd.DataFrame:
    """Check the columns and the keys, and give each column its type; see `read`."""
    if raw.empty:
        raise ManifestError("no rows: a manifest has at least one utterance")
    if absent := [name for name in REQUIRED if name not in raw]:
        raise ManifestError(
            f"columns {', '.join(absent)} are missing, there are {', '.join(raw)}: add them "
            "(from_emobox reads EmoBox files)"
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
    if df["key"].isna().any():
        raise ManifestError(f"row {df['key'].isna().argmax() + 1} has no key: give it one")
    if (again := df["key"].duplicated()).any():
        key = df["key"][again].iloc[0]
        where = ", ".join(str(i + 1) for i in np.flatnonzero(df["key"] == key))
        raise ManifestError(f"key {key!r} stands in rows {where}: make keys unique")
    return df


def _text(name: str, cells: pd.Series) -> pd.Series:
    if pd.api.types.infer_dtype(cells, skipna=True) in ("string", "empty"):
        return cells
    return _dumped(cells)


def _dumped(cells: pd.Series) -> pd.Series:
    def form(cell: Any) -> str | None:
        if cell is None or isinstance(cell, str):
            return cell
        value = cell.item() if isinstance(cell, np.generic) else cell
        return json.dumps(value, ensure_ascii=False)

    return pd.Series([form(cell) for cell in cells], dtype=object)


def _number(name: str, cells: pd.Series) -> pd.Series:
    scalar = cells
    if pd.api.types.infer_dtype(cells, skipna=True) not in _PLAIN:
        scalar = cells.map(lambda cell: None if isinstance(cell, (bool, list, dict)) else cell)
    values = pd.to_numeric(scalar, errors="coerce").astype("float64")
    wrong = cells.notna() & ~np.isfinite(values)
    if KINDS[name] == "int":
        wrong |= (values % 1 > 0) | (values.abs() > 2**53)
    if wrong.any():
        row, kind = int(wrong.argmax()), {"int": "whole", "float": "finite"}[KINDS[name]]
        cell = cells.astype(object)[row]
        raise ManifestError(f"row {row + 1}, column {name}: {cell!r} is no {kind} number")
    return values.astype("Int64") if KINDS[name] == "int" else values


def _json(name: str, cells: pd.Series) -> pd.Series:
    parsed, values = functools.cache(json.loads), []  # most are alike: parsed once
    for row, cell in enumerate(cells, start=1):
        if type(cell) is str:
            text, cell = cell, None
            with contextlib.suppress(ValueError):
                cell = parsed(text)
            if cell is None:
                raise ManifestError(f"row {row}, column {name}: {text!r} is no JSON")
        # Each row gets a list or dict of its own: rows are changed one at a time.
        values.append(cell.copy() if type(cell) in (list, dict) else cell)
    if name == "flags":
        values = [[] if value is None else value for value in values]
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
