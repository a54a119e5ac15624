"""Which epoch is kept, runs that are killed and continued, and several processes."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from serlib import records
from serlib.data.batching import Batch
from serlib.training import evaluation, loop
from serlib.training.checkpoint import copy_weights, random_state, safetensors, set_random_state
from serlib.training.loop import fit
from training_toys import (
    Toy,
    assert_same_weights,
    cross_entropy,
    dev_scores,
    lasting,
    noisy_cross_entropy,
    open_run,
    scripted,
    settings,
    state_epochs,
    toy_batch,
    toy_batches,
)

pytestmark = pytest.mark.usefixtures("on_cpu")


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
    "in the first epoch": ("noisy_cross_entropy", 2, 0, 0),
    "in the middle of epoch 3": ("noisy_cross_entropy", 8, 2, 2),
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
        return copy_weights(model), history, run

    weights, history, _ = train(tmp_path / "whole", seed=0)
    name, call, complete, logged = KILLS[when]
    owners = {"noisy_cross_entropy": sys.modules[__name__], "log": records.Run, "unlink": Path}
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
    folder = str(Path(loop.__file__).parents[2])
    threads = str(torch.get_num_threads())  # sums are taken in another order with others
    environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": threads}
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
    stored = safetensors.torch.load_file(run.path / "model.safetensors")
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


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied", "gone"])
@pytest.mark.parametrize("name", ["state.pt", "weights-0002.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_way_out_helps(tmp_path, name, how):
    """Wherever it was damaged: nothing goes on from it, and without it the result is the same."""
    run, arguments = open_run(tmp_path), (cross_entropy, toy_batches, dev_scores)
    kept = fit(Toy(), *arguments, settings(epochs=3), run, progress=False)
    file = run.path / "checkpoint" / name
    whole = file.read_bytes() if file.exists() else pytest.skip("another epoch was best")
    places = [len(whole) // 2] if how != "flipped" else range(0, len(whole), len(whole) // 97)
    for place in places:
        bit = bytes([whole[place] ^ 16])
        flipped = whole[:place] + bit + whole[place + 1 :]
        file.write_bytes({"cut": whole[:place], "emptied": b""}.get(how, flipped))
        if how == "gone":
            file.unlink()
        model = Toy(seed=0 if how == "gone" else 5)
        try:
            again = fit(model, *arguments, settings(epochs=3), run, progress=False)
        except records.DamagedError as error:
            assert str(file) in str(error) and f"delete the folder {file.parent}," in str(error)
        else:  # a byte that says nothing, or a state that is gone: then the run begins anew
            assert name == "state.pt" and how in ("flipped", "gone")
            pd.testing.assert_frame_equal(lasting(kept), lasting(again), check_dtype=False)
    shutil.rmtree(file.parent)
    again = fit(Toy(), *arguments, settings(epochs=3), run, progress=False)
    pd.testing.assert_frame_equal(lasting(kept), lasting(again), check_exact=True)


def test_random_states_come_back():
    state = random_state(torch.device("cpu"))
    first = random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist()
    set_random_state(state, torch.device("cpu"))
    assert first == (random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist())


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
    environment = {**os.environ, "PYTHONPATH": str(Path(loop.__file__).parents[2])}
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
