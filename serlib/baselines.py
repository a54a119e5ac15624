"""Floors on an experiment's data: guessers, and classifiers of features that are not fine-tuned."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from serlib import audio, encoders, features, floors, records
from serlib.data import Data
from serlib.recipe import Recipe


def fit(
    recipe: Recipe, data: Data, progress: bool = True
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Fit one of `serlib.floors`; scores are stored like a model's probabilities.

    Returns:
        A table like `evaluation.predict`'s of dev and of test, and what was chosen on dev.
    """
    label, c = data.table["label"].to_numpy(), len(recipe.classes)
    part = {role: data.rows(role) for role in ("train", "dev", "test")}
    judged, facts = np.r_[part["dev"], part["test"]], {}
    if recipe.system in floors.GUESSERS:
        scores = floors.guess(recipe.system, label[part["train"]], len(judged), c, seed=recipe.seed)
    else:
        svm = recipe.system == "svm"
        x = functionals(data, progress) if svm else embeddings(recipe, data, progress)
        fit = floors.svm if svm else floors.linear_probe
        train, dev = ((x[part[role]], label[part[role]]) for role in ("train", "dev"))
        scores, facts["penalty"] = fit(train, dev, x[judged], c, select=recipe.train.select)
    table = pd.DataFrame(scores, columns=[f"p_{i}" for i in range(c)])
    table.insert(0, "prediction", scores.argmax(1))
    table.insert(0, "truth", label[judged])
    table.index = pd.Index(data.table["key"].iloc[judged], name="key")
    n = len(part["dev"])
    return {"dev": table.iloc[:n].copy(), "test": table.iloc[n:].copy()}, facts


def functionals(data: Data, progress: bool = True) -> np.ndarray:
    """`audio.functionals` of every clip, (U, F); computed once per corpus."""
    name = records.digest([data.store.digest(), records.source_digest(["audio"])])
    path = records.home() / "features" / f"functionals-{name}.npy"
    if not path.exists():
        waves = range(len(data.store))
        waves = tqdm(waves, desc="functionals", unit="clip", disable=not progress)
        buffer = io.BytesIO()
        np.save(buffer, np.stack([audio.functionals(data.store[i]) for i in waves]))
        path.parent.mkdir(parents=True, exist_ok=True)
        records.atomic_write(path, buffer.getvalue())
    return np.load(path)


def embeddings(recipe: Recipe, data: Data, progress: bool = True) -> np.ndarray:
    """Mean over time of the frozen encoder's output, after the layers it keeps, (U, D)."""
    m = recipe.model
    drawn = {"random_init": m.random_init, "seed": recipe.seed}
    encoder = encoders.load(m.encoder, freeze="all", n_layers=m.n_layers, **drawn)
    means = features.cache(encoder, data.store, kind="output_mean", progress=progress)
    return np.stack([np.asarray(means[i])[0] for i in range(len(means))])
