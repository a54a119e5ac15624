"""Fusions from files to scores: phases, transcripts at test time, runs that are found again."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from encoder_toys import make_roberta, make_whisper
from model_toys import tiny_folders, tone
from serlib import __main__ as cli
from serlib.data import audio, manifest, tables
from serlib.experiments import dataset, experiment, inference
from serlib.experiments.inputs import QUANTUM, inputs, transcripts
from serlib.experiments.sweep import sweep
from serlib.models import fusion
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe, RecipeError
from serlib.training import evaluation, loop

WORDS = ("so what", "oh dear", "well done", "watch out")
CLASSES = manifest.CLASSES_8[:4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny experts: two of speech, one of text."""
    made = {"wavlm": tiny_folders(tmp_path_factory)("wavlm", "layer")}
    for name, make in (("whisper", make_whisper), ("roberta", make_roberta)):
        folder = tmp_path_factory.mktemp(name)
        make(folder)
        made[name] = str(folder)
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """48 tones of four classes with words, eight talkers, and attributes; some of both missing."""
    root, rows = tmp_path_factory.mktemp("corpus"), []
    roles = {"train": range(4), "dev": range(4, 6), "test": range(6, 8)}
    for i in range(48):
        talker = i % 8
        split = next(role for role, talkers in roles.items() if talker in talkers)
        wave = tone(i // 8, 0.2 + 0.05 * (i % 5))
        audio.save(root / f"{i}.wav", wave)
        c = i // 8 % 4
        rows.append({
            "key": f"k{i:02d}", "dataset": "toy", "utt_id": f"u{i:02d}", "wav": f"{i}.wav",
            "length": len(wave) / 16_000, "emotion": CLASSES[c], "speaker": f"s{talker}",
            "group": f"s{talker}", "split": split, "text": None if i == 9 else WORDS[c],
            "valence": np.nan if i == 3 else 1.5 + c, "arousal": 5.0 - c, "dominance": 4.0,
        })  # fmt: skip
    tables.write(pd.DataFrame(rows), root / "toy.csv")
    return root


@pytest.fixture
def home(tmp_path, monkeypatch, on_cpu):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def base(folders, corpus):
    """The recipe of the first phase, on the little corpus."""
    return small(papers.zgorzynski2025("full", "toy", str(corpus)), folders)


def small(recipe: Recipe, folders: dict[str, str]) -> Recipe:
    experts = (folders["whisper"], folders["wavlm"], folders["roberta"])
    shared = dict(experts=experts, width=8, hidden=8, bottleneck=4, n_classes=4, classes=CLASSES)
    if recipe.start is not None:
        recipe = dataclasses.replace(recipe, start=small(recipe.start, folders))
    return recipe.change(**shared, epochs=2, dropout=0.0, warmup=0.0, lr_head=1e-2)


def phase(name: str, folders, corpus) -> Recipe:
    return small(papers.zgorzynski2025("full", "toy", str(corpus), phase=name), folders)


def weights(run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.path / "model.safetensors")


def test_two_phases_end_to_end(home, base, folders, corpus):
    first = experiment.run(base, progress=False)
    test = first.predictions("test")
    assert len(test) == 12 and first.done
    assert {"macro_f1", "ccc", "ccc_valence", "rmse"} <= set(first.summary["test"])
    assert test[["valence", "arousal", "dominance"]].apply(lambda x: x.between(1, 7)).all(axis=None)
    history = first.history()
    both = (history["dev_macro_f1"] + history["dev_ccc"]) / 2
    assert history["dev_both"].tolist() == pytest.approx(both.tolist())
    assert not any(name.startswith("encoders") for name in weights(first))

    stored = {p.name: p.stat().st_mtime_ns for p in (home / "features").glob("*.bin")}
    assert len(stored) == 3
    second = experiment.run(phase("emotion", folders, corpus), progress=False)
    assert "ccc" not in second.summary["test"] and "macro_f1" in second.summary["test"]
    third = experiment.run(phase("attributes", folders, corpus), progress=False)
    assert "ccc" in third.summary["test"] and "macro_f1" not in third.summary["test"]
    runs = [p for p in (home / "runs").iterdir() if p.is_dir()]
    assert len(runs) == 3, "both second phases start from one first phase"
    assert {p.name: p.stat().st_mtime_ns for p in (home / "features").glob("*.bin")} == stored


def test_the_second_phase_starts_from_the_first_ones_weights(home, base, folders, corpus):
    still = phase("emotion", folders, corpus).change(lr_head=0.0)
    second, first = (experiment.run(r, progress=False) for r in (still, still.start))
    assert second.path != first.path
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) == 0
    fresh = fusion.Fusion(still.model, {n: 24 for n in still.model.experts}).state_dict()
    assert max(float((a[name] - fresh[name]).abs().max()) for name in a) > 0
    moved = weights(experiment.run(still.change(lr_head=1e-2), progress=False))
    assert max(float((a[name] - moved[name]).abs().max()) for name in a) > 0
    one, other = (r.predictions("test").filter(like="p_") for r in (first, second))
    np.testing.assert_array_equal(one, other)


