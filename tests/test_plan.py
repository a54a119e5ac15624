"""What a dry run finds, and what a plan makes of it: counted and added up by hand."""

from __future__ import annotations

import math

import pytest

from serbook.plan import architectures, asked, hours, work
from serbook.runner import notebooks
from serlib.experiments import dataset
from serlib.recipes import papers
from serlib.recipes.recipe import GUESSERS

SILENT = ("svm", *GUESSERS)  # what listens with no encoder
CHAPTER = """
# %% tags=["parameters"]
profile = "demo"
data_root = ""
seeds = [0, 1]
weights = [0.1, 0.2]

# %% tags=["recipes", "hide-input"]
from serbook.plan import architectures
from serlib.recipes import papers

if profile == "smoke":
    seeds = seeds[:1]
base = papers.cai2021(profile, data_root=data_root)
best = 0.7  # until dev has chosen

# %%
raise RuntimeError("a dry run does not come here")

# %% tags=["recipes"]
asked = [r for w in weights for r in base.vary(alpha=[w], seed=seeds)]

# %%
asked = [base.change(alpha=0.9)]
best = sweep(asked).best

# %% tags=["recipes"]
again = [base.change(name="other name", alpha=w, seed=seeds[0]) for w in weights[:1]]
states = architectures.config(base.model.encoder).num_hidden_layers + 1
layers = [base.change(layers=str(k), alpha=0.5) for k in range(states)]
chosen = [base.change(alpha=best, seed=s) for s in seeds]
asked = [*again, *layers, *chosen, papers.floor("majority", profile, data_root=data_root)]
"""


@pytest.fixture
def toy(write_chapter):
    return write_chapter(CHAPTER)


def test_a_dry_run_counts_each_run_once(toy):
    # 2 weights x 2 seeds; the fifth is equal to one of them but for its name; L + 1 layers; a
    # weight that the results choose, with 2 seeds; a floor.
    for profile, n_layers, seeds in (("demo", 5, 2), ("full", 12, 2), ("smoke", 5, 1)):
        found = asked.of(toy, profile=profile)
        assert len(found.recipes) == 2 * seeds + n_layers + 1 + seeds + 1
        assert len(found.trained()) == len(found.recipes) - 1
    assert found.chapter == "01_toy"


def test_a_dry_run_takes_the_chapters_parameters(toy):
    found = asked.of(toy, profile="full", seeds=[0, 1, 2], weights=[])
    assert len(found.trained()) == 13 + 3
    assert {r.model.encoder for r in found.trained()} == {"facebook/wav2vec2-base"}
    with pytest.raises(notebooks.UsageError, match="sedes"):
        asked.of(toy, sedes=[0])


def test_needs_come_first(write_chapter):
    path = write_chapter("""
    # %% tags=["parameters"]
    profile = "full"

    # %% tags=["recipes"]
    from serlib.recipes import papers
    asked = [papers.zgorzynski2025(profile, phase="emotion")]
    """)
    first, second = asked.of(path).recipes
    assert first.model.tasks == ("emotion", "attributes") and second.start == first


def test_each_chapter_that_sweeps_says_what():
    """At the papers' scale, of corpora that nobody has: nothing is read."""
    for path in notebooks.chapters():
        assert bool(asked.of(path, profile="full").recipes) == ("sweep(" in path.read_text()), path


TRIAL = {"epochs": 3, "workers": 2, "scheduler": "tcp://nobody:1", "seeds": [0]}


