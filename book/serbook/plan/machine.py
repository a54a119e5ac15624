"""Where something was measured, how, and a file of what it came to.

A rehearsal's rates are in $SERLIB_HOME/bench/rates.jsonl. The table that comes with the package holds
what somebody measured and sent, and nothing else.
"""

import json
import platform
import re
from contextlib import suppress
from pathlib import Path

import torch

from serlib import records

SHIPPED = Path(__file__).with_name("machines.jsonl")


def device_name(device: str) -> str:
    """The GPU's name, or the processor's as far as the system tells, and the threads used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        named = re.search(r"^model name.*?:([^:\n]*)", told, re.MULTILINE)
        model = named[1].strip() if named else model
    return f"{model}, {torch.get_num_threads()} thread(s)"


def chosen(device: str | None) -> str:
    """The device that was asked for; None takes a GPU if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def rates(machine: str) -> dict[str, dict]:
    """What was measured on a machine, by kind of training: here, or in the shipped table."""
    found: dict[str, dict] = {}
    for path in (SHIPPED, own()):
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for row in map(json.loads, filter(str.strip, lines)):
            if row["machine"] == machine:
                found[row["kind"]] = row
    return found


def own() -> Path:
    """The file of this machine's rates."""
    return records.home() / "bench" / "rates.jsonl"
