"""One byte of every file: which runs and which chapters it renames.

What a chapter reads is found here from its compiled code, by `modulefinder`, and said in words.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from serbook.runner import names, notebooks
from serlib import records

ROOT = notebooks.BOOK.parent
KEEP_OUT = shutil.ignore_patterns("__pycache__", "_build", ".*")
CHAPTERS = {path.stem[:2] for path in notebooks.chapters()}


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path) -> bytes:
    """Change one byte of a file, of Python in a comment; what it was is returned."""
    before = path.read_bytes()
    if path.suffix == ".py":
        path.write_bytes(before + b"#")
    else:
        path.write_bytes(before[:-1] + bytes([(before or b"\0")[-1] ^ 1]))
    return before


# ------------------------------------------------------------------------------------ names of runs


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package's Python files."""
    for path in (ROOT / "serlib").rglob("*.py"):
        there = tmp_path / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    return tmp_path / "serlib"


def test_each_byte_of_what_decides_renames_runs_and_no_other(package):
    before = records.source_digest(package=package)
    assert before == records.source_digest()  # a copy elsewhere is the same source
    renames = {}
    for path in every_file(package):
        content = flip(path)
        renames[path.relative_to(package)] = records.source_digest(package=package) != before
        path.write_bytes(content)
    assert records.source_digest(package=package) == before
    deciding = {
        "losses",
        "metrics",
        "data",
        "models",
        "tasks",
        "training",
        "recipes",
        "experiments",
    }
    assert set(records.DECIDING) == deciding <= {path.parts[0] for path in renames}
    assert {path for path, does in renames.items() if does} == {
        path for path in renames if path.parts[0] in deciding
    }
    assert any(len(path.parts) > 2 for path, does in renames.items() if does)  # in subfolders, too


@pytest.mark.parametrize("folder", records.DECIDING)
def test_a_new_file_renames_runs_wherever_it_lies_below_what_decides(package, folder):
    before = records.source_digest(package=package)
    (package / "corpora" / "new.py").write_text("x = 1\n")
    (package / folder / "notes.txt").write_text("no source")
    assert records.source_digest(package=package) == before
    for place in (package / folder, package / folder / "deeper" / "still"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "new.py").write_text("for i in range(3): pass\n")
        one = records.source_digest(package=package)
        (place / "new.py").write_text("for i in range(4): pass\n")
        assert len({before, one, records.source_digest(package=package)}) == 3
        (place / "new.py").unlink()
    (package / folder / "empty.py").touch()
    assert records.source_digest(package=package) != before


def test_a_file_that_moves_between_deciding_folders_renames_nothing(package):
    before = records.source_digest(package=package)
    moved = package / "losses" / "old" / "moved.py"
    moved.parent.mkdir()
    max((package / "training").glob("*.py"), key=lambda p: p.stat().st_size).rename(moved)
    assert records.source_digest(package=package) == before
    moved.rename(package / "metrics" / "ctc2.py")
    assert records.source_digest(package=package) == before
    (package / "metrics" / "ctc2.py").rename(package / "corpora" / "loop.py")  # decides no more
    assert records.source_digest(package=package) != before


# -------------------------------------------------------------------------------- names of chapters


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of both packages, the book and its data, which `names` reads instead."""
    for name in ("serlib", "book", "data_manifests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=KEEP_OUT)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.write_bytes(b"a few bytes are enough")
    roots = {name: tmp_path / path.relative_to(ROOT) for name, path in names.ROOTS.items()}
    data = {module: (tmp_path / folder.relative_to(ROOT), *patterns)
            for module, (folder, *patterns) in names.DATA.items()}  # fmt: skip
    monkeypatch.setattr(names, "ROOTS", roots)
    monkeypatch.setattr(names, "DATA", data)
    monkeypatch.setattr(names, "BOOK", tmp_path / "book")
    return tmp_path


def all_keys(copy: Path) -> dict[str, str]:
    """The names of all chapters by number."""
    paths = notebooks.chapters(copy / "book")
    return {path.stem[:2]: names.key(path, {"profile": "demo"}) for path in paths}


def renamed(copy: Path, before: dict[str, str]) -> set[str]:
    return {number for number, key in all_keys(copy).items() if key != before[number]}


def reached(source: Path, copy: Path) -> Iterator[str]:
    """Paths of the modules that a chapter's compiled code imports, and theirs."""
    finder = ModuleFinder(path=[str(copy), str(copy / "book")])
    finder.run_script(str(source))
    for module in finder.modules.values():
        if module.__file__ and module.__name__ != "__main__":
            yield Path(module.__file__).relative_to(copy).as_posix()


