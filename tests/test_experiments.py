"""Experiments from files to scores: data, floors, fine-tuning, runs that are found again."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from serlib import records
from serlib.corpora.demo import corpus
from serlib.data import manifest, tables, text
from serlib.experiments import dataset, experiment, inference, inputs
from serlib.experiments.runs import Runs
from serlib.experiments.sweep import sweep
from serlib.losses.classification import IGNORE
from serlib.metrics import recognition
from serlib.models.encoders import checkpoints
from serlib.models.encoders.load import load_encoder
from serlib.models.recognizer import SER
from serlib.recipes import papers
from serlib.recipes.recipe import PROFILES, RecipeError
from serlib.tasks.targets import GENDERS, task_targets
from serlib.training import evaluation

TINY = dict(epochs=1, n_layers=1, freeze_layers=0)


def test_data_of_a_recipe(own_home):
    data = dataset.load(papers.cai2021("smoke"))
    sizes = data.table["role"].value_counts().to_dict()
    assert sizes == dataset.SMOKE and len(data.store) == sum(sizes.values())
    assert set(data.table["label"]) <= set(range(8)) and "no_agreement" not in set(
        data.table["emotion"]
    )
    named = [manifest.CLASSES_8[i] for i in data.table["label"]]
    assert named == data.table["emotion"].tolist()
    train = data.table.loc[data.rows("train"), "label"]
    assert data.counts.tolist() == np.bincount(train, minlength=8).tolist()
    np.testing.assert_allclose(data.store.durations, data.table["length"], atol=1e-3)


def test_leaky_protocols_are_refused_unless_allowed(own_home):
    leaky = papers.cai2021("smoke").change(protocol="random")
    with pytest.raises(tables.ManifestError):
        dataset.assign(leaky, corpus.load())
    table = dataset.assign(leaky.change(allow_leaks=True), corpus.load())
    part = {r: set(table.loc[table["role"] == r, "speaker"]) for r in ("train", "test")}
    assert part["train"] & part["test"]


def test_four_classes_merge_excitement_into_happiness():
    df = corpus.load().assign(emotion=lambda d: d["emotion"].replace("surprise", "excitement"))
    recipe = papers.cai2021("demo").change(
        classes=manifest.CLASSES_4, merge=papers.IEMOCAP_MERGE, n_classes=4
    )
    table = dataset.assign(recipe, df)
    happy = table["label"] == manifest.CLASSES_4.index("happiness")
    assert set(table.loc[happy, "emotion"]) == {"happiness", "excitement"}
    assert set(table["emotion"]) == {*manifest.CLASSES_4, "excitement"}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_corpus_needs_a_root_and_a_manifest(profile, tmp_path):
    with pytest.raises(RecipeError, match="corpus='iemocap' needs data_root"):
        dataset.locate(papers.cai2021(profile, "iemocap"))
    with pytest.raises(RecipeError, match=r"no manifest .*iemocap\.csv"):
        dataset.locate(papers.cai2021(profile, "iemocap", str(tmp_path)))
    with pytest.raises(RecipeError, match="corpus='iemocap' needs data_root"):
        dataset.locate(papers.cai2021("full"))


def test_full_runs_on_a_readers_own_manifest_and_local_encoder(own_home, tmp_path):
    """The full tier's path: manifest and wavs under data_root, an encoder from a folder."""
    source, few = corpus.make(progress=False), corpus.load().groupby("split").head(40)
    root = tmp_path / "mine"
    for wav in few["wav"]:
        (root / wav).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / wav, root / wav)
    tables.write(few.reset_index(drop=True), root / "mine.csv")
    folder = str(checkpoints.DEMO / "demo-wavlm")
    recipe = papers.wang2025_baseline("full", "mine", str(root)).change(
        encoder=folder, hidden=16, epochs=1, n_layers=1, freeze_layers=0, lr_head=1e-3
    )
    record = experiment.run(recipe, progress=False)
    assert record.done and record.summary["test"]["n"] > 20


def test_floors_run_and_are_found_again(own_home):
    kinds = ("majority", "prior", "svm", "probe")
    runs = sweep([papers.floor(kind, "smoke") for kind in kinds], progress=False)
    summary = runs.summary()
    majority = summary.loc["majority guesser"]
    classes = runs.runs[0].predictions("test")["truth"].nunique()
    assert majority["ua"].value == pytest.approx(1 / classes)
    before = {r.path: (r.path / "status.json").stat().st_mtime_ns for r in runs.runs}
    again = sweep([papers.floor(kind, "smoke") for kind in kinds], progress=False)
    assert {r.path: (r.path / "status.json").stat().st_mtime_ns for r in again.runs} == before
    speakers = corpus.load().set_index("key")["speaker"]
    table = runs.runs[0].predictions("test")
    assert table["speaker"].tolist() == speakers.loc[table.index].tolist()


