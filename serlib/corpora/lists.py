"""Split files as others publish them: read them, and find out who speaks in each row.

Published lists seldom say who speaks. For corpora whose names tell, speaker and dialogue are read
from the names, each row on its own; EmoBox's speakers stand in a file beside its folds; for others
(and for transcripts and audio) a manifest tells.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from serlib.corpora import emobox, files, meld
from serlib.data.spelling import identity, unknown
from serlib.data.tables import ManifestError

# Grammars of names. Groups whose names start with `speaker_` are joined to the speaker.
NAMES = {
    "iemocap": r"(?P<dialogue>(?P<session>(?P<speaker_a>Ses0\d))[FM]_\w+)_(?P<speaker_b>[FM])\d{3}",
    "msp-podcast": r"MSP-PODCAST_(?P<dialogue>[0-9A-Za-z]+)(?:_\d+)+",
    "ravdess": r"\d\d-\d\d-\d\d-\d\d-(?P<text>\d\d)-\d\d-(?P<speaker_a>\d\d)",
    "cremad": r"(?P<speaker_a>1\d{3})_(?P<text>[A-Z]{3})_[A-Z]{3}_[A-Z]{1,2}",
    "emodb": r"(?P<speaker_a>\d\d)(?P<text>[ab]\d\d)[A-Z][a-z]?",
}
PREFIX = r"(?:[a-z][\w-]*-)?"  # EmoBox puts the corpus before the name
TOLD = ("speaker", "group", "dialogue", "session", "text", "sha256")  # what a row may say
COLUMNS = {name: files.USUAL.get(name, (name,)) for name in ("key", "wav", "dataset", *TOLD)}
COLUMNS["wav"] += ("utt_id", "name", "id")
COLUMNS["speaker"] += ("speakers", "speakerid")
AUDIO = r"\.(?:wav|flac|mp3|mp4|m4a|aiff?|avi|ogg|opus|sph|webm)$"
_LINE = re.compile(rf"(.+?{AUDIO[:-1]})(?:\s|$)|(\S+)", re.I)


def read(path: Path) -> pd.DataFrame:
    """A list as a table: .jsonl, .json, .csv, .tsv, or .txt with one file a line.

    JSON may be a list, EmoBox's objects by key, or SUPERB's object with one list among its values.
    Rows of EmoBox get the speakers of an .stm file beside the list or one folder above, rows of
    MELD a key as `meld.utterances` gives it.

    Raises:
        ManifestError: If it is no such list.
    """
    if path.suffix == ".txt":
        lines = (_LINE.match(line.strip()) for line in files.text(path).split("\n"))
        table = pd.DataFrame({"file": [line[1] or line[2] for line in lines if line]})
    elif path.suffix in (".jsonl", ".json"):
        table = _json(path)
    else:
        table = files.table(path)
    if table.empty:
        raise ManifestError(f"{path} names no file: it needs one row for each utterance")
    if {*meld.COLUMNS} <= {*table}:
        split = path.stem.split("_")[0]
        dialogue = [f"{split}_dia{number}" for number in texts(table["Dialogue_ID"])]
        numbers = zip(dialogue, texts(table["Utterance_ID"]), strict=True)
        keys = [f"{dia}_utt{number}" for dia, number in numbers]
        people = [meld.speaker(name) for name in texts(table["Speaker"])]
        own = dict(key=keys, utt_id=keys, dialogue=dialogue, group=dialogue, Speaker=people)
        table = table.assign(**own)
    elif "key" in table and _column(table, "speaker") is None:
        people = emobox.speakers_of(path.parent) or emobox.speakers_of(path.parent.parent)
        table["speaker"] = [people.get(key) for key in texts(table["key"])]
    return table


def _json(path: Path) -> pd.DataFrame:
    try:
        content = json.loads(files.text(path))
    except (ValueError, RecursionError):
        return files.jsonl(path)
    if isinstance(content, dict):
        inner = [x for x in content.values() if isinstance(x, list) and _of_objects(x)]
        if len(inner) == 1:
            content = inner[0]
        elif _of_objects(content.values()):
            content = [{"key": key} | row for key, row in content.items()]
        else:
            content = [content]  # the only line of a .jsonl
    if isinstance(content, list):
        content = [{"file": row} if isinstance(row, str) else row for row in content]
    if not isinstance(content, list) or not _of_objects(content):
        raise ManifestError(f"{path} is no list of files: write a list of objects with a file each")
    return pd.DataFrame(content, dtype=object)


def _of_objects(rows: Collection) -> bool:
    return len(rows) > 0 and all(isinstance(row, dict) for row in rows)


def texts(cells: pd.Series) -> list[str]:
    """Cells of any kind as texts, without blanks around; what is missing is empty."""
    return ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]


def _column(table: pd.DataFrame, name: str) -> str | None:
    """The column of a table that holds what a manifest calls `name`."""
    lower = {re.sub(r"[\W_]+", "_", str(c).strip().lower()): c for c in reversed(list(table))}
    return next((lower[word] for word in COLUMNS[name] if word in lower), None)


def described(
    sides: Mapping[str, pd.DataFrame], corpus: str = "", known: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The rows of all sides with `side`, `utterance` and `TOLD`; None is unknown.

    An utterance is its key, where keys are unique on each side, else the path of its file, folders
    included; a name without folders that several speakers have tells none. `said` is the speaker as
    the lists have it, `doubt` why a row was not looked up.

    Args:
        sides: Tables as `read` gives them.
        corpus: Whose names they are, one of `NAMES`; "" takes for each row the grammar that fits.
        known: A manifest in which the utterances are looked up instead.

    Raises:
        ManifestError: If a row names no file, or no name is of the corpus or in the manifest.
    """
    tables = {side: _plain(table, side) for side, table in sides.items()}
    rows = pd.concat(tables, names=["side", None]).reset_index("side").reset_index(drop=True)
    rows["path"] = rows["wav"].where(rows["wav"].notna(), rows["key"])
    several = rows.groupby("path")["speaker"].transform("nunique") > 1  # files of equal names
    rows["utterance"] = rows["path"].mask(several & ~rows["path"].str.contains("/"), None)
    rows["doubt"] = None
    keyed = rows["key"].notna().all() and not rows.duplicated(["side", "key"]).any()
    if keyed and not rows["key"].str.fullmatch(r"\d+").all():  # else they count the rows
        rows["utterance"] = rows["key"]
        on_both = rows.groupby("utterance")["side"].transform("nunique") > 1  # told as such
        bare = rows.duplicated(["side", "wav"]).any()  # names without folders, or parts of a file
        rows["wav"] = rows["wav"].mask(on_both | bare, None)
    else:
        rows["wav"] = None
    return _by_name(rows, corpus) if known is None else _looked_up(rows, known)


