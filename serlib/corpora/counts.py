"""Counts of a manifest against those on the corpus's card, and the report of a build.

A copy that is partial or newer is no error: what differs is told, by class, session and speaker.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pandas as pd

from serlib.corpora import cards
from serlib.corpora.cards import Card, Expected

SHOWN = 12  # lines of one kind in a printed report


@dataclass(frozen=True)
class Difference:
    """A count that is not the card's."""

    counted: str  # the name of the set of counts
    by: str  # what is counted: "session", "session emo", or "total"
    value: str  # e.g. "Ses01", "Ses01 neu", or ""
    expected: int
    found: int
    status: str  # how sure the expected count is: verified or quoted


@dataclass(frozen=True)
class Report:
    """What a build found out."""

    corpus: str
    version: str  # the release, as given or recognized; "" if neither
    utterances: int
    hours: float
    excluded: Mapping[str, str]  # path -> why it is not in the manifest
    notes: tuple[str, ...]  # remarks on the tree
    duplicates: tuple[tuple[tuple[str, ...], bool], ...]  # see `duplicates`
    problems: tuple[str, ...]  # what `manifest.check` says
    countable: bool  # whether the card has counts of any release
    checked: tuple[str, ...]  # names of the sets of counts that were compared
    differences: tuple[Difference, ...]
    classes: pd.DataFrame  # utterances by emotion, split and gender
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)  # flag -> keys

    @property
    def exact(self) -> bool:
        """Whether nothing is missing, unreadable or different: what `--strict` asks for.

        Files that are unusable in every copy, as the card says, may be.
        """
        unusable = cards.read(self.corpus).unusable
        lost = [wav for wav in self.excluded if not wav.rpartition(".")[0].endswith(unusable)]
        unproved = self.countable and not self.checked
        return not (lost or self.problems or self.differences or unproved)

    def __str__(self) -> str:
        """The report for a terminal, long lists cut."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        release = f", release {self.version}" if self.version else ""
        yield f"{self.corpus}{release}: {self.utterances:,} utterances, {self.hours:.2f} h"
        yield ""
        yield self.classes.to_string()
        yield ""
        yield from _some("note", self.notes)
        reasons = Counter(self.excluded.values())
        yield from _some("excluded", [f"{n:,} files: {why}" for why, n in reasons.most_common()])
        yield from _some("excluded", [f"{wav}: {why}" for wav, why in self.excluded.items()])
        for flag, keys in self.flags.items():
            yield f"flag: {flag}: {len(keys):,} utterances, such as {', '.join(keys[:3])}"
        for kind in ("different", "equal"):
            alike = [", ".join(k) for k, differ in self.duplicates if differ == (kind != "equal")]
            yield from _some(f"same audio, {kind} emotions", alike)
        yield from _some("problem", self.problems)
        yield from _differences(self.differences)
        if not self.checked:
            yield "counts: the card has none for this release, so nothing was compared"
        elif not self.differences:
            yield f"counts: as on the card ({', '.join(self.checked)})"


def _some(label: str, lines: Sequence[str]) -> Iterator[str]:
    yield from (f"{label}: {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"{label}: and {len(lines) - SHOWN:,} more"


def _differences(differences: Sequence[Difference]) -> Iterator[str]:
    """One paragraph per set of counts, one entry per column: found of expected."""
    for (counted, status), several in groupby(differences, lambda d: (d.counted, d.status)):
        yield f"differs from the card: {counted} ({status}), found of expected"
        for by, ones in groupby(several, lambda d: d.by):
            line = ", ".join(f"{d.value} {d.found:,} of {d.expected:,}".strip() for d in ones)
            yield textwrap.fill(f"{by}: {line}", 100, initial_indent="  ", subsequent_indent="    ")


def compare(df: pd.DataFrame, card: Card, version: str = "") -> tuple[list[str], list[Difference]]:
    """Count a manifest and compare with the card.

    Values may lack the dataset's prefix on the card: ``Ses01`` counts ``iemocap-Ses01``. A count
    that a set leaves out is not expected to be zero, unless the set counts others of that column.

    Returns:
        Names of the sets that hold for `version`, and all differences from them.
    """
    checked, found = [], []
    for expected in card.expected:
        if expected.version and expected.version != version:
            continue
        checked.append(expected.name)
        rows = _rows(df, expected, card.dataset)
        pairs = [] if expected.total is None else [("total", "", expected.total, len(rows))]
        for columns, nested in expected.counts.items():
            counted, wanted = _counted(rows, columns.split()), dict(_flat(nested))
            for value in [*wanted, *sorted(counted.keys() - wanted.keys())]:
                of = wanted.get(value, 0), counted.get(value, 0)
                pairs.append((columns, " ".join(value), *of))
        name, status = expected.name, expected.status
        found += [Difference(name, *pair, status) for pair in pairs if pair[2] != pair[3]]
    return checked, found


def _rows(df: pd.DataFrame, expected: Expected, dataset: str) -> pd.DataFrame:
    """The rows that a set counts: its columns, as texts without the dataset's prefix."""
    columns = {*expected.where, *" ".join(expected.counts).split()} & {*df}
    bare = {c: df[c].astype("string").str.removeprefix(f"{dataset}-") for c in columns}
    rows = pd.DataFrame(bare, index=df.index)
    for column, values in expected.where.items():
        rows = rows[rows[column].isin(list(map(str, values)))] if column in rows else rows[:0]
    return rows