def test_a_start_that_does_not_fit_is_named(home, base):
    narrow = base.change(width=6, epochs=1)
    with pytest.raises(RecipeError, match=r"cannot start from .*\d+ weights do not fit, such as"):
        experiment.run(dataclasses.replace(base, start=narrow), progress=False)
    more = base.change(experts=base.model.experts[:2], epochs=1)
    with pytest.raises(RecipeError, match="not there"):
        experiment.run(dataclasses.replace(base, start=more), progress=False)


def test_a_restored_fusion_answers_as_the_run_did(home, base, tmp_path):
    run = experiment.run(base, progress=False)
    moved = shutil.copytree(run.path, tmp_path / "moved")
    shutil.rmtree(run.path)
    model = experiment.restore(type(run)(moved))
    data = dataset.load(base)
    experts = fusion.load(base.model)
    clips, quantum = inputs(base, data, experts)
    rows = data.rows("test")
    again = evaluation.predict(model, clips.batches([rows[::-1]], quantum))
    stored = type(run)(moved).predictions("test").loc[again.index]
    for column in [*(f"p_{c}" for c in range(4)), "valence", "arousal", "dominance"]:
        np.testing.assert_allclose(again[column], stored[column], atol=1e-5)


def test_an_interrupted_phase_ends_where_an_uninterrupted_one_does(
    home, folders, corpus, monkeypatch, tmp_path
):
    recipe, calls = phase("emotion", folders, corpus), []
    whole = experiment.run(recipe, progress=False).predictions("test")
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "other"))
    experiment.run(recipe.start, progress=False)

    def once(evaluate, model, scores=loop.dev_scores):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scores(evaluate, model)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "dev_scores", once)
        experiment.run(recipe, progress=False)
    run = experiment.run(recipe, progress=False)
    assert len(run.history()) == 2
    pd.testing.assert_frame_equal(run.predictions("test"), whole)


def test_other_transcripts_at_test_time_need_no_training(home, base, monkeypatch):
    told = experiment.run(base, progress=False)
    monkeypatch.setattr(loop, "fit", None)  # nobody may train
    silent = experiment.run(base.change(transcript="none"), progress=False)
    assert silent.path != told.path and silent.summary["model"] == told.path.name
    assert not (silent.path / "model.safetensors").exists()
    a, b = (r.predictions("test") for r in (told, silent))
    assert list(a.index) == list(b.index) and not np.allclose(a["p_0"], b["p_0"])
    assert a["valence_truth"].equals(b["valence_truth"])

    # the same in another way: every text is empty, in the manifest itself
    data = dataset.load(base)
    experts, model = fusion.load(base.model), experiment.trained(base)
    clips, quantum = inputs(base, data, experts, texts=[""] * len(data.table))
    again = evaluation.predict(model, clips.batches([data.rows("test")], quantum))
    np.testing.assert_allclose(again["p_0"], b["p_0"], atol=1e-6)

    deaf = base.change(experts=base.model.experts[:2], transcript="none")
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="none of the experts reads text"):
        experiment.run(deaf, progress=False)


