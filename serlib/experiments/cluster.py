"""Many runs on a `dask.distributed` cluster: one at a time per worker, results in a shared folder.

A worker trains into the same $SERLIB_HOME as everybody else, so that nothing is sent but recipes: a
run that another worker finished is read, and one whose worker died goes on, at its last epoch, on
the next. `sweep.sweep(..., scheduler)` is the way in; `book/cluster.md` shows how to set it up.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from serlib import records
from serlib.experiments import experiment
from serlib.experiments.inputs import store_frames
from serlib.recipes.recipe import Recipe

RETRIES = 2  # of a run that fails; one whose worker dies is moved on by the scheduler in any case
GPU = "GPU"  # the resource that a worker with one GPU declares


class ClusterError(RuntimeError):
    """A cluster that cannot run what it is asked to; the message names the fix."""


def train(asked: Sequence[Recipe], scheduler: Any, *, progress: bool = True) -> None:
    """Train recipes, which need no other run first, and come back when all are done.

    Args:
        asked: What to run.
        scheduler: Address of a scheduler ("tcp://host:8786"), a cluster, or a `Client`.
        progress: A bar over the runs.

    Raises:
        ClusterError: The workers do not share $SERLIB_HOME, have other source, take several runs at
            a time, or some runs failed (the others are kept).
    """
    jobs = {experiment.record(r).path.name: (_train, r) for r in asked}
    run(jobs, scheduler, names={key: r.name for key, (_, r) in jobs.items()}, progress=progress)
    if left := [r.name for r in asked if not experiment.record(r).done]:
        raise ClusterError(f"{len(left)} runs ended without a result, such as {left[0]!r}")


def encode(pairs: Sequence[tuple[Recipe, str]], scheduler: Any) -> None:
    """Store the frames of frozen experts: `inputs.store_frames` of each recipe and name."""
    jobs = {f"{pair[1]}-{i}": (_encode, pair) for i, pair in enumerate(pairs)}
    run(jobs, scheduler, names={key: key for key in jobs}, progress=False)


def run(
    jobs: dict[str, tuple[Callable, Any]], scheduler: Any, *, names: dict[str, str], progress: bool
) -> None:
    """Do jobs, (function, argument) by key, on workers that pass `check`; see `train`."""
    from distributed import Client, as_completed

    mine = not isinstance(scheduler, Client)
    client = Client(scheduler, set_as_default=False) if mine else scheduler
    marker = records.home() / "cluster" / secrets.token_hex(8)
    records.atomic_write(marker, "workers that see this file share the folder\n")
    try:
        place = f"cluster/{marker.name}"
        workers = client.scheduler_info(n_workers=-1)["workers"]
        check(client.run(report, place), {a: w["nthreads"] for a, w in workers.items()})
        gpu = any(GPU in worker["resources"] for worker in workers.values())
        futures = {}
        for key, (function, argument) in jobs.items():
            future = client.submit(
                _here, function, argument, place, records.source_digest(),
                key=f"serlib-{key}-{marker.name}", retries=RETRIES, pure=False,
                resources={GPU: 1} if gpu else None,
            )  # fmt: skip
            futures[future] = names[key]
        bar = tqdm(total=len(futures), desc="train", unit="run", disable=not progress)
        failed = {}
        for future in as_completed(futures, loop=client.loop):
            if future.status != "finished":
                failed[futures[future]] = future.exception() or future.status
            bar.set_postfix_str(f"{len(client.ncores())} workers, {len(failed)} failed")
            bar.update()
        bar.close()
    finally:
        marker.unlink(missing_ok=True)
        if mine:
            client.close()
    if failed:
        told = "\n  ".join(f"{name}: {type(e).__name__}: {e}" for name, e in failed.items())
        count = f"{len(failed)} of {len(jobs)} runs failed, the others are kept"
        raise ClusterError(f"{count}:\n  {told}")


def report(place: str) -> dict[str, Any]:
    """What a worker says of itself: its home, whether it sees a file there, and its source."""
    home = records.home()
    return {"home": str(home), "sees": (home / place).exists(), "source": records.source_digest()}


def check(reports: dict[str, dict], threads: dict[str, int]) -> None:
    """Refuse workers that would lose results or disturb each other.

    Args:
        reports: `report` by address of the worker.
        threads: How many tasks each takes at a time.
    """
    source = records.source_digest()
    for address, said in reports.items():
        if not said["sees"]:
            raise ClusterError(
                f"worker {address} does not see this process's results: its $SERLIB_HOME is "
                f"{said['home']}, here it is {records.home()}. Set it, on all of them, to one "
                "folder of a file system that they share."
            )
        if said["source"] != source:
            raise ClusterError(f"worker {address} has another serlib than this process")
        if threads.get(address, 1) != 1:
            raise ClusterError(
                f"worker {address} takes {threads[address]} tasks at a time, which would share "
                "random states: start it with --nthreads 1"
            )


def _here(function: Callable, argument: Any, place: str, source: str) -> None:
    """On a worker, which may have joined after the others were checked."""
    from distributed import get_worker

    worker = get_worker()
    said = report(place)
    if source != said["source"]:
        raise ClusterError(f"worker {worker.address} has another serlib than who asked")
    check({worker.address: said}, {worker.address: worker.state.nthreads})
    function(argument)


def _train(recipe: Recipe) -> None:
    experiment.run(recipe, progress=False)


def _encode(pair: tuple[Recipe, str]) -> None:
    store_frames(*pair)
