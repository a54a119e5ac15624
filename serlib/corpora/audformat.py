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

import pandas as pd
import yaml

from serlib.corpora import files
from serlib.data.manifest import ATTRIBUTES
from serlib.data.tables import EMOTIONS, ManifestError

FACTS = ("speaker", "gender", "age", "text", *ATTRIBUTES)
TEXT = {"transcription": "text", "transcript": "text"}
INDEX = ("file", "start", "end")
SPLITS = ("train", "dev", "test")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """The rows of all tables that have a column `emotion`.

    What those lack (speaker, gender, age, text, attributes) is looked up in the other tables by
    file, and by speaker. An emotion that is none of `tables.EMOTIONS` is left out and remarked.
    `version` names the tables to take, with * for any letters and commas between; "" takes all.

    Raises:
        ManifestError: If there is no header, a table is not there as CSV, no table has emotions,
            or tables label the same file or segment twice.
    """
    header = _header(root)
    tables = header.get("tables") or {}
    wanted = [pattern.strip() for pattern in version.split(",")] if version else ["*"]
    chosen = [
        name
        for name, table in tables.items()
        if "emotion" in (table.get("columns") or {}) and any(fnmatchcase(name, w) for w in wanted)
    ]
    if not chosen:
        raise ManifestError(f"no table {version or 'with a column emotion'} in {root}: there are "
                            f"{', '.join(tables) or 'none'}")  # fmt: skip
    parts = [_table(root, name).assign(split=_split(header, name)) for name in chosen]
    df = pd.concat(parts, ignore_index=True)
    for name in INDEX[1:]:
        df[name] = _seconds(df[name]) if name in df else float("nan")
    if (again := df.duplicated(list(INDEX))).any():
        raise ManifestError(
            f"{df['file'][again].iloc[0]} is labeled in several of the tables {', '.join(chosen)}: "
            "choose by version, e.g. emotion or emotion.categories.*"
        )
    _look_up(df, root, header, [name for name in tables if name not in chosen])
    return _rows(df, header)


def _header(root: Path) -> Mapping:
    path = files.need(root, "db.yaml", hint="give the folder of an audformat database")
    header = yaml.safe_load(files.text(path))
    if not isinstance(header, Mapping):
        raise ManifestError(f"{path} is no header of a database: copy it again")
    return header


def _table(root: Path, name: str) -> pd.DataFrame:
    path = files.child(root, f"db.{name}.csv")
    if path is None:
        raise ManifestError(
            f"no db.{name}.csv in {root}: save the database with audformat as "
            'database.save(FOLDER, storage_format="csv")'
        )
    df = files.table(path)
    return df if "text" in df else df.rename(columns=TEXT)


def _split(header: Mapping, name: str) -> str | None:
    """Of a table: as its header says, else from its name (emotion.categories.test)."""
    given = header["tables"][name].get("split_id")
    kind = ((header.get("splits") or {}).get(given) or {}).get("type", given)
    return next((s for s in (kind, *name.split(".")) if s in SPLITS), None)


def _seconds(cells: pd.Series) -> pd.Series:
    """From "0 days 00:00:01.500000", or a number of seconds; an empty cell is missing."""
    number = pd.to_numeric(cells, errors="coerce")
    spelled = pd.to_timedelta(cells.where(number.isna()), errors="coerce").dt.total_seconds()
    return number.fillna(spelled)


def _look_up(df: pd.DataFrame, root: Path, header: Mapping, others: list[str]) -> None:
    """Fill the columns of `FACTS` that are missing."""
    for name in others:
        columns = [TEXT.get(c, c) for c in header["tables"][name].get("columns") or {}]
        wanted = [fact for fact in FACTS if fact in columns and fact not in df]
        if wanted and header["tables"][name].get("type") == "filewise":
            table = _table(root, name).set_index("file")
            for fact in wanted:
                df[fact] = df["file"].map(table[fact])
    if "speaker" in (header.get("misc_tables") or {}) and "speaker" in df:
        table = _table(root, "speaker")
        table = table.set_index(table.columns[0])
        for fact in [fact for fact in FACTS if fact in table and fact not in df]:
            df[fact] = df["speaker"].map(table[fact])


def _rows(df: pd.DataFrame, header: Mapping) -> pd.DataFrame:
    dataset = str(header.get("name") or "audformat").lower()
    unknown = sorted(set(df["emotion"].dropna()) - set(EMOTIONS))
    notes = [f"labels without an emotion: {', '.join(unknown)}"] * bool(unknown)
    df = df.rename(columns={"file": "wav"})
    df["emo"], df["emotion"] = df["emotion"], df["emotion"].where(~df["emotion"].isin(unknown))
    whole = df["start"].fillna(0).eq(0) & df["end"].isna()
    stem = df["wav"].str.replace(r"\.\w+$", "", regex=True).str.replace("/", "_")
    df["utt_id"] = stem.where(whole, stem + "_" + df["start"].round(3).astype(str))
    df["start"] = df["start"].where(~whole)
    for name in (name for name in ATTRIBUTES if name in df):
        scheme = (header.get("schemes") or {}).get(name) or {}
        low, high = scheme.get("minimum"), scheme.get("maximum")
        if low is None or high is None or not low < high:
            raise ManifestError(f"db.yaml: the scheme {name} has no minimum and maximum: add them")
        files.attribute(df, name, pd.to_numeric(df[name]), low, high)
    languages = header.get("languages") or []
    language = languages[0] if len(languages) == 1 else None
    df = df.assign(dataset=dataset, license=header.get("license"), language=language)
    return files.rows(dataset, df.drop(columns="group", errors="ignore"), notes)