def test_recognized_transcripts_come_from_another_run(home, base, folders, corpus):
    listener = papers.wang2025("full", "toy", str(corpus)).change(
        encoder=folders["wavlm"], classes=CLASSES, n_classes=4, tasks=("emotion", "asr"),
        hidden=8, epochs=1, spec_augment=0.0,
    )  # fmt: skip
    recipe = base.change(transcript="recognized", recognizer=listener)
    assert [r.name for r in experiment.needs(recipe)] == [listener.name, base.name]
    run = experiment.run(recipe, progress=False)
    heard = experiment.run(listener).predictions("test")["hypothesis"]
    data = dataset.load(base)
    texts = transcripts(recipe, data, heard.to_dict() | dict.fromkeys(
        data.table["key"][data.rows("dev")], "x"))  # fmt: skip
    rows = data.rows("test")
    heard = heard.loc[data.table["key"][rows]]
    assert [texts[i].rstrip(".").upper() for i in rows] == heard.tolist()
    assert run.summary["test"]["n"] == 12
    (found,) = sweep([recipe], progress=False).runs
    assert found.path == run.path


def test_training_reads_the_manifest_whatever_dev_and_test_read(base):
    data = dataset.load(base)
    train, judged = data.rows("train"), np.r_[data.rows("dev"), data.rows("test")]
    said = transcripts(base, data)
    at = data.table["key"].tolist().index("k09")
    assert said[at] == "" and set(said) == {*WORDS, ""}
    silent = transcripts(base.change(transcript="none"), data)
    assert [silent[i] for i in train] == [said[i] for i in train]
    assert {silent[i] for i in judged} == {""}
    asked = base.change(transcript="recognized", recognizer=papers.cai2021())
    keys = data.table["key"]
    heard = dict.fromkeys(keys[judged], "HM I SEE")
    told = transcripts(asked, data, heard)
    assert {told[i] for i in judged} == {"Hm I see."} and [told[i] for i in train] == [
        said[i] for i in train
    ]
    del heard[keys[judged[0]]]
    with pytest.raises(
        RecipeError, match=f"no hypothesis for 1 utterances, such as {keys[judged[0]]}"
    ):
        transcripts(asked, data, heard)
    untold = dataclasses.replace(data, table=data.table.drop(columns="text"))
    with pytest.raises(RecipeError, match="no column 'text'"):
        transcripts(base, untold)


def test_each_text_is_encoded_once_and_others_are_refused(home, base):
    data = dataset.load(base)
    name = base.model.experts[2]
    experts = {name: fusion.load(base.model)[name]}
    texts = transcripts(base, data)
    clips, quantum = inputs(base, data, experts, texts=texts, roles=("test",))
    store = clips.inputs[name]
    assert len(store) == len(data.table) and len(store.store) <= len(WORDS) + 1
    inside, outside = data.rows("test")[0], data.rows("train")[0]
    ids = experts[name].prepare(texts[inside])
    assert store[inside].shape == (len(ids), 24) and quantum == {name: QUANTUM}
    frames = experts[name](torch.from_numpy(ids)[None], torch.tensor([len(ids)])).frames[0]
    torch.testing.assert_close(store[inside].float(), frames.detach(), atol=5e-3, rtol=1e-3)
    with pytest.raises(IndexError, match="not asked for"):
        store[outside]


