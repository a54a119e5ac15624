"""Evidence for claims: which finished runs are of a system, and what they measured.

A claim names systems; a system is a recipe for each profile. Runs are found by what they were asked
to do, among all finished ones, so nobody has to say where they are; of the smoke and demo tiers
only those count that today's code would give again. Nothing here writes but `decide`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from serbook.claims.dynamics import dynamics
from serbook.claims.rules import Step
from serbook.runner import evidence
from serlib import records
from serlib.data import batching, manifest
from serlib.data.stores import WaveStore
from serlib.experiments import dataset, experiment
from serlib.experiments.dataset import Data
from serlib.experiments.inputs import inputs
from serlib.experiments.sweep import Runs, sweep
from serlib.metrics.intervals import Interval
from serlib.recipes.recipe import Recipe, RecipeError
from serlib.tasks.targets import task_targets
from serlib.training import evaluation


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
    """All finished runs of this machine, by what they were asked to do; read once."""

    def __init__(self) -> None:
        """Look through $SERLIB_HOME/runs."""
        self.found = evidence.finished()
        self._current: dict[str, bool] = {}

    def seeds(self, recipe: Recipe) -> dict[int, tuple[Recipe, records.Run]]:
        """The newest finished run of a recipe for each seed; seed, data and place are the runs'."""
        newest, system = {}, evidence.system_key(records.plain(recipe))
        evidence.note(system, self.found)
        for _, run, asked in sorted(self.found.get(system, []), key=_ended):
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

    def runs(self, systems: Mapping[str, Recipe]) -> tuple[Runs, list[int]]:
        """The runs of some systems, under the systems' names, with the seeds that all have."""
        found = {name: self.seeds(recipe) for name, recipe in systems.items()}
        common = sorted(set.intersection(*(set(x) for x in found.values()))) if found else []
        pairs = [
            (replace(found[name][seed][0], name=name), found[name][seed][1])
            for name in systems
            for seed in common
        ]
        return Runs(tuple(r for r, _ in pairs), tuple(run for _, run in pairs)), common


def _ended(entry: tuple) -> str:
    return entry[0]


def measure(step: Step, systems: Mapping[str, Recipe], finished: Finished) -> Measured:
    """What the finished runs say about one comparison; see `Measured`.

    Args:
        step: The comparison.
        systems: The recipes of its systems, by name.
        finished: The runs to look among.
    """
    wanted = {name: systems[name] for name in step.systems}
    runs, seeds = finished.runs(wanted)
    label = str(step)
    metric = {"micro_f1": "wa"}.get(step.metric, step.metric)  # one number, see `proofs`
    if not seeds:
        missing = [name for name, r in wanted.items() if not finished.seeds(r)] or list(wanted)
        return Measured(label, lacks=f"not run: {', '.join(missing)}")
    names = tuple(run.path.name for run in runs.runs)
    try:
        if step.kind == "dynamics":
            curves = dynamics(runs, *step.systems, metric)
            return Measured(label, curves.gap, names, len(seeds), curves.answer, str(curves))
        if step.kind == "value":
            interval = runs.interval(step.systems[0], metric, step.role)
        else:
            interval = runs.difference(*step.systems, metric, step.role)
    except (records.RecordError, ValueError, KeyError) as error:
        where = "" if step.role == "test" else f"not scored on {step.role}: "
        return Measured(label, runs=names, seeds=len(seeds), lacks=f"{where}{_short(error)}")
    if math.isnan(interval.value):
        lacks = f"{step.metric} is undefined for these predictions"
        return Measured(label, interval, names, len(seeds), lacks=lacks)
    return Measured(label, interval, names, len(seeds))


def _short(error: Exception) -> str:
    """An error's message without folders of this machine."""
    text = str(error).replace(f"{records.home()}/", "")
    return text[:160]


