"""Chapters in plain Markdown, for viewers that know no MyST: those of JupyterLab, GitHub, VS Code.

A chapter's source is MyST, and so is its executed run, from which the site is rendered. Notebooks
for readers, beside the sources or for a class, have the same cells as `written` makes them: links
in the place of roles, quotes and folds in the place of directives, folded cells, and captions below
figures. `read` takes all of that back.
"""

import copy
import functools
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from serbook.runner import notebooks
from serbook.runner.notebooks import BOOK, ChapterError

# What MyST adds to Markdown, and what of Markdown must not be taken for it.
MYST = re.compile(
    r"""
    ^(?P<indent>[ ]*) (?P<fence>`{3,}|:{3,}) (?P<head>[^`\n]*)\n  # a directive, or code
        (?P<body>(?s:.*?)) ^[ ]*(?P=fence)[`:]*[ ]*$ (?P<glued>\n(?=\S))?
    | ^[ ]*(?P<open>(?:`{3,}|:{3,})\{.*)$  # a directive without an end
    | \{(?P<role>[\w:-]+)\}`(?P<said>[^`]+)`
    | (?P<ticks>`+)(?!`) (?s:.+?) (?<!`)(?P=ticks)(?!`)  # code in a line
    | \$\$[^$]+\$\$ | (?<!\\)\$[^$\n]+(?:\n[^$\n]+)*\$  # math
    | \[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)
    | ^\([\w-]+\)=\n  # a label
    """,
    re.MULTILINE | re.VERBOSE,
)
# How JupyterLab and VS Code fold, by the tags that fold on the site or mark parts of exercises.
FOLDED = {
    "source_hidden": {"hide-input", "hide-cell", "solution", "check"},
    "outputs_hidden": {"hide-output", "hide-cell", "solution"},
}
CAPTION = {"serlib": "caption"}  # marks the output that `written` adds
NO_FORM = "it has no plain form: write it otherwise, or give it one in serbook.lesson.plain"


def written(notebook: NotebookNode, pages: str = "") -> NotebookNode:
    """A copy of a chapter's notebook in plain Markdown; of one in plain Markdown, the same again.

    Args:
        notebook: A chapter, executed or not.
        pages: What leads from the notebook to the folder of the book, such as "../book/".

    Raises:
        ChapterError: A role or directive has no plain form, or what it names is not there.
    """
    made = copy.deepcopy(notebook)
    about = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in made.cells]
    named = [figure["name"] for figure in about if "name" in figure]
    plain = _Plain({name: f"Fig. {number}" for number, name in enumerate(named, 1)}, pages)
    for cell, figure in zip(made.cells, about, strict=True):
        if cell.cell_type == "markdown":
            cell.source = plain.text(cell.source)
            continue
        tags = set(cell.metadata.get("tags", []))
        if folded := {key: True for key, those in FOLDED.items() if tags & those}:
            cell.metadata["jupyter"] = folded
        _drop_caption(cell)
        images = [n for n, o in enumerate(cell.outputs, 1) if "image/png" in o.get("data", {})]
        if images and "caption" in figure:
            number = f"**{plain.figures[figure['name']]}.** " if "name" in figure else ""
            said = number + plain.text(figure["caption"])
            data = {"text/markdown": said, "text/plain": said}
            output = nbformat.v4.new_output("display_data", data, metadata=CAPTION)
            cell.outputs.insert(images[-1], output)
    return made


def read(path: Path) -> NotebookNode:
    """A finished notebook as it was executed: beside its source, in the source's own words.

    A cell that is not what `written` makes of the source's stays, so that
    `notebooks.compare(source, read(notebook))` tells how the two differ.
    """
    notebook = nbformat.read(path, as_version=4)
    if not (source := path.with_suffix(".py")).exists():
        return notebook
    own = notebooks.read(source)
    for cell, ours, plain in zip(notebook.cells, own.cells, written(own).cells, strict=False):
        if (cell.source, cell.metadata) == (plain.source, plain.metadata):
            cell.source, cell.metadata = ours.source, ours.metadata
        _drop_caption(cell)
    return notebook


