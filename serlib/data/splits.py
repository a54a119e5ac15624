"""How to split a manifest, and what the sides of a split share.

A split is only as good as the check that nothing is shared: `leaks` counts what is,
`assert_disjoint` refuses it, and `protocol` makes the usual splits, the bad ones on request.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from serlib.data.spelling import identity
from serlib.data.tables import ManifestError

LEAKY = frozenset({"random", "prefix", "dialogue"})
# What one fold is:
PROTOCOLS = {
    "official": "train and dev as released; test is 'test', or 'test1' for fold 1 and so on",
    "session": "one value of the column fold: the corpus's default cross-validation",
    "speaker": "one talker",
    "talker": "one talker; others of the same group (IEMOCAP's partner) take no part",
    "dev_as_test": "dev as released is tested, a tenth of the groups of train is dev",
    "usual": "official where a test set has labels, else session, dev_as_test or talker",
    "prefix": "one first token of utt_id: IEMOCAP's Ses01F says who wears markers, not who talks",
    "dialogue": "a fifth of the dialogues",
    "random": "a fifth of the utterances",
}


class LeakError(ManifestError):
    """Train, dev and test are not as separate as they must be."""


@dataclass(frozen=True)
class Leak:
    """Values of one column that occur on both sides of a split.

    Attributes:
        column: The column.
        shared: Number of different values in common.
        share_of_test: Share of all test rows that hold one of them, 0..1.
        examples: The first three of them, sorted.
    """

    column: str
    shared: int
    share_of_test: float
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line for messages and tables."""
        some = ", ".join(self.examples) + (", ..." if self.shared > len(self.examples) else "")
        return f"{self.shared} {self.column} ({some}) in {self.share_of_test:.1%} of the rows"


def leaks(
    train_df: pd.DataFrame,
    test_df: pd.DataFrame,
    columns: Sequence[str] = ("group", "speaker", "dialogue", "session", "text", "sha256"),
) -> list[Leak]:
    """Count what train and test share, column by column; columns that share nothing are left out.

    Names are compared by `spelling.identity`, so that a blank or another case hides nobody; texts
    as they stand ("Yes." is not "yes"). A missing value equals none. Where a sha256 is missing,
    paths are compared too, as column "file".

    Raises:
        ManifestError: If a column is not there.
    """
    found, pairs = [], []
    for column in columns:
        if column not in train_df or column not in test_df:
            raise ManifestError(f"no column {column!r} to compare: add it or leave it out")
        train, test = _comparable(train_df, column), _comparable(test_df, column)
        pairs.append((column, test_df[column], train, test))
        unhashed = column == "sha256" and (train.isna().any() or test.isna().any())
        if unhashed and "wav" in train_df and "wav" in test_df:
            path = _comparable(test_df, "wav").mask(test.isin(set(train.dropna())))
            pairs.append(("file", test_df["wav"], _comparable(train_df, "wav"), path))
    for column, said, train, test in pairs:
        hit = test.isin(set(train.dropna())) & test.notna()
        if hit.any():
            shared = sorted(said[hit].astype(str).groupby(test[hit]).min())
            found.append(Leak(column, len(shared), float(hit.mean()), tuple(shared[:3])))
    return found


def _comparable(df: pd.DataFrame, column: str) -> pd.Series:
    """The cells in a form in which the same is equal."""
    cells = df[column].astype(object)
    if column in ("text", "sha256"):
        return cells
    forms = {name: identity(str(name)) or None for name in cells.dropna().unique()}
    if column in ("wav", "utterance"):
        forms = {name: form and posixpath.normpath(form) for name, form in forms.items()}
    return cells.map(forms)


def assert_disjoint(
    train: pd.DataFrame,
    dev: pd.DataFrame,
    test: pd.DataFrame,
    columns: Sequence[str] = ("group", "speaker", "sha256"),
) -> None:
    """Refuse a split whose parts share a group, a speaker or a file.

    Raises:
        LeakError: Telling what is shared and which share of the rows it touches; also if a
            `group` is missing, since then nothing can be proved.
    """
    parts = {"train": train, "dev": dev, "test": test}
    found = []
    for name, part in parts.items():
        if "group" in columns and (missing := int(part["group"].isna().sum())):
            found.append(f"{name} has {missing} rows without a group")
    for first, second in (("train", "test"), ("dev", "test"), ("train", "dev")):
        shared = leaks(parts[first], parts[second], columns)
        found += [f"{first} shares with {second} {leak} of {second}" for leak in shared]
    if found:
        raise LeakError("; ".join(found) + ": put each of these on one side only")


