"""Two processes do what one does: the same steps, each utterance scored once, one that writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from serlib import __main__ as cli
from serlib import records
from serlib.data import batching
from serlib.experiments import experiment
from serlib.training import evaluation, loop, processes
from serlib.training.checkpoint import Checkpoint, copy_weights, random_state
from serlib.training.loop import fit
from training_toys import Toy, cross_entropy, lasting, open_run, settings, toy_batch

ROOT = Path(loop.__file__).parents[2]


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Two processes on the CPU that speak through gloo, as torchrun makes them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, **variables, "ACCELERATE_USE_CPU": "true", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


# ------------------------------------------------------------------ alone


def test_alone_nothing_is_shared():
    assert processes.place() == {"rank": 0, "world": 1} and processes.main()
    assert processes.gather(3) == [3] and processes.say("x") == "x"
    with processes.one_first():
        assert processes.share([[1], [2], [3]]) == [[1], [2], [3]]
    table = pd.DataFrame({"truth": [1, 0]}, index=pd.Index(["b", "a"], name="key"))
    assert evaluation.together(table, ["a", "b"]).index.tolist() == ["a", "b"]
    for keys in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="1 utterances are missing or were not asked for"):
            evaluation.together(table, keys)


def test_a_launch_without_the_means_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "PartialState", lambda **_: None)  # as without a GPU
    with pytest.raises(processes.ProcessError, match="launched as 2.*ACCELERATE_USE_CPU=true"):
        processes.count()


# ------------------------------------------------------------------ a toy on two processes

DURATIONS = [2.0, 1.0, 1.5, 0.5] * 3 + [1.0]


class Frames(list):
    """Clips that `batching.Clips` takes: frames (T, 3) whose sign tells the class."""

    def __init__(self) -> None:
        batch = toy_batch(0, 13, n_frames=8)
        cut = [int(4 * seconds) for seconds in DURATIONS]
        super().__init__(x[:n] for x, n in zip(batch.inputs, cut, strict=True))
        self.emotion = batch.emotion.tolist()


class Masked(Toy):
    """A toy that does not see the padding, so that its batches may be cut anywhere."""

    def forward(self, batch: batching.Batch) -> dict[str, torch.Tensor]:
        valid = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
        frames = self.encoder(batch.inputs) * valid[..., None]
        mean = frames.sum(1) / batch.lengths[:, None]
        return {"emotion": self.head(self.norm(mean))}


def train(run: records.Run | None = None) -> tuple[dict, pd.DataFrame]:
    """Weights and history, on this process's share."""
    frames, model = Frames(), Masked()
    keys = [f"k{i}" for i in range(13)]
    clips = batching.Clips(frames, keys, DURATIONS, emotion=frames.emotion)
    sampler = batching.DurationBatchSampler(DURATIONS, budget_seconds=8.0, max_clips=4, seed=1)
    assert sorted(map(len, sampler.epoch(0))) == [1, 4, 4, 4]  # uneven, the last a single clip

    def batches(epoch: int) -> batching.Batches:
        if epoch == int(os.environ.get("DIES_IN", 0)):
            os._exit(9)  # as a kill, on both
        shares = [sampler.epoch(epoch, rank=rank, world=2) for rank in range(2)]
        if processes.count() == 2:
            return clips.batches(shares[processes.rank()])
        return clips.batches([one + two for one, two in zip(*shares, strict=True)])

    def evaluate(model: nn.Module) -> dict[str, float]:
        mine = clips.batches(processes.share(sampler.epoch(0)))
        table = evaluation.together(evaluation.predict(model, mine), keys)
        assert table.index.tolist() == keys  # each once, in order
        return {**evaluation.score(table, 2), "p": float(table["p_0"].sum())}

    config = settings(epochs=2, accumulate=2, clip=0.5)
    history = fit(model, cross_entropy, batches, evaluate, config, run, progress=False)
    return copy_weights(model), history


