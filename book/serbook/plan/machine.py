"""Where something was measured, how, and what it came to: facts, medians, tables, a file of rates.

`keep` adds what a rehearsal measured to $SERLIB_HOME/bench/rates.jsonl, and `rates` reads it, with
the table of machines that comes with the package behind it. That one holds what somebody measured
and sent, and nothing else.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

from serlib import records

SHIPPED = Path(__file__).with_name("machines.jsonl")


def device_name(device: str) -> str:
    """The GPU's name, or the processor's as far as the system tells, and the threads used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return f"{model}, {torch.get_num_threads()} thread(s)"


def chosen(device: str | None) -> str:
    """The device that was asked for; None takes a GPU if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def facts(device: str) -> dict[str, str]:
    """Machine, versions and date, for the line under a table."""
    return {
        "machine": device_name(device),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "accelerate")},
        "date": datetime.date.today().isoformat(),
    }


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


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


def keep(row: Mapping[str, object]) -> None:
    """Add one measured rate; the last one of a kind counts."""
    path = _own()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(records.plain(dict(row)), ensure_ascii=False) + "\n")


def rates(machine: str) -> dict[str, dict]:
    """What was measured on a machine, by kind of training: here, or in the shipped table."""
    found: dict[str, dict] = {}
    for path in (SHIPPED, _own()):
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for row in map(json.loads, filter(str.strip, lines)):
            if row["machine"] == machine:
                found[row["kind"]] = row
    return found


def _own() -> Path:
    return records.home() / "bench" / "rates.jsonl"
