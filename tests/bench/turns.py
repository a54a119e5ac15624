"""Measuring in turns, and what it came to: medians, tables with the facts of the machine."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from importlib import metadata

import pandas as pd

from serbook.plan import machine


def alternate(work: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Do each piece of work in turns: once around unmeasured, then `repeats` times.

    In turns, because what else a machine does, and how warm it is, changes within minutes.

    Args:
        work: By name, something that returns the seconds that count (or any other number).
        repeats: How often each is measured.

    Returns:
        The numbers of each, in order.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: at least 1")
    found: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            value = run()
            if turn:
                found[name].append(value)
    return found


def spread(values: list[float]) -> str:
    """Median, and the range in brackets where there are several.

    >>> spread([3.0, 1.0, 2.0]), spread([2.5])
    ('2.00 [1.00, 3.00]', '2.50')
    """
    middle = f"{statistics.median(values):.2f}"
    return f"{middle} [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else middle


def facts(device: str) -> dict[str, str]:
    """Machine, versions and date, for the line under a table."""
    return {
        "machine": machine.device_name(device),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "accelerate")},
        "date": datetime.date.today().isoformat(),
    }


def markdown(table: pd.DataFrame, about: Mapping[str, str], title: str) -> str:
    """A table for a page of the book, with the facts under it; NaN is shown as a dash.

    >>> print(markdown(pd.DataFrame({"x": [1.5, None]}, index=["a", "b"]), {"date": "today"}, "T"))
    **T**
    <BLANKLINE>
    | | x |
    |:--|--:|
    | a | 1.5 |
    | b | – |
    <BLANKLINE>
    *date: today*
    """
    lines = [f"**{title}**", "", "| | " + " | ".join(map(str, table.columns)) + " |"]
    lines.append("|:--|" + "--:|" * len(table.columns))
    for name, row in table.iterrows():
        lines.append(f"| {name} | " + " | ".join(_cell(x) for x in row) + " |")
    return "\n".join([*lines, "", "*" + ", ".join(f"{k}: {v}" for k, v in about.items()) + "*"])


def show(table: pd.DataFrame, title: str, device: str, as_markdown: bool = False) -> None:
    """Print a table with the facts of the machine."""
    about = facts(device)
    if as_markdown:
        print(markdown(table, about, title), end="\n\n", flush=True)
        return
    print(f"{title}\n{table.to_string(na_rep='-')}")
    print(", ".join(f"{k}: {v}" for k, v in about.items()), end="\n\n", flush=True)


def _cell(x: object) -> str:
    if isinstance(x, str):
        return x
    if x is None or pd.isna(x):
        return "–"
    return f"{x:,d}" if isinstance(x, int) else f"{x:.3g}" if abs(x) < 100 else f"{x:,.0f}"