def test_fine_tuning_end_to_end(own_home):
    recipe = papers.cai2021("smoke").change(**TINY)
    record = experiment.run(recipe, progress=False)
    test = record.predictions("test")
    assert len(test) == dataset.SMOKE["test"] and test.index.is_unique
    assert record.summary["test"]["n"] == len(test) and len(record.history()) == 1
    same = experiment.run(recipe.change(name="another name"), progress=False)
    assert same.path == record.path, "a name decides nothing"
    other = experiment.run(recipe.change(seed=1), progress=False)
    assert other.path != record.path
    assert not np.allclose(other.predictions("test")["p_0"], test["p_0"])
    model = experiment.trained(recipe)
    from serlib.data.batching import Item, collate
    from serlib.training import evaluation

    data = dataset.load(recipe)
    i = int(data.rows("test")[0])
    wave = model.encoder.prepare(data.store[i])
    alone = evaluation.predict(model, [collate([Item(wave, data.table["key"][i], 0, 1.0)])])
    stored = test.loc[data.table["key"][i]]
    for c in range(8):  # from the wave, alone, as from stored features in a batch
        assert alone[f"p_{c}"].iloc[0] == pytest.approx(stored[f"p_{c}"], abs=1e-4)


def test_the_same_seed_gives_the_same_run(own_home, monkeypatch):
    recipe = papers.wang2025_baseline("smoke").change(**TINY)
    first = experiment.run(recipe, progress=False).predictions("test")
    monkeypatch.setenv("SERLIB_HOME", str(own_home / "second"))
    (own_home / "second").mkdir()
    (own_home / "second" / "demo").symlink_to(own_home / "demo")
    second = experiment.run(recipe, progress=False).predictions("test")
    pd.testing.assert_frame_equal(first, second)


