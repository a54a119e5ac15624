"""What an experiment learns from and is judged by: a corpus located, divided and decoded.

recipe -> manifest (`locate`) -> roles and labels (`assign`) -> waves in memory (`load`)
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from serlib import records
from serlib.corpora.demo import corpus as demo_corpus
from serlib.data import manifest, splits, tables
from serlib.data.audio import AudioError
from serlib.data.manifest import ATTRIBUTES
from serlib.data.stores import READ, WaveStore, stamp
from serlib.data.text import encode
from serlib.experiments import remarks
from serlib.experiments.screen import bars, lines
from serlib.recipes.recipe import TRAINED, Recipe, RecipeError
from serlib.tasks.answers import SCORES
from serlib.tasks.targets import GENDERS

SMOKE = {"train": 150, "dev": 60, "test": 80}  # labeled utterances of the slice


@dataclass(frozen=True)
class Data:
    """The utterances of one experiment: labeled, divided, decoded."""

    table: pd.DataFrame  # manifest rows with columns `role` and `label`
    store: WaveStore
    counts: np.ndarray  # (C,) training utterances per class

    def rows(self, role: str) -> np.ndarray:
        """Positions of the utterances of one role."""
        return np.flatnonzero(self.table["role"].to_numpy() == role)


def locate(recipe: Recipe) -> tuple[pd.DataFrame, Path]:
    """The manifest of a recipe's corpus and the folder its paths start from."""
    path, root = _place(recipe)
    df, name = _manifest(path)
    if root is not None:
        return df.copy(), root
    root = demo_corpus.make(df, digest=name)
    # On another machine than the manifest's, which `make` tells of, it speaks a little otherwise.
    other = df["key"].isin(records.read_json(root / "done.json")["differing"])
    return df.assign(sha256=df["sha256"].mask(other), bytes=df["bytes"].mask(other)), root


def digest(recipe: Recipe) -> str:
    """The digest of a recipe's manifest, whose content decides a result."""
    return _manifest(_place(recipe)[0])[1]


def taught(recipe: Recipe) -> Recipe:
    """The recipe with those of its classes that its corpus can teach, and so what it builds on.

    A class without an utterance to train on is none that a model can know, and no score should
    wait for it: IEMOCAP, for one, has no contempt. Where train is released as such, it decides;
    else all utterances do, as each is trained on in some fold: then all folds have the same
    classes, even if a rare one is not in every fold's train.

    Printed, once for a corpus: classes that it lacks, utterances whose emotion is none of the
    classes, and for the task "asr" that only a few sentences are said.

    Raises:
        RecipeError: If there is no manifest, or fewer than two classes are left.
    """
    path, root = _place(recipe)
    if root is None:  # the demo corpus teaches all
        return recipe
    classes, told = _taught(path, digest(recipe), recipe.classes, recipe.merge)
    if recipe.system in TRAINED and "asr" in recipe.model.tasks:
        told = (*told, *_few(path, digest(recipe)))
    for line in told:
        if lines() and (path, line) not in _told:
            _told.add((path, line))
            print(f"{path.stem}: {line}")
    recognizer = None if recipe.recognizer is None else taught(recipe.recognizer)
    if (classes, recognizer) == (recipe.classes, recipe.recognizer):
        return recipe
    return recipe.change(classes=classes, recognizer=recognizer)


def in_folds(recipe: Recipe) -> list[Recipe]:
    """A recipe of fold 0 in each fold of its protocol, and what it builds on too; others alone.

    Of a corpus that is divided once, all is one fold.
    """
    if recipe.fold:
        return [recipe]
    df, _ = _manifest(_place(recipe)[0])
    name = splits.usual(df) if recipe.protocol == "usual" else recipe.protocol
    heard = recipe.recognizer
    return [
        recipe.change(fold=k, recognizer=None if heard is None else heard.change(fold=k))
        for k in splits.fold_numbers(df, name) or [1]
    ]


_told: set[tuple[Path, str]] = set()  # in this process


