"""Evidence for claims: which finished runs are of a system, and what they measured.

A claim names systems; a system is a recipe for each profile. Runs are found by what they were asked
to do, among all finished ones, so nobody has to say where they are; of the smoke and demo tiers
only those count that today's code would give again. Nothing here writes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path, PurePath
from typing import Protocol

import pandas as pd

from serbook.claims.dynamics import Curves, dynamics
from serbook.claims.rules import Step
from serbook.runner.evidence import finished, note, system_key
from serlib import records
from serlib.experiments import experiment
from serlib.experiments.sweep import Runs
from serlib.metrics.intervals import Interval
from serlib.recipes.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """What finished runs say about one comparison of a rule.

    Attributes:
        label: What was compared, for tables.
        interval: Its value with 95 % bounds; NaN where undefined.
        runs: Names of the run folders.
        seeds: How many seeds; with one, the interval knows nothing about luck in training.
        answer: "yes", "no" or "cannot tell" if the comparison is no matter of one interval.
        note: Then what the interval is of, and how the answer comes about.
        lacks: Why nothing was measured; "" if something was.
    """

    label: str
    interval: Interval | None = None
    runs: tuple[str, ...] = ()
    seeds: int = 0
    answer: str = ""
    note: str = ""
    lacks: str = ""

    @property
    def seen(self) -> str:
        """The interval in words, and on how many seeds it rests."""
        note = f" ({self.note})" if self.note else ""
        return f"{self.interval}{note}, {self.seeds} seed{'s' * (self.seeds > 1)}"


class Named(Protocol):
    """A finished run, as far as claims know it."""

    path: PurePath
    """Its last part is the run's name."""


class Scores(Curves, Protocol):
    """Runs of some systems, one per seed, under the systems' names; `Runs` is such."""

    def interval(self, name: str, metric: str, role: str) -> Interval:
        """The mean over seeds of a metric on the predictions of a role."""

    def difference(self, a: str, b: str, metric: str, role: str) -> Interval:
        """Of metric(b) - metric(a), paired."""


class Evidence(Protocol):
    """What claims are judged by: the runs of this machine, `Finished`, or those of an archive."""

    def seeds(self, recipe: Recipe) -> Mapping[int, tuple[Recipe, Named]]:
        """The finished run of a recipe for each seed, with its own recipe."""

    def scores(self, pairs: Sequence[tuple[Recipe, Named]]) -> Scores:
        """Of runs under the names of these recipes."""


class ReadOnce(records.Run):
    """A run whose predictions are read from the disk once, since many claims ask for them."""

    def predictions(self, split: str) -> pd.DataFrame:
        """As `records.Run.predictions`; the table is shared, do not change it."""
        path = self.path / f"predictions_{split}.csv"
        return _predictions(self.path, split, path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=32)
def _predictions(path: Path, split: str, stamp: int) -> pd.DataFrame:
    return records.Run(path).predictions(split)


class Finished:
    """All finished runs of this machine, by what they were asked to do; read once. `Evidence`."""

    def __init__(self) -> None:
        """Look through $SERLIB_HOME/runs."""
        self.found = finished()
        self._current: dict[str, bool] = {}

    def seeds(self, recipe: Recipe) -> dict[int, tuple[Recipe, records.Run]]:
        """The newest finished run of a recipe for each seed; seed, data and place are the runs'."""
        newest, system = {}, system_key(records.plain(recipe))
        note(system, self.found)
        for _, run, asked in sorted(self.found.get(system, []), key=itemgetter(0)):
            theirs = recipe.change(seed=asked["seed"])
            theirs = replace(theirs, diagnose=asked["diagnose"])
            if recipe.corpus != "demo":
                theirs = theirs.change(corpus=asked["corpus"], data_root=asked["data_root"])
            if self._is_current(theirs, run):
                newest[asked["seed"]] = theirs, ReadOnce(run.path)
        return newest

    def _is_current(self, recipe: Recipe, run: records.Run) -> bool:
        """Whether today's code and data would give this run; in full, unless that is unknown."""
        name = run.path.name
        if name not in self._current:
            try:
                self._current[name] = experiment.identity(recipe)[0] == name
            except (ValueError, OSError):  # the corpus or the encoder is not on this machine
                self._current[name] = recipe.profile == "full"
        return self._current[name]

    def scores(self, pairs: Sequence[tuple[Recipe, records.Run]]) -> Runs:
        """See `Evidence`."""
        return Runs(*(tuple(column) for column in zip(*pairs, strict=True)))


def together(
    evidence: Evidence, systems: Mapping[str, Recipe]
) -> tuple[list[tuple[Recipe, Named]], list[int], list[str]]:
    """The runs of some systems, named like these, with the seeds that all have, and who has none."""
    found = {name: evidence.seeds(recipe) for name, recipe in systems.items()}
    seeds = sorted(set.intersection(*map(set, found.values()))) if found else []
    pairs = [(there[s], name) for name, there in found.items() for s in seeds]
    pairs = [(replace(recipe, name=name), run) for (recipe, run), name in pairs]
    return pairs, seeds, [name for name, there in found.items() if not there]


def measure(step: Step, systems: Mapping[str, Recipe], evidence: Evidence) -> Measured:
    """What the finished runs say about one comparison; see `Measured`.

    Args:
        step: The comparison.
        systems: The recipes of its systems, by name.
        evidence: The runs to look among.
    """
    pairs, seeds, missing = together(evidence, {name: systems[name] for name in step.systems})
    label = str(step)
    metric = {"micro_f1": "wa"}.get(step.metric, step.metric)  # one number, see `proofs`
    if not seeds:
        return Measured(label, lacks=f"not run: {', '.join(missing or step.systems)}")
    names, scores = tuple(run.path.name for _, run in pairs), evidence.scores(pairs)
    try:
        if step.kind == "dynamics":
            curves = dynamics(scores, *step.systems, metric)
            return Measured(label, curves.gap, names, len(seeds), curves.answer, str(curves))
        measured = scores.interval if step.kind == "value" else scores.difference
        interval = measured(*step.systems, metric, step.role)
    except (records.RecordError, ValueError, KeyError) as error:
        where = "" if step.role == "test" else f"not scored on {step.role}: "
        told = str(error).replace(f"{records.home()}/", "")[:160]  # without folders of this machine
        return Measured(label, runs=names, seeds=len(seeds), lacks=f"{where}{told}")
    lacks = f"{step.metric} is undefined for these predictions"
    lacks = lacks if math.isnan(interval.value) else ""
    return Measured(label, interval, names, len(seeds), lacks=lacks)


def undefined(interval: Interval | None) -> bool:
    """Whether an interval has no bounds, as with fewer than two talkers."""
    return interval is None or any(map(math.isnan, dataclasses.astuple(interval)))
