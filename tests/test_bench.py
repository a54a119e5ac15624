"""The benchmarks and the rehearsal, run small; what they measure is never asserted."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from serbook.plan import architectures, machine
from serbook.runner import chapters
from serlib import __main__ as cli
from serlib import records
from serlib.data import audio
from serlib.data.batching import Clips, collate
from serlib.models.encoders.load import load_encoder
from serlib.recipes import papers
from tests.bench import __main__ as bench
from tests.bench import chain, contenders, cpu, gpu, losses, rehearse, speech, train, turns, weights
from tests.bench.rehearse import RehearsalError

SMALL = dict(device="cpu", seconds=12.0, repeats=1, budget=12.0, layers=1, width=32)


@pytest.fixture(autouse=True)
def _cpu(on_cpu) -> None:
    """All of it on the CPU."""


# --------------------------------------------------------------------------------------- speech


def test_lengths_are_those_of_the_corpus():
    lengths = speech.durations(20_000)
    assert lengths.min() >= 2.75 and lengths.max() <= 11
    assert 20_000 <= lengths.sum() < 20_011
    assert np.mean(lengths) == pytest.approx(5.75, abs=0.15)
    assert len(speech.durations(0.1)) == 2
    store, emotion = speech.corpus(12, 8)
    assert np.array_equal(store.durations, speech.durations(12)) and len(emotion) == len(store)


# ------------------------------------------------------------------------------------- machine


def test_work_takes_turns():
    order = []

    def work(name: str):
        return lambda: order.append(name) or float(len(order))

    found = turns.alternate({"a": work("a"), "b": work("b")}, 2)
    assert order == ["a", "b"] * 3  # the first round is not counted
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    with pytest.raises(ValueError, match="repeats=0"):
        turns.alternate({}, 0)


def test_the_last_rate_of_a_kind_and_a_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    shipped = tmp_path / "machines.jsonl"
    shipped.write_text(json.dumps({"machine": "A", "kind": "x", "train": 1.0}) + "\n\n")
    monkeypatch.setattr(machine, "SHIPPED", shipped)
    assert machine.rates("A")["x"]["train"] == 1.0 and machine.rates("B") == {}
    rehearse.keep({"machine": "A", "kind": "x", "train": 2.0, "peak_gb": float("nan")})
    rehearse.keep({"machine": "B", "kind": "x", "train": 3.0})
    assert machine.rates("A")["x"] == {"machine": "A", "kind": "x", "train": 2.0, "peak_gb": None}


def test_the_table_of_machines_holds_what_was_measured():
    for line in machine.SHIPPED.read_text().splitlines():
        assert {"machine", "kind", "train", "evaluate", "peak_gb", "date"} <= set(json.loads(line))


# ------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", architectures.PUBLISHED)
def test_every_architecture_loads_like_one_from_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    folder = weights.write(name, layers=1, width=32)
    assert weights.write(name, layers=1, width=32) == folder
    encoder = load_encoder(folder)
    assert (encoder.n_layers, encoder.width) == (1, 32)
    assert (encoder.modality == "speech") == (architectures.config(name).model_type != "roberta")


def test_sizes_are_the_published_ones():
    sizes = {"wav2vec2-base": 94.4, "wavlm-base": 94.4, "wavlm-large": 315.5}  # millions
    for short, millions in sizes.items():
        n = architectures.n_parameters(train.SHORT[short])
        assert n / 1e6 == pytest.approx(millions, abs=0.1)
    assert architectures.config("microsoft/wavlm-large").num_hidden_layers == 24
    assert architectures.config("openai/whisper-large-v3").hidden_size == 1280
    assert architectures.config("demo-wavlm").num_hidden_layers == 5
    with pytest.raises(architectures.UnknownArchitectureError, match="nobody"):
        architectures.config("nobody")


@pytest.mark.slow
def test_a_link_of_the_chain(own_home, tmp_path, capsys):
    """One chapter on one small tree, in full; `python -m tests.bench chain` does all."""
    assert bench.CORPORA == tuple(chain.CORPORA)
    given = ["chain", "--chapters", "02", "--corpora", "iemocap", "--utterances", "90"]
    with pytest.raises(SystemExit) as ended:
        bench.main([*given, "--folder", str(tmp_path / "chain")])
    told = capsys.readouterr().out
    assert ended.value.code == 0, told
    assert re.search(r"^02_baseline on iemocap: .* min, 15 runs, ok$", told, re.MULTILINE)
    assert re.search(r"^papermill 02_baseline on .* 0 runs, ok$", told, re.MULTILINE)
    runs = [records.read_json(f) for f in tmp_path.glob("chain/home/runs/*/config.json")]
    trained = [c["recipe"] for c in runs if c["recipe"]["system"] == "fine-tune"]
    assert {r["train"]["epochs"] for r in trained} == {1}
    assert {r["model"]["encoder"] for r in trained} == {
        "facebook/wav2vec2-base", "microsoft/wavlm-large"
    }  # fmt: skip
    assert not list((own_home / "runs").glob("*"))


def test_a_broken_link_names_its_cell(tmp_path, monkeypatch, capsys):
    """A chapter that cannot end: what was raised, and where; and the command fails."""
    told = "code cell 3 of 9:\n\nx = corpus\n\nTraceback\nRecipeError: no clip of train has y\n"
    failed = chapters.ChapterRun("04_x", "full", {}, "k", tmp_path, error=told)
    monkeypatch.setattr(chapters, "execute", lambda *_: failed)
    monkeypatch.setattr(chain, "prepare", lambda folder, corpora, n: {"iemocap": folder})
    with pytest.raises(SystemExit) as ended:
        bench.main(["chain", "--chapters", "04", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and "1 of them failed" in out
    assert "04_x on iemocap: 0.0 min, 0 runs, RecipeError: no clip of train has y" in out
    assert "code cell 3 of 9:\n\nx = corpus" in out


def test_sizes_of_what_lies_here_are_its_own(own_home):
    """A chapter counts the layers of the encoder that it will load."""
    small = weights.write("microsoft/wavlm-large", layers=2, width=32)
    assert architectures.config(str(small)).num_hidden_layers == 2
    assert architectures.config("microsoft/wavlm-large").num_hidden_layers == 24
    there = own_home / "encoders" / "microsoft"
    there.mkdir(parents=True)
    (there / "wavlm-large").symlink_to(small)
    (there / "nobody").symlink_to(small)
    for name in ("wavlm-large", "nobody"):
        made = architectures.config(f"microsoft/{name}")
        assert (made.num_hidden_layers, made.hidden_size) == (2, 32)
    assert architectures.config("microsoft/wavlm-large", layers=1).num_hidden_layers == 1


# ----------------------------------------------------------------------------------- contenders


@pytest.mark.parametrize("name", ["wavlm-large", "wav2vec2-base"])
def test_the_loops_compute_the_same_loss(name):
    found = train.rivals(train.Setup(name, **SMALL))
    assert [c.name for c in found] == [
        "this loop", "Trainer, defaults", "Trainer, group_by_length", "Trainer, best", "plain loop",
    ]  # fmt: skip
    batch = collate([found[0].clips[i] for i in range(2)])
    assert batch.padding > 0
    values = [contenders.loss_of(c, batch, "cpu") for c in found]
    assert values == pytest.approx([values[0]] * 5, abs=1e-5) and values[0] > 0
    attention = [type(c.model.encoder.model.encoder.layers[0].attention) for c in found]
    if name == "wavlm-large":
        assert attention[0] is not attention[1] and len(set(attention[1:])) == 1


class Linear(nn.Module):
    """(B, T, 3) to 2 classes by one matrix, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(3, 2, bias=False)

    def forward(self, batch):
        return {"emotion": self.matrix(batch.inputs).mean(1)}


