"""The language of the ledger's rules, and arithmetic on printed numbers, against hand counts."""

from __future__ import annotations

from fractions import Fraction

import pytest

from serbook.claims import proofs, rules
from serbook.claims.rules import RuleError, Step, bounds, derive, parse
from serbook.runner import names


def test_every_kind_of_rule():
    assert parse("none") == ()
    assert parse("value(a, wa)") == (Step("value", ("a",), "wa"),)
    assert parse("gain(a, b.c_1, macro_f1@meiju2025)") == (
        Step("gain", ("a", "b.c_1"), "macro_f1", "meiju2025"),
    )
    first, second = parse("more(a, b, ua) and less(a,b,wer)")
    assert (first.better, second.better) == (1, -1)
    assert parse("dynamics(a, b, wa)")[0].systems == ("a", "b")
    assert parse("prove(micro_f1_differs)")[0] == Step("prove", (), "micro_f1_differs")


@pytest.mark.parametrize(
    ("metric", "better"), [("wa", 1), ("ccc", 1), ("wer", -1), ("cer", -1), ("rmse", -1)]
)
def test_which_side_is_better_for_numbers(metric, better):
    assert parse(f"value(a, {metric})")[0].better == better
    # A direction has its own: "more errors" is what such a claim says.
    assert parse(f"more(a, b, {metric})")[0].better == 1


@pytest.mark.parametrize(
    "rule",
    [
        "", "None", "value", "value()", "value(a)", "value(a, b, wa)", "value(a, f1)",
        "value(a, wa@)", "more(a, a, wa)", "more(a, b, wa) or less(a, b, wa)",
        "value(a, wa) and value(b, wa)", "gain(a, b, wa) and more(a, b, wa)", "more(A, b, wa)",
        "more(a, ../b, wa)", "prove(x@y)", "best(a, b, wa)", "more(a, b, wa) and ", "more(a,b,wa);",
        "more((a), b, wa)", "value(a, wa@../../etc)", "value(a, wa)\n", 5, None, ["none"],
    ],
)  # fmt: skip
def test_what_is_no_rule(rule):
    with pytest.raises(RuleError):
        parse(rule)


def test_a_printed_number_is_an_interval():
    assert bounds("78.15") == (Fraction(78145, 1000), Fraction("78.15"), Fraction(78155, 1000))
    assert bounds("3") == (Fraction(5, 2), Fraction(3), Fraction(7, 2))
    assert bounds("-0.22") == (Fraction(-225, 1000), Fraction("-0.22"), Fraction(-215, 1000))
    for odd in (
        "",
        "1e3",
        "nan",
        "inf",
        "٣",
        "1,2",
        "0x1",
        "--1",
        "1.",
        ".5",
        "9" * 40,
        3.22,
        True,
    ):
        with pytest.raises(RuleError):
            bounds(odd)


A = {"t.a.wa": "36.75", "t.b.wa": "33.84", "t.a.f1": "36.75", "t.b.f1": "33.84", "t.c.f1": "1.0"}


@pytest.mark.parametrize(
    ("expression", "printed", "possible"),
    [
        ("[t.a.wa] - [t.b.wa]", "2.91", True),
        ("[t.a.wa] - [t.b.wa]", "2.92", True),  # 36.754 - 33.836 = 2.918
        ("[t.a.wa] - [t.b.wa]", "2.93", False),  # at most 2.92, and 2.93 is at least 2.925
        ("[t.a.wa] - [t.b.wa]", "3.22", False),
        ("[t.a.wa] - [t.b.wa]", "3", True),
        ("max([t.a.wa], [t.b.wa])", "36.75", True),
        ("min([t.a.wa], [t.b.wa]) + 1", "34.84", True),
        ("[t.b.wa] < [t.a.wa]", "", True),
        ("[t.a.wa] < [t.b.wa]", "", False),
        ("[t.a.wa] < [t.a.f1]", "", True),  # equal digits may hide either order
        ("[t.a.wa] - [t.b.wa] > 3", "", False),
        ("[t.a.wa] - [t.b.wa] > 2.91", "", True),
        ("differ(wa, f1)", "", False),
        ("share([t.c.f1], 200)", "", True),
    ],
)
def test_arithmetic(expression, printed, possible):
    assert derive(expression, printed, A).possible is possible


def test_rows_that_differ_are_counted():
    found = derive("differ(wa, f1)", "", A | {"t.b.f1": "33.85"})
    assert found.possible and found.text.endswith("in 1 of 2 rows")


@pytest.mark.parametrize(
    ("percent", "n"), [("78.15", 5531), ("82.63", 547), ("82.63", 5531), ("50.0", 3), ("50.0", 2)]
)
def test_shares_against_trying_all(percent, n):
    digits = len(percent.partition(".")[2])
    hits = [k for k in range(n + 1) if abs(100 * k / n - float(percent)) <= 0.5 * 10**-digits]
    found = derive("share([p], " + str(n) + ")", "", {"p": percent})
    assert found.possible is bool(hits)
    if hits:
        assert f"{hits[0]:,} of" in found.text


def test_the_two_famous_shares():
    assert not derive("share([p], 5531)", "", {"p": "78.15"}).possible
    assert derive("share([p], 547)", "", {"p": "82.63"}).text == "452 of 547 is 82.63 %"


@pytest.mark.parametrize(
    "expression",
    [
        "[x]", "[t.a.wa] *", "[t.a.wa] * 2", "[t.a.wa] ** 9", "__import__('os')", "[t.a.wa].real",
        "max()", "max(*[1])", "min([t.a.wa], key=1)", "1 < 2 < 3", "[t.a.wa] == 1", "lambda: 1",
        "'a'", "True", "1e999", "_0", "_7", "share([t.a.wa], 0)", "share([t.a.wa], -5)",
        "share([t.a.wa], True)", "share([t.a.wa])", "share(1, 5)", "differ(wa)", "differ(wa, no)",
        "differ([t.a.wa], wa)", "[t.a.wa]", "(" * 5000 + "1" + ")" * 5000, "open('x')",
    ],
)  # fmt: skip
def test_what_is_no_expression(expression):
    with pytest.raises(RuleError):
        derive(expression, "", A)


def test_proofs():
    assert not proofs.PROOFS["micro_f1_differs"]()[0]
    assert not proofs.PROOFS["swfc_uses_pairs"]()[0]
    assert not proofs.PROOFS["swfc_focuses"]()[0]
    assert not proofs.PROOFS["cnn_upsamples"]()[0]
    holds, text = proofs.PROOFS["penalty_falls_off"]()
    assert holds and "0.61" in text and "0.10" in text  # as by hand: e^-1/2 and 9 e^-9/2
    assert proofs.OF_THE_PAPER < set(proofs.PROOFS)


def test_the_words_of_a_step():
    assert str(Step("more", ("a", "b"), "wa")) == "wa: b − a"
    assert str(Step("value", ("a",), "wa", "meiju2025")) == "wa on meiju2025: a"
    assert rules.LOWER < rules.METRICS


def test_who_takes_only_the_rules_does_not_depend_on_the_ledger(tmp_path):
    """Chapter 01 does so: a new claim must not rename its run."""
    source = tmp_path / "01_x.py"
    source.write_text("from serbook.claims import rules")
    assert "serbook.claims.rules" in (read := names.reads(source))
    assert not [name for name in read if "ledger" in name]
    source.write_text("from serbook.claims import pages")
    read = [name.partition(": ")[2] for name in names.reads(source)]
    assert {"claims.yaml", "ledger.css", "ledger.js", "ledger.html.jinja"} <= {*read}
