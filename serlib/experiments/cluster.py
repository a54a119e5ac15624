"""Many runs on a `dask.distributed` cluster: one at a time per worker, results in a shared folder.

A worker trains into the same $SERLIB_HOME as everybody else, so that nothing is sent but recipes: a
run that another worker finished is read, and one whose worker died goes on, at its last epoch, on
the next. `sweep.sweep(..., scheduler)` is the way in; `book/cluster.md` shows how to set it up.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from serlib import records
from serlib.experiments import experiment
from serlib.experiments.inputs import store_frames
from serlib.experiments.screen import bars, quiet
from serlib.recipes.recipe import Recipe

RETRIES = 2  # of a run that fails; one whose worker dies is moved on by the scheduler in any case
GPU = "GPU"  # the resource that a worker with one GPU declares


class ClusterError(RuntimeError):
    """A cluster that cannot run what it is asked to; the message names the fix."""


def train(asked: Sequence[Recipe], scheduler: Any) -> None:
    """Train recipes, which need no other run first, and come back when all are done.

    Args:
        asked: What to run.
        scheduler: Address of a scheduler ("tcp://host:8786"), a cluster, or a `Client`.

    Raises:
        ClusterError: The workers do not share $SERLIB_HOME, have other source, take several runs at
            a time, or some runs failed (the others are kept).
    """
    run({experiment.record(r).path.name: (r.name, experiment.run, r) for r in asked}, scheduler)
    if left := [r.name for r in asked if not experiment.record(r).done]:
        raise ClusterError(f"{len(left)} runs ended without a result, such as {left[0]!r}")


def encode(pairs: Sequence[tuple[Recipe, str]], scheduler: Any) -> None:
    """Store the frames of frozen experts: `inputs.store_frames` of each recipe and name."""
    with quiet():
        run({f"{p[1]}-{i}": (p[1], store_frames, *p) for i, p in enumerate(pairs)}, scheduler)


def run(jobs: Mapping[str, tuple], scheduler: Any) -> None:
    """Do jobs, (name, function, arguments) by key, on workers that pass `check`; see `train`.

    Not by joblib's dask backend: it would send what is parallel inside a run to other workers, has
    no retries, no unordered results to count, and no names of tasks.
    """
    from distributed import Client, as_completed

    mine = not isinstance(scheduler, Client)
    try:
        client = Client(scheduler, set_as_default=False) if mine else scheduler
    except (OSError, ValueError) as error:
        raise ClusterError(f"no scheduler at {scheduler}: {error}") from error
    marker = records.home() / "cluster" / secrets.token_hex(8)
    records.atomic_write(marker, "workers that see this file share the folder\n")
    try:
        place = f"cluster/{marker.name}"
        workers = client.scheduler_info(n_workers=-1)["workers"]
        check(client.run(report, place), {a: w["nthreads"] for a, w in workers.items()})
        gpu = any(GPU in worker["resources"] for worker in workers.values())
        futures, failed = {}, {}
        for key, (name, *job) in jobs.items():
            future = client.submit(
                _here, place, records.source_digest(), *job,
                key=f"serlib-{key}-{marker.name}", retries=RETRIES, pure=False,
                resources={GPU: 1} if gpu else None,
            )  # fmt: skip
            futures[future] = name
        with tqdm(total=len(futures), desc="train", unit="run", disable=not bars()) as bar:
            for future in as_completed(futures, loop=client.loop):
                if future.status != "finished":
                    failed[futures[future]] = future.exception() or future.status
                bar.set_postfix_str(f"{len(client.ncores())} workers, {len(failed)} failed")
                bar.update()
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


def check(reports: dict[str, dict], threads: dict[str, int], source: str | None = None) -> None:
    """Refuse workers that would lose results or disturb each other.

    Args:
        reports: `report` by address of the worker.
        threads: How many tasks each takes at a time.
        source: `records.source_digest` of who asks; None: this process.
    """
    for address, said in reports.items():
        if not said["sees"]:
            raise ClusterError(
                f"worker {address} does not see this process's results: its $SERLIB_HOME is "
                f"{said['home']}, here it is {records.home()}. Set it, on all of them, to one "
                "folder of a file system that they share."
            )
        if said["source"] != (source or records.source_digest()):
            raise ClusterError(f"worker {address} has another serlib than this process")
        if threads.get(address, 1) != 1:
            raise ClusterError(
                f"worker {address} takes {threads[address]} tasks at a time, which would share "
                "random states: start it with --nthreads 1"
            )


def _here(place: str, source: str, function: Callable, *arguments) -> None:
    """Do a job on a worker, which may have joined after the others were checked."""
    from distributed import get_worker

    worker = get_worker()
    check({worker.address: report(place)}, {worker.address: worker.state.nthreads}, source)
    with quiet():
        function(*arguments)
