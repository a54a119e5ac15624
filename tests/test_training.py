"""The loop on a toy model whose steps can be followed by hand, and once on a tiny encoder."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from serlib import bookkeeping, evaluation, losses, records, training
from serlib.batching import Batch
from serlib.training import TrainConfig, fit


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


class Toy(nn.Module):
    """Frames (B, T, 3) -> "encoder" -> mean over time -> dropout -> head."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"emotion": self.head(self.norm(self.encoder(batch.inputs).mean(dim=1)))}

    def encoder_parameters(self):
        return self.encoder.parameters()

    def head_parameters(self):
        return [*self.norm.parameters(), *self.head.parameters()]


def toy_batch(start: int, size: int, n_frames: int = 4, seconds: float = 1.0) -> Batch:
    """Clips start to start + size; the class is the sign of the first channel."""
    generator = torch.Generator().manual_seed(100 + start)
    emotion = torch.arange(start, start + size) % 2
    inputs = torch.randn(size, n_frames, 3, generator=generator)
    inputs[:, :, 0] += 2.0 * emotion[:, None] - 1.0
    return Batch(
        inputs=inputs,
        lengths=torch.full((size,), n_frames),
        emotion=emotion,
        keys=[f"clip{i}" for i in range(start, start + size)],
        index=torch.arange(start, start + size),
        seconds=seconds * size,
    )


def toy_batches(epoch: int) -> list[Batch]:
    """Three batches of different sizes, in an order that depends on the epoch."""
    batches = [toy_batch(0, 4), toy_batch(4, 4), toy_batch(8, 3)]
    return [batches[(epoch + i) % 3] for i in range(3)]


def cross_entropy(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    return losses.cross_entropy(outputs["emotion"], batch.emotion)


def noisy_cross_entropy(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Draws from all three random generators, so that a resumed run must restore each."""
    noise = 1 + 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * torch.rand(())
    return cross_entropy(outputs, batch) * noise


def dev_scores(model: nn.Module) -> dict[str, float]:
    table = evaluation.predict(model, [toy_batch(20, 8)])
    return evaluation.score(table, 2)


def scripted(scores: list[float], name: str = "ua", seen: list | None = None):
    """An ``evaluate`` that gives these scores in turn, and notes the weights it saw."""
    pending = iter(scores)

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        if seen is not None:
            seen.append(bookkeeping.copy_weights(model))
        return {name: next(pending)}

    return evaluate


def settings(**changes) -> TrainConfig:
    values = {"epochs": 4, "lr_encoder": 0.01, "lr_head": 0.02, "precision": "fp32"}
    return TrainConfig(**{**values, **changes})


def open_run(folder: Path) -> records.Run:
    return records.Run.open(folder, {"test": 1}, key="run")


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def lasting(history: pd.DataFrame) -> pd.DataFrame:
    """The columns that do not depend on the clock."""
    clock = ["seconds", "train_seconds", "audio_seconds_per_second"]
    return history.drop(columns=clock)


# ------------------------------------------------------------------ what training does


def test_it_learns_and_reports_what_it_did():
    model = Toy()
    config = settings(epochs=20)
    history = fit(model, cross_entropy, toy_batches, dev_scores, config, progress=False)
    assert history["epoch"].tolist() == list(range(1, 21))
    assert history["loss"].iloc[-1] < 0.2 < history["loss"].iloc[0]
    assert history["dev_ua"].max() == 1.0
    assert (history["steps"] == 3).all() and (history["clips"] == 11).all()
    assert not model.training
    assert dev_scores(model)["ua"] == 1.0


def test_same_seed_same_predictions_other_seed_others():
    def predictions(seed: int) -> pd.DataFrame:
        model = Toy(dropout=0.5)
        fit(model, cross_entropy, toy_batches, dev_scores, settings(seed=seed), progress=False)
        return evaluation.predict(model, [toy_batch(20, 8)])

    first = predictions(1)
    torch.rand(7), np.random.rand(3), random.random()  # the state before a fit must not matter
    pd.testing.assert_frame_equal(first, predictions(1), check_exact=True)
    assert not np.allclose(first["p_0"], predictions(2)["p_0"])


def step_once(batches: list[Batch], accumulate: int) -> tuple[dict, dict]:
    """Weights after plain gradient steps of size 1 (so gradients, not Adam's, are seen)."""
    model = Toy()
    groups = [{"params": list(model.parameters()), "peak": 1.0, "name": "all"}]
    config = settings(epochs=1, accumulate=accumulate, clip=None, schedule="constant", warmup=0.0)
    with training.isolated_accelerator() as accelerator:
        wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(groups, lr=1.0))
        report = bookkeeping.Report(1, shown=False)
        row = training.train_epoch(
            1, wrapped, optimizer, cross_entropy, batches, config, accelerator, report
        )
    return row, bookkeeping.copy_weights(model)


def join(*batches: Batch) -> Batch:
    return Batch(
        inputs=torch.cat([b.inputs for b in batches]),
        lengths=torch.cat([b.lengths for b in batches]),
        emotion=torch.cat([b.emotion for b in batches]),
        keys=[key for b in batches for key in b.keys],
        index=torch.cat([b.index for b in batches]),
        seconds=sum(b.seconds for b in batches),
    )


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3), (2, 3, 3)])
def test_accumulating_equals_one_large_batch(sizes):
    # Exact for losses that are a mean over clips; a class-weighted mean divides by the weights of
    # each batch instead, and differs.
    starts = np.cumsum((0, *sizes))
    parts = [toy_batch(int(s), n) for s, n in zip(starts, sizes, strict=False)]
    row_parts, parts_weights = step_once(parts, accumulate=len(parts))
    row_whole, whole_weights = step_once([join(*parts)], accumulate=1)
    assert row_parts["steps"] == row_whole["steps"] == 1
    assert row_parts["gradient_norm"] == pytest.approx(row_whole["gradient_norm"], rel=1e-5)
    assert row_parts["loss"] == pytest.approx(row_whole["loss"], rel=1e-6)
    for name in whole_weights:
        torch.testing.assert_close(parts_weights[name], whole_weights[name], rtol=0, atol=1e-6)


