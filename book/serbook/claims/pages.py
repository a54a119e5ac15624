"""The claims ledger for readers: a page to filter, a chapter's slice, and a report of one claim.

How they look is in the templates beside this file.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from IPython.display import HTML

from serbook.claims import judge
from serbook.claims.judge import UNTESTED, VERDICTS, Finding
from serbook.claims.ledger import Ledger
from serlib import records

# Of a finding, in the order that a narrow page shows first what counts.
COLUMNS = tuple(
    "claim|verdict|planted|acted speech|printed|measured|tier|where|why|runs".split("|")
)
SLICE = COLUMNS[:-1]
WAITING = ("claim", "printed", "where", "why")  # of numbers without a verdict
UNSAID = ("left open", "ours", "instead", "effect", "seeds", "paper", "chapter")
FILTERS = ("paper", "chapter", "kind", "verdict", "tier")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
TEMPLATES.filters["e"] = lambda value: html.escape(str(value))
BOXES = TEMPLATES.get_template("ledger.html.jinja").module


def page(found: Iterable[Finding]) -> HTML:
    """All findings as a table that can be filtered by `FILTERS` and by words."""
    found = list(found)
    note = "what the runs of this profile say; a number on human speech is judged in full only"
    profiles = ", ".join(sorted({f.profile for f in found})) or "none"
    caption = f"{len(found)} claims, profile {profiles}: {note}"
    return HTML(BOXES.page(rows(found), COLUMNS, caption, FILTERS))


def chapter(number: str, profile: str = "demo", corpus: str = "", data_root: str = "") -> HTML:
    """A chapter's slice of the ledger, from the runs that are there.

    `pages.chapter("04", profile, corpus, data_root)`, with what the chapter was given, is its last
    word on its claims. Printed numbers without a verdict are folded away below the other claims.
    """
    return slice_of(judge.findings(number, profile, corpus=corpus, data_root=data_root), number)


def slice_of(found: Iterable[Finding], number: str) -> HTML:
    """Findings as a chapter shows them; see `chapter`."""
    found = list(found)
    waiting = [f for f in found if f.claim.kind == "number" and f.verdict == UNTESTED]
    shown = [f for f in found if f not in waiting]
    many = Counter(f.verdict for f in shown)
    told = ", ".join(f"{many[v]} {v}" for v in VERDICTS if many[v])
    profile = ", ".join(dict.fromkeys(f"profile {f.profile}" for f in found)) or "none"
    profile += "".join(sorted({f" on {f.corpus}" for f in found if f.corpus}))
    asked = {"planted": any(f.planted for f in shown), "acted speech": any(f.acted for f in shown)}
    columns = [name for name in SLICE if asked.get(name, True)]
    text = table(
        shown, f"Claims of chapter {number}, {profile}{': ' if told else ''}{told}", columns
    )
    if not waiting:
        return text
    title = f"{len(waiting)} printed numbers without a verdict"
    caption = f"Chapter {number}, {profile}: {title}"
    return HTML(text.data + BOXES.folded(rows(waiting), WAITING, caption, title))


def rows(found: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table: one row per claim, index its id, columns `COLUMNS` and `FILTERS`."""
    found = list(found)
    known = {
        "where": "claim.where", "claim": "claim.says", "printed": "claim.as_printed",
        "measured": "seen", "verdict": "verdict", "tier": "tier", "planted": "planted",
        "acted speech": "acted",
        "why": "why", "runs": "runs", "paper": "claim.paper", "chapter": "claim.chapter",
        "kind": "claim.kind",
    }  # fmt: skip
    told = {name: list(map(attrgetter(place), found)) for name, place in known.items()}
    told["runs"] = [", ".join(names) for names in told["runs"]]
    return pd.DataFrame(told, index=pd.Index([f.claim.id for f in found], name="id"), dtype=object)


def counts(found: Iterable[Finding], by: str = "paper") -> pd.DataFrame:
    """How many claims have which verdict, by "paper", "chapter", "kind" or "tier"."""
    table = rows(found)
    made = pd.crosstab(table[by], table["verdict"]).reindex(columns=VERDICTS, fill_value=0)
    return made.assign(all=made.sum(axis=1)).rename_axis(columns=None)


def table(found: Iterable[Finding], caption: str, columns: Iterable[str] = SLICE) -> HTML:
    """Findings as a table that scrolls in its box; `columns` are some of `COLUMNS`."""
    return HTML(BOXES.table(rows(found), list(columns), caption))


def unsaid(profile: str = "demo", ledger: Ledger | None = None) -> HTML:
    """What the papers did not say, see `judge.unsaid`, as a table that scrolls in its box."""
    caption = f"What the papers left open, profile {profile}; effect: instead − ours"
    return HTML(BOXES.table(judge.unsaid(profile, ledger), UNSAID, caption))


def plain(finding: Finding) -> dict[str, Any]:
    """A finding as what JSON can hold; NaN is null there."""
    claim = finding.claim
    steps = [{"what": m.label, "answer": m.answer or None, "seeds": m.seeds, "lacks": m.lacks or None}
             | {k: getattr(m.interval, k, None) for k in ("value", "low", "high")}
             for m in finding.measured]  # fmt: skip
    fields = ("id", "paper", "where", "says", "printed", "unit", "chapter", "corpus", "protocol")
    about = {name: getattr(claim, name) for name in (*fields, "rule", "kind", "planted")}
    verdict = {"profile": finding.profile, "verdict": finding.verdict, "tier": finding.tier}
    verdict |= {"why": finding.why, "acted": finding.acted}
    return about | verdict | {"measured": steps, "runs": list(finding.runs)}


def report(finding: Finding, ledger: Ledger) -> str:
    """One page of Markdown on one claim: what was said, what was run, what was found."""
    claim, places = finding.claim, []
    for name in finding.runs:  # each place once: versions, platform, device
        path = records.home() / "runs" / name / "environment.json"
        if path.exists() and (facts := records.read_json(path)) not in places:
            places.append(facts)
    for facts in places:
        told = [f"{k} {version}" for k, version in facts.get("packages", {}).items() if version]
        facts["packages"] = ", ".join(told)
    systems = {
        name: ledger.systems[name].model_dump(by_alias=True, exclude_unset=True)
        for name in claim.systems
    }
    return TEMPLATES.get_template("report.md.jinja").render(
        finding=finding, claim=claim, paper=ledger.papers[claim.paper], places=places,
        systems={name: json.dumps(system) for name, system in systems.items()},
        command=_command(finding, ledger),
    )  # fmt: skip


def _command(finding: Finding, ledger: Ledger) -> str:
    """What decides a claim, or decides it again; a number needs its corpora."""
    claim = finding.claim
    if claim.kind != "number":
        return f"serlib claims run {claim.id} --profile {finding.profile} --seeds 0 1 2"
    trained = [ledger.recipe(name, "full").corpus for name in claim.systems]
    scored = [step.role for step in claim.steps if step.role != "test"]
    roots = "".join(f" --root {name}=DIR" for name in dict.fromkeys(trained + scored))
    return f"serlib claims run {claim.id} --profile full{roots}"


def lines(found: Iterable[Finding]) -> str:
    """Findings for a terminal: two or three lines each, then how many have which verdict."""
    found = list(found)
    text = TEMPLATES.get_template("lines.txt.jinja").render(found=found)
    with pd.option_context("display.width", 200, "display.max_columns", None):
        return f"{text}\n{counts(found)}"
