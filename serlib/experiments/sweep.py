"""Many runs: train what is missing, read what is there, and summarize over seeds."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from serlib import records
from serlib.experiments import dataset, experiment
from serlib.experiments.inputs import store_frames
from serlib.experiments.screen import bars, quiet
from serlib.metrics import intervals, measures
from serlib.recipes.recipe import GUESSERS, TRAINED, Recipe
from serlib.tasks import attributes
from serlib.tasks.answers import task_ratio

WATCH = "watch"  # the thread of a worker that ends it
METRICS: dict[str, Callable] = {"wa": measures.wa, "ua": measures.ua, "macro_f1": measures.macro_f1}


@dataclass(frozen=True)
class Runs:
    """Finished runs of one sweep, in the order asked for."""

    recipes: tuple[Recipe, ...]
    runs: tuple[records.Run, ...]

    def __len__(self) -> int:
        """How many runs."""
        return len(self.runs)

    @property
    def _pairs(self) -> list[tuple[Recipe, records.Run]]:
        return list(zip(self.recipes, self.runs, strict=True))

    def __add__(self, other: Runs) -> Runs:
        """Both sweeps' runs, each once under its name, so that they can be compared."""
        known = {(r.name, run.path) for r, run in self._pairs}
        return _of(self._pairs + [p for p in other._pairs if (p[0].name, p[1].path) not in known])

    def named(self, name: str) -> Runs:
        """The runs of one name, usually one per seed.

        Raises:
            KeyError: If no run has that name.
        """
        found = [pair for pair in self._pairs if pair[0].name == name]
        if not found:
            raise KeyError(f"no run is named {name!r}; there are {', '.join(self.names())}")
        return _of(found)

    def together(self, *names: str) -> Runs:
        """The runs of several names, name by name, with only the seeds that all of them have.

        So they can be compared in pairs: where one name ran with more seeds, the others are left
        out.

        Raises:
            KeyError: If no run has one of the names.
            ValueError: If the names have no seed in common, or none is given.
        """
        groups = [self.named(name) for name in dict.fromkeys(names)]
        seeds = {group.names()[0]: {r.seed for r in group.recipes} for group in groups}
        common = set.intersection(*seeds.values()) if seeds else set()
        if not common:
            found = "; ".join(f"{name}: {sorted(s)}" for name, s in seeds.items())
            raise ValueError(f"no seed that all names have: {found or 'no names were given'}")
        return _of(p for group in groups for p in group._pairs if p[0].seed in common)

    def names(self) -> list[str]:
        """The names, each once, in order."""
        return list(dict.fromkeys(r.name for r in self.recipes))

    def predictions(self, name: str, role: str = "test") -> list[pd.DataFrame]:
        """The tables of predictions of one name, one per seed.

        Raises:
            ValueError: If the runs were scored on different utterances.
        """
        return self._tables(name, role=role)[0]

    def _tables(self, *names: str, role: str) -> list[list[pd.DataFrame]]:
        """The tables of each name, which must all be of the same utterances."""
        found = [[run.predictions(role) for run in self.named(name).runs] for name in names]
        first, *others = (table for tables in found for table in tables)
        if any(list(table.index) != list(first.index) for table in others):
            raise ValueError(f"runs of {', '.join(names)} were scored on different utterances")
        return found

    def stacked(self, name: str, role: str = "test") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth (U,), predictions (S, U) over the seeds of one name, and talkers (U,)."""
        tables = self.predictions(name, role)
        predictions = np.stack([t["prediction"].to_numpy() for t in tables])
        return tables[0]["truth"].to_numpy(), predictions, tables[0]["speaker"].to_numpy()

    def interval(self, name: str, metric: str, role: str = "test") -> intervals.Interval:
        """Mean over seeds with its 95 % interval over speakers and seeds.

        Metrics are those of `METRICS`, and of other tasks those of `task_ratio` and
        `attributes.MEASURES`.
        """
        return self._bootstrap(metric, role, name)

    def _bootstrap(self, metric: str, role: str, *names: str) -> intervals.Interval:
        """Interval of one name's metric, or of the second's minus the first's."""
        found, systems = self._tables(*names, role=role), []
        seeds = max(len(tables) for tables in found)
        for tables in found:
            if metric in METRICS:
                parts = [(table["prediction"].to_numpy(),) for table in tables]
            elif metric in attributes.MEASURES:
                parts = [(attributes.moments(table),) for table in tables]
            else:
                parts = [task_ratio(table, metric) for table in tables]
            parts = parts * seeds if len(parts) == 1 else parts
            systems.append(tuple(np.stack(x) for x in zip(*parts, strict=True)))
        truth, speakers = found[0][0]["truth"].to_numpy(), found[0][0]["speaker"].to_numpy()
        bare = [x for x, *_ in systems]
        if metric in attributes.MEASURES:
            interval = intervals.bootstrap_sums(attributes.MEASURES[metric], bare, speakers)
        elif metric not in METRICS:
            interval = intervals.bootstrap_ratio(systems, speakers)
        else:
            bootstrap = intervals.bootstrap if len(names) == 1 else intervals.paired_bootstrap
            c = len(self.named(names[0]).recipes[0].classes)
            interval = bootstrap(METRICS[metric], truth, *bare, speakers, n_classes=c)
        return replace(interval, note=_unknown(speakers, found[0][0].index.to_numpy()))

    def summary(
        self, metrics_: Sequence[str] = ("wa", "ua", "macro_f1"), role: str = "test"
    ) -> pd.DataFrame:
        """One row per name: the number of runs, and each metric with its 95 % interval."""
        rows = {
            name: {"runs": len(self.named(name))}
            | {m: self.interval(name, m, role) for m in metrics_}
            for name in self.names()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def difference(self, a: str, b: str, metric: str, role: str = "test") -> intervals.Interval:
        """Paired interval of metric(b) - metric(a) on the same talkers and seeds.

        A system that ran once (a floor has no seeds) is compared with every seed of the other.
        """
        return self._bootstrap(metric, role, a, b)

    def confusion(self, name: str, role: str = "test") -> np.ndarray:
        """Confusion counts (C, C) summed over the seeds of one name."""
        truth, predictions, _ = self.stacked(name, role)
        c = len(self.named(name).recipes[0].classes)
        return sum(measures.confusion(truth, p, c) for p in predictions)

    def histories(self, name: str) -> list[pd.DataFrame]:
        """Learning curves, one table per seed."""
        return [run.history() for run in self.named(name).runs]


def _unknown(speakers: np.ndarray, keys: np.ndarray) -> str:
    """What an interval over speakers must say of those that are unknown, see `targets.speakers`."""
    n = int((speakers == keys).sum())
    if n == len(speakers):
        return "over utterances, speakers are unknown"
    return f"{n} of {len(speakers)} utterances without a speaker" if n else ""


def _of(pairs: Iterable[tuple[Recipe, records.Run]]) -> Runs:
    pairs = list(pairs)
    return Runs(tuple(r for r, _ in pairs), tuple(run for _, run in pairs))


def sweep(
    asked: Iterable[Recipe],
    scheduler: Any = None,
    *,
    progress: bool = True,
    workers: int | None = None,
) -> Runs:
    """Run recipes; finished ones are read, so a killed sweep goes on where it was.

    Small models do not keep several processor cores busy, so without a GPU as many runs go side by
    side as there are cores, each on one thread; a run that is alone has one, too, so that its last
    bits are those of a sweep. With one core they follow each other in this process.

    Raises RecipeError, before anything is trained, where the corpus cannot teach what is asked.

    Args:
        asked: What to run.
        scheduler: Address of a `dask.distributed` scheduler, a cluster, or a client: its workers
            train, and this process reads the results. They must share $SERLIB_HOME; see
            `serlib.experiments.cluster`. None trains here.
        progress: A bar over the runs. A run that is alone has its own, and so has each on a GPU.
        workers: Processes; None takes one with a GPU, else one per core that this process may use,
            at most four.
    """
    asked = tuple(dataset.taught(recipe) for recipe in asked)
    with quiet(not progress):
        _refuse(_missing(asked))
        if before := [first for r in asked for first in experiment.needs(r)]:
            sweep(before, scheduler, workers=workers)
        if missing := _missing(asked):
            _train(missing, scheduler, _workers(workers))
        return Runs(asked, tuple(experiment.run(r) for r in asked))


def _train(missing: list[Recipe], scheduler: Any, workers: int) -> None:
    """Train on a cluster, side by side or one after the other; see `sweep`."""
    several = len(missing) > 1
    if scheduler is not None or (several and workers > 1):
        dataset.locate(missing[0])  # speak the demo corpus once, before all ask for it
    if scheduler is not None:
        from serlib.experiments import cluster  # needs an extra, `pip install 'serlib[cluster]'`

        if pairs := _frozen(missing):
            cluster.encode(pairs, scheduler)
        cluster.train(missing, scheduler)
    elif several and workers > 1:
        encode(missing, workers=workers)
        with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
            parallel = joblib.Parallel(return_as="generator_unordered")
            run = functools.partial(_in_worker, os.getpid(), experiment.run)
            done = parallel(joblib.delayed(run)(r, progress=False) for r in missing)
            for _ in tqdm(done, "train", len(missing), unit="run", disable=not bars()):
                pass
    else:
        for recipe in tqdm(missing, "train", unit="run", disable=not (several and bars())):
            with _one_thread(recipe):
                experiment.run(recipe, progress=torch.cuda.is_available() or not several)


def encode(asked: Iterable[Recipe], *, workers: int | None = None) -> None:
    """Store the frames of all frozen experts that fusions among these recipes listen to.

    A sweep does so before it trains; a single run makes what it lacks, one expert after the other.

    Args:
        asked: Recipes; those of other systems are passed over.
        workers: As in `sweep`: so many experts at a time.
    """
    if pairs := _frozen(asked):
        dataset.locate(pairs[0][0])
        n = min(_workers(workers), len(pairs))
        with joblib.parallel_config("loky", n_jobs=n, inner_max_num_threads=1):
            store = functools.partial(_in_worker, os.getpid(), store_frames)
            joblib.Parallel()(joblib.delayed(store)(*pair) for pair in pairs)


def _in_worker(parent: int, function: Callable, *arguments, **options) -> None:
    """Do a job in a process that ends with its parent, however that ends; its run goes on later."""
    if os.getpid() != parent and not any(t.name == WATCH for t in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=WATCH, daemon=True).start()
    function(*arguments, **options)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _frozen(asked: Iterable[Recipe]) -> list[tuple[Recipe, str]]:
    """Frozen experts that fusions listen to, each once, with a recipe that has it."""
    found = {}
    for recipe in asked:
        if recipe.system == "fusion" and recipe.transcript == "manifest":
            for name in recipe.model.frozen:
                found.setdefault((name, recipe.model.n_layers, recipe.model.random_init), recipe)
    return [(recipe, name) for (name, *_), recipe in found.items()]


def _missing(asked: Iterable[Recipe]) -> list[Recipe]:
    """Those that are yet to be fitted, or predicted with, one per run; a guess costs nothing."""
    found = {experiment.record(r): r for r in asked if r.system not in GUESSERS}
    return [recipe for run, recipe in found.items() if not run.done]


def _refuse(missing: Iterable[Recipe]) -> None:
    """Say what a corpus cannot teach before the first training, and not after hours of others."""
    for recipe in missing:
        if recipe.system in TRAINED and recipe.corpus != "demo":  # which teaches all
            dataset.teachable(recipe, dataset.assign(recipe, dataset.locate(recipe)[0]))


def _workers(asked: int | None) -> int:
    """How many processes: what was asked for, else one with a GPU and one per core without."""
    if asked is not None:
        return asked
    return 1 if torch.cuda.is_available() else min(joblib.cpu_count(), 4)


@contextmanager
def _one_thread(recipe: Recipe) -> Iterator[None]:
    """One thread for a small model on a CPU; the number before is restored."""
    before = torch.get_num_threads()
    small = recipe.profile != "full" and not torch.cuda.is_available()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
