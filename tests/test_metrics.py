"""Metrics against scikit-learn and hand calculation; intervals against a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import metrics as sk

from serlib.metrics import measures

MATRIX = np.array([[5, 1, 0], [2, 3, 1], [0, 0, 8]])  # rows are the truth


def labels(seed: int, n: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, size=n, p=rng.dirichlet(np.ones(classes)))
    return truth, np.where(rng.random(n) < 0.5, truth, rng.integers(classes, size=n))


# ---- confusion and what follows from it ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed):
    truth, prediction = labels(seed)
    cm = measures.confusion(truth, prediction, 5)
    assert (cm == sk.confusion_matrix(truth, prediction, labels=range(5))).all()
    assert measures.wa(cm) == pytest.approx(sk.accuracy_score(truth, prediction))
    assert measures.wa(cm) == pytest.approx(sk.f1_score(truth, prediction, average="micro"))
    assert measures.ua(cm) == pytest.approx(sk.balanced_accuracy_score(truth, prediction))
    assert measures.macro_f1(cm) == pytest.approx(sk.f1_score(truth, prediction, average="macro"))
    options = {"average": None, "labels": range(5), "zero_division": np.nan}
    np.testing.assert_allclose(measures.recalls(cm), sk.recall_score(truth, prediction, **options))


def test_metrics_by_hand():
    assert measures.wa(MATRIX) == pytest.approx(16 / 20)
    np.testing.assert_allclose(measures.recalls(MATRIX), [5 / 6, 3 / 6, 1])
    assert measures.ua(MATRIX) == pytest.approx((5 / 6 + 3 / 6 + 1) / 3)
    assert measures.macro_f1(MATRIX) == pytest.approx((10 / 13 + 6 / 10 + 16 / 17) / 3)


def test_absent_classes_are_left_out_and_false_calls_count_as_zero():
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])  # 2 only called, 3 never
    cm = measures.confusion(truth, prediction, 4)
    assert np.isnan(measures.recalls(cm)).tolist() == [False, False, True, True]
    assert measures.ua(cm) == pytest.approx((0.5 + 1) / 2)
    assert measures.macro_f1(cm) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert measures.macro_f1(cm) == pytest.approx(sk.f1_score(truth, prediction, average="macro"))


@pytest.mark.filterwarnings("error")
def test_no_utterances_is_nan_everywhere():
    assert measures.confusion([], [], 3).tolist() == [[0] * 3] * 3
    for value in measures.classification([], [], 3).values():
        assert math.isnan(value)


def test_metrics_take_stacks_of_matrices():
    stack = np.stack([MATRIX, MATRIX.T, np.eye(3, dtype=int), 0 * MATRIX]).reshape(2, 2, 3, 3)
    for function in (measures.wa, measures.ua, measures.macro_f1, measures.recalls):
        one_by_one = [[function(stack[i, j]) for j in range(2)] for i in range(2)]
        np.testing.assert_allclose(function(stack), one_by_one)


def test_guessing_one_class_gives_the_prior_and_one_over_c():
    truth = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    scores = measures.classification(truth, np.zeros(100, int), 4)
    assert scores["wa"] == 0.7 and scores["ua"] == 0.25
    assert scores["macro_f1"] == pytest.approx(2 * 70 / 170 / 4)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0], r"\(2,\)"),
        ([[0, 1]], [[0, 1]], r"\(1, 2\)"),
        ([0, -100], [0, 1], "-100"),
        ([0, 3], [0, 1], "3 classes"),
        ([0, 1], [0, 3], "3 classes"),
        ([0.0, 1.0], [0, 1], "integers"),
        (["a", "b"], [0, 1], "integers"),
    ],
)
def test_confusion_refuses_what_are_not_labels(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        measures.confusion(truth, prediction, 3)


# ---- calibration --------------------------------------------------------------------------------


def test_ece_by_hand():
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.2, 0.8]])
    truth = np.array([0, 1, 0, 1])
    # bin (0.5, 0.75]: confidence 0.65, accuracy 1/2; bin (0.75, 1]: confidence 0.85, accuracy 1
    assert measures.ece(p, truth, bins=4) == pytest.approx(0.5 * 0.15 + 0.5 * 0.15)
    table = measures.reliability(p, truth, bins=4)
    assert table["count"].tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(table["confidence"], [np.nan, np.nan, 0.65, 0.85])
    np.testing.assert_allclose(table["accuracy"], [np.nan, np.nan, 0.5, 1.0])
    np.testing.assert_allclose(table["low"], [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(table["high"], [0.25, 0.5, 0.75, 1])


def test_ece_against_a_loop_over_utterances_and_bins():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.full(6, 0.5), size=500)
    truth = np.array([rng.choice(6, p=row) for row in p])
    total = 0.0
    for b in range(15):
        inside = [i for i in range(500) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            right = sum(p[i].argmax() == truth[i] for i in inside)
            total += abs(right - sum(p[i].max() for i in inside)) / 500
    assert measures.ece(p, truth) == pytest.approx(total)
    assert measures.ece(p, truth) < 0.1  # labels drawn from p, so p is calibrated
    assert measures.ece(p, (p.argmax(1) + 1) % 6) == pytest.approx(p.max(1).mean())  # never right


def test_a_bin_contains_its_upper_edge_and_certainty_falls_in_the_last():
    p = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert measures.reliability(p, np.array([0, 0]), bins=2)["count"].tolist() == [1, 1]


@pytest.mark.filterwarnings("error")
def test_ece_degenerate_and_hostile_input():
    assert math.isnan(measures.ece(np.zeros((0, 3)), np.zeros(0, int)))
    for bad in ([[2.0, 1.0]], [[1.5, -0.5]], [[np.nan, 1.0]]):
        with pytest.raises(ValueError, match="softmax"):
            measures.ece(np.array(bad), np.array([0]))
    with pytest.raises(ValueError, match=r"\(U, C\)"):
        measures.ece(np.array([[0.5, 0.5]]), np.array([0, 1]))


# ---- CCC ----------------------------------------------------------------------------------------


def test_ccc_is_the_population_form():
    # means 1, 2/3; variances 2/3, 2/9; covariance 1/3: (2/3) / (2/3 + 2/9 + 1/9) = 2/3.
    # The sample form would give 0.692.
    assert measures.ccc([0, 1, 2], [0, 1, 1]) == pytest.approx(2 / 3)


def test_ccc_against_correlation_times_bias():
    rng = np.random.default_rng(5)
    x = rng.normal(4, 1, 300)
    y = 0.6 * x + rng.normal(1, 0.5, 300)
    scale = x.std() / y.std()
    shift = (x.mean() - y.mean()) / np.sqrt(x.std() * y.std())
    expected = stats.pearsonr(x, y).statistic * 2 / (scale + 1 / scale + shift**2)
    assert measures.ccc(x, y) == pytest.approx(expected)
    assert measures.ccc(x, x) == pytest.approx(1) and measures.ccc(x, 8 - x) < 0


@pytest.mark.filterwarnings("error")
def test_ccc_degenerate_input():
    assert math.isnan(measures.ccc([], [])) and math.isnan(measures.ccc([1.0], [2.0]))
    assert math.isnan(measures.ccc([0.1] * 7, [0.1] * 7))
    assert measures.ccc([0.1] * 7, [0.2] * 7) == pytest.approx(0)
    assert measures.ccc([1.0, 2.0, 3.0], [0.1] * 3) == pytest.approx(0)
    with pytest.raises(ValueError, match=r"\(U,\)"):
        measures.ccc([1, 2], [1, 2, 3])


# ---- verification -------------------------------------------------------------------------------


def eer_of_roc(scores, same) -> float:
    """From scikit-learn's curve: where straight lines between its points meet the diagonal."""
    accepted, found, _ = sk.roc_curve(same, scores, drop_intermediate=False)
    return optimize.brentq(lambda x: 1 - x - np.interp(x, accepted, found), 0, 1)


