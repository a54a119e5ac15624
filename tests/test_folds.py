"""Runs over the folds of one recipe: one cross-validated score, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serlib import records
from serlib.experiments.runs import Runs
from serlib.metrics import intervals, measures
from serlib.recipes import papers

CLASSES = ("anger", "happiness")
# Of each fold: key, speaker, truth. Class 1 is rare in fold 1 and common in fold 2.
FOLDS = {
    1: [("a1", "ann", 0), ("a2", "ann", 0), ("a3", "ann", 1), ("b1", "bob", 0), ("b2", "bob", 0)],
    2: [("c1", "cay", 1), ("c2", "cay", 1), ("d1", "dan", 0), ("d2", "dan", 1), ("d3", "dan", 1)],
}
RIGHT = {1: [1, 1, 0, 1, 1], 2: [1, 0, 0, 1, 1]}  # of a system, utterance by utterance


class Shelf:
    """Finished runs on a disk, as a sweep would have left them."""

    def __init__(self, root):
        self.root, self.n = root, 0

    def run(self, name, fold=1, seed=0, rows=None, right=None, system="fine-tune", role="test"):
        """A pair (recipe, run) whose predictions are right where `right` says so."""
        rows = FOLDS[fold] if rows is None else rows
        right = np.asarray(RIGHT[fold] if right is None else right)
        keys, speakers, truth = map(list, zip(*rows, strict=True))
        self.n += 1
        run = records.Run.open(self.root, {"run": self.n}, key=f"run-{self.n}")
        table = pd.DataFrame(
            {"truth": truth, "speaker": speakers}, index=pd.Index(keys, name="key")
        )
        table["prediction"] = np.where(right, table["truth"], 1 - table["truth"])
        run.save_predictions(role, table)
        if system == "fine-tune":
            recipe = papers.cai2021("demo").change(classes=CLASSES)
        else:
            recipe = papers.floor(system, "demo").change(classes=CLASSES)
        return recipe.change(name=name, fold=fold, seed=seed), run

    def runs(self, *pairs):
        """The `Runs` of some pairs."""
        return Runs(*map(tuple, zip(*pairs, strict=True)))


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def crossed(shelf, name="cai", seeds=(0, 1), **kept):
    """A name with both folds for each seed; seed 1 has a1 wrong."""
    found = []
    for seed in seeds:
        found.append(shelf.run(name, 1, seed, right=[1 - seed % 2, *RIGHT[1][1:]], **kept))
        found.append(shelf.run(name, 2, seed, **kept))
    return found


def test_folds_are_one_table_per_seed(shelf):
    runs = shelf.runs(*crossed(shelf))
    tables = runs.predictions("cai")
    everybody = [key for fold in FOLDS.values() for key, *_ in fold]
    assert [list(t.index) for t in tables] == [everybody] * 2
    truth, predictions, speakers = runs.stacked("cai")
    assert truth.tolist() == [0, 0, 1, 0, 0, 1, 1, 0, 1, 1] and predictions.shape == (2, 10)
    assert (predictions == truth).tolist() == [
        [1, 1, 0, 1, 1, 1, 0, 0, 1, 1],
        [0, 1, 0, 1, 1, 1, 0, 0, 1, 1],
    ]
    assert list(dict.fromkeys(speakers)) == ["ann", "bob", "cay", "dan"]
    assert runs.confusion("cai").tolist() == [[4 + 3, 1 + 2], [2 + 2, 3 + 3]]


def test_the_pooled_score_is_that_of_all_utterances_and_no_mean_of_folds(shelf):
    runs = shelf.runs(*crossed(shelf, seeds=[0]))
    # Recalls: fold 1 has 4 of 4 and 0 of 1, fold 2 has 0 of 1 and 3 of 4; together 4 of 5, 3 of 5.
    assert runs.interval("cai", "ua").value == pytest.approx((4 / 5 + 3 / 5) / 2)
    assert runs.interval("cai", "wa").value == pytest.approx(7 / 10)
    table = runs.folds("cai", ["ua", "wa"])
    assert list(table.index) == [1, 2, "mean of folds", "pooled"] and table.index.name == "fold"
    assert table.loc[1, "ua"] == pytest.approx(0.5) and table.loc[2, "ua"] == pytest.approx(0.375)
    assert table.loc["mean of folds", "ua"] == "0.438 ± 0.088"  # 0.125 / sqrt(2)
    assert table.loc["mean of folds", "wa"] == "0.700 ± 0.141"
    assert table.loc["pooled", "ua"] == runs.interval("cai", "ua")


def test_the_interval_is_over_the_speakers_of_all_folds(shelf):
    runs = shelf.runs(*crossed(shelf))
    found = runs.interval("cai", "ua")
    truth, predictions, speakers = runs.stacked("cai")
    assert found == intervals.jackknife(measures.ua, truth, predictions, speakers, n_classes=2)
    assert found.bounded and found.note == ""
    table = runs.summary(["ua"])
    assert table.loc["cai"].tolist() == [2, 4, 2, found]
    assert list(table) == ["seeds", "speakers", "folds", "ua"]
    one = shelf.runs(*crossed(shelf)[:1])  # a fold of two speakers alone cannot say it
    assert str(one.interval("cai", "ua")) == "0.500 (cannot tell: 2 speakers)"
    assert list(one.summary(["ua"])) == ["seeds", "speakers", "ua"]


def test_systems_are_compared_over_all_folds_also_with_a_floor(shelf):
    floor = crossed(shelf, "floor", [0], system="svm")
    both = shelf.runs(*crossed(shelf), *floor)
    found = both.difference("floor", "cai", "wa")
    assert found.value == pytest.approx((7 / 10 + 6 / 10) / 2 - 7 / 10) and found.note == ""
    together = both.together("cai", "floor")
    assert {r.seed for r in together.recipes} == {0} and len(together) == 4
    assert together.difference("floor", "cai", "wa").value == 0
    assert both.interval("floor", "wa").note == ""  # no training, no luck in it
    assert together.interval("cai", "wa").note == "speakers only: 1 seed"


def test_the_order_of_runs_does_not_matter(shelf):
    pairs = crossed(shelf)
    straight, turned = shelf.runs(*pairs), shelf.runs(*pairs[::-1])
    assert straight.interval("cai", "macro_f1") == turned.interval("cai", "macro_f1")
    assert straight.folds("cai").equals(turned.folds("cai"))


def test_a_missing_fold_is_named(shelf):
    runs = shelf.runs(*crossed(shelf)[:3])
    with pytest.raises(ValueError, match=r"seed 1 of 'cai' was not run in fold 2.*leave that seed"):
        runs.interval("cai", "wa")
    with pytest.raises(ValueError, match="fold 2"):
        runs.summary()
    other = shelf.run("other", 1)
    with pytest.raises(ValueError, match="different utterances"):
        shelf.runs(*crossed(shelf, seeds=[0]), other).difference("cai", "other", "wa")


def test_folds_that_share_some_utterances_are_refused(shelf):
    leaky = [("a1", "ann", 0), *FOLDS[2][1:]]
    runs = shelf.runs(shelf.run("cai", 1), shelf.run("cai", 2, rows=leaky))
    with pytest.raises(ValueError, match=r"folds of 'cai' have 1 utterances in common, such as a1"):
        runs.predictions("cai")


def test_folds_that_all_test_the_same_utterances_count_them_each_time(shelf):
    """As "dev_as_test" has it, and folds on another corpus: more trainings, no more speakers."""
    rows = FOLDS[1] + [("c1", "cay", 1)]
    right = [1, 1, 0, 1, 0, 1]
    runs = shelf.runs(
        shelf.run("cai", 1, rows=rows, right=right), shelf.run("cai", 2, rows=rows, right=right)
    )
    once = shelf.runs(shelf.run("cai", 1, rows=rows, right=right))
    two, one = runs.interval("cai", "wa"), once.interval("cai", "wa")
    np.testing.assert_allclose([two.value, two.low, two.high], [one.value, one.low, one.high])
    assert runs.summary().loc["cai", "speakers"] == 3


def test_a_speaker_of_two_folds_is_one(shelf):
    again = [(f"{key}'", "ann", truth) for key, _, truth in FOLDS[2]]
    runs = shelf.runs(shelf.run("cai", 1), shelf.run("cai", 2, rows=again))
    assert runs.summary().loc["cai", "speakers"] == 2
    assert runs.interval("cai", "wa").note == "cannot tell: 2 speakers"


def test_unequal_numbers_of_seeds_are_named(shelf):
    runs = shelf.runs(*crossed(shelf, "a", range(3)), *crossed(shelf, "b", range(2)))
    with pytest.raises(ValueError, match=r"3 seeds against 2 of 'b'.*together"):
        runs.difference("a", "b", "wa")
    assert runs.together("a", "b").difference("a", "b", "wa").value == 0
