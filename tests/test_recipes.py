"""Recipes: what they say, how they change, and what they refuse."""

from dataclasses import asdict, replace

import pytest

from serlib import recipes


def test_the_papers_values():
    cai = recipes.cai2021("full", data_root="/data")
    assert (cai.model.encoder, cai.model.pooling, cai.model.head) == (
        "facebook/wav2vec2-base", "mean", "linear",
    )  # fmt: skip
    assert (cai.train.epochs, cai.train.lr_encoder, cai.train.warmup) == (100, 1e-5, 0.1)
    assert cai.max_clips * cai.train.accumulate == 8 and cai.protocol == "usual"
    wang = recipes.wang2025_baseline("full", data_root="/data")
    assert wang.model.encoder == "microsoft/wavlm-large" and wang.model.pooling == "attentive"
    assert (wang.max_clips, wang.train.epochs, wang.train.lr_encoder) == (16, 60, 1e-5)
    base = recipes.challenge_baseline("full", data_root="/data")
    assert base.max_clips * base.train.accumulate == 32 and base.train.epochs == 20
    assert (base.max_seconds, base.loss.weights, base.model.dropout, base.model.hidden) == (
        12.0, "inverse_frequency", 0.5, 1024,
    )  # fmt: skip


def test_the_papers_multi_task_values():
    at = dict(data_root="/data")
    assert recipes.cai2021("full", **at).train.lr_encoder == 1e-5  # the paper's, for α = 0
    cai = recipes.cai2021("full", alpha=0.1, **at)
    assert (cai.train.lr_encoder, cai.train.lr_head) == (5e-5, 5e-5)
    assert (cai.model.tasks, cai.loss.alpha) == (("emotion", "asr"), 0.1)
    assert (cai.loss.total, cai.loss.ctc) == ("added", "sum")
    chen = recipes.mtlser2025("full", alpha_speaker=0.3, **at)
    assert chen.model.tasks == ("emotion", "asr", "speaker")
    assert chen.loss.task_weights(chen.model.tasks) == {"emotion": 1, "asr": 0.1, "speaker": 0.3}
    assert (chen.train.warmup, chen.train.lr_encoder, chen.train.epochs) == (0, 5e-5, 100)
    assert chen.max_clips * chen.train.accumulate == 8
    wang, base = recipes.wang2025("full", **at), recipes.wang2025_baseline("full", **at)
    weights = wang.loss.task_weights(wang.model.tasks)
    assert weights == pytest.approx({"emotion": 0.7, "gender": 0.1, "speaker": 0.1, "asr": 0.1})
    assert (wang.model.co_attention, wang.model.layers, wang.loss.ctc) == (
        "concat", "weighted", "characters",
    )  # fmt: skip
    assert wang.train == base.train and wang.model.hidden == base.model.hidden


@pytest.mark.parametrize(
    "make",
    [
        recipes.cai2021, recipes.mtlser2025, recipes.wang2025_baseline, recipes.wang2025,
        recipes.challenge_baseline,
    ],
)  # fmt: skip
def test_a_profile_changes_data_encoder_and_scale_only(make):
    full, demo, smoke = (make(p, data_root="/d" * (p == "full")) for p in ("full", "demo", "smoke"))
    parts = "tasks pooling layers head co_attention masked_pooling masked_encoder".split()
    for part in parts:
        assert getattr(full.model, part) == getattr(demo.model, part)
    assert replace(full.loss, ctc=demo.loss.ctc) == demo.loss == smoke.loss
    assert asdict(smoke) == asdict(demo.change(profile="smoke", epochs=1))


def test_changes_reach_inside_and_leave_the_original():
    recipe = recipes.cai2021("demo")
    changed = recipe.change(pooling="sum", lr_head=1e-4, gamma=2.0, seed=3, name="x")
    assert (changed.model.pooling, changed.train.lr_head, changed.loss.gamma) == ("sum", 1e-4, 2.0)
    assert (changed.seed, recipe.model.pooling) == (3, "mean")
    with pytest.raises(recipes.RecipeError, match="a recipe has no 'learning_rate'"):
        recipe.change(learning_rate=1)


def test_vary_is_the_whole_grid():
    grid = recipes.cai2021("demo").vary(pooling=["mean", "sum"], seed=[0, 1, 2])
    assert [(r.model.pooling, r.seed) for r in grid] == [
        (p, s) for p in ("mean", "sum") for s in (0, 1, 2)
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(profile="fast"), "'fast' is not one of smoke, demo, full"),
        (dict(profile="demo", corpus="iemocap"), "needs profile='full'"),
        (dict(system="forest"), "'forest' is not one of"),
        (dict(weights="sqrt"), "weights='sqrt', expected one of"),
        (dict(speaker_labels="faces"), "'faces' is not one of true, prefix, shuffled"),
        (dict(tasks=("emotion", "age")), "tasks="),
        (dict(alpha=-1.0), "weights are not negative"),
    ],
)
def test_what_does_not_exist_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        recipes.cai2021(**wrong)


def test_floors_share_the_data_of_the_recipes():
    floor, wang = recipes.floor("svm"), recipes.wang2025_baseline("demo")
    assert (floor.classes, floor.protocol, floor.corpus) == (wang.classes, wang.protocol, "demo")


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_mtlser_has_its_own_rate_at_every_alpha(alpha):
    recipe = recipes.mtlser2025("full", data_root="/data", alpha=alpha)
    train = recipe.train
    assert (train.lr_encoder, train.lr_head, train.warmup) == (5e-5, 5e-5, 0.0)  # the script's
