"""Valence, arousal and dominance: from the manifest's columns to targets, losses, scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from model_toys import clips, tiny_folders
from serlib.data.manifest import ATTRIBUTES
from serlib.losses import classification, contrastive, regression
from serlib.losses.classification import IGNORE
from serlib.metrics import intervals, measures
from serlib.models import heads
from serlib.models.recognizer import SER, ModelConfig
from serlib.tasks import attributes
from serlib.tasks.answers import task_scores
from serlib.tasks.loss import LossConfig, task_losses, total_loss
from serlib.tasks.targets import task_targets
from serlib.training import evaluation, loop

pytestmark = pytest.mark.usefixtures("on_cpu")
BOTH = ("emotion", "attributes")
CONFIGS = {
    "alone": dict(tasks=("attributes",), head="linear"),
    "alone, mlp": dict(tasks=("attributes",), head="mlp", hidden=16, pooling="attentive"),
    "beside": dict(tasks=BOTH, head="linear"),
    "co-attention": dict(
        tasks=("emotion", "asr", "attributes"), head="mlp", hidden=16, layers="weighted",
        co_attention="concat",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folders(tmp_path_factory)


def rated(model, numbers, **options):
    """Clip i has valence 1 + i % 4, arousal 6 - i % 4; dominance only if i is even."""
    batch = clips(model, numbers, **options)
    i = batch.index
    columns = (1.0 + i % 4, 6.0 - i % 4, torch.where(i % 2 == 0, 3.0 + i % 4, torch.nan))
    return replace(batch, extra={"attributes": torch.stack(columns, 1).float()})


# ---- targets ------------------------------------------------------------------------------------


def test_targets_are_the_manifests_columns_with_nan_for_the_unknown():
    table = pd.DataFrame({"valence": [1.0, None], "arousal": ["3", 7], "emotion": "anger"})
    found, names = task_targets(table.assign(role="train"), ("emotion", "attributes"))
    assert names == [] and found["attributes"].dtype == np.float32
    np.testing.assert_array_equal(
        found["attributes"], [[1, 3, np.nan], [np.nan, 7, np.nan]]
    )  # a corpus without dominance
    assert ATTRIBUTES == ("valence", "arousal", "dominance")


@pytest.mark.parametrize("value", [0.0, 7.5, -3])
def test_numbers_off_the_scale_are_refused(value):
    with pytest.raises(ValueError, match="off the scale"):
        attributes.targets(pd.DataFrame({"valence": [4.0, value]}))


# ---- outputs ------------------------------------------------------------------------------------


def test_scaled_sigmoid_by_hand():
    x = torch.tensor([-np.log(2), 0.0, np.log(5)])  # σ = 1/3, 1/2, 5/6
    assert heads.scaled_sigmoid(x).tolist() == pytest.approx([3, 4, 6], abs=1e-5)
    assert heads.scaled_sigmoid(x, 0, 3).tolist() == pytest.approx([1, 1.5, 2.5], abs=1e-5)
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    heads.scaled_sigmoid(far.bfloat16()).sum().backward()
    assert far.grad.tolist() == [0, 0]


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_on_the_scale_and_features_come_with_the_emotion(folder, name):
    model = SER(ModelConfig(folder("wavlm"), **CONFIGS[name]))
    outputs = model.eval()(clips(model, range(3)))
    assert outputs["attributes"].shape == (3, 3) and outputs["attributes"].dtype == torch.float32
    assert ((outputs["attributes"] > 1) & (outputs["attributes"] < 7)).all()
    assert ("features" in outputs) == ("emotion" in model.config.tasks)
    if "features" in outputs:  # what the last linear layer takes
        last = model.heads["emotion"][-1]
        assert outputs["features"].shape == (3, last.in_features)
        torch.testing.assert_close(last(outputs["features"]), outputs["emotion"])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_clip_gets_the_same_attributes_in_any_company(folder, name):
    model = SER(ModelConfig(folder("wavlm", "group"), **CONFIGS[name])).eval()
    names = {"attributes", "features"} if "emotion" in model.config.tasks else {"attributes"}
    with torch.no_grad():
        for quantum in (1, 4000):
            batch = clips(model, range(4, -1, -1), quantum=quantum)
            batch.inputs[torch.arange(batch.inputs.shape[1]) >= batch.lengths[:, None]] = 9.0
            together = model(batch)
            for row, i in enumerate(batch.index.tolist()):
                alone = model(clips(model, [i]))
                for output in names:
                    torch.testing.assert_close(
                        together[output][row], alone[output][0], atol=2e-5, rtol=1e-4
                    )


def test_the_emotions_head_starts_alike_with_and_without_attributes(folder):
    one = SER(ModelConfig(folder("wavlm")), seed=3)
    two = SER(ModelConfig(folder("wavlm"), tasks=BOTH), seed=3)
    batch = clips(one, range(3))
    with torch.no_grad():
        assert torch.equal(one.eval()(batch)["emotion"], two.eval()(batch)["emotion"])


# ---- losses -------------------------------------------------------------------------------------

COUNTS = np.array([6, 3, 2, 1])
OUTPUTS = {
    "emotion": torch.randn(4, 4, generator=torch.Generator().manual_seed(0)),
    "attributes": torch.tensor([[2.0, 4, 6], [3, 3, 3], [5, 4, 1], [1, 1, 1]]),
    "features": torch.randn(4, 5, generator=torch.Generator().manual_seed(1)),
}


class Given:
    """As much of a batch as a loss looks at."""

    emotion = torch.tensor([0, 0, 1, IGNORE])
    extra = {"attributes": torch.tensor([[1.0, 4, 5], [3, 2, torch.nan], [6, 4, 2], [2, 5, 1]])}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, regression.mse),
        ({"attributes": "gaussian", "sigma": 0.7},
         lambda x, y: regression.gaussian_mse(x, y, sigma=0.7)),
        ({"attributes": "ccc"}, regression.ccc_loss),
    ],
)  # fmt: skip
def test_each_loss_of_the_attributes_is_reached(change, expected):
    term = task_losses(LossConfig(**change), ("attributes",), COUNTS)["attributes"]
    torch.testing.assert_close(
        term(OUTPUTS, Given), expected(OUTPUTS["attributes"], Given.extra["attributes"])
    )


def test_detaching_reaches_the_loss():
    slopes = []
    for detach in (False, True):
        outputs = {"attributes": OUTPUTS["attributes"].clone().requires_grad_()}
        config = LossConfig(attributes="gaussian", detach=detach)
        total_loss(config, ("attributes",), COUNTS)(outputs, Given).backward()
        slopes.append(outputs["attributes"].grad)
    assert not torch.allclose(*slopes)


def test_the_contrastive_term_is_added_with_its_own_weight_and_settings():
    config = LossConfig(
        alpha=0.2, total="shared", swfc=0.3, swfc_gamma=1.5, tau=0.4, swfc_power=0.5
    )
    assert config.task_weights(BOTH) == pytest.approx(
        {"emotion": 0.8, "attributes": 0.2, "swfc": 0.3}
    )
    for form in ("original", "printed"):
        total = total_loss(replace(config, swfc_form=form), BOTH, COUNTS)(OUTPUTS, Given)
        weight = contrastive.swfc_weights(COUNTS, 0.5)
        expected = (
            0.8 * classification.cross_entropy(OUTPUTS["emotion"], Given.emotion)
            + 0.2 * regression.mse(OUTPUTS["attributes"], Given.extra["attributes"])
            + 0.3 * contrastive.swfc(
                OUTPUTS["features"], Given.emotion, weight, gamma=1.5, tau=0.4, form=form
            )
        )  # fmt: skip
        torch.testing.assert_close(total, expected)
    outputs = {**OUTPUTS, "embedding": OUTPUTS["features"].flip(1).cumsum(1)}
    elsewhere = task_losses(replace(config, swfc_on="embedding"), BOTH, COUNTS)["swfc"]
    settings = dict(gamma=1.5, tau=0.4)
    expected = contrastive.swfc(outputs["embedding"], Given.emotion, weight, **settings)
    torch.testing.assert_close(elsewhere(outputs, Given), expected)
    terms = task_losses(config, BOTH, COUNTS)
    assert set(terms) == {*BOTH, "swfc"}
    assert set(task_losses(LossConfig(), BOTH, COUNTS)) == set(BOTH)


def test_alpha_of_the_attributes_is_their_own_if_given():
    assert LossConfig(alpha=0.2).task_weights(BOTH)["attributes"] == 0.2
    assert LossConfig(alpha=0.2, alpha_attributes=0.0).task_weights(BOTH)["attributes"] == 0
    assert LossConfig(alpha_attributes=0.7).task_weights(("attributes",)) == {"attributes": 1}


@pytest.mark.parametrize(
    "change",
    [{"attributes": "mae"}, {"sigma": 0.0}, {"alpha_attributes": -0.1}, {"swfc": -1.0},
     {"tau": 0.0}, {"swfc_form": "cited"},
     {"swfc_on": "logits"}, {"swfc_gamma": -1.0}, {"swfc_power": -1.0}],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        LossConfig(**change)


def test_the_contrastive_term_needs_the_emotion():
    with pytest.raises(ValueError, match="needs the emotion"):
        total_loss(LossConfig(swfc=0.1), ("attributes",), COUNTS)


# ---- answers and scores -------------------------------------------------------------------------


def predictions(seed=0, size=40):
    rng = np.random.default_rng(seed)
    truth, noise = rng.uniform(1, 7, (size, 3)), rng.normal(0, 1, (size, 3))
    table = pd.DataFrame(np.clip(0.6 * truth + 2 + noise, 1, 7), columns=list(ATTRIBUTES))
    for i, a in enumerate(ATTRIBUTES):
        table[f"{a}_truth"] = truth[:, i]
    table.loc[:5, "arousal_truth"] = np.nan
    return table


def test_scores_agree_with_the_metrics_of_the_book():
    table = predictions()
    found = task_scores(table)
    known = table.dropna()
    expected = {a: measures.ccc(known[f"{a}_truth"], known[a]) for a in ("arousal",)}
    expected |= {a: measures.ccc(table[f"{a}_truth"], table[a]) for a in ("valence", "dominance")}
    for a in ATTRIBUTES:
        assert found[f"ccc_{a}"] == pytest.approx(expected[a])
    assert found["ccc"] == pytest.approx(np.mean(list(expected.values())))
    rmse = [np.sqrt(np.nanmean((table[f"{a}_truth"] - table[a]) ** 2)) for a in ATTRIBUTES]
    assert found["rmse"] == pytest.approx(np.mean(rmse))
    sums = attributes.moments(table).sum(0)
    assert attributes.MEASURES["rmse_dominance"](sums) == pytest.approx(rmse[2])
    assert set(found) == {"ccc_valence", "ccc_arousal", "ccc_dominance", "ccc", "rmse"}
    spread = [table.loc[~table[f"{a}_truth"].isna(), a].std(ddof=0) for a in ATTRIBUTES]
    assert attributes.MEASURES["sd"](sums) == pytest.approx(np.mean(spread))
    assert attributes.MEASURES["sd_arousal"](sums) == pytest.approx(spread[1])


def test_scores_of_degenerate_tables():
    table = predictions().assign(valence=4.0)
    assert task_scores(table)["ccc_valence"] == 0  # a constant prediction agrees with nothing
    table["valence_truth"] = 4.0
    found = task_scores(table)
    assert np.isnan(found["ccc_valence"]) and found["rmse"] < 1.2
    assert found["ccc"] == pytest.approx((found["ccc_arousal"] + found["ccc_dominance"]) / 2)
    unknown = table.assign(**{f"{a}_truth": np.nan for a in ATTRIBUTES})
    assert task_scores(unknown) == {}
    one = task_scores(predictions().head(1))
    assert np.isnan(one["ccc"])
    with pytest.raises(ValueError, match="valence_truth"):
        attributes.moments(table.drop(columns="valence_truth"))


def test_the_interval_of_ccc_against_a_slow_loop():
    """Without each speaker in turn, CCC of the rows that are left by `measures.ccc`."""
    tables = [predictions(1).dropna(), predictions(2).dropna()]
    speakers = np.arange(len(tables[0])) % 5
    moments = [attributes.moments(t)[None] for t in tables]
    for systems in ([tables[0]], tables):
        stacked = moments[: len(systems)]
        found = intervals.jackknife_sums(attributes.MEASURES["ccc_valence"], stacked, speakers)

        def score(rows, systems=systems):
            each = [measures.ccc(t["valence_truth"][rows], t["valence"][rows]) for t in systems]
            return each[-1] - each[0] if len(each) == 2 else each[0]

        whole = score(speakers >= 0)
        error = np.sqrt(0.8 * sum((score(speakers != g) - whole) ** 2 for g in range(5)))
        said = np.abs([m[0, speakers == g].sum(0) for g in range(5) for m in stacked])
        said = said.reshape(5, -1).sum(1)
        half = stats.t.ppf(0.975, said.sum() ** 2 / (said**2).sum() - 1) * error
        np.testing.assert_allclose(
            [found.value, found.low, found.high], [whole, whole - half, whole + half], rtol=1e-7
        )


def test_predictions_that_are_not_numbers_are_refused(folder):
    model = SER(ModelConfig(folder(), tasks=("attributes",)))
    with torch.no_grad():
        model.heads["attributes"][-1].bias[1] = torch.nan
    with pytest.raises(ValueError, match="not finite, such as .'clip0'"):
        evaluation.predict(model, [clips(model, range(2))])


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mse", "gaussian", "ccc"])
def test_eight_clips_are_learned_by_heart_and_the_epoch_is_chosen_by_ccc(folder, kind):
    model = SER(ModelConfig(folder("wavlm", "group"), tasks=("attributes",)), seed=1)
    batches = [rated(model, range(8))]

    def judge(model):
        return evaluation.score(evaluation.predict(model, batches), 4)

    config = loop.TrainConfig(epochs=60, lr_encoder=3e-3, lr_head=2e-2, warmup=0.1, select="ccc")
    loss = total_loss(LossConfig(attributes=kind, sigma=2.0), ("attributes",), np.ones(4))
    history = loop.fit(model, loss, lambda epoch: batches, judge, config, progress=False)
    scores = judge(model)
    assert scores["ccc"] > 0.9 and "wa" not in scores
    assert scores["ccc"] == pytest.approx(history["dev_ccc"].max())


def test_choosing_by_the_emotion_without_it_says_what_there_is(folder):
    model = SER(ModelConfig(folder(), tasks=("attributes",)))
    batches = [rated(model, range(3))]
    loss = total_loss(LossConfig(), ("attributes",), np.ones(4))
    with pytest.raises(ValueError, match="select='ua'.*dev_ccc"):
        loop.fit(
            model, loss, lambda epoch: batches,
            lambda model: evaluation.score(evaluation.predict(model, batches), 4),
            loop.TrainConfig(epochs=1), progress=False,
        )  # fmt: skip
