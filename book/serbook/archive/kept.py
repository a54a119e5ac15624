"""The runs of an archive, claims judged by them as by the runs of this machine, and its bytes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from serbook.archive import forms, sums
from serbook.claims.judge import judge
from serbook.claims.ledger import Ledger
from serbook.claims.runs import Systems
from serbook.runner.evidence import system_key
from serlib import records
from serlib.metrics import intervals
from serlib.recipes.recipe import Recipe

LIST = "SHA256SUMS"  # the file that all others are listed in
NO_DATE = (1980, 1, 1, 0, 0, 0)  # of every file inside: when it was made is nobody's business


@dataclass(frozen=True)
class Kept:
    """A run as an archive keeps it; `path` is that of its file inside, less .json."""

    path: PurePath
    record: Mapping[str, Any]

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.record["config"]["recipe"]["classes"])

    def history(self) -> pd.DataFrame:
        """The learning curve, as `records.Run.history`."""
        return pd.DataFrame(self.record["epochs"]).replace({None: np.nan})


class Archived:
    """The runs of an archive: the `claims.runs.Evidence` that they are."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        """Sort them by what they were asked to do."""
        self.kept: dict[str, dict[int, Kept]] = {}
        for run in kept:
            asked = run.record["config"]["recipe"]
            self.kept.setdefault(system_key(asked), {})[asked["seed"]] = run

    def seeds(self, recipe: Recipe) -> dict[int, tuple[Recipe, Kept]]:
        """The run of a recipe for each seed."""
        found = self.kept.get(system_key(forms.bare(records.plain(recipe))), {})
        return {seed: (recipe, run) for seed, run in found.items()}

    def interval(self, systems: Systems, metric: str, role: str) -> intervals.Interval:
        """See `claims.runs.Evidence`."""
        runs = [run for pairs in systems.values() for _, run in pairs]
        if lacking := [run.path.name for run in runs if role not in run.record["sums"]]:
            raise records.RecordError(f"{lacking[0]} has no sums for {role!r}")
        parts = [run.record["sums"][role] for run in runs]
        if any(part[k] != parts[0][k] for part in parts for k in ("utterances", "speakers")):
            raise ValueError(f"runs of {', '.join(systems)} were scored on different utterances")
        added = [sums.unpack(p, metric, r.n_classes) for p, r in zip(parts, runs, strict=True)]
        added = np.stack(added).reshape(len(systems), -1, *added[0].shape)  # (systems, S, G, ...)
        speakers = np.arange(added.shape[2])
        return intervals.bootstrap_sums(sums.statistic(metric), list(added), speakers)


def verdict(ledger: Ledger, id: str, profile: str, archived: Archived) -> dict[str, Any]:
    """A claim's verdict by what the archive holds."""
    found = judge(ledger, ledger[id], profile, archived)
    measured = [
        {"value": m.interval.value, "low": m.interval.low, "high": m.interval.high,
         "seeds": m.seeds, "answer": m.answer}
        for m in found.measured if m.interval is not None
    ]  # fmt: skip
    row = {"id": id, "verdict": found.verdict, "measured": measured, "runs": list(found.runs)}
    return records.plain(row)


def dump(content: Any) -> bytes:
    """The one way in which a value is written, so that nothing hides in blanks or double keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def listing(files: Mapping[str, bytes]) -> bytes:
    """The content of `LIST`: a line for each file, as the command sha256sum writes it, sorted."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return "".join(sorted(lines)).encode()


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip file of some files and their sums; the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, LIST: listing(files)}.items():
            archive.writestr(zipfile.ZipInfo(name, NO_DATE), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()
