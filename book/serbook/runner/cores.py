"""Work side by side in one process, each piece on its own share of the machine's cores."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import joblib
import psutil

from serbook.runner.notebooks import UsageError

MOST = 4  # chapters at a time, unless more are asked for: they are few, and not equally long
MEMORY_GB = 4  # for each chapter: about the most that one has taken, two worker processes included
CGROUPS = Path("/sys/fs/cgroup")  # where Linux tells a container, or a job of SLURM, its limits
OWN = Path("/proc/self/cgroup")  # in which of them this process is


def at_a_time() -> int:
    """How many chapters this machine can run side by side."""
    import torch

    if torch.cuda.is_available() or not hasattr(os, "sched_setaffinity"):
        return 1
    free = min([psutil.virtual_memory().available, *limits()])  # bytes
    return max(1, min(joblib.cpu_count(), MOST, int(free / 2**30 / MEMORY_GB)))


def limits() -> list[int]:
    """The memory limits, in bytes, that this process is under: each of its cgroup's parents has one.

    Version 2 has one tree, version 1 a tree for memory. A container may see its own cgroup as the
    root, under another name than the process is told.
    """
    trees = {"": (CGROUPS, "memory.max"), "memory": (CGROUPS / "memory", "memory.limit_in_bytes")}
    places, found = [(kind, PurePosixPath()) for kind in trees], []
    with suppress(OSError):
        for line in OWN.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            own = PurePosixPath(path.strip("/"))
            places += [(kind, p) for kind in kinds.split(",") for p in (own, *own.parents)]
    for kind, path in places:
        if kind in trees:
            folder, file = trees[kind]
            with suppress(OSError, ValueError):  # no such file, or the word "max"
                found.append(int((folder / path / file).read_text(encoding="utf-8")))
    return found


def shares(jobs: int) -> list[list[int]]:
    """The cores that this process may use, divided; of 5 cores, 2 jobs get 3 and 2.

    Raises:
        UsageError: If some job would have none, or the system cannot divide them.
    """
    if jobs == 1:
        return [[]]  # whoever has all of them need not be told which
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError(f"jobs={jobs}: only Linux can divide its cores; take 1")
    cores = sorted(os.sched_getaffinity(0))[: joblib.cpu_count()]  # a container may have fewer
    if not 1 <= jobs <= len(cores):
        raise UsageError(f"jobs={jobs}: take 1 to {len(cores)}, as many as there are cores")
    return [cores[i::jobs] for i in range(jobs)]


def side_by_side(
    work: Callable, items: Iterable, shares: Sequence[list[int]], done: Callable[[Any], None]
) -> None:
    """Call ``work(item, stop=event)`` for all items in order, as many at a time as shares.

    Each share has a thread, which Linux keeps to its cores; all processes that it starts inherit
    that. So `joblib.cpu_count()` is the share's in them, and torch, OpenMP and joblib take no more.

    Args:
        work: Must give up soon after the event is set, which happens on an error and on Ctrl-C.
        items: In the order in which they are begun.
        shares: From `shares`.
        done: Called in the calling thread with each result, as it comes.
    """
    free, stop = list(shares), threading.Event()

    def settle() -> None:
        os.sched_setaffinity(0, free.pop())  # 0 is this thread, not the whole process

    with ThreadPoolExecutor(len(shares), initializer=settle) as pool:
        try:
            for future in as_completed([pool.submit(work, item, stop=stop) for item in items]):
                done(future.result())
        except BaseException:  # Ctrl-C, too
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
