"""Notebooks for readers are plain Markdown, and the site's are the sources' words again."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from serbook.lesson import exercises, plain
from serbook.runner import notebooks
from serbook.runner.notebooks import BOOK, ChapterError

CHAPTERS = notebooks.chapters()
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
RAW = re.compile(r"\{[\w:-]+\}`|^:[\w-]+:|^ *(`{3,}|:{3,})\{|^:::|^\([\w-]+\)=$", re.MULTILINE)
FIGURE = {"figure": {"caption": "A {term}`UA` of $a_b$.", "name": "fig-a"}}
IMAGE = {"image/png": "AAAA", "text/plain": "<Figure>"}


def said(text: str) -> str:
    """A Markdown cell of a chapter with one figure, in plain Markdown."""
    figure = new_code_cell("plot()", metadata={"mystnb": FIGURE})
    cells = [figure, new_markdown_cell(text)]
    return plain.written(new_notebook(cells=cells)).cells[1].source


def chapter() -> nbformat.NotebookNode:
    """A figure that is not folded, and cells with tags."""
    figure = new_code_cell("plot()", metadata={"mystnb": FIGURE})
    figure.outputs = [new_output("stream", text="a"), new_output("display_data", IMAGE)]
    tagged = [new_code_cell("1", metadata={"tags": [tag]}) for tag in
              ("solution", "check", "hide-input", "hide-output", "hide-cell", "bug")]  # fmt: skip
    return new_notebook(cells=[figure, *tagged])


def captions(notebook) -> list[str]:
    outputs = (o for c in notebook.cells for o in c.get("outputs", []))
    return [o.data["text/markdown"] for o in outputs if o.get("metadata") == plain.CAPTION]


# ------------------------------------------------------------------------------- what is written

CAI = '"Speech Emotion Recognition with Multi-Task Learning"'
WANG = '"Enhancing Speech Emotion Recognition with Multi-Task Learning and Dynamic Feature Fusion"'


@pytest.mark.parametrize(
    ("myst", "wanted"),
    [
        ("a {term}`UA` b", "a [UA](glossary.md) b"),
        ("{term}`paired\nintervals <paired interval>`", "[paired\nintervals](glossary.md)"),
        ("wav2vec {cite}`cai2021`.", f"wav2vec ([Cai et al., 2021](references.bib {CAI}))."),
        ("Cai et al. {cite}`cai2021`", f"Cai et al. ([2021](references.bib {CAI}))"),
        (
            "{cite}`cai2021,wang2025`",
            f"([Cai et al., 2021](references.bib {CAI}); "
            f"[Wang et al., 2025](https://arxiv.org/abs/2508.17878 {WANG}))",
        ),
        ("{numref}`fig-a`, left", "Fig. 1, left"),
        ("{doc}`notation`", "[notation](notation.md)"),
        ("{doc}`letters <notation>`", "[letters](notation.md)"),
        ("[03 {term}`CTC`](03_ctc_mtl)", "[03 CTC](03_ctc_mtl.ipynb)"),
        ("[a](corpora), [b](house.md), [c](#d)", "[a](corpora.md), [b](house.md), [c](#d)"),
        ("![a: b](_static/human.png)", "![a: b](_static/human.png)"),
        ("[a](https://doi.org/1)", "[a](https://doi.org/1)"),
        ("(label)=\n## A", "## A"),
        (
            "```{admonition} Predict first\n:class: tip\n:name: a\n- {term}`UA`\n\nb\n```\nc",
            "> **Predict first**\n>\n> - [UA](glossary.md)\n>\n> b\n\nc",
        ),
        (
            "a\n\n````{dropdown} Solution\n{term}`UA`\n\n```\n{term}`UA`\n```\n````\n\nb",
            "a\n\n<details>\n<summary>Solution</summary>\n\n[UA](glossary.md)\n\n```\n{term}`UA`\n"
            "```\n\n</details>\n\nb",
        ),
        (
            "::::{dropdown} A\n:::{admonition} B\nc\n:::\n::::",
            "<details>\n<summary>A</summary>\n\n> **B**\n>\n> c\n\n</details>",
        ),
    ],
)  # fmt: skip
def test_each_kind_has_a_plain_form(myst, wanted):
    assert said(myst) == wanted
    assert said(wanted) == wanted


@pytest.mark.parametrize(
    "text",
    ["```python\nx = '{term}`UA`'\n```", "````\n```{dropdown} A\nb\n```\n````", "```\n[a](b)\n```",
     "`` {term}`UA` `` and `[a](b)`", "$a_{b}`c`$ and $$\n[a](b)\n$$", "0.1 [0.0, 0.2] (a)",
     "| a | `b|c` |\n|:--|--:|\n| $x$ | [0, 1] |"],
)  # fmt: skip
def test_code_math_and_intervals_are_not_touched(text):
    assert said(text) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [("{ref}`a`", "{ref}`a`: it has no plain form"), ("{numref}`fig-b`", "{numref}`fig-b`"),
     ("{cite}`nobody`", "references.bib has no entry"), ("```{figure} a.png\n```", "```{figure} a"),
     ("- a\n  ```{dropdown} A\n  b\n  ```", "  ```{dropdown} A"), (":::\na\n:::", ":::"),
     ("```{dropdown} A\nb", "```{dropdown} A: the fence is not closed")],
)  # fmt: skip
def test_what_has_no_plain_form_is_refused_by_name(text, named):
    with pytest.raises(ChapterError, match=re.escape(named)):
        said(text)


def test_pages_may_be_elsewhere():
    cells = [new_markdown_cell("{term}`UA` [a](house.md) ![b](_static/b.png) [c](https://d.org/)")]
    (cell,) = plain.written(new_notebook(cells=cells), "../book/").cells
    assert cell.source == (
        "[UA](../book/glossary.md) [a](../book/house.md) ![b](../book/_static/b.png) "
        "[c](https://d.org/)"
    )


def test_captions_stand_below_figures_and_cells_are_folded():
    given = chapter()
    before = nbformat.writes(given)
    made = plain.written(given)
    nbformat.validate(made)
    assert nbformat.writes(given) == before
    assert [o.output_type for o in made.cells[0].outputs] == ["stream", "display_data",
                                                              "display_data"]  # fmt: skip
    assert made.cells[0].outputs[:2] == given.cells[0].outputs
    assert captions(made) == ["**Fig. 1.** A [UA](glossary.md) of $a_b$."]
    source, outputs = {"source_hidden": True}, {"outputs_hidden": True}
    both = source | outputs
    folds = [cell.metadata.get("jupyter") for cell in made.cells]
    assert folds == [None, both, source, source, outputs, both, None]
    assert plain.written(made) == made


def test_a_figure_that_is_not_shown_has_no_caption():
    given = chapter()
    del given.cells[0].outputs[1]
    assert captions(plain.written(given)) == []


# ------------------------------------------------------------------------------ what is read back


def test_a_notebook_is_read_back_as_it_was_executed(write_chapter):
    source = write_chapter(
        "# %% [markdown]\n# A {term}`UA` in {numref}`fig-a`.\n\n"
        '# %% mystnb={"figure": {"caption": "B.", "name": "fig-a"}} tags=["hide-input"]\nplot()\n'
    )
    executed = notebooks.read(source)
    executed.cells[1].outputs = [new_output("display_data", IMAGE)]
    beside = source.with_suffix(".ipynb")
    nbformat.write(plain.written(executed), beside)
    assert "{term}" not in beside.read_text() and "**Fig. 1.** B." in beside.read_text()
    assert plain.read(beside) == executed and notebooks.compare(source, plain.read(beside)) == []

    alone = beside.with_name("elsewhere.ipynb")
    nbformat.write(executed, alone)
    assert plain.read(alone) == executed
    beside.write_text(beside.read_text().replace("[UA](glossary.md)", "[UB](glossary.md)"))
    (line,) = notebooks.compare(source, plain.read(beside))
    assert line.startswith("cell 1: source differs") and "UB" in line
    source.write_text(source.read_text().replace('"fig-a"', '"fig-b"').replace("`fig-a", "`fig-b"))
    assert any("metadata differs" in line for line in notebooks.compare(source, plain.read(beside)))


# ----------------------------------------------------------------------------- the book's notebooks


@each_chapter
def test_a_shipped_notebook_is_plain(path):
    made = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    texts = [cell.source for cell in made.cells if cell.cell_type == "markdown"] + captions(made)
    assert not [text for text in texts if RAW.search(text)]
    assert plain.written(made) == made
    links = [link for text in texts for link in re.findall(r"\]\(([\w./-]+?)[ )]", text)]
    assert links and not [link for link in links if not (BOOK / link).exists()]
    for cell in made.cells:
        tags = set(cell.metadata.get("tags", []))
        folded = cell.metadata.get("jupyter", {})
        assert bool(tags & {"solution", "check"}) <= folded.get("source_hidden", False)
        if "figure" in cell.metadata.get("mystnb", {}):
            kinds = ["image/png" in o.get("data", {}) for o in cell.outputs]
            assert len(captions(new_notebook(cells=[cell]))) == any(kinds)


@each_chapter
def test_the_site_has_the_words_of_the_source(path):
    read, source = plain.read(path.with_suffix(".ipynb")), notebooks.read(path)
    assert [c.source for c in read.cells] == [c.source for c in source.cells]
    assert [c.metadata for c in read.cells] == [c.metadata for c in source.cells]
    assert captions(read) == []


def test_notebooks_for_a_class_are_plain_and_lead_to_the_book(tmp_path):
    exercises.make(["04", "05"], tmp_path / "class", solutions=True)
    made = sorted((tmp_path / "class").iterdir())
    assert len(made) == 4
    for path in made:
        cells = nbformat.read(path, as_version=4).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
        assert not [text for text in texts if RAW.search(text)]
        links = [link for text in texts for link in re.findall(r"\]\(([\w./-]+?)[ )]", text)]
        assert links and all((path.parent / link).exists() for link in links)
        folded = [c for c in cells if c.metadata.get("jupyter", {}).get("source_hidden")]
        assert any("check" in c.metadata["tags"] for c in folded)
        assert not [c for c in folded if "exercise" in c.metadata["tags"]]
