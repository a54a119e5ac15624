"""What the loaders of several corpora need: folders whose case varies, texts, recordings, rows.

Copies of a corpus differ: ``Labels`` or ``label``, UTF-8 or Latin-1, and ``._name`` twins that
macOS leaves on other file systems (AppleDouble), which hold no audio and no text.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from serlib.data import tables
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
    """All files below a folder, in order, without hidden ones."""
    for folder, inner, every in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(every) if not name.startswith("."))


def recordings(
    root: Path, folders: Sequence[Path], name: re.Pattern, example: str
) -> tuple[list[tuple[re.Match, str]], list[str]]:
    """The waves in some folders, not below them, whose stems are of the grammar `name`.

    `example` is the path of such a recording, for messages.

    Returns:
        What the grammar finds and the path from `root`, for each; and a remark on other waves.

    Raises:
        ManifestError: If there is no recording.
    """
    every = [(folder, wav) for folder in folders for wav in names(folder, ".wav")]
    parsed = [(name.fullmatch(wav[:-4]), folder / wav) for folder, wav in every]
    found = [(match, path.relative_to(root).as_posix()) for match, path in parsed if match]
    if not found:
        raise ManifestError(f"no recording like {example} in {root}: give the corpus's folder")
    odd = sorted(path.name for match, path in parsed if not match)
    some = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    like = example.rpartition("/")[2]
    return found, [f"{len(odd)} files are not named like {like}: skipped ({some})"] * bool(odd)


def clips(folder: Path | None) -> dict[str, str]:
    """Stem -> name of each clip in a folder: the sound that was pulled out, else the video."""
    found: dict[str, str] = {}
    for name in names(folder):
        stem, suffix = os.path.splitext(name)
        sound = suffix.lower() == ".wav"
        if sound or (suffix.lower() in VIDEO and stem not in found):
            found[stem] = name
    return found


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


def jsonl(path: str | os.PathLike) -> pd.DataFrame:
    """A file with one JSON object per line; `ManifestError` if a line is none."""
    try:
        return tables.parse_jsonl(text(path))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file as texts, empty cells missing; `ManifestError` if it lacks one of `columns`.

    What separates the cells (a comma, semicolon, tab or bar) is seen from the first line.
    """
    try:
        content = text(path)
        first = content.split("\n", 1)[0]
        separator = max(",;\t|", key=first.count)
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


def rows(
    dataset: str,
    table: Sequence[dict] | pd.DataFrame,
    notes: Sequence[str],
    labels: Mapping[str, str] | None = None,
    group: str = "speaker",
) -> pd.DataFrame:
    """The rows of a corpus, with what follows from what its files say.

    Talkers get the dataset's name before their own, so that corpora can be put together. If there
    are none, a note says so. Texts are by people, if the corpus does not say otherwise. The notes
    are remarks for the report of a build, kept as ``attrs["notes"]``.

    Labels map the corpus's own label, `emo`, to the emotion, which most raters agreed on if `table`
    has no `emotion_source`. `group` names the column that tells which rows must not cross a split,
    where `table` has none called group; a row in which it is missing is in a group of its own.
    """
    df = pd.DataFrame(table)
    if "speaker" not in df:
        df["speaker"] = None
        notes = [*notes, "no talkers are named: nothing proves that they are kept apart"]
    talkers = [f"{dataset}-{name}" if isinstance(name, str) else None for name in df["speaker"]]
    df["speaker"] = pd.Series(talkers, dtype=object, index=df.index)
    if labels:
        df["emotion"] = emotions = [labels.get(label) for label in df["emo"]]
        if "emotion_source" not in df:
            df["emotion_source"] = ["majority" if emotion else "none" for emotion in emotions]
    if "text" in df and "text_source" not in df:
        df["text_source"] = ["human" if isinstance(said, str) else None for said in df["text"]]
    if "group" not in df:
        df["group"] = df[group].where(df[group].notna(), f"{dataset}-" + df["utt_id"])
    df.attrs["notes"] = list(notes)
    return df


def attribute(df: pd.DataFrame, name: str, raw: pd.Series, low: float, high: float) -> None:
    """Put an attribute on 1..7, 1 + 6 (x - low) / (high - low), and what was rated beside it."""
    df[f"{name}_raw"], df[name] = raw, (1 + 6 * (raw - low) / (high - low)).round(4)
    df["attr_scale"] = [[low, high] for _ in range(len(df))]