def test_the_tail_of_an_epoch_makes_a_full_step():
    one, two, tail = toy_batch(0, 4), toy_batch(4, 4), toy_batch(8, 2)
    row, weights = step_once([one, two, tail], accumulate=2)
    assert row["steps"] == 2
    row_whole, expected = step_once([join(one, two), tail], accumulate=1)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    _, dropped = step_once([one, two], accumulate=2)
    assert not torch.allclose(weights["head.1.weight"], dropped["head.1.weight"], atol=1e-3)


def test_clipping_limits_the_step_but_not_the_norm_that_is_reported(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = settings(epochs=1, clip=0.05)
    history = fit(Toy(), cross_entropy, toy_batches, dev_scores, config, progress=False)
    assert max(norms) <= 0.05 * 1.001
    assert history["gradient_norm"][0] > 0.06


def test_gradients_left_on_the_model_do_not_count():
    fresh, used = Toy(), Toy()
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    for model in (fresh, used):
        fit(model, cross_entropy, toy_batches, dev_scores, settings(epochs=1), progress=False)
    assert_same_weights(fresh.state_dict(), used.state_dict())


# ------------------------------------------------------------------ optimizer and schedule


def test_learning_rates_by_hand():
    config = settings(epochs=2, warmup=0.25, schedule="linear")
    scale = training.learning_rate_scale
    assert scale(0.125, config) == 0.5
    assert scale(0.25, config) == 1.0
    assert scale(0.625, config) == 0.5
    assert scale(1.0, config) == 0.0
    cosine = settings(schedule="cosine", warmup=0.0)
    assert scale(1 / 3, cosine) == pytest.approx(0.75)  # (1 + cos 60°) / 2
    constant = settings(schedule="constant", warmup=0.5)
    assert [scale(done, constant) for done in (0.25, 0.5, 0.9)] == [0.5, 1.0, 1.0]


def test_learning_rates_in_the_loop():
    # 2 epochs of 3 steps, linear from the first: middle of the last step of epoch 1 is 2.5 / 6.
    config = settings(epochs=2, warmup=0.0, schedule="linear", lr_encoder=0.6, lr_head=1.2)
    history = fit(Toy(), cross_entropy, toy_batches, dev_scores, config, progress=False)
    np.testing.assert_allclose(history["lr_encoder"], [0.6 * 3.5 / 6, 0.6 * 0.5 / 6])
    np.testing.assert_allclose(history["lr_head"], [1.2 * 3.5 / 6, 1.2 * 0.5 / 6])


def test_groups_of_the_optimizer():
    model = Toy()
    optimizer = training.make_optimizer(model, settings(weight_decay=0.1))
    found = {
        (group["name"], group["weight_decay"], group["peak"]): {id(p) for p in group["params"]}
        for group in optimizer.param_groups
    }
    encoder, head = model.encoder[0], model.head[1]
    assert found == {
        ("encoder", 0.1, 0.01): {id(encoder.weight)},
        ("encoder", 0.0, 0.01): {id(encoder.bias)},
        ("head", 0.1, 0.02): {id(head.weight)},
        ("head", 0.0, 0.02): {id(head.bias), id(model.norm.weight), id(model.norm.bias)},
    }


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_parameter_is_trained_once_whatever_the_decay(decay):
    model = Toy()
    optimizer = training.make_optimizer(model, settings(weight_decay=decay))
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())