def toy(lengths=(4, 6, 10)) -> contenders.Contender:
    clips = Clips([torch.ones(n, 3) for n in lengths], "abc", [0.5, 1.0, 1.5], emotion=[0, 1, 0])
    plan = [[0, 1], [2]]
    return contenders.Contender("toy", Linear(), clips, lambda: 2.0, lambda: plan, quantum=4)


def test_padding_and_clips_per_step_by_hand():
    # [4, 6] is padded to 8, [10] to 12: 20 frames of 28
    assert toy().padding() == pytest.approx(1 - 20 / 28)
    assert toy().clips_per_step() == 1.5


def test_work_by_hand():
    # Forward 2 · 3 · 2 per frame, and as much for the gradient of the matrix; inputs have none.
    found = train.flops_per_second(toy(), train.Setup(**SMALL))
    assert found == pytest.approx(20 * 2 * (2 * 3 * 2) / 3.0)


def test_each_clip_comes_once_at_random():
    plan = contenders.random_plan(7, 3)
    assert [len(places) for places in plan] == [3, 3, 1] and sorted(sum(plan, [])) == [*range(7)]
    assert contenders.random_plan(7, 3, 1) != plan == contenders.random_plan(7, 3)


def test_the_trainer_takes_a_recipes_rates():
    config = replace(train.Setup(**SMALL).recipe()[1], lr_head=0.5, warmup=0.5, schedule="linear")
    model = Linear()
    model.encoder_parameters = lambda: []
    model.head_parameters = model.parameters
    optimizer, schedule = contenders._optimizers(model, config, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.125, 0.375, 0.375, 0.125])  # as `loop.fit`, mid-step


