"""The open tier: its recipes, all folds at once, what is shown where it is not at hand."""

from __future__ import annotations

import base64

import nbformat
import pandas as pd
import pytest

from serbook.claims import judge, ledger
from serbook.claims.runs import Finished
from serbook.lesson import cells
from serbook.plan import asked
from serbook.runner import chapters, notebooks
from serlib import records
from serlib.corpora import cards
from serlib.data import manifest, tables
from serlib.experiments import dataset, experiment
from serlib.experiments.sweep import sweep
from serlib.recipes import papers
from serlib.recipes.recipe import RecipeError


@pytest.fixture
def emodb(tmp_path, monkeypatch):
    """A home in which EmoDB was fetched, as far as its manifest tells: two clips a class each."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    folder = tmp_path / "corpora" / "emodb"
    folder.mkdir(parents=True)
    emotions = list(cards.read("emodb").labels.values())
    rows = [
        dict(key=f"emodb-{who}{i}{n}", dataset="emodb", utt_id=f"{who}{i}{n}", length=1.0,
             wav=f"wav/{who}{i}{n}.wav", emotion=emotion, speaker=str(who), group=str(who),
             gender="female", fold=who % 5 + 1, text="Das will sie.")
        for who in range(10) for i, emotion in enumerate(emotions) for n in range(2)
    ]  # fmt: skip
    tables.write(pd.DataFrame(rows), folder / "emodb.csv")
    return folder


def test_recipes_of_the_open_tier(emodb):
    for make in (papers.wang2025_baseline, papers.wang2025, papers.challenge_baseline):
        recipe = dataset.taught(make("open"))
        assert recipe.corpus == "emodb" and recipe.fold == 0 and "asr" not in recipe.model.tasks
        assert set(recipe.classes) == set(cards.read("emodb").labels.values())
        assert (recipe.model.freeze, recipe.model.context) == ("all", "short")
    assert dataset.locate(papers.floor("svm", "open"))[1] == emodb


@pytest.mark.parametrize("name", papers.ACTED)
def test_acted_corpora_are_taught_by_all_their_classes(name):
    """Whatever a recipe's own classes are; a corpus of other speech keeps these."""
    card = set(cards.read(name).labels.values())
    for make in (papers.cai2021, papers.wang2025_baseline):
        assert card <= set(make("open", name, "/there").classes)
        assert make("open", name, "/there").merge == ()
    assert papers.cai2021("open", "iemocap", "/there").classes == manifest.CLASSES_4
    assert papers.cai2021("open", "iemocap", "/there").merge == papers.IEMOCAP_MERGE


@pytest.mark.parametrize("number", ["02", "04", "05", "06", "09"])
def test_where_all_say_the_same_nobody_is_asked_to_write_it_down(emodb, number):
    """But for chapter 09, where CTC is the control of a reason. All is frozen, so it is quick."""
    found = asked.of(number, profile="open").trained()
    assert found and {r.corpus for r in found} == {"emodb"}
    if number != "09":
        assert not [r.name for r in found if "asr" in r.model.tasks and r.loss.alpha]
        assert {r.model.freeze for r in found} == {"all"}


def test_fold_0_is_every_fold_of_the_protocol(emodb):
    recipe = papers.floor("majority", "open")
    folds = dataset.in_folds(recipe)
    assert [r.fold for r in folds] == [1, 2, 3, 4, 5]
    assert {r.change(fold=0) for r in folds} == {recipe}
    heard = recipe.change(fold=3)
    assert dataset.in_folds(heard) == [heard]
    alone = papers.floor("majority", "smoke").change(fold=0)  # divided once
    assert [r.fold for r in dataset.in_folds(alone)] == [1]
    with pytest.raises(RecipeError, match="give the recipe to sweep"):
        experiment.run(recipe)