def _drop_caption(cell: NotebookNode) -> None:
    if cell.cell_type == "code":
        cell.outputs = [o for o in cell.outputs if o.get("metadata") != CAPTION]


class _Plain:
    """MyST to plain Markdown; `figures` are the numbers of a chapter's figures by name."""

    def __init__(self, figures: dict[str, str], pages: str) -> None:
        self.figures, self.pages = figures, pages

    def text(self, text: str, linked: bool = True) -> str:
        """A text; what stands inside of a link has no links of its own."""
        return MYST.sub(lambda match: self._replaced(match, linked), text)

    def _replaced(self, match: re.Match, linked: bool) -> str:
        if match["fence"] and (match["head"].startswith("{") or match["fence"][0] == ":"):
            return self._directive(match) + ("\n\n" if match["glued"] else "")
        if match["open"]:
            raise ChapterError(f"{match['open']}: the fence is not closed")
        if match["role"]:
            return self._role(match, linked)
        if match["target"]:
            return self._link(self.text(match["text"], linked=False), match["target"], linked)
        return "" if match[0].startswith("(") else match[0]

    def _directive(self, match: re.Match) -> str:
        head, _, title = match["head"].strip().partition(" ")
        body = self.text(re.sub(r"\A(:[\w-]+:.*\n)+", "", match["body"])).strip("\n")
        title, name = self.text(title, linked=False).strip(), match["indent"] + head
        if name == "{admonition}":
            lines = [f"**{title}**", "", *body.split("\n")]
            return "\n".join(f"> {line}".rstrip() for line in lines)
        if name == "{dropdown}":
            return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"
        raise ChapterError(f"{match['indent']}{match['fence']}{match['head']}: {NO_FORM}")

    def _role(self, match: re.Match, linked: bool) -> str:
        name, said = match["role"], match["said"]
        shown, page = re.fullmatch(r"(?s)(.*?)(?:\s*<(.+)>)?", said).groups()
        if name == "term":
            return self._link(shown, "glossary.md", linked)
        if name == "doc":
            return self._link(shown, page or shown, linked)
        if name == "numref" and said in self.figures:
            return self.figures[said]
        if name == "cite":
            before = match.string[: match.start()].rstrip()
            cited = [citation(key.strip()) for key in said.split(",")]
            texts = [year if before.endswith(who) else f"{who}, {year}" for who, year, _ in cited]
            links = (
                self._link(text, at, linked) for text, (*_, at) in zip(texts, cited, strict=True)
            )
            return f"({'; '.join(links)})"
        raise ChapterError(f"{{{name}}}`{said}`: {NO_FORM}")

    def _link(self, text: str, target: str, linked: bool) -> str:
        if re.fullmatch(r"\w+", target):  # as Sphinx names pages
            target += ".ipynb" if target[:2].isdigit() else ".md"
        if not re.match(r"\w+:|[#/]", target):
            target = self.pages + target
        return f"[{text}]({target})" if linked else text


@functools.cache
def _references():
    from pybtex.database import parse_file

    return parse_file(BOOK / "references.bib").entries


@functools.cache
def citation(key: str) -> tuple[str, str, str]:
    """Authors and year of a reference, and where it is: its DOI, arXiv, or the list of all."""
    from pybtex.richtext import Text

    if not (entry := _references().get(key)):
        raise ChapterError(f"{{cite}}`{key}`: references.bib has no entry of that name")
    names = [str(Text.from_latex(" ".join(p.last_names))) for p in entry.persons["author"]]
    few = len(names) <= 2 and "others" not in names
    who = " and ".join(names) if few else f"{names[0]} et al."
    known = {"doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
    found = (start + entry.fields[field] for field, start in known.items() if field in entry.fields)
    title = str(Text.from_latex(entry.fields["title"])).replace('"', "'")
    year = entry.fields.get("year", "no year")
    return who, year, f'{next(found, "references.bib")} "{title}"'