@functools.lru_cache(maxsize=32)
def _taught(path: Path, name: str, classes: tuple[str, ...], merge: tuple):
    """Classes that a manifest can teach, and what must be told of the others."""
    df = every = _manifest(path)[0]
    if splits.usual(df) in ("official", "dev_as_test"):
        df = df[df["split"] == "train"]
    found = set(manifest.label_ids(df, classes, dict(merge)))
    kept = tuple(name for i, name in enumerate(classes) if i in found)
    if len(kept) < 2:
        there = ", ".join(sorted(df["emotion"].dropna().unique())) or "none"
        raise RecipeError(
            f"{path.name} has {', '.join(kept) or 'nothing'} to train on, of {', '.join(classes)}; "
            f"its emotions are {there}: two classes are needed, check the map of its labels"
        )
    told = []
    if kept != classes:
        lost = ", ".join(name for name in classes if name not in kept)
        told.append(f"no {lost} to train on; the classes are {', '.join(kept)}")
    told += remarks.left_out(every, manifest.label_ids(every, kept, dict(merge)), kept)
    return kept, tuple(told)


@functools.lru_cache(maxsize=32)
def _few(path: Path, name: str) -> tuple[str, ...]:
    return remarks.few_sentences(_manifest(path)[0])


def _place(recipe: Recipe) -> tuple[Path, Path | None]:
    """Where a recipe's manifest is, and its root (None: the demo corpus's, in the cache)."""
    corpus, data_root = (os.path.expanduser(x) for x in (recipe.corpus, recipe.data_root))
    if corpus == "demo":
        return demo_corpus.MANIFEST, None
    path, fetched = Path(corpus), records.home() / "corpora" / corpus
    if not data_root and (fetched / f"{corpus}.csv").exists():
        data_root = fetched
    if not data_root:
        get = f"if anybody may fetch it: serlib manifest get {path.stem}"
        raise RecipeError(f"corpus={corpus!r} needs data_root, the folder of the corpus; or, {get}")
    if path.suffix not in (".csv", ".jsonl"):
        path = Path(data_root) / f"{corpus}.csv"
    if not path.exists():
        make = f"serlib manifest build {path.stem} --root {data_root} --out {path}"
        raise RecipeError(f"no manifest {path}; make it ({make}) or name another one")
    return path, Path(data_root)


def _manifest(path: Path) -> tuple[pd.DataFrame, str]:
    """A manifest and its digest, read again when the file changes."""
    return _read(path, stamp(path))


@functools.lru_cache(maxsize=2)
def _read(path: Path, stamp: tuple[int, ...]) -> tuple[pd.DataFrame, str]:
    df = tables.read(path)
    return df, tables.digest(df)


