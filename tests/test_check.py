"""A check tells right from wrong, says what is wrong, and cannot be passed by mistake."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from serbook.lesson import check
from serbook.lesson.check import CheckError, WrongAnswerError


@pytest.fixture(autouse=True)
def gentle(monkeypatch):
    """As in a reader's notebook, where a wrong answer raises nothing."""
    monkeypatch.delenv(check.REQUIRE, raising=False)


# ------------------------------------------------------------------------------------- the result


def test_a_result_shows_itself_and_is_true_only_if_right():
    right, wrong = check.number(2, 2), check.number(3, 2)
    assert right and not wrong and not check.number(..., 2)
    assert repr(right) == "Right." and repr(wrong) == "Not yet. `3` is not right."
    assert wrong._repr_markdown_() == "**Not yet.** `3` is not right."
    assert right.require() is right
    with pytest.raises(WrongAnswerError, match="Not yet. `3` is not right."):
        wrong.require()


def test_the_environment_makes_wrong_answers_raise(monkeypatch):
    monkeypatch.setenv(check.REQUIRE, "require")
    assert check.number(2, 2)
    for fail in (
        lambda: check.number(3, 2),
        lambda: check.number(..., 2),
        lambda: check.same("a", "b"),
        lambda: check.function(abs, math.sqrt, [4]),
    ):
        with pytest.raises(WrongAnswerError):
            fail()


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "answer",
    [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor(0.25).bfloat16()],
)
def test_every_kind_of_number_can_be_right(answer):
    assert check.number(answer, 0.25)


@pytest.mark.parametrize(
    "answer",
    [[1, 2], (1, 2), np.array([1.0, 2.0]), pd.Series([1, 2]), torch.tensor([1, 2]),
     [torch.tensor(1), np.float64(2)], {"a": 1, "b": 2},
     torch.tensor([1.0, 2], requires_grad=True)],
)  # fmt: skip
def test_several_numbers_can_be_right(answer):
    assert check.number(answer, [1, 2])
    assert not check.number(answer, [1, 3])


def test_rows_may_be_mixed():
    assert check.number([torch.tensor([1.0, 2.0]), [3, 4]], [[1, 2], np.array([3, 4])])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "in the place of the `...`"),
        ([1, ...], "in the place of the `...`"),
        (None, "The answer is None"),
        ("0.5", "A number is needed, this is of type str: `'0.5'`"),
        (True, "A number is needed, this is of type bool"),
        (1j, "A number is needed"),
        (abs, "A number is needed"),
        (object(), "A number is needed"),
        ([1, [2]], "A number is needed"),
        ([], "one number needed, this is a list of 0"),
        ([0.5], "one number needed, this is a list of 1"),
        (np.zeros((2, 2)), "one number needed, this is an array of shape (2, 2)"),
        (math.nan, "divided by zero"),
        (math.inf, "divided by zero"),
        (50, "`50` is a percentage"),
        (-0.5, "wrong sign"),
        (0.7, "`0.7` is not right."),
        (torch.tensor(0.7), "`0.7` is not right."),
    ],
)
def test_wrong_numbers_get_a_sentence_and_no_traceback(answer, said):
    result = check.number(answer, 0.5)
    assert not result and said in repr(result)
    assert (result.status == "unanswered") == ("..." in said or "None" in said)


def test_known_mistakes_have_their_hints():
    mistakes = {"That is WA.": 0.7, "Swapped.": 0.3}
    assert check.number(0.7, 0.6, mistakes).message == "That is WA."
    assert check.number(0.300001, 0.6, mistakes, within=1e-4).message == "Swapped."
    assert check.number(0.6, 0.6, {"Never said.": 0.6})
    assert check.number(0.1, 0.6, mistakes, hint="Count again.").message.endswith("Count again.")
    assert (
        check.number([1, 2], [2, 1], {"Swapped.": [1, 2], "Of another shape.": 1}).message
        == "Swapped."
    )
    assert "Number 2 is not right: `5.0`" in check.number([1, 5], [1, 2]).message


def test_within_is_the_largest_distance_that_counts():
    assert check.number(0.51, 0.5, within=0.011) and not check.number(0.511, 0.5, within=0.0109)
    assert not check.number([0.5, 0.6], [0.5, 0.5], within=0.05), "each number must be near"


@pytest.mark.parametrize("right", [math.nan, [1, math.inf], "a", None, ...])
def test_an_oracle_without_a_number_is_a_fault_of_the_check(right):
    with pytest.raises(CheckError, match="correct the oracle"):
        check.number(1, right)


# ------------------------------------------------------------------------------------------- words


def test_words_and_sets():
    assert check.same(" Recall ", "recall") and not check.same("precision", "recall")
    assert check.same(["b", "A"], {"a", "b"}) and check.same("a", {"a"})
    assert check.same(["a", "b"], ["a", "b"]) and not check.same(["b", "a"], ["a", "b"])
    assert check.same(np.array(["a", "b"]), ["a", "b"]) and check.same({1, 2}, {2, 1})
    assert check.same("b", "a", {"No.": "B"}).message == "No."
    assert check.same("c", "a", hint="Look.").message == "`'c'` is not right. Look."


@pytest.mark.parametrize("answer", [3, math.nan, [["a"]], [{}], object(), abs, "", [], {}])
def test_hostile_words_are_wrong_and_raise_nothing(answer):
    assert check.same(answer, {"a"}).status == check.same(answer, "a").status == "wrong"
    assert check.same(..., "a").status == check.same(None, "a").status == "unanswered"


