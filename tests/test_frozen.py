"""What heads are given of a frozen encoder: stored once, scaled on train, restored with the run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from encoder_toys import make_roberta, make_whisper
from model_toys import tiny_folders, tone
from serlib import __main__ as cli
from serlib import records
from serlib.data import audio, features, tables
from serlib.experiments import dataset, experiment, floors, inference, inputs, remarks
from serlib.experiments.sweep import sweep
from serlib.models.encoders.checkpoints import EncoderError
from serlib.models.encoders.load import load_encoder
from serlib.models.pooling import Standardize, standardize
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe

CLASSES = ("anger", "boredom", "fear", "calm")
SAID = ("oh dear", "well done")
N = 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {"wavlm": tiny_folders(tmp_path_factory)("wavlm", "layer")}
    for name, make in (("whisper", make_whisper), ("roberta", make_roberta)):
        folder = tmp_path_factory.mktemp(name)
        make(folder)
        made[name] = str(folder)
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 tones of four classes and one more, of five talkers who say two sentences; no split."""
    root, rows = tmp_path_factory.mktemp("corpus"), []
    for i in range(N):
        wave = tone(i // 5, 0.15 + 0.06 * (i % 7))
        audio.save(root / f"{i}.wav", wave)
        rows.append({
            "key": f"k{i:02d}", "dataset": "toys", "utt_id": f"u{i:02d}", "wav": f"{i}.wav",
            "length": len(wave) / 16_000, "speaker": f"s{i % 5}", "group": f"s{i % 5}",
            "emotion": "surprise" if i in (7, 19) else CLASSES[i // 5 % 4], "style": "acted",
            "language": "deu", "gender": "female", "text": SAID[i // 5 % 2],
        })  # fmt: skip
    tables.write(pd.DataFrame(rows), root / "toys.csv")
    return root


@pytest.fixture
def home(tmp_path, monkeypatch, on_cpu):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def base(folders, corpus) -> Recipe:
    return papers.wang2025_baseline("demo", "toys", str(corpus)).change(
        encoder=folders["whisper"], context="short", freeze="all", freeze_layers=0, n_layers=None,
        classes=CLASSES, pooling="mean", hidden=8, dropout=0.0, epochs=2, lr_head=1e-2,
        standardize=True, budget_seconds=3.0,
    )  # fmt: skip


def built(recipe: Recipe):
    data = dataset.load(recipe)
    model, _, given = experiment._build(recipe, data, {}, 0)
    return data, model, given


def batches(data, given, role: str, budget: int = 4, reverse: bool = False):
    rows = data.rows(role)[:: -1 if reverse else 1]
    return given[0].batches([rows[i : i + budget] for i in range(0, len(rows), budget)], given[1])


def states_of(data, model, row: int) -> np.ndarray:
    """All states and the output of a clip from its wave, alone, (L + 2, T, D) float64."""
    wave = torch.from_numpy(data.store[row])[None]
    with torch.no_grad():
        encoded = model.encoder(wave, torch.tensor([wave.shape[1]]))
    return torch.stack([*encoded.layers, encoded.frames])[:, 0].double().numpy()


# ------------------------------------------------------------------------------------------- scale


CHOSEN = {"weighted": slice(0, 4), "2": slice(2, 3), "last": slice(4, 5)}


@pytest.mark.parametrize("pooling", ["mean", "attentive"])
@pytest.mark.parametrize("layers", CHOSEN)
def test_scales_are_those_of_train_as_numpy_has_them(home, base, layers, pooling):
    data, model, given = built(base.change(layers=layers, pooling=pooling))
    standardize(model, batches(data, given, "train"))
    found = [states_of(data, model, i)[CHOSEN[layers]] for i in data.rows("train")]
    if pooling == "mean":  # of each clip's mean; else of frames
        found = [x.mean(1, keepdims=True) for x in found]
    every = np.concatenate(found, 1)  # (K, clips or frames, D)
    np.testing.assert_allclose(model.scale.mean, every.mean(1), atol=2e-3)
    np.testing.assert_allclose(model.scale.std, every.std(1), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "attentive"])
def test_nothing_but_trains_clips_decides_a_scale(home, base, pooling):
    """Not their batches, padding or order; not dev and test; and the model stays in its mode."""
    data, model, given = built(base.change(layers="weighted", pooling=pooling))
    model.train()
    found = []
    for budget, reverse in ((4, False), (1, False), (100, False), (7, True)):
        standardize(model, batches(data, given, "train", budget, reverse))
        found.append(torch.stack([model.scale.mean, model.scale.std]))
    assert model.training and not model.encoder.training
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)
    standardize(model, batches(data, given, "test"))
    assert not torch.allclose(model.scale.mean, found[0][0], rtol=1e-3)

    wide = Standardize(1, 2, of_clips=pooling == "mean")
    x, lengths = torch.full((2, 9, 2), torch.nan), torch.tensor([2, 3])
    x[0, :2], x[1, :3] = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.0])
    wide.sums = torch.zeros(3, 1, 2, dtype=torch.float64)
    wide([x], lengths)
    wide.settle()
    mean = 2.0 if pooling == "mean" else (2 * 1 + 3 * 3) / 5
    assert wide.mean.tolist() == [[pytest.approx(mean), 4.0]]
    assert wide.std[0, 1] == 1, "a constant is centered, and not blown up"


