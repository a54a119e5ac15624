"""What the loaders of several corpora need: folders whose case varies, texts, recordings, rows.

Copies of a corpus differ: ``Labels`` or ``label``, UTF-8 or Latin-1, and ``._name`` twins that
macOS leaves on other file systems (AppleDouble), which hold no audio and no text.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from serlib.data import parsing, spelling, tables
from serlib.data.tables import ManifestError

USUAL = dict(  # what the tables of corpora call a column of the manifest
    wav=("wav", "file", "path", "filename", "file_name", "audio", "audio_path", "filepath"),
    emo=("emo", "label", "emotion", "category", "emotion_label"),
    speaker=("speaker", "speaker_id", "spk", "spk_id", "spkrid", "actor", "talker"),
    text=("text", "transcript", "transcription", "sentence", "utterance"),
    gender=("gender", "sex"), split=("split", "split_set", "partition", "subset", "set"),
    start=("start", "start_time"), end=("end", "end_time"),
)  # fmt: skip
SPLITS = dict(
    train="train", training="train", dev="dev", development="dev", val="dev", valid="dev",
    validation="dev", test="test", testing="test", eval="test", test1="test1", test2="test2",
    test3="test3",
)  # fmt: skip
AUDIO = tuple(".wav .flac .mp3 .ogg .opus .aif .aiff .aifc .au .sph .w64 .caf .m4a .rf64".split())
VIDEO = frozenset(".avi .mp4 .mkv .mov .mpg .flv .wmv .webm .m4v".split())


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


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, in order, without hidden ones.

    Links to folders elsewhere are followed; those to inside lead to what comes anyway.
    """
    top, seen = os.path.realpath(root), set()
    for folder, inner, every in os.walk(root, followlinks=True):
        links = {n: os.path.realpath(p) for n in inner if os.path.islink(p := f"{folder}/{n}")}
        old = {n for n, to in links.items() if to in seen or Path(to).is_relative_to(top)}
        seen |= {*links.values()}
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in old)
        yield from (Path(folder) / name for name in sorted(every) if not name.startswith("."))