# --------------------------------------------------------------------------------------- functions


def mean(x):
    """The oracle."""
    return sum(x) / len(x)


MISTAKES = {"That is the sum.": sum, "That is the largest.": max}
CASES = [([1.0, 2.0, 6.0],), ([4.0],)]


def test_a_right_function_passes_whatever_numbers_it_returns():
    for right in (np.mean, lambda x: torch.tensor(x).mean(), lambda x: float(np.mean(x))):
        assert check.function(right, mean, CASES, MISTAKES)
    assert check.function(lambda x: [x, np.array([x])], lambda x: (x, [x]), [1, 2])
    assert check.function(lambda x: math.nan, lambda x: np.float32("nan"), [1])


@pytest.mark.parametrize(
    ("returned", "right", "alike"),
    [
        (np.True_, True, True), (torch.tensor(True), True, True), (1, True, False),
        (False, True, False), ([True], True, False), (np.array([True, False]), [True, False], True),
        ("a", "a", True), ("a", "b", False), ({"a": 1.0}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, False), ({"a": 2}, {"a": 1}, False), ([1], {"a": 1}, False),
        ({1, 2}, {2, 1}, True), ({1}, {2}, False), (["a", 1], ("a", 1.0), True),
        ([[1], [1, 2]], [[1], [1, 2]], True), ([[1], [1, 3]], [[1], [1, 2]], False),
        (None, None, True), (abs, abs, True), (torch.ones(2), [1, 1], True),
        (np.array([]), [], True), (np.zeros((0, 2)), [], False),
    ],
)  # fmt: skip
def test_what_counts_as_the_same(returned, right, alike):
    assert bool(check.function(lambda x: returned, lambda x: right, [0])) == alike


def test_known_mistakes_are_recognized_by_what_they_return():
    assert check.function(lambda x: np.sum(x), mean, CASES, MISTAKES).message == "That is the sum."
    assert check.function(np.max, mean, CASES, MISTAKES).message == "That is the largest."
    other = check.function(min, mean, CASES, MISTAKES).message
    assert other == "Case 1: `min([1.0, 2.0, 6.0])` gives `1.0`, expected `3.0`."


def test_a_mistake_may_be_one_that_raises():
    mistakes = {"Zero has no inverse: decide what it gives.": lambda x: 1 / x}
    result = check.function(lambda x: 1 / x, lambda x: 1 / x if x else 0.0, [2, 0], mistakes)
    assert result.message.startswith("Zero has no inverse")


def no_body(x):
    raise NotImplementedError("your code here")


@pytest.mark.parametrize(
    ("theirs", "status", "said"),
    [
        (..., "unanswered", "in the place of the `...`"),
        (None, "unanswered", "None"),
        (no_body, "unanswered", "body"),
        (3.0, "wrong", "A function is needed, this is of type float."),
        ("mean", "wrong", "A function is needed"),
        (lambda: 3, "wrong", "raised `TypeError: "),
        (lambda x, y: 3, "wrong", "raised `TypeError: "),
        (lambda x: x.nothing, "wrong", "raised `AttributeError: "),
        (lambda x: {}[x], "wrong", "raised `TypeError: "),
        (lambda x: None, "wrong", "Is `return` missing?"),
        (lambda x: "3.0", "wrong", "gives `'3.0'`, expected `3.0`"),
        (lambda x: math.nan, "wrong", "gives `nan`, expected `3.0`"),
        (lambda x: [mean(x)], "wrong", "gives a list of 1, expected one number"),
        (lambda x: np.zeros((1, 2)), "wrong", "an array of shape (1, 2), expected one number"),
        (lambda x: x, "wrong", "gives a list of 3, expected one number"),
        (lambda x: mean(x) + (len(x) == 1), "wrong", "Case 2: `<lambda>([4.0])` gives `5.0`"),
        (type("Odd", (), {"__init__": lambda self, x: None}), "wrong", "Case 1"),
    ],
)  # fmt: skip
def test_hostile_functions_get_a_sentence_and_no_traceback(theirs, status, said):
    result = check.function(theirs, mean, CASES, MISTAKES)
    assert result.status == status and said in result.message


def test_arguments_are_copies():
    def spoil(x):
        x.sort()
        return mean(x) if len(x) == 1 else x.clear() or 0.0

    cases = [([2.0, 1.0],), ([4.0],)]
    assert not check.function(spoil, mean, cases)
    assert cases == [([2.0, 1.0],), ([4.0],)]


def test_long_arguments_stay_on_one_line():
    message = check.function(len, mean, [(list(range(1000)),)]).message
    assert "\n" not in message and len(message) < 200


def test_a_check_that_cannot_fail_is_refused():
    with pytest.raises(CheckError, match="no case tells this mistake from the truth.*the largest"):
        check.function(mean, mean, [([4.0],), ([2.0, 2.0],)], {"That is the largest.": max})
    with pytest.raises(CheckError, match="needs cases"):
        check.function(mean, mean, [])
    with pytest.raises(CheckError, match="the oracle raised ZeroDivisionError"):
        check.function(mean, mean, [([],)])


def test_interrupting_is_left_to_the_reader():
    def endless(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.function(endless, mean, CASES)
