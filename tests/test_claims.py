"""The ledger against a hand count, strict reading, verdicts on hand-made runs, pages, commands."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml

from claims_toys import HEARD, SAID, SMALL, judged, make
from serbook.claims import decide, judge, pages
from serbook.claims import runs as claim_runs
from serbook.claims.dynamics import dynamics
from serbook.claims.judge import of_number
from serbook.claims.ledger import LEDGER, ClaimError, read
from serbook.runner import evidence
from serlib import __main__ as cli
from serlib import records
from serlib.metrics.intervals import Interval

BOOK = read()
NAN = float("nan")


# ------------------------------------------------------------------------------ the book's ledger


def test_numbers_by_table_as_counted_by_hand():
    """Rows times columns of each printed table."""
    prefixes = {
        "cai2021.t3": 8, "cai2021.alpha": 5 * 2,  # systems; values of alpha by accuracy and WER
        "wang2025.t1": 3 * 2 * 3, "wang2025.t2": 2 * 5 * 3, "wang2025.t4": 3 * 2 * 3,
        "wang2025.t3": 2 * 5 + 2 * 2 + 2 * 2,  # accuracies; WER and gender where the task is there
    }  # fmt: skip
    counted = {p: sum(bool(c.printed) for c in BOOK.select(p)) for p in prefixes}
    assert counted == prefixes
    assert sum(n for p, n in counted.items() if p.startswith("wang")) == 84
    assert sum(n for p, n in counted.items() if p.startswith("cai")) == 18


def test_a_few_cells_read_from_the_papers():
    printed = BOOK.printed()
    for id, value in {
        "wang2025.t1.msp.proposed.macro_f1": "35.49", "wang2025.t2.meiju2025.no_mtl.wa": "23.38",
        "wang2025.t2.emotiw2018.no_swfc.micro_f1": "41.06",
        "wang2025.t3.meiju2025.all.wer": "25.56",
        "wang2025.t3.emotiw2018.gender.gender": "89.79", "wang2025.t4.meiju2025.last.wa": "26.63",
        "cai2021.alpha.a0_001.wer": "0.2233", "cai2021.t3.pappagari.wa": "70.30",
        "chen2025.abstract.ua": "82.19", "zgorzynski2025.challenge.ccc": "0.6003",
    }.items():  # fmt: skip
        assert printed[id] == value


def test_cells_that_two_tables_print_agree():
    """Wang's full system and baseline stand in several tables."""
    printed = BOOK.printed()
    for corpus in ("emotiw2018", "meiju2025"):
        for metric in ("macro_f1", "micro_f1", "wa"):
            t1, t2 = f"wang2025.t1.{corpus}", f"wang2025.t2.{corpus}"
            t4 = f"wang2025.t4.{corpus}"
            assert printed[f"{t1}.baseline.{metric}"] == printed[f"{t2}.baseline.{metric}"]
            ours = {printed[f"{x}.{metric}"] for x in (f"{t1}.proposed", f"{t2}.ours")}
            assert ours == {printed[f"{t4}.learnable.{metric}"]}
        t3 = f"wang2025.t3.{corpus}"
        assert printed[f"{t3}.all.wa"] == printed[f"wang2025.t1.{corpus}.proposed.wa"]


def test_every_claim_says_who_tests_it():
    assert len({c.id for c in BOOK.claims}) == len(BOOK.claims) >= 180
    for claim in BOOK.claims:
        assert claim.where and claim.says and claim.protocol
        assert claim.kind in ("number", "direction", "formula", "statement")
        if claim.kind == "direction":
            assert claim.planted in ("yes", "no", "open")
    assert {c.paper for c in BOOK.claims} == set(BOOK.papers)