@functools.cache
def compiled(path: Path) -> frozenset[str]:
    return frozenset(reached(path, ROOT))


def who(module: str) -> set[str]:
    """The chapters whose code imports a module."""
    return {source.stem[:2] for source in notebooks.chapters() if module in compiled(source)}


def readers(path: str) -> set[str]:
    """The chapters that read a file of the checkout."""
    place, name = Path(path).parent.as_posix(), Path(path).name
    if path in {source.relative_to(ROOT).as_posix() for source in notebooks.chapters()}:
        return {name[:2]}
    if path == "book/claims.yaml":
        return who("book/serbook/claims/ledger.py")
    if path == "serlib/corpora/demo/words.yaml":
        return who("serlib/corpora/demo/plan.py")
    if place == "book/serbook/claims" and not name.endswith(".py"):  # templates
        return who("book/serbook/claims/pages.py")
    if place == "data_manifests" and (name.endswith(".yaml") or name == "published_counts.csv"):
        return who("serlib/corpora/cards.py")
    if path == "data_manifests/demo.csv":
        return who("serlib/corpora/demo/corpus.py")
    if place.startswith("serlib/corpora/demo/encoders"):
        return who("serlib/models/encoders/checkpoints.py")
    if path == "book/serbook/plan/machines.jsonl":
        return who("book/serbook/plan/machine.py")
    if path.endswith(".py") and path.split("/")[1] in records.DECIDING:
        return who(path) | who("serlib/experiments/experiment.py")
    return who(path)


def test_each_byte_renames_the_chapters_that_read_it(copy):
    before = all_keys(copy)
    assert (
        before == all_keys(copy)
        and set(before) == CHAPTERS
        and len(set(before.values())) == len(CHAPTERS)
    )
    said, unread = {}, []
    for path in every_file(copy):
        name = path.relative_to(copy).as_posix()
        if wanted := readers(name):
            content = flip(path)
            said[name] = renamed(copy, before)
            assert said[name] == wanted, name
            path.write_bytes(content)
        else:
            unread.append(path)
    assert all_keys(copy) == before
    for path in unread:  # all at once: if any of them had a part in a name, some name would change
        flip(path)
    assert all_keys(copy) == before

    # The same in words, so that a mistake in `readers` above is seen as well.
    untouched = {path.relative_to(copy).as_posix() for path in unread}
    for folder in ("book/serbook/site/", "book/serbook/cli/", "book/serbook/archive/",
                   "book/_static/", "data_manifests/making/"):  # fmt: skip
        below = {n for n in said.keys() | untouched if n.startswith(folder)}
        assert below and below <= untouched, folder
    pages = {n for n in said.keys() | untouched if n.endswith((".md", ".ipynb", ".bib"))}
    assert {n for n in pages if not n.startswith("serlib/")} <= untouched
    # Chapter 06 asks `architectures` how many layers an encoder has; no other reads the plan.
    plans = {n: who for n, who in said.items() if n.startswith("book/serbook/plan/")}
    assert set(plans) == {f"book/serbook/plan/{n}.py" for n in ("__init__", "architectures")}
    assert all(who == {"06"} for who in plans.values())
    for name in ("serlib/__main__.py", "book/serbook/runner/chapters.py",
                 "book/serbook/runner/kernels.py"):  # fmt: skip
        assert name in untouched
    decides = {n for n in said if n.endswith(".py") and n.split("/")[1] in records.DECIDING}
    folders = [ROOT / "serlib" / folder for folder in records.DECIDING]
    assert len(decides) == sum(len([*folder.rglob("*.py")]) for folder in folders)
    # Chapter 01 asks for no run: what it does not import itself is nothing to it.
    assert all(said[name] >= CHAPTERS - {"01"} for name in decides)
    assert "01" in said["serlib/experiments/floors.py"] & said["serlib/losses/classification.py"]
    assert (
        "01" not in said["serlib/experiments/sweep.py"] | said["serlib/experiments/experiment.py"]
    )
    weights = {n for n in said if n.startswith("serlib/corpora/demo/encoders/demo-")}
    assert len(weights) >= 4 * 4 and all(said[name] == CHAPTERS for name in weights)
    for name in ("serlib/records/__init__.py", "serlib/__init__.py", "data_manifests/demo.csv",
                 "book/serbook/lesson/check.py", "book/serbook/figures/plots.py"):  # fmt: skip
        assert said[name] == CHAPTERS, name
    slices = {"02", "03", "04", "05", "06", "07", "08"}
    assert said["book/claims.yaml"] == slices
    assert said["book/serbook/claims/pages.py"] == slices
    assert said["data_manifests/published_counts.csv"] == {"01"}
    cards = {n: who for n, who in said.items() if n.startswith("data_manifests/") and "yaml" in n}
    assert len(cards) == len([*(ROOT / "data_manifests").glob("*.yaml")]) > 10
    assert all(chapters == {"01"} for chapters in cards.values())
    own = {n: who for n, who in said.items() if n.startswith("book/0")}
    assert own == {name: {name[5:7]} for name in own} and len(own) == len(CHAPTERS)


