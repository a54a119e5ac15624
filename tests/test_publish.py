"""The book's notebooks as they are shipped, its address, its buttons, and what printing needs."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import soundfile

from serbook.lesson import cells
from serbook.runner import chapters, notebooks
from serbook.runner.notebooks import BOOK, ChapterError
from serbook.site import course, pdf, publish
from serlib import __main__ as cli

ADDRESS = "https://github.com/OWNER/NAME"


def written(folder, name: str, **took):
    """A notebook with one heading, measured or not."""
    (folder / f"{name}.py").write_text("# %% [markdown]\n# # 01 A toy\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 01 A toy")])
    notebook.metadata["kernelspec"] = notebooks.KERNELSPEC
    if took:
        notebook.metadata["serlib"] = took
    nbformat.write(notebook, folder / f"{name}.ipynb")


TOOK = dict(profile="demo", seconds=90.0, peak_mb=512.0, cores=2)


def table(runs) -> list[str]:
    """The lines of the table of chapters."""
    made = [course.Chapter(run) for run in runs]
    page = course.render("_chapters.md", chapters=made, **course.overview(runs))
    return page.split("\n\n")[0].splitlines()


def test_shipped_notebooks_count_as_finished_runs(tmp_path):
    written(tmp_path, "01_toy", **TOOK)
    (run,) = publish.shipped(tmp_path)
    assert run.ok and run.notebook == tmp_path / "01_toy.ipynb" and run.profile == "demo"
    assert "| [01 · A toy](01_toy.ipynb) | 1.5 | 0.5 GB |" in table([run])


def test_the_book_takes_less_than_its_chapters_where_they_ran_side_by_side(tmp_path):
    began = "2026-11-22T10:0{}:00.000+00:00"
    written(tmp_path, "01_toy", **TOOK | {"cores": 1, "began": began.format(0)})
    written(tmp_path, "02_toy", **TOOK | {"cores": 1, "began": began.format(1)})
    written(tmp_path, "03_toy", **TOOK | {"peak_mb": 128.0, "began": began.format(3)})
    runs = publish.shipped(tmp_path)
    assert (
        table(runs)[-1] == "| **All, 2 at a time** | **4.0** | **up to 1.0 GB** |"
    )  # 150 s and 90 s
    assert table(runs[1:])[-1] == "| **All** | **3.0** | **0.5 GB** |"
    assert notebooks.on_cores(run.cores for run in runs) == "1 to 2 CPU cores"


def test_the_cost_of_a_chapter_says_on_how_many_cores():
    said = notebooks.cost(**TOOK | {"cores": 1, "began": "2026-11-22T10:00:00.000+00:00"})
    assert "on 1 CPU core: 1.5 minutes, 0.5 GB" in said
    assert "on 2 CPU cores: 1.5 minutes" in notebooks.cost(**TOOK)
    said = [notebooks.on_cores(counts) for counts in ([1, 1], [2, 1], [])]
    assert said == ["1 CPU core", "1 to 2 CPU cores", "? CPU cores"]


def test_readme_has_the_minutes_of_the_notebooks():
    """Typed by hand, so it is compared: each chapter's, and those of the whole book."""
    readme = (BOOK.parent / "README.md").read_text()
    told = readme.split("<!-- chapters -->")[1].split("<!-- /chapters -->")[0].splitlines()[3:]
    runs = publish.shipped()
    assert len(told) == len(runs) + 1
    for line, run in zip(told, runs, strict=False):
        minutes, memory = f"{run.seconds / 60:.1f}", f"{run.peak_mb / 1024:.1f} GB"
        assert run.notebook.name in line and line.endswith(f"| {minutes} | {memory} |"), run.chapter
    seconds, at_a_time = chapters.elapsed([run for run in runs if run.profile == "demo"])
    assert f"**{seconds / 60:.0f}**" in told[-1]
    assert f"{at_a_time} at a time" in told[-1] or at_a_time == 1


def test_chapters_without_a_notebook_are_named(tmp_path):
    written(tmp_path, "01_toy", **TOOK)
    written(tmp_path, "02_new")
    (tmp_path / "03_newer.py").touch()
    with pytest.raises(ChapterError, match="beside 02_new, 03_newer; run: make notebooks"):
        publish.shipped(tmp_path)


def test_a_player_says_what_it_holds_and_what_is_said():
    wave = (0.5 * np.sin(np.arange(8000) / 10)).astype(np.float32)
    text = cells.player(wave, 'he said "<no>"').data
    assert text.count("&quot;&lt;no&gt;&quot;") == 2 and "<no>" not in text  # label and transcript
    kind, content = re.search(r'src="data:([^;]+);base64,([^"]+)"', text).groups()
    assert kind == "audio/mpeg"
    back, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 16_000 and abs(len(back) - 8000) < 2500


def test_the_address_comes_from_one_place(monkeypatch):
    monkeypatch.delenv("SERLIB_REPOSITORY", raising=False)
    own = publish.repository()
    monkeypatch.setenv("SERLIB_REPOSITORY", ADDRESS + "/")
    assert publish.repository() == ADDRESS != own
    assert f"git clone --depth 1 {ADDRESS} " in course.render("_online.md", repository=ADDRESS)
    told = course.render("_online.md", repository="")
    assert "SERLIB_REPOSITORY" in told and "[project.urls]" in told


