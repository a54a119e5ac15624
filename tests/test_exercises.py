"""Exercises are made from solutions: nothing of these is left, and each can be answered."""

from __future__ import annotations

import ast
import functools

import nbformat
import pytest

from serbook.lesson import check, exercises, plain
from serbook.lesson.exercises import ExerciseError
from serbook.runner import notebooks
from serlib import __main__ as cli

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
            assert sum(tagged(cell, "check") for cell in cells) == 1


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
    """No names yet; what the buggy function is called, and the repaired one."""
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


# ------------------------------------------------------------------------------- a chapter of ours

TOY = '''
# %% [markdown]
# # A toy

# %% tags=["parameters"]
profile = "demo"

# %% [markdown]
# ## Exercises

# %%
from serbook.lesson import check

# %% [markdown]
# **Check 1.** How much is six times seven, and half of it?
#
# ```{dropdown} Solution
# The text of the solution.
# ```
#
# After it.

# %% tags=["solution", "hide-input"]
helper = 6 * 7
answer, half = helper, helper / 2

# %% tags=["check", "hide-input"]
check.number([answer, half], [42, 21.0])

# %% [markdown]
# **Find the bug.** A product?

# %% tags=["bug"]
def product(a, b):
    return a + b

# %% [markdown]
# ````{dropdown} Solution
# ```
# a * b
# ```
# ````

# %% tags=["solution"]
def repaired(a, b):
    """The product."""
    ### BEGIN SOLUTION
    c = a
    return c * b
    ### END SOLUTION

# %% tags=["check"]
check.function(repaired, lambda a, b: a * b, [(2, 3)], {"A sum.": product})

# %% [markdown]
# **Research.** Why?
#
# :::{dropdown} Solution
# Nobody knows.
# :::
#
# ## Recap

# %%
answer = "of the chapter"
print(answer)
'''


@pytest.fixture
def toy(write_chapter):
    return write_chapter(TOY)


def test_what_becomes_of_a_chapter(toy):
    made = exercises.without_solutions(toy)
    texts = [cell.source for cell in made.cells]
    assert "# your code here\nanswer = ...\nhalf = ..." in texts, "helper is not asked for"
    assert (
        'def repaired(a, b):\n    """The product."""\n    # your code here\n'
        '    raise NotImplementedError("your code here")' in texts
    )
    assert (
        texts.count("*Your answer:*") == 1
        and "**Research.** Why?\n\n*Your answer:*\n\n## Recap" in texts
    )
    assert "half of it?\n\n*Your answer:*\n\nAfter it." in "\n".join(texts)
    assert texts[-1] == 'answer = "of the chapter"\nprint(answer)'
    tags = [cell.metadata.get("tags") for cell in made.cells if exercises.STUB in cell.source]
    assert tags == [["exercise"], ["exercise"]]
    assert [c.id for c in made.cells] == [c.id for c in exercises.without_solutions(toy).cells]


def test_the_readers_notebook_runs_before_and_after_it_is_answered(toy):
    names: dict = {}
    shown = [
        value(c.source, names)
        for c in exercises.without_solutions(toy).cells
        if c.cell_type == "code"
    ]
    assert [r.status for r in shown if r is not None and r is not shown[-1]] == ["unanswered"] * 2
    names = {}
    shown = [value(c.source, names) for c in notebooks.read(toy).cells if c.cell_type == "code"]
    assert [r.status for r in shown if r is not None] == ["right", "right"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    ### END SOLUTION\n", "", "BEGIN SOLUTION has no END"),
        ("    ### BEGIN SOLUTION\n", "", "comes before its BEGIN SOLUTION"),
        ("    c = a\n", "    ### BEGIN SOLUTION\n", "comes before its END SOLUTION"),
        ("# ````\n", "# ```\n", "the solution's fence ```` is not closed"),
        ('# %% tags=["solution"]\n', "# %%\n", None),
        ('# %% tags=["check"]\n', "# %%\n", "Find the bug has no cell tagged 'check'"),
        ('# %% tags=["solution", "hide-input"]\n', "# %%\n", "1 has no cell tagged 'solution'"),
        (":::{dropdown} Solution", ":::{note}", "Research has no fence {dropdown} Solution"),
        ('answer = "of the chapter"\n', "", "reads answer, which only the solution in cell"),
        ("print(answer)\n", "def f(): return helper\n", "reads helper, which only"),
        ("helper = 6 * 7\n", "helper = 6 *\n", "does not stand alone"),
    ],
)  # fmt: skip
def test_a_broken_convention_is_refused(write_chapter, old, new, said):
    assert old in TOY
    chapter = write_chapter(TOY.replace(old, new))
    if said is None:  # the marks do without the tag
        assert exercises.without_solutions(chapter)
        return
    with pytest.raises(ExerciseError, match=said.replace("{", r"\{")) as error:
        exercises.without_solutions(chapter)
    assert "01_toy" in str(error.value)