def test_fine_tuned_experts_start_as_the_frozen_ones_and_are_kept(home, base):
    frozen = experiment.run(base, progress=False)
    tuned = dataclasses.replace(base, start=base).change(
        tuned=(base.model.experts[1], base.model.experts[2]), epochs=1
    )
    assert tuned.start == base
    still = experiment.run(tuned.change(lr_head=0.0, lr_encoder=0.0, start=base), progress=False)
    a, b = (r.predictions("test") for r in (frozen, still))
    np.testing.assert_allclose(a["p_0"], b["p_0"], atol=5e-3)  # float16 frames, and exact ones
    moved = experiment.run(tuned.change(lr_encoder=1e-3, start=base), progress=False)
    before, after = weights(still), weights(moved)
    changed = {k.split(".")[1] for k in after if k.startswith("encoders")
               and not torch.equal(before[k], after[k])}  # fmt: skip
    assert changed == {fusion.key(name) for name in tuned.model.tuned}
    cnn = [k for k in after if "feature_extractor" in k]
    assert cnn and all(torch.equal(before[k], after[k]) for k in cnn), "the CNN stays"
    model = experiment.restore(moved)
    for name, value in after.items():
        assert torch.equal(model.state_dict()[name], value)
    silent = experiment.run(tuned.change(transcript="none", start=base), progress=False)
    assert silent.summary["test"]["n"] == 12


def test_what_decides_a_result_is_in_the_name_of_its_run(home, base, folders, corpus):
    turned = base.change(experts=base.model.experts[::-1])
    second = phase("attributes", folders, corpus)
    different = [
        base, turned, base.change(fusion="concat"), base.change(transcript="none"),
        base.change(alpha_attributes=0.5), base.change(tuned=base.model.experts[1:2]), second,
        second.change(sigma=2.0), dataclasses.replace(second, start=None),
        dataclasses.replace(second, start=second.start.change(lr_head=2e-2)),
        base.change(transcript="recognized", recognizer=papers.cai2021("demo")),
        base.change(transcript="recognized", recognizer=papers.cai2021("demo", alpha=0.1)),
    ]  # fmt: skip
    assert len({experiment.record(r).path for r in different}) == len(different)
    renamed = dataclasses.replace(second, start=second.start.change(name="x"))
    assert experiment.record(renamed).path == experiment.record(second).path


def test_a_sweep_runs_first_what_others_start_from(home, folders, corpus):
    asked = [phase("emotion", folders, corpus), phase("attributes", folders, corpus)]
    asked = [r.change(transcript=t) for r in asked for t in ("manifest", "none")]
    runs = sweep(asked, progress=False, workers=1)
    assert all(run.done for run in runs.runs)
    assert len(list((home / "runs").glob("fusion-*/status.json"))) == 5


def test_a_recognizer_of_a_fusion_hears_and_reads(home, base, corpus, capsys):
    run = experiment.run(base, progress=False)
    recognizer, test = inference.Recognizer(run), run.predictions("test")
    data = dataset.load(base)
    for i in data.rows("test")[:3]:
        row = test.loc[data.table["key"][i]]
        answer = recognizer(data.store[i], data.table["text"][i])
        for c, name in enumerate(CLASSES):  # float16 frames there, exact ones here
            assert answer.probabilities[name] == pytest.approx(row[f"p_{c}"], abs=5e-3)
        assert answer.attributes["valence"] == pytest.approx(row["valence"], abs=2e-2)
        silent = recognizer(data.store[i])
        assert silent.probabilities != answer.probabilities
    files = [str(corpus / f"{i}.wav") for i in (6, 7)]
    assert cli.main(["predict", str(run.path), files[0], "--text", "oh dear"]) == 0
    assert "valence" in capsys.readouterr().out
    assert cli.main(["predict", str(run.path), *files, "--text", "oh dear"]) == 1
    assert "--text belongs to one FILE" in capsys.readouterr().err
    with pytest.raises(inference.InferenceError, match="a fusion takes streams"):
        inference.respond(recognizer.model, [data.store[0]], ["emotion"])


def test_a_run_that_several_recipes_need_is_trained_once(home, folders, corpus):
    from serlib.experiments import sweep as module

    asked = [phase(p, folders, corpus) for p in ("emotion", "attributes")]
    starts = [first for r in asked for first in experiment.needs(r)]
    assert len(starts) == 2 and module._missing(starts) == starts[:1]
    again = asked[0].change(name="again")
    assert len(module._missing([*asked, again, papers.floor("majority")])) == 2
    experiment.run(starts[0], progress=False)
    assert module._missing(starts) == []