def decide(
    steps: Iterable[Step],
    build: Callable[[str], Recipe],
    seeds: Iterable[int] = (0, 1),
    roots: Mapping[str, str] | None = None,
    progress: bool = True,
    workers: int | None = None,
) -> None:
    """Run what a rule needs and is not there yet, and score on other corpora what it asks so.

    Args:
        steps: The comparisons of the rule.
        build: From a system's name to its recipe, of one profile.
        seeds: At least these seeds of every system; those that are finished are only read.
        roots: Folder of each other corpus, by name.
        progress: Progress bars.
        workers: As in `sweep`.

    Raises:
        RecipeError: A corpus has no root.
    """
    steps, roots = list(steps), dict(roots or {})
    if missing := {s.role for s in steps} - {"test"} - set(roots):
        name = sorted(missing)[0]
        raise RecipeError(f"the claim is scored on {name}: say where it is, --root {name}=DIR")
    names = dict.fromkeys(name for step in steps for name in step.systems)
    finished = Finished()
    asked = {}
    for name in names:
        recipe = build(name)
        there = finished.seeds(recipe)
        asked |= {(name, s): recipe.change(seed=s) for s in seeds if s not in there}
    if asked:
        sweep(asked.values(), progress=progress, workers=workers)
    finished = Finished()
    for step in steps:
        for name in step.systems if step.role != "test" else ():
            for recipe, run in finished.seeds(build(name)).values():
                elsewhere(recipe, run, step.role, roots[step.role], progress)


def elsewhere(
    recipe: Recipe, run: records.Run, corpus: str, root: str, progress: bool = True
) -> None:
    """Score a trained run on all labeled clips of another corpus, as its predictions of that name.

    Classes that the other corpus does not have are not answered: their probabilities are dropped,
    the mapping (a) of chapter 04. A clip whose talker is unknown counts as a talker of its own.

    Args:
        recipe: The run's.
        run: Finished; gets `predictions_<corpus>.csv`, unless it has it.
        corpus: The other corpus; its manifest is `root`/<corpus>.csv.
        root: Folder that the manifest's paths start from.
        progress: Progress bars.
    """
    if (run.path / f"predictions_{corpus}.csv").exists():
        return
    there = recipe.change(corpus=corpus, data_root=str(root))
    df, folder = dataset.locate(there)
    label = manifest.label_ids(df, recipe.classes, dict(recipe.merge))
    table = df.assign(label=label, role="test")[label >= 0].reset_index(drop=True)
    if table.empty:
        raise RecipeError(f"{corpus} has no utterance of the classes {', '.join(recipe.classes)}")
    store = WaveStore.from_manifest(table, folder, progress=progress)
    data = Data(table, store, np.bincount(table["label"], minlength=len(recipe.classes)))
    model = experiment.restore(run)
    targets, _ = task_targets(table, recipe.model.tasks)
    clips, quantum = inputs(there, data, model.encoder, targets)
    plan = batching.DurationBatchSampler(
        store.durations, budget_seconds=recipe.train.budget_seconds, seed=0, shuffle=False
    )
    answers = evaluation.predict(model, clips.batches(plan.epoch(0), quantum))
    answers["prediction"] = known_classes(answers, data.counts > 0)
    by_key = table.set_index("key")["speaker"].reindex(answers.index)
    answers["speaker"] = by_key.fillna(by_key.index.to_series()).astype(str)
    run.save_predictions(corpus, answers)


def known_classes(answers, present: np.ndarray) -> np.ndarray:
    """The most probable of the classes that are present, per row."""
    p = answers[[f"p_{c}" for c in range(len(present))]].to_numpy()
    return np.where(present, p, -1.0).argmax(1)


def environment(runs: Iterable[str]) -> list[dict]:
    """Where some runs were made, each place once: versions, platform, device."""
    found = []
    for name in runs:
        path = records.home() / "runs" / name / "environment.json"
        if path.exists() and (facts := records.read_json(path)) not in found:
            found.append(facts)
    return found


def differences(
    base: str, other: str, systems: Mapping[str, Recipe], wanted: Iterable[str], finished: Finished
) -> dict[str, Measured]:
    """The differences other - base in several metrics, for a table of alternatives."""
    return {m: measure(Step("gain", (base, other), m), systems, finished) for m in wanted}


def undefined(interval: Interval | None) -> bool:
    """Whether an interval has no bounds, as with fewer than two talkers."""
    return interval is None or any(map(math.isnan, dataclasses.astuple(interval)))
