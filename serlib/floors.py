"""Floors: what guessers, and classifiers that learn no features, score on the same split.

A deep model earns its keep only by the distance to these. Each function returns scores (U, C) for
the utterances to judge; the decision is the argmax. Every choice made here is made on dev.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from serlib import metrics

GUESSERS = ("majority", "prior", "uniform")
PENALTIES = (0.01, 0.1, 1.0, 10.0)


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


def _chosen_on_dev(build, train: tuple, dev: tuple, n_classes: int, select: str):
    """Fit one classifier per penalty, return the one with the best dev score and its penalty."""
    best = None
    for penalty in PENALTIES:
        classifier = build(penalty).fit(*train)
        cm = metrics.confusion(dev[1], classifier.predict(dev[0]), n_classes)
        value = float(getattr(metrics, select)(cm))
        if best is None or value > best[0]:
            best = value, penalty, classifier
    return best[1], best[2]


def _spread(scores: NDArray, classes: NDArray, n_classes: int) -> NDArray:
    """Put the columns of the classes that train had where they belong among all C."""
    full = np.zeros((len(scores), n_classes))
    full[:, classes] = scores
    return full


def svm(train: tuple, dev: tuple, judged: NDArray, n_classes: int, *, select: str = "ua"):
    """A support vector machine with an RBF kernel on standardized features; C chosen on dev.

    Classes weigh alike in its loss (``class_weight="balanced"``). With `serlib.audio.functionals`
    as features this is the classical system of the years before 2018.

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
        train, dev, n_classes, select,
    )  # fmt: skip
    margins = machine.decision_function(judged)
    if margins.ndim == 1:  # two classes: scikit-learn gives one column
        margins = np.c_[-margins, margins]
    scores = np.exp(margins - margins.max(1, keepdims=True))
    return _spread(scores / scores.sum(1, keepdims=True), machine.classes_, n_classes), penalty


def linear_probe(
    train: tuple, dev: tuple, judged: NDArray, n_classes: int, *, select: str = "ua",
    balanced: bool = True,
):  # fmt: skip
    """Multinomial logistic regression on standardized embeddings; penalty chosen on dev.

    What a frozen encoder knows about the labels in a form that a linear layer can read (Alain and
    Bengio, 2016).

    Args:
        train: Embeddings (U, D) and labels (U,).
        dev: Likewise; for choosing the penalty.
        judged: (V, D) embeddings of the utterances to judge.
        n_classes: Number of classes.
        select: Metric that decides on dev.
        balanced: Whether classes weigh alike in the loss.

    Returns:
        Probabilities (V, C) and the chosen inverse penalty.
    """
    weight = "balanced" if balanced else None
    penalty, probe = _chosen_on_dev(
        lambda c: make_pipeline(
            StandardScaler(), LogisticRegression(C=c / 10, max_iter=500, class_weight=weight)
        ),
        train, dev, n_classes, select,
    )  # fmt: skip
    return _spread(probe.predict_proba(judged), probe.classes_, n_classes), penalty / 10
