"""Evidence for claims: which finished runs are of a system, and what they measured.

A claim names systems; a system is a recipe for each profile. Runs are found by what they were asked
to do, among all finished ones, so nobody has to say where they are; of the smoke and demo tiers
only those count that today's code would give again. Nothing here writes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Protocol

from serbook.claims.dynamics import dynamics
from serbook.claims.rules import Step
from serbook.runner.evidence import look, note, system_key
from serlib import records
from serlib.experiments import experiment
from serlib.experiments.runs import Runs
from serlib.metrics.intervals import Interval
from serlib.recipes.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """What finished runs say about one comparison of a rule."""

    label: str  # what was compared, for tables
    interval: Interval | None = None  # with 95 % bounds; NaN where undefined
    runs: tuple[str, ...] = ()  # names of the folders
    seeds: int = 0  # how many; with one, the interval knows nothing about luck in training
    folds: int = 1  # how many, pooled
    answer: str = ""  # yes, no or cannot tell, if the comparison is no matter of one interval
    note: str = ""  # then what the interval is of, and how the answer comes about
    lacks: str = ""  # why nothing was measured

    @property
    def seen(self) -> str:
        """The interval in words, and on how many seeds, and folds if several, it rests."""
        note = f" ({self.note})" if self.note else ""
        seeds = f", {self.seeds} seed{'s' * (self.seeds > 1)}"
        seeds = "" if seeds[2:] in str(self.interval) else seeds
        folds = f", {self.folds} folds pooled" if self.folds > 1 else ""
        return f"{self.interval}{note}{seeds}{folds}"


# By name: runs, one per seed and fold, with recipes as they ran. Of a run `path.name` and `history()` are
# asked, which a `records.Run` has, and what an archive keeps of one.
Systems = Mapping[str, Sequence[tuple[Recipe, Any]]]


class Evidence(Protocol):
    """What claims are judged by: the runs of this machine, `Finished`, or those of an archive."""

    def runs(self, recipe: Recipe) -> Mapping[tuple[int, int], tuple[Recipe, Any]]:
        """The finished run of a recipe for each seed and fold, with its own recipe."""

    def interval(self, systems: Systems, metric: str, role: str) -> Interval:
        """Of a metric on the predictions of a role; of two systems the second less the first."""


class ReadOnce(records.Run):
    """A run whose predictions are read from the disk once, since many claims ask for them.

    They do not change, since a run's name is of all that decides them; nobody may change the table.
    """

    predictions = functools.lru_cache(maxsize=32)(records.Run.predictions)


class Finished:
    """All finished runs of this machine, by what they were asked to do; read once. `Evidence`."""

    def __init__(self) -> None:
        """Look through $SERLIB_HOME/runs; `left_out` says which are not believed, and why."""
        self.found, self.left_out = look()
        self._current: dict[str, bool] = {}

    def runs(self, recipe: Recipe) -> dict[tuple[int, int], tuple[Recipe, records.Run]]:
        """The newest finished run of a recipe for each seed and fold; data and place are theirs."""
        newest, system = {}, system_key(records.plain(recipe))
        note(system, self.found)
        for _, run, asked in sorted(self.found.get(system, []), key=itemgetter(0)):
            which = asked["seed"], asked["fold"]
            theirs = recipe.change(seed=which[0], fold=which[1])
            theirs = replace(theirs, diagnose=asked["diagnose"])
            if recipe.corpus != "demo":
                theirs = theirs.change(corpus=asked["corpus"], data_root=asked["data_root"])
            if self._is_current(theirs, run):
                newest[which] = theirs, ReadOnce(run.path)
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

    def interval(self, systems: Systems, metric: str, role: str) -> Interval:
        """See `Evidence`."""
        pairs = [(replace(recipe, name=name), run)
                 for name, runs in systems.items() for recipe, run in runs]  # fmt: skip
        runs = Runs(*map(tuple, zip(*pairs, strict=True)))
        return (runs.interval if len(systems) == 1 else runs.difference)(*systems, metric, role)


def measure(step: Step, recipes: Mapping[str, Recipe], evidence: Evidence) -> Measured:
    """What the runs of its systems, whose `recipes` go by name, say about one comparison."""
    found, label = {name: evidence.runs(recipes[name]) for name in step.systems}, str(step)
    trained = {name: recipes[name].trained for name in found}
    seeds, folds = common([there.keys() for there in found.values()], list(trained.values()))
    if not seeds:
        missing = [name for name, there in found.items() if not there] or step.systems
        return Measured(label, lacks=f"not run: {', '.join(missing)}")
    systems = {}
    for name, there in found.items():
        once = {fold: seed for seed, fold in sorted(there, reverse=True)}  # of a floor
        asked = [(s, k) for s in seeds for k in folds] if trained[name] else [
            (once[k], k) for k in folds]  # fmt: skip
        systems[name] = [there[which] for which in asked]
    names = tuple(run.path.name for pairs in systems.values() for _, run in pairs)
    metric = {"micro_f1": "wa"}.get(step.metric, step.metric)  # one number, see `proofs`
    try:
        if step.kind == "dynamics":
            tables = ([run.history() for _, run in pairs] for pairs in systems.values())
            curves = dynamics(*tables, metric)
            return Measured(label, curves.gap, names, len(seeds), len(folds), curves.answer,
                            str(curves))  # fmt: skip
        interval = evidence.interval(systems, metric, step.role)
    except (records.RecordError, ValueError, KeyError) as error:
        where = "" if step.role == "test" else f"not scored on {step.role}: "
        told = str(error).replace(f"{records.home()}/", "")[:160]  # without folders of this machine
        return Measured(label, runs=names, seeds=len(seeds), lacks=f"{where}{told}")
    lacks = f"{step.metric} is undefined for these predictions"
    lacks = lacks if math.isnan(interval.value) else ""
    return Measured(label, interval, names, len(seeds), len(folds), lacks=lacks)


def common(
    ran: Sequence[Iterable[tuple[int, int]]], trained: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """The seeds and folds that some systems can be compared on, from the pairs that each ran.

    Of all sets of folds that a seed has in every system, the one that uses most runs; the seeds are
    those that have all of it. One run of a system that is not trained goes with every seed.

    >>> common([[(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)], [(0, 1), (0, 2)]], [True, False])
    ([0, 1], [1, 2])
    """
    pairs = [list(there) for there in ran]
    fixed = [{k for _, k in there} for there, luck in zip(pairs, trained, strict=True) if not luck]
    moved = [there for there, luck in zip(pairs, trained, strict=True) if luck] or pairs[:1]
    shared = {}
    for seed in set.intersection(*({s for s, _ in there} for there in moved)):
        folds = [{k for s, k in there if s == seed} for there in moved]
        shared[seed] = set.intersection(*folds, *fixed)
    used = {seed: (len(k) * sum(k <= other for other in shared.values()), len(k))
            for seed, k in shared.items() if k}  # fmt: skip
    if not used:
        return [], []
    best = shared[max(sorted(used), key=used.get)]
    return sorted(seed for seed, folds in shared.items() if best <= folds), sorted(best)
