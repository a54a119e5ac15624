"""The claims ledger for readers: a page to filter, a chapter's slice, and a report of one claim.

Pages are plain HTML tables, with a few lines of script and no library. Without the script, as on a
page that shows notebooks, the whole table stays readable.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from serbook.claims import judge, runs
from serbook.claims.judge import UNTESTED, VERDICTS, Finding
from serbook.claims.ledger import Ledger

COLUMNS = {  # of `rows`, in the order that a narrow page shows first what counts
    "claim": "claim", "verdict": "verdict", "planted": "planted", "printed": "printed",
    "measured": "measured", "tier": "tier", "where": "where", "why": "why", "runs": "runs",
}  # fmt: skip
SLICE = tuple(name for name in COLUMNS if name != "runs")
WAITING = ("claim", "printed", "where", "why")  # of numbers without a verdict
UNSAID = ("left open", "ours", "instead", "effect", "seeds", "paper", "chapter")
FILTERS = ("paper", "chapter", "kind", "verdict", "tier")
WIDE = ("measured", "where", "why", "effect", "ours", "runs")
# The colors are those of the site's theme, of JupyterLab, or else the browser's own. On a dark page
# the theme gives outputs a light ground, unless they are tables of pandas; these stay dark.
STYLE, SCRIPT = (
    f"\n{Path(__file__).with_name(name).read_text(encoding='utf-8')}"
    for name in ("ledger.css", "ledger.js")
)


def page(found: Iterable[Finding]) -> HTML:
    """All findings as a table that can be filtered by `FILTERS` and by words."""
    found = list(found)
    facts = [
        {"paper": f.claim.paper, "chapter": f.claim.chapter, "kind": f.claim.kind,
         "verdict": f.verdict, "tier": f.tier}
        for f in found
    ]  # fmt: skip
    menus = "".join(_menu(name, sorted({row[name] for row in facts})) for name in FILTERS)
    note = "what the runs of this profile say; a number on human speech is judged in full only"
    profiles = ", ".join(sorted({f.profile for f in found})) or "none"
    caption = f"{len(found)} claims, profile {profiles}: {note}"
    return HTML(
        f"<style>{STYLE}</style>"
        f'<div id="ledger-filters" hidden>{menus}'
        '<label>words <input type="search" name="words"></label>'
        '<output id="ledger-count"></output></div>'
        f'<div id="ledger">{_box(rows(found), COLUMNS, caption, facts)}</div>'
        f"<script>{SCRIPT}</script>"
    )


def chapter(number: str, profile: str = "demo", corpus: str = "", data_root: str = "") -> HTML:
    """A chapter's slice of the ledger, from the runs that are there.

    `pages.chapter("04", profile, corpus, data_root)` is the last word of chapter 04 on its claims.
    Printed numbers that have no verdict are folded away below the other claims.

    Args:
        number: The chapter's, two digits.
        profile: smoke, demo or full.
        corpus: As the chapter was given it.
        data_root: As the chapter was given it.
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
    columns = [name for name in SLICE if name != "planted" or any(f.planted for f in shown)]
    caption = f"Claims of chapter {number}, {profile}{': ' if told else ''}{told}"
    html = table(shown, caption, columns).data
    if waiting:
        title = f"{len(waiting)} printed numbers without a verdict"
        box = _box(rows(waiting), WAITING, f"Chapter {number}, {profile}: {title}")
        html += f"<details><summary>{title} here, and why</summary>{box}</details>"
    return HTML(html)