# ------------------------------------------------------------------------------------ commands


def test_train_runs_small(capsys):
    arguments = ["train", "--model", "demo", "--device", "cpu", "--seconds", "8"]
    small = ["--budget", "12", "--repeats", "1", "--layers", "1", "--only", "rivals", "--markdown"]
    bench.main([*arguments, *small])
    shown = capsys.readouterr().out
    for name in (
        "this loop",
        "Trainer, defaults",
        "Trainer, best",
        "plain loop",
        "TFLOP/s",
        "date",
    ):
        assert name in shown


def test_every_switch_gets_a_row(monkeypatch):
    monkeypatch.setattr(train, "compiler", lambda device: True)
    setup = train.Setup("wav2vec2-base", **SMALL)
    names = [name for name, _ in train.switches(setup)]
    assert names == [
        "this loop", "random batches", "lengths as they are", "with bf16", "stock group norm",
        "CNN trained too", "with stored CNN outputs", *train.ADDED,
    ]  # fmt: skip
    assert "stock attention" in dict(train.switches(replace(setup, model="wavlm-base")))
    made = dict(train.switches(setup))
    stored = made["with stored CNN outputs"]()
    assert stored.clips[0].input.shape[1] == 32 and stored.epoch() > 0
    assert made["random batches"]().plan() != made["this loop"]().plan()
    norms = [made[n]().model.encoder.masked_group_norm for n in ("this loop", "stock group norm")]
    assert norms == [True, False]
    trained = made["CNN trained too"]().model.encoder.model.feature_extractor.parameters()
    assert all(p.requires_grad for p in trained)


def test_what_can_be_added_is_added(monkeypatch):
    setup = train.Setup("wavlm-base", **SMALL)
    monkeypatch.setattr(train, "compiler", lambda device: False)
    assert [name for name, _ in train.switches(setup)][-1] == "with gradient checkpointing"
    monkeypatch.setattr(train, "compiler", lambda device: True)
    made = {name: make for name, make in train.switches(setup) if name in train.ADDED}
    whole = setup.make()
    lora, again, compiled = (make() for make in made.values())
    (layer,) = compiled.model.encoder.stack
    assert layer._compiled_call_impl is not None  # what torch.compile made, not yet called
    learning = [n for n, p in lora.model.encoder.named_parameters() if p.requires_grad]
    assert len(learning) == 4 and all("lora_" in name for name in learning)
    for contender in (lora, again):
        assert contender.epoch() > 0
        for name, weight in whole.encoder.model.feature_extractor.named_parameters():
            there = contender.model.encoder.model.feature_extractor.get_parameter(name)
            assert torch.equal(there, weight)  # the same weights to start from


def test_what_is_computed_again_is_no_work():
    setup = train.Setup("wav2vec2-base", **SMALL)
    made = dict(train.switches(setup))
    again = made["with gradient checkpointing"]()
    work = train.flops_per_second(made["this loop"](), setup)
    assert train.flops_per_second(again, setup) == work
    assert again.model.encoder.model.is_activation_checkpointing  # as before


def test_a_compiler_is_looked_for(monkeypatch):
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    for there, device, found in (
        ("g++", "cpu", True), ("gcc", "cpu", False), ("gcc", "cuda", True), ("", "cuda", False),
    ):  # fmt: skip
        monkeypatch.setattr(train.shutil, "which", lambda name, there=there: name == there)
        assert train.compiler(device) == found
    monkeypatch.setenv("CXX", "/opt/g++")
    assert train.compiler("cpu")