@pytest.mark.parametrize("number", ["02", "03", "04", "05", "06", "07"])
def test_a_trial_is_asked_for_by_parameters(number):
    """The plan follows what a reader cuts; what takes no part in training decides no recipe."""
    own, cut = (asked.of(number, profile="full", **x).recipes for x in ({"seeds": [0]}, TRIAL))
    assert len(own) == len(cut) and {"fine-tune", "fusion"} & {r.system for r in cut}
    longest = {r.train.epochs for r in own if r.system in ("fine-tune", "fusion")}
    assert max(longest) > 3
    # fine-tuned: three; with a frozen encoder: the chapter's own; of a fusion: two phases
    allowed = {"02": {3}, "03": {3}, "04": {3}, "05": {3, 6}, "06": {3, 2}, "07": {3, 1, 4, 2}}
    found = {r.train.epochs for r in cut if r.system in ("fine-tune", "fusion")}
    assert found == allowed[number]
    floors = [r for r in cut if r.system not in ("fine-tune", "fusion")]
    assert floors == [r for r in own if r.system not in ("fine-tune", "fusion")]


@pytest.mark.parametrize("number", ["02", "03", "04", "05", "06"])
def test_another_encoder_reaches_every_training_of_a_chapter(number):
    found = asked.of(number, profile="full", seeds=[0], encoder="microsoft/wavlm-base").recipes
    assert {r.model.encoder for r in found if r.system not in SILENT} == {"microsoft/wavlm-base"}
    own = asked.of(number, profile="full", seeds=[0]).recipes
    assert [r for r in found if r.system in SILENT] == [r for r in own if r.system in SILENT]
    if number == "06":  # one training for each state of it, and 13 instead of 25
        states = [sum(r.model.layers.isdigit() for r in x) for x in (found, own)]
        assert states[1] - states[0] == 12


def test_other_experts_reach_every_fusion():
    own = asked.of("07", profile="full", seeds=[0]).recipes
    three = ("microsoft/wavlm-base", "facebook/wav2vec2-base", "FacebookAI/roberta-large")
    found = asked.of("07", profile="full", seeds=[0], experts=list(three)).recipes
    assert len(found) == len(own)
    assert {e for r in found if r.system == "fusion" for e in r.model.experts} == set(three)
    with pytest.raises(ValueError, match="name three, two that hear and one that reads"):
        asked.of("07", experts=["demo-wavlm"])


def test_kinds():
    a, b = papers.cai2021("full"), papers.cai2021("full", alpha=0.3, seed=4, epochs=7)
    assert asked.kind(a) == asked.kind(b)
    assert asked.kind(a.change(freeze="cnn")) != asked.kind(a) != asked.kind(a.change(max_clips=4))
    fusion = papers.zgorzynski2025("full").change(tuned=("microsoft/wavlm-large",))
    assert "microsoft/wavlm-large (tuned)" in asked.kind(fusion)


def test_hours_by_hand():
    recipe = papers.cai2021("full", epochs=10)
    amount = hours.Size(train=3600, dev=900, test=1800, source="")
    # 10 (3600 / 2 + 900 / 9) + (900 + 1800) / 9 = 10 · 1900 + 300 s
    found = hours.hours(recipe, amount, {"train": 2.0, "evaluate": 9.0})
    assert found == pytest.approx((10 * 1900 + 300) / 3600)


def test_published_sizes_by_hand():
    iemocap, msp = papers.cai2021("full"), papers.wang2025("full")
    five, ten = hours.size(iemocap), hours.size(iemocap, 10)
    assert five.train == pytest.approx(0.6 * 5531 * 4.5) and five.dev == five.test
    assert ten.train == pytest.approx(0.8 * 5531 * 4.5) and ten.whole == pytest.approx(five.whole)
    assert hours.size(msp).train == pytest.approx(0.9 * 66992 * 5.75)
    assert hours.size(msp).test == pytest.approx(25258 * 5.75)
    with pytest.raises(hours.PlanError, match="data_root"):
        hours.size(papers.cai2021("full", corpus="mine"))


def made(toy, **options):
    kind = asked.kind(papers.cai2021("full"))
    rate = {"train": 100.0, "evaluate": 400.0, "encode": None, "peak_gb": 9.0}
    return hours.make([toy], rates={kind: rate}, **options)


