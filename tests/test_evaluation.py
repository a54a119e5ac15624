"""Predictions and scores, against numbers worked out by hand and by scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from torch import nn

from serlib.data.batching import Batch
from serlib.losses.classification import IGNORE
from serlib.training import evaluation


class Table(nn.Module):
    """Logits are the inputs, plus dropout that evaluation must switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()  # a part that stays in eval mode while others train
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        assert not torch.is_grad_enabled()
        return {"emotion": self.dropout(batch.inputs) * self.scale}


LOGITS = torch.tensor(
    [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0], [0.5, 0.0, 0.25]]
)
TRUTH = torch.tensor([0, 1, 1, 2, IGNORE])


def rows(*numbers: int) -> Batch:
    index = torch.tensor(numbers)
    return Batch(
        inputs=LOGITS[index].clone(),
        lengths=torch.full((len(numbers),), 3),
        emotion=TRUTH[index],
        keys=["edcba"[i] for i in numbers],  # not in the order of the index
        index=index,
        seconds=float(len(numbers)),
    )


def test_predictions_by_hand():
    table = evaluation.predict(Table(), [rows(0, 1), rows(2, 3, 4)])
    assert table.index.name == "key" and table.index.tolist() == list("edcba")
    assert list(table.columns) == ["truth", "prediction", "p_0", "p_1", "p_2"]
    assert table["truth"].tolist() == [0, 1, 1, 2, IGNORE]
    assert table["prediction"].tolist() == [0, 1, 0, 2, 0]  # of equal logits the first
    e = math.e
    expected = np.array([e**2, e, 1]) / (e**2 + e + 1)
    np.testing.assert_allclose(table.loc["e", ["p_0", "p_1", "p_2"]].astype(float), expected)
    np.testing.assert_allclose(table[["p_0", "p_1", "p_2"]].sum(axis=1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "batches", [[[0], [1], [2], [3], [4]], [[4, 3, 2, 1, 0]], [[3], [0, 4], [2, 1]]]
)
def test_neither_batch_size_nor_order_changes_the_table(batches):
    reference = evaluation.predict(Table(), [rows(0, 1, 2, 3, 4)])
    found = evaluation.predict(Table(), (rows(*numbers) for numbers in batches))
    pd.testing.assert_frame_equal(found, reference, check_exact=True)


def test_an_utterance_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="1 utterances come more than once.*'d'"):
        evaluation.predict(Table(), [rows(0, 1), rows(1, 2)])
    with pytest.raises(ValueError, match="2 utterances"):
        evaluation.predict(Table(), [rows(0, 1, 1), rows(0, 0)])


def test_nothing_to_predict_and_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="empty"):
        evaluation.predict(Table(), [])
    bad = rows(0, 1, 2)
    bad.inputs[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"1 utterances.*\['d'\]"):
        evaluation.predict(Table(), [bad])


def test_the_model_is_left_as_it_was():
    model = Table().train()
    model.frozen.eval()
    evaluation.predict(model, [rows(0, 1)])
    assert model.training and model.dropout.training and not model.frozen.training
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="empty"):
        evaluation.predict(model, [])
    assert model.dropout.training
    evaluation.predict(model.eval(), [rows(0, 1)])
    assert not model.training


def test_precision():
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.seen: list[torch.dtype] = []

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            logits = self.linear(batch.inputs)
            self.seen.append(logits.dtype)
            return {"emotion": logits}

    torch.manual_seed(0)
    model = Linear()
    tables = {
        precision: evaluation.predict(model, [rows(0, 1, 2, 3, 4)], "cpu", precision=precision)
        for precision in ("fp32", "bf16", "auto")
    }
    assert model.seen == [torch.float32, torch.bfloat16, torch.float32]
    pd.testing.assert_frame_equal(tables["fp32"], tables["auto"], check_exact=True)
    difference = (tables["fp32"] - tables["bf16"]).filter(like="p_").abs().to_numpy()
    assert 0 < difference.max() < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):  # what surrounds the call does not count
        inside = evaluation.predict(model, [rows(0, 1, 2, 3, 4)])
    pd.testing.assert_frame_equal(tables["fp32"], inside, check_exact=True)
    with pytest.raises(ValueError, match="fp16"):
        evaluation.predict(model, [rows(0)], precision="fp16")


