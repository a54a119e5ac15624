"""A sweep on a real cluster of two processes, one of which is killed; and clusters that cannot."""

from __future__ import annotations

import os
import signal
import threading
import time
from unittest import mock

import pandas as pd
import pytest

from serlib import records
from serlib.experiments import cluster, experiment
from serlib.experiments.sweep import sweep
from serlib.recipes import papers

distributed = pytest.importorskip("distributed")
# Epochs enough to be killed in the middle of them.
SMALL = papers.cai2021("smoke").change(n_layers=1, freeze_layers=0, epochs=3, name="small")


@pytest.fixture
def two_workers(own_home):
    """A scheduler here, and two processes with one thread each that come back when killed."""
    # A nanny sets the numbers of threads of its workers in *this* process and leaves them there.
    with mock.patch.dict("os.environ"), distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        resources={"GPU": 1}, local_directory=str(own_home / "dask"),
    ) as found:  # fmt: skip
        yield found


def kill_in_the_middle(run: records.Run, client, killed: dict) -> None:
    """Wait for an epoch of a run, then kill the worker that trains it."""
    state = run.path / "checkpoint" / "state.pt"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not state.exists():
        time.sleep(0.02)
    names = client.scheduler_info(n_workers=-1)["workers"]
    busy = {key: address for address, keys in client.processing().items() for key in keys}
    (address,) = {address for key, address in busy.items() if run.path.name in key}
    pids = client.run(os.getpid)
    killed |= {"pid": pids[address], "epoch": pd.DataFrame(run.history()).iloc[0].to_dict()}
    killed["workers"] = len(names)
    os.kill(pids[address], signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(
    own_home, two_workers, monkeypatch, tmp_path_factory
):
    asked = SMALL.vary(seed=[0, 1])
    runs = [experiment.record(r) for r in asked]
    killed: dict = {}
    with distributed.Client(two_workers, set_as_default=False) as watching:
        arguments = (runs[0], watching, killed)
        killer = threading.Thread(target=kill_in_the_middle, args=arguments, daemon=True)
        killer.start()
        found = sweep(asked, two_workers.scheduler_address, progress=False)
        killer.join()
    assert killed["workers"] == 2 and all(run.done for run in runs)
    assert found.runs == tuple(runs)
    history = runs[0].history()
    assert history["epoch"].tolist() == [1, 2, 3]
    # The first epoch is the one from before the kill, not trained again.
    assert history["train_seconds"][0] == killed["epoch"]["train_seconds"]
    assert not list((own_home / "cluster").iterdir())
    # As if nobody had been killed, bit for bit.
    alone = tmp_path_factory.mktemp("alone")
    (alone / "demo").symlink_to(own_home / "demo")
    (alone / "features").symlink_to(own_home / "features")
    monkeypatch.setenv("SERLIB_HOME", str(alone))
    expected = experiment.run(asked[0], progress=False)
    pd.testing.assert_frame_equal(expected.predictions("test"), runs[0].predictions("test"))
    # Finished runs are read: a cluster that would fail is not even asked.
    monkeypatch.setenv("SERLIB_HOME", str(own_home))
    assert sweep(asked, "tcp://127.0.0.1:1", progress=False).runs == found.runs


def fails(text: str) -> None:
    raise ValueError(text)


def works(text: str) -> None:
    (records.home() / text).write_text("done")


@pytest.mark.slow
def test_a_run_that_fails_keeps_the_others(own_home, two_workers):
    jobs = {"bad": ("BAD", fails, "no such luck"), "good": ("GOOD", works, "good.txt")}
    with pytest.raises(cluster.ClusterError, match=r"1 of 2 runs failed.*\n.*BAD: .*no such luck"):
        cluster.run(jobs, two_workers)
    assert (own_home / "good.txt").read_text() == "done"


# ------------------------------------------------------------------ clusters that cannot


def test_workers_are_checked(own_home):
    good = {"home": str(own_home), "sees": True, "source": records.source_digest()}
    cluster.check({"tcp://a": good}, {"tcp://a": 1})
    with pytest.raises(cluster.ClusterError, match=f"b does not see.*/else, here it is {own_home}"):
        cluster.check({"tcp://a": good, "tcp://b": good | {"sees": False, "home": "/else"}}, {})
    with pytest.raises(cluster.ClusterError, match="tcp://a has another serlib"):
        cluster.check({"tcp://a": good | {"source": "x"}}, {})
    with pytest.raises(cluster.ClusterError, match="takes 4 tasks at a time.*--nthreads 1"):
        cluster.check({"tcp://a": good}, {"tcp://a": 4})


def test_a_worker_tells_what_it_sees(own_home):
    (own_home / "cluster").mkdir()
    (own_home / "cluster" / "x").touch()
    assert cluster.report("cluster/x")["sees"] and not cluster.report("cluster/y")["sees"]
