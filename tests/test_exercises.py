"""Exercises are made from solutions: nothing of these is left, and each can be answered."""

from __future__ import annotations

import ast
import functools

import nbformat
import pytest

from serlib import check, cli, exercises, notebooks
from serlib.exercises import ExerciseError

CHAPTERS = notebooks.chapters()
read = functools.cache(notebooks.read)
without_solutions = functools.cache(exercises.without_solutions)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def sections(notebook) -> dict[str, list]:
    """The cells of each exercise by its title; under "" those before the first."""
    found, title, inside = {"": []}, "", False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            title, inside = "", cell.source.startswith("## Exercises")
        if cell.cell_type == "markdown" and (match := exercises.HEADING.match(cell.source)):
            assert inside, f"{match[0]} is outside of the section"
            title = match[0].strip("* .")
            assert title not in found, f"two exercises are called {title}"
            found[title] = []
        if inside:
            found[title].append(cell)
    return found


def value(source: str, names: dict):
    """Execute a cell and return the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), names)  # noqa: S102
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None  # noqa: S307


def code(cells, tag: str) -> str:
    return "\n".join(c.source for c in cells if c.cell_type == "code" and tagged(c, tag))


# -------------------------------------------------------------------------- the book's exercises


@each_chapter
def test_every_grade_is_there(path):
    grades = exercises.grades(read(path))
    assert grades["Check"] >= 2 and grades["Explore"] and grades["Research"]
    assert grades["Find the bug"]


@each_chapter
def test_a_readers_notebook_has_stubs_and_no_solution(path):
    source, made = read(path), without_solutions(path)
    nbformat.validate(made)
    assert len(made.cells) == len(source.cells)
    assert not any(tagged(cell, "solution") for cell in made.cells)
    text = "\n".join(cell.source for cell in made.cells)
    assert "SOLUTION" not in text and "{dropdown} Solution" not in text
    rest = [c for cells in sections(made).values() for c in cells if not tagged(c, "bug")]
    rest = "\n".join(c.source for c in rest if c.cell_type == "markdown" or c.metadata.get("tags"))
    for ours, theirs in zip(source.cells, made.cells, strict=True):
        if ours.source == theirs.source:
            continue
        is_code = ours.cell_type == "code"
        assert exercises.STUB in theirs.source if is_code else exercises.TEXT in theirs.source
        kept = {line.strip() for line in theirs.source.splitlines()}
        for line in {line.strip() for line in ours.source.splitlines()} - kept:
            assert len(line) <= 20 or line not in rest, f"a line of a solution is left: {line}"
    for title, cells in sections(made).items():
        written = "\n".join(cell.source for cell in cells)
        assert not title or exercises.TEXT in written
        if title.startswith(("Check", "Find the bug")):
            assert written.count(exercises.STUB) == 1
            folded = [c for c in cells if c.metadata.get("jupyter", {}).get("source_hidden")]
            assert len(folded) == 1 and tagged(folded[0], "check")


@each_chapter
def test_stubs_are_what_the_checks_read(path):
    """Unanswered, an exercise is called so, and no later cell fails for want of a name."""
    made = without_solutions(path)
    for cell in (c for c in made.cells if c.cell_type == "code" and tagged(c, "exercise")):
        ast.parse(cell.source)
        names: dict = {}
        value(cell.source, names)
        assert not [
            v for k, v in names.items() if k != "__builtins__" and v is not ... and not callable(v)
        ]


BUGS = [
    pytest.param(path, title, id=f"{path.stem[:2]}-{title.replace(' ', '-')}")
    for path in CHAPTERS
    for title in sections(read(path))
    if title.startswith("Find the bug")
]


def buggy_names(cells) -> tuple[dict, str, str]:
    """Names after the section's imports and the bug; those of the buggy and the repaired function."""
    bug = [n.name for n in ast.parse(code(cells, "bug")).body if isinstance(n, ast.FunctionDef)]
    repaired = ast.parse(code(cells, "solution")).body[0].name
    return {}, bug[-1], repaired


@pytest.mark.parametrize(("path", "title"), BUGS)
def test_a_planted_bug_is_found_and_its_repair_passes(path, title):
    """The numbers' cell may need the chapter; all else stands alone."""
    ours = sections(read(path))
    theirs = sections(without_solutions(path))[title]
    cells = ours[title]
    names, bug, repaired = buggy_names(cells)
    exec(next(c.source for c in ours[""] if c.cell_type == "code"), names)  # noqa: S102
    value(code(cells, "bug"), names)
    for cell in cells:  # toy values that the check shares with the numbers
        if cell.cell_type == "code" and not cell.metadata.get("tags"):
            for statement in ast.parse(cell.source).body:
                try:
                    exec(compile(ast.Module([statement], []), "<cell>", "exec"), names)  # noqa: S102
                except NameError:
                    continue
    value(code(theirs, "exercise"), names)
    result = value(code(cells, "check"), names)
    assert result.status == "unanswered"
    names[repaired] = names[bug]
    result = value(code(cells, "check"), names)
    assert result.status == "wrong"
    assert result.message in code(cells, "check"), "the bug itself has no hint of its own"
    solution = ast.parse(code(cells, "solution")).body[0]
    exec(compile(ast.Module([solution], []), "<cell>", "exec"), names)  # noqa: S102
    assert value(code(cells, "check"), names).require()


@each_chapter
def test_published_solutions_passed(path):
    """In the notebook beside the source, as far as it is that of the source."""
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    for cell in (c for c in notebook.cells if tagged(c, "check")):
        shown = [o["data"]["text/plain"] for o in cell.outputs if "data" in o]
        assert shown and shown[-1].startswith(check.HEADS["right"]), cell.source