def assign(recipe: Recipe, df: pd.DataFrame) -> pd.DataFrame:
    """Rows that take part, with `role` (train, dev, test) and `label`; leaks are refused.

    Raises:
        RecipeError: Nothing can be trained on, chosen by or tested on; the message names a way out.
    """
    name = splits.usual(df) if recipe.protocol == "usual" else recipe.protocol
    if name in ("talker", "speaker") and (n := df["speaker"].nunique()) < 3:
        raise RecipeError(
            f"protocol {name!r} needs three speakers, for train, dev and test, and {n} are known: "
            f"{_other_protocol(df)}"
        )
    folds = splits.fold_numbers(df, name) if name == "official" else []
    if folds and recipe.fold not in folds:
        raise RecipeError(f"fold={recipe.fold}: protocol {name!r} has the folds {folds}")
    emotions = df["emotion"].dropna().unique()
    # What a protocol deals is dealt alike whatever the training's seed: runs of several seeds are
    # compared on the same utterances, and one of them may judge what another has heard.
    df = df.assign(
        role=splits.protocol(df, recipe.protocol, fold=recipe.fold, allow_leaks=recipe.allow_leaks),
        label=manifest.label_ids(df, recipe.classes, dict(recipe.merge)),
    )
    if (df["label"] < 0).all():
        raise RecipeError(
            f"no utterance has one of the classes {', '.join(recipe.classes)}: choose some of "
            f"{', '.join(sorted(emotions))}"
        )
    df = df[df["role"].notna() & (df["label"] >= 0)]
    if recipe.profile == "smoke":
        roles = [(df[df["role"] == role], n) for role, n in SMOKE.items()]
        df = pd.concat([rows.iloc[:: max(1, len(rows) // n)].head(n) for rows, n in roles])
    df = df.reset_index(drop=True)
    part = {role: df[df["role"] == role] for role in ("train", "dev", "test")}
    for role, rows in part.items():
        if rows.empty:
            told = f"protocol {recipe.protocol!r} leaves no labeled {role} utterances"
            raise RecipeError(f"{told}: {_other_protocol(df)}")
    if not recipe.allow_leaks:
        splits.assert_disjoint(part["train"], part["dev"], part["test"])
    return df


def _other_protocol(df: pd.DataFrame) -> str:
    """How else a corpus can be divided."""
    talker = "take --set protocol=talker, or " if df["speaker"].nunique() >= 3 else ""
    return (f"{talker}mark rows as train, dev and test in the manifest's column split; to try it "
            "with leaks, --set protocol=random --set allow_leaks=True")  # fmt: skip


def load(recipe: Recipe) -> Data:
    """Read, divide and decode the data of a recipe.

    Raises:
        RecipeError: It cannot be trained on this corpus; the message names a way out.
    """
    recipe = in_folds(taught(recipe))[0]  # of all folds the first
    df, root = locate(recipe)
    table = assign(recipe, df)
    learned = table.loc[table["role"] == "train", "label"]
    counts = np.bincount(learned, minlength=len(recipe.classes))
    if missing := [name for name, n in zip(recipe.classes, counts, strict=True) if not n]:
        told = f"fold {recipe.fold} has no {', '.join(missing)} to train on"
        if len(missing) > len(counts) - 2:
            raise RecipeError(f"{told}: two classes are needed, {_other_protocol(df)}")
        if lines():
            print(told)
    if recipe.system in TRAINED:
        teachable(recipe, table)
    return Data(table, _store(recipe, table, root), counts)


# Of tasks that a corpus may not teach: the target in words, and the rows that have it.
TARGETS = {
    "gender": ("a gender", lambda df: df["gender"].isin(GENDERS)),
    "speaker": (
        "a speaker, of two or more",
        lambda df: df["speaker"].notna() & (df["speaker"].nunique() > 1),
    ),
    "asr": (
        "a transcript with letters",
        lambda df: df["text"].map(encode).astype(bool),
    ),
    "attributes": ("attributes", lambda df: df[list(ATTRIBUTES)].notna().any(axis=1)),
}


def teachable(recipe: Recipe, table: pd.DataFrame) -> None:
    """Refuse a task that no clip of train teaches, and a score of dev that none decides.

    Raises:
        RecipeError: With the settings that leave the task out.
    """
    part = {role: table[table["role"] == role] for role in ("train", "dev")}
    weights = recipe.loss.task_weights(recipe.model.tasks)
    score = recipe.train.select.removeprefix("-")
    judge = next((t for t in recipe.model.tasks if score in SCORES[t]), "attributes")
    named = recipe.speaker_labels == "prefix"  # the speakers, by the utterances
    for task in (t for t in recipe.model.tasks if t in TARGETS and (t, named) != ("speaker", True)):
        name, has = TARGETS[task]
        asked = ["train"] if weights[task] or task == "speaker" else []
        asked += ["dev"] if task == judge and score != "last" else []
        for role in asked:
            rows = part[role]
            if task == "speaker":  # who is not trained on has no number
                rows = rows[rows["speaker"].isin(part["train"]["speaker"])]
            if not has(rows).any():
                told = f"no clip of {role} has {name}, which the task {task!r} needs"
                raise RecipeError(f"{told}: {_without(recipe, task)}")


def _without(recipe: Recipe, task: str) -> str:
    """How to train without a task."""
    left = tuple(t for t in recipe.model.tasks if t != task)
    if not left:
        return "it is the only task; add them to the manifest"
    changes = [f'--set "tasks={left}"']
    if getattr(recipe.model, "co_attention", "none") != "none" and len(left) < 2:
        changes += ["--set co_attention=none"]
    if recipe.train.select.removeprefix("-") not in sum((SCORES[t] for t in left), ("last",)):
        changes += [f"--set select={SCORES[left[0]][-2 if left[0] == 'emotion' else 0]}"]
    return f"leave it out, {' '.join(changes)}"


_STORES: dict[tuple, WaveStore] = {}  # the last corpus decoded, shared by a sweep's runs


def _store(recipe: Recipe, table: pd.DataFrame, root: Path) -> WaveStore:
    read = table.filter([*READ, "length"])
    content = read.to_csv(index=False), [stamp(root / wav) for wav in read["wav"]]
    key = (str(root), recipe.max_seconds, records.digest(content))
    if key not in _STORES:
        _STORES.clear()
        if recipe.max_seconds is not None:
            long = table["length"] > recipe.max_seconds
            end = table["start"].fillna(0.0) + recipe.max_seconds
            table = table.assign(end=table["end"].mask(long, end))
        try:
            _STORES[key] = WaveStore.from_manifest(table, root, progress=bars())
        except AudioError as error:
            fix = f"\n  Delete {root}: the demo corpus is spoken again." * (recipe.corpus == "demo")
            raise AudioError(f"{error}{fix}") from error
    return _STORES[key]
