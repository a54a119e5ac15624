"""A chapter that shows runs of others is executed again when they have come or gone."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from serbook.runner import chapters, evidence
from serlib import records
from serlib.experiments import experiment
from serlib.recipes import papers

LOOK = """
# %% tags=["parameters"]
profile = "smoke"

# %%
from serbook.claims.runs import Finished
from serlib.experiments import experiment
from serlib.recipes import papers

recipe = papers.floor("prior", profile)
"""
MAKE = """
run = experiment.record(recipe)
with run.lock():
    if not run.done:
        run.finish({})
"""
SHOW = "print(sorted(Finished().runs(recipe)))\n"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A home without any run."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    return tmp_path


def finish(recipe) -> records.Run:
    """A run that says it is finished."""
    run = experiment.record(recipe)
    with run.lock():
        run.finish({})
    return run


def shown(run: chapters.ChapterRun) -> str:
    assert run.ok, run.error
    cells = nbformat.read(run.notebook, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", [])).strip()


# --------------------------------------------------------------------------------------- chapters


def test_a_slice_is_shown_again_when_runs_came(write_chapter, empty, steady):
    """The ledger first, in an empty home; then a chapter that makes runs; then the ledger again."""
    ledger = write_chapter(LOOK + SHOW, "08_ledger")
    maker = write_chapter(LOOK + MAKE + SHOW, "03_maker")
    first = chapters.execute(ledger, "smoke")
    assert not first.cached and shown(first) == "[]"
    assert chapters.execute(ledger, "smoke").cached

    made = chapters.execute(maker, "smoke")
    assert not made.cached and shown(made) == "[(0, 1)]"
    assert chapters.execute(maker, "smoke").cached  # its own run, made before its slice
    assert {p.name for p in made.folder.iterdir()} == {".lock", "03_maker.ipynb", "run.json"}

    assert chapters.lookup(ledger, "smoke") is None
    second = chapters.execute(ledger, "smoke")
    assert not second.cached and shown(second) == "[(0, 1)]" and second.key == first.key
    for source in (ledger, maker):
        assert chapters.execute(source, "smoke").cached
    finish(papers.floor("majority", "smoke"))  # of a system that neither looked for
    assert chapters.lookup(ledger, "smoke") == chapters.execute(ledger, "smoke")
    finish(papers.floor("prior", "smoke").change(seed=1))
    assert chapters.lookup(ledger, "smoke") is chapters.lookup(maker, "smoke") is None


def test_the_book_shows_at_last_what_came_too_late(write_chapter, empty, steady, monkeypatch):
    """One chapter looks before another one makes its run; the last is executed once."""
    body = '# %% tags=["parameters"]\nprofile = "smoke"\n'
    for name in ("00_early", "01_maker", "02_last"):
        folder = write_chapter(body, name).parent
    begun = []

    def work(run, *_):
        begun.append(run.chapter)
        (empty / "noted").unlink(missing_ok=True)
        monkeypatch.setenv(evidence.NOTES, str(empty / "noted"))
        recipe = papers.floor("prior", "smoke")
        if run.chapter == "01_maker":
            finish(recipe)
        evidence.note(evidence.system_key(records.plain(recipe)), evidence.finished())
        read = evidence.noted(empty / "noted")
        return chapters.replace(run, status="ok", read=read)

    monkeypatch.setattr(chapters, "_execute", work)
    seen = []
    runs = chapters.book("smoke", folder=folder, jobs=1, report=seen.append)
    assert begun == ["00_early", "01_maker", "02_last", "00_early"]
    assert [run.chapter for run in runs] == ["00_early", "01_maker", "02_last"]
    assert seen[0] != runs[0] == seen[-1]


# ------------------------------------------------------------------------------------ what is kept


def key(**changes) -> str:
    return evidence.system_key(records.plain(papers.wang2025("smoke").change(**changes)))


def test_what_tells_systems_apart():
    """Not names, seeds, folds and places, at any depth; a manifest by its name."""
    known = key()
    for same in (dict(name="x"), dict(seed=7), dict(fold=2), dict(diagnose=True)):
        assert key(**same) == known
    for other in (dict(epochs=9), dict(freeze="all"), dict(corpus="iemocap", data_root="/a")):
        assert key(**other) != known
    here = key(corpus="iemocap", data_root="/a")
    assert here == key(corpus="/b/iemocap.csv", data_root="/b") != key(corpus="x", data_root="/a")
    one, two = ({"start": {"name": n, "seed": n, "a": [{"seed": n}]}} for n in (1, 2))
    assert evidence.system_key(one) == evidence.system_key(two)
    assert evidence.system_key({"start": {"a": 1}}) != evidence.system_key({"start": {"a": 2}})


def test_only_finished_runs_with_a_recipe_are_found(empty):
    runs = records.home() / "runs"
    assert evidence.finished() == {}
    done = finish(papers.floor("prior", "smoke"))
    experiment.record(papers.floor("uniform", "smoke"))  # begun
    for config in ({"other": 1}, ["x"], {"recipe": None}):
        odd = records.Run.open(runs, config, key=f"odd{len(str(config))}")
        odd.finish({})
    torn = finish(papers.floor("majority", "smoke"))
    (torn.path / "config.json").write_text("{")
    found = evidence.finished()
    named = [run.path.name for entries in found.values() for _, run, _ in entries]
    assert [n for n in named if not n.startswith("odd")] == [done.path.name]
    ((ended, run, asked),) = found[evidence.system_key(done.config["recipe"])]
    assert ended == done.status["ended"] and asked == run.config["recipe"]


def looked(empty: Path, monkeypatch, *recipes) -> list[str]:
    """What is kept of a chapter that looks for some recipes."""
    (empty / "noted").unlink(missing_ok=True)
    monkeypatch.setenv(evidence.NOTES, str(empty / "noted"))
    for recipe in recipes:
        evidence.note(evidence.system_key(records.plain(recipe)), evidence.finished())
    return evidence.noted(empty / "noted")


def test_each_change_of_what_was_read_is_seen(empty, monkeypatch):
    prior, uniform = papers.floor("prior", "smoke"), papers.floor("uniform", "smoke")
    nothing = looked(empty, monkeypatch)
    assert nothing == [] and evidence.unchanged(nothing)
    none = looked(empty, monkeypatch, prior)
    assert evidence.unchanged(none)
    run = finish(prior)
    assert not evidence.unchanged(none) and evidence.unchanged(nothing)
    one = looked(empty, monkeypatch, prior, prior, uniform)
    assert len(one) == 2 and evidence.unchanged(one)

    (run.path / "predictions_emotiw.csv").touch()  # scored on another corpus
    assert not evidence.unchanged(one)
    (run.path / "predictions_emotiw.csv").unlink()
    assert evidence.unchanged(one)
    with run.lock():
        run.finish({})  # made again: it ended at another time
    assert not evidence.unchanged(one)
    one = looked(empty, monkeypatch, prior, uniform)
    status = (run.path / "status.json").read_bytes()
    (run.path / "status.json").unlink()
    assert not evidence.unchanged(one)
    (run.path / "status.json").write_bytes(status)
    assert evidence.unchanged(one)


def test_what_changed_while_a_chapter_looked_is_not_kept(empty, monkeypatch):
    prior = papers.floor("prior", "smoke")
    looked(empty, monkeypatch, prior)
    finish(prior)
    evidence.note(evidence.system_key(records.plain(prior)), evidence.finished())
    seen = evidence.noted(empty / "noted")
    assert len(seen) == 2 and len({line.split()[0] for line in seen}) == 1
    assert not evidence.unchanged(seen)


def test_nothing_is_noted_outside_of_a_chapter(empty, monkeypatch):
    monkeypatch.delenv(evidence.NOTES, raising=False)
    evidence.note("system", evidence.finished())
    assert not list(empty.iterdir()) and evidence.noted(empty / "noted") == []
