"""The runs of an archive, and claims judged by them as by the runs of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from serbook import claims
from serbook.archive import forms, sums
from serbook.claims.ledger import Ledger
from serbook.claims.runs import Finished
from serbook.runner.evidence import system_key
from serlib import records
from serlib.experiments.sweep import Runs
from serlib.metrics import intervals
from serlib.recipes.recipe import Recipe

LIST = "SHA256SUMS"  # the file that all others are listed in
NO_DATE = (1980, 1, 1, 0, 0, 0)  # of every file inside: when it was made is nobody's business


@dataclass(frozen=True)
class Kept:
    """A run as an archive keeps it; stands for a `records.Run` where claims are judged."""

    name: str
    record: Mapping

    @property
    def path(self) -> Path:
        """Its name, as the path of a folder that is not there."""
        return Path(self.name)

    def history(self) -> pd.DataFrame:
        """The learning curve, as `records.Run.history`."""
        return pd.DataFrame(self.record["epochs"]).replace({None: np.nan})

    def sums(self, role: str, metric: str) -> np.ndarray:
        """Sums (G, ...) that the metric is a function of; see `sums.unpack`."""
        if role not in self.record["sums"]:
            raise records.RecordError(f"{self.name} has no sums for {role!r}")
        return sums.unpack(self.record["sums"][role], metric, self.n_classes)

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.record["config"]["recipe"]["classes"])


class Summed(Runs):
    """`Runs` that know only sums over talkers."""

    def _bootstrap(self, metric: str, role: str, *names: str) -> intervals.Interval:
        found = [self.named(name).runs for name in names]
        same = {json.dumps([run.record["sums"][role][k] for k in ("utterances", "speakers")])
                for runs in found for run in runs}  # fmt: skip
        if len(same) > 1:
            raise ValueError(f"runs of {', '.join(names)} were scored on different utterances")
        seeds = max(map(len, found))
        systems = [
            np.stack([run.sums(role, metric) for run in (runs * seeds if len(runs) == 1 else runs)])
            for runs in found
        ]
        talkers = np.arange(systems[0].shape[1])
        return intervals.bootstrap_sums(sums.statistic(metric), systems, talkers)


class Archived(Finished):
    """The runs of an archive, to judge claims by."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        """Sort them by what they were asked to do."""
        self.kept: dict[str, dict[int, Kept]] = {}
        for run in kept:
            asked = run.record["config"]["recipe"]
            self.kept.setdefault(system_key(asked), {})[asked["seed"]] = run

    def seeds(self, recipe: Recipe) -> dict[int, tuple[Recipe, Kept]]:
        """The run of a recipe for each seed."""
        found = self.kept.get(system_key(forms.bare(records.plain(recipe))), {})
        return {seed: (recipe.change(seed=seed), run) for seed, run in found.items()}

    def runs(self, systems: Mapping[str, Recipe]) -> tuple[Summed, list[int]]:
        """As the parent's, with sums in place of predictions."""
        found, common = super().runs(systems)
        return Summed(found.recipes, found.runs), common


def verdict(ledger: Ledger, id: str, profile: str, archived: Archived) -> dict:
    """A claim's verdict by what the archive holds."""
    found = claims.judge(ledger, ledger[id], profile, archived)
    measured = [
        {"value": m.interval.value, "low": m.interval.low, "high": m.interval.high,
         "seeds": m.seeds, "answer": m.answer}
        for m in found.measured if m.interval is not None
    ]  # fmt: skip
    row = {"id": id, "verdict": found.verdict, "measured": measured, "runs": list(found.runs)}
    return records.plain(row)


def dump(content) -> bytes:
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
