"""Guessers and classical classifiers."""

from types import SimpleNamespace

import joblib
import numpy as np
import pytest

from serlib.data import acoustics
from serlib.data.stores import WaveStore
from serlib.experiments import floors


def blobs(n, seed, classes=3, width=5):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centers = np.eye(classes, width) * 6
    return centers[y] + rng.standard_normal((n, width)), y


def test_guessers_guess_as_announced():
    train = np.repeat([0, 1, 2], [10, 60, 30])
    majority = floors.guess("majority", train, 50, 4, seed=0)
    assert majority.shape == (50, 4) and (majority.argmax(1) == 1).all()
    prior = floors.guess("prior", train, 20_000, 4, seed=0).mean(0)
    assert prior == pytest.approx([0.1, 0.6, 0.3, 0.0], abs=0.015)
    uniform = floors.guess("uniform", train, 20_000, 4, seed=0).mean(0)
    assert uniform == pytest.approx([0.25] * 4, abs=0.015)
    again = floors.guess("prior", train, 20, 4, seed=1)
    assert (again == floors.guess("prior", train, 20, 4, seed=1)).all()
    with pytest.raises(ValueError, match="no guesser 'best'; use one of majority"):
        floors.guess("best", train, 1, 4, seed=0)


@pytest.mark.parametrize("cores", [1, 3])
def test_functionals_are_the_same_on_any_number_of_cores(own_home, monkeypatch, cores):
    rng = np.random.default_rng(0)
    waves = [rng.integers(-3000, 3000, n).astype(np.int16) for n in rng.integers(4000, 20000, 9)]
    store = WaveStore(waves)
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    found = floors.functionals(SimpleNamespace(store=store))
    one_by_one = np.stack([acoustics.functionals(store[i]) for i in range(len(store))])
    assert found.tobytes() == one_by_one.tobytes()


def test_an_svm_is_the_same_on_any_number_of_cores(monkeypatch):
    train, dev, judged = blobs(150, 0), blobs(60, 1), blobs(40, 2)[0]
    found = []
    for cores in (1, 4):
        monkeypatch.setattr(joblib, "cpu_count", lambda cores=cores: cores)
        found.append(floors.svm(train, dev, judged, 3))
    assert found[0][0].tobytes() == found[1][0].tobytes() and found[0][1] == found[1][1]


@pytest.mark.parametrize("fit", [floors.svm, floors.linear_probe])
def test_classifiers_separate_what_is_separable(fit):
    train, dev, (x, y) = blobs(120, 0), blobs(60, 1), blobs(80, 2)
    scores, penalty = fit(train, dev, x, 3)
    assert scores.shape == (80, 3) and scores.sum(1) == pytest.approx(np.ones(80))
    assert (scores.argmax(1) == y).mean() > 0.95 and penalty > 0


@pytest.mark.parametrize("fit", [floors.svm, floors.linear_probe])
def test_a_class_that_train_lacks_is_never_said(fit):
    (x, y), dev = blobs(120, 0), blobs(60, 1)
    keep = y != 1
    scores, _ = fit((x[keep], y[keep]), dev, blobs(80, 2)[0], 4)
    assert scores.shape == (80, 4) and (scores[:, [1, 3]] == 0).all()
    assert set(scores.argmax(1)) == {0, 2}  # two classes left: one margin per utterance


@pytest.mark.parametrize("fit", [floors.svm, floors.linear_probe])
def test_the_judged_utterances_decide_nothing(fit):
    """Neither the penalty nor the standardization may look at what is judged."""
    train, dev, (x, _) = blobs(60, 0), blobs(30, 1), blobs(40, 2)
    alone, penalty = fit(train, dev, x[:1], 3)
    together, same = fit(train, dev, np.r_[x, 100 + x], 3)
    assert penalty == same and together[:1] == pytest.approx(alone)


def test_the_penalty_is_chosen_on_dev():
    """With dev labels permuted so that only ignoring the features helps, another penalty wins."""
    train, dev = blobs(200, 0, width=40), blobs(200, 1, width=40)
    noisy = train[0] * 0 + np.random.default_rng(3).standard_normal(train[0].shape)
    _, clean = floors.linear_probe(train, dev, dev[0], 3)
    scores = {}
    for p in floors.PENALTIES:
        original, floors.PENALTIES = floors.PENALTIES, (p,)
        try:
            predicted, _ = floors.linear_probe((noisy, train[1]), dev, dev[0], 3)
        finally:
            floors.PENALTIES = original
        recall = [(predicted.argmax(1) == c)[dev[1] == c].mean() for c in range(3)]
        scores[p] = np.mean(recall)
    _, chosen = floors.linear_probe((noisy, train[1]), dev, dev[0], 3)
    assert scores[chosen * 10] == max(scores.values()) and clean > 0