@pytest.mark.slow
def test_cpu_runs_small():
    table = cpu.fine_tune("smoke", 1)
    assert list(table.index) == ["this loop", "Trainer", "plain loop"]
    assert ((table["UA"] > 0) & (table["UA"] <= 1)).all()
    starts = cpu.start_up(1)
    assert list(starts.index) == list(cpu.STARTS)


def test_losses_are_shown(capsys, monkeypatch):
    small = functools.partial(losses.run, sizes=(3,), n_frames=20, width=8)
    monkeypatch.setattr(losses, "run", small)
    bench.main(["losses", "--repeats", "1", "--markdown"])
    shown = capsys.readouterr().out
    for name in ("SWFC", "CTC", "statistics pooling", "loop ms", "1 repeats", "date"):
        assert name in shown


# ----------------------------------------------------------------------------------- rehearsal


class Done:
    """A record of two epochs over three clips."""

    def __init__(self, clips=(3, 3), epochs=(1, 2), keys="xy") -> None:
        self.table, self.keys = pd.DataFrame({"epoch": epochs, "clips": clips}), list(keys)

    def history(self):
        return self.table

    def predictions(self, role):
        return pd.DataFrame(index=self.keys)


class ThreeRows:
    """Data of three clips to train on, and two to predict, of both other roles."""

    table = pd.DataFrame({"key": list("abcxy")})

    def rows(self, role):
        return np.array([0, 1, 2]) if role == "train" else np.array([3, 4])


@pytest.mark.parametrize(
    ("done", "before", "words"),
    [
        (Done(), Done().table[:1], ""),
        (Done(clips=(3, 2)), Done().table[:1], "train has 3"),
        (Done(epochs=(1, 3)), Done().table[:1], "epochs, of 2"),
        (Done(), Done(clips=(2, 3)).table[:1], "not what they were"),
        (Done(keys="x"), Done().table[:1], "dev has 2"),
        (Done(keys="xyy"), Done().table[:1], "dev has 2"),
    ],
)
def test_a_training_that_loses_something_is_refused(done, before, words):
    recipe = papers.cai2021("full", epochs=2)
    if not words:
        rehearse._check(recipe, ThreeRows(), done, before)
        return
    with pytest.raises(RehearsalError, match=words):
        rehearse._check(recipe, ThreeRows(), done, before)


@pytest.mark.slow
def test_a_rehearsal_is_killed_and_goes_on(tmp_path, monkeypatch, write_chapter):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    path = write_chapter("""
    # %% tags=["parameters"]
    profile = "full"

    # %% tags=["recipes"]
    from serlib.recipes import papers
    asked = papers.cai2021(profile, alpha=0.1).vary(seed=[0, 1])
    """)
    stage = rehearse.Stage(steps=2, utterances=60, device="cpu", layers=1, width=32)
    table = rehearse.run([path], stage)
    (row,) = table.to_dict("records")
    assert row["chapters"] == "01" and row["steps"] >= 2 and row["killed"] >= 1
    assert row["train"] > 0 and row["evaluate"] > 0 and row["peak_gb"] is None
    assert machine.rates(machine.device_name("cpu")) == {}  # not at full size


def test_a_plan_says_how_much_its_rates_rest_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    kind, here = "facebook/wav2vec2-base, nothing frozen, 2 clips", machine.device_name("cpu")
    rate = {"kind": kind, "machine": here, "train": 2.0, "evaluate": 4.0, "peak_gb": None}
    rehearse.keep(rate | {"steps": 2, "date": "2026-11-22"})
    assert cli.main(["plan", "--chapters", "03", "--machine", here]) == 0
    shown = capsys.readouterr().out
    assert f"rate of {kind}: 2 s of audio per second (2 steps, 2026-11-22)" in shown


def test_what_a_gpu_is_asked_runs_small_on_a_cpu():
    setup = train.Setup("wavlm-large", **SMALL)
    assert gpu.kernels(setup).total() == 1  # one layer
    table = gpu.precisions(setup)
    assert 0 < table["largest difference"].iloc[0] < 0.05 < table["mean loss"].iloc[0]


def test_samples_are_whole():
    samples = speech.durations(50) * audio.SAMPLE_RATE
    assert np.array_equal(samples, samples.round())
