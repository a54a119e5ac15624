"""Publish executed chapters: notebooks beside their sources, and the HTML site.

Sphinx never reads the book folder itself (each Python file in it would become a page) and never
executes anything: the pages are the notebooks that the runner produced, in a build folder, with the
sources' own Markdown where `plain` had changed it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import nbformat

from serbook.lesson import plain
from serbook.runner import chapters, notebooks
from serbook.runner.chapters import ChapterRun
from serbook.runner.notebooks import BOOK, ChapterError
from serlib import records


def pair(run: ChapterRun, folder: Path = BOOK) -> Path:
    """Write a finished run's notebook beside the chapter's source, in plain Markdown.

    It has the chapter's own parameters cell; if others were given, the notebook says so in words.

    Raises:
        ChapterError: If the run failed, is of an older source, or had other parameters injected
            than `notebooks.SHIPPED` has.
    """
    if not run.ok:  # whatever it left, or did not
        raise ChapterError(f"the run of {run.chapter} is not that of its source: it failed")
    source = notebooks.find(run.chapter, folder)
    known = notebooks.declared(notebooks.read(source))
    changed = {k: v for k, v in run.parameters.items() if v != known.get(k)}
    notebook = nbformat.read(run.notebook, as_version=4)
    if changed == notebooks.SHIPPED.get(run.chapter):
        notebook = notebooks.without_injected(notebook)
    if differing := notebooks.compare(source, notebook):
        reason = "; ".join(differing[:3])
        raise ChapterError(f"the run of {run.chapter} is not that of its source: {reason}")
    beside = source.with_suffix(".ipynb")
    records.atomic_write(beside, nbformat.writes(plain.written(notebook)) + "\n")
    return beside


def shipped(folder: Path = BOOK) -> list[ChapterRun]:
    """The notebooks beside the chapters' sources as finished runs, without executing anything.

    Raises:
        ChapterError: Naming chapters that have no notebook yet.
    """
    known = notebooks.measured(folder)
    if missing := [name for name, took in known.items() if not took]:
        raise ChapterError(f"no notebook yet beside {', '.join(missing)}; run: make notebooks")
    about = dict(parameters={}, key="", folder=folder, status="ok", cached=True)
    return [ChapterRun(name, **about | took) for name, took in known.items()]


def finished(
    profile: str = "", folder: Path = BOOK, chosen: Iterable[str] = ()
) -> list[ChapterRun]:
    """The finished runs of chapters as they are now: all, or those chosen by number or name.

    Without a profile each as it is shipped: at the profile that its parameters cell has, and with
    the parameters of `notebooks.SHIPPED`.

    Raises:
        ChapterError: Naming the chapters that are missing.
    """
    paths = [notebooks.find(c, folder) for c in chosen] or notebooks.chapters(folder)
    at = {path: profile or notebooks.declared(notebooks.read(path))["profile"] for path in paths}
    shipped = notebooks.SHIPPED if not profile else {}
    runs = {p.stem: chapters.lookup(p, own, shipped.get(p.stem)) for p, own in at.items()}
    for path, own in at.items():
        if runs[path.stem] is None:
            how = "--shipped" if path.stem in shipped else f"-p profile={own}"
            told = f"{path.stem} was not executed at profile {own} as it is now"
            raise ChapterError(f"{told}; run: serlib run {path.stem[:2]} {how}")
    return list(runs.values())


def repository() -> str:
    """Where the book is published: ``$SERLIB_REPOSITORY``, else as pyproject.toml says, or ""."""
    urls = metadata.metadata("serlib").get_all("Project-URL") or []
    known = dict(url.split(", ", 1) for url in urls)
    return os.environ.get("SERLIB_REPOSITORY", known.get("Repository", "")).rstrip("/")


def build(runs: Iterable[ChapterRun], out: Path, folder: Path = BOOK) -> Path:
    """Render executed chapters to HTML, with every warning an error; return the first page's path.

    Args:
        runs: Finished runs, in the order of the book.
        out: Build folder; its `source` and `html` are replaced.
        folder: The book: its `*.md`, `*.bib` and `_static` make the rest of the site.

    Raises:
        ChapterError: If a run failed, Sphinx is not installed, or it warns.
    """
    from serbook.site import course  # takes seconds to import, which `shipped` must not

    runs = list(runs)
    if bad := [run.chapter for run in runs if not run.ok] or ([] if runs else ["no chapter"]):
        raise ChapterError(f"the site needs finished chapters; not so: {', '.join(bad)}")
    source, html, doctrees = (out / name for name in ("source", "html", "doctrees"))
    for path in (source, html, doctrees):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "_static", source / "_static")
    pages = [Path(__file__).with_name("conf.py"), *folder.glob("*.md"), *folder.glob("*.bib")]
    for path in pages:
        shutil.copy(path, source)
    for run in runs:
        nbformat.write(plain.read(run.notebook), source / run.notebook.name)
    for name, text in course.pages(runs, repository()).items():
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(doctrees), str(source), str(html)],
        capture_output=True, text=True, env=os.environ | {"SERLIB_REPOSITORY": repository()},
    )  # fmt: skip
    if "No module named sphinx" in done.stderr:
        raise ChapterError("the site needs Sphinx: pip install -c constraints.txt -e '.[docs]'")
    if done.returncode:
        raise ChapterError(f"Sphinx found faults:\n{(done.stdout + done.stderr)[-4000:].strip()}")
    return html / "index.html"
