"""What a corpus cannot teach is said before the first epoch, and the way out that is told helps."""

from __future__ import annotations

import re
import shlex

import pytest

from serlib import __main__ as cli
from serlib.corpora.demo import corpus
from serlib.data import tables
from serlib.experiments import dataset, experiment
from serlib.experiments.runs import Runs
from serlib.experiments.sweep import sweep
from serlib.metrics import intervals, measures
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe, RecipeError

NOTHING = {"attributes": ["valence", "arousal", "dominance"], "text": ["text"],
           "speakers": ["speaker"], "gender": ["gender"]}  # fmt: skip


@pytest.fixture
def built(own_home):
    """A function that writes a manifest of the demo corpus's audio, changed; gives its place."""
    root = corpus.make(progress=False)

    def write(change=lambda df: df) -> tuple[str, str]:
        few = corpus.load().groupby(["split", "emotion"]).head(8).reset_index(drop=True)
        tables.write(change(few), own_home / "mine.csv")
        return str(own_home / "mine.csv"), str(root)

    return write


def without(*names: str):
    """A change that empties columns."""
    return lambda df: df.assign(**dict.fromkeys(names))


def no_dev(df):
    return df[df["split"] != "dev"]


def two_speakers(df):
    return without("split", "fold")(df[df["speaker"].isin(sorted(set(df["speaker"]))[:2])])


def of_numbers(df):
    """Transcripts of a script that the alphabet lacks."""
    return df.assign(text="двадцать два")


def offered(told: str, recipe: str, place: tuple[str, str]) -> Recipe:
    """The recipe of the command line with all settings that a message offers."""
    words = shlex.split(" ".join(re.findall(r'--set (?:"[^"]*"|[^\s,;]+)', told)))
    assert words, told
    given = ["train", recipe, "--profile", "smoke", "--corpus", place[0], "--data-root", place[1]]
    return cli.asked(cli._parser().parse_args([*given, *words]))[0]


DEAD_ENDS = [
    ("cai2021", {}, no_dev, "no labeled dev utterances"),
    ("cai2021", {}, two_speakers, "needs three speakers, for train, dev and test, and 2 are known"),
    ("cai2021", {"alpha": 0.1}, without(*NOTHING["text"]), "no clip of train has a transcript"),
    ("cai2021", {"alpha": 0.1}, of_numbers, "no clip of train has a transcript with letters"),
    ("cai2021", {"select": "-wer"}, of_numbers, "no clip of dev has a transcript"),
    ("mtlser2025", {}, without("speaker"), "no clip of train has a speaker"),
    ("mtlser2025", {"alpha_speaker": 0.0}, without("speaker"), "no clip of train has a speaker"),
    ("wang2025", {}, without("speaker"), "no clip of train has a speaker"),
    ("wang2025", {}, without("gender"), "no clip of train has a gender"),
    ("zgorzynski2025", {}, without(*NOTHING["attributes"]), "no clip of train has attributes"),
]


@pytest.mark.parametrize(("name", "changes", "change", "words"), DEAD_ENDS)
def test_a_dead_end_is_told_and_the_way_out_helps(built, name, changes, change, words):
    place = built(change)
    recipe = getattr(papers, name)("smoke", *place).change(**changes)
    with pytest.raises(RecipeError, match=words) as caught:
        dataset.load(recipe)
    told = str(caught.value)
    assert "\n" not in told and not (experiment.records.home() / "features").exists()
    helped = offered(told, name, place)
    assert dataset.load(helped).counts.sum() >= 20
    if "tasks" in told:
        (left_out,) = set(recipe.model.tasks) - set(helped.model.tasks)
        assert f"the task {left_out!r} needs" in told


def test_a_second_phase_says_what_the_first_one_lacks(built):
    recipe = papers.zgorzynski2025(
        "smoke", *built(without(*NOTHING["attributes"])), phase="emotion"
    )
    with pytest.raises(
        RecipeError, match="phase 1, which .* builds on: .*or begin without it, --set"
    ):
        experiment.run(recipe, progress=False)
    assert dataset.load(recipe.change(start=None)).counts.sum() >= 20


