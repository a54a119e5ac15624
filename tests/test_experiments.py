"""Experiments from files to scores: data, floors, fine-tuning, runs that are found again."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from serlib import encoders, experiments, manifest, recipes
from serlib.demo import corpus
from serlib.sweep import sweep

TINY = dict(epochs=1, n_layers=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for runs and features, with the demo corpus that is already spoken."""
    made = corpus.make(progress=False)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / made.name).symlink_to(made)
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    return tmp_path


def test_data_of_a_recipe(home):
    data = experiments.load(recipes.cai2021("smoke"))
    sizes = data.table["role"].value_counts().to_dict()
    assert sizes == experiments.SMOKE and len(data.store) == sum(sizes.values())
    assert set(data.table["label"]) <= set(range(8)) and "no_agreement" not in set(
        data.table["emotion"]
    )
    named = [manifest.CLASSES_8[i] for i in data.table["label"]]
    assert named == data.table["emotion"].tolist()
    train = data.table.loc[data.rows("train"), "label"]
    assert data.counts.tolist() == np.bincount(train, minlength=8).tolist()
    np.testing.assert_allclose(data.store.durations, data.table["length"], atol=1e-3)


def test_leaky_protocols_are_refused_unless_allowed(home):
    leaky = recipes.cai2021("smoke").change(protocol="random")
    with pytest.raises(manifest.ManifestError):
        experiments.assign(leaky, corpus.load())
    table = experiments.assign(leaky.change(allow_leaks=True), corpus.load())
    part = {r: set(table.loc[table["role"] == r, "speaker"]) for r in ("train", "test")}
    assert part["train"] & part["test"]


def test_four_classes_merge_excitement_into_happiness():
    df = corpus.load().assign(emotion=lambda d: d["emotion"].replace("surprise", "excitement"))
    recipe = recipes.cai2021("demo").change(
        classes=manifest.CLASSES_4, merge=recipes.IEMOCAP_MERGE, n_classes=4
    )
    table = experiments.assign(recipe, df)
    happy = table["label"] == manifest.CLASSES_4.index("happiness")
    assert set(table.loc[happy, "emotion"]) == {"happiness", "excitement"}
    assert set(table["emotion"]) == {*manifest.CLASSES_4, "excitement"}


def test_full_needs_a_root_and_a_manifest(tmp_path):
    with pytest.raises(recipes.RecipeError, match="needs data_root"):
        experiments.locate(recipes.cai2021("full"))
    with pytest.raises(recipes.RecipeError, match=r"no manifest .*iemocap\.csv"):
        experiments.locate(recipes.cai2021("full", data_root=str(tmp_path)))


def test_full_runs_on_a_readers_own_manifest_and_local_encoder(home, tmp_path):
    """The full tier's path: manifest and wavs under data_root, an encoder from a folder."""
    source, few = corpus.make(progress=False), corpus.load().groupby("split").head(40)
    root = tmp_path / "mine"
    for wav in few["wav"]:
        (root / wav).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / wav, root / wav)
    manifest.write(few.reset_index(drop=True), root / "mine.csv")
    folder = str(encoders.DEMO / "demo-wavlm")
    recipe = recipes.wang2025_baseline("full", "mine", str(root)).change(
        encoder=folder, hidden=16, epochs=1, n_layers=1, lr_head=1e-3
    )
    record = experiments.run(recipe, progress=False)
    assert record.done and record.summary["test"]["n"] > 20


def test_floors_run_and_are_found_again(home):
    kinds = ("majority", "prior", "svm", "probe")
    runs = sweep([recipes.floor(kind, "smoke") for kind in kinds], progress=False)
    summary = runs.summary()
    majority = summary.loc["majority guesser"]
    classes = runs.runs[0].predictions("test")["truth"].nunique()
    assert majority["ua"].value == pytest.approx(1 / classes)
    before = {r.path: (r.path / "status.json").stat().st_mtime_ns for r in runs.runs}
    again = sweep([recipes.floor(kind, "smoke") for kind in kinds], progress=False)
    assert {r.path: (r.path / "status.json").stat().st_mtime_ns for r in again.runs} == before
    speakers = corpus.load().set_index("key")["speaker"]
    table = runs.runs[0].predictions("test")
    assert table["speaker"].tolist() == speakers.loc[table.index].tolist()