@pytest.mark.parametrize("decimals", [0, 1, 8])  # 0 and 1 give many ties
@pytest.mark.parametrize("seed", range(4))
def test_eer_against_scikit_learns_curve(seed, decimals):
    rng = np.random.default_rng(seed)
    same = rng.random(101) < 0.3
    scores = (rng.normal(size=101) + 1.5 * same).round(decimals)
    assert measures.eer(scores, same) == pytest.approx(eer_of_roc(scores, same))
    order = rng.permutation(101)
    assert measures.eer(scores[order], same[order]) == measures.eer(scores, same)
    assert measures.eer(np.exp(scores / 3), same) == measures.eer(scores, same)  # only ranks count


def test_eer_by_hand():
    truth = np.array([True, True, True, False, False])
    assert measures.eer([5, 4, 3, 2, 1], truth) == 0
    assert measures.eer([1, 2, 3, 4, 5], truth) == 1
    assert measures.eer([7, 7, 7, 7, 7], truth) == 0.5  # accept all or none
    # at a threshold of 4: 1 of 3 rejected, 1 of 3 accepted wrongly
    assert measures.eer([6, 5, 1, 4, 2, 0], [1, 1, 1, 0, 0, 0]) == pytest.approx(1 / 3)
    # no threshold has both equal: from (0, 1/2) to (1/3, 1/2) they pass nothing, to (1/3, 0) 1/3
    assert measures.eer([5, 4, 2, 3, 1], [1, 1, 1, 0, 0]) == pytest.approx(1 / 3)
    # tied: (0, 1/2) and (1/2, 0) are the points around the crossing, so a quarter
    assert measures.eer([9, 5, 5, 1], [1, 1, 0, 0]) == pytest.approx(1 / 4)


def test_curves_cross_row_by_row():
    rejected, accepted = np.array([[0, 0.2, 1], [0, 0, 1]]), np.array([[1, 0.6, 0], [1, 1, 0]])
    np.testing.assert_allclose(measures.crossing(rejected, accepted), [3 / 7, 0.5])


def test_eer_without_both_kinds_of_trials_is_unknown():
    for same in ([True, True], [False, False], []):
        assert math.isnan(measures.eer(np.arange(len(same)), same))
    for scores, same in (([1.0, math.nan], [True, False]), ([1.0], [True, False])):
        with pytest.raises(ValueError, match="must agree"):
            measures.eer(scores, same)
