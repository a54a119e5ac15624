"""Several processes of one training, as `accelerate launch` starts them.

    accelerate launch --num_processes 2 -m serlib train cai2021 --profile full ...

All of them run the same code; what follows says who does what. In a process that is alone, each
function returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

PATIENCE = timedelta(hours=12)  # that others wait while one decodes a corpus or scores a test set
X = TypeVar("X")


class ProcessError(RuntimeError):
    """Processes that were launched together, and cannot work together."""


def count() -> int:
    """How many processes there are: 1 unless a launcher started several.

    The first time that somebody asks, they meet.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if launched > 1 and not _joined():
        PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)
        if not _joined():
            raise ProcessError(
                f"launched as {launched} processes without a GPU: set ACCELERATE_USE_CPU=true"
            )
    return torch.distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return torch.distributed.get_rank() if count() > 1 else 0


def place() -> dict[str, int]:
    """``rank`` and ``world``, as `batching.DurationBatchSampler.epoch` takes them."""
    return {"rank": rank(), "world": count()}


def main() -> bool:
    """Whether this is the one that writes."""
    return rank() == 0


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather(item: X) -> list[X]:
    """The items of all processes, in their order."""
    if count() == 1:
        return [item]
    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, item)
    return found


def say(value: X) -> X:
    """What the first process says, on all of them."""
    if count() == 1:
        return value
    said = [value]
    torch.distributed.broadcast_object_list(said, src=0)
    return said[0]


@contextmanager
def one_first() -> Iterator[None]:
    """The first process goes through the body alone, then all others do, and find what it made."""
    if not main():
        gather(None)
    yield
    if main() and count() > 1:
        gather(None)


def share(plan: Sequence[X]) -> list[X]:
    """This process's part of a plan of batches to predict, equally many for each.

    Each batch is as it would be in one process. If they do not divide evenly, some go to two
    processes, whose answers are the same: see `evaluation.together`.

    >>> share(["a", "b", "c"])
    ['a', 'b', 'c']
    """
    each = -(-len(plan) // count())
    return [plan[(rank() + i * count()) % len(plan)] for i in range(each)]