def test_parameters_that_are_in_no_part_or_frozen_altogether_are_refused():
    lost = Toy()
    lost.more = nn.Linear(2, 2)
    frozen = Toy().requires_grad_(False)
    doubled = Toy()
    doubled.head_parameters = doubled.parameters
    for model in (lost, frozen, doubled):
        with pytest.raises(ValueError, match="each must be in one"):
            fit(model, cross_entropy, toy_batches, dev_scores, settings(), progress=False)


def test_frozen_parameters_stay():
    model = Toy()
    model.encoder.requires_grad_(False)
    before = bookkeeping.copy_weights(model)
    history = fit(model, cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    after = model.state_dict()
    assert torch.equal(before["encoder.0.weight"], after["encoder.0.weight"])
    assert not torch.equal(before["head.1.weight"], after["head.1.weight"])
    assert "lr_encoder" not in history


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"lr_head": -1.0}, {"lr_encoder": math.nan}, {"warmup": 1.0}, {"clip": 0.0},
        {"schedule": "triangle"}, {"accumulate": 0}, {"precision": "fp16"}, {"patience": 0},
        {"patience": 2, "select": "last"}, {"seed": -1}, {"budget_seconds": 0.0},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        settings(**change)


# ------------------------------------------------------------------ choosing the epoch


def test_the_best_epoch_is_restored_and_training_stops_early():
    seen: list[dict] = []
    evaluate = scripted([0.2, 0.6, 0.6, 0.5, 0.9], seen=seen)
    model = Toy()
    config = settings(epochs=9, patience=2)
    history = fit(model, cross_entropy, toy_batches, evaluate, config, progress=False)
    assert history["dev_ua"].tolist() == [0.2, 0.6, 0.6, 0.5]  # 2 epochs without a better one
    assert history["best"].tolist() == [True, True, False, False]
    assert_same_weights(model.state_dict(), seen[1])


@pytest.mark.parametrize(
    ("select", "scores", "chosen"),
    [
        ("ua", [0.1, 0.3, 0.2], 2),
        ("-wer", [0.9, 0.4, 0.7], 2),
        ("ua", [math.nan, 0.0, math.nan], 2),  # NaN never wins, and does not block
        ("ua", [0.5, math.nan, 0.5], 1),
        ("last", [0.9, 0.1, 0.1], 3),
    ],
)
def test_which_epoch_is_chosen(select, scores, chosen, tmp_path):
    name = {"ua": "ua", "-wer": "wer", "last": "ua"}[select]
    for run in (None, open_run(tmp_path)):
        seen: list[dict] = []
        model = Toy()
        evaluate = scripted(scores, name, seen)
        config = settings(epochs=3, select=select)
        fit(model, cross_entropy, toy_batches, evaluate, config, run, progress=False)
        assert_same_weights(model.state_dict(), seen[chosen - 1])