def shard(model: nn.Module) -> None:
    """What accelerate does with FSDP on GPUs; it does not on CPUs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    processes.count()
    mesh = init_device_mesh("cpu", (2,))
    for part in (model.encoder, model.head, model):
        fully_shard(part, mesh=mesh)


def one_of_two(folder: str) -> None:
    """Run in each of the two processes."""
    weights, history = train(open_run(Path(folder)))
    rank = processes.rank()
    torch.save(weights, Path(folder) / f"rank{rank}.pt")
    lasting(history).to_json(Path(folder) / f"rank{rank}.json", double_precision=15)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path, on_cpu):
    done = launch(__file__, "train", str(tmp_path))
    assert done.returncode == 0, done.stderr
    expected, history = train()
    logged = open_run(tmp_path).history()
    assert len(logged) == 2 and logged["clips"].tolist() == [13, 13]
    for column in lasting(history):
        np.testing.assert_allclose(
            logged[column].astype(float), history[column].astype(float), rtol=1e-6, err_msg=column
        )
    for rank in range(2):
        weights = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)
        said = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert said["dev_p"] == json.loads((tmp_path / "rank0.json").read_text())["dev_p"]


def sharded_checkpoints(folder: str) -> None:
    """Run in each of two processes: what FSDP shards is stored whole, and comes back."""
    model = Masked()
    whole = copy_weights(model)
    shard(model)
    optimizer = loop.make_optimizer(model, settings())
    batch = toy_batch(0, 4)
    for _ in range(2):
        cross_entropy(model(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    run = open_run(Path(folder))
    check = Checkpoint(run, {"a": 1}, writes=processes.main())
    rows = [{"epoch": 1, "best": True}]
    check.save(model, optimizer, rows, 1, [random_state(torch.device("cpu"))] * 2)
    after = copy_weights(model)
    assert all(type(x) is torch.Tensor for x in after.values())
    assert after["head.1.weight"].shape == whole["head.1.weight"].shape
    processes.gather("written")
    again = Masked(seed=3)
    shard(again)
    second = loop.make_optimizer(again, settings())
    other = Checkpoint(run, {"a": 1}, writes=processes.main())
    assert other.resume(again, second, torch.device("cpu"), processes.rank()) == rows
    for name, value in copy_weights(again).items():
        assert torch.equal(value, after[name]), name
    for m, o in ((model, optimizer), (again, second)):
        cross_entropy(m(batch), batch).backward()
        o.step()
    one, two = copy_weights(model), copy_weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)  # the optimizer's state too
    assert any(isinstance(p, DTensor) for p in again.parameters())
    torch.save(one, Path(folder) / f"rank{processes.rank()}.pt")


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_as_if_nothing_had_been(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = launch(__file__, "train", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    dead = launch(__file__, "train", str(tmp_path / "killed"), DIES_IN="2")
    assert dead.returncode != 0 and not (tmp_path / "killed" / "rank0.pt").exists()
    again = launch(__file__, "train", str(tmp_path / "killed"))
    assert again.returncode == 0, again.stderr
    for rank in range(2):
        one, two = (torch.load(tmp_path / name / f"rank{rank}.pt") for name in ("whole", "killed"))
        assert all(torch.equal(one[key], two[key]) for key in one) and one.keys() == two.keys()
        told = [(tmp_path / name / f"rank{rank}.json").read_text() for name in ("whole", "killed")]
        assert told[0] == told[1]


@pytest.mark.slow
def test_what_fsdp_shards_is_stored_whole(tmp_path):
    done = launch(__file__, "shard", str(tmp_path))
    assert done.returncode == 0, done.stderr
    model, batch = Masked(), toy_batch(0, 4)
    optimizer = loop.make_optimizer(model, settings())
    for _ in range(3):
        cross_entropy(model(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = torch.load(tmp_path / "rank1.pt", weights_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_recipe_on_two_processes_is_the_recipe_on_one(tmp_path, on_cpu, monkeypatch, with_corpus):
    """The whole way, from the command line to the run's folder: same steps, same predictions."""
    command = ["train", "cai2021", "--profile", "smoke", "--set", "n_layers=1", "--set",
               "encoder_dropout=0.0", "--set", "dropout=0.0", "--set", "tasks=('emotion',)",
               "--set", "freeze_layers=0"]  # fmt: skip
    for home in ("one", "two"):
        with_corpus(tmp_path / home)
    done = launch("-m", "serlib", *command, SERLIB_HOME=str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "one"))
    (recipe,) = cli.asked(cli._parser().parse_args(command))
    one = experiment.run(recipe, progress=False)
    two = records.Run(tmp_path / "two" / "runs" / one.path.name)  # of the same name
    assert two.done and done.stdout.count(one.path.name) == 1  # one process speaks
    for role in ("dev", "test"):
        expected, found = one.predictions(role), two.predictions(role)
        assert found.index.tolist() == expected.index.tolist()
        for column in (c for c in expected if c.startswith("p_")):
            np.testing.assert_allclose(found[column], expected[column], rtol=0, atol=1e-5)
        assert two.summary[role]["n"] == one.summary[role]["n"] == len(found)
    for column in ("loss", "steps", "clips", "gradient_norm"):
        np.testing.assert_allclose(two.history()[column], one.history()[column], rtol=1e-5)


if __name__ == "__main__":
    {"train": one_of_two, "shard": sharded_checkpoints}[sys.argv[1]](sys.argv[2])
