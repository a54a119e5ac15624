"""Prove a split: what train shares with test, of a manifest or of files that others published.

A proof that did not look is none: each says what was compared, and where speakers could not be,
the split is not proved, whatever else is found. How rows of published files are read and their
speakers found is in `lists`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from serlib.corpora import files, lists
from serlib.corpora.files import SPLITS
from serlib.data import spelling, splits
from serlib.data.spelling import identity
from serlib.data.tables import ManifestError

# Dialogues are told: in MSP-Podcast they are podcasts, which the official split shares; where a
# dialogue must not cross, as in IEMOCAP and MELD, the group says so.
LEAKS = ("utterance", "group", "speaker", "sha256")
TOLD = ("dialogue", "session", "text")
WORDS = dict(
    utterance="utterances", group="groups", speaker="speakers", dialogue="dialogues",
    session="sessions", text="texts", sha256="audio",
)  # fmt: skip
PAIRS = (("train", "test"), ("dev", "test"), ("train", "dev"))
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
ALONE = 20  # with as many rows or more, and none by a speaker of another, speakers are no persons


@dataclass(frozen=True)
class Proof:
    """One split, and what its sides share."""

    name: str
    fold: int  # from 1
    sizes: dict[str, int]  # role -> utterances
    compared: str  # what was compared on all sides, and what was not
    leaks: tuple[str, ...]  # what must not be shared and is, with the two sides
    unproved: str  # "" or why nothing is proved: speakers not compared, or not all of them
    told: tuple[str, ...]  # what is shared but need not be a fault; what to know of the files

    @property
    def code(self) -> int:
        """An exit code: 0 nothing is shared, 1 something is, 3 not proved."""
        return 1 if self.leaks else 3 if self.unproved else 0

    def __str__(self) -> str:
        """The proof for a terminal."""
        sizes = ", ".join(f"{role} {n:,}" for role, n in self.sizes.items())
        verdict = {0: "nothing is shared", 1: "LEAKS", 3: f"NOT PROVED, {self.unproved}"}
        lines = [f"{self.name}: {sizes}: {verdict[self.code]} ({self.compared})"]
        lines += [f"  shared: {leak}" for leak in self.leaks]
        return "\n".join(lines + [f"  note: {what}" for what in self.told])


def code(proofs: Iterable[Proof]) -> int:
    """The exit code of several proofs: a leak in one counts most, then one without a proof."""
    return min((proof.code for proof in proofs if proof.code), default=0)


def prove(
    df: pd.DataFrame, protocol: str, *, fold: int | None = None, seed: int = 0
) -> Iterator[Proof]:
    """Compare the sides of a protocol's folds: groups, speakers and files must be on one only.

    The protocol is one of `splits.PROTOCOLS`, a leaky one too; without `fold` all folds are proved.
    """
    if protocol == "usual":
        protocol = splits.usual(df)
    df, told = _persons(df)
    numbers = splits.fold_numbers(df, protocol)
    if not numbers and df["speaker"].isna().all() and protocol in ("speaker", "talker"):
        yield _proof(f"{protocol}, no fold", 0, {"undivided": df}, told)
    elif not numbers:
        raise ManifestError(f"protocol {protocol!r} has no fold here: see the columns split, fold")
    elif fold is not None and fold not in numbers:
        some = ", ".join(map(str, numbers))
        raise ManifestError(f"protocol {protocol!r} has no fold {fold} here, but {some}")
    for k in numbers if fold is None else [fold]:
        roles = splits.protocol(df, protocol, fold=k, seed=seed, allow_leaks=True)
        part = {role: df[roles == role] for role in ("train", "dev", "test")}
        without = ["no rows of dev, by which training chooses its epoch"] * part["dev"].empty
        yield _proof(f"{protocol}, fold {k}", k, part, [*told, *without])


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
        corpus: Whose names they are, one of `lists.NAMES`; "" takes for each name the grammar that
            fits.
        known: A manifest to look the utterances up in, by key, utt_id or path.
        split: Of one file, the column that tells train from test.

    Raises:
        ManifestError: If the files cannot be read that way.
    """
    found = []
    for k, (name, sides, notes) in enumerate(_pairs(paths, split), start=1):
        rows, told = _persons(lists.described(sides, corpus, known))
        part = {side: rows[rows["side"] == side] for side in sides}
        found.append(_proof(name, k, part, [*notes, *told, *_doubts(rows)]))
    return found


def _proof(name: str, fold: int, part: Mapping[str, pd.DataFrame], told: Sequence[str]) -> Proof:
    """What some parts share; each has the columns of `LEAKS` and `TOLD`, perhaps no utterance."""
    columns = [c for c in LEAKS if all(c in rows for rows in part.values())]
    leaks, told = [], list(told)
    for a, b in PAIRS:
        if a in part and b in part:
            pair = f"{a} and {b}, " * ("dev" in part)
            leaks += [f"{pair}{x} of {b}" for x in splits.leaks(part[a], part[b], columns)]
    for side, rows in part.items() if "dev" in part else ():
        if missing := int(rows["group"].isna().sum()):
            leaks.append(f"{side} has {missing} rows without a group: nothing can be proved")
    if "test" in part:
        shared = splits.leaks(part["train"], part["test"], TOLD)
        told += [f"train and test also share {leak} of test" for leak in shared]
        told += _unknown(part["train"], part["test"])
    compared, unproved = _compared(part, [*columns, *TOLD])
    sizes = {role: len(rows) for role, rows in part.items()}
    return Proof(name, fold, sizes, compared, tuple(leaks), unproved, tuple(told))


