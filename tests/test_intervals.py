"""Intervals: slow loops, hand-made numbers, simulation, and what they say if they cannot tell."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from serlib.metrics import intervals, measures
from serlib.metrics.intervals import Interval
from tests.bench import __main__ as bench
from tests.bench.intervals import missed


def labels(seed: int, n_seeds: int = 3, utterances: int = 120, speakers: int = 7) -> tuple:
    """Truth, predictions (S, U) that are right in six of ten, speakers of unequal shares."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, size=utterances, p=[0.6, 0.3, 0.1])
    noise = rng.integers(3, size=(n_seeds, utterances))
    predictions = np.where(rng.random((n_seeds, utterances)) < 0.6, truth, noise)
    who = rng.choice(speakers, size=utterances, p=rng.dirichlet(np.full(speakers, 5.0)))
    return truth, predictions, np.array([f"speaker {i}" for i in who])


def by_hand(score, systems, groups, level=0.95, ends=(-math.inf, math.inf)) -> tuple:
    """Value and bounds, utterance by utterance; `score(rows, predictions)` is of one system.

    The variance over speakers is written with pseudo-values, that over seeds with `stats.sem`.
    """
    names, everybody = sorted(set(groups)), np.ones(len(groups), bool)

    def theta(rows):
        of = [[score(rows, p) for p in predictions] for predictions in systems]
        return np.subtract(*of[::-1]) if len(of) == 2 else np.array(of[0])  # (S,)

    g, per_seed = len(names), theta(everybody)
    whole = per_seed.mean()
    pseudo = [g * whole - (g - 1) * theta(groups != name).mean() for name in names]
    v_g = sum((x - whole) ** 2 for x in pseudo) / (g * (g - 1))
    sizes = np.array([(groups == name).sum() for name in names])
    nu_g = sizes.sum() ** 2 / (sizes**2).sum() - 1
    s = len(per_seed)
    v_s = stats.sem(per_seed) ** 2 if s > 1 else 0.0
    if v_s == 0:
        t = stats.t.ppf((1 + level) / 2, nu_g)
    elif s == 2:
        t = np.average(stats.t.ppf((1 + level) / 2, [nu_g, 1]), weights=[v_g, v_s])
    else:
        nu = math.floor((v_g + v_s) ** 2 / (v_g**2 / nu_g + v_s**2 / (s - 1)))
        t = stats.t.ppf((1 + level) / 2, max(nu, min(nu_g, s - 1)))
    half = t * math.sqrt(v_g + v_s)
    return whole, max(whole - half, ends[0]), min(whole + half, ends[1])


def numbers(found: Interval) -> list[float]:
    return [found.value, found.low, found.high]


# ---- the formula --------------------------------------------------------------------------------

SCORES = [
    (measures.wa, sk.accuracy_score),
    (measures.ua, sk.balanced_accuracy_score),
    (measures.macro_f1, lambda t, p: sk.f1_score(t, p, average="macro")),
]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(("metric", "oracle"), SCORES)
@pytest.mark.parametrize("n_seeds", [1, 2, 3, 6])
def test_an_interval_and_a_paired_one_against_a_slow_loop(metric, oracle, n_seeds):
    truth, predictions, groups = labels(1, n_seeds)
    other = labels(2, n_seeds)[1]

    def score(rows, p):
        return oracle(truth[rows], p[rows])

    found = intervals.jackknife(metric, truth, predictions, groups, n_classes=3)
    np.testing.assert_allclose(numbers(found), by_hand(score, [predictions], groups, ends=(0, 1)))
    found = intervals.paired_jackknife(metric, truth, predictions, other, groups, n_classes=3)
    expected = by_hand(score, [predictions, other], groups, ends=(-1, 1))
    np.testing.assert_allclose(numbers(found), expected)


def test_three_speakers_by_hand():
    """Right in 1, 2 and 3 of 4: the mean of three numbers, with Student's t of two degrees."""
    truth, groups = np.zeros(12, int), np.repeat([0, 1, 2], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0])
    found = intervals.jackknife(measures.wa, truth, 1 - right, groups, n_classes=2)
    half = 4.302653 * 0.25 / math.sqrt(3)  # t, standard deviation, root of the number of speakers
    np.testing.assert_allclose(numbers(found), [0.5, max(0, 0.5 - half), min(1, 0.5 + half)])
    narrow = intervals.jackknife(measures.wa, truth, 1 - right, groups, n_classes=2, level=0.5)
    np.testing.assert_allclose(narrow.high - 0.5, 0.816497 * 0.25 / math.sqrt(3), rtol=1e-5)