def protocol(
    df: pd.DataFrame,
    name: str,
    *,
    fold: int = 1,
    folds: int | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
) -> pd.Series:
    """Give each row its role in one fold of a usual protocol, see `PROTOCOLS`.

    Test is fold `fold`; dev is the next fold that shares no group with test (just the next, if
    all do); train is the rest. Rows that lack the column that is divided have no role.

    Args:
        df: A manifest.
        name: One of `PROTOCOLS`.
        fold: From 1.
        folds: Deal the units at random into so many folds instead of one fold per unit.
        seed: Of the dealing.
        allow_leaks: Return the split even if a group, a speaker or a file crosses it. Without it
            those in `LEAKY` are refused, and the others if `assert_disjoint` refuses them.

    Returns:
        "train", "dev", "test" or None per row, with the index of `df`.

    Raises:
        LeakError: If the split leaks and `allow_leaks` is False.
        ManifestError: If the name, fold or column is not there, or a part would be empty.
    """
    if name not in PROTOCOLS:
        raise ManifestError(f"no protocol {name!r}: use one of {', '.join(PROTOCOLS)}")
    name = usual(df) if name == "usual" else name
    if name in LEAKY and not allow_leaks:
        raise LeakError(f"protocol {name!r} leaks by design: pass allow_leaks=True to measure it")
    if name == "official":
        roles = _official(df, fold)
    elif name == "dev_as_test":
        roles = _dev_as_test(df, fold, seed)
    else:
        roles = _cross(df, name, fold, folds, seed)
    part = {role: df[roles == role] for role in ("train", "dev", "test")}
    if part["train"].empty or part["test"].empty:
        raise ManifestError(
            f"protocol {name!r}, fold {fold}: nothing to train on or to test; 'usual' takes one "
            "that this manifest has"
        )
    if not allow_leaks:
        assert_disjoint(**part)
    return roles


def usual(df: pd.DataFrame) -> str:
    """The protocol that a corpus is usually used with, by what its manifest has.

    Official splits come first, if train and a test set have emotions; then folds of the corpus's
    own (at least three); then the official dev in the place of a test set whose labels are closed;
    then one talker after the other.
    """
    labeled = set(df["split"][df["emotion"].notna()].dropna())
    if "train" in labeled and labeled & {"test", "test1"}:
        return "official"
    if df["fold"].nunique() >= 3:
        return "session"
    return "dev_as_test" if {"train", "dev"} <= labeled else "talker"


def fold_numbers(df: pd.DataFrame, name: str, folds: int | None = None) -> list[int]:
    """The values of `fold` that `protocol` takes for this manifest; `folds` as there."""
    name = usual(df) if name == "usual" else name
    if name == "official":  # a test set without labels tests nothing, if another has some
        labeled = set(df["split"][df["emotion"].notna()])
        for there in (labeled, set(df["split"])):
            if found := [k for k in (1, 2, 3) if f"test{k}" in there]:
                return found
            if "test" in there:
                return [1]
        return []
    if name == "dev_as_test":
        return [1]  # the others test the same utterances
    if name not in PROTOCOLS:
        raise ManifestError(f"no protocol {name!r}: use one of {', '.join(PROTOCOLS)}")
    return list(range(1, _numbers(df, name, folds, 0)[1] + 1))


def _official(df: pd.DataFrame, fold: int) -> pd.Series:
    roles = {"train": "train", "dev": "dev", "test": "test", f"test{fold}": "test"}
    return pd.Series([roles.get(split) for split in df["split"]], index=df.index, dtype=object)


def _dev_as_test(df: pd.DataFrame, fold: int, seed: int) -> pd.Series:
    train = df["split"] == "train"
    number, count = _deal(df["group"].where(train), 10, seed)
    if not 1 <= fold <= count:
        raise ManifestError(f"fold {fold} of {count}: the groups of train are dealt into these")
    role = df["split"].map({"train": "train", "dev": "test"}).mask(train & (number == fold), "dev")
    return role.astype(object).where(role.notna(), None)


def _cross(df: pd.DataFrame, name: str, fold: int, folds: int | None, seed: int) -> pd.Series:
    number, count = _numbers(df, name, folds, seed)
    if count < 3 or not 1 <= fold <= count:
        raise ManifestError(
            f"fold {fold} of {count}: needs 3 folds or more, and one of them; or mark rows as "
            "train, dev and test in the column split, for protocol 'official'"
        )
    others = [(fold - 1 + step) % count + 1 for step in range(1, count)]
    tested = set(df["group"][number == fold].dropna())
    apart = (k for k in others if not df["group"][number == k].isin(tested).any())
    role = dict.fromkeys(others, "train") | {next(apart, others[0]): "dev", fold: "test"}
    roles = pd.Series([role.get(k) for k in number], index=df.index, dtype=object)
    if name == "talker":
        judged = set(df["group"][roles == "dev"].dropna()) - tested
        roles = roles.mask((roles == "train") & df["group"].isin(judged), "dev")
        roles = roles.mask((roles != "test") & df["group"].isin(tested), None)
    return roles.where(roles.notna(), None)


def _numbers(df: pd.DataFrame, name: str, folds: int | None, seed: int) -> tuple[pd.Series, int]:
    """The fold of each row in a protocol's cross-validation, from 1, and how many there are."""
    if name in ("dialogue", "random"):
        folds = 5 if folds is None else folds
    if name == "prefix":
        tokens = df["utt_id"].str.split("_")
        if (tokens.str.len() < 2).any():
            raise ManifestError("protocol 'prefix' needs names like Ses01F_impro01_M003 in utt_id")
        return _deal(tokens.str[0], folds, seed)
    column = {"session": "fold", "random": "key", "talker": "speaker"}.get(name, name)
    return _deal(df[column], folds, seed)


def _deal(units: pd.Series, folds: int | None, seed: int) -> tuple[pd.Series, int]:
    """Number the folds from 1: one per unit in sorted order, or shuffled into `folds`."""
    names = np.array(sorted(units.dropna().unique()), dtype=object)
    if folds is not None:
        names = np.random.default_rng(seed).permutation(names)
    folds = min(folds or len(names), len(names))
    return units.map({unit: i % folds + 1 for i, unit in enumerate(names)}), folds