def test_a_plan_adds_up(toy, monkeypatch):
    monkeypatch.setattr(architectures, "n_parameters", lambda name: 10**9)
    row = made(toy).table.loc["01_toy"]
    n, recipe = 4 + 13 + 2, papers.cai2021("full")
    amount = hours.size(recipe)
    assert row["trainings"] == n
    assert row["audio hours trained on"] == pytest.approx(n * 100 * amount.train / 3600)
    one = hours.hours(recipe, amount, {"train": 100.0, "evaluate": 400.0})
    assert row["GPU hours"] == pytest.approx(n * one)
    assert row["memory GB"] == 9.0
    assert row["disk GB"] == pytest.approx(n * 4.0) and row["GB while running"] == 16.0
    folds = made(toy, folds=10)
    assert folds.table.loc["all", "trainings"] == 10 * n and folds.unmeasured == ()
    assert "GPU hours in all, by measured rates" in folds.verdict() and "5,531" in folds.sources[0]
    assert made(toy, seeds=1).table.loc["all", "trainings"] == 2 + 13 + 1


def test_a_plan_of_fewer_epochs():
    """A trial of a few epochs is planned as it is run."""
    own, cut = (hours.make(["02", "03"], seeds=1, epochs=n).table.loc["all"] for n in (None, 2))
    assert own["trainings"] == cut["trainings"]
    for number in ("02", "03"):
        found = asked.of(number, profile="full", seeds=[0], epochs=2).trained()
        assert {r.train.epochs for r in found} == {2}
    assert cut["audio hours trained on"] < own["audio hours trained on"] / 5


def test_human_speech_costs_no_gpu_hours_in_full():
    """Chapter 09 trains small heads at any profile; the open tier's own plan counts them."""
    assert asked.of("09", profile="full").trained()
    assert hours.make(["09"], card="h200").table.loc["all", "trainings"] == 0


def test_a_card_is_computed_for_encoders_of_waves():
    recipe = papers.cai2021("full")
    assert work.computable(recipe) and work.computable(papers.zgorzynski2025("full"))
    assert not work.computable(recipe.change(encoder="openai/whisper-base"))


def test_all_folds_count_as_so_many_trainings(toy, monkeypatch):
    """Of one corpus that is there: the demo corpus, dealt to its speakers' folds."""
    base = papers.wang2025_baseline("demo").change(protocol="speaker", allow_leaks=True)
    monkeypatch.setattr(asked, "of", lambda *_, **__: asked.Asked("x", (base.change(fold=0),)))
    n = len(dataset.in_folds(base.change(fold=0)))
    assert n > 2 and hours.make([toy], profile="demo").table.loc["all", "trainings"] == n


def test_what_nobody_measured_has_no_hours(toy, monkeypatch):
    monkeypatch.setattr(architectures, "n_parameters", lambda name: 10**9)
    found = hours.make([toy])
    assert math.isnan(found.table.loc["all", "GPU hours"])
    assert found.table.loc["all", "trainings"] == 19
    kind = asked.kind(papers.cai2021("full"))
    assert found.unmeasured == (kind,) and "unmeasured on this machine" in found.verdict()
    assert "python -m tests.bench rehearse" in found.verdict() and kind in found.verdict()


def test_the_work_of_wavlm_large_is_what_was_counted_by_hand():
    """102.2 GFLOP per second of audio with a frozen CNN, forward and backward, for clips of 5.75 s.

    Layers: 2 · 12.6e6 weights · 50 frames, forward and twice that backward, are 3.8 GFLOP of 24.
    """
    config = papers.wang2025_baseline("full").model
    found = work.of_clip(config, 5.75)
    assert found.step / 5.75 / 1e9 == pytest.approx(102.2, rel=0.005)
    layers = 24 * 6 * 12.6e6 * 50
    assert layers < found.step / 5.75 < 1.5 * layers
    assert found.judge < found.step / 2 and found.kept > 0 and found.shared > 24 * 12.6e6 * 2
    # 315.5 million parameters and a small head, all but the CNN trained: 16 bytes each
    trained = architectures.n_parameters("microsoft/wavlm-large") - 4.2e6
    assert work.weights(config) / 16 == pytest.approx(trained, rel=0.02)