def ratios(seed: int, n_seeds: int = 3) -> tuple:
    """Edits (S, U) over words (U,), some of them 0, and the speakers."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 9, size=90)
    edits = rng.binomial(words, 0.3, size=(n_seeds, 90))
    return edits, np.broadcast_to(words, edits.shape), rng.integers(6, size=90)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_interval_of_a_ratio_against_delete_one_by_hand(n_seeds):
    edits, words, groups = ratios(20, n_seeds)

    def rate(rows):
        return (edits[:, rows].sum(1) / words[0, rows].sum()).mean()

    everybody = np.ones(90, bool)
    found = intervals.jackknife_ratio([(edits, words)], groups)
    assert found.value == pytest.approx(rate(everybody))
    v = 5 / 6 * sum((rate(groups != g) - rate(everybody)) ** 2 for g in range(6))
    v += stats.sem(edits.sum(1) / words[0].sum()) ** 2 if n_seeds > 1 else 0
    assert found.value - found.low > 1.96 * math.sqrt(v)
    if n_seeds == 1:
        said = [(edits + words)[0, groups == g].sum() for g in range(6)]
        nu = sum(said) ** 2 / sum(x * x for x in said) - 1
        assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, nu) * math.sqrt(v))
    same = intervals.jackknife_ratio([(edits, words)] * 2, groups)
    assert numbers(same) == [0, 0, 0] and not same.decides


def test_accuracy_as_a_ratio_is_nearly_that_of_the_confusion_matrix():
    """Only what counts as a speaker's share differs: right answers are in it twice."""
    truth, predictions, groups = labels(22)
    right, known = predictions == truth, np.ones(predictions.shape)
    expected = intervals.jackknife(measures.wa, truth, predictions, groups, n_classes=3)
    found = intervals.jackknife_ratio([(right, known)], groups)
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=0.01)
    one = intervals.jackknife_ratio([(right[0], known[0])], groups)  # one seed may be (U,)
    assert one == intervals.jackknife_ratio([(right[:1], known[:1])], groups)


# ---- how often they are wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speakers", "n_seeds", "luck"),
    [(2, 5, 0.3), (3, 1, 0), (4, 2, 0.3), (5, 5, 0.3), (14, 1, 0), (14, 2, 0.3), (14, 3, 0.3),
     (14, 10, 0.3), (50, 1, 0), (50, 5, 0.3)],
)  # fmt: skip
def test_equally_good_systems_are_told_apart_in_seven_of_a_hundred_at_most(speakers, n_seeds, luck):
    """Seeded; the same for one system's coverage. `python -m tests.bench intervals` has all."""
    trials = 400 if speakers < 14 else 200 if speakers < 50 else 100
    allowed = stats.binom.ppf(0.999, trials, 0.07) / trials  # chance of the simulation itself
    for kind, rates in missed(speakers, n_seeds, luck, trials).items():
        assert max(rates.values()) <= allowed, (kind, rates)


def test_the_command_prints_the_rates(capsys):
    bench.main("intervals --trials 3 --speakers 3 5 --seeds 1 2".split())
    shown = capsys.readouterr().out
    assert "Intervals at 95 % that miss, percent of 3" in shown and "ua, two systems" in shown
    assert "7         5      2   0.3" in shown  # the last row: luck only where seeds tell it apart


def test_utterances_in_the_place_of_speakers_are_overconfident():
    """The simulation can fail: with utterances as groups, intervals are far too narrow."""
    rates = missed(14, 1, 0, 150, by_speaker=False)
    assert max(rates["one system"].values()) > 0.2


def test_seeds_that_differ_widen_the_interval():
    truth, _, groups = labels(4)
    good, bad = truth, (truth + 1) % 3
    steady = np.stack([np.where(np.arange(120) % 2, good, bad)] * 4)
    unsteady = np.stack([good, good, bad, bad])
    one = intervals.jackknife(measures.wa, truth, steady, groups, n_classes=3)
    two = intervals.jackknife(measures.wa, truth, unsteady, groups, n_classes=3)
    assert one.value == pytest.approx(two.value)
    assert (two.low, two.high) == (0, 1)  # cut to what an accuracy can be
    assert one.high - one.low < 0.3


def test_a_floor_without_seeds_has_the_spread_of_the_other():
    truth, predictions, groups = labels(12, n_seeds=5)
    floor = np.broadcast_to(labels(13, 1)[1], predictions.shape)
    found = intervals.paired_jackknife(measures.wa, truth, floor, predictions, groups, n_classes=3)
    spread = np.var((predictions == truth).mean(1), ddof=1) / 5
    once = intervals.paired_jackknife(
        measures.wa, truth, floor[:1], predictions[:1], groups, n_classes=3
    )
    assert ((found.high - found.value) / 1.96) ** 2 > spread > 0
    assert once.value != found.value


