"""Metrics against scikit-learn and hand calculation; intervals against a slow loop."""

from __future__ import annotations

import collections
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from serlib.metrics import intervals, measures

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
    """From scikit-learn's curve, at the point where the two errors are closest."""
    accepted, found, _ = sk.roc_curve(same, scores, drop_intermediate=False)
    at = np.abs(1 - found - accepted).argmin()
    return (1 - found[at] + accepted[at]) / 2


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


def test_eer_without_both_kinds_of_trials_is_unknown():
    for same in ([True, True], [False, False], []):
        assert math.isnan(measures.eer(np.arange(len(same)), same))
    for scores, same in (([1.0, math.nan], [True, False]), ([1.0], [True, False])):
        with pytest.raises(ValueError, match="must agree"):
            measures.eer(scores, same)


# ---- intervals ----------------------------------------------------------------------------------


def seeds_and_speakers(seed: int, n_seeds: int = 3) -> tuple:
    rng = np.random.default_rng(seed)
    truth, _ = labels(seed, 120, 3)
    noise = rng.integers(3, size=(n_seeds, 120))
    predictions = np.where(rng.random((n_seeds, 120)) < 0.6, truth, noise)
    groups = np.array([f"speaker {i}" for i in rng.integers(7, size=120)])
    return truth, predictions, groups


def slow_bootstrap(metric, truth, systems, groups, n, seed):
    """The same resamples one by one, utterance by utterance."""
    names, n_seeds = sorted(set(groups)), len(systems[0])
    members = {name: np.flatnonzero(groups == name) for name in names}
    rng = np.random.default_rng(seed)
    statistics = []
    while len(statistics) < n:
        size = min(500, n - len(statistics))
        drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), size=size)
        seeds = rng.multinomial(n_seeds, [1 / n_seeds] * n_seeds, size=size)
        for i in range(size):
            rows = [
                members[name] for name, k in zip(names, drawn[i], strict=True) for _ in range(k)
            ]
            rows = np.concatenate(rows)
            means = []
            for predictions in systems:
                scores = [
                    metric(truth[rows], predictions[s][rows])
                    for s in range(n_seeds)
                    for _ in range(seeds[i][s])
                ]
                means.append(np.mean(scores))
            statistics.append(means[-1] - (means[0] if len(means) == 2 else 0))
    return np.nanpercentile(statistics, [2.5, 97.5])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        (measures.wa, sk.accuracy_score),
        (measures.ua, sk.balanced_accuracy_score),
        (measures.macro_f1, lambda t, p: sk.f1_score(t, p, average="macro")),
    ],
)
def test_bootstrap_against_a_slow_loop_with_the_same_resamples(metric, oracle):
    truth, predictions, groups = seeds_and_speakers(1)
    fast = intervals.bootstrap(metric, truth, predictions, groups, n_classes=3, n=40, seed=9)
    assert fast.value == pytest.approx(np.mean([oracle(truth, p) for p in predictions]))
    slow = slow_bootstrap(oracle, truth, [predictions], groups, 40, 9)
    np.testing.assert_allclose([fast.low, fast.high], slow)

    other = seeds_and_speakers(2)[1]
    fast = intervals.paired_bootstrap(
        metric, truth, predictions, other, groups, n_classes=3, n=40, seed=9
    )
    slow = slow_bootstrap(oracle, truth, [predictions, other], groups, 40, 9)
    np.testing.assert_allclose([fast.low, fast.high], slow)


def test_more_resamples_than_one_block_still_match_the_loop():
    truth, predictions, groups = seeds_and_speakers(3, n_seeds=1)
    fast = intervals.bootstrap(measures.wa, truth, predictions[0], groups, n_classes=3, n=1_100)
    slow = slow_bootstrap(lambda t, p: (t == p).mean(), truth, [predictions], groups, 1_100, 0)
    np.testing.assert_allclose([fast.low, fast.high], slow)


def test_bootstrap_covers_the_true_value_as_often_as_it_says():
    """Speakers differ in difficulty: resampling speakers covers, resampling utterances does not."""
    rng = np.random.default_rng(7)
    hit = collections.Counter()
    for trial in range(200):
        skill = rng.beta(4, 2, size=40)  # mean 2/3 is the value to cover
        groups = np.repeat(np.arange(40), 25)
        right = rng.random(1_000) < skill[groups]
        truth = rng.integers(2, size=1_000)
        prediction = np.where(right, truth, 1 - truth)
        for name, unit in (("speakers", groups), ("utterances", np.arange(1_000))):
            interval = intervals.bootstrap(
                measures.wa, truth, prediction, unit, n_classes=2, n=200, seed=trial
            )
            hit[name] += 2 / 3 in interval
    assert 0.89 <= hit["speakers"] / 200 <= 0.99
    assert hit["utterances"] / 200 < 0.75