def test_what_appears_or_goes_renames_too(copy):
    before = all_keys(copy)
    (copy / "book" / "serbook" / "site" / "new.py").write_text("import serlib\n")
    (copy / "serlib" / "corpora" / "new.py").touch()
    assert all_keys(copy) == before
    (copy / "data_manifests" / "new.yaml").touch()
    assert renamed(copy, before) == {"01"}
    (copy / "data_manifests" / "new.yaml").unlink()
    (copy / "serlib" / "losses" / "new.py").touch()  # in the name of every run
    assert renamed(copy, before) == CHAPTERS - {"01"}
    (copy / "serlib" / "losses" / "new.py").unlink()
    with open(copy / "serlib" / "records" / "__init__.py", "a") as file:  # reached only through it
        file.write("def f():\n    from serbook.site import pdf\n")
    one = all_keys(copy)
    flip(copy / "book" / "serbook" / "site" / "pdf.py")
    assert renamed(copy, one) == CHAPTERS


@pytest.mark.parametrize(
    "line",
    ["import serbook.site.pdf", "from serbook.site import pdf", "from serbook.site.pdf import x",
     "def f():\n    import serbook.site.pdf as p", "if 0:\n    from serbook.site import (\n  pdf)",
     "%matplotlib inline\nfrom serbook.site import pdf", "x = ("],
)  # fmt: skip
def test_every_form_of_import_is_followed(copy, line, write_chapter):
    source = write_chapter(line)
    assert {"serbook.site", "serbook.site.pdf", "serbook", "serlib.records"} <= set(
        names.reads(source)
    )
    before = names.key(source, {})
    flip(copy / "book" / "serbook" / "site" / "pdf.py")
    assert names.key(source, {}) != before


def test_a_reader_s_own_manifests_are_in_the_name(tmp_path, write_chapter):
    source = write_chapter("x = 1")
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        root.mkdir()
        (root / "mine.csv").write_text("a")
    (tmp_path / "table.jsonl").write_text("a")
    given = {"profile": "full", "seeds": [0], "rate": 0.5, "data_root": str(roots[0]),
             "cross_root": str(roots[1]), "corpus": str(tmp_path / "table.jsonl"),
             "cross_corpus": "iemocap", "name": "no.csv", "other_root": ""}  # fmt: skip
    before = names.key(source, given)
    for path in (roots[0] / "mine.csv", roots[1] / "mine.csv", tmp_path / "table.jsonl"):
        content = flip(path)
        assert names.key(source, given) != before, path
        path.write_bytes(content)
    (roots[0] / "clip.wav").touch()
    assert names.key(source, given) == before != names.key(source, given | {"seeds": [1]})


def test_the_table_of_data_names_what_is_there():
    """Else a module that is renamed would take its files out of all names in silence."""
    for module, (folder, *patterns) in names.DATA.items():
        assert names._file(module), module
        assert all(any(folder.glob(pattern)) for pattern in patterns), module