def test_every_system_is_used_and_can_be_made_at_every_profile():
    used = {n for c in BOOK.claims for s in c.steps for n in s.systems}
    used |= {n for x in BOOK.unsaid for n in (x.base, x.instead) if n}
    assert used == set(BOOK.systems)
    for profile in ("smoke", "demo", "full"):
        made = {n: records.plain(BOOK.recipe(n, profile)) for n in BOOK.systems}
        keys = {n: evidence.system_key(recipe) for n, recipe in made.items()}
        for claim in BOOK.claims:
            for step in claim.steps:
                assert len({keys[n] for n in step.systems}) == len(step.systems), claim.id


def test_contradictions_are_those_that_arithmetic_finds():
    found = {c.id for c in BOOK.claims if (d := BOOK.derived(c)) and not d.possible}
    assert found == {
        "cai2021.text.pooled",  # no k of 5,531 is 78.15 %
        "wang2025.s31.three_metrics",  # F1-micro is accuracy
        "wang2025.s331.gain_msp.wa",  # 3.22, and 2.91 in the table
        "wang2025.s331.gain_emotiw2018.wa",  # 3.67, and 2.67
        "wang2025.s331.over_3.wa",
        "wang2025.s332.attention_low",  # 0.33 and 2.81 are other steps of Table 2
        "wang2025.s332.attention_high",
        "wang2025.s332.every_part.wa",  # 23.60 to 23.38
    }


def test_chapters_and_prefixes_select():
    assert {c.chapter for c in BOOK.select("06")} == {"06"}
    assert [c.id for c in BOOK.select("chen2025.abstract.wa")] == ["chen2025.abstract.wa"]
    assert len(BOOK.select()) == len(BOOK.claims)
    assert not [c for c in BOOK.select("cai2021.t3") if not c.id.startswith("cai2021.t3.")]
    for wrong in ("cai", "wang2025.t", "nobody"):
        with pytest.raises(ClaimError, match="begins with"):
            BOOK.select(wrong)
    with pytest.raises(ClaimError, match="no claim"):
        BOOK["cai2021.t3"]


# ---------------------------------------------------------------------------------- strict reading