def test_hours_are_computed_for_a_card_where_nobody_measured(toy, monkeypatch):
    monkeypatch.setattr(architectures, "n_parameters", lambda name: 10**9)
    clip = work.Work(step=6e12, judge=2e12, kept=1e9, shared=2e9)
    monkeypatch.setattr(work, "of_clip", lambda config, seconds: clip)
    monkeypatch.setattr(work, "weights", lambda config: 3e9)
    recipe = papers.cai2021("full")
    rate = work.rate(recipe, work.CARDS["a100"])
    # 312 TFLOP/s · 0.4 are 124.8e12; a clip of 6 s takes 6e12: 124.8 s of audio a second
    assert rate["train"] == pytest.approx(124.8) and rate["evaluate"] == pytest.approx(3 * 124.8)
    assert rate["peak_gb"] == pytest.approx(3 + 2 + recipe.max_clips)
    found = hours.make([toy], card="a100")
    one = hours.hours(recipe, hours.size(recipe), rate)
    assert found.table.loc["all", "GPU hours"] == pytest.approx(19 * one)
    assert found.unmeasured == () and "A100 80 GB at 40% of its peak" in found.verdict()
    assert "not measured" in found.verdict()


def test_the_hours_of_an_svm_are_told_beside_those_of_gpus(write_chapter):
    """41 s at 8,000 clips of 6 s; 57,787 of MSP-Podcast's train in the challenge's split."""
    path = write_chapter("""
    # %% tags=["parameters"]
    profile = "full"

    # %% tags=["recipes"]
    from serlib.recipes import papers
    asked = [papers.floor("svm", profile), papers.floor("svm", profile, name="again")]
    """)
    found = hours.make([path])
    assert found.table.loc["all", "trainings"] == 0
    by_hand = 41 * (0.9 * 66992 * 5.75 / 6 / 8000) ** 2.1 / 3600
    assert found.cpu == pytest.approx(by_hand) and 0.5 < by_hand < 1
    assert "SVMs on functionals: about 0.7 hours of one CPU core, extrap" in found.verdict()


def test_a_training_of_an_earlier_chapter_is_not_counted_again(toy, write_chapter, monkeypatch):
    monkeypatch.setattr(architectures, "n_parameters", lambda name: 1)
    again = write_chapter(CHAPTER, "02_again")
    table = hours.make([toy, again]).table
    assert table.loc["02_again", "trainings"] == 0 and table.loc["all", "trainings"] == 19


def test_frozen_experts_are_stored_once(write_chapter, monkeypatch):
    monkeypatch.setattr(architectures, "n_parameters", lambda name: 0)
    path = write_chapter("""
    # %% tags=["parameters"]
    profile = "full"

    # %% tags=["recipes"]
    from serlib.recipes import papers
    asked = papers.zgorzynski2025(profile).vary(seed=[0, 1])
    """)
    recipe = papers.zgorzynski2025("full")
    rate = {"train": 1e9, "evaluate": 1e9, "encode": 10.0, "peak_gb": None}
    row = hours.make([path], rates={asked.kind(recipe): rate}).table.loc["01_toy"]
    seconds = hours.size(recipe).whole
    # Whisper large-v3 is 1,280 wide, WavLM large 1,024; 50 frames of 2 bytes a second
    assert row["disk GB"] == pytest.approx(seconds * 50 * 2 * (1280 + 1024) / 1e9)
    assert row["GPU hours"] == pytest.approx(seconds / 10 / 3600, rel=1e-3)
    assert math.isnan(row["memory GB"])
