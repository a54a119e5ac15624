"""Many runs: train what is missing, and read what is there."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import torch
from tqdm.auto import tqdm

from serlib.experiments import dataset, experiment
from serlib.experiments.inputs import store_frames
from serlib.experiments.runs import Runs
from serlib.experiments.screen import bars, quiet
from serlib.recipes.recipe import GUESSERS, TRAINED, Recipe

WATCH = "watch"  # the thread of a worker that ends it


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
    asked = tuple(r for recipe in asked for r in dataset.in_folds(dataset.taught(recipe)))
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
    with quiet(os.getpid() != parent):  # the parent has told it
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
