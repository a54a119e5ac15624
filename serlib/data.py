"""What an experiment learns from and is judged by: a corpus located, divided and decoded.

recipe -> manifest (`locate`) -> roles and labels (`assign`) -> waves in memory (`load`)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from serlib import batching, manifest, records
from serlib.demo import corpus as demo_corpus
from serlib.recipe import Recipe, RecipeError

SMOKE = {"train": 150, "dev": 60, "test": 80}  # labeled utterances of the slice


@dataclass(frozen=True)
class Data:
    """The utterances of one experiment: labeled, divided, decoded."""

    table: pd.DataFrame  # manifest rows with columns `role` and `label`
    store: batching.WaveStore
    counts: np.ndarray  # (C,) training utterances per class

    def rows(self, role: str) -> np.ndarray:
        """Positions of the utterances of one role."""
        return np.flatnonzero(self.table["role"].to_numpy() == role)


def locate(recipe: Recipe) -> tuple[pd.DataFrame, Path]:
    """The manifest of a recipe's corpus and the folder its paths start from."""
    path, root = _place(recipe)
    df, _ = _manifest(path, path.stat().st_mtime_ns)
    return df.copy(), demo_corpus.make(df) if root is None else root


def digest(recipe: Recipe) -> str:
    """The digest of a recipe's manifest, whose content decides a result."""
    path, _ = _place(recipe)
    return _manifest(path, path.stat().st_mtime_ns)[1]


def _place(recipe: Recipe) -> tuple[Path, Path | None]:
    """Where a recipe's manifest is, and its root (None: the demo corpus's, in the cache)."""
    if recipe.corpus == "demo":
        return demo_corpus.MANIFEST, None
    if not recipe.data_root:
        raise RecipeError("profile='full' needs data_root, the folder of the corpus")
    path = Path(recipe.corpus)
    if path.suffix not in (".csv", ".jsonl"):
        path = Path(recipe.data_root) / f"{recipe.corpus}.csv"
    if not path.exists():
        make = f"serlib manifest build {path.stem} --root {recipe.data_root} --out {path}"
        raise RecipeError(f"no manifest {path}; make it ({make}) or name another one")
    return path, Path(recipe.data_root)


@functools.lru_cache(maxsize=2)
def _manifest(path: Path, stamp: int) -> tuple[pd.DataFrame, str]:
    """A manifest and its digest, read again when the file changes."""
    df = manifest.read(path)
    return df, manifest.digest(df)


def assign(recipe: Recipe, df: pd.DataFrame) -> pd.DataFrame:
    """Rows that take part, with `role` (train, dev, test) and `label`; leaks are refused."""
    df = df.assign(
        role=manifest.protocol(
            df, recipe.protocol, fold=recipe.fold, seed=recipe.seed, allow_leaks=recipe.allow_leaks
        ),
        label=manifest.label_ids(df, recipe.classes, dict(recipe.merge)),
    )
    df = df[df["role"].notna() & (df["label"] >= 0)]
    if recipe.profile == "smoke":
        roles = [(df[df["role"] == role], n) for role, n in SMOKE.items()]
        df = pd.concat([rows.iloc[:: max(1, len(rows) // n)].head(n) for rows, n in roles])
    df = df.reset_index(drop=True)
    part = {role: df[df["role"] == role] for role in ("train", "dev", "test")}
    for role, rows in part.items():
        if rows.empty:
            raise RecipeError(f"protocol {recipe.protocol!r} leaves no labeled {role} utterances")
    if not recipe.allow_leaks:
        manifest.assert_disjoint(part["train"], part["dev"], part["test"])
    return df


def load(recipe: Recipe, *, progress: bool = True) -> Data:
    """Read, divide and decode the data of a recipe."""
    df, root = locate(recipe)
    table = assign(recipe, df)
    store = _store(recipe, table, root, progress)
    counts = np.bincount(
        table.loc[table["role"] == "train", "label"], minlength=len(recipe.classes)
    )
    return Data(table, store, counts)


_STORES: dict[tuple, batching.WaveStore] = {}  # the last corpus decoded, shared by a sweep's runs


def _store(recipe: Recipe, table: pd.DataFrame, root: Path, progress: bool) -> batching.WaveStore:
    key = (str(root), recipe.max_seconds, records.digest(table["key"].tolist()))
    if key not in _STORES:
        _STORES.clear()
        if recipe.max_seconds is not None:
            long = table["length"] > recipe.max_seconds
            end = table["start"].fillna(0.0) + recipe.max_seconds
            table = table.assign(end=table["end"].mask(long, end))
        _STORES[key] = batching.WaveStore.from_manifest(table, root, progress=progress)
    return _STORES[key]