def table_of(truth: list[int], probabilities: np.ndarray) -> pd.DataFrame:
    table = {"truth": truth, "prediction": probabilities.argmax(axis=1)}
    table |= {f"p_{c}": column for c, column in enumerate(probabilities.T)}
    return pd.DataFrame(table)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, size=200)
    probabilities = rng.dirichlet(np.ones(4), size=200)
    probabilities[np.arange(200), truth] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = evaluation.score(table_of(list(truth), probabilities), 4)
    predicted = probabilities.argmax(axis=1)
    assert scores["wa"] == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    assert scores["ua"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted))
    macro = sklearn.metrics.f1_score(truth, predicted, average="macro")
    assert scores["macro_f1"] == pytest.approx(macro)
    assert scores["n"] == 200 and 0 < scores["ece"] < 1


def test_unlabeled_utterances_do_not_count():
    labeled = table_of([0, 1, 1], np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))
    more = table_of([0, 1, IGNORE, 1], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4]]))
    assert evaluation.score(more, 2) == evaluation.score(labeled, 2)
    assert evaluation.score(labeled, 2)["n"] == 3


def test_a_class_that_never_occurs_and_a_single_clip():
    scores = evaluation.score(table_of([0, 1, 1], np.eye(3)[[0, 1, 0]]), 3)
    assert scores["ua"] == pytest.approx(0.75)  # mean of 1 and 1/2: class 2 has no recall
    one = evaluation.score(table_of([2], np.eye(3)[[2]]), 3)
    assert one == {"wa": 1.0, "ua": 1.0, "macro_f1": 1.0, "ece": 0.0, "n": 1}


def test_no_labels_at_all_and_a_wrong_number_of_classes():
    scores = evaluation.score(table_of([IGNORE], np.array([[0.5, 0.5]])), 2)
    assert scores.pop("n") == 0 and all(math.isnan(value) for value in scores.values())
    with pytest.raises(ValueError, match="n_classes=3"):
        evaluation.score(table_of([0], np.array([[0.5, 0.5]])), 3)


def test_more_than_ten_classes_stay_in_order():
    probabilities = np.eye(12)[[11, 2]]
    assert evaluation.score(table_of([11, 2], probabilities), 12)["wa"] == 1.0


class Answers(Table):
    """Beside the emotion, or instead of it, a gender; two unknown in the truth."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        outputs = super().forward(batch) | {"gender": batch.inputs[:, :2]}
        return {name: outputs[name] for name in self.names}


def gendered(*numbers: int) -> Batch:
    truth = torch.tensor([1, 1, 0, IGNORE, IGNORE])[list(numbers)]
    return replace(rows(*numbers), extra={"gender": truth})


def test_other_tasks_answers_stand_beside_the_emotion_in_the_same_rows():
    model, order = Answers("emotion", "gender"), ([3, 0], [4, 1, 2])
    table = evaluation.predict(model, [gendered(*numbers) for numbers in order])
    plain = evaluation.predict(Table(), [rows(*numbers) for numbers in order])
    pd.testing.assert_frame_equal(table[list(plain)], plain, check_exact=True)
    assert table["gender"].tolist() == [0, 1, 0, 0, 0]  # of equal logits the first
    assert table["gender_truth"].tolist() == [1, 1, 0, IGNORE, IGNORE]
    scores = evaluation.score(table, 3)
    assert scores.pop("gender") == pytest.approx(2 / 3)
    assert scores == evaluation.score(plain, 3)


def test_a_model_without_the_emotion_has_its_own_answers_and_scores_only():
    table = evaluation.predict(Answers("gender"), [gendered(2, 1), gendered(0)])
    assert table.index.tolist() == list("edc")
    assert list(table) == ["truth", "gender", "gender_truth"]
    assert evaluation.score(table, 3) == {"gender": pytest.approx(2 / 3)}
    unlabeled = evaluation.predict(Answers("gender"), [rows(0, 1)])
    assert evaluation.score(unlabeled, 3) == {}
    with pytest.raises(ValueError, match="more than once"):
        evaluation.predict(Answers("gender"), [gendered(0), gendered(0)])