def test_a_small_ledger_is_read(small):
    assert [c.kind for c in small.claims] == [
        "number",
        "number",
        "direction",
        "number",
        "statement",
    ]
    assert small["p.t.more"].metric == "wa, wer" and small["p.t.a.wa"].where == "Table 1"
    assert small.unsaid[0].metrics == ("wa", "wer")
    assert small.recipe("b", "demo").loss.alpha == 0.1
    assert small.recipe("b", "full", {"iemocap": "/x"}).data_root == "/x"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('says: "accuracy of a"', 'says: "x", colour: "red"', "unknown colour"),
        ('says: "accuracy of a", ', "", "lacks says"),
        ("id: b.wa", "id: a.wa", "p.t.a.wa: the id is there twice"),
        ("id: v,", "id: u,", "the id is there twice"),
        ('printed: "70.0"', "printed: 70.0", "put it in quotes"),
        ('printed: "70.0"', 'printed: "seventy"', "no printed number"),
        ('printed: "70.0", ', "", "a number needs what is printed"),
        ('planted: "yes"', "planted: yes", "put it in quotes"),
        ('planted: "yes"', 'planted: "maybe"', "planted is"),
        (', planted: "yes"', "", "planted is"),
        ('rule: "value(a, wa)"', 'rule: "value(c, wa)"', "unknown systems"),
        ('rule: "value(a, wa)"', 'rule: "prove(nothing)"', "no proof"),
        ('rule: "value(a, wa)"', 'rule: "eval(1)"', "is no rule"),
        ('rule: "value(a, wa)"', "rule: {a: b}", "put it in quotes"),
        ('why: "nobody else is here"', 'why: ""', "needs a why"),
        ("[p.t.b.wa] - ", "[p.t.c.wa] - ", "no claim 'p.t.c.wa'"),
        ("[p.t.b.wa] - ", "exec(1) - ", "only"),
        ("recipe: cai2021, with: {alpha: 0.0}", "recipe: os.system", "no recipe"),
        ("paper: p\n    where", "paper: q\n    where", "no paper 'q'"),
        ("id: p.t\n", "id: q.t\n", "begins with its paper"),
        ("id: a.wa", "id: ../a", "no id"),
        ('chapter: "03"\n', 'chapter: "30"\n', "no chapter"),
        ('metrics: "wa wer"', 'metrics: "wa f1"', "unknown metrics"),
        ("base: b, ", "", "go together"),
        ("unsaid:", "unheard:", "unknown unheard"),
        ("  a: {recipe", "  a: {recipe: cai2021}\n  a: {recipe", "there twice"),
        ("  a: {recipe", "  a: &x {recipe", None),  # an anchor that nobody uses says nothing
        ("  b: {recipe: cai2021, with: {alpha: 0.1}}", "  c: &x {}\n  b: *x", "alias"),
        ("title: \"A paper\"", "title: !!python/name:os.system", "YAML"),
        ("title: \"A paper\"", "title: !!python/object/apply:os.system ['true']", "YAML"),
        ("  a: {recipe", "  ? [x, y]\n  : {recipe: cai2021}\n  a: {recipe", "no text"),
        ("  a: {recipe", "  1: {recipe: cai2021}\n  a: {recipe", "no text"),
        ("  a: {recipe", "  yes: {recipe: cai2021}\n  a: {recipe", "no text"),
        ("{recipe: cai2021, with: {alpha: 0.0}}", "{recipe: [cai2021]}", "no recipe"),
        ("with: {alpha: 0.0}", "with: alpha", "keys and values"),
        ("    claims:", "    claims: many\n    x:", "claims: it is str, not a list"),
        ('where: "Table 1"', "where: [Table, 1]", "is not str"),
        ("cite: p,", "quote: p,", "papers, p: unknown quote"),
        ("cite: p, ", "", "papers, p: .*at least 3 items"),
        ("with: {alpha: 0.0}", "at: {huge: {alpha: 0.0}}", "a, at: unknown huge"),
        ("papers:", "- papers:", "YAML"),
        (SMALL, "", "not keys and values"),
        (SMALL, "[]", "not keys and values"),
        (SMALL, "papers: {}\nsystems: {}\ngroups: 5\nunsaid: []", "groups: it is int, not a list"),
        (SMALL, "papers: {}\nsystems: 5\ngroups: []\nunsaid: []", "systems: it is int"),
        (SMALL, "[" * 3000 + "]" * 3000, "YAML|keys and values"),
    ],
)  # fmt: skip
def test_hostile_ledgers(tmp_path, old, new, message):
    assert old in SMALL
    path = tmp_path / "claims.yaml"
    path.write_text(SMALL.replace(old, new, 1))
    if message is None:
        with_it = SMALL.replace(old, new, 1)
        assert yaml.safe_load(with_it)
        try:
            read(path)
        except ClaimError as error:
            assert "claims.yaml" in str(error)
        return
    with pytest.raises(ClaimError, match=message) as caught:
        read(path)
    assert "claims.yaml" in str(caught.value)


