"""Settings that can be meant: each field of a configuration is held to its own annotation.

    epochs: Count = 10                                a whole number, 1 or more
    pooling: Literal["mean", "sum"] = "mean"          one of these words
    tasks: tuple[Literal["emotion", "asr"], ...]      a tuple of these
    clip: Positive | None = 1.0                       a number above 0, or None

What is wrong is so refused where a configuration is made, and no run begins with it.
"""

from __future__ import annotations

import argparse
import functools
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class SettingError(ValueError):
    """A setting that cannot be meant; the message names it, its value and what it may be."""

    exit_code = 2  # of a command that asks for it


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, the ends with them unless `above` or `below`."""

    low: float
    high: float = math.inf
    above: bool = False  # without `low`
    below: bool = False  # without `high`

    def __contains__(self, x: float) -> bool:
        """Whether a number is one of these."""
        up = self.low < x if self.above else self.low <= x
        return up and (x < self.high if self.below else x <= self.high)

    def __str__(self) -> str:
        """In words."""
        low = f"above {self.low}" if self.above else f"{self.low} or more"
        high = f"below {self.high}" if self.below else f"at most {self.high}"
        return low if self.high == math.inf else f"{low} and {high}"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, above=True)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, below=True)]

WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False",
         types.NoneType: "None"}  # fmt: skip
_NOTHING = object()


def settle(config: Any) -> None:
    """Hold each field of a frozen dataclass to its annotation, in its `__post_init__`.

    Numbers are finite. A whole number where any is meant becomes a float, a list a tuple, a number
    of NumPy one of Python.

    Raises:
        SettingError: A field holds something else.
    """
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        if (fitted := _fit(value, kind)) is _NOTHING:
            raise SettingError(f"{name}={value!r}, expected {words(kind)}")
        object.__setattr__(config, name, fitted)


@functools.cache
def _kinds(owner: type) -> dict[str, Any]:
    return get_type_hints(owner, include_extras=True)


def _fit(value: Any, kind: Any) -> Any:
    """A value as a kind has it, or `_NOTHING` where it is not of that kind."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        fitted = _fit(value, parts[0])
        return fitted if fitted is not _NOTHING and fitted in parts[1] else _NOTHING
    if origin is Literal:
        return value if isinstance(value, str) and value in parts else _NOTHING
    if origin in (Union, types.UnionType):
        return next((x for part in parts if (x := _fit(value, part)) is not _NOTHING), _NOTHING)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _NOTHING
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        found = tuple(map(_fit, value, each))
        return _NOTHING if len(value) != len(each) or _NOTHING in found else found
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real)
        try:
            fine = number and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:  # a whole number beyond all floats
            fine = False
        return kind(value) if fine else _NOTHING
    return value if isinstance(value, kind) else _NOTHING


def argument(kind: Any) -> Callable[[str], Any]:
    """What argparse takes as `type`: a reader of an annotated number, such as `Count`."""

    def read(text: str) -> Any:
        try:
            fitted = _fit(get_args(kind)[0](text), kind)
        except ValueError:
            fitted = _NOTHING
        if fitted is _NOTHING:
            raise argparse.ArgumentTypeError(f"{text!r}, expected {words(kind)}")
        return fitted

    return read


def words(kind: Any) -> str:
    """What a kind takes, for messages."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{words(parts[0])}, {parts[1]}"
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(words, parts))
    if origin is tuple:
        some = get_args(parts[0])[:2] if get_origin(parts[0]) is Literal else ("a", "b")
        return f"a tuple such as {some}, each {words(parts[0])}"
    return WORDS.get(kind) or f"a {kind.__name__}"
