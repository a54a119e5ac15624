"""Notebooks for a class: a chapter's solutions are the source, its exercises are made from them.

An exercise of a chapter is a Markdown cell that begins with its grade in bold, such as
`**Check 1.**` or `**Find the bug.**`, and the cells after it up to the next one. It has

- the solution's text, a fence `{dropdown} Solution`: here it becomes a line for the reader's own;
- the solution's code, in a cell tagged `solution`. All of it goes, or what stands between the lines
  `### BEGIN SOLUTION` and `### END SOLUTION` (nbgrader's marks, which may stand in any cell).
  Inside a function the stub raises NotImplementedError; elsewhere each name that a check reads
  becomes `...`, so that the notebook runs from top to bottom before anything is answered;
- a cell tagged `check`, which stays, folded. A Check and a bug always have one;
- for a planted bug, before the solution, a self-contained function in a cell tagged `bug`, and a
  cell with the numbers from which it can be found.
"""

import hashlib
import itertools
import os
import re
import symtable
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode

from serbook.lesson import plain
from serbook.runner import notebooks
from serlib import records

GRADES = ("Check", "Explore", "Research", "Find the bug")
HEADING = re.compile(rf"\*\*({'|'.join(GRADES)})( \d+)?\.\*\* ")
FENCE = re.compile(r"^(`{3,}|:{3,})\{dropdown\} Solution *$", re.MULTILINE)
SOLUTION = re.compile(FENCE.pattern + r"(?s:.*?)^\1[`:]* *$", re.MULTILINE)
STUB = "# your code here"
TEXT = "*Your answer:*"
PARTS = {
    "text": "fence {dropdown} Solution",
    "solution": "cell tagged 'solution'",
    "check": "cell tagged 'check'",
}
MARK = re.compile(r"^.*(BEGIN|END) SOLUTION.*\n?", re.MULTILINE)


class ExerciseError(ValueError):
    """An exercise breaks the convention, or a reader's work would be lost; names the fix."""


def make(chapters: Iterable[str], out: Path, *, solutions: bool = False,
         folder: Path = notebooks.BOOK) -> dict[Path, Counter]:  # fmt: skip
    """Write the working notebooks of chapters, and return how many exercises of each grade they have.

    Args:
        chapters: Numbers, names or paths; none means all.
        out: A folder, made if needed. A notebook in it that nobody has changed is replaced.
        solutions: Also write `NN_name_solutions.ipynb`, the teacher's version.
        folder: The book.

    Raises:
        ExerciseError: Before anything is written, if a file in the way was changed, or a chapter
            breaks the convention.
    """
    sources = [notebooks.find(c, folder) for c in chapters] or notebooks.chapters(folder)
    made, counts = {}, {}
    for source in sources:
        path = Path(out) / f"{source.stem}.ipynb"
        made[path], counts[path] = without_solutions(source), grades(notebooks.read(source))
        if solutions:
            made[path.with_name(f"{source.stem}_solutions.ipynb")] = notebooks.read(source)
    for path in made:
        _refuse_to_lose(path)
    pages = quote(Path(os.path.relpath(folder, out)).as_posix()) + "/"
    for path, notebook in made.items():
        notebook = plain.written(notebook, pages)
        notebook.metadata["serlib"] = {"exercises": _digest(notebook)}
        nbformat.validate(notebook)
        path.parent.mkdir(parents=True, exist_ok=True)
        records.atomic_write(path, nbformat.writes(notebook) + "\n")
    return counts


def grades(notebook: NotebookNode) -> Counter:
    """How many exercises of each grade a chapter has."""
    found = (HEADING.match(c.source) for c in notebook.cells if c.cell_type == "markdown")
    return Counter(match[1] for match in found if match)


def without_solutions(source: Path) -> NotebookNode:
    """A chapter with stubs in the place of solutions; ExerciseError if it breaks the convention."""
    notebook = notebooks.read(source)
    cells, wanted = notebook.cells, _read_by_checks(notebook.cells, source.stem)
    sections, parts = [], set()
    for number, cell in enumerate(cells):
        where = f"{source.stem}, cell {number + 1}"
        before, is_text = cell.source, cell.cell_type == "markdown"
        if is_text and ((match := HEADING.match(before)) or before.startswith("## ")):
            parts = set()
            sections.append((match[0].strip("* .") if match else "", parts))
        cell.source = _without_text(before, where) if is_text else _cut(cell, wanted[number], where)
        if cell.source != before:
            parts.add("text" if is_text else "solution")
            if not is_text:
                cell.metadata["tags"] = ["exercise"]
        if "check" in cell.metadata.get("tags", []):
            parts.add("check")
    for title, parts in sections:
        needed = PARTS if title.startswith(("Check", "Find the bug")) else ["text"] if title else []
        missing = [PARTS[part] for part in needed if part not in parts]
        _refuse_if(missing, f"{source.stem}: {title} has no {' and no '.join(missing)}")
    return notebooks.tidy(notebook)