def _plain(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """What a manifest has too, by its names; a column that is not there is all unknown."""
    rows = pd.DataFrame(index=range(len(table)), columns=[*COLUMNS], dtype=object)
    for name in COLUMNS:
        if name == "group" and "utt_id" not in table:  # no manifest: a group of whatever kind
            continue
        if (column := _column(table, name)) is not None:
            cells = texts(table[column])
            missing = (lambda cell: not cell) if name == "text" else unknown
            rows[name] = [None if missing(cell) else cell for cell in cells]
    nameless = rows["key"].isna() & rows["wav"].isna()
    if nameless.all():
        raise ManifestError(f"no column of files among {', '.join(map(repr, table))}")
    if nameless.any():
        raise ManifestError(f"{side}, row {int(nameless.argmax()) + 1} names no file: give it one")
    path = rows["wav"].str.replace("\\", "/")
    rows["wav"] = path.str.replace(AUDIO, "", case=False, regex=True)
    return rows.astype(object).where(rows.notna(), None)


def _ends(path: str) -> list[str]:
    """A path without its first folders, longest first, itself included: a/b/c, b/c, c."""
    parts = identity(path).strip("/").split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _looked_up(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """What a manifest says of the utterances, found by key, utt_id or the longest end of a path."""
    known = known.assign(utterance=known["key"]).reset_index(drop=True)
    columns = ["utterance", *TOLD]
    places: dict[str, set[int]] = defaultdict(set)
    for i, (key, utt, wav) in enumerate(known[["key", "utt_id", "wav"]].fillna("").to_numpy()):
        stem = re.sub(AUDIO, "", wav, flags=re.I)
        for name in {identity(key), identity(utt), *_ends(stem)}:
            places[name].add(i)
    found, doubts = [], []
    for key, path in zip(rows["key"], rows["path"], strict=True):
        names = [*_ends(key or path)[:1], *_ends(path)]
        at = sorted(next((places[name] for name in names if name in places), ()))
        doubt = None
        if len(at) > 1 and known["wav"][at].nunique() == 1:  # segments of one file
            at = [len(known) + at[0]]
        elif len(at) > 1:
            doubt = f"{path!r} may be {' or '.join(known['key'][at[:2]])}"
        elif not at:
            doubt = f"{path!r} is not in the manifest"
        found.append(-1 if doubt else at[0])
        doubts.append(doubt)
    if max(found) < 0:
        raise ManifestError(f"{doubts[0]}, nor is another utterance: is it that of this corpus?")
    # Of a file in segments, what all of them agree on.
    agreed = known.groupby("wav")[columns].transform("nunique") == 1
    told = pd.concat([known[columns], known[columns].where(agreed, None)], ignore_index=True)
    told = told.assign(**{name: [*known[name]] * 2 for name in ("key", "dataset", "wav")})
    told = told.reindex(found).reset_index(drop=True)
    told["utterance"] = told["utterance"].where(told["utterance"].notna(), rows["utterance"])
    return told.assign(side=rows["side"], said=None, doubt=doubts)


def _by_name(rows: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """What names say; the lists' own cells where names say nothing.

    One kind of name for the speakers: a row whose name says nothing has an unknown speaker, if
    other names tell theirs.
    """
    parsed = _parsed(rows, corpus)
    rows["said"], named = rows["speaker"], parsed["speaker"].notna()
    if named.any():
        silent = ~named & ~parsed["corpus"].isin(["msp-podcast"])  # whose names tell no speaker
        rows["speaker"] = parsed["speaker"].where(named, rows["speaker"].mask(silent, None))
    for column in ("utterance", "dialogue", "session", "text"):
        rows[column] = parsed[column].where(parsed[column].notna(), rows[column])
    of_iemocap = parsed["corpus"] == "iemocap"  # both speakers of a session share its dialogues
    rows["group"] = rows["group"].mask(of_iemocap, parsed["session"])
    return rows


def _parsed(rows: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """For each row, what the grammar says that fits its key or the name of its file."""
    if corpus and corpus not in NAMES:
        known = ", ".join(NAMES)
        raise ManifestError(f"no grammar of names for {corpus!r}: {known}, or --manifest")
    columns = ["corpus", "utterance", "speaker", "dialogue", "session", "text"]
    found = pd.DataFrame(index=rows.index, columns=columns, dtype=object)
    stem = rows["path"].str.rsplit("/", n=1).str[-1]
    for name in [corpus] if corpus else NAMES:
        for names in (rows["key"], stem):
            parts = names.str.extract(rf"^{PREFIX}(?P<utterance>{NAMES[name]})$")
            fits = parts["utterance"].notna() & found["corpus"].isna()
            joined = [c for c in parts if c.startswith("speaker_")]
            if joined:
                parts["speaker"] = parts[joined].sum(axis=1)
            if name != "emodb" or corpus or _emodb(rows, fits):
                found.loc[fits] = parts.assign(corpus=name).reindex(columns=columns)[fits]
    if corpus and found["corpus"].isna().all():
        raise ManifestError(f"{rows['path'].iloc[0]!r} is no name of {corpus}")
    if found["corpus"].nunique() > 1:  # a list of several corpora: 03 is another in each
        for column in columns[2:]:
            found[column] = found["corpus"] + "-" + found[column]
    return found.where(found.notna(), None)


def _emodb(rows: pd.DataFrame, fits: pd.Series) -> bool:
    """Whether names are EmoDB's, which are so short that others' fit by chance."""
    prefix = rows["key"].str.extract(r"^([a-z]\w*)-")[0]
    corpus = rows["dataset"].where(rows["dataset"].notna(), prefix)
    if corpus.notna().any():
        return bool((corpus.str.lower() == "emodb").all())
    return bool(fits.mean() >= 0.5 and rows["speaker"].isna().all())
