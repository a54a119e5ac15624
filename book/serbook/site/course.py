"""The parts of the course's pages that are made at build time, from runs, cards and ledger.

What a table can be made from is never typed: minutes and memory come from the runs of the build,
licenses from the cards of the corpora, commands from the chapters' own parameters, encoders from
what a chapter asks for in full, and claims from the ledger.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import yaml

from serbook.claims import judge
from serbook.claims.ledger import Ledger, read
from serbook.lesson import exercises
from serbook.plan import asked
from serbook.runner import notebooks
from serbook.runner.chapters import ChapterRun
from serlib.corpora import cards

ROOTS = {"iemocap": "/data/IEMOCAP_full_release", "msp-podcast": "/data/MSP-Podcast"}
# What a class may do, by the beginning of a license's SPDX name.
IN_CLASS = {
    "CC0": "yes",
    "LicenseRef-synthetic": "yes",
    "CC-BY-NC-SA": "yes, without profit, its makers named; what is made of it, under its license",
    "ODbL": "yes, its makers named; a database made of it, under its license",
    "LicenseRef-MELD": "the labels, under GPL-3.0; the clips belong to the owners of a series",
    "LicenseRef-unstated": "as the corpus behind it says",
    "LicenseRef": "no: each reader needs the owner's agreement, alone or as part of an institution",
}


def pages(runs: Iterable[ChapterRun], titles: Mapping[str, str]) -> dict[str, str]:
    """The generated parts by name, such as `_costs.md`, which the book's pages include.

    Args:
        runs: Finished runs, in the order of the book.
        titles: Of the chapters, by name.
    """
    runs, ledger = list(runs), read()
    here = [path for path in notebooks.chapters() if path.stem in titles]
    return {
        "_costs.md": costs(runs, titles),
        "_licenses.md": licenses(map(cards.read, cards.names())),
        "_encoders.md": needs(here, titles),
        "_reviews.md": "\n".join(review(path, titles[path.stem], ledger) for path in here),
        "_errata.md": errata(ledger),
        "_cite.md": citation(),
    }


def cell(text: str) -> str:
    """A text as it stands, inside a table or a line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`$\[\]{}~#])|(?<=-)(?=-)", r"\\\1", text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a heading that ends in ":" is of numbers, to the right."""
    head = list(head)
    lines = [[name.rstrip(":") for name in head], ["--:" if n[-1] == ":" else ":--" for n in head]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *rows]) + "\n"


# --------------------------------------------------------------------------------- for teachers


def costs(runs: Iterable[ChapterRun], titles: Mapping[str, str]) -> str:
    """Minutes and memory of each chapter as this build measured them, and its exercises."""
    rows = []
    for run in runs:
        grades = exercises.grades(nbformat.read(run.notebook, as_version=4))
        link = f"[{run.chapter[:2]} · {titles[run.chapter]}]({run.chapter}.ipynb)"
        numbers = [f"{run.seconds / 60:.1f}", f"{run.peak_mb / 1024:.1f} GB"]
        rows.append([link, *numbers, *(str(grades[g]) for g in exercises.GRADES)])
    return table(["Chapter", "Minutes:", "Memory:", *(f"{g}:" for g in exercises.GRADES)], rows)


def licenses(known: Iterable[cards.Card]) -> str:
    """What each corpus's license lets a class do."""
    rows = []
    for card in known:
        fitting = (use for start, use in IN_CLASS.items() if card.license.startswith(start))
        use = next(fitting, "read the license first")
        get = f"`serlib manifest get {card.name}`" if card.downloads else cell(card.how_to_get)
        rows.append([cell(card.title), cell(card.license.removeprefix("LicenseRef-")), use, get])
    return table(["Corpus", "License", "In class", "How to get it"], rows)


# -------------------------------------------------------------------------------- for reviewers


@functools.cache
def trained(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Corpora and encoders of what a chapter trains in full, by a dry run."""
    recipes = asked.of(path, profile="full").trained()
    models = [recipe.model for recipe in recipes]
    encoders = {name for m in models for name in getattr(m, "experts", None) or (m.encoder,)}
    return frozenset(recipe.corpus for recipe in recipes), frozenset(encoders)


def needs(paths: Iterable[Path], titles: Mapping[str, str]) -> str:
    """Which encoders each chapter loads in full."""
    rows = []
    for path in paths:
        corpora, encoders = trained(path)
        own = ", ".join(f"`{name}`" for name in sorted(corpora)) or "none is trained on"
        names = ", ".join(f"`{name}`" for name in sorted(encoders)) or "none"
        rows.append([f"[{path.stem[:2]} · {titles[path.stem]}]({path.stem}.ipynb)", own, names])
    return table(["Chapter", "Corpus of its papers", "Encoders"], rows)


def commands(path: Path) -> dict[str, list[str]]:
    """How to run a chapter in full: by corpus, "" where it takes none, papermill's and ours."""
    known, number = notebooks.declared(notebooks.read(path)), path.stem[:2]
    found = {}
    for corpus, root in ROOTS.items() if "corpus" in known else [("", "")]:
        given = {"profile": "full"} | ({"corpus": corpus, "data_root": root} if corpus else {})
        out = f"{number}-{corpus}.ipynb".replace("-.", ".")
        stock = " ".join(f"-p {name} {value}" for name, value in given.items())
        own = " ".join(f"-p {name}={value}" for name, value in given.items())
        found[corpus] = [
            f"papermill book/{path.stem}.ipynb {out} \\\n  {stock}",
            f"serlib run {number} \\\n  {own}" if corpus else f"serlib run {number} {own}",
        ]
    return found


def review(path: Path, title: str, ledger: Ledger) -> str:
    """What a reviewer needs for one chapter: commands, their cost as a command, and claims."""
    number, corpora = path.stem[:2], trained(path)[0]
    known = notebooks.declared(notebooks.read(path))
    lines = [f"### {number} · {title}", ""]
    for corpus, given in commands(path).items():
        own = " (the corpus of its papers)" if corpus in corpora else ""
        name = cards.read(corpus).title.split(",")[0] if corpus else "From finished runs"
        lines += [f"{name}{own}:", "", "```", *given, "```", ""]
    if "fold" in known:
        lines += ["One fold of the cross-validation; `fold` is another one, from 1 on.", ""]
    if "cross_corpus" in known:
        more = "`-p cross_corpus=NAME -p cross_root=DIR`, to papermill without the `=`"
        lines += [f"To score what was trained on a second corpus as well, add {more}.", ""]
    if corpora:
        lines += [f"What it costs, before it runs: `serlib plan --chapters {number}`", ""]
    return "\n".join([*lines, *_decided(number, ledger)])


def _decided(number: str, ledger: Ledger) -> list[str]:
    """The claims of a chapter that wait for runs, as a table that unfolds."""
    own = [claim for claim in ledger.claims if claim.chapter == number]
    waiting = [claim for claim in own if claim.kind in ("number", "direction") and claim.steps]
    if not waiting:
        return ["No claim waits for its run: arithmetic decides them, or nothing can.", ""]
    rows = []
    for claim in waiting:
        where = " and ".join(dict.fromkeys(step.role for step in claim.steps))
        said = f"{claim.says}{f': {claim.as_printed}' if claim.printed else ''}"
        rows.append([f"{cell(said)} `{claim.id}`", cell(claim.corpus), cell(where)])
    title = f"{len(waiting)} of its {len(own)} claims are decided by runs"
    parts = table(["What is said, and the claim", "Printed for", "Scored on"], rows)
    return [f"````{{dropdown}} {title}", "", parts, "````", ""]


# ------------------------------------------------------------------------------------- errata


def errata(ledger: Ledger) -> str:
    """What the papers print that cannot be, each with the arithmetic that shows it."""
    parts = []
    for claim in ledger.claims:
        found = judge.arithmetic(ledger, claim)
        if found is not None and found.verdict == judge.CONTRADICTED:
            paper = f"{{cite}}`{ledger.papers[claim.paper]['cite']}`"
            said = f"{claim.says}{f': {claim.as_printed}' if claim.printed else ''}"
            parts.append(
                f"- {paper}, {cell(claim.where)} (`{claim.id}`)\\\n  *Printed:* {cell(said)}.\\\n"
                f"  *Comes to:* {cell(found.why)}."
            )
    return "\n".join([*parts, ""])


# ------------------------------------------------------------------------------------- citation


def citation(path: Path = notebooks.BOOK.parent / "CITATION.cff") -> str:
    """The book as the file for machines has it, in words and as BibTeX."""
    book = yaml.safe_load(path.read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(author["name"] for author in book["authors"])
    words = f"{authors} ({book['year']}). *{book['title']}*. Version {book['version']}."
    fields = {"author": f"{{{authors}}}", "title": book["title"], "year": book["year"],
              "note": f"Version {book['version']}"}  # fmt: skip
    lines = [f"  {name:6s} = {{{value}}}" for name, value in fields.items()]
    key = f"serlib{book['year']}"
    return "\n".join([words, "", "```bibtex", f"@book{{{key},", ",\n".join(lines), "}", "```", ""])
