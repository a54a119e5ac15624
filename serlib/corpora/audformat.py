"""Databases in audEERING's audformat, as audb delivers them: a header, and tables as CSV.

    db.yaml                     schemes, tables, splits, language, license
    db.emotion.csv              file,emotion,...            a row per file
    db.segments.csv             file,start,end,emotion,...  a row per segment
    db.speaker.csv              speaker,gender,age,...      facts about speakers
    wav/03a01Fa.wav

Read without audformat itself, so tables must lie as CSV (``storage_format="csv"``). Source: the
format's specification, https://audeering.github.io/audformat.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from serlib.corpora import files
from serlib.corpora.emobox import emotion
from serlib.data.manifest import ATTRIBUTES
from serlib.data.tables import ManifestError

FACTS = ("speaker", "gender", "age", "text", *ATTRIBUTES)
TEXT = {"transcription": "text", "transcript": "text"}
INDEX = ("file", "start", "end")
SPLITS = ("train", "dev", "test")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """The rows of all tables that have a column `emotion`.

    What those lack (speaker, gender, age, text, attributes) is looked up in the other tables by
    file, and in the labels of schemes: keys stand for texts, or for facts about speakers, which
    the header or a misc table tells. An emotion that is none of `tables.EMOTIONS` is left out and
    counted. `version` names the tables to take, with * for any letters and commas between; ""
    takes all. The release is what audb has noted in the header.

    Raises:
        ManifestError: If there is no header, a table is not there as CSV, no table has emotions,
            tables label the same file or segment twice, or a number or time is none.
    """
    header = files.settings(files.need(root, "db.yaml", hint="give the folder of a database"))
    tables = _part(header, "tables")
    wanted = [pattern.strip() for pattern in version.split(",")] if version else ["*"]
    chosen = [
        name
        for name in tables
        if "emotion" in _part(tables, name, "columns") and any(fnmatchcase(name, w) for w in wanted)
    ]
    if not chosen:
        raise ManifestError(f"no table {version or 'with a column emotion'} in {root}: there are "
                            f"{', '.join(tables) or 'none'}")  # fmt: skip
    parts = [
        _table(root, header, name, "file", "emotion").assign(split=_split(header, name))
        for name in chosen
    ]
    df = pd.concat(parts)
    for name in INDEX[1:]:
        df[name] = _seconds(df[name]) if name in df else float("nan")
    if (again := df.duplicated(list(INDEX))).any():
        raise ManifestError(
            f"{df['file'][again].iloc[0]} is labeled in several of the tables {', '.join(chosen)}: "
            "choose by version, e.g. emotion or emotion.categories.*"
        )
    for name in tables:  # what a file has in others
        if name not in chosen and _part(tables, name).get("type") == "filewise":
            columns = {TEXT.get(column, column) for column in _part(tables, name, "columns")}
            if columns & {*FACTS} - {*df}:
                _fill(df, "file", _table(root, header, name, "file").set_index("file"))
    return _rows(df, header)


def _part(header: Any, *names: str) -> Mapping:
    """A map inside the header's maps, empty if it is not there."""
    for name in names:
        header = header.get(name) if isinstance(header, Mapping) else None
    return header if isinstance(header, Mapping) else {}


def _table(root: Path, header: Mapping, name: str, *needed: str) -> pd.DataFrame:
    """A table, keys replaced by what they stand for, and with the facts about its speakers."""
    path = files.child(root, f"db.{name}.csv")
    if path is None:
        raise ManifestError(
            f"no db.{name}.csv in {root}: save the database with audformat as "
            'database.save(FOLDER, storage_format="csv")'
        )
    df = files.table(path, needed)
    df.index = [f"{path.name}, row {i + 1}" for i in df.index]  # for messages
    misc = _part(header, "misc_tables")
    columns = _part(header, "tables", name, "columns") or _part(misc, name, "columns")
    for column in [column for column in columns if column in df]:
        scheme = _part(columns, column).get("scheme_id", column)
        labels = _part(header, "schemes", scheme).get("labels", column)
        if isinstance(labels, str) and labels in misc and labels != name:
            table = _table(root, header, labels)
            told = table.set_index(table.columns[0])
        elif isinstance(labels, Mapping):
            told = pd.DataFrame(
                [v if isinstance(v, Mapping) else {column: v} for v in labels.values()],
                index=list(labels), dtype=object,
            )  # fmt: skip
        else:
            continue
        told = told.rename(columns={column: "text"} if column in TEXT else TEXT)
        _fill(df, column, told)
        if column in told:
            df[column] = df[column].map(told[column])
    df = df.drop(columns=[column for column in TEXT if "text" in df and column in df])
    return df.rename(columns=TEXT)


def _fill(df: pd.DataFrame, key: str, told: pd.DataFrame) -> None:
    for fact in [fact for fact in FACTS if fact in told and fact not in df]:
        df[fact] = df[key].map(told[fact][~told.index.duplicated()])


def _split(header: Mapping, name: str) -> str | None:
    """Of a table: as its header says, else from its name (emotion.categories.test)."""
    given = _part(header, "tables", name).get("split_id")
    kind = _part(header, "splits", given).get("type", given)
    return next((s for s in (kind, *name.split(".")) if s in SPLITS), None)


def _seconds(cells: pd.Series) -> pd.Series:
    """From "0 days 00:00:01.500000", or a number of seconds; an empty cell is missing."""
    spelled = pd.to_timedelta(cells.where(cells.str.contains(":", na=False)), errors="coerce")
    texts = spelled.dt.total_seconds().astype(object).where(spelled.notna(), cells)
    return files.numbers(texts.astype("string").rename(cells.name))


def _rows(df: pd.DataFrame, header: Mapping) -> pd.DataFrame:
    dataset = str(header.get("name") or "audformat").lower()
    df = df.rename(columns={"file": "wav"})
    df["emo"], df["emotion"] = df["emotion"], df["emotion"].map(emotion, na_action="ignore")
    whole = df["start"].fillna(0).eq(0) & df["end"].isna()
    stem = df["wav"].str.replace(r"\.\w+$", "", regex=True).str.replace("/", "_")
    df["utt_id"] = stem.where(whole, stem + "_" + df["start"].round(3).astype(str))
    df["start"] = df["start"].where(~whole)
    for name in (name for name in ATTRIBUTES if name in df):
        scheme = _part(header, "schemes", name)
        scale = files.scale([scheme.get("minimum"), scheme.get("maximum")])
        if scale is None:
            raise ManifestError(f"db.yaml: the scheme {name} has no minimum and maximum: add them")
        files.attribute(df, name, files.numbers(df[name]), *scale)
    languages = header.get("languages") or []
    df = df.assign(
        dataset=dataset, license=header.get("license"),
        language=languages[0] if len(languages) == 1 else None,
        dataset_version=_part(header, "audb").get("version", header.get("version")),
    )  # fmt: skip
    return files.rows(dataset, df.drop(columns="group", errors="ignore"), [])
