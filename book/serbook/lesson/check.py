"""Check a reader's answer, and give a hint in the place of a bare failure.

    check.number(answer, 0.625, {"That is WA.": 0.7})
    check.function(my_ua, metrics.ua, cases, {"You average precisions.": mean_precision})
    check.same(answer, {"valence"})

To add a check, write such a cell below a solution, tagged `check`; it computes the right answer.
In the notebook that `serlib exercises` makes it is folded. A check helps to learn, and is no exam:
whoever unfolds it sees what the answer is held to. A known mistake is a hint with what leads to it:
a wrong number, or a whole wrong function, which is recognized by what it returns.

No wrong answer raises, but where the environment has SERLIB_CHECKS=require, as in the tests of the
chapters. A `CheckError` means that the check itself is at fault: its oracle fails, or no case tells
a mistake from the truth.
"""

import copy
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

REQUIRE = "SERLIB_CHECKS"  # environment variable; "require" turns a wrong answer into an error
SHORT = reprlib.Repr()
SHORT.maxlist = SHORT.maxtuple = 8
SHORT.maxstring = SHORT.maxother = 60
HEADS = {"right": "Right.", "wrong": "Not yet.", "unanswered": "Not answered yet."}


class CheckError(ValueError):
    """A check that cannot do its work; the message names the fix."""


class WrongAnswerError(AssertionError):
    """An answer that had to be right and is not."""


@dataclass(frozen=True)
class Result:
    """What a check found: status "right", "wrong" or "unanswered", and a sentence on it."""

    status: str
    message: str = ""

    def __bool__(self) -> bool:
        """Whether the answer is right."""
        return self.status == "right"

    def __repr__(self) -> str:
        return f"{HEADS[self.status]} {self.message}".strip()

    def _repr_markdown_(self) -> str:
        return f"**{HEADS[self.status]}** {self.message}".strip()

    def require(self) -> Self:
        """Itself if the answer is right, else a WrongAnswerError."""
        if not self:
            raise WrongAnswerError(repr(self))
        return self


def number(
    answer: Any, right: Any, mistakes: Mapping[str, Any] | None = None, *,
    within: float = 1e-6, hint: str = "",
) -> Result:  # fmt: skip
    """Compare a number, or several in a list or array, with the right one, which must be finite.

    Args:
        answer: The reader's.
        right: The right one.
        mistakes: Hints, each with the wrong number that deserves it; never said to the right one.
        within: How far from the right number still counts.
        hint: Said to a number that no mistake explains.
    """
    wanted = _numbers(right)
    if wanted is None or not np.isfinite(wanted).all():
        raise CheckError(f"the right answer is {_show(right)}: correct the oracle")
    if missing := _unanswered(answer):
        return _result("unanswered", missing)
    if (got := _numbers(answer)) is None:
        what = f"of type {type(answer).__name__}: `{_show(answer)}`"
        return _result("wrong", f"A number is needed, this is {what}.")
    if got.shape != wanted.shape:
        needed, given = (_shape(x) for x in (wanted, got))
        return _result("wrong", f"{needed} needed, this is {given}: `{_show(answer)}`.")
    if not np.isfinite(got).all():
        why = "Was something divided by zero, or averaged over nothing?"
        return _result("wrong", f"`{_show(answer)}` is no number one can compare. {why}")

    def is_near(x: np.ndarray | None, y: np.ndarray = got) -> bool:
        return x is not None and x.shape == y.shape and bool(np.all(np.abs(x - y) <= within))

    if is_near(wanted):
        return _result("right")
    for said, wrong in (mistakes or {}).items():
        if is_near(_numbers(wrong)):
            return _result("wrong", said)
    if np.any(wanted) and is_near(-wanted):
        return _result("wrong", f"`{_show(answer)}` has the right size and the wrong sign.")
    if np.all(np.abs(wanted) <= 1) and is_near(wanted, got / 100):
        said = f"`{_show(answer)}` is a percentage. Give a share between 0 and 1."
        return _result("wrong", said)
    if got.size > 1:
        first = int(np.argmax(np.abs(got - wanted).ravel() > within))
        said = f"Number {first + 1} is not right: `{_show(got.ravel()[first].item())}`."
    else:
        said = f"`{_show(answer)}` is not right."
    return _result("wrong", f"{said} {hint}".strip())


def same(
    answer: Any, right: Any, mistakes: Mapping[str, Any] | None = None, *, hint: str = ""
) -> Result:
    """Compare words, or a list or set of them, with the right ones; see `number`.

    Upper and lower case do not count; neither does the order, where `right` is a set.
    """
    if missing := _unanswered(answer):
        return _result("unanswered", missing)
    if _same_words(answer, right):
        return _result("right")
    known = (said for said, wrong in (mistakes or {}).items() if _same_words(answer, wrong))
    return _result("wrong", next(known, f"`{_show(answer)}` is not right. {hint}".strip()))