def rows(found: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, one row per claim.

    Index: its id; columns: `COLUMNS`, among them what is true on the demo corpus (planted).
    """
    told = {
        f.claim.id: {
            "where": f.claim.where, "claim": f.claim.says, "printed": f.claim.as_printed,
            "measured": f.seen, "verdict": f.verdict, "tier": f.tier, "planted": f.planted,
            "why": f.why, "runs": ", ".join(f.runs),
        }
        for f in found
    }  # fmt: skip
    return pd.DataFrame.from_dict(told, orient="index").rename_axis("id")


def counts(found: Iterable[Finding], by: str = "paper") -> pd.DataFrame:
    """How many claims have which verdict, by "paper", "chapter", "kind" or "tier"."""
    pairs = [(f.tier if by == "tier" else getattr(f.claim, by), f.verdict) for f in found]
    table = pd.DataFrame(pairs, columns=[by, "verdict"])
    made = pd.crosstab(table[by], table["verdict"]).reindex(columns=VERDICTS, fill_value=0)
    return made.assign(all=made.sum(axis=1)).rename_axis(columns=None)


def table(found: Iterable[Finding], caption: str, columns: Iterable[str] = SLICE) -> HTML:
    """Findings as a table that scrolls in its box; `columns` are some of `COLUMNS`."""
    return HTML(f"<style>{STYLE}</style>{_box(rows(found), columns, caption)}")


def unsaid(profile: str = "demo", ledger: Ledger | None = None) -> HTML:
    """What the papers did not say, see `judge.unsaid`, as a table that scrolls in its box."""
    caption = f"What the papers left open, profile {profile}; effect: instead − ours"
    choices = judge.unsaid(profile, ledger)
    return HTML(f"<style>{STYLE}</style>{_box(choices, UNSAID, caption)}")


def _box(
    rows: pd.DataFrame,
    columns: Iterable[str],
    caption: str,
    facts: Iterable[Mapping[str, str]] | None = None,
) -> str:
    """A table in a box that scrolls, by keyboard, too.

    Args:
        rows: By id, which stands in small print in the first column.
        columns: Which to show; the first heads its row.
        caption: What the table is; also the name of the box.
        facts: Data of each row, for the filters.
    """
    columns = list(columns)
    wide = {name: ' class="wide"' if name in WIDE else "" for name in columns}
    head = "".join(f'<th scope="col"{wide[c]}>{COLUMNS.get(c, c)}</th>' for c in columns)
    body = "".join(
        _row(given, id, [str(row[name]) for name in columns])
        for given, (id, row) in zip(facts or [{}] * len(rows), rows.iterrows(), strict=True)
    )
    return (
        f'<div class="ledger-box" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="ledger"><caption><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _menu(name: str, values: list[str]) -> str:
    options = "".join(f"<option>{escape(v)}</option>" for v in values)
    first = '<option value="">all</option>'
    return f'<label>{name} <select name="{name}">{first}{options}</select></label>'


def _row(facts: Mapping[str, str], id: str, said: list[str]) -> str:
    data = "".join(f' data-{name}="{escape(value)}"' for name, value in facts.items())
    first, *others = map(escape, said)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr{data}><th scope="row">{first} <code>{escape(id)}</code></th>{cells}</tr>'


def plain(finding: Finding) -> dict[str, Any]:
    """A finding as what JSON can hold; NaN is null there."""
    claim = finding.claim
    steps = [
        {"what": m.label, "answer": m.answer or None, "seeds": m.seeds, "lacks": m.lacks or None}
        | {k: getattr(m.interval, k, None) for k in ("value", "low", "high")}
        for m in finding.measured
    ]
    fields = ("id", "paper", "where", "says", "printed", "unit", "chapter", "corpus", "protocol")
    about = {name: getattr(claim, name) for name in (*fields, "rule", "kind", "planted")}
    verdict = {"profile": finding.profile, "verdict": finding.verdict, "tier": finding.tier}
    return about | verdict | {"why": finding.why, "measured": steps, "runs": list(finding.runs)}


def report(finding: Finding, ledger: Ledger) -> str:
    """One page of Markdown on one claim: what was said, what was run, what was found."""
    claim = finding.claim
    paper = ledger.papers[claim.paper]
    lines = [
        f"# {claim.id}", "",
        f"**Verdict: {finding.verdict}** ({finding.tier}){': ' * bool(finding.why)}{finding.why}",
        "",
        f"- Paper: {paper['title']}, {claim.where}; at hand: {paper['read']}",
        f"- Statement: {claim.says}",
        f"- Printed: {claim.as_printed or 'no number'}",
        f"- Corpus and protocol: {claim.corpus}; {claim.protocol}",
        f"- Rule, fixed before the runs: {f'`{claim.rule}`' if claim.steps else 'no run decides'}",
    ]  # fmt: skip
    if claim.derive:
        lines.append(f"- Arithmetic: `{claim.derive}`")
    if finding.planted:
        lines.append(
            f"- Measured at profile {finding.profile}, on the demo corpus and its own split"
        )
        lines.append(f"- Planted in the demo corpus: {claim.planted} (synthetic speech)")
    lines.append(f"- Chapter: {claim.chapter}")
    if finding.measured:
        lines += ["", "Measured, with 95 % intervals over talkers and seeds:", ""]
        # A list, since not every viewer of notebooks knows tables.
        lines += [f"- {m.label}: {m.lacks or m.seen}" for m in finding.measured]
        if any(m.seeds == 1 for m in finding.measured):
            lines += ["", "With one seed the interval knows talkers, and nothing of training luck."]
    names = dict.fromkeys(name for step in claim.steps for name in step.systems)
    if names:
        lines += ["", "Systems:", ""]
        lines += [f"- `{name}`: {json.dumps(ledger.systems[name].as_written)}" for name in names]
    if finding.runs:
        lines += ["", "Runs:", "", *(f"- `{name}`" for name in finding.runs)]
    for place in runs.environment(finding.runs):
        packages = ", ".join(f"{k} {v}" for k, v in place.get("packages", {}).items() if v)
        lines += ["", f"Made on {place.get('device')}, Python {place.get('python')}: {packages}."]
    if names:
        lines += ["", f"To run it: `{_command(finding, ledger)}`"]
    return "\n".join(lines) + "\n"


def _command(finding: Finding, ledger: Ledger) -> str:
    """What decides a claim, or decides it again; a number needs its corpora."""
    claim = finding.claim
    if claim.kind != "number":
        return f"serlib claims run {claim.id} --profile {finding.profile} --seeds 0 1 2"
    trained = [ledger.recipe(n, "full").corpus for step in claim.steps for n in step.systems]
    scored = [step.role for step in claim.steps if step.role != "test"]
    roots = "".join(f" --root {name}=DIR" for name in dict.fromkeys(trained + scored))
    return f"serlib claims run {claim.id} --profile full{roots}"


def lines(found: Iterable[Finding]) -> str:
    """Findings for a terminal: two or three lines each, then how many have which verdict."""
    found, parts = list(found), []
    for f in found:
        said = f"printed {f.claim.as_printed}" if f.claim.printed else ""
        seen = f.seen
        facts = "; ".join(filter(None, (said, f"measured {seen}" if seen else "", f.why)))
        planted = f"; planted: {f.planted}" if f.planted else ""
        parts.append(f"{f.claim.id}: {f.verdict} ({f.tier}{planted})\n    {f.claim.says}")
        parts += [f"    {facts}"] if facts else []
        parts += [f"    runs: {', '.join(f.runs)}"] if f.runs else []
    with pd.option_context("display.width", 200, "display.max_columns", None):
        return "\n".join([*parts, "", str(counts(found))])