def test_last_needs_no_dev_set():
    config = settings(epochs=2, select="last")
    history = fit(Toy(), cross_entropy, toy_batches, lambda model: {}, config, progress=False)
    assert history["best"].tolist() == [True, True]


def test_a_missing_dev_score_and_one_that_is_never_a_number():
    with pytest.raises(ValueError, match="select='ua'.*dev_wa"):
        evaluate = scripted([0.5], "wa")
        fit(Toy(), cross_entropy, toy_batches, evaluate, settings(), progress=False)
    with pytest.raises(ValueError, match="check the dev set"):
        evaluate = scripted([math.nan] * 2)
        fit(Toy(), cross_entropy, toy_batches, evaluate, settings(epochs=2), progress=False)


def test_a_dev_set_of_one_clip():
    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluation.score(evaluation.predict(model, [toy_batch(21, 1)]), 2)

    history = fit(Toy(), cross_entropy, toy_batches, evaluate, settings(), progress=False)
    assert set(history["dev_ua"]) <= {0.0, 1.0} and (history["dev_n"] == 1).all()


# ------------------------------------------------------------------ killed and resumed


class Kill(BaseException):
    """Like a signal, not caught by ``except Exception``."""


def kill_on_call(monkeypatch, owner: object, name: str, call: int) -> None:
    """Make the given call (from 1) of a function die before it does anything."""
    original, count = getattr(owner, name), iter(range(1, 10_000))

    def dying(*args, **kwargs):
        if next(count) == call:
            raise Kill
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


KILLS = {  # where, at which call, epochs that are then complete, and logged
    "in the first epoch": ("cross_entropy", 2, 0, 0),
    "in the middle of epoch 3": ("cross_entropy", 8, 2, 2),
    "before the weights of epoch 3": ("atomic_write", 6, 2, 2),  # the first call cuts the log
    "between weights and state of epoch 3": ("atomic_write", 7, 2, 2),
    "between state and log of epoch 3": ("log", 3, 3, 2),
    "before old weights are deleted": ("unlink", 1, 2, 1),
    "before the final weights are written": ("atomic_write", 10, 4, 4),
}