def toy(book) -> None:
    """A book of one chapter and one page, in a new folder."""
    book.mkdir()
    written(book, "01_toy", **TOOK)
    for name in ("online.md",):
        (book / name).write_text((BOOK / name).read_text())
    toctree = "```{toctree}\n01_toy\nonline\n```\n"
    (book / "index.md").write_text(f"# A\n\n{{cite}}`b`\n\n```{{bibliography}}\n```\n\n{toctree}")
    (book / "references.bib").write_text("@misc{b, author={C, D}, title={E}, year={2020}}\n")
    (book / "_static").mkdir()
    for name in ("book.css", "logo.svg", "favicon.svg"):
        (book / "_static" / name).write_text((BOOK / "_static" / name).read_text())
    (book / "_static" / "mathjax").mkdir()
    (book / "_static" / "mathjax" / "tex-svg-full.js").touch()


def test_what_a_solution_or_its_check_prints_is_folded_with_its_code(tmp_path):
    toy(tmp_path / "book")
    path = tmp_path / "book" / "01_toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for tags in (["hide-input"], ["solution", "hide-input"], ["solution"], ["check", "hide-input"]):
        said = [nbformat.v4.new_output("stream", text=f"said by {' '.join(tags)}\n")]
        cell = nbformat.v4.new_code_cell("1", outputs=said, metadata={"tags": tags})
        notebook.cells.append(cell)
    nbformat.write(notebook, path)
    index = publish.build(publish.shipped(path.parent), tmp_path / "out", path.parent)
    page = index.with_name("01_toy.html").read_text()
    open_ = re.sub(r"<details class=\"admonition hide.*?</details>", "", page, flags=re.DOTALL)
    assert page.count("said by") == 4 and re.findall("said by .*", open_) == ["said by hide-input"]
    assert page.count("Show the solution in code") == 2 and page.count("Show the check") == 1


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_buttons_only_where_an_address_is_known(address, tmp_path, monkeypatch):
    """A chapter's launchers lead to its notebook on a real branch; elsewhere the page says how."""
    monkeypatch.setenv("SERLIB_REPOSITORY", address)
    book = tmp_path / "book"
    toy(book)
    html = publish.build(publish.shipped(book), tmp_path / "out", book).parent
    chapter, page = (html / "01_toy.html").read_text(), (html / "online.html").read_text()
    links = re.findall(r'href="(https://(?:mybinder|colab)[^"]+)"', chapter)
    if address:
        assert links == [
            "https://mybinder.org/v2/gh/OWNER/NAME/main?urlpath=lab/tree/book/01_toy.ipynb",
            "https://colab.research.google.com/github/OWNER/NAME/blob/main/book/01_toy.ipynb",
        ]
        assert f'href="{ADDRESS}"' in page
    else:
        assert not links and "github.com" not in chapter and "SERLIB_REPOSITORY" in page
    bibliography = (html / "index.html").read_text()
    assert "biblioentry" not in bibliography and 'role="list"' not in bibliography
    assert 'class="citation-list"' in bibliography


# -------------------------------------------------------------------------------------- printing


def test_printing_names_the_browser_that_is_missing(tmp_path, monkeypatch):
    page = tmp_path / "index.html"
    with pytest.raises(pdf.PrintError, match="run: serlib site"):
        pdf.write(page, tmp_path / "book.pdf")
    page.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pdf.chromium() is None
    with pytest.raises(pdf.PrintError, match="apt install chromium"):
        pdf.write(page, tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()


def test_printing_names_the_driver_that_is_missing(tmp_path):
    """In a process of its own, where Playwright cannot be imported."""
    (tmp_path / "chromium").touch(mode=0o755)
    (tmp_path / "index.html").touch()
    code = (
        "import os, sys; sys.modules['playwright'] = None; from pathlib import Path\n"
        "from serbook.site import pdf\n"
        "folder = Path(sys.argv[1]); os.environ['PATH'] = sys.argv[1]\n"
        "try: pdf.write(folder / 'index.html', folder / 'book.pdf')\n"
        "except pdf.PrintError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "pip install -c constraints.txt -e '.[browser]'" in run.stdout, run.stderr


def test_the_command_prints_what_it_renders(tmp_path, monkeypatch, capsys):
    asked = []
    page = tmp_path / "shipped" / "html" / "index.html"
    monkeypatch.setattr(publish, "shipped", lambda: ["runs"])
    monkeypatch.setattr(publish, "build", lambda runs, out: asked.append((runs, out)) or page)
    monkeypatch.setattr(pdf, "write", lambda index, out: asked.append((index, out)) or out)
    assert cli.main(["site", "--shipped", "--pdf"]) == 0
    (runs, folder), printed = asked
    assert runs == ["runs"] and folder == BOOK.parent / "_build" / "shipped"
    assert printed == (page, tmp_path / "shipped" / "book.pdf")
    assert str(tmp_path / "shipped" / "book.pdf") in capsys.readouterr().out
    assert cli.main(["site", "--shipped"]) == 0 and len(asked) == 3


def test_links_between_pages_stay_in_the_file_and_no_path_of_this_machine_does():
    from pypdf import PdfWriter
    from pypdf.annotations import Link

    writer = PdfWriter()
    for _ in range(3):
        writer.add_blank_page(100, 100)
    addresses = (
        "file:///home/me/html/02_b.html#x",
        "https://doi.org/1",
        "file:///home/me/html/_static/result.png",
    )
    for url in addresses:
        writer.add_annotation(0, Link(rect=(0, 0, 9, 9), url=url))
    pdf._keep_links_inside(writer.pages[0], {"01_a.html": 0, "02_b.html": 2}, writer)
    kept = [reference.get_object() for reference in writer.pages[0]["/Annots"]]
    assert len(kept) == 2  # a link to a file that is not printed leads nowhere
    assert kept[0]["/Dest"][0] == writer.pages[2].indirect_reference and "/A" not in kept[0]
    assert kept[1]["/A"]["/URI"] == "https://doi.org/1"
