"""Many runs: which are picked, and where they are run."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import joblib
import pytest
import torch

from serlib import records
from serlib.experiments import cluster, dataset, experiment, screen
from serlib.experiments import sweep as sweeps
from serlib.experiments.runs import Runs
from serlib.experiments.sweep import sweep
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe

ONE = papers.cai2021("demo").change(name="one")


def pretend(folder, *asked: Recipe) -> Runs:
    """Runs of these recipes with nothing in their folders."""
    return Runs(
        asked, tuple(records.Run.open(folder, {"at": i}, key=str(i)) for i in range(len(asked)))
    )


def test_runs_of_several_names_with_the_seeds_that_all_have(tmp_path):
    two, three = ONE.change(name="two"), ONE.change(name="three")
    asked = (
        *(ONE.change(seed=s) for s in (0, 1, 2)),
        *(two.change(seed=s) for s in (2, 0)),
        three.change(seed=5),
    )
    runs = pretend(tmp_path, *asked)
    found = runs.together("two", "one")
    assert [(r.name, r.seed) for r in found.recipes] == [
        ("two", 2), ("two", 0), ("one", 0), ("one", 2),
    ]  # fmt: skip
    places = [3, 4, 0, 2]
    assert found.runs == tuple(runs.runs[i] for i in places)  # each still has its own folder
    assert runs.together("one", "one").runs == runs.named("one").runs  # no run twice
    assert runs.together("three").recipes == (asked[-1],)


def test_runs_that_cannot_be_put_together(tmp_path):
    runs = pretend(tmp_path, ONE, ONE.change(name="two", seed=1))
    with pytest.raises(ValueError, match=r"no seed that all names have: one: \[0\]; two: \[1\]"):
        runs.together("one", "two")
    with pytest.raises(KeyError, match="no run is named 'four'; there are one, two"):
        runs.together("one", "four")
    with pytest.raises(ValueError, match="no names were given"):
        runs.together()


def test_a_sweep_hands_a_scheduler_only_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    asked = papers.cai2021("smoke").vary(seed=[0, 1])
    handed = []

    def train(missing, scheduler):
        handed.append(([r.seed for r in missing], scheduler, screen.bars()))
        for recipe in missing:
            experiment.record(recipe).finish({})

    monkeypatch.setattr(cluster, "train", train)
    monkeypatch.setattr(dataset, "locate", lambda recipe: None)
    experiment.record(asked[0]).finish({})
    runs = sweep(asked, "tcp://x", progress=False)
    assert handed == [([1], "tcp://x", False)] and all(run.done for run in runs.runs)
    sweep(asked, "tcp://x", progress=False)
    assert len(handed) == 1


# ------------------------------------------------------------------------ threads, cores and bars


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What `experiment.run` is asked to train: seed, threads, progress; nothing is trained."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    found = []

    def run(recipe: Recipe, *, progress: bool = True) -> records.Run:
        run = experiment.record(recipe)
        if not run.done:
            found.append((recipe.seed, torch.get_num_threads(), progress))
            if recipe.seed == 13:
                raise ValueError("no luck")
            run.finish({})
        return run

    monkeypatch.setattr(experiment, "run", run)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield found
    torch.set_num_threads(before)


def test_as_many_processes_as_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for count, expected in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(joblib, "cpu_count", lambda count=count: count)
        assert sweeps._workers(None) == expected
    assert sweeps._workers(7) == 7
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sweeps._workers(None) == 1


def test_a_run_that_is_alone_has_one_thread_and_its_own_bar(trained, capfd):
    sweep([papers.cai2021("smoke").change(seed=4)])
    assert trained == [(4, 1, True)] and torch.get_num_threads() == 3
    assert "train" not in capfd.readouterr().err
    with pytest.raises(ValueError, match="no luck"):
        sweep([papers.cai2021("smoke").change(seed=13)])
    assert torch.get_num_threads() == 3


def test_on_one_core_runs_follow_each_other_under_one_bar(trained, monkeypatch, capfd):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    asked = papers.cai2021("demo").vary(seed=[0, 1, 2])
    runs = sweep(asked)
    assert trained == [(seed, 1, False) for seed in (0, 1, 2)] and len(runs) == 3
    assert "train: 100%" in (shown := capfd.readouterr().err) and "3/3" in shown
    sweep(asked)
    assert len(trained) == 3 and capfd.readouterr().err == ""  # read, and no empty bar
    sweep(papers.cai2021("demo").vary(seed=[5, 6]), progress=False)
    assert trained[3:] == [(5, 1, False), (6, 1, False)] and capfd.readouterr().err == ""


def test_on_a_gpu_each_run_shows_its_own_too(trained, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sweep(papers.cai2021("demo").vary(seed=[0, 1]))
    assert trained == [(0, 3, True), (1, 3, True)] and "2/2" in capfd.readouterr().err


def test_large_models_keep_their_threads(trained, monkeypatch, tmp_path):
    recipe = papers.cai2021("smoke")
    with sweeps._one_thread(recipe.change(profile="full")):
        assert torch.get_num_threads() == 3
    with sweeps._one_thread(recipe):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


SWEEP = """
    import os, sys, time
    import joblib
    from serlib.experiments import sweep

    def work(i):
        open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
        time.sleep(600)

    with joblib.parallel_config("loky", n_jobs=2):
        joblib.Parallel()(joblib.delayed(sweep._in_worker)(os.getpid(), work, i) for i in range(2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_sweep_however_it_ends(tmp_path, how):
    """A worker that lives on would train to the end, and hold its run's lock, for nobody."""
    code = textwrap.dedent(SWEEP).replace("sys.argv[1]", repr(str(tmp_path)))
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    waited = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < waited and parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(how)
    parent.wait(60)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    waited = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < waited, workers
        time.sleep(0.1)


def alive(process: int) -> bool:
    """Whether a process runs: not gone, and no zombie that nobody waits for."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().split(")")[-1].split()[0] != "Z"
