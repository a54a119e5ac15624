"""Shared by all tests: results go to a folder of their own, and small chapters to run."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory) -> Path:
    """An empty SERLIB_HOME, so that no test reads or leaves anything in the user's cache."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("SERLIB_HOME")
    os.environ["SERLIB_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SERLIB_HOME"]
    else:
        os.environ["SERLIB_HOME"] = before


@pytest.fixture(scope="session")
def with_corpus():
    """A function that makes a folder fit for an empty SERLIB_HOME, the demo corpus in it."""
    from serlib.corpora.demo import corpus

    def link(folder: Path) -> Path:
        made = corpus.make(progress=False)  # spoken once, in the home of all tests
        (folder / "demo").mkdir(parents=True)
        (folder / "demo" / made.name).symlink_to(made)
        return folder

    return link


@pytest.fixture
def own_home(tmp_path, monkeypatch, with_corpus) -> Path:
    """An empty home for runs and features, with the demo corpus that is already spoken."""
    monkeypatch.setenv("SERLIB_HOME", str(with_corpus(tmp_path)))
    return tmp_path


@pytest.fixture
def small(tmp_path):
    """A ledger of a few claims."""
    import claims_toys

    return claims_toys.ledger(tmp_path)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty home for runs that need no training."""
    import claims_toys

    return claims_toys.home(tmp_path, monkeypatch)


@pytest.fixture
def write_chapter(tmp_path):
    """A function that writes a small chapter from the body of its cells and returns its path."""

    def write(body: str, name: str = "01_toy", folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "toybook"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.py"
        path.write_text(HEADER + "\n" + textwrap.dedent(body).strip() + "\n")
        return path

    return write


@pytest.fixture
def steady(monkeypatch) -> None:
    """Chapters count as unchanged even if somebody edits the package while the tests run."""
    from serbook.runner import names

    monkeypatch.setattr(names, "reads", lambda source, parameters: {})


@pytest.fixture
def on_cpu(monkeypatch) -> None:
    """Train where bits do not depend on the machine."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def look() -> None:
    """The book's look for figures, drawn without a screen; they are closed afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from serbook.figures import plots

    plots.style("demo")
    yield
    plt.close("all")
