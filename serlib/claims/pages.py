"""The claims ledger for readers: a page to filter, and a report of one claim.

The page is one HTML table with a few lines of script and no library. Without the script, as on a
page that shows notebooks, the whole table stays readable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd
from IPython.display import HTML

from serlib import claims
from serlib.claims import Finding, Ledger, runs

COLUMNS = {
    "id": "claim", "where": "where", "claim": "statement", "printed": "printed",
    "measured": "measured", "verdict": "verdict", "tier": "tier", "planted": "planted",
    "why": "why", "runs": "runs",
}  # fmt: skip
FILTERS = ("paper", "chapter", "kind", "verdict", "tier")
STYLE = """
#ledger-box {max-height: 36em; overflow: auto}
#ledger {border-collapse: collapse; font-size: 0.85em}
#ledger caption {text-align: left}
#ledger th, #ledger td {text-align: left; vertical-align: top; padding: 0.2em 0.6em}
#ledger th[scope=row] {font-weight: normal; font-family: monospace}
#ledger thead th {position: sticky; top: 0; background: Canvas; color: CanvasText}
#ledger-filters label {display: inline-block; margin: 0 0.8em 0.4em 0}
"""
SCRIPT = """
(function () {
  const box = document.getElementById("ledger-filters");
  const rows = [...document.querySelectorAll("#ledger tbody tr")];
  const fields = [...box.querySelectorAll("select, input")];
  function show() {
    const word = box.querySelector("input").value.toLowerCase();
    let n = 0;
    for (const row of rows) {
      const chosen = f => f.tagName === "INPUT" || !f.value || row.dataset[f.name] === f.value;
      const fits = fields.every(chosen) && row.textContent.toLowerCase().includes(word);
      row.hidden = !fits;
      n += fits;
    }
    document.getElementById("ledger-count").textContent = n + " of " + rows.length + " claims";
  }
  fields.forEach(f => f.addEventListener("input", show));
  box.hidden = false;
  show();
})();
"""


def page(found: Iterable[Finding]) -> HTML:
    """All findings as a table that can be filtered by `FILTERS` and by words."""
    found = list(found)
    table = claims.table(found).reset_index()
    facts = [
        {"paper": f.claim.paper, "chapter": f.claim.chapter, "kind": f.claim.kind,
         "verdict": f.verdict, "tier": f.tier}
        for f in found
    ]  # fmt: skip
    menus = "".join(_menu(name, sorted({row[name] for row in facts})) for name in FILTERS)
    head = "".join(f'<th scope="col">{title}</th>' for title in COLUMNS.values())
    body = "".join(
        _row(row, said) for row, said in zip(facts, table.to_dict("records"), strict=True)
    )
    note = "what the runs of this profile say; a number on human speech is judged in full only"
    profiles = ", ".join(sorted({f.profile for f in found})) or "none"
    return HTML(
        f"<style>{STYLE}</style>"
        f'<div id="ledger-filters" hidden>{menus}'
        '<label>words <input type="search" name="words"></label>'
        '<output id="ledger-count"></output></div>'
        '<div id="ledger-box" tabindex="0" role="region" aria-label="claims ledger">'
        f'<table id="ledger"><caption>{len(found)} claims, profile {profiles}: {note}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<script>{SCRIPT}</script>"
    )


def _menu(name: str, values: list[str]) -> str:
    options = "".join(f"<option>{escape(v)}</option>" for v in values)
    first = '<option value="">all</option>'
    return f'<label>{name} <select name="{name}">{first}{options}</select></label>'


def _row(facts: dict[str, str], said: dict[str, str]) -> str:
    data = "".join(f' data-{name}="{escape(value)}"' for name, value in facts.items())
    first, *others = (escape(str(said[name])) for name in COLUMNS)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr{data}><th scope="row">{first}</th>{cells}</tr>'


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
        f"**Verdict: {finding.verdict}** ({finding.tier}). {finding.why}".strip(), "",
        f"- Paper: {paper['title']}, {claim.where}; at hand: {paper['read']}",
        f"- Statement: {claim.says}",
        f"- Printed: {claims.printed(claim) or 'no number'}",
        f"- Corpus and protocol: {claim.corpus}; {claim.protocol}",
        f"- Rule, fixed before the runs: `{claim.rule}`",
    ]  # fmt: skip
    if claim.derive:
        lines.append(f"- Arithmetic: `{claim.derive}`")
    if claim.planted and finding.profile != "full":
        lines.append(
            f"- Measured at profile {finding.profile}, on the demo corpus and its own split"
        )
        lines.append(f"- Planted in the demo corpus: {claim.planted} (synthetic speech)")
    lines.append(f"- Chapter: {claim.chapter}")
    if finding.measured:
        lines += ["", "| compared | measured, 95 % interval | seeds |", "|:--|:--|--:|"]
        for m in finding.measured:
            what = m.lacks or f"{m.interval} {m.answer}".strip()
            lines.append(f"| {m.label} | {what} | {m.seeds} |")
    names = dict.fromkeys(name for step in claim.steps for name in step.systems)
    if names:
        lines += ["", "Systems:", ""]
        lines += [f"- `{name}`: {json.dumps(ledger.systems[name])}" for name in names]
    if finding.runs:
        lines += ["", "Runs:", "", *(f"- `{name}`" for name in finding.runs)]
    for place in runs.environment(finding.runs):
        packages = ", ".join(f"{k} {v}" for k, v in place.get("packages", {}).items() if v)
        lines += ["", f"Made on {place.get('device')}, Python {place.get('python')}: {packages}."]
    return "\n".join(lines) + "\n"


def lines(found: Iterable[Finding]) -> str:
    """Findings for a terminal: two or three lines each, then how many have which verdict."""
    found, parts = list(found), []
    for f in found:
        said = f"printed {claims.printed(f.claim)}" if f.claim.printed else ""
        seen = claims.measured(f)
        facts = "; ".join(filter(None, (said, f"measured {seen}" if seen else "", f.why)))
        planted = f"; planted: {f.claim.planted}" if f.claim.planted and f.profile != "full" else ""
        parts.append(f"{f.claim.id}: {f.verdict} ({f.tier}{planted})\n    {f.claim.says}")
        parts += [f"    {facts}"] if facts else []
        parts += [f"    runs: {', '.join(f.runs)}"] if f.runs else []
    with pd.option_context("display.width", 200, "display.max_columns", None):
        return "\n".join([*parts, "", str(claims.counts(found))])