# ---- pairs --------------------------------------------------------------------------------------


def test_paired_interval_of_identical_predictions_is_exactly_zero():
    truth, predictions, groups = labels(5)
    same = intervals.paired_jackknife(
        measures.macro_f1, truth, predictions, predictions, groups, n_classes=3
    )
    assert numbers(same) == [0, 0, 0] and 0 in same and not same.decides


def test_paired_interval_finds_the_winner_that_separate_intervals_miss():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(20), 30)
    truth = rng.integers(2, size=600)
    skill = rng.uniform(0.4, 0.9, size=20)[groups]  # easy and hard speakers, for both systems
    luck = rng.random(600)
    a = np.where(luck < skill, truth, 1 - truth)
    b = np.where(luck < skill + 0.05, truth, 1 - truth)
    gain = intervals.paired_jackknife(measures.wa, truth, a, b, groups, n_classes=2)
    assert gain.low > 0 and gain.decides
    loss = intervals.paired_jackknife(measures.wa, truth, b, a, groups, n_classes=2)
    assert (loss.value, loss.low, loss.high) == (-gain.value, -gain.high, -gain.low)
    assert loss == 0 - gain
    alone_a = intervals.jackknife(measures.wa, truth, a, groups, n_classes=2)
    alone_b = intervals.jackknife(measures.wa, truth, b, groups, n_classes=2)
    assert alone_a.high > alone_b.low  # they overlap
    assert gain.high - gain.low < (alone_a.high - alone_a.low) / 2


# ---- what they do not depend on, and their level ------------------------------------------------


def test_the_order_of_utterances_and_seeds_and_the_names_of_speakers_do_not_matter():
    truth, predictions, groups = labels(7)
    one = intervals.jackknife(measures.ua, truth, predictions, groups, n_classes=3)
    order = np.random.default_rng(0).permutation(len(truth))
    two = intervals.jackknife(
        measures.ua, truth[order], predictions[:, order], groups[order], n_classes=3
    )
    codes = np.unique(groups, return_inverse=True)[1]
    three = intervals.jackknife(measures.ua, truth, predictions, codes, n_classes=3)
    assert one == two == three
    turned = intervals.jackknife(measures.ua, truth, predictions[::-1], 9 - codes, n_classes=3)
    np.testing.assert_allclose(numbers(turned), numbers(one))


def test_the_same_corpus_twice_over_has_the_same_interval():
    truth, predictions, groups = labels(9)
    one = intervals.jackknife(measures.ua, truth, predictions, groups, n_classes=3)
    two = intervals.jackknife(
        measures.ua, np.tile(truth, 2), np.tile(predictions, 2), np.tile(groups, 2), n_classes=3
    )
    np.testing.assert_allclose(numbers(two), numbers(one))  # of more speakers it would be narrower


def test_intervals_widen_with_the_level():
    truth, predictions, groups = labels(6)
    low, high = (
        intervals.jackknife(measures.ua, truth, predictions, groups, n_classes=3, level=level)
        for level in (0.95, 0.99)
    )
    assert high.low < low.low and high.high > low.high and (low.level, high.level) == (0.95, 0.99)


def test_one_loud_speaker_is_hardly_more_than_one_speaker():
    """With nearly all utterances of one speaker t has one degree of freedom, not six."""
    truth, predictions, groups = labels(10, 1, utterances=700)
    even = np.array([f"speaker {i % 7}" for i in range(700)])
    loud = np.where(np.arange(700) < 640, "loud", even)
    few, many = (
        intervals.jackknife(measures.wa, truth, predictions, g, n_classes=3, level=0.9)
        for g in (loud, even)
    )
    assert few.high - few.low > 2 * (many.high - many.low)


# ---- where one cannot tell ----------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("speakers", "said"), [(1, "1 speaker"), (2, "2 speakers")])
def test_too_few_speakers_give_no_bounds_and_say_so(speakers, said):
    truth, predictions, _ = labels(8)
    found = intervals.jackknife(
        measures.wa, truth, predictions, np.arange(120) % speakers, n_classes=3
    )
    assert 0 < found.value < 1 and math.isnan(found.low) and math.isnan(found.high)
    assert str(found) == f"{found.value:.3f} (cannot tell: {said})"
    assert found.value not in found and not found.decides and not found.bounded