def acted(
    root: Path, folders: Sequence[Path], name: re.Pattern, example: str, texts: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    """The acted recordings in some folders, not below them, whose stems are of a grammar.

    Groups of the grammar `name` are columns; the one called text is a key of `texts`. `example` is
    the path of such a recording, for messages.

    Returns:
        A row for each recording, in order, and a remark on other waves.

    Raises:
        ManifestError: If there is no recording.
    """
    every = [(folder, wav) for folder in folders for wav in names(folder, ".wav")]
    parsed = [(name.fullmatch(wav[:-4]), folder / wav) for folder, wav in every]
    found = [
        match.groupdict() | dict(utt_id=match[0], wav=path.relative_to(root).as_posix())
        for match, path in parsed
        if match
    ]
    if not found:
        raise ManifestError(f"no recording like {example} in {root}: give the corpus's folder")
    df = pd.DataFrame(found).assign(emotion_source="acted", text_source="prompt")
    df["text"] = df["text"].map(texts)
    odd = sorted(path.name for match, path in parsed if not match)
    like = example.rpartition("/")[2]
    return df, [f"{len(odd)} files are not named like {like}: skipped ({few(odd)})"] * bool(odd)


def few(every: Sequence[str]) -> str:
    """The first three of many, for a remark."""
    return ", ".join(every[:3]) + ", ..." * (len(every) > 3)


def clips(root: Path, folder: Path | None) -> dict[str, str]:
    """Stem -> path from `root` of each clip in a folder: the sound pulled out, else the video."""
    found: dict[str, str] = {}
    for name in names(folder):
        stem, suffix = os.path.splitext(name)
        sound = suffix.lower() == ".wav"
        if sound or (suffix.lower() in VIDEO and stem not in found):
            found[stem] = (folder / name).relative_to(root).as_posix()
    return found


def text(path: str | os.PathLike) -> str:
    """A text file as UTF-8 or UTF-16, by its mark; if it is neither, as Windows-1252 or Latin-1.

    Ends of lines become a newline, whatever machine wrote them.
    """
    data = Path(path).read_bytes()
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for encoding in (marked, "cp1252", "latin-1"):
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 has a letter for every byte")


def jsonl(path: str | os.PathLike) -> pd.DataFrame:
    """A file with one JSON object per line; `ManifestError` if a line is none."""
    try:
        return parsing.jsonl(text(path))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


class _Texts(yaml.BaseLoader):
    """Each value is the text that stands there ("no", "01"), or None for null; keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a name stands twice", problem_mark=node.start_mark)
        return found


_Texts.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), [*"~nN", ""]
)
_Texts.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def settings(path: Path) -> Mapping[str, Any]:
    """A YAML file that is a map, all values as texts; a `ManifestError` if it is not."""
    try:
        content = yaml.load(text(path), _Texts)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        mark, why = (getattr(error, f"problem{part}", None) for part in ("_mark", ""))
        line = f", line {mark.line + 1}" if mark else ""
        raise ManifestError(f"{path}{line}: this is no YAML ({why or error}): mend it") from error
    if content is None or isinstance(content, Mapping):
        return content or {}
    raise ManifestError(f'{path} is not a map, one "name: value" a line')


def table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table as texts, empty cells missing; its decimal comma or point is ``attrs["decimal"]``.

    What separates the cells is seen from the first row: a comma, semicolon, tab or bar. Rows
    without any cell are left out.

    Raises:
        ManifestError: If it has no rows, or rows that are longer or shorter than the first, if the
            first repeats a name, or lacks one of `columns`.
    """
    content = text(path)
    if "\0" in content:
        raise ManifestError(f"{path} holds null bytes: save it as text, in UTF-8")
    separator = max(",;\t|", key=content.lstrip("\n").split("\n", 1)[0].count)
    try:
        rows = _rows(content, separator, strict=True)
    except csv.Error as error:
        if separator not in "\t|":
            raise ManifestError(f"{path} is no CSV table ({error}): mend its quotes") from error
        rows = _rows(content, separator, quoting=csv.QUOTE_NONE)
    header, *rows = [row for row in rows if any(row)] or [[]]
    header = [name or f"Unnamed: {i}" for i, name in enumerate(header[: _filled(header)])]
    if again := {name for name in header if header.count(name) > 1}:
        raise ManifestError(f"{path} has several columns {min(again)!r}: rename all but one")
    for number, row in enumerate(rows, start=1):
        if not _filled(row) <= len(header) <= len(row):
            many = f"{len(row)} cells, the header {len(header)}"
            raise ManifestError(
                f"{path}, row {number}: {many}: put texts with {separator!r} in quotes"
            )
    cells = [[cell or None for cell in row[: len(header)]] for row in rows]
    df = pd.DataFrame(cells, columns=header, dtype=object)
    absent = [name for name in columns if name not in df]
    if absent and header:
        raise ManifestError(f"{path} has no column {', '.join(absent)}, but {', '.join(df)}")
    if df.empty:
        raise ManifestError(f"{path} has no rows: copy it again")
    df.attrs["decimal"] = "." if separator == "," else ","
    return df


def _rows(content: str, separator: str, **how: Any) -> list[list[str]]:
    lines = csv.reader(
        io.StringIO(content, newline=""), delimiter=separator, skipinitialspace=True, **how
    )
    return [[cell.strip() for cell in row] for row in lines]


def _filled(row: Sequence[str]) -> int:
    """Cells up to the last that is not empty."""
    return max((i for i, cell in enumerate(row, start=1) if cell), default=0)


def numbers(cells: pd.Series, decimal: str = ".") -> pd.Series:
    """Cells as numbers, NaN where they are empty or say that the number is not known.

    The index says where a cell stands; with a decimal comma, a point is one too.

    Raises:
        ManifestError: If a cell is something else.
    """
    texts = cells.astype("string").str.strip()
    values = pd.to_numeric(texts.str.replace(decimal, "."), errors="coerce").astype("Float64")
    values = pd.Series(values.to_numpy("float64", na_value=np.nan), index=cells.index)
    given = np.array([isinstance(t, str) and not spelling.unknown(t) for t in texts], dtype=bool)
    if (wrong := given & ~np.isfinite(values)).any():
        where = wrong.idxmax()
        raise ManifestError(f"{where}, column {cells.name}: {cells[where]!r} is no number")
    return values


def rows(
    dataset: str,
    table: Sequence[dict] | pd.DataFrame,
    notes: Sequence[str],
    labels: Mapping[str, str] | None = None,
    group: str = "speaker",
) -> pd.DataFrame:
    """The rows of a corpus, with what follows from what its files say.

    Speakers get the dataset's name before their own, so that corpora can be put together. Texts are
    by people, if the corpus does not say otherwise. The notes are remarks for the report of a
    build, kept as ``attrs["notes"]``, with what lacks a speaker or an emotion.

    Labels map the corpus's own label, `emo`, to the emotion, which most raters agreed on if `table`
    has no `emotion_source`. `group` names the column that tells which rows must not cross a split,
    where `table` has none called group; a row in which it is missing is in a group of its own.
    """
    df, notes = pd.DataFrame(table), list(notes)
    for name, meant in tables.misspelt(df).items():
        df = df.drop(columns=name)
        notes.append(f"column {name!r} is left out: it looks like {meant!r}, but is not called so")
    for name in [name for name in ("speaker", "group") if name in df]:
        df[name] = _known(df, name, notes)
    if "speaker" not in df:
        df["speaker"] = None
    speakers = [f"{dataset}-{name}" if isinstance(name, str) else None for name in df["speaker"]]
    df["speaker"] = pd.Series(speakers, dtype=object, index=df.index)
    if labels:
        df["emotion"] = emotions = [labels.get(label) for label in df["emo"]]
        if "emotion_source" not in df:
            df["emotion_source"] = ["majority" if emotion else "none" for emotion in emotions]
    notes += _lost(df)
    if "text" in df and "text_source" not in df:
        df["text_source"] = ["human" if isinstance(said, str) else None for said in df["text"]]
    unit = df["group" if "group" in df else group]
    df["group"] = unit.where(unit.notna(), f"{dataset}-" + df["utt_id"])
    df.attrs["notes"] = notes
    return df


def _known(df: pd.DataFrame, name: str, notes: list[str]) -> pd.Series:
    """Names in one spelling; None where a cell says that none is known, or names the utterance."""
    names = df[name].map(lambda cell: spelling.clean(str(cell)), na_action="ignore").astype(object)
    none = names.map(spelling.unknown, na_action="ignore").eq(True)
    stems = df["wav"].str.replace(r"^.*/|\.\w+$", "", regex=True)
    own = ~none & ~names.duplicated(keep=False) & (names.eq(df["utt_id"]) | names.eq(stems))
    if none.any():
        words = ", ".join(sorted(names[none].unique()))
        notes.append(f"{name} is not known in {none.sum():,} rows ({words})")
    if own.any():
        notes.append(
            f"{name} is the name of the utterance in {own.sum():,} rows: taken for unknown"
        )
    return names.where(names.notna() & ~none & ~own, None)


def _lost(df: pd.DataFrame) -> list[str]:
    """Remarks on rows without a speaker, and on labels of no emotion."""
    without, found = int(df["speaker"].isna().sum()), []
    if without == len(df):
        found.append("no speakers are named: nothing proves that they are kept apart")
    elif without:
        found.append(f"{without:,} rows name no speaker: nothing proves them apart")
    counts = df["emo"][df["emotion"].isna()].value_counts()
    if some := ", ".join(f"{emo} ({n:,})" for emo, n in sorted(counts.items())):
        found.append(f"{counts.sum():,} rows have labels without an emotion: {some}")
    return found


def scale(ends: Any) -> tuple[float, float] | None:
    """The ends of a scale from their texts, whole numbers as such; None if they are no scale."""
    try:
        low, high = (int(x) if x.is_integer() else x for x in map(float, ends))
    except (ValueError, TypeError, OverflowError):
        return None
    return (low, high) if low < high else None


def attribute(df: pd.DataFrame, name: str, raw: pd.Series, low: float, high: float) -> None:
    """Put an attribute on 1..7, 1 + 6 (x - low) / (high - low), and what was rated beside it."""
    df[f"{name}_raw"], df[name] = raw, (1 + 6 * (raw - low) / (high - low)).round(4)
    df["attr_scale"] = [[low, high] for _ in range(len(df))]
