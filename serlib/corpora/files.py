"""What the loaders of several corpora need: folders whose case varies, texts, lists of files.

Copies of a corpus differ: ``Labels`` or ``label``, UTF-8 or Latin-1, and ``._name`` twins that
macOS leaves on other file systems (AppleDouble), which hold no audio and no text.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from serlib.data.tables import ManifestError


def child(folder: Path, *names: str) -> Path | None:
    """The entry of a folder with one of these names in any case, the first name first, or None."""
    if not folder.is_dir():
        return None
    found = {name.casefold(): folder / name for name in sorted(os.listdir(folder), reverse=True)}
    return next((found[name.casefold()] for name in names if name.casefold() in found), None)


def need(folder: Path, *names: str, hint: str) -> Path:
    """As `child`, or a `ManifestError` that tells what was looked for and the `hint`."""
    if (path := child(folder, *names)) is None:
        raise ManifestError(f"no {' or '.join(names)} in {folder}: {hint}")
    return path


def names(folder: Path | None, suffix: str = "") -> list[str]:
    """Names in a folder that end in `suffix` (in any case), sorted, without hidden ones."""
    if folder is None or not folder.is_dir():
        return []
    suffix = suffix.casefold()
    every = os.listdir(folder)
    return sorted(n for n in every if not n.startswith(".") and n.casefold().endswith(suffix))


def text(path: str | os.PathLike) -> str:
    """A text file as UTF-8, with or without byte order mark; if it is not, as Latin-1.

    Ends of lines become a newline, whatever machine wrote them.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = data.decode("latin-1")
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def texts(paths: Sequence[str | os.PathLike], workers: int = 8) -> list[str]:
    """Many small text files, in order; reading waits for the disk, so threads help."""
    size = -(-len(paths) // workers) or 1
    parts = [paths[i : i + size] for i in range(0, len(paths), size)]
    with ThreadPoolExecutor(workers) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda p: list(map(text, p)), parts)))


def table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file as texts, empty cells missing; `ManifestError` if it lacks one of `columns`.

    What separates the cells (a comma, semicolon or tab) is seen from the first line.
    """
    try:
        content = text(path)
        first = content.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        df = pd.read_csv(
            io.StringIO(content), sep=separator, dtype=object, keep_default_na=False,
            skipinitialspace=True,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ManifestError(f"{path} is no CSV table ({error}): copy it again") from error
    if not isinstance(df.index, pd.RangeIndex):
        raise ManifestError(f"{path} has more cells than names of columns: repair its first line")
    df.columns = df.columns.str.strip()
    if absent := [name for name in columns if name not in df]:
        raise ManifestError(f"{path} has no column {', '.join(absent)}, but {', '.join(df)}")
    cells = {name: [str(cell).strip() or None for cell in df[name]] for name in df}
    return pd.DataFrame(cells, dtype=object)


def odd_names(names: Sequence[str], example: str) -> list[str]:
    """What to remark about files whose names tell nothing; no line if there are none."""
    if not names:
        return []
    some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{len(names)} files are not named like {example}: skipped ({some})"]