def test_two_speakers_who_agree_are_no_proof():
    """The difference is 0.05 for both: an interval without width, which decided once."""
    truth, groups = np.zeros(40, int), np.repeat([0, 1], 20)
    a = np.zeros(40, int)
    a[[0, 20]] = 1
    found = intervals.paired_jackknife(measures.wa, truth, a, truth, groups, n_classes=2)
    assert found.value == pytest.approx(0.05) and not found.decides
    more = np.repeat(np.arange(4), 20)  # nor are four who agree to the last digit
    a, truth = np.zeros(80, int), np.zeros(80, int)
    a[::20] = 1
    found = intervals.paired_jackknife(measures.wa, truth, a, truth, more, n_classes=2)
    assert str(found) == "0.050 (cannot tell: no spread)" and not found.decides
    alone = intervals.jackknife(measures.wa, truth, a, more, n_classes=2)
    assert numbers(alone) == [0.95] * 3 and not alone.decides


@pytest.mark.filterwarnings("error")
def test_nobody_is_undefined():
    none = intervals.jackknife(measures.ua, [], [], [], n_classes=3)
    assert math.isnan(none.value) and math.isnan(none.low)
    nothing = intervals.jackknife_ratio([(np.zeros(4), np.zeros(4))], np.arange(4))
    assert math.isnan(nothing.value) and not nothing.bounded


def test_speakers_of_whom_nothing_is_known_do_not_count():
    words = np.array([4, 5, 0, 0, 0])
    found = intervals.jackknife_ratio([(words // 2, words)], np.arange(5))
    assert found.note == "cannot tell: 2 speakers"


def test_a_class_of_one_speaker_has_an_answer():
    """Its recall alone rests on that speaker; UA without them is that of the other classes."""
    truth = np.array([0] * 30 + [1] * 5)
    groups = np.array([0] * 10 + [1] * 10 + [2] * 10 + [3] * 5)  # class 1 only in speaker 3
    prediction = np.array([0] * 9 + [1] + [0] * 20 + [1, 1, 0, 0, 0])
    recall = intervals.jackknife(
        lambda cm: measures.recalls(cm)[..., 1], truth, prediction, groups, n_classes=2
    )
    assert str(recall) == "0.400 (cannot tell: it rests on one speaker)"
    ua = intervals.jackknife(measures.ua, truth, prediction, groups, n_classes=2)
    expected = by_hand(
        lambda rows, p: sk.recall_score(
            truth[rows], p[rows], average="macro", labels=np.unique(truth[rows])
        ),
        [prediction[None]], groups, ends=(0, 1),
    )  # fmt: skip
    np.testing.assert_allclose(numbers(ua), expected)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (([1, 0, 1, 1], [1, 1, 1, 1]), (0, 1)),
        (([3, 0, 9, 1], [2, 2, 2, 2]), (0, math.inf)),  # a WER may exceed 1
        (([-3, 0, 9, 1], [2, 2, 2, 2]), (-math.inf, math.inf)),
    ],
)
def test_a_ratio_stays_in_its_range(parts, expected):
    found = intervals.jackknife_ratio([parts], np.arange(4))
    assert found.low >= expected[0] and found.high <= expected[1]
    assert found.low == 0 or expected[0] < 0


# ---- what is refused, and what is printed -------------------------------------------------------


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
def test_what_does_not_match_is_refused(predictions, groups, message):
    with pytest.raises(ValueError, match=message):
        intervals.jackknife(measures.wa, [0, 1, 1], predictions, groups, n_classes=2)


def test_different_numbers_of_seeds_are_refused():
    truth, predictions, groups = labels(9)
    with pytest.raises(ValueError, match="equal"):
        intervals.paired_jackknife(
            measures.wa, truth, predictions, predictions[:2], groups, n_classes=3
        )


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_ratio_without_a_speaker_is_refused(missing):
    groups = np.array(["a", missing, "b"], dtype=object)
    with pytest.raises(ValueError, match="speaker"):
        intervals.jackknife_ratio([(np.ones(3), np.ones(3))], groups)


def test_intervals_print_like_the_tables():
    assert str(Interval(0.6119, 0.5707, 0.65, 0.95)) == "0.612 [0.571, 0.650]"
    told = Interval(0.6119, 0.5707, 0.65, 0.95, "speakers only: 1 seed")
    assert str(1 - told) == "0.388 [0.350, 0.429] (speakers only: 1 seed)"


@pytest.mark.parametrize(
    ("low", "high", "decides"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0, 0.1, False),
     (0.05, 0.05, False), (math.nan, math.nan, False)],
)  # fmt: skip
def test_what_decides(low, high, decides):
    assert Interval((low + high) / 2, low, high, 0.95).decides is decides


@pytest.mark.parametrize("groups", [700, 25_000])
def test_a_large_corpus_stays_in_memory(groups):
    rng = np.random.default_rng(10)
    truth = rng.integers(8, size=25_000)
    predictions = rng.integers(8, size=(5, 25_000))
    who = rng.permutation(25_000) % groups
    tracemalloc.start()
    intervals.jackknife(measures.macro_f1, truth, predictions, who, n_classes=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600e6