@pytest.fixture(scope="module")
def multitask(tmp_path_factory, with_corpus):
    """One run of four tasks, trained once for the tests below."""
    folder = with_corpus(tmp_path_factory.mktemp("multitask"))
    recipe = papers.wang2025("smoke").change(**TINY, hidden=16, diagnose=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERLIB_HOME", str(folder))
        yield recipe, experiment.run(recipe, progress=False)


def test_a_multi_task_run_keeps_the_answers_of_all_tasks(multitask):
    recipe, record = multitask
    test, data = record.predictions("test"), dataset.load(recipe)
    rows = data.table.set_index("key").loc[test.index]
    assert test["reference"].tolist() == [text.decode(text.encode(t)) for t in rows["text"]]
    assert all(isinstance(heard, str) for heard in test["hypothesis"])
    assert test["gender_truth"].tolist() == [GENDERS.index(g) for g in rows["gender"]]
    assert set(test["gender"]) <= {0, 1}
    assert (test["speaker_id_truth"] == IGNORE).all()  # nobody in test was trained on
    assert record.summary["test"] == pytest.approx(evaluation.score(test, 8))
    assert {"wer", "cer", "gender"} < set(record.summary["test"])
    assert "speaker" not in record.summary["test"]
    train = data.table["text"][data.rows("train")]
    usable = sum(bool(text.encode(t)) for t in train)
    assert record.summary["train_transcripts"] == usable > 100
    assert record.summary["train_without"] == len(train) - usable


def test_each_epoch_notes_layers_angles_and_some_transcripts(multitask):
    recipe, record = multitask
    history = record.history()
    layers = history[[f"dev_layer_{i}" for i in range(2)]]  # one layer, and its input
    assert layers.sum(axis=1).tolist() == pytest.approx([1.0] * len(history))
    for task in recipe.model.tasks[1:]:
        if task != "speaker":  # of unknown speakers no gradient comes
            assert history[f"dev_cosine_{task}"].between(-1, 1).all()
        assert (history[f"dev_{task}_ratio"] >= 0).all()
    heard = record.predictions("dev_epoch_001")
    assert len(heard) == experiment.TRANSCRIBED and list(heard) == ["reference", "hypothesis"]


def test_a_finished_run_is_restored_from_its_folder_alone(multitask, tmp_path):
    recipe, record = multitask
    assert not (record.path / "checkpoint").exists()
    copy = shutil.copytree(record.path, tmp_path / "moved")
    model = experiment.restore(replace(record, path=copy))
    assert not model.training and model.config == recipe.model
    data = dataset.load(recipe)
    targets, names = task_targets(data.table, recipe.model.tasks)
    assert model.n_speakers == len(names)
    clips, quantum = inputs.inputs(recipe, data, model.encoder, targets)
    rows = data.rows("test")
    batches = clips.batches(np.array_split(rows, 8), quantum)
    found = evaluation.predict(model, batches)
    stored = record.predictions("test").drop(columns="speaker")
    pd.testing.assert_frame_equal(found, stored.loc[found.index], atol=1e-5, check_dtype=False)


def test_a_sweep_gives_intervals_of_other_tasks(multitask):
    recipe, record = multitask
    runs = Runs((recipe,), (record,))
    test = record.predictions("test")
    said = test[test["reference"] != ""]
    wer = runs.interval(recipe.name, "wer")
    expected = recognition.wer(said["reference"].tolist(), said["hypothesis"].tolist())
    assert wer.value == pytest.approx(expected) and wer.low <= wer.value <= wer.high
    gender = runs.interval(recipe.name, "gender")
    assert gender.value == pytest.approx((test["gender"] == test["gender_truth"]).mean())
    difference = runs.difference(recipe.name, recipe.name, "wer")
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    table = runs.summary(["ua", "wer", "gender"])
    assert table.loc[recipe.name, "wer"] == wer


def test_a_sweep_compares_only_the_same_utterances_and_seeds(tmp_path):
    def pretend(name: str, seed: int, keys: str, heard: str) -> records.Run:
        run = records.Run.open(tmp_path, {"run": name, "seed": seed}, key=f"{name}-{seed}")
        table = pd.DataFrame({"truth": 0, "hypothesis": heard, "speaker": list("xy")})
        index = pd.Index(list(keys), name="key")
        run.save_predictions("test", table.assign(reference="A B").set_index(index))
        run.finish({})
        return run

    one = papers.cai2021("demo").change(
        name="one", tasks=("asr",), select="-wer"
    )  # without the emotion
    two = one.change(name="two")
    runs = Runs(
        (one, one.change(seed=1), two),
        (pretend("one", 0, "kl", "A B"), pretend("one", 1, "kl", "A"), pretend("two", 0, "kl", "")),
    )
    assert runs.interval("one", "wer").value == pytest.approx(0.25)
    assert runs.difference("one", "two", "wer").value == pytest.approx(0.75)
    assert len(runs + runs) == len(runs)  # a run that is added again does not count twice
    other = Runs((two,), (pretend("three", 0, "kz", "A"),))
    with pytest.raises(ValueError, match="different utterances"):
        (runs.named("one") + other).difference("one", "two", "wer")


def test_a_frozen_encoder_on_stored_layers_agrees_with_waves(own_home, monkeypatch):
    recipe = papers.wang2025("smoke").change(**TINY, freeze="all", hidden=16, spec_augment=0.0)
    data = dataset.load(recipe)
    model = SER(recipe.model, n_speakers=2)
    rows = data.rows("test")[:12]
    predicted = []
    for limit, ndim in ((4, 4), (0, 2)):
        monkeypatch.setattr(inputs, "STORE_GB", limit)
        clips, quantum = inputs.inputs(recipe, data, model.encoder)
        batches = list(clips.batches(np.array_split(rows, 3), quantum))
        assert batches[0].inputs.ndim == ndim and batches[0].inputs.shape[1] % quantum == 0
        predicted.append(evaluation.predict(model, batches))
    assert batches[0].emotion.tolist() == data.table["label"][rows[:4]].tolist()
    for column in (f"p_{c}" for c in range(8)):
        np.testing.assert_allclose(predicted[0][column], predicted[1][column], atol=2e-3)
    assert (predicted[0]["prediction"] == predicted[1]["prediction"]).mean() > 0.9
    seen = recipe.change(masked_encoder=False)  # padding must be seen, so nothing is stored
    monkeypatch.setattr(inputs, "STORE_GB", 4)
    clips, _ = inputs.inputs(seen, data, model.encoder)
    assert clips.inputs is data.store


def test_whisper_is_fine_tuned_on_waves_or_on_stored_layers(own_home, tmp_path):
    """Its convolutions are not stored; alone and in batches it gives the same."""
    from encoder_toys import make_roberta, make_whisper

    make_whisper(tmp_path / "whisper")
    recipe = papers.cai2021("smoke").change(
        encoder=str(tmp_path / "whisper"),
        n_layers=1,
        freeze_layers=0,
        tasks=("emotion",),
        spec_augment=0.0,
    )
    data, predicted = dataset.load(recipe), []
    rows = data.rows("test")[:6]
    for freeze, ndim in (("cnn", 2), ("all", 4)):
        chosen = recipe.change(freeze=freeze)
        model = SER(chosen.model)
        clips, quantum = inputs.inputs(chosen, data, model.encoder)
        batches = list(clips.batches([rows[:4], rows[4:]], quantum))
        assert batches[0].inputs.ndim == ndim
        predicted.append(evaluation.predict(model, batches))
    for column in (f"p_{c}" for c in range(len(recipe.classes))):
        np.testing.assert_allclose(predicted[0][column], predicted[1][column], atol=2e-3)
    make_roberta(tmp_path / "roberta")
    reader = load_encoder(tmp_path / "roberta")
    with pytest.raises(ValueError, match="reads texts"):
        inputs.inputs(recipe, data, reader)


def test_sweep_compares_in_pairs(own_home):
    runs = sweep(
        [papers.floor("majority", "smoke"), *(papers.floor("prior", "smoke").vary(seed=[0, 1]))],
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
    assert len(joined) == 3  # a run that is added again does not count twice


def test_data_without_labeled_test_is_refused(own_home):
    df = corpus.load()
    df.loc[df["split"] == "test", "emotion"] = "no_agreement"
    with pytest.raises(RecipeError, match="leaves no labeled test"):
        dataset.assign(replace(papers.cai2021("demo")), df)


def test_long_clips_are_cut_to_their_beginning(own_home):
    whole = dataset.load(papers.cai2021("smoke")).store
    cut = dataset.load(papers.cai2021("smoke").change(max_seconds=2.0)).store
    assert whole.durations.max() > 2.0
    np.testing.assert_allclose(cut.durations, np.minimum(whole.durations, 2.0), atol=1e-3)
    i = int(whole.durations.argmax())
    np.testing.assert_array_equal(cut[i], whole[i][: len(cut[i])])


def test_attributes_and_the_contrastive_term_end_to_end(own_home):
    base = papers.wang2025_baseline("smoke").change(**TINY, freeze="all", hidden=16)
    both = base.change(name="both", tasks=("emotion", "attributes"), alpha=1.0, swfc=0.5)
    alone = base.change(
        name="alone", tasks=("attributes",), attributes="ccc", select="ccc", swfc=0.0
    )
    runs = sweep([both, base.change(name="plain"), alone], progress=False, workers=1)
    scores = runs.runs[0].summary["test"]
    assert {"wa", "ua", "macro_f1", "ccc", "ccc_valence", "rmse"} <= set(scores)
    assert "wa" not in runs.runs[2].summary["test"]
    table = runs.predictions("alone")[0]
    assert table[[*manifest.ATTRIBUTES]].to_numpy().min() >= 1 and table["arousal"].max() <= 7
    truth = corpus.load().set_index("key")["arousal"].reindex(table.index)
    np.testing.assert_allclose(table["arousal_truth"], truth, atol=1e-6)
    for metric in ("ccc", "rmse", "ccc_dominance"):
        found = runs.interval("alone", metric)
        assert found.low <= found.value <= found.high
        if metric != "ccc_dominance":
            assert found.value == pytest.approx(runs.runs[2].summary["test"][metric])
        gap = runs.difference("both", "alone", metric)
        assert gap.value == pytest.approx(found.value - runs.interval("both", metric).value)
    assert not np.allclose(runs.predictions("plain")[0]["p_0"], runs.predictions("both")[0]["p_0"])
    recognizer = inference.Recognizer(runs.runs[2])
    answer = recognizer(dataset.load(alone).store[0])
    assert answer.emotion is None and set(answer.attributes) == set(manifest.ATTRIBUTES)


def test_kept_dev_predictions_are_those_of_the_stored_model(own_home):
    recipe = papers.cai2021("smoke").change(epochs=2)
    run = experiment.run(recipe, progress=False)
    data, model = dataset.load(recipe), experiment.restore(run)
    clips, quantum = inputs.inputs(recipe, data, model.encoder)
    plan = [data.rows("dev")]
    again = evaluation.predict(model, clips.batches(plan, quantum))
    stored = run.predictions("dev").loc[again.index]
    columns = [c for c in again if c.startswith("p_")]
    np.testing.assert_allclose(stored[columns], again[columns], atol=1e-5)