def function(
    theirs: Any, oracle: Callable, cases: Iterable, mistakes: Mapping[str, Callable] | None = None,
    *, within: float = 1e-6,
) -> Result:  # fmt: skip
    """Compare a reader's function with an oracle, case by case.

    Args:
        theirs: The reader's.
        oracle: A right one, best written another way than the solution.
        cases: Arguments: a tuple for each case, or its only argument. Every call gets a copy.
        mistakes: Hints, each with a function that makes the mistake. A reader's that returns the
            same on all cases gets the hint.
        within: How far numbers may differ. NaN equals NaN, and lists equal arrays and tensors.

    Raises:
        CheckError: If there is no case, the oracle raises, or a mistake passes all cases.
    """
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    wanted = [_call(oracle, case) for case in cases]
    if not cases or (bad := [w for w in wanted if isinstance(w, Exception)]):
        raise CheckError(f"the oracle raised {_show(bad[0])}" if cases else "a check needs cases")
    known = {k: [_call(wrong, case) for case in cases] for k, wrong in (mistakes or {}).items()}
    for said, outcome in known.items():
        if _alike(outcome, wanted, within):
            raise CheckError(f"no case tells this mistake from the truth, add one: {said}")
    if missing := _unanswered(theirs):
        return _result("unanswered", missing)
    if not callable(theirs):
        return _result("wrong", f"A function is needed, this is of type {type(theirs).__name__}.")
    got = [_call(theirs, case) for case in cases]
    if any(type(g) is NotImplementedError for g in got):
        return _result("unanswered", "Write the function's body where it says so.")
    if _alike(got, wanted, within):
        return _result("right", "All cases agree.")
    for said, outcome in known.items():
        if _alike(got, outcome, within):
            return _result("wrong", said)
    if all(g is None for g in got):
        return _result("wrong", "The function returns None. Is `return` missing?")
    place = next(i for i, (g, w) in enumerate(zip(got, wanted, strict=True))
                 if not _alike(g, w, within))  # fmt: skip
    return _result("wrong", _difference(theirs, place, cases, got[place], wanted[place]))


def _call(called: Callable, case: tuple) -> Any:
    """What a function returns, or the exception that it raises."""
    try:
        return called(*copy.deepcopy(case))
    except Exception as error:  # the reader's own code: whatever it raises is an answer
        return error


def _result(status: str, message: str = "") -> Result:
    result = Result(status, message)
    return result.require() if os.environ.get(REQUIRE) == "require" else result


def _unanswered(answer: Any) -> str:
    """What to say to an answer that is none; empty if it is one."""
    parts = answer.values() if isinstance(answer, dict) else answer
    if answer is ... or (isinstance(answer, (list, tuple, dict)) and any(p is ... for p in parts)):
        return "Put your answer in the place of the `...`, run that cell, then this one."
    return "The answer is None. Does a cell print it and not keep it?" if answer is None else ""


def _numbers(value: Any) -> np.ndarray | None:
    """Integers and floats as an array of float64, None for all that is something else."""
    if hasattr(value, "detach"):  # a tensor; this module does without torch
        value = value.detach().cpu().double().numpy()
    if isinstance(value, dict):
        value = list(value.values())
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.kind in "iuf" else None
    except (ValueError, TypeError, RuntimeError):  # ragged lists, and what else has no array
        return None


def _alike(a: Any, b: Any, within: float) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k], within) for k in b)
    if isinstance(a, dict) or isinstance(b, dict):
        return False
    x, y = _numbers(a), _numbers(b)
    if x is not None and y is not None:
        return x.shape == y.shape and np.allclose(x, y, rtol=0, atol=within, equal_nan=True)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(p, q, within) for p, q in zip(a, b, strict=True))
    try:
        p, q = np.asarray(a), np.asarray(b)  # so that a bool of numpy or torch equals a plain one
        return p.shape == q.shape and p.dtype.kind == q.dtype.kind and bool(np.all(p == q))
    except (ValueError, TypeError, RuntimeError):
        return False


def _same_words(a: Any, b: Any) -> bool:
    if isinstance(b, (set, frozenset)):
        try:
            return {_plain(p) for p in ([a] if isinstance(a, str) else a)} == {_plain(p) for p in b}
        except TypeError:  # nothing to go through, or not hashable
            return False
    return _alike(_plain(a), _plain(b), 0)


def _plain(value: Any) -> Any:
    """Words without upper case and outer blanks; lists of them too."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.strip().casefold() if isinstance(value, str) else value


def _difference(theirs: Callable, place: int, cases: list, got: Any, wanted: Any) -> str:
    """The first case that differs, with what came back and what should have."""
    arguments = ", ".join(_show(a) for a in cases[place])
    called = f"Case {place + 1}: `{getattr(theirs, '__name__', 'it')}({arguments})`"
    if isinstance(got, Exception):
        return f"{called} raised `{_show(got)}`."
    x, y = _numbers(got), _numbers(wanted)
    if x is None or y is None or x.shape == y.shape:
        return f"{called} gives `{_show(got)}`, expected `{_show(wanted)}`."
    return f"{called} gives {_shape(x)}, expected {_shape(y)}."


def _shape(array: np.ndarray) -> str:
    if array.ndim > 1:
        return f"an array of shape {array.shape}"
    return f"a list of {len(array)}" if array.ndim else "one number"


def _show(value: Any) -> str:
    """A value on one short line; of an exception what it says."""
    if isinstance(value, Exception):
        said = str(value).split("\n")[0]
        return type(value).__name__ + (f": {said}" if said else "")
    array = _numbers(value)
    if array is not None and not isinstance(value, (int, float, dict)):
        value = array.round(4).tolist()
    return " ".join(SHORT.repr(value).split()).replace("`", "'")