def test_huge_dimensions_hide_no_small_ones():
    """Whisper's: some states reach 550 where clips differ by 0.1."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal([550, 0, -550], [0.1, 0.1, 5], (64, 4, 3)), dtype=torch.float32)
    scale = Standardize(1, 3, of_clips=False)
    scale.sums = torch.zeros(3, 1, 3, dtype=torch.float64)
    for part in x.split(8):
        scale([part], torch.full((8,), 4))
    scale.settle()
    (y,) = scale([x], torch.full((64,), 4))
    assert y.mean((0, 1)).abs().max() < 1e-3
    torch.testing.assert_close(y.std((0, 1)), torch.ones(3), rtol=0.01, atol=0)
    with pytest.raises(ValueError, match="2 states for 1 scales"):
        scale([x, x], torch.full((64,), 4))


def test_off_is_the_default_and_changes_nothing(home, base):
    recipe = base.change(standardize=False)
    assert papers.wang2025_baseline().model.standardize is False
    assert papers.zgorzynski2025().model.standardize is False
    _, model, _ = built(recipe)
    assert model.scale is None and "scale.mean" not in model.state_dict()


# ------------------------------------------------------------------------------------------ stores


WAYS = [
    dict(layers="last"), dict(layers="1"), dict(layers="weighted"),
    dict(layers="weighted", layer_softmax=False), dict(layers="weighted", standardize=False),
    dict(layers="last", standardize=False, head="linear"),
]  # fmt: skip


@pytest.mark.parametrize("family", ["whisper", "wavlm"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_means_give_what_frames_give(home, base, folders, way, family):
    """A clip of one frame, its mean, has the outputs of the wave itself."""
    context = "short" if family == "whisper" else "full"
    recipe = base.change(encoder=folders[family], context=context, **way)
    assert inputs.averaged(recipe)
    data, model, given = built(recipe)
    if model.layer_sum is not None:
        with torch.no_grad():
            model.layer_sum.raw += torch.tensor([0.3, -0.4, 0.1, 0.6])[: len(model.layer_sum.raw)]
    if model.scale is not None:
        standardize(model, batches(data, given, "train"))
    (short,) = batches(data, given, "test", 100)
    assert short.inputs.shape[1] == 1 and short.lengths.unique().tolist() == [1]
    long = inference.respond(
        model.eval(), [data.store[i] for i in data.rows("test")], ["emotion", "embedding"]
    )
    with torch.no_grad():
        outputs = model(short)
    for name, expected in long.items():
        np.testing.assert_allclose(outputs[name], np.stack(expected), rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize(
    "change",
    [
        dict(pooling="attentive"), dict(pooling="sum"), dict(tasks=("emotion", "asr")),
        dict(layers="weighted", layer_norm=True), dict(masked_pooling=False),
        dict(masked_encoder=False), dict(freeze="cnn"),
    ],
    ids=str,
)  # fmt: skip
def test_means_are_taken_only_where_they_suffice(base, change):
    assert inputs.averaged(base) and not inputs.averaged(base.change(**change))


@pytest.mark.parametrize("layers", CHOSEN)
@pytest.mark.parametrize("masked", [True, False])
def test_of_frames_only_the_states_that_are_used_are_stored(home, base, layers, masked):
    recipe = base.change(layers=layers, pooling="attentive", masked_pooling=masked)
    data, model, given = built(recipe)
    (batch,) = batches(data, given, "dev", 100)
    states = 4 if layers == "weighted" else 1
    assert batch.inputs.shape[2:] == (states, 24) and batch.inputs.dtype == torch.float16
    (file,) = (home / "features").glob("*.bin")
    frames = sum(len(given[0].inputs[i]) for i in range(len(data.store)))
    assert file.stat().st_size == frames * states * 24 * 2
    with torch.no_grad():
        got, lengths = model.frames(batch)
    for row, i in enumerate(data.rows("dev")):
        expected = states_of(data, model, i)[CHOSEN[layers]].mean(0)
        n = len(expected)
        assert int(lengths[row]) == (n if masked else batch.inputs.shape[1])
        np.testing.assert_allclose(got[row, :n], expected, rtol=2e-3, atol=2e-3)


def test_one_state_of_features(home, corpus, folders, base):
    data = dataset.load(base)
    encoder = load_encoder(folders["whisper"], context="short", freeze="all")
    every = features.cache(encoder, data.store, kind="layers", progress=False)
    for layer in range(4):
        one = features.cache(encoder, data.store, kind="layers", layer=layer, progress=False)
        assert torch.equal(one[5], every[5].view(-1, 4, 24)[:, layer])
    for wrong in (dict(layer=4), dict(layer=-1), dict(kind="frames", layer=0)):
        with pytest.raises(ValueError, match="one of kind 'layers', from 0 to 3"):
            features.cache(encoder, data.store, **{"kind": "layers", **wrong})


def test_folds_and_seeds_share_one_file_of_features(home, base):
    """Roles decide nothing; a store of another context is another file."""
    runs = sweep([base.change(fold=f, seed=s) for f in (1, 2, 3) for s in (0, 1)], progress=False)
    tests = [set(run.predictions("test").index) for run in runs.runs]
    assert len(set(map(frozenset, tests))) == 3
    assert len([*(home / "features").glob("*.bin")]) == 1
    experiment.run(base.change(context="full"), progress=False)
    assert len([*(home / "features").glob("*.bin")]) == 2


@pytest.mark.parametrize("layers", CHOSEN)
def test_a_probe_reads_the_states_that_are_asked_for(home, base, layers):
    recipe = papers.floor("probe", "demo", base.corpus, base.data_root).change(
        encoder=base.model.encoder, context="short", n_layers=None, classes=CLASSES, layers=layers
    )
    data = dataset.load(recipe)
    found = floors.embeddings(recipe, data)
    _, model, _ = built(base)
    expected = states_of(data, model, 3)[CHOSEN[layers]].mean(1).ravel()
    np.testing.assert_allclose(found[3], expected, atol=1e-4)
    assert found.shape == (len(data.store), 24 * (4 if layers == "weighted" else 1))
    full = floors.embeddings(recipe.change(context="full"), data)
    assert not np.allclose(found, full, atol=1e-2)


# ------------------------------------------------------------------------------------------- runs


def test_a_run_is_restored_without_the_encoder_in_it(home, base, folders, tmp_path, monkeypatch):
    recipe = base.change(layers="weighted")
    run = experiment.run(recipe, progress=False)
    weights = safetensors.torch.load_file(run.path / "model.safetensors")
    assert {"scale.mean", "scale.std", "layer_sum.raw"} <= set(weights)
    assert not any(name.startswith("encoder.") for name in weights)
    model, data = experiment.restore(run), dataset.load(recipe)
    rows = data.rows("test")
    told = inference.respond(model, [data.store[i] for i in rows], ["emotion"])["emotion"]
    p = torch.tensor(np.stack(told)).softmax(1)[:, 0]
    expected = run.predictions("test").loc[data.table["key"][rows], "p_0"]
    np.testing.assert_allclose(p, expected, atol=1e-4)

    shutil.copytree(folders["whisper"], tmp_path / "other")
    make_whisper(tmp_path / "kept")
    moved = base.change(encoder=str(tmp_path / "other"))
    run = experiment.run(moved, progress=False)
    tuned = safetensors.torch.load_file(tmp_path / "other" / "model.safetensors")
    tuned["layer_norm.bias"] += 1e-3
    safetensors.torch.save_file(tuned, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    with pytest.raises(records.DamagedError, match="was trained with another .*other"):
        experiment.restore(run)


def test_random_and_tuned_encoders_stay_in_the_run(home, base):
    for change in (dict(random_init=True), dict(freeze="cnn", context="full")):
        run = experiment.run(base.change(epochs=1, **change), progress=False)
        weights = safetensors.torch.load_file(run.path / "model.safetensors")
        assert "encoder.model.conv1.weight" in weights
        experiment.restore(run)


@pytest.mark.parametrize("tasks", [("emotion",), ("emotion", "gender", "speaker", "asr")])
def test_upper_layers_of_whisper_are_tuned_on_stored_lower_ones(home, base, tasks):
    recipe = base.change(
        freeze="cnn", freeze_layers=2, layers="last", standardize=False, tasks=tasks, alpha=0.1,
        epochs=1, lr_encoder=1e-3,
    )  # fmt: skip
    run = experiment.run(recipe, progress=False)
    assert [file.name.split("-")[0] for file in (home / "features").glob("*.bin")] == ["lower"]
    model, before = experiment.restore(run), load_encoder(base.model.encoder, context="short")
    changed = {
        name for name, x in model.encoder.model.state_dict().items()
        if not torch.equal(x, before.model.state_dict()[name])
    }  # fmt: skip
    assert {name.split(".")[1] for name in changed if name.startswith("layers")} == {"2"}
    assert not any(name.startswith(("conv", "embed")) for name in changed)
    data = dataset.load(recipe)
    row = int(data.rows("test")[0])
    told = inference.respond(model, [data.store[row]], ["emotion"])["emotion"][0]
    expected = run.predictions("test").loc[data.table["key"][row], "p_0"]
    assert float(torch.tensor(told).softmax(0)[0]) == pytest.approx(expected, abs=2e-3)
    full = recipe.change(context="full", epochs=1)
    experiment.run(full, progress=False)  # from waves
    assert len([*(home / "features").glob("*.bin")]) == 1


def test_context_is_for_whisper(home, base, folders):
    with pytest.raises(EncoderError, match="context='short' is for Whisper, and .* is wavlm"):
        experiment.run(base.change(encoder=folders["wavlm"]), progress=False)
    names = {experiment.identity(base.change(context=c))[0] for c in ("full", "short")}
    assert len(names) == 2


def test_a_fusion_in_short_context_with_scales(home, base, folders, corpus):
    experts = (folders["whisper"], folders["wavlm"], folders["roberta"])
    recipe = papers.zgorzynski2025("demo", "toys", str(corpus)).change(
        experts=experts, n_layers=None, classes=CLASSES, width=8, hidden=8, bottleneck=4, epochs=1,
        context="short", standardize=True, tasks=("emotion",), select="ua",
    )  # fmt: skip
    run = experiment.run(recipe, progress=False)
    model = experiment.restore(run)
    for name, expert in zip(experts, model.experts.values(), strict=True):
        assert not torch.equal(expert.scale.std, torch.ones_like(expert.scale.std)), name
    data = dataset.load(recipe)
    row = int(data.rows("test")[0])
    answer = inference.Recognizer(run)(data.store[row], data.table["text"][row])
    expected = run.predictions("test").loc[data.table["key"][row], "p_0"]
    assert answer.probabilities[CLASSES[0]] == pytest.approx(expected, abs=2e-3)
    plain = experiment.run(recipe.change(context="full", standardize=False), progress=False)
    assert not any("scale" in name for name in experiment.restore(plain).state_dict())
    with pytest.raises(EncoderError, match="is for Whisper, which is none of the experts"):
        experiment.run(recipe.change(experts=experts[1:]), progress=False)


def test_predict_with_a_frozen_run_says_what_it_was_trained_on(home, base, corpus, capsys):
    run = experiment.run(base, progress=False)
    capsys.readouterr()
    assert cli.main(["predict", str(run.path), str(corpus / "0.wav")]) == 0
    shown = capsys.readouterr()
    n = int(base_counts(run))
    assert shown.err == f"trained on toys, deu, acted, {n} utterances of 3 speakers\n"
    assert shown.out.splitlines()[1].split()[:2] in [["emotion", name] for name in CLASSES]
    assert cli.main(["predict", str(run.path), str(corpus / "0.wav"), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["trained_on"].startswith("toys, deu, acted, ") and not shown.err


def base_counts(run: records.Run) -> int:
    """Utterances that are neither in dev nor in test, nor of another class."""
    return N - 2 - sum(len(run.predictions(role)) for role in ("dev", "test"))


# ---------------------------------------------------------------------------------- what is told


def test_what_a_recipe_leaves_out_is_told_once_with_counts(home, base, capsys):
    some = base.change(classes=("anger", "fear"))
    dataset.taught(some), dataset.taught(some), dataset.load(some.change(seed=1))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "left out" in x]
    assert "calm 14, boredom 14, surprise 2 of 60 utterances left out" in line or (
        "boredom 14, calm 14, surprise 2 of 60 utterances left out" in line
    )
    assert "not among the classes anger, fear (" in line
    sweep([some.change(seed=s, epochs=1) for s in (0, 1)], progress=False, workers=2)
    assert "left out" not in capsys.readouterr().out
    every = base.change(classes=(*CLASSES, "surprise"))
    assert dataset.taught(every).model.n_classes == 5
    assert "left out" not in capsys.readouterr().out


def test_ctc_on_two_sentences_is_warned_of_and_noted_beside_word_errors(home, base, capsys):
    dataset._told.clear()
    dataset.taught(base)
    assert "CTC" not in capsys.readouterr().out, "nobody asked for speech recognition"
    recipe = base.change(tasks=("emotion", "asr"), alpha=0.1, epochs=1)
    runs = sweep([recipe, recipe.change(seed=1)], progress=False)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "CTC" in x]
    assert "2 different transcripts in 60 utterances: CTC can memorize them" in line
    facts = runs.runs[0].summary
    assert (facts["train_texts"], facts["test_heard"]) == (2, 1.0)
    note = "100% of test's clips say one of train's 2 sentences"
    assert note in str(runs.interval(recipe.name, "wer")) and note in str(
        runs.interval(recipe.name, "cer")
    )
    assert note not in str(runs.interval(recipe.name, "ua"))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["a b", "A B!", None, "c"], ["a b", "d", None, "7"], (2, 0.5)),
        (["a", "b"], [None], (2, 0.0)),
        ([None], ["a"], (0, 0.0)),
    ],
)
def test_how_far_tests_sentences_are_known(train, test, expected):
    roles = ["train"] * len(train) + ["test"] * len(test)
    table = pd.DataFrame({"text": train + test, "role": roles})
    assert tuple(remarks.repetition(table).values()) == expected
