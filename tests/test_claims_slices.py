"""A chapter's slice of the ledger: on hand-made runs, without runs, elsewhere, in every chapter."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from claims_toys import HEARD, SAID, judged, make
from serbook.claims import judge, pages
from serbook.claims.ledger import read
from serbook.plan import asked
from serbook.runner import evidence, notebooks
from serlib import records

BOOK = read()


class Tables(HTMLParser):
    """Collects the cells of tables, and refuses tags that close in another order."""

    def __init__(self):
        super().__init__()
        self.tables, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in ("input", "br") else [tag]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data


def rows_of(html):
    """The tables of a page, each by the ids of its claims."""
    reader = Tables()
    reader.feed(html)
    assert not reader.open, "a tag is left open"
    found = [pd.DataFrame(rows, columns=head) for head, *rows in reader.tables]
    return [t.set_index(t.iloc[:, 0].str.split().str[-1]) for t in found]


def slice_of(ledger, **place):
    found = judge.findings("03", ledger=ledger, **place)
    return pages.slice_of(found, "03").data


def test_a_slice_of_hand_made_runs(small, place):
    words = ["X Y"] * 80
    make(small.recipe("a", "demo"), 0.5, words=(SAID, HEARD))
    make(small.recipe("b", "demo"), 0.7, words=(words, words))
    html = slice_of(small)
    shown, waiting = rows_of(html)
    assert list(shown.columns) == [
        "claim", "verdict", "planted", "acted speech", "printed", "measured", "tier", "where",
        "why",
    ]  # fmt: skip
    row = shown.loc["p.t.more"]
    assert (row["verdict"], row["planted"], row["tier"]) == ("reproduced", "yes", "demo")
    assert "wa: b − a 0.200 [0.137, 0.263] (speakers only: 1 seed); wer" in row["measured"]
    assert "wer: b − a -0.500 [-0.522, -0.478] (speakers only: 1 seed)" in row["measured"]
    assert shown.loc["p.t.gain", ["verdict", "tier"]].tolist() == [
        judge.CONTRADICTED,
        "arithmetic",
    ]
    assert shown.loc["p.t.rank", "why"] == "nobody else is here"
    assert set(waiting.index) == {"p.t.a.wa", "p.t.b.wa"}  # numbers, folded away
    assert waiting["why"].str.contains("needs profile='full'").all()
    told = "1 reproduced, 1 contradicted by the paper itself, 1 not testable here"
    assert f"Claims of chapter 03, profile demo: {told}" in html
    assert "2 printed numbers without a verdict" in html and html.count("<details>") == 1
    for part in ('scope="col"', 'scope="row"', 'tabindex="0"', "<caption>"):
        assert html.count(part) >= 2


def test_a_slice_where_runs_are_missing(small, place):
    make(small.recipe("a", "demo"), 0.5)
    (shown, _) = rows_of(slice_of(small))
    row = shown.loc["p.t.more"]
    assert (row["verdict"], row["tier"]) == (judge.UNTESTED, "none")
    assert row["why"] == "not run: b" and row["measured"] == ""
    make(small.recipe("b", "demo").change(seed=1), 0.7)  # no seed that both have
    assert rows_of(slice_of(small))[0].loc["p.t.more", "why"] == "not run: a, b"
    lost = next((records.home() / "runs").glob("*1/predictions_test.csv"))
    make(small.recipe("b", "demo"), 0.7)
    lost.unlink()
    row = rows_of(slice_of(small))[0].loc["p.t.more"]  # no words, so no WER
    assert row["verdict"] == judge.UNTESTED and "0.200" in row["measured"] and row["why"]


def test_a_slice_in_full_without_the_corpus(small, place):
    html = slice_of(small, profile="full")
    shown, waiting = rows_of(html)
    assert "planted" not in shown and "not run: a" in set(waiting["why"])
    for name, right in (("a", 0.7), ("b", 0.72)):
        run = make(small.recipe(name, "full").change(data_root="/data/IEMOCAP"), right)
        assert run.done
    shown, *_ = rows_of(slice_of(small, profile="full"))
    assert shown.loc["p.t.a.wa", ["verdict", "tier"]].tolist() == ["reproduced", "full"]
    given = slice_of(small, profile="full", corpus="/else/iemocap.csv", data_root="/else")
    assert rows_of(given)[0].loc["p.t.a.wa", "verdict"] == "reproduced"  # the same corpus


@pytest.mark.parametrize("profile", ["demo", "full"])
def test_a_slice_on_another_corpus(small, place, profile):
    """Directions are judged there and say so; a number of the paper's corpus is not."""
    there = {"corpus": "/data/cremad.csv", "data_root": "/data"}
    words = ["X Y"] * 80
    for name, right, heard in (("a", 0.5, HEARD), ("b", 0.7, words)):
        make(small.recipe(name, profile, **there), right, words=(words, heard))
    html = slice_of(small, profile=profile, **there)
    shown, waiting = rows_of(html)
    row = shown.loc["p.t.more"]
    assert (row["verdict"], row["tier"]) == ("reproduced", f"{profile}, cremad")
    assert f"Claims of chapter 03, profile {profile} on cremad: " in html
    assert "planted" not in shown  # nobody planted anything there
    assert judge.BETTER not in html and len(waiting) == 2
    if profile == "full":
        assert set(waiting["why"]) == {"a number on IEMOCAP; these runs are on cremad"}
    shown, *_ = rows_of(slice_of(small, profile=profile))  # and not of the claim's own corpus
    assert shown.loc["p.t.more", "verdict"] == judge.UNTESTED


def test_a_slice_without_claims_or_without_numbers(small, place):
    html = pages.slice_of([], "00").data
    assert "<details>" not in html and "<tbody></tbody>" in html
    assert "<details>" not in pages.slice_of([judged(small, "p.t.rank")], "03").data


def test_every_chapter_ends_with_its_own_slice():
    for path in notebooks.chapters()[2:8]:
        number = path.stem[:2]
        cells = notebooks.read(path).cells
        calls = [c.source for c in cells if "pages.chapter(" in c.source]
        assert calls == [f'pages.chapter("{number}", profile, corpus, data_root)'], path.name
        before = [c.source for c in cells[: [c.source for c in cells].index(calls[0])]]
        headings = [h for s in before for h in re.findall("^## (.*)$", s, re.M)]
        assert headings[-1] == "This chapter's claims"


def test_what_directions_need_is_what_the_chapters_run():
    """By a dry run: else a chapter would say "not run" about itself."""
    paths = notebooks.chapters()[2:8]
    ran = set()
    for recipe in (r for path in paths for r in asked.of(path, profile="demo").recipes):
        ran.add(evidence.system_key(records.plain(recipe)))
    steps = {s for c in BOOK.claims if c.kind == "direction" for s in c.steps}
    lacking = {
        name
        for step in steps
        for name in step.systems
        if evidence.system_key(records.plain(BOOK.recipe(name, "demo"))) not in ran
    }
    # An α that demo leaves out, a β that dev chooses, and a system of the full tier.
    assert lacking <= {"cai.0_001", "wang.swfc", "wang.ours"}


def test_what_is_left_open_as_a_page(small, place):
    (shown,) = rows_of(pages.unsaid("demo", small).data)
    assert list(shown.columns) == list(pages.UNSAID)
    assert shown["effect"].tolist() == ["not run: b, a", "not measured"]