def test_resampling_seeds_widens_the_interval_when_seeds_differ():
    truth, _, groups = seeds_and_speakers(4)
    good, bad = truth, (truth + 1) % 3
    steady = np.stack([np.where(np.arange(120) % 2, good, bad)] * 4)
    unsteady = np.stack([good, good, bad, bad])
    one = intervals.bootstrap(measures.wa, truth, steady, groups, n_classes=3)
    two = intervals.bootstrap(measures.wa, truth, unsteady, groups, n_classes=3)
    assert one.value == pytest.approx(two.value)
    assert two.low == pytest.approx(0) and two.high == pytest.approx(1)
    assert one.high - one.low < 0.3


def test_paired_interval_of_identical_predictions_is_exactly_zero():
    truth, predictions, groups = seeds_and_speakers(5)
    same = intervals.paired_bootstrap(
        measures.macro_f1, truth, predictions, predictions, groups, n_classes=3
    )
    assert (same.value, same.low, same.high) == (0, 0, 0) and 0 in same


def test_paired_interval_finds_the_winner_that_separate_intervals_miss():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(20), 30)
    truth = rng.integers(2, size=600)
    skill = rng.uniform(0.4, 0.9, size=20)[groups]  # easy and hard speakers, for both systems
    luck = rng.random(600)
    a = np.where(luck < skill, truth, 1 - truth)
    b = np.where(luck < skill + 0.05, truth, 1 - truth)
    options = {"n_classes": 2, "seed": 1}
    gain = intervals.paired_bootstrap(measures.wa, truth, a, b, groups, **options)
    assert gain.low > 0 and 0 not in gain
    loss = intervals.paired_bootstrap(measures.wa, truth, b, a, groups, **options)
    assert loss.value == -gain.value and loss.high == pytest.approx(-gain.low, abs=2e-3)
    alone_a = intervals.bootstrap(measures.wa, truth, a, groups, **options)
    alone_b = intervals.bootstrap(measures.wa, truth, b, groups, **options)
    assert alone_a.high > alone_b.low  # they overlap
    assert gain.high - gain.low < (alone_a.high - alone_a.low) / 2


def test_intervals_are_reproducible_and_widen_with_the_level():
    truth, predictions, groups = seeds_and_speakers(6)
    options = {"n_classes": 3, "n": 500}
    run = [
        intervals.bootstrap(measures.ua, truth, predictions, groups, **options) for _ in range(2)
    ]
    assert run[0] == run[1]
    other = intervals.bootstrap(measures.ua, truth, predictions, groups, seed=1, **options)
    assert other.value == run[0].value and other.low != run[0].low
    wide = intervals.bootstrap(measures.ua, truth, predictions, groups, level=0.99, **options)
    assert wide.low < run[0].low and wide.high > run[0].high and wide.level == 0.99


def test_the_order_of_utterances_and_the_names_of_speakers_do_not_matter():
    truth, predictions, groups = seeds_and_speakers(7)
    one = intervals.bootstrap(measures.ua, truth, predictions, groups, n_classes=3)
    order = np.random.default_rng(0).permutation(len(truth))
    two = intervals.bootstrap(
        measures.ua, truth[order], predictions[:, order], groups[order], n_classes=3
    )
    numbers = np.unique(groups, return_inverse=True)[1]
    three = intervals.bootstrap(measures.ua, truth, predictions, numbers, n_classes=3)
    assert one == two == three


@pytest.mark.filterwarnings("error")
def test_one_speaker_or_none_gives_no_bounds():
    truth, predictions, _ = seeds_and_speakers(8)
    one = intervals.bootstrap(measures.wa, truth, predictions, np.zeros(120), n_classes=3)
    assert 0 < one.value < 1 and math.isnan(one.low) and math.isnan(one.high)
    assert one.value not in one and "nan" in str(one)
    none = intervals.bootstrap(measures.ua, [], [], [], n_classes=3)
    assert math.isnan(none.value) and math.isnan(none.low)


def test_resamples_without_the_class_are_left_out():
    truth = np.array([0] * 30 + [1] * 5)
    groups = np.array([0] * 10 + [1] * 10 + [2] * 10 + [3] * 5)  # class 1 only in speaker 3
    prediction = np.array([0] * 30 + [1, 1, 0, 0, 0])
    interval = intervals.bootstrap(
        lambda cm: measures.recalls(cm)[..., 1], truth, prediction, groups, n_classes=2
    )
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.4, 0.4, 0.4))


def test_a_seed_that_was_not_drawn_cannot_make_a_resample_undefined():
    truth, predictions, groups = seeds_and_speakers(11)
    rare = groups == groups[0]  # seed 0 calls class 2 for one speaker only
    predictions[0] = np.where((predictions[0] == 2) & ~rare, 1, predictions[0])
    predictions[0][np.flatnonzero(rare)[:2]] = 2

    def precision(t, p):
        return (t[p == 2] == 2).mean() if (p == 2).any() else np.nan

    fast = intervals.bootstrap(
        lambda cm: intervals.quotient(cm[..., 2, 2], cm[..., 2].sum(-1)),
        truth,
        predictions,
        groups,
        n_classes=3,
        n=60,
    )
    slow = slow_bootstrap(precision, truth, [predictions], groups, 60, 0)
    np.testing.assert_allclose([fast.low, fast.high], slow)