def _counted(rows: pd.DataFrame, by: list[str]) -> dict[tuple, int]:
    """Rows by the values of some columns; none where there is no such column."""
    return rows.value_counts(by).to_dict() if {*by} <= {*rows} else {}


def _flat(nested: Mapping, before: tuple = ()) -> Iterator[tuple[tuple, int]]:
    for value, inner in nested.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, (*before, str(value)))
        else:
            yield (*before, str(value)), inner


def recognize(df: pd.DataFrame, card: Card) -> str:
    """The release whose sizes the labels of this copy have; its audio may be incomplete.

    Returns:
        The version on the card of which most totals and split sizes are exact; "" if none is.
    """
    exact: Counter[str] = Counter()
    for expected in (e for e in card.expected if e.version):
        rows = _rows(df, expected, card.dataset)
        sizes = _counted(rows, ["split"])
        wanted = _flat(expected.counts.get("split", {}))
        exact[expected.version] += len(rows) == expected.total
        exact[expected.version] += sum(sizes.get(split) == n for split, n in wanted)
    best = exact.most_common(1)
    return best[0][0] if best and best[0][1] else ""


def classes(df: pd.DataFrame) -> pd.DataFrame:
    """Utterances by emotion (rows) and by split and gender (columns); "-" is unknown."""
    cells = df[["emotion", "split", "gender"]].astype(object)
    cells = cells.where(cells.notna(), "-")
    by = [cells["split"], cells["gender"]]
    return pd.crosstab(cells["emotion"], by, margins=True, margins_name="all")


def flags(df: pd.DataFrame) -> dict[str, list[str]]:
    """Flag -> keys of the rows that have it."""
    each = df[["key", "flags"]].explode("flags").dropna()
    return each.groupby("flags")["key"].agg(list).to_dict()


def duplicates(df: pd.DataFrame) -> list[tuple[tuple[str, ...], bool]]:
    """Groups of keys whose files are equal byte for byte, and whether their emotions differ.

    Segments of one file (rows with the same wav) are no duplicates of each other.
    """
    first = df.dropna(subset=["sha256"])
    first = first[first.groupby("sha256")["wav"].transform("nunique") > 1]
    return [
        (tuple(rows["key"]), rows["emotion"].nunique(dropna=False) > 1)
        for _, rows in first.groupby("sha256", sort=False)
    ]