def test_binary_is_no_ledger(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_bytes(b"\xff\xfe\x00papers")
    with pytest.raises(ClaimError, match="no plain YAML"):
        read(path)


def test_a_recipe_that_cannot_be_made(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(SMALL.replace("alpha: 0.0", "color: red"))
    with pytest.raises(ClaimError, match="system a at demo.*color"):
        read(path).recipe("a", "demo")


# ----------------------------------------------------------------------------------- of one number


@pytest.mark.parametrize(
    ("value", "low", "high", "printed", "better", "expected"),
    [
        (0.780, 0.76, 0.80, 0.7815, 1, "reproduced"),
        (0.7715, 0.76, 0.79, 0.7815, 1, "reproduced"),  # exactly one point off
        (0.7714, 0.76, 0.79, 0.7815, 1, "within seed noise"),
        (0.780, 0.60, 0.95, 0.7815, 1, "within seed noise"),  # so wide it says nothing
        (0.740, 0.70, 0.79, 0.7815, 1, "within seed noise"),
        (0.850, 0.80, 0.90, 0.7815, 1, "reproduced better"),
        (0.700, 0.65, 0.75, 0.7815, 1, "not reproduced"),
        (0.150, 0.13, 0.17, 0.1929, -1, "reproduced better"),
        (0.250, 0.22, 0.28, 0.1929, -1, "not reproduced"),
        (0.7815, 0.7815, 0.7815, 0.7815, 1, "within seed noise"),  # no width proves nothing
        (0.9, 0.9, 0.9, 0.7815, 1, "within seed noise"),
        (0.70, 0.66, 0.7815, 0.7815, 1, "within seed noise"),  # touches
    ],
)
def test_numbers(value, low, high, printed, better, expected):
    assert of_number(Interval(value, low, high, 0.95), printed, better) == expected


@pytest.mark.parametrize("bounds", [(NAN, NAN), (0.1, NAN)])
def test_no_verdict_without_bounds(bounds):
    with pytest.raises(ValueError, match="no bounds"):
        of_number(Interval(0.5, *bounds, 0.95), 0.5)


# ------------------------------------------------------------------------------ on hand-made runs


def test_without_runs_nothing_is_claimed(small, place):
    found = {c.id: judged(small, c.id, "demo") for c in small.claims}
    assert found["p.t.gain"].verdict == judge.CONTRADICTED  # 72.0 - 70.0 is no 3.0
    assert "72.0 - 70.0 = 2, printed 3.0" in found["p.t.gain"].why
    others = {f.verdict for id, f in found.items() if id != "p.t.gain"}
    assert others == {judge.UNTESTED}
    assert "needs profile='full'" in found["p.t.a.wa"].why
    assert (
        found["p.t.more"].why == "not run: a, b" and found["p.t.rank"].why == "nobody else is here"
    )
    assert not (records.home() / "runs").exists()  # looking leaves no folders


def test_numbers_need_the_full_tier(small, place):
    for profile in ("demo", "full"):
        for seed in (0, 1):
            make(small.recipe("a", profile).change(seed=seed), 0.7)
    assert judged(small, "p.t.a.wa", "demo").verdict == judge.UNTESTED
    found = judged(small, "p.t.a.wa")
    assert found.verdict == "reproduced" and found.tier == "full"
    assert len(found.runs) == 2 and found.measured[0].seeds == 2
    assert found.measured[0].interval.value == pytest.approx(0.7)


def test_directions_by_paired_intervals_on_common_seeds(small, place):
    a, b = (small.recipe(name, "demo") for name in "ab")
    bad, good = (SAID, HEARD), (SAID, SAID)
    make(a, 0.5, words=bad)
    make(b, 0.7, words=good)
    make(b.change(seed=1), 0.1, words=bad)  # a has no such seed
    found = judged(small, "p.t.more", "demo")
    assert found.verdict == "reproduced" and found.tier == "demo" and len(found.runs) == 2
    assert [m.interval.value for m in found.measured] == pytest.approx([0.2, -0.5])
    assert judged(small, "p.t.more", "full").verdict == judge.UNTESTED
    row = pages.rows([found]).loc["p.t.more"]
    assert row["planted"] == "yes" and "wa: b − a 0.200" in row["measured"]


@pytest.mark.parametrize(
    ("right", "verdict"), [(0.3, "not reproduced"), (0.5, "within seed noise")]
)
def test_one_part_refutes_the_whole(small, place, right, verdict):
    words = ["X Y"] * 80
    make(small.recipe("a", "demo"), 0.5, words=(SAID, HEARD))
    make(small.recipe("b", "demo"), right, words=(words, words))
    assert judged(small, "p.t.more", "demo").verdict == verdict


def test_a_metric_that_is_missing(small, place):
    for name, right in (("a", 0.5), ("b", 0.7)):
        make(small.recipe(name, "demo"), right)  # no transcripts
    found = judged(small, "p.t.more", "demo")
    assert found.verdict == judge.UNTESTED and "wer" in found.why
    make(small.recipe("b", "demo").change(seed=1), 0.1)
    make(small.recipe("a", "demo").change(seed=1), 0.9)
    # Refuted in accuracy now: 0.7 and 0.1 against 0.5 and 0.9 — but its interval holds zero.
    assert judged(small, "p.t.more", "demo").verdict == judge.UNTESTED


@pytest.mark.parametrize(("n", "said"), [(1, "1 speaker"), (2, "2 speakers")])
def test_too_few_speakers_give_no_verdict_and_say_so(small, place, n, said):
    """Two who agree that b is better by 0.2 once made a "yes"."""
    words = ["X Y"] * 10 * n
    for name, right in (("a", 0.5), ("b", 0.7)):
        make(small.recipe(name, "demo"), right, talkers=n, words=(words, words))
    make(small.recipe("a", "full"), 0.7, talkers=n)
    for found in (judged(small, "p.t.more", "demo"), judged(small, "p.t.a.wa")):
        assert found.verdict == judge.UNTESTED and found.why == f"cannot tell: {said}"


def test_no_words_at_all(small, place):
    """An empty reference is unknown; a WER of nothing is undefined, not 0."""
    for name, right in (("a", 0.5), ("b", 0.7)):
        make(small.recipe(name, "demo"), right, words=([""] * 80, ["X"] * 80))
    found = judged(small, "p.t.more", "demo")
    assert found.verdict == judge.UNTESTED and "wer is undefined" in found.why


def test_runs_of_older_code_do_not_count(small, place):
    make(small.recipe("a", "demo"), 0.5, stale=True)
    assert judged(small, "p.t.more", "demo").why == "not run: a, b"


def test_runs_of_another_corpus_do_not_count(small, place):
    full = small.recipe("a", "full")
    make(full.change(corpus="/data/cremad.csv", data_root="/data"), 0.7)
    assert judged(small, "p.t.a.wa").verdict == judge.UNTESTED
    make(full.change(corpus="/data/iemocap.csv", data_root="/data"), 0.7)
    assert judged(small, "p.t.a.wa").verdict == "reproduced"


def test_folds_of_a_recipe_are_one_system(small, place):
    """Pooled over the speakers of all folds; a seed that lacks one, and a fold of a alone, wait."""
    a, b = (small.recipe(name, "full") for name in "ab")
    for fold, right in ((1, 0.6), (2, 0.8)):
        for seed in (0, 1):
            make(a.change(fold=fold, seed=seed), right, talkers=2, words=(SAID[:20], SAID[:20]))
    (measured,) = judged(small, "p.t.a.wa").measured
    assert measured.interval.value == pytest.approx(0.7) and measured.interval.bounded
    assert (measured.seeds, measured.folds) == (2, 2)
    assert measured.seen.endswith(", 2 seeds, 2 folds pooled") and len(measured.runs) == 4
    make(a.change(seed=2), 0.1, talkers=2)  # fold 1 only
    assert judged(small, "p.t.a.wa").measured == (measured,)
    make(b, 0.7, talkers=8, words=(SAID, SAID))  # fold 1, of other speakers
    assert "different utterances" in judged(small, "p.t.more").why
    for fold in (1, 2):
        make(b.change(fold=fold, seed=1), 0.9, talkers=2, words=(SAID[:20], SAID[:20]))
    found = judged(small, "p.t.more").measured[0]
    assert (found.seeds, found.folds) == (1, 2)
    assert found.interval.value == pytest.approx(0.9 - 0.7)


@pytest.mark.parametrize(
    ("ran", "trained", "expected"),
    [
        ([[(0, 1), (1, 1)], [(1, 1), (2, 1)]], [True, True], ([1], [1])),
        ([[(0, 1), (1, 1)], [(7, 1)]], [True, False], ([0, 1], [1])),  # a floor goes with all
        ([[(0, 1), (0, 2), (1, 1)]], [True], ([0], [1, 2])),  # two runs either way: more folds
        ([[(0, 1), (0, 2), (1, 1), (2, 1)]], [True], ([0, 1, 2], [1])),
        ([[(0, 1), (0, 2)], [(0, 2), (0, 3)]], [True, True], ([0], [2])),
        ([[(0, 1)], [(0, 2)]], [True, True], ([], [])),
        ([[(0, 1)], []], [True, True], ([], [])),
        ([[], [(0, 1)]], [True, False], ([], [])),
        ([[(3, 1), (3, 2)], [(0, 1), (0, 2)]], [False, False], ([3], [1, 2])),
    ],
)
def test_seeds_and_folds_that_can_be_compared(ran, trained, expected):
    assert claim_runs.common(ran, trained) == expected


def test_a_floor_is_compared_with_every_seed(small, place):
    path = place / "claims.yaml"
    path.write_text(
        SMALL.replace("a: {recipe: cai2021, with: {alpha: 0.0}}",
                      "a: {recipe: floor, with: {system: svm}}")
        .replace(" and less(a, b, wer)", "")
    )  # fmt: skip
    ledger = read(path)
    make(ledger.recipe("a", "demo"), 0.5)
    for seed, right in ((3, 0.7), (4, 0.9), (5, 0.7)):
        make(ledger.recipe("b", "demo").change(seed=seed), right)
    (measured,) = judged(ledger, "p.t.more", "demo").measured
    assert measured.seeds == 3 and len(measured.runs) == 4
    assert measured.interval.value == pytest.approx(2.3 / 3 - 0.5)


def test_one_seed_is_told(small, place):
    for name, right in (("a", 0.5), ("b", 0.7)):
        make(small.recipe(name, "demo"), right, words=(SAID, SAID))
    found = judged(small, "p.t.more", "demo")
    assert found.measured[0].interval.note == "speakers only: 1 seed"
    assert found.seen.count("1 seed") == 2  # once for each of the two comparisons


def test_broken_folders_are_passed_over(small, place):
    run = make(small.recipe("a", "full"), 0.7)
    for name, status in (("odd", "{"), ("none", "[]"), ("half", '{"state": "done"}')):
        (run.path.parent / name).mkdir()
        (run.path.parent / name / "status.json").write_text(status)
    (run.path.parent / "half" / "config.json").write_text('{"recipe": 3}')
    assert judged(small, "p.t.a.wa").verdict == "reproduced"
    records.write_json(run.path / "status.json", {"state": "failed", "error": "x"})
    assert judged(small, "p.t.a.wa").verdict == judge.UNTESTED


def test_dynamics_by_hand(small, place, monkeypatch):
    def curves(wa, wer):
        return [
            {"epoch": e, "dev_wa": x, "dev_wer": y}
            for e, (x, y) in enumerate(zip(wa, wer, strict=True))
        ]

    def histories(recipe):
        """By seed."""
        found = claim_runs.Finished().runs(recipe)
        return {seed: run.history() for (seed, _), (_, run) in found.items()}

    def of(below, above, *seeds):
        return dynamics(*([histories(r)[seed] for seed in seeds] for r in (below, above)), "wa")

    a, b = (small.recipe(name, "demo") for name in "ab")
    make(a, 0.5, history=curves([0.4] * 6, [1.0] * 6))
    make(b, 0.5, history=curves([0.3, 0.3, 0.3, 0.5, 0.5, 0.5], [0.9, 0.6, 0.3, 0.3, 0.3, 0.3]))
    found = of(a, b, 0)  # one seed is one throw
    assert found.answer == found.slower == found.ahead == found.waits == "cannot tell"
    found = of(a, b, 0, 0)
    assert found.answer == "yes" and [*histories(b)] == [0]
    assert (found.leads, found.settled, found.epochs) == (4, 3, 6)
    # Turned around: faster at first, behind at last.
    found = of(b, a, 0, 0)
    assert found.answer == found.ahead == "no" and found.gap.value == pytest.approx(-0.1)
    assert found.leads == 7  # never for good
    # The WER still moves at the last epoch: one cannot tell.
    make(
        b.change(seed=1), 0.5, history=curves([0.3] * 3 + [0.5] * 3, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    )
    make(a.change(seed=1), 0.5, history=curves([0.4] * 6, [1.0] * 6))
    found = of(a, b, 1, 1)
    assert found.answer == found.waits == "cannot tell" and found.slower == found.ahead == "yes"


def test_what_papers_left_open(small, place):
    words = ["X Y"] * 80
    before = judge.unsaid("demo", small)
    assert (
        before.loc["u", "effect"] == "not run: b, a" and before.loc["v", "effect"] == "not measured"
    )
    make(small.recipe("a", "demo"), 0.4, words=(words, words))
    make(small.recipe("b", "demo"), 0.5, words=(words, words))
    after = judge.unsaid("demo", small).loc["u"]
    assert (
        after["effect"]
        == "wa -0.100 [-0.163, -0.037] (speakers only: 1 seed); "
        "wer 0.000 [0.000, 0.000] (speakers only: 1 seed)"
        and after["seeds"] == 1
    )


def test_decide_runs_the_least(small, place, monkeypatch):
    asked = []

    def sweep(recipes, **_):
        asked.extend((r.loss.alpha, r.seed) for r in recipes)
        for r in recipes:
            make(r, 0.5, words=(["X"] * 80, ["X"] * 80))

    monkeypatch.setattr(decide, "sweep", sweep)
    make(small.recipe("a", "demo"), 0.5, words=(["X"] * 80, ["X"] * 80))
    found = decide.decide("p.t.more", ledger=small)
    assert asked == [(0.0, 1), (0.1, 0), (0.1, 1)]  # seed 0 of a was there
    assert found.verdict == "within seed noise" and found.measured[0].seeds == 2
    for id in ("p.t.a.wa", "p.t.gain", "p.t.rank"):  # nothing at demo can decide these
        decide.decide(id, ledger=small)
    assert len(asked) == 3
    with pytest.raises(ClaimError, match="no claim"):
        decide.decide("p.t.nothing", ledger=small)


def test_another_corpus_needs_its_root(small, place):
    path = place / "claims.yaml"
    path.write_text(SMALL.replace('rule: "value(a, wa)"', 'rule: "value(a, wa@meiju2025)"'))
    with pytest.raises(ValueError, match="--root meiju2025=DIR"):
        decide.decide("p.t.a.wa", "full", ledger=read(path))


def test_a_class_that_is_not_there_is_not_answered():
    p = pd.DataFrame({"p_0": [0.2, 0.0], "p_1": [0.5, 0.9], "p_2": [0.3, 0.1]})
    assert decide.known_classes(p, np.array([True, False, True])).tolist() == [2, 2]
    assert decide.known_classes(p, np.ones(3, bool)).tolist() == [1, 1]


# ------------------------------------------------------------------------------- pages and commands


def test_counts_add_up(place):
    found = judge.findings(profile="demo")
    table = pages.counts(found)
    assert table["all"].sum() == len(BOOK.claims) and list(table.columns[:-1]) == list(
        judge.VERDICTS
    )
    assert (table[list(judge.VERDICTS)].sum(axis=1) == table["all"]).all()
    by_tier = pages.counts(found, "tier")
    assert by_tier.loc["arithmetic", judge.CONTRADICTED] == table[judge.CONTRADICTED].sum()
    assert (
        Counter(f.claim.chapter for f in found).total()
        == pages.counts(found, "chapter")["all"].sum()
    )


def test_a_chapter_gets_its_slice(place):
    table = pages.rows(judge.findings("06"))
    assert table.index.name == "id" and list(table.columns)[:5] == [
        "where", "claim", "printed", "measured", "verdict",
    ]  # fmt: skip
    assert set(table.index) == {c.id for c in BOOK.select("06")}
    assert table.loc["wang2025.t4.msp.last.macro_f1", "printed"] == "33.82 %"
    assert table.loc["wang2025.s334.gain_msp", "printed"] == "1.67 points"


def test_the_page_escapes_and_holds_every_claim(small, place):
    ledger = small
    bad = ledger["p.t.rank"]
    found = [judge.Finding(bad, "demo", judge.UNTESTED, why='<script>"x"</script>')]
    html = pages.page(found).data
    assert "<script>&quot;" not in html and "&lt;script&gt;" in html
    whole = pages.page(judge.findings(profile="demo")).data
    assert whole.count("<tr data-paper=") == len(BOOK.claims)
    assert "http" not in whole and str(records.home()) not in whole
    assert whole.count("<label>") == len(pages.FILTERS) + 1
    assert pages.page([]).data.count("<tr data-") == 0


def test_the_report_of_a_claim(small, place):
    words = ["X Y"] * 80
    for name, right in (("a", 0.5), ("b", 0.7)):
        make(small.recipe(name, "demo"), right, words=(words, words))
    page = pages.report(judged(small, "p.t.more", "demo"), small)
    for part in (
        "Verdict: within seed noise",
        "more(a, b, wa)",
        "0.200 [",
        "(speakers only: 1 seed)",
        "With one seed",
        "serlib claims run p.t.more --profile demo",
        "fine-tune-",
        "synthetic",
    ):
        assert part in page
    assert len(page.splitlines()) < 60  # one page
    number = pages.report(judged(small, "p.t.a.wa", "demo"), small)
    assert "serlib claims run p.t.a.wa --profile full --root iemocap=DIR`" in number
    id = "wang2025.t4.emotiw2018.last.wa"
    found = judge.judge(BOOK, BOOK[id], "demo", claim_runs.Finished())
    assert "--root msp-podcast=DIR --root emotiw2018=DIR`" in pages.report(found, BOOK)
    rank = pages.report(judged(small, "p.t.rank"), small)
    assert "no run decides" in rank and "serlib claims run" not in rank


def test_commands(place, capsys):
    assert cli.main(["claims", "--of", "cai2021.text", "--profile", "demo"]) == 0
    shown = capsys.readouterr().out
    assert "no k of 5,531 is 78.15 %" in shown and "planted: yes" in shown
    assert cli.main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(BOOK.claims)
    assert {"id", "printed", "verdict", "measured", "runs", "rule"} <= set(rows[0])
    assert {r["verdict"] for r in rows} <= set(judge.VERDICTS)
    assert cli.main(["claims", "--of", "nobody"]) == 2
    assert "no claim's id begins with 'nobody'" in capsys.readouterr().err


def test_command_run(place, capsys):
    out = place / "page.md"
    id = "wang2025.s331.gain_msp.wa"
    assert cli.main(["claims", "run", id, "--out", str(out)]) == 0
    assert "contradicted by the paper itself" in out.read_text()
    assert out.read_text() in capsys.readouterr().out
    assert cli.main(["claims", "run", "no.such"]) == 2
    assert cli.main(["claims", "run", id, "--root", "meiju2025"]) == 2
    assert "write CORPUS=DIR" in capsys.readouterr().err
    assert cli.main(["claims", "run", id]) == 0
    assert (records.home() / "claims" / f"{id}.demo.md").is_file()


def test_the_ledger_names_nothing_that_is_not_there():
    assert LEDGER.is_file()
    for choice in BOOK.unsaid:
        assert choice.base or choice.note