def test_a_sweep_of_fold_0_tests_every_utterance_once(monkeypatch):
    recipe = papers.floor("majority", "smoke").change(protocol="speaker", fold=0, allow_leaks=True)
    df, _ = dataset.locate(recipe)
    some = sorted(df["speaker"].unique())[:4]
    kept = df[df["speaker"].isin(some)].groupby("speaker").head(12)
    path = records.home() / "four.csv"
    tables.write(kept, path)
    root = dataset.locate(recipe)[1]
    recipe = recipe.change(corpus=str(path), data_root=str(root), profile="demo")
    runs = sweep([recipe.change(name="m")], progress=False)
    assert len(runs) == 4
    (table,) = runs.predictions("m")
    known = dataset.taught(recipe).classes
    expected = kept[kept["emotion"].isin(known)]["key"]
    assert sorted(table.index) == sorted(expected)
    right = (table["truth"] == table["prediction"]).mean()
    assert runs.interval("m", "wa").value == pytest.approx(right)


def test_the_open_book_leaves_out_what_it_cannot_say(tmp_path, monkeypatch):
    for name in ("01_a", "03_ctc_mtl", "07_fusion", "08_claims", "09_b"):
        (tmp_path / f"{name}.py").write_text('# %% tags=["parameters"]\nprofile = "demo"\n')
    asked = []

    def execute(source, profile, **_):
        asked.append((source.stem, profile))
        return chapters.ChapterRun(source.stem, profile, {}, "", tmp_path, status="ok")

    monkeypatch.setattr(chapters, "execute", execute)
    chapters.book("open", folder=tmp_path, jobs=1)
    assert asked == [("01_a", "open"), ("09_b", "open"), ("08_claims", "open")]
    asked.clear()
    chapters.book("demo", folder=tmp_path, jobs=1)
    assert [name for name, _ in asked] == ["01_a", "03_ctc_mtl", "07_fusion", "09_b", "08_claims"]
    known = {path.stem for path in notebooks.chapters()}
    assert {chapters.LEDGER, *chapters.CLOSED} < known


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("cai2021.text.helps_a0_1", "cannot say: all speakers say the same few sentences"),
        ("cai2021.t3.wu.wa", ""),
    ],
)
def test_the_ledger_says_what_acted_speech_cannot(id, says):
    book = ledger.read()
    assert judge.on_acted(book, book[id], Finished()) == says


def test_every_direction_has_an_answer_or_a_reason():
    book = ledger.read()
    told = {c.id: judge.on_acted(book, c, Finished()) for c in book.claims}
    for claim in book.claims:
        assert bool(told[claim.id]) == (claim.kind == "direction")
        if claim.metric in ("wer", "cer") or "ccc" in claim.metric:
            assert told[claim.id].startswith("cannot say") or claim.kind != "direction"
    assert any(text == "not run" for text in told.values())


def test_what_was_shipped_is_shown_and_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    monkeypatch.setattr(notebooks.find, "__defaults__", (tmp_path,))
    (tmp_path / "09_x.py").write_text("")
    shown = []
    monkeypatch.setattr(cells, "display", lambda x, raw=False: shown.append(x))
    cells.shipped("09", "shown-a")
    assert "No notebook" in shown[0].data
    cell = nbformat.v4.new_code_cell("x", metadata={"tags": ["shown-a"]})
    cell.outputs = [
        nbformat.v4.new_output("stream", text="spoken\n"),
        nbformat.v4.new_output("display_data", {"text/html": "<b>1</b>", "text/plain": "1"}),
    ]
    other = nbformat.v4.new_code_cell("y", metadata={"tags": ["shown-b"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[other, cell]), tmp_path / "09_x.ipynb")
    shown.clear()
    cells.shipped("09", "shown-a")
    assert cells.SHIPPED in shown[0].data and shown[1]["text/html"] == "<b>1</b>"
    assert cells.OWN in shown[2].data and capsys.readouterr().out == "spoken\n\n"


def test_the_first_figure_is_the_chapters():
    """The picture of README and pages is the one that chapter 09 was shipped with."""
    path = notebooks.find("09").with_suffix(".ipynb")
    cell = next(
        c
        for c in nbformat.read(path, as_version=4).cells
        if "shown-layers" in c.metadata.get("tags", [])
    )
    (image,) = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    assert (notebooks.BOOK / "_static" / "human.png").read_bytes() == base64.b64decode(image)


def test_no_human_voice_is_shipped():
    """Players of other chapters have the synthetic voice: none of them hears people as shipped."""
    text = notebooks.find("09").with_suffix(".ipynb").read_text()
    assert "audio/mpeg" not in text and "<audio" not in text