def _refuse_if(fault: object, why: str) -> None:
    if fault:
        raise ExerciseError(why)


def _without_text(text: str, where: str) -> str:
    """Markdown with a line for the reader's answer in the place of each solution."""
    kept = SOLUTION.sub(TEXT, text)
    left = FENCE.search(kept)
    _refuse_if(left, f"{where}: the solution's fence {left and left[1]} is not closed")
    return kept


def _pieces(cell: NotebookNode, where: str) -> list[tuple[bool, str]]:
    """A code cell in pieces, each with whether it is a solution; the lines with marks are gone."""
    first, *rest = MARK.split(cell.source)
    if not rest:
        return [("solution" in cell.metadata.get("tags", []), cell.source)]
    marks, texts = rest[::2], [first, *rest[1::2]]
    for mark, wanted in zip(marks, itertools.cycle(["BEGIN", "END"])):
        why = f"{where}: a {mark} SOLUTION comes before its {wanted} SOLUTION"
        _refuse_if(mark != wanted, why)
    _refuse_if(len(marks) % 2, f"{where}: BEGIN SOLUTION has no END SOLUTION")
    return [(number % 2 == 1, t.removesuffix("\n")) for number, t in enumerate(texts) if t]


def _indent(code: str) -> str:
    first = re.search(r"^([ \t]*)\S", code, re.MULTILINE)
    return first[1] if first else ""


def _cut(cell: NotebookNode, wanted: set[str], where: str) -> str:
    """A cell's code with stubs for its solutions; `wanted` are the names that checks will read."""
    kept = []
    for is_solution, code in _pieces(cell, where):
        if not is_solution:
            kept.append(code)
        elif indent := _indent(code):
            kept.append(f'{indent}{STUB}\n{indent}raise NotImplementedError("your code here")')
        else:
            answers = wanted & _names(code, where)[0]
            in_order = sorted(answers, key=lambda name: re.search(rf"\b{name}\b", code).start())
            kept += [STUB, *(f"{name} = ..." for name in in_order)]
    return "\n".join(kept)


def _names(code: str, where: str) -> tuple[set[str], set[str]]:
    """Names that code binds at its top level, and those that it reads and does not bind."""
    try:
        top = symtable.symtable(code, where, "exec")
    except SyntaxError as error:
        why = f"this does not stand alone ({error.msg}); a solution is whole lines"
        raise ExerciseError(f"{where}: {why}") from error
    symbols = top.get_symbols()
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    read = {s.get_name() for s in symbols if s.is_referenced()}
    inner = top.get_children()
    for table in inner:  # which grows by what is inside of each
        inner += table.get_children()
        read |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return bound, read - bound


def _read_by_checks(cells: list[NotebookNode], chapter: str) -> list[set[str]]:
    """For each cell, the names that its solutions bind and a later check reads.

    Raises:
        ExerciseError: If any other cell reads such a name: it would fail in the reader's notebook.
    """
    wanted: list[set[str]] = [set() for _ in cells]
    owner: dict[str, int] = {}  # the cell whose solution bound a name last
    for number, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        where = f"{chapter}, cell {number + 1}"
        pieces = _pieces(cell, where)
        solution = "\n".join(code for is_it, code in pieces if is_it and not _indent(code))
        owner |= dict.fromkeys(_names(solution, where)[0], number)
        kept = (f"{_indent(code)}pass" if is_solution else code for is_solution, code in pieces)
        bound, read = _names("\n".join(kept), where)
        for name in sorted(read & set(owner)):
            is_fine = owner[name] == number or "check" in cell.metadata.get("tags", [])
            maker = f"the solution in cell {owner[name] + 1} makes; make it outside of the solution"
            _refuse_if(not is_fine, f"{where}: reads {name}, which only {maker}")
            wanted[owner[name]].add(name)
        for name in bound:
            owner.pop(name, None)
    return wanted


def _digest(notebook: NotebookNode) -> str:
    """Of what a reader may write: kinds and texts of the cells. Outputs do not count."""
    text = repr([(cell.cell_type, cell.source) for cell in notebook.cells])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _refuse_to_lose(path: Path) -> None:
    """Let a file be replaced only if it is as it was made."""
    try:
        there = nbformat.read(path, as_version=4)
        why = "" if there.metadata.serlib.exercises == _digest(there) else "was changed"
    except FileNotFoundError:
        return
    except Exception:  # whatever it is, this command did not make it
        why = "was not made by this command"
    _refuse_if(why, f"{path} {why}: move it away, or name another folder with --out")