# ----------------------------------------------------------------------------------------- writing


def test_notebooks_are_the_same_each_time_and_unchanged_ones_are_replaced(toy, tmp_path):
    make = functools.partial(exercises.make, [], tmp_path / "class", folder=toy.parent)
    made = make(solutions=True)
    path = tmp_path / "class" / "01_toy.ipynb"
    assert made == {path: {"Check": 1, "Find the bug": 1, "Research": 1}}
    first = path.read_bytes()
    teachers = nbformat.read(path.with_name("01_toy_solutions.ipynb"), as_version=4)
    assert [c.source for c in teachers.cells] == [
        c.source for c in plain.written(notebooks.read(toy)).cells
    ]
    run = nbformat.read(path, as_version=4)  # as if executed: a reader's answers are no outputs
    run.cells[1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    run.cells[1].execution_count = 1
    nbformat.write(run, path)
    toy.write_text(toy.read_text().replace("six times seven", "6 × 7"))
    make()
    assert "6 × 7" in path.read_text() and path.read_bytes() != first
    toy.write_text(toy.read_text().replace("6 × 7", "six times seven"))
    make()
    assert path.read_bytes() == first


def test_what_a_reader_changed_is_never_lost(toy, tmp_path):
    make = functools.partial(exercises.make, ["01"], tmp_path, folder=toy.parent)
    path = tmp_path / "01_toy.ipynb"
    make()
    answered = nbformat.read(path, as_version=4)
    answered.cells[4].source += "\nMy answer."
    nbformat.write(answered, path)
    before = path.read_bytes()
    with pytest.raises(ExerciseError, match="01_toy.ipynb was changed: move it away, or name"):
        make(solutions=True)
    assert path.read_bytes() == before
    assert not (tmp_path / "01_toy_solutions.ipynb").exists(), "all or nothing"


@pytest.mark.parametrize("content", ["", "not a notebook", '{"cells": []}', "own"])
def test_a_file_of_another_origin_is_never_replaced(toy, tmp_path, content):
    path = tmp_path / "01_toy.ipynb"
    own = nbformat.writes(notebooks.read(toy))  # such as the book's own notebook
    path.write_text(own if content == "own" else content)
    with pytest.raises(ExerciseError, match="was not made by this command"):
        exercises.make(["01"], tmp_path, folder=toy.parent)


def test_command(tmp_path, capsys):
    assert cli.main(["exercises", "08", "--out", str(tmp_path / "class")]) == 0
    made = tmp_path / "class" / "08_claims.ipynb"
    assert f"{made}: 2 check, 1 explore, 1 find the bug, 1 research" in capsys.readouterr().out
    assert [p.name for p in made.parent.iterdir()] == ["08_claims.ipynb"]
    made.write_text("mine")
    assert cli.main(["exercises", "08", "--out", str(made.parent)]) == 1
    assert "move it away" in capsys.readouterr().err
    assert cli.main(["exercises", "77", "--out", str(tmp_path)]) == 2
