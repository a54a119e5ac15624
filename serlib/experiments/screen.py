"""The one switch of all that experiments show while they work: bars, and lines of trainings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on = ContextVar("on", default=True)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Show nothing inside, if so `wanted`."""
    before = _on.set(_on.get() and not wanted)
    try:
        yield
    finally:
        _on.reset(before)


def lines() -> bool:
    """Whether a training may say how it goes: unless `quiet` says no."""
    return _on.get()


def bars() -> bool:
    """Whether bars may be shown: unless `quiet` says no, or $TQDM_DISABLE is set."""
    return _on.get() and not os.environ.get("TQDM_DISABLE")