@pytest.mark.parametrize("read", [False, True])
def test_a_sweep_trains_nothing_if_one_of_its_runs_cannot_be_taught(built, monkeypatch, read):
    """Chapters ask for dozens of runs at a time; the last one must not end them after hours."""
    place, began = built(without("gender")), []
    monkeypatch.setattr(experiment, "run", lambda recipe, **_: began.append(recipe))
    fine, dead = papers.wang2025_baseline("smoke", *place), papers.wang2025("smoke", *place)
    if read:  # what is read by a run is trained before it
        fusion = papers.zgorzynski2025("smoke", *place)
        dead = fusion.change(transcript="recognized", recognizer=dead)
    with pytest.raises(RecipeError, match="no clip of train has a gender"):
        sweep([fine, dead], workers=1)
    assert not began


def test_a_task_that_weighs_nothing_needs_no_target(built):
    assert dataset.load(papers.cai2021("smoke", *built(without("text")))).counts.sum() >= 20


def test_a_class_that_train_lacks_is_told(built, capsys):
    """One fold may lack a class that others teach; with one class there is nothing to learn."""

    def change(df):  # one clip of fear in all
        return df[
            (df["emotion"] != "fear") | (df["key"] == df["key"][df["emotion"] == "fear"].min())
        ]

    place, told = built(change), []
    for fold in range(1, 6):
        recipe = papers.wang2025_baseline("demo", *place)
        recipe = recipe.change(protocol="random", allow_leaks=True, fold=fold)
        lacks = dataset.load(recipe).counts[recipe.classes.index("fear")] == 0
        assert ("has no fear to train on" in capsys.readouterr().out) == lacks
        told += [fold] if lacks else []
        few = recipe.change(classes=("anger", "fear"))
        if lacks:
            with pytest.raises(RecipeError, match="two classes are needed, take --set protocol=t"):
                dataset.load(few)
    assert len(told) == 2  # where the clip is in test, and where in dev


# ------------------------------------------------------------------------------- unknown speakers


@pytest.mark.parametrize("known", [0, 0.5])
def test_a_corpus_without_speakers_is_trained_and_its_intervals_say_so(built, known):
    def change(df):
        return df.assign(speaker=df["speaker"].where(df.index < known * len(df), None))

    place = built(change)
    small = dict(epochs=1, n_layers=1, freeze_layers=0)
    for recipe in (papers.floor("majority", "smoke", *place),
                   papers.cai2021("smoke", *place).change(**small)):  # fmt: skip
        run = experiment.run(recipe, progress=False)
        test, df = run.predictions("test"), tables.read(place[0]).set_index("key")
        named = df["speaker"].reindex(test.index)
        expected = [key if name is None else name for key, name in named.items()]
        assert test["speaker"].tolist() == expected
        found = Runs((recipe,), (run,)).interval(recipe.name, "wa")
        by_hand = intervals.jackknife(measures.wa, test["truth"], test["prediction"], expected,
                                      n_classes=len(recipe.classes))  # fmt: skip
        assert (found.value, found.low, found.high) == (by_hand.value, by_hand.low, by_hand.high)
        unknown = int(named.isna().sum())
        told = f"{unknown} of {len(test)} utterances without a speaker"
        told = "over utterances, speakers are unknown" if unknown == len(test) else told
        trained = "; speakers only: 1 seed" if recipe.trained else ""
        assert found.note == told + trained
        assert experiment.run(recipe, progress=False).summary == run.summary


@pytest.mark.parametrize("protocol", ["dev_as_test", "random"])
def test_the_training_seed_does_not_deal_the_utterances(built, protocol):
    """What seed 0 was tested on, seed 1 is; so a recognizer has heard what a fusion asks it for."""
    recipe = papers.floor("majority", "demo", *built()).change(protocol=protocol, allow_leaks=True)
    tables_of = [dataset.load(recipe.change(seed=seed)).table for seed in (0, 1)]
    assert set(tables_of[0]["role"]) == {"train", "dev", "test"}
    assert tables_of[0]["role"].equals(tables_of[1]["role"])
