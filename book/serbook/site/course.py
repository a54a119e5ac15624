"""The parts of the book's pages that are made at build time, from runs, cards and ledger.

What a table can be made from is never typed: minutes and memory come from the runs of the build,
licenses from the cards of the corpora, commands from the chapters' own parameters, encoders from
what a chapter asks for in full, and claims from the ledger. The words are in `pages`, as templates.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import jinja2
import nbformat
import yaml
from nbformat import NotebookNode

from serbook.claims import judge
from serbook.claims.judge import Finding
from serbook.claims.ledger import Claim, Ledger, read
from serbook.lesson import exercises
from serbook.plan import asked
from serbook.runner import chapters, notebooks
from serbook.runner.chapters import ChapterRun
from serbook.runner.notebooks import ChapterError
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


class Chapter:
    """What pages say of an executed chapter; `claims` are the ledger's."""

    def __init__(self, run: ChapterRun, claims: Iterable[Claim] = ()) -> None:
        """Read its notebook, and its parameters if it is a chapter of this book."""
        notebook = nbformat.read(run.notebook, as_version=4)
        self.run, self.name, self.number = run, run.chapter, run.chapter[:2]
        self.title, self.exercises = heading(notebook), exercises.grades(notebook)
        self.link = f"[{self.number} · {self.title}]({self.name}.ipynb)"
        self.minutes, self.memory = f"{run.seconds / 60:.1f}", f"{run.peak_mb / 1024:.1f} GB"
        self.path = next((p for p in notebooks.chapters() if p.stem == self.name), None)
        self.declared = notebooks.declared(notebooks.read(self.path)) if self.path else {}
        self.claims = [claim for claim in claims if claim.chapter == self.number]
        decided = (c for c in self.claims if c.kind in ("number", "direction"))
        self.waiting = [claim for claim in decided if claim.steps]

    @cached_property
    def _trained(self) -> list:
        """The recipes that it trains in full, by a dry run."""
        return asked.of(self.path, profile="full").trained()

    @property
    def corpora(self) -> list[str]:
        """Names of the corpora that it trains on in full."""
        return sorted({recipe.corpus for recipe in self._trained})

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders that it loads in full."""
        models = [recipe.model for recipe in self._trained]
        return sorted({n for m in models for n in getattr(m, "experts", None) or (m.encoder,)})


def pages(runs: Iterable[ChapterRun], repository: str) -> dict[str, str]:
    """The generated parts by name, such as `_costs.md`, from finished runs in order."""
    runs, ledger = list(runs), read()
    made, known = [Chapter(run, ledger.claims) for run in runs], [*map(cards.read, cards.names())]
    facts = overview(runs) | dict(chapters=made, cards=known, repository=repository, ledger=ledger)
    return {name: render(name, **facts) for name in TEMPLATES.list_templates()}


def render(page: str, **facts) -> str:
    """One of the parts, from the facts that its template names."""
    return TEMPLATES.get_template(page).render(facts)


def heading(notebook: NotebookNode) -> str:
    """The text of a notebook's first level-one heading, without a leading chapter number."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^# (.+)$", cell.source, re.M)):
            return re.sub(r"^\d+\W*", "", match[1]).strip()
    raise ChapterError("a chapter needs a level-one heading")


def cell(text: str) -> str:
    """A text as it stands, inside a table or a line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`$\[\]{}~#])|(?<=-)(?=-)", r"\\\1", text)


def said(claim: Claim) -> str:
    """A claim with the number that is printed, if there is one."""
    return f"{claim.says}{f': {claim.as_printed}' if claim.printed else ''}"


def overview(runs: list[ChapterRun]) -> dict:
    """What the book took: minutes, chapters at a time, and their memory and cores.

    A chapter that was shipped from another tier was not executed with the others.
    """
    runs = [run for run in runs if run.profile == runs[0].profile]
    seconds, at_a_time = chapters.elapsed(runs)
    gigabytes = sum(sorted(run.peak_mb / 1024 for run in runs)[-at_a_time:])
    cores = notebooks.on_cores(run.cores for run in runs)
    return dict(minutes=seconds / 60, at_a_time=at_a_time, gigabytes=gigabytes, cores=cores)


def in_class(license: str) -> str:
    """What a corpus's license lets a class do."""
    fitting = (use for start, use in IN_CLASS.items() if license.startswith(start))
    return next(fitting, "read the license first")


def errata(ledger: Ledger) -> list[Finding]:
    """What the papers print that cannot be, each with the arithmetic that shows it."""
    found = (judge.arithmetic(ledger, claim) for claim in ledger.claims)
    return [f for f in found if f is not None and f.verdict == judge.CONTRADICTED]


def citation(path: Path = notebooks.BOOK.parent / "CITATION.cff") -> dict:
    """The book, as the file for machines has it."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))["preferred-citation"]


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")),
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
TEMPLATES.filters |= {
    "card": cards.markdown, "cell": cell, "code": "`{}`".format, "said": said, "use": in_class,
    "errata": errata,
}  # fmt: skip
TEMPLATES.globals |= dict(citation=citation, grades=exercises.GRADES, roots=ROOTS, card=cards.read)