def test_fine_tuning_end_to_end(home):
    recipe = recipes.cai2021("smoke").change(**TINY)
    record = experiments.run(recipe, progress=False)
    test = record.predictions("test")
    assert len(test) == experiments.SMOKE["test"] and test.index.is_unique
    assert record.summary["test"]["n"] == len(test) and len(record.history()) == 1
    same = experiments.run(recipe.change(name="another name"), progress=False)
    assert same.path == record.path, "a name decides nothing"
    other = experiments.run(recipe.change(seed=1), progress=False)
    assert other.path != record.path
    assert not np.allclose(other.predictions("test")["p_0"], test["p_0"])
    model = experiments.trained(recipe)
    from serlib import evaluation
    from serlib.batching import Item, collate

    data = experiments.load(recipe)
    i = int(data.rows("test")[0])
    wave = model.encoder.prepare(data.store[i])
    alone = evaluation.predict(model, [collate([Item(wave, data.table["key"][i], 0, 1.0)])])
    stored = test.loc[data.table["key"][i]]
    for c in range(8):  # from the wave, alone, as from stored features in a batch
        assert alone[f"p_{c}"].iloc[0] == pytest.approx(stored[f"p_{c}"], abs=1e-4)


def test_the_same_seed_gives_the_same_run(home, monkeypatch):
    recipe = recipes.wang2025_baseline("smoke").change(**TINY)
    first = experiments.run(recipe, progress=False).predictions("test")
    monkeypatch.setenv("SERLIB_HOME", str(home / "second"))
    (home / "second").mkdir()
    (home / "second" / "demo").symlink_to(home / "demo")
    second = experiments.run(recipe, progress=False).predictions("test")
    pd.testing.assert_frame_equal(first, second)


def test_class_weights_reach_the_loss(home):
    data = experiments.load(recipes.cai2021("smoke"))
    import torch

    from serlib import losses
    from serlib.batching import Batch

    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(logits, torch.ones(6, dtype=torch.long), torch.arange(6), list("abcdef"),
                  torch.arange(6), 1.0)  # fmt: skip
    recipe = recipes.cai2021("smoke")
    plain = experiments._loss(recipe, data.counts)({"emotion": logits}, batch)
    assert plain == pytest.approx(torch.nn.functional.cross_entropy(logits, batch.emotion).item())
    weight = losses.inverse_frequency_weights(data.counts)
    weighted = experiments._loss(recipe.change(weights="inverse_frequency"), data.counts)
    torch.testing.assert_close(
        weighted({"emotion": logits}, batch),
        torch.nn.functional.cross_entropy(logits, batch.emotion, weight=weight),
    )
    focal = experiments._loss(recipe.change(gamma=2.0), data.counts)({"emotion": logits}, batch)
    assert focal < plain


def test_sweep_compares_in_pairs(home):
    runs = sweep(
        [recipes.floor("majority", "smoke"), *(recipes.floor("prior", "smoke").vary(seed=[0, 1]))],
        progress=False,
    )
    truth, predictions, speakers = runs.stacked("guesser by class shares")
    assert predictions.shape == (2, len(truth)) and len(speakers) == len(truth)
    difference = runs.difference("majority guesser", "guesser by class shares", "wa")
    a = runs.interval("majority guesser", "wa").value
    b = runs.interval("guesser by class shares", "wa").value
    assert difference.value == pytest.approx(b - a)
    assert runs.confusion("guesser by class shares").sum() == 2 * len(truth)
    with pytest.raises(KeyError, match="no run is named 'nobody'"):
        runs.named("nobody")
    joined = runs + runs.named("majority guesser")
    assert len(joined) == 4


def test_data_without_labeled_test_is_refused(home):
    df = corpus.load()
    df.loc[df["split"] == "test", "emotion"] = "no_agreement"
    with pytest.raises(recipes.RecipeError, match="leaves no labeled test"):
        experiments.assign(replace(recipes.cai2021("demo")), df)


def test_long_clips_are_cut_to_their_beginning(home):
    whole = experiments.load(recipes.cai2021("smoke")).store
    cut = experiments.load(recipes.cai2021("smoke").change(max_seconds=2.0)).store
    assert whole.durations.max() > 2.0
    np.testing.assert_allclose(cut.durations, np.minimum(whole.durations, 2.0), atol=1e-3)
    i = int(whole.durations.argmax())
    np.testing.assert_array_equal(cut[i], whole[i][: len(cut[i])])
