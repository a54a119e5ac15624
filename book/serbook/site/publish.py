"""Publish executed chapters: notebooks beside their sources, and the HTML site.

Sphinx never reads the book folder itself (each Python file in it would become a page) and never
executes anything: the pages are the notebooks that the runner produced, copied to a build folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import nbformat

from serbook.runner import chapters, notebooks
from serbook.runner.chapters import ChapterRun
from serbook.runner.notebooks import BOOK, ChapterError, measured
from serlib import records
from serlib.corpora import cards


def pair(run: ChapterRun, folder: Path = BOOK) -> Path:
    """Write a finished run's notebook beside the chapter's source.

    Raises:
        ChapterError: If the run failed, is of an older source, or had parameters injected.
    """
    source = notebooks.find(run.chapter, folder)
    if not run.ok or (differing := notebooks.compare(source, run.notebook)):
        reason = "it failed" if not run.ok else "; ".join(differing[:3])
        raise ChapterError(f"the run of {run.chapter} is not that of its source: {reason}")
    beside = source.with_suffix(".ipynb")
    records.atomic_write(beside, run.notebook.read_bytes())
    return beside


def shipped(folder: Path = BOOK) -> list[ChapterRun]:
    """The notebooks beside the chapters' sources as finished runs, without executing anything.

    Raises:
        ChapterError: Naming chapters that have no notebook yet.
    """
    runs, missing = [], []
    for name, took in measured(folder).items():
        if not took:
            missing.append(name)
            continue
        runs.append(
            ChapterRun(
                name, took["profile"], {}, "", folder, "ok", took["seconds"], took["peak_mb"],
                began=took.get("began", ""), cores=took["cores"], cached=True,
            )
        )  # fmt: skip
    if missing:
        raise ChapterError(f"no notebook yet beside {', '.join(missing)}; run: make notebooks")
    return runs


def heading(notebook) -> str:
    """The text of a notebook's first level-one heading, without a leading chapter number."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^# (.+)$", cell.source, re.M)):
            return re.sub(r"^\d+\W*", "", match[1]).strip()
    raise ChapterError("a chapter needs a level-one heading")


def table(runs: Iterable[ChapterRun]) -> str:
    """A Markdown table of the chapters, with what this build measured."""
    rows = ["| Chapter | Minutes | Peak memory |", "|:--|--:|--:|"]
    runs = list(runs)
    for run in runs:
        title = heading(nbformat.read(run.notebook, as_version=4))
        number = run.chapter.split("_")[0]
        rows.append(
            f"| [{number} · {title}]({run.chapter}.ipynb) "
            f"| {run.seconds / 60:.1f} | {run.peak_mb / 1024:.1f} GB |"
        )
    seconds, at_a_time = chapters.elapsed(runs)
    peaks = sorted(run.peak_mb / 1024 for run in runs)[-at_a_time:]
    many = f", {at_a_time} at a time" if at_a_time > 1 else ""
    most = f"{'up to ' if many else ''}{sum(peaks):.1f} GB"
    return "\n".join([*rows, f"| **All{many}** | **{seconds / 60:.1f}** | **{most}** |", ""])


def repository() -> str:
    """Where the book is published: ``$SERLIB_REPOSITORY``, else the package's own address, or "".

    The package's is `Repository` under `[project.urls]` in pyproject.toml.
    """
    urls = metadata.metadata("serlib").get_all("Project-URL") or []
    known = dict(url.split(", ", 1) for url in urls)
    return os.environ.get("SERLIB_REPOSITORY", known.get("Repository", "")).rstrip("/")


