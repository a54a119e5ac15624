"""Which epoch a training ends with: the best on dev, and when to stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from serlib.settings import SettingError


def best_epoch(rows: Sequence[dict]) -> int:
    """The best epoch so far (from 1), 0 before the first.

    >>> best_epoch([{"epoch": 1, "best": True}, {"epoch": 2, "best": False}])
    1
    """
    return max((row["epoch"] for row in rows if row["best"]), default=0)


def improves(rows: Sequence[dict], row: dict, select: str) -> bool:
    """Whether an epoch is better than all before it; NaN is worse than any number."""
    name = f"dev_{select.removeprefix('-')}"
    if select != "last" and name not in row:
        raise SettingError(f"select={select!r}, but the dev scores are {sorted(row)}.")
    if select == "last" or not rows:
        return True
    sign = -1 if select.startswith("-") else 1
    best, new = sign * rows[best_epoch(rows) - 1][name], sign * row[name]
    return new > best or (math.isnan(best) and not math.isnan(new))


def may_improve(rows: Sequence[dict], epochs: int, patience: int | None) -> bool:
    """Whether another epoch is to come: not all are done, nor ``patience`` since the best one."""
    stalled = patience is not None and bool(rows) and len(rows) - best_epoch(rows) >= patience
    return len(rows) < epochs and not stalled


def selected_epoch(rows: Sequence[dict], select: str) -> int:
    """The epoch whose weights are the result; a SettingError if all dev scores were NaN."""
    best = rows[best_epoch(rows) - 1]
    if math.isnan(best.get(f"dev_{select.removeprefix('-')}", 0.0)):
        raise SettingError(
            f"select={select!r}: the dev score was never a number; check the dev set."
        )
    return best["epoch"]


def of_selected(items: Sequence, rows: Sequence[dict], select: str) -> Any:
    """What belongs to the selected epoch, of the items of the last epochs; None if it is older.

    A training that went on after a kill has items of the epochs since then.

    >>> rows = [{"epoch": 1, "best": True}, {"epoch": 2, "best": True}, {"epoch": 3, "best": False}]
    >>> of_selected(["two", "three"], rows, "ua"), of_selected(["three"], rows, "ua")
    ('two', None)
    """
    back = len(rows) - selected_epoch(rows, select) + 1  # from the end: 1 is the last epoch
    return items[-back] if back <= len(items) else None