@pytest.mark.parametrize(
    ("predictions", "groups", "message"),
    [
        ([0, 1, 0], ["a", "b"], "need"),
        ([[0, 1]], ["a", "b", "c"], "need"),
        ([[[0, 1, 0]]], ["a", "b", "c"], "need"),
        ([0, 1, 0], ["a", None, "c"], "speaker"),
        ([0, 1, 0], [1.0, float("nan"), 2.0], "speaker"),
        ([0, 1, 2], ["a", "b", "c"], "2 classes"),
    ],
)
def test_bootstrap_refuses_what_does_not_match(predictions, groups, message):
    with pytest.raises(ValueError, match=message):
        intervals.bootstrap(measures.wa, [0, 1, 1], predictions, groups, n_classes=2)


def test_paired_bootstrap_refuses_different_numbers_of_seeds():
    truth, predictions, groups = seeds_and_speakers(9)
    with pytest.raises(ValueError, match="equal"):
        intervals.paired_bootstrap(
            measures.wa, truth, predictions, predictions[:2], groups, n_classes=3
        )


def ratios(seed: int, n_seeds: int = 3) -> tuple:
    """Edits (S, U) over words (U,), some of them 0, and the speakers."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 9, size=90)
    edits = rng.binomial(words, 0.3, size=(n_seeds, 90))
    return edits, np.broadcast_to(words, edits.shape), rng.integers(6, size=90)


def test_the_interval_of_a_ratio_against_a_slow_loop():
    edits, words, groups = ratios(20)
    other = ratios(21)[0]

    def rate(words, edits):
        return edits.sum() / words.sum()

    fast = intervals.bootstrap_ratio([(edits, words)], groups, n=60, seed=4)
    assert fast.value == pytest.approx(np.mean([rate(words[0], e) for e in edits]))
    slow = slow_bootstrap(rate, words[0], [edits], groups, 60, 4)
    np.testing.assert_allclose([fast.low, fast.high], slow)

    fast = intervals.bootstrap_ratio([(edits, words), (other, words)], groups, n=60, seed=4)
    assert fast.value == pytest.approx((other.sum() - edits.sum()) / words.sum())
    slow = slow_bootstrap(rate, words[0], [edits, other], groups, 60, 4)
    np.testing.assert_allclose([fast.low, fast.high], slow)
    same = intervals.bootstrap_ratio([(edits, words)] * 2, groups, n=60)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_accuracy_as_a_ratio_has_the_interval_of_the_confusion_matrix():
    truth, predictions, groups = seeds_and_speakers(22)
    right, known = predictions == truth, np.ones(predictions.shape)
    expected = intervals.bootstrap(
        measures.wa, truth, predictions, groups, n_classes=3, n=700, seed=2
    )
    found = intervals.bootstrap_ratio([(right, known)], groups, n=700, seed=2)
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [expected.value, expected.low, expected.high]
    )
    one = intervals.bootstrap_ratio([(right[0], known[0])], groups, n=50)  # one seed may be (U,)
    assert one == intervals.bootstrap_ratio([(right[:1], known[:1])], groups, n=50)


@pytest.mark.filterwarnings("error")
def test_ratios_without_anything_known_and_of_one_speaker():
    nothing = intervals.bootstrap_ratio([(np.zeros(4), np.zeros(4))], np.arange(4), n=20)
    assert math.isnan(nothing.value) and math.isnan(nothing.low)
    one = intervals.bootstrap_ratio([(np.ones(4), np.full(4, 2.0))], ["a"] * 4, n=20)
    assert one.value == 0.5 and math.isnan(one.low)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_ratio_without_a_speaker_is_refused(missing):
    groups = np.array(["a", missing, "b"], dtype=object)
    with pytest.raises(ValueError, match="speaker"):
        intervals.bootstrap_ratio([(np.ones(3), np.ones(3))], groups)


def test_interval_prints_like_the_tables():
    assert str(intervals.Interval(0.6119, 0.5707, 0.65, 0.95)) == "0.612 [0.571, 0.650]"


def test_two_thousand_resamples_of_a_large_corpus_stay_in_memory():
    rng = np.random.default_rng(10)
    truth = rng.integers(8, size=25_000)
    predictions = rng.integers(8, size=(5, 25_000))
    groups = rng.integers(700, size=25_000)
    tracemalloc.start()
    intervals.bootstrap(measures.macro_f1, truth, predictions, groups, n_classes=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # the resampled utterances themselves would be 2,000 x 25,000 x 8 bytes
