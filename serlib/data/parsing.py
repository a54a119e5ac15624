"""Files of tables as cells, CSV or JSONL; what cannot be read says which line is wrong, and how."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


class ManifestError(ValueError):
    """A manifest, or what is asked of it, is not as it must be: one line, whatever it quotes."""

    def __init__(self, message: str) -> None:  # noqa: D107
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """Without ends of lines and other control characters, and without the middle if it is long."""
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", message)
    return line if len(line) <= 1_000 else f"{line[:700]} ... {line[-290:]}"


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


def csv_cells(text: str) -> pd.DataFrame:
    """One row per line that is not empty, cells as texts; each row is as long as the header."""
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
    plain = dict(dtype=object, keep_default_na=False, index_col=False)
    return pd.read_csv(io.StringIO(text, newline=""), **plain) if header else pd.DataFrame()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{again!r} stands twice in one object")
    return found


json_value = json.JSONDecoder(object_pairs_hook=_object).decode


def jsonl(text: str) -> pd.DataFrame:
    """One row per line, a JSON object; cells as they are, not yet `typed`."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            try:
                found.append(json_value(line))
                if "\\u" in line:  # half of a pair, which no file can hold
                    json.dumps(found[-1], ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"line {number} is not JSON ({error})") from error
            if not isinstance(found[-1], dict):
                raise ManifestError(f"line {number} is not one JSON object")
    return pd.DataFrame(found, dtype=object)