def _compared(part: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> tuple[str, str]:
    """What was compared and what not, and what the speakers leave unproved."""
    looked, not_looked, unproved = [], [], ""
    total = sum(map(len, part.values()))
    for column in columns:
        known = [int(rows[column].notna().sum()) for rows in part.values() if len(rows)]
        some = WORDS[column]
        if len(part) < 2 or not all(known):
            if column not in ("group", "session"):  # which many corpora do not have
                not_looked.append(some)
            unproved = "speakers not compared" if column == "speaker" else unproved
            continue
        if sum(known) < total:
            rows = f"in {sum(known):,} of {total:,} rows"
            unproved = f"speakers compared {rows} only" if column == "speaker" else unproved
            some = f"{some} {rows}"
        looked.append(some)
    compared = f"compared: {', '.join(looked) or 'nothing'}"
    return compared + f"; not: {', '.join(not_looked)}" * bool(not_looked), unproved


def _unknown(train: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    """Rows whose speakers are unknown, in dialogues that are on both sides: perhaps the same."""
    found = []
    for side, a, b in (("train", train, test), ("test", test, train)):
        nobody = a[a["speaker"].isna() & a["dialogue"].notna()]
        if n := int(nobody["dialogue"].isin(set(b["dialogue"].dropna())).sum()):
            found.append(f"{n} {side} rows of unknown speakers are from dialogues on both sides")
    return found


def _persons(df: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows without speakers that are ids of utterances, and notes on that and on names."""
    known = df[df["speaker"].notna()]
    speaker, told = known["speaker"].map(lambda name: identity(str(name))), []
    if len(speaker) > 1 and speaker.is_unique:
        ids = [known[c].map(_stem) for c in ("key", "utt_id", "utterance", "wav") if c in known]
        bare = [k.removeprefix(f"{d}-") for k, d in zip(ids[0], known["dataset"], strict=True)]
        same = all(who in own for who, *own in zip(speaker.map(_stem), bare, *ids, strict=True))
        if same or len(speaker) >= ALONE:
            df = df.assign(speaker=None)
            told = [f"each row has a speaker of its own ({known['speaker'].iloc[0]}): no person's"]
    alike = sorted(spelling.disguised(map(str, known["speaker"].unique())))
    told += [f"speakers look alike or mix alphabets: {', '.join(alike[:4])}"] * bool(alike)
    return df, told


def _stem(cell: object) -> str:
    name = identity(str(cell)).rsplit("/", 1)[-1]
    return re.sub(lists.AUDIO, "", name)


def _doubts(rows: pd.DataFrame) -> list[str]:
    """Rows that say nothing, and whether a column of speakers names the speakers."""
    found = []
    doubts = rows["doubt"].dropna()
    if len(doubts):
        more = f" and {len(doubts) - 1:,} more" * (len(doubts) > 1)
        found.append(f"{doubts.iloc[0]}{more}: give paths as in the manifest")
    nobody = rows[rows["speaker"].isna()]
    if 0 < len(nobody) < len(rows):
        some = ", ".join(nobody["utterance"].dropna()[:3])
        found.append(f"{len(nobody):,} rows name no speaker, such as {some}")
    both = rows[rows["said"].notna() & rows["speaker"].notna()]
    pairs = zip(both["said"].map(identity), both["speaker"].map(identity), strict=True)
    right = sum(speaker.endswith(said) or said.endswith(speaker) for said, speaker in pairs)
    if 0 < right < len(both):
        found.append(f"the files' speaker is the true one in {right:,} of {len(both):,} rows")
    return found


def _pairs(paths: Sequence[Path], split: str | None) -> Iterator[tuple[str, dict, list[str]]]:
    """What to call a pair, its tables, and notes."""
    if len(paths) == 1 and paths[0].is_dir():
        yield from _pairs_below(paths[0])
    elif len(paths) == 1 and split:
        table = lists.read(paths[0])
        if split not in table:
            raise ManifestError(
                f"{paths[0]} has no column {split!r}, only {', '.join(map(repr, table))}"
            )
        role = pd.Series([SPLITS.get(cell.lower()) for cell in lists.texts(table[split])])
        tests = [name for name in ("test", "test1", "test2", "test3") if (role == name).any()]
        if not tests or not (role == "train").any():
            some = ", ".join(map(repr, sorted(set(lists.texts(table[split])))[:5]))
            raise ManifestError(f"{split!r} holds {some}: no train/test")
        for test in tests:
            sides = {"train": table[(role == "train").array], "test": table[(role == test).array]}
            yield f"{paths[0].name}, {test}" if len(tests) > 1 else paths[0].name, sides, []
    elif len(paths) == 2:
        train, test = map(lists.read, paths)
        yield f"{paths[0].name} | {paths[1].name}", dict(train=train, test=test), []
    else:
        raise ManifestError("give TRAIN and TEST, or one file with --split, or one folder")


def _pairs_below(folder: Path) -> Iterator[tuple[str, dict, list[str]]]:
    """Pairs of lists below a folder; where EmoBox has .json and .jsonl of one name, the .jsonl."""
    pairs, alone = [], []
    for train in (path for path in files.walk(folder) if path.suffix in SUFFIXES):
        twin = train.suffix == ".json" and train.with_suffix(".jsonl").exists()
        if re.search("train", train.name, re.I) and not twin:
            test = files.child(train.parent, re.sub("train", "test", train.name, flags=re.I))
            pairs += [(train, test)] * bool(test)
            alone += [train.relative_to(folder)] * (not test)
    if not pairs:
        raise ManifestError(f"no files named ...train... and ...test... in {folder}")
    notes = [f"not compared, as no test list is beside it: {train}" for train in alone]
    for train, test in pairs:
        sides = {"train": lists.read(train), "test": lists.read(test)}
        yield str(train.relative_to(folder)), sides, notes
