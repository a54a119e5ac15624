"""The language of the claims ledger: rules on runs, and arithmetic on printed numbers.

A rule says which runs decide a claim. Names of systems are those of the ledger; a metric may name
another corpus that a trained system is scored on::

    value(SYSTEM, METRIC)        the score itself, against the printed number
    gain(A, B, METRIC)           metric(B) - metric(A), against the printed number
    more(A, B, METRIC)           B is above A; `less` is below; several are joined by " and "
    dynamics(A, B, METRIC)       B learns more slowly at first and is ahead at last
    prove(NAME)                  a function of `serbook.claims.proofs`
    none                         no run can decide it

    METRIC                       wa, or wa@emotiw2018

Arithmetic works on printed numbers as the intervals that they are: 2.91 is anything from 2.905 to
2.915. A statement is contradicted only if no numbers that round to the printed ones fulfill it.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

KINDS = {"value": 2, "gain": 3, "more": 3, "less": 3, "dynamics": 3, "prove": 1}  # and arguments
METRICS = frozenset(
    "wa ua macro_f1 micro_f1 wer cer gender speaker ccc ccc_valence ccc_arousal ccc_dominance rmse "
    "sd".split()
)
LOWER = frozenset({"wer", "cer", "rmse"})  # metrics of which less is better
NAME = r"[a-z0-9_]+(?:\.[a-z0-9_]+)*"
PART = re.compile(rf"([a-z]+)\(((?:{NAME}, ?)*)({NAME})(?:@({NAME}))?\)")  # of a rule
ID = rf"\[({NAME})\]"  # of a claim, in an expression
NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?"
Bounds = tuple[Fraction, Fraction, Fraction]  # the lowest, as printed, the highest


class RuleError(ValueError):
    """A rule, or an expression on printed numbers, is not in the language."""


@dataclass(frozen=True)
class Step:
    """One comparison of a rule."""

    kind: str  # one of `KINDS`
    systems: tuple[str, ...]  # of the ledger: none, one or two
    metric: str  # without its corpus; of "prove" the name of the proof
    role: str = "test"  # which predictions: "test", or the corpus after the @

    @property
    def better(self) -> int:
        """1 where the claim wants more of the metric, -1 where less."""
        if self.kind in ("more", "less"):
            return 1 if self.kind == "more" else -1
        return -1 if self.metric in LOWER else 1

    def __str__(self) -> str:
        """In words, for tables."""
        at = "" if self.role == "test" else f" on {self.role}"
        return f"{self.metric}{at}: {' − '.join(reversed(self.systems))}".rstrip(": ")


def parse(rule: str) -> tuple[Step, ...]:
    """The comparisons of a rule, all of which must hold; none for "none"; or a `RuleError`.

    >>> parse("less(cai.0, cai.0_1, wer)")[0].systems
    ('cai.0', 'cai.0_1')
    """
    if not isinstance(rule, str):
        raise RuleError(f"a rule is a text, not {rule!r}")
    if rule == "none":
        return ()
    steps = tuple(_step(part) for part in rule.split(" and "))
    kinds = {step.kind for step in steps}
    if len(steps) > 1 and not kinds <= {"more", "less"}:
        raise RuleError(f"{rule!r}: only more(...) and less(...) can be joined by 'and'")
    return steps


def _step(part: str) -> Step:
    match = PART.fullmatch(part)
    if not match or match[1] not in KINDS:
        raise RuleError(f"{part!r} is no rule: use {', '.join(KINDS)} or none, and plain names")
    kind, systems, metric, role = match[1], re.findall(NAME, match[2]), match[3], match[4]
    if len(systems) + 1 != KINDS[kind]:
        raise RuleError(f"{part!r}: {kind} takes {KINDS[kind]} arguments, not {len(systems) + 1}")
    if len(set(systems)) < len(systems):
        raise RuleError(f"{part!r} compares a system with itself")
    if kind == "prove" and role:
        raise RuleError(f"{part!r}: a proof has no corpus")
    if kind != "prove" and metric not in METRICS:
        raise RuleError(f"{part!r}: no metric {metric!r}; use {', '.join(sorted(METRICS))}")
    return Step(kind, tuple(systems), metric, role or "test")


def bounds(printed: str) -> Bounds:
    """A printed number between those that round to it, as exact fractions.

    >>> [float(x) for x in bounds("2.9")]
    [2.85, 2.9, 2.95]
    """
    if not isinstance(printed, str) or not re.fullmatch(NUMBER, printed):
        raise RuleError(f"{printed!r} is no printed number: write its digits in quotes")
    half = Fraction(1, 2 * 10 ** len(printed.partition(".")[2]))
    return Fraction(printed) - half, Fraction(printed), Fraction(printed) + half


@dataclass(frozen=True)
class Derived:
    """What an expression on printed numbers comes to."""

    possible: bool  # it can hold, however the numbers were rounded
    text: str  # the calculation, for readers


def derive(expression: str, printed: str, values: Mapping[str, str]) -> Derived:
    """Compute an expression on printed numbers, and compare it with what a claim prints.

    The expression holds ids of claims in brackets, numbers, + and -, min(...), max(...), one of
    the comparisons < and > at the top, and two statements: share([id], n), that a percentage is a
    whole number of n; differ(a, b), that the columns a and b (last parts of ids) print other
    digits in some row. Without a comparison the value must equal the claim's own number, `printed`
    ("" if it has none). `values` are printed numbers by id.

    Raises:
        RuleError: The expression is not in the language, or names an unknown claim.

    >>> derive("[a] - [b]", "3.22", {"a": "36.75", "b": "33.84"})
    Derived(possible=False, text='36.75 - 33.84 = 2.91, printed 3.22')
    """

    def value(match: re.Match) -> str:
        if match[1] not in values:
            raise RuleError(f"{expression!r}: no claim {match[1]!r} with a printed number")
        return values[match[1]]

    shown = re.sub(ID, value, expression)
    try:  # an id becomes a list with one text, which Python can read
        tree = ast.parse(re.sub(ID, r'["\1"]', expression), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RuleError(f"{expression!r} is no expression") from error
    match tree:
        case ast.Call(
            func=ast.Name(id="share"),
            args=[ast.List(elts=[ast.Constant(value=id)]), whole],
            keywords=[],
        ) if id in values and type(n := getattr(whole, "value", None)) is int and 0 < n <= 10**7:
            return _share(values[id], n)
        case ast.Call(
            func=ast.Name(id="differ"), args=[ast.Name(id=a), ast.Name(id=b)], keywords=[]
        ) if pairs := _pairs(values, a, b):
            unequal = sum(map(operator.ne, *zip(*pairs, strict=True)))
            text = f"{a} and {b} print other digits in {unequal} of {len(pairs)} rows"
            return Derived(unequal > 0, text)
        case ast.Compare(left=left, ops=[ast.Lt() | ast.Gt() as op], comparators=[right]):
            sides = [_value(part, values, expression) for part in (left, right)]
            low, high = sides if isinstance(op, ast.Lt) else sides[::-1]
            holds = "can hold" if low[0] < high[2] else "cannot hold"
            text = f"{shown}: the left side is {_digits(sides[0])}; {holds}"
            return Derived(low[0] < high[2], text)
    found = _value(tree, values, expression)
    if not printed:
        raise RuleError(f"{expression!r} needs a printed number to be compared with")
    own, text = bounds(printed), f"{shown} = {_digits(found)}, printed {printed}"
    return Derived(found[0] <= own[2] and own[0] <= found[2], text)


def _digits(value: Bounds) -> str:
    return f"{float(value[1]):.4f}".rstrip("0").rstrip(".")


def _value(node: ast.AST, values: Mapping[str, str], expression: str) -> Bounds:
    """Interval arithmetic on what the language allows."""
    match node:
        case ast.Constant(value=int() | float() as v) if type(v) is not bool and math.isfinite(v):
            return (Fraction(str(v)),) * 3
        case ast.List(elts=[ast.Constant(value=id)]) if id in values:
            return bounds(values[id])
        case ast.BinOp(left=a, op=ast.Add() | ast.Sub() as op, right=b):
            left, right = (_value(part, values, expression) for part in (a, b))
            if isinstance(op, ast.Sub):
                right = tuple(-x for x in reversed(right))
            return tuple(map(operator.add, left, right))
        case ast.Call(func=ast.Name(id="min" | "max" as which), args=args, keywords=[]) if args:
            parts = [_value(part, values, expression) for part in args]
            return tuple(map(min if which == "min" else max, zip(*parts, strict=True)))
    raise RuleError(
        f"{expression!r}: only [ids], numbers, +, -, min and max; at the top also one < or >, "
        "share([id], n) with n from 1 to 10,000,000, or differ(a, b) of columns with common rows"
    )


def _share(printed: str, whole: int) -> Derived:
    low, _, high = (x * whole / 100 for x in bounds(printed))
    first, last = math.ceil(low), math.floor(high)
    if first <= last:
        return Derived(True, f"{first:,} of {whole:,} is {printed} %")
    around = (f"{k:,} is {100 * k / whole:.2f} %" for k in (last, first))
    return Derived(False, f"no k of {whole:,} is {printed} %: {', '.join(around)}")


def _pairs(values: Mapping[str, str], a: str, b: str) -> list[tuple[str, str]]:
    """What two columns print in each row that has both."""
    rows = {id.rpartition(".")[0]: v for id, v in values.items() if id.endswith(f".{a}")}
    return [(v, values[f"{row}.{b}"]) for row, v in rows.items() if f"{row}.{b}" in values]
