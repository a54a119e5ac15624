"""Prove a split: what train shares with test, of a manifest or of files that others published.

Published split files seldom say who talks. For corpora whose names tell, talker and dialogue are
read from the names; for others (and for transcripts and audio) from a manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from serlib.corpora import files
from serlib.corpora.files import SPLITS, USUAL
from serlib.data import splits
from serlib.data.tables import ManifestError

# Grammars of names. All groups but `speaker_...` are compared between train and test; groups whose
# names start with `speaker_` are joined to the talker.
NAMES = {
    "iemocap": r"(?P<dialogue>(?P<session>(?P<speaker_a>Ses0\d))[FM]_\w+)_(?P<speaker_b>[FM])\d{3}",
    "msp-podcast": r"MSP-PODCAST_(?P<dialogue>[0-9A-Za-z]+)(?:_\d+)+",
    "ravdess": r"\d\d-\d\d-\d\d-\d\d-(?P<text>\d\d)-\d\d-(?P<speaker_a>\d\d)",
    "cremad": r"(?P<speaker_a>1\d{3})_(?P<text>[A-Z]{3})_[A-Z]{3}_[A-Z]{2}",
    "emodb": r"(?P<speaker_a>\d\d)(?P<text>[ab]\d\d)[A-Z][a-z]?",
}
PREFIX = r"(?:[a-z][\w-]*-)?"  # EmoBox puts the corpus before the name
COUNTED = ("utterance", "group", "speaker", "dialogue", "session", "text", "sha256")
LEAKS = ("utterance", "group", "speaker", "dialogue", "sha256")  # the rest is told, no more
_FILE = (*USUAL["wav"], "utt_id", "key", "name", "id")


@dataclass(frozen=True)
class Proof:
    """One split, and what its sides share."""

    name: str
    fold: int  # from 1
    sizes: dict[str, int]  # role -> utterances
    leaks: tuple[str, ...]  # what must not be shared and is, with the two sides
    told: tuple[str, ...]  # what is shared but need not be a fault; what could not be compared

    def __str__(self) -> str:
        """The proof for a terminal."""
        sizes = ", ".join(f"{role} {n:,}" for role, n in self.sizes.items())
        lines = [f"{self.name}: {sizes}: {'LEAKS' if self.leaks else 'nothing is shared'}"]
        lines += [f"  shared: {leak}" for leak in self.leaks]
        return "\n".join(lines + [f"  note: {what}" for what in self.told])


def prove(
    df: pd.DataFrame, protocol: str, *, fold: int | None = None, seed: int = 0
) -> Iterator[Proof]:
    """Compare the sides of a protocol's folds: groups, speakers and files must be on one only.

    The protocol is one of `splits.PROTOCOLS`, a leaky one too; without `fold` all folds are proved.
    """
    if protocol == "usual":
        protocol = splits.usual(df)
    chosen = [fold] if fold else splits.fold_numbers(df, protocol)
    if not chosen:
        raise ManifestError(f"protocol {protocol!r} has no fold here: see the columns split, fold")
    for k in chosen:
        roles = splits.protocol(df, protocol, fold=k, seed=seed, allow_leaks=True)
        part = {role: df[roles == role] for role in ("train", "dev", "test")}
        found = []
        for a, b in (("train", "test"), ("dev", "test"), ("train", "dev")):
            shared = splits.leaks(part[a], part[b], ("group", "speaker", "sha256"))
            found += [f"{a} and {b}, {leak} of {b}" for leak in shared]
        for side, rows in part.items():
            if missing := int(rows["group"].isna().sum()):
                found.append(f"{side} has {missing} rows without a group: nothing can be proved")
        shared = splits.leaks(part["train"], part["test"], ("dialogue", "session", "text"))
        told = [f"train and test also share {leak} of test" for leak in shared]
        told += _unknown(part["train"], part["test"])
        sizes = {role: len(rows) for role, rows in part.items()}
        yield Proof(f"{protocol}, fold {k}", k, sizes, tuple(found), tuple(told))


def _unknown(train: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    """Rows whose talkers are unknown, in dialogues that are on both sides: perhaps the same."""
    found = []
    for side, a, b in (("train", train, test), ("test", test, train)):
        nobody = a[a["speaker"].isna() & a["dialogue"].notna()]
        if n := int(nobody["dialogue"].isin(set(b["dialogue"].dropna())).sum()):
            found.append(f"{n} {side} rows of unknown speakers are from dialogues on both sides")
    return found


def audit(
    paths: Sequence[Path],
    *,
    corpus: str = "",
    known: pd.DataFrame | None = None,
    split: str | None = None,
) -> list[Proof]:
    """Compare train and test of published split files.

    Args:
        paths: Train and test; or one file; or a folder in which pairs are found by "train" and
            "test" in their names (EmoBox's folds).
        corpus: Whose names they are, one of `NAMES`; "" takes the one whose grammar fits all names.
        known: A manifest to look the utterances up in, by utt_id or the name of the file.
        split: Of one file, the column that tells train from test.

    Raises:
        ManifestError: If the files cannot be read that way.
    """
    found = []
    for k, (name, sides) in enumerate(_pairs(paths, split), start=1):
        rows = {role: _described(table, corpus, known) for role, table in sides.items()}
        columns = [c for c in COUNTED if c in rows["train"] and c in rows["test"]]
        shared = splits.leaks(rows["train"], rows["test"], columns)
        leaks = [f"{leak} of test" for leak in shared if leak.column in LEAKS]
        more = [f"{leak} of test" for leak in shared if leak.column not in LEAKS]
        told = [f"train and test also share {leak}" for leak in more]
        told += _doubts(pd.concat(rows.values(), ignore_index=True))
        sizes = {role: len(table) for role, table in rows.items()}
        found.append(Proof(name, k, sizes, tuple(leaks), tuple(told)))
    return found


def _pairs(paths: Sequence[Path], split: str | None) -> Iterator[tuple[str, dict]]:
    if len(paths) == 1 and paths[0].is_dir():
        trains = [p for p in sorted(paths[0].rglob("*")) if re.search("train", p.name, re.I)]
        pairs = [(p, p.with_name(re.sub("train", "test", p.name, flags=re.I))) for p in trains]
        pairs = [(a, b) for a, b in pairs if a.is_file() and b.is_file()]
        if not pairs:
            raise ManifestError(f"no files named ...train... and ...test... in {paths[0]}")
        for train, test in pairs:
            yield str(train.relative_to(paths[0])), {"train": read(train), "test": read(test)}
    elif len(paths) == 1 and split:
        table = read(paths[0])
        if split not in table:
            raise ManifestError(f"{paths[0]} has no column {split!r}, only {', '.join(table)}")
        role = table[split].astype(str).str.lower()
        sides = {name: table[role.map(SPLITS) == name] for name in ("train", "test")}
        if any(side.empty for side in sides.values()):
            some = ", ".join(sorted(set(role))[:5])
            raise ManifestError(f"{split!r} holds {some}: no train/test")
        yield paths[0].name, sides
    elif len(paths) == 2:
        yield f"{paths[0].name} | {paths[1].name}", dict(train=read(paths[0]), test=read(paths[1]))
    else:
        raise ManifestError("give TRAIN and TEST, or one file with --split, or one folder")


def read(path: Path) -> pd.DataFrame:
    """A split file as a table: .jsonl, .json (a list), .csv, .tsv, or .txt with one file a line."""
    try:
        if path.suffix == ".txt":
            lines = files.text(path).split("\n")
            return pd.DataFrame({"file": [line.split()[0] for line in lines if line.strip()]})
        if path.suffix not in (".jsonl", ".json"):
            return files.table(path).fillna("")
        text = files.text(path)
        listed = text.lstrip().startswith("[")
        return pd.DataFrame(json.loads(text), dtype=object) if listed else files.jsonl(path)
    except ValueError as error:
        raise ManifestError(f"{path} is no list of files ({error})") from error


def _column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    lower = {str(column).lower(): column for column in table}
    return next((lower[name] for name in names if name in lower), None)


def _described(table: pd.DataFrame, corpus: str, known: pd.DataFrame | None) -> pd.DataFrame:
    """Rows with `utterance` and whatever of `COUNTED` can be known."""
    column = _column(table, _FILE)
    if column is None:
        raise ManifestError(f"no column of files among {', '.join(map(str, table))}")
    # The folder may carry meaning elsewhere; here the name alone identifies the utterance.
    name = table[column].astype(str).str.replace("\\", "/").str.rsplit("/", n=1).str[-1]
    name = name.str.replace(r"\.(?:wav|flac|mp3|mp4|avi|ogg)$", "", regex=True)
    rows = pd.DataFrame({"utterance": name.to_numpy()})
    if known is not None:
        return _looked_up(rows, known)
    rows = pd.concat([rows, _parsed(rows["utterance"], corpus)], axis=1)
    if (said := _column(table, USUAL["text"])) and "text" not in rows:
        rows["text"] = table[said].replace("", None).to_numpy()
    if speaker := _column(table, USUAL["speaker"]):
        rows["declared"] = table[speaker].astype(str).to_numpy()
        if "speaker" not in rows:
            rows["speaker"] = rows["declared"]
    return rows


def _looked_up(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    stem = known["wav"].str.rsplit("/", n=1).str[-1].str.replace(r"\.\w+$", "", regex=True)
    columns, known = [c for c in COUNTED if c in known], known.assign(stem=stem)
    for key in ("utt_id", "key", "stem"):
        table = known.drop_duplicates(key).set_index(key)[columns]
        there = rows["utterance"].isin(table.index)
        if there.any():
            found = table.reindex(rows["utterance"]).reset_index(drop=True)
            return pd.concat([rows, found], axis=1).assign(absent=~there)
    raise ManifestError(f"no utterance such as {rows['utterance'].iloc[0]!r} is in the manifest")


def _parsed(names: pd.Series, corpus: str) -> pd.DataFrame:
    """Talker, dialogue, session and text by the grammar of the names; empty if none fits."""
    if corpus and corpus not in NAMES:
        known = ", ".join(NAMES)
        raise ManifestError(f"no grammar of names for {corpus!r}: {known}, or --manifest")
    for name in [corpus] if corpus else NAMES:
        parts = names.str.extract(rf"^{PREFIX}{NAMES[name]}$")
        odd = names[parts.isna().any(axis=1)]
        if odd.empty:
            joined = [c for c in parts if c.startswith("speaker_")]
            if joined:
                parts["speaker"] = parts[joined].sum(axis=1)
            return parts.drop(columns=joined)
    if corpus:
        raise ManifestError(f"{odd.iloc[0]!r} is no name of {corpus}")
    return pd.DataFrame(index=names.index)


def _doubts(rows: pd.DataFrame) -> list[str]:
    """What could not be compared, and whether a column of speakers names the talkers."""
    found = [
        f"{column} is not known here, so it was not compared (try --manifest)"
        for column in ("speaker", "dialogue", "text", "sha256")
        if column not in rows or rows[column].isna().all()
    ]
    if "absent" in rows and (n := int(rows["absent"].sum())):
        found.append(f"{n} utterances are not in the manifest")
    if "declared" in rows and "speaker" in rows:
        pairs = zip(rows["declared"], rows["speaker"], strict=True)
        right = sum(talker.endswith(said) or said.endswith(talker) for said, talker in pairs)
        if 0 < right < len(rows):
            found.append(f"the files' speaker is the talker in {right:,} of {len(rows):,} rows")
    return found