def online(repository: str) -> str:
    """Markdown on how to run a chapter elsewhere, or on how to get buttons for it."""
    if not repository:
        return (
            "This copy of the book does not say where its repository is, so its pages have no "
            "buttons. Whoever publishes it names the address once, and builds again:\n\n"
            "```\nSERLIB_REPOSITORY=https://github.com/OWNER/NAME serlib site\n```\n\n"
            "or for good, as `Repository` under `[project.urls]` in `pyproject.toml`. The buttons "
            "lead to the branch `main`, or to the one in `SERLIB_BRANCH`.\n"
        )
    return (
        "The rocket at the top of a chapter opens it on Binder or Colab. The repository is "
        f"<{repository}>. On Colab put this into a first cell:\n\n"
        f"```\n!git clone --depth 1 {repository} /content/book\n"
        "!pip install -q -c /content/book/constraints.txt -e /content/book\n```\n"
    )


def build(runs: Iterable[ChapterRun], out: Path, folder: Path = BOOK) -> Path:
    """Render executed chapters to HTML, with every warning an error.

    Args:
        runs: Finished runs, in the order of the book.
        out: Build folder; its `source` and `html` are replaced.
        folder: The book: its `*.md`, `*.bib` and `_static` make the rest of the site.

    Returns:
        The path of the first page.

    Raises:
        ChapterError: If a run failed, Sphinx is not installed, or it warns.
    """
    from serbook.site import course  # needs what trains, which a chapter that imports this may not

    runs = list(runs)
    if bad := [run.chapter for run in runs if not run.ok] or ([] if runs else ["no chapter"]):
        raise ChapterError(f"the site needs finished chapters; not so: {', '.join(bad)}")
    source, html = out / "source", out / "html"
    for path in (source, html):
        shutil.rmtree(path, ignore_errors=True)
    source.mkdir(parents=True)
    for path in [Path(__file__).with_name("conf.py"), *folder.glob("*.md"), *folder.glob("*.bib")]:
        shutil.copy(path, source)
    shutil.copytree(folder / "_static", source / "_static")
    cores = notebooks.on_cores(run.cores for run in runs)
    note = (
        f"Measured at profile `{runs[0].profile}`, each chapter on {cores}. "
        "A chapter whose models were trained before reads them, and takes less.\n"
    )
    (source / "_chapters.md").write_text(f"{table(runs)}\n{note}")
    known = (cards.markdown(cards.read(name)) for name in cards.names())
    (source / "_corpora.md").write_text("\n".join(known))
    (source / "_online.md").write_text(online(repository()))
    titles = {run.chapter: heading(nbformat.read(run.notebook, as_version=4)) for run in runs}
    for name, text in course.pages(runs, titles).items():
        (source / name).write_text(text)
    for run in runs:
        shutil.copy(run.notebook, source)
    _sphinx(source, html, out / "doctrees")
    return html / "index.html"


def _sphinx(source: Path, html: Path, doctrees: Path) -> None:
    shutil.rmtree(doctrees, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(doctrees), str(source), str(html)],
        capture_output=True, text=True, env=os.environ | {"SERLIB_REPOSITORY": repository()},
    )  # fmt: skip
    if "No module named sphinx" in done.stderr:
        raise ChapterError("the site needs Sphinx: pip install -c constraints.txt -e '.[docs]'")
    if done.returncode:
        raise ChapterError(f"Sphinx found faults:\n{(done.stdout + done.stderr)[-4000:].strip()}")


def finished(
    profile: str = "demo", folder: Path = BOOK, chosen: Iterable[str] = ()
) -> list[ChapterRun]:
    """The finished runs of chapters as they are now, without executing anything.

    Args:
        profile: "smoke", "demo" or "full".
        folder: The book.
        chosen: Numbers or names of chapters; none means all.

    Raises:
        ChapterError: Naming the chapters that are missing.
    """
    paths = [notebooks.find(c, folder) for c in chosen] or notebooks.chapters(folder)
    runs = {path.stem: chapters.lookup(path, profile) for path in paths}
    if missing := [name for name, run in runs.items() if run is None]:
        raise ChapterError(
            f"not executed at profile {profile} as they are now: {', '.join(missing)}; "
            f"run: serlib book --profile {profile}"
        )
    return list(runs.values())
