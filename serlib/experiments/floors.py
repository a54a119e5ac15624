"""Floors: guessers, and classifiers of features that learn none, on an experiment's split.

A network that cannot beat these has learned nothing that they had not. Penalties are chosen on dev
like everything else in the book.
"""

from __future__ import annotations

import io

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm.auto import tqdm

from serlib import records
from serlib.data import acoustics, features
from serlib.experiments.dataset import Data
from serlib.experiments.screen import bars
from serlib.metrics import measures
from serlib.models.encoders.load import load_encoder
from serlib.recipes.recipe import GUESSERS, Recipe

PENALTIES = (0.01, 0.1, 1.0, 10.0)


def fit(recipe: Recipe, data: Data) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Fit one of these floors; scores are stored like a model's probabilities.

    Returns:
        A table like `evaluation.predict`'s of dev and of test, and what was chosen on dev.
    """
    label, c = data.table["label"].to_numpy(), len(recipe.classes)
    train, dev, test = (data.rows(role) for role in ("train", "dev", "test"))
    judged, facts = np.r_[dev, test], {}
    if recipe.system in GUESSERS:
        scores = guess(recipe.system, label[train], len(judged), c, seed=recipe.seed)
    else:
        heard = recipe.system == "svm"
        x, classify = (
            (functionals(data), svm) if heard else (embeddings(recipe, data), linear_probe)
        )
        known = ((x[rows], label[rows]) for rows in (train, dev))
        scores, facts["penalty"] = classify(*known, x[judged], c, select=recipe.train.select)
    table = pd.DataFrame(scores, columns=[f"p_{i}" for i in range(c)])
    table.insert(0, "prediction", scores.argmax(1))
    table.insert(0, "truth", label[judged])
    table.index = pd.Index(data.table["key"].iloc[judged], name="key")
    return {"dev": table.iloc[: len(dev)].copy(), "test": table.iloc[len(dev) :].copy()}, facts


def functionals(data: Data) -> np.ndarray:
    """`acoustics.functionals` of every clip, (U, F); computed once per corpus, on all cores."""
    name = records.digest([data.store.digest(), records.source_digest(["data"])])
    path = records.home() / "features" / f"functionals-{name}.npy"
    if not path.exists():
        waves = tqdm(range(len(data.store)), desc="functionals", unit="clip", disable=not bars())
        # Threads: most of it is Fourier transforms, which let others work beside them.
        cores = joblib.Parallel(n_jobs=joblib.cpu_count(), prefer="threads")
        buffer = io.BytesIO()
        found = cores(joblib.delayed(acoustics.functionals)(data.store[i]) for i in waves)
        np.save(buffer, np.stack(found))
        records.atomic_write(path, buffer.getvalue())
    return np.load(path)


def embeddings(recipe: Recipe, data: Data) -> np.ndarray:
    """Mean over time of what a frozen encoder gives, after the layers it keeps, (U, E).

    Of ``layers="last"`` its output, E = D; of a number that hidden state; of "weighted" all L + 1
    side by side.
    """
    m = recipe.model
    drawn = {"random_init": m.random_init, "seed": recipe.seed}
    kept = {"n_layers": m.n_layers, "context": m.context}
    encoder = load_encoder(m.encoder, freeze="all", **kept, **drawn)
    kind = "output_mean" if m.layers == "last" else "layers_mean"
    means = features.cache(encoder, data.store, kind=kind, progress=bars())
    chosen = int(m.layers) if m.layers.isdigit() else slice(None)
    return np.stack([np.asarray(means[i])[chosen].ravel() for i in range(len(means))])


def guess(kind: str, train_labels: NDArray, n: int, n_classes: int, *, seed: int) -> NDArray:
    """Scores of a guesser that never listens, (n, C), one-hot.

    Args:
        kind: "majority" always says the most frequent class of train; "prior" draws from the class
            shares of train; "uniform" draws every class alike.
        train_labels: (U,) labels of the training set.
        n: How many utterances to guess.
        n_classes: C.
        seed: Seed of the draws.

    Raises:
        ValueError: If `kind` is none of `GUESSERS`.

    >>> guess("majority", np.array([0, 1, 1]), 2, 3, seed=0)
    array([[0., 1., 0.],
           [0., 1., 0.]])
    """
    counts = np.bincount(train_labels, minlength=n_classes)
    share = {
        "majority": np.eye(n_classes)[counts.argmax()],
        "prior": counts / counts.sum(),
        "uniform": np.full(n_classes, 1 / n_classes),
    }
    if kind not in share:
        raise ValueError(f"no guesser {kind!r}; use one of {', '.join(GUESSERS)}")
    said = np.random.default_rng(seed).choice(n_classes, n, p=share[kind])
    return np.eye(n_classes)[said]


def _chosen_on_dev(build, train: tuple, dev: tuple, n_classes: int, select: str, cores: int = 1):
    """Fit one classifier per penalty; the penalty with the best dev score, and its classifier."""
    fits = (joblib.delayed(build(penalty).fit)(*train) for penalty in PENALTIES)
    found = joblib.Parallel(n_jobs=cores, prefer="threads")(fits)
    fitted = dict(zip(PENALTIES, found, strict=True))

    def score(penalty: float) -> float:
        said = fitted[penalty].predict(dev[0])
        return float(getattr(measures, select)(measures.confusion(dev[1], said, n_classes)))

    best = max(fitted, key=score)  # the first of equals
    return best, fitted[best]


def _spread(scores: NDArray, classes: NDArray, n_classes: int) -> NDArray:
    """Put the columns of the classes that train had where they belong among all C."""
    full = np.zeros((len(scores), n_classes))
    full[:, classes] = scores
    return full


def svm(train: tuple, dev: tuple, judged: NDArray, n_classes: int, *, select: str = "ua"):
    """A support vector machine with an RBF kernel on standardized features; C chosen on dev.

    Classes weigh alike in its loss (``class_weight="balanced"``). With `acoustics.functionals` as
    features this is the classical system of the years before 2018. Its time grows with U^2.1: 41 s
    of one core at U = 8,000 (drawn rows, four penalties), and so most of an hour at MSP-Podcast's
    60,000. The penalties are fitted side by side, which leaves every bit as it is.

    Args:
        train: Features (U, F) and labels (U,).
        dev: Likewise; for choosing C among `PENALTIES`.
        judged: (V, F) features of the utterances to judge.
        n_classes: Number of classes.
        select: Metric that decides on dev.

    Returns:
        Scores (V, C), a softmax of the one-against-rest margins, for ranking only (they are not
        calibrated probabilities), and the chosen C.
    """
    penalty, machine = _chosen_on_dev(
        lambda c: make_pipeline(StandardScaler(), SVC(C=c, class_weight="balanced")),
        train, dev, n_classes, select, cores=min(joblib.cpu_count(), len(PENALTIES)),
    )  # fmt: skip
    margins = machine.decision_function(judged)
    if margins.ndim == 1:  # two classes: scikit-learn gives one column
        margins = np.c_[-margins, margins]
    scores = np.exp(margins - margins.max(1, keepdims=True))
    return _spread(scores / scores.sum(1, keepdims=True), machine.classes_, n_classes), penalty


def linear_probe(train: tuple, dev: tuple, judged: NDArray, n_classes: int, *, select: str = "ua"):
    """Multinomial logistic regression on standardized embeddings (U, D); penalty chosen on dev.

    What a frozen encoder knows about the labels in a form that a linear layer can read (Alain and
    Bengio, 2016). Arguments as those of `svm`; classes weigh alike, too.

    Returns:
        Probabilities (V, C) and the chosen inverse penalty.
    """
    penalty, probe = _chosen_on_dev(
        lambda c: make_pipeline(
            StandardScaler(), LogisticRegression(C=c / 10, max_iter=500, class_weight="balanced")
        ),
        train, dev, n_classes, select,
    )  # fmt: skip
    return _spread(probe.predict_proba(judged), probe.classes_, n_classes), penalty / 10