@pytest.mark.parametrize("when", KILLS)
@pytest.mark.parametrize("scores", [[0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
def test_resumed_equals_uninterrupted(when, scores, tmp_path, monkeypatch):
    def train(folder: Path, seed: int) -> tuple[dict, pd.DataFrame, records.Run]:
        run = open_run(folder)
        model = Toy(seed, dropout=0.3)
        loss = lambda outputs, batch: noisy_cross_entropy(outputs, batch)  # noqa: E731 (patched)
        evaluate = scripted(scores[state_epochs(run) :])
        history = fit(model, loss, toy_batches, evaluate, settings(), run, progress=False)
        return bookkeeping.copy_weights(model), history, run

    weights, history, _ = train(tmp_path / "whole", seed=0)
    name, call, complete, logged = KILLS[when]
    owners = {"cross_entropy": sys.modules[__name__], "log": records.Run, "unlink": Path}
    run = open_run(tmp_path / "killed")
    with monkeypatch.context() as patch:
        kill_on_call(patch, owners.get(name, records), name, call)
        with pytest.raises(Kill):
            train(tmp_path / "killed", seed=0)
    assert state_epochs(run) == complete and len(run.history()) == logged
    # Another initialization shows that the weights come from the checkpoint, if there is one.
    resumed, again, run = train(tmp_path / "killed", seed=9 if complete else 0)
    assert_same_weights(weights, resumed)
    pd.testing.assert_frame_equal(lasting(history), lasting(again), check_exact=True)
    pd.testing.assert_frame_equal(
        lasting(run.history()), lasting(again), check_exact=True, check_dtype=False
    )


def state_epochs(run: records.Run) -> int:
    file = run.path / "checkpoint" / "state.pt"
    return len(torch.load(file, weights_only=True)["rows"]) if file.exists() else 0


def train_until_killed(folder: str) -> None:
    """Run in a process of its own; dies by SIGKILL inside the second step of epoch 3."""
    calls = iter(range(1, 10_000))

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        if next(calls) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy_cross_entropy(outputs, batch)

    fit(Toy(dropout=0.3), loss, toy_batches, dev_scores, settings(), open_run(Path(folder)))


@pytest.mark.slow
def test_a_process_that_is_really_killed(tmp_path):
    command = [sys.executable, __file__, "kill", str(tmp_path / "killed")]
    folder = str(Path(training.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/4", "epoch 2/4"]

    models = [Toy(dropout=0.3), Toy(dropout=0.3)]
    histories = [
        fit(model, noisy_cross_entropy, toy_batches, dev_scores, settings(), run, progress=False)
        for model, run in zip(models, (open_run(tmp_path / "killed"), None), strict=True)
    ]
    assert_same_weights(models[0].state_dict(), models[1].state_dict())
    pd.testing.assert_frame_equal(*map(lasting, histories), check_exact=True)


def test_a_finished_training_is_only_read(tmp_path):
    run = open_run(tmp_path)
    model = Toy()
    history = fit(model, cross_entropy, toy_batches, dev_scores, settings(), run, progress=False)

    def never(*_):
        raise AssertionError("called although nothing is left to do")

    again = Toy(seed=5)
    read = fit(again, never, never, never, settings(), run, progress=False)
    assert_same_weights(model.state_dict(), again.state_dict())
    pd.testing.assert_frame_equal(history, read, check_exact=True)


def test_what_a_run_keeps(tmp_path):
    run = open_run(tmp_path)
    evaluate = scripted([0.1, 0.9, 0.2, 0.3])
    model = Toy()
    history = fit(model, cross_entropy, toy_batches, evaluate, settings(), run, progress=False)
    files = sorted(file.name for file in (run.path / "checkpoint").iterdir())
    assert files == ["state.pt", "weights-0002.safetensors", "weights-0004.safetensors"]
    stored = bookkeeping.safetensors.torch.load_file(run.path / "model.safetensors")
    assert_same_weights(stored, model.state_dict())
    pd.testing.assert_frame_equal(run.history(), history, check_dtype=False)
    state = torch.load(run.path / "checkpoint" / "state.pt", weights_only=True)
    assert {"python", "numpy", "torch"} <= state["random"][0].keys()


def test_a_checkpoint_of_other_settings_is_refused_and_a_stale_log_is_cut(tmp_path):
    run = open_run(tmp_path)
    arguments = (cross_entropy, toy_batches, dev_scores)
    fit(Toy(), *arguments, settings(epochs=2), run, progress=False)
    with pytest.raises(ValueError, match="other values of lr_head.*delete that folder"):
        fit(Toy(), *arguments, settings(epochs=2, lr_head=0.5), run, progress=False)
    (run.path / "checkpoint" / "state.pt").unlink()
    fit(Toy(), *arguments, settings(epochs=1), run, progress=False)
    assert run.history()["epoch"].tolist() == [1]


def test_random_states_come_back():
    state = bookkeeping.random_state(torch.device("cpu"))
    first = random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist()
    bookkeeping.set_random_state(state, torch.device("cpu"))
    assert first == (random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist())


# ------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_not_finite_names_epoch_step_and_clips(tmp_path):
    def batches(epoch: int) -> list[Batch]:
        bad = toy_batches(epoch)
        if epoch == 2:
            bad[1].inputs[1] = torch.nan
        return bad

    run = open_run(tmp_path)
    keys = toy_batches(2)[1].keys
    with pytest.raises(bookkeeping.NonFiniteError, match="loss is nan in epoch 2, step 2") as error:
        fit(Toy(), cross_entropy, batches, dev_scores, settings(), run, progress=False)
    assert error.value.keys == keys and all(key in str(error.value) for key in keys)
    assert state_epochs(run) == 1  # the poisoned weights were not stored
    assert run.history()["epoch"].tolist() == [1]


def test_a_gradient_that_is_not_finite_with_a_loss_that_is():
    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        return cross_entropy(outputs, batch) + (outputs["emotion"] * 0).sum().sqrt()

    with pytest.raises(bookkeeping.NonFiniteError, match="gradient norm is nan in epoch 1, step 1"):
        fit(Toy(), loss, toy_batches, dev_scores, settings(), progress=False)


def test_a_long_epoch_is_looked_at_before_its_end(monkeypatch):
    monkeypatch.setattr(bookkeeping, "READ_EVERY", 2)
    steps = []

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        steps.append(batch.keys[0])
        return cross_entropy(outputs, batch) * (torch.inf if len(steps) == 3 else 1.0)

    with pytest.raises(bookkeeping.NonFiniteError, match="step 3"):
        batches = [toy_batch(i, 1) for i in range(10)]
        fit(Toy(), loss, lambda epoch: batches, dev_scores, settings(), progress=False)
    assert len(steps) == 4


def test_many_utterances_are_counted_instead_of_listed():
    error = bookkeeping.NonFiniteError("the loss is nan", [f"k{i}" for i in range(11)])
    assert "k7 and 3 more" in str(error) and "k8" not in str(error) and len(error.keys) == 11


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        fit(Toy(), cross_entropy, lambda epoch: [], dev_scores, settings(), progress=False)


def test_a_generator_trains_like_a_list():
    def generator(epoch: int):
        yield from toy_batches(epoch)

    models = Toy(), Toy()
    for model, batches in zip(models, (toy_batches, generator), strict=True):
        fit(model, cross_entropy, batches, dev_scores, settings(), progress=False)
    assert_same_weights(models[0].state_dict(), models[1].state_dict())


# ------------------------------------------------------------------ precision and accelerate


def test_fits_of_different_precision_in_one_process_do_not_meet():
    owners = (PartialState, AcceleratorState, GradientState)
    before = [dict(owner._shared_state) for owner in owners]
    seen = []

    class Spy(Toy):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            outputs = super().forward(batch)
            seen.append(outputs["emotion"].dtype)
            return outputs

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        assert outputs["emotion"].dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return cross_entropy(outputs, batch)

    alone = Toy()
    fit(alone, cross_entropy, toy_batches, lambda m: {}, settings(select="last"), progress=False)
    for precision in ("bf16", "fp32", "auto"):
        seen.clear()
        model = Spy()
        config = settings(precision=precision, accumulate=2, select="last")
        fit(model, loss, toy_batches, lambda m: {}, config, progress=False)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert "forward" not in vars(model)
        assert [dict(owner._shared_state) for owner in owners] == before
    after = Toy()
    fit(after, cross_entropy, toy_batches, lambda m: {}, settings(select="last"), progress=False)
    assert_same_weights(alone.state_dict(), after.state_dict())


def test_an_accelerator_of_the_caller_survives_even_a_failure():
    mine = Accelerator(gradient_accumulation_steps=7, cpu=True)
    try:
        with pytest.raises(ValueError, match="at least 1"):
            fit(Toy(), cross_entropy, lambda epoch: [], dev_scores, settings(), progress=False)
        assert mine.gradient_accumulation_steps == 7
        assert AcceleratorState().mixed_precision == "no" and mine.device.type == "cpu"
    finally:
        for owner in (PartialState, AcceleratorState, GradientState):
            owner._shared_state.clear()


class CountReads(TorchDispatchMode):
    """Counts what makes a host wait for a GPU: turning a computed value into a Python number.

    Lengths, the only integers read, are on the CPU by contract.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device(monkeypatch):
    # AdamW on a CPU reads its own step counters, which on a GPU it does not (fused).
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    counts = []
    for n_batches in (2, 12):
        batches = [toy_batch(4 * i, 4) for i in range(n_batches)]
        with CountReads() as counter:
            config = settings(epochs=1, select="last")
            fit(Toy(), cross_entropy, lambda e, b=batches: b, lambda m: {}, config, progress=False)
        counts.append(counter.reads)
    assert counts[0] == counts[1]
    with CountReads() as counter:
        torch.ones(()).item()
    assert counter.reads == 1  # the counter does count


# ------------------------------------------------------------------ numbers and the screen


def test_amounts_of_audio_by_hand():
    meter = bookkeeping.Meter(3)
    short = Batch(
        inputs=torch.zeros(2, 4, 3), lengths=torch.tensor([4, 2]), emotion=torch.tensor([0, 1]),
        keys=["a", "b"], index=torch.tensor([0, 1]), seconds=6.0,
    )  # fmt: skip
    meter.add(0, short, torch.tensor(1.0))  # 6 s in 8 s of input
    meter.add(1, toy_batch(0, 4, seconds=3.0), torch.tensor(4.0))  # 12 s, no padding
    meter.add_norm(0, [short], torch.tensor(0.5))
    meter.add_norm(1, [short], torch.tensor(1.5))
    row = meter.row(lambda part: part * 2)  # two processes with the same numbers
    assert row["epoch"] == 3 and row["steps"] == 2 and row["clips"] == 12
    assert row["loss"] == pytest.approx((2 * 1.0 + 4 * 4.0) / 6)
    assert row["gradient_norm"] == 1.0
    assert row["audio_seconds"] == 36.0
    assert row["padding"] == pytest.approx(2 / 20)
    assert row["audio_seconds_per_second"] == pytest.approx(36 / row["train_seconds"])


def test_one_line_per_epoch_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(bookkeeping, "is_watched", lambda: False)
    arguments = (Toy(), cross_entropy, toy_batches, scripted([0.25, 0.5, 0.25] * 4))
    fit(*arguments, settings(epochs=12))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[1].startswith("epoch  2/12: loss ") and "dev ua 0.500 (best)" in lines[1]
    assert "(best)" not in lines[2]
    fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    assert capsys.readouterr() == ("", "")


def test_one_bar_where_somebody_watches(capsys, monkeypatch):
    monkeypatch.setattr(bookkeeping, "is_watched", lambda: True)
    fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(epochs=2))
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err and "epoch 2/2" in err and err.count("\n") == 1


@pytest.mark.parametrize(("session", "watched"), [("book.ipynb", True), (None, False)])
def test_a_notebook_is_watched_only_if_a_server_opened_it(session, watched, monkeypatch):
    class Shell:
        kernel = object()

    fake = type(sys)("IPython")
    fake.get_ipython = Shell
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert bookkeeping.is_watched() is watched


@pytest.mark.parametrize("terminal", [True, False])
def test_outside_notebooks_a_terminal_is_watched(terminal, monkeypatch):
    fake = type(sys)("IPython")
    fake.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert bookkeeping.is_watched() is terminal


# ------------------------------------------------------------------ several processes


def unequal_batches(epoch: int) -> list[Batch]:
    return [toy_batch(0, 4), toy_batch(4, 3), toy_batch(8, 1), toy_batch(10, 5)]


def train_as_one_of_two(folder: str) -> None:
    """Run in each of two processes, which share the batches."""
    rank, run, model = int(os.environ["RANK"]), open_run(Path(folder)), Toy(seed=0)

    def share(epoch: int) -> list[Batch]:
        return unequal_batches(epoch)[rank::2]

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {**dev_scores(model), "rank": rank}

    with pytest.raises(ValueError, match=r"batches per process \[2, 1\]"):  # not wait forever
        fit(model, cross_entropy, lambda e: share(e)[: 2 - rank], evaluate, settings(), run)
    config = settings(epochs=2, accumulate=2)
    history = fit(model, cross_entropy, share, evaluate, config, run)
    assert (history["dev_rank"] == 0).all()  # both follow the scores of the first
    torch.save(model.state_dict(), Path(folder) / f"rank{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(training.__file__).parents[1])}
    done = subprocess.run(
        [*launch, __file__, "share", str(tmp_path)],
        env=environment,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("epoch 2/2") == 1  # one process speaks for both
    model = Toy(seed=0)
    config = settings(epochs=2, accumulate=4)
    history = fit(model, cross_entropy, unequal_batches, dev_scores, config, progress=False)
    logged = open_run(tmp_path).history()
    for column in ("loss", "gradient_norm", "clips", "steps", "dev_ua"):
        np.testing.assert_allclose(logged[column], history[column], rtol=1e-4)
    for rank in range(2):
        weights = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


if __name__ == "__main__":
    {"kill": train_until_killed, "share": train_as_one_of_two}[sys.argv[1]](sys.argv[2])
