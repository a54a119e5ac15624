"""`python -m tests.bench rehearse`: each kind of training of the chapters, once.

The full recipe, the full-size architectures with random weights, and part of the demo corpus. Each
training is killed after its first epoch and continued. What must hold is checked, and raised if it
does not: all rows are trained on in every epoch, the epochs before the kill stay as they were,
every utterance of dev and test is predicted once. What it took is kept for `serlib plan`.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from serbook.plan import asked, machine
from serlib import records
from serlib.corpora.demo import corpus
from serlib.data import batching, tables
from serlib.experiments import dataset, experiment, inputs
from serlib.experiments.inputs import store_frames
from serlib.recipes.recipe import Recipe
from tests.bench import turns, weights

POLL = 0.02  # seconds between two looks at a training that is to be killed


class RehearsalError(RuntimeError):
    """Something that a training must do, it did not do."""


@dataclass(frozen=True)
class Stage:
    """How large a rehearsal is."""

    steps: int = 200  # of the optimizer, at least; always two epochs or more
    utterances: int = 600  # of the demo corpus
    device: str = "cuda"  # or "cpu"
    layers: int | None = None  # of every encoder; None takes all
    width: int | None = None  # for tests, see `weights.write`

    def corpus(self) -> tuple[Path, Path]:
        """A manifest of so many utterances of the demo corpus, and the folder of their audio."""
        file = records.home() / "bench" / "corpora" / f"demo-{self.utterances}.csv"
        if not file.exists():
            df = corpus.load()
            tables.write(df.iloc[:: max(1, len(df) // self.utterances)].head(self.utterances), file)
        return file, corpus.make(progress=False)

    def encoder(self, name: str) -> str:
        """The folder of an encoder of this size."""
        return str(weights.write(name, layers=self.layers, width=self.width))

    def localized(self, recipe: Recipe) -> Recipe:
        """The recipe on those utterances, with local encoders, as long as `steps` asks for."""
        start, model = recipe.start and self.localized(recipe.start), recipe.model
        if recipe.system == "fusion":
            experts, tuned = (tuple(map(self.encoder, x)) for x in (model.experts, model.tuned))
            model = replace(model, experts=experts, tuned=tuned)
        else:
            model = replace(model, encoder=self.encoder(model.encoder))
            if model.layers.isdigit() and self.layers:
                model = replace(model, layers=str(min(int(model.layers), self.layers)))
        if self.layers and model.n_layers:
            model = replace(model, n_layers=min(model.n_layers, self.layers))
        file, root = map(str, self.corpus())
        recipe = replace(recipe, corpus=file, data_root=root, start=start, model=model)
        return recipe.change(start=start, epochs=self.epochs(recipe), patience=None)

    def epochs(self, recipe: Recipe) -> int:
        """Epochs that come to `steps`, and two at least, so that there is one to resume after."""
        df, _ = dataset.locate(recipe)
        train = dataset.assign(recipe, df).query("role == 'train'")
        sampler = batching.DurationBatchSampler(
            train["length"], budget_seconds=recipe.train.budget_seconds, seed=recipe.seed,
            max_clips=recipe.max_clips,
        )  # fmt: skip
        per_epoch = -(-len(sampler.epoch(0)) // recipe.train.accumulate)
        return max(2, -(-self.steps // per_epoch))


def run(chapters: Iterable[str], stage: Stage) -> pd.DataFrame:
    """Rehearse each kind of training once, the one with the most tasks; one row per kind.

    Rates at full size are kept for `serlib plan`.
    """
    found: dict[str, list[tuple[str, Recipe]]] = {}
    for chapter in chapters:
        for recipe in (wanted := asked.of(chapter, profile="full")).trained():
            found.setdefault(asked.kind(recipe), []).append((wanted.chapter[:2], recipe))
    rows = {}
    for kind, pairs in found.items():
        where, recipes = zip(*pairs, strict=True)
        row = rehearse(max(recipes, key=lambda recipe: len(recipe.model.tasks)), stage)
        if stage.layers is None and stage.width is None:
            keep({"kind": kind} | turns.facts(stage.device) | row)
        rows[kind] = {"chapters": " ".join(sorted(set(where)))} | row
    return pd.DataFrame.from_dict(rows, orient="index")


def rehearse(recipe: Recipe, stage: Stage) -> dict[str, object]:
    """Train one recipe, kill it, continue it, and check what came of it.

    Returns:
        ``steps``; ``utterances`` of all roles; ``epochs``; ``killed``, after so many; ``train`` and
        ``evaluate``, both audio seconds per second; ``encode``, the same of the frozen experts of a
        fusion one after the other; ``peak_gb``, of GPU memory.

    Raises:
        RehearsalError: What must hold does not.
    """
    recipe, on_gpu = stage.localized(recipe), torch.device(stage.device).type == "cuda"
    with _apart(stage.device):
        data = dataset.load(recipe)
        if recipe.start is not None:
            experiment.run(recipe.start, progress=False)
        encode = _encode(recipe, data)
        before = _killed(recipe, stage.device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        done = experiment.run(recipe, progress=False)
        _check(recipe, data, done, before)
        history = done.history()
    measured = history.iloc[len(before) :]  # by this process, whose first epoch warms up
    measured = measured.iloc[1:] if len(measured) > 1 else measured
    measured = history if measured.empty else measured  # the kill came too late
    dev = data.store.durations[data.rows("dev")].sum()
    return {
        "steps": int(history["steps"].sum()),
        "utterances": len(data.table),
        "epochs": len(history),
        "killed": len(before),
        "train": float(np.median(measured["audio_seconds"] / measured["train_seconds"])),
        "evaluate": float(np.median(dev / (measured["seconds"] - measured["train_seconds"]))),
        "encode": encode,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
    }


def keep(row: Mapping[str, object]) -> None:
    """Add one measured rate; the last one of a kind counts."""
    machine.own().parent.mkdir(parents=True, exist_ok=True)
    with open(machine.own(), "a", encoding="utf-8") as file:
        file.write(json.dumps(records.plain(dict(row)), ensure_ascii=False) + "\n")


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Inside, accelerate takes this kind of device, and not whatever there is."""
    cpu = {"ACCELERATE_USE_CPU": "true" if torch.device(device).type == "cpu" else "false"}
    with mock.patch.dict("os.environ", cpu):
        yield


@contextmanager
def _apart(device: str) -> Iterator[None]:
    """Inside, nothing was stored before, and what is made is gone afterwards.

    Nor are features stored of a trained encoder: they would fit here, and at a corpus's size not.
    """
    folder = records.home() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder) as home,
        mock.patch.dict("os.environ", SERLIB_HOME=home),
        mock.patch.object(inputs, "STORE_GB", 0),
        on_device(device),
    ):
        yield


def _encode(recipe: Recipe, data: dataset.Data) -> float | None:
    """Audio seconds per second of all frozen experts, one after the other."""
    if recipe.system != "fusion":
        return None
    started = time.perf_counter()
    for name in recipe.model.frozen:
        store_frames(recipe, name)
    return float(data.store.durations.sum() / (time.perf_counter() - started))


def _killed(recipe: Recipe, device: str) -> pd.DataFrame:
    """Train in another process and kill it once an epoch is complete; the history up to there."""
    found = experiment.record(recipe)
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(recipe, device))
    child.start()
    try:
        while child.is_alive() and not len(found.history()):
            time.sleep(POLL)
        if not child.is_alive() and not found.done:
            raise RehearsalError(f"the training broke down (exit code {child.exitcode})")
    finally:
        child.kill()
        child.join()
    return found.history()


def _train(recipe: Recipe, device: str) -> None:
    with mock.patch.object(inputs, "STORE_GB", 0), on_device(device):
        experiment.run(recipe, progress=False)


def _check(recipe: Recipe, data: dataset.Data, done: records.Run, before: pd.DataFrame) -> None:
    """Refuse a training that lost rows, epochs or predictions."""
    history, n = done.history(), len(data.rows("train"))
    if list(history["epoch"]) != [*range(1, recipe.train.epochs + 1)]:
        raise RehearsalError(f"{len(history)} epochs, of {recipe.train.epochs} asked for")
    if (history["clips"] != n).any():
        raise RehearsalError(f"epochs of {sorted(set(history['clips']))} clips; train has {n}")
    if not before.astype(object).equals(history.iloc[: len(before)].astype(object)):
        raise RehearsalError("the epochs before the kill are not what they were")
    for role in ("dev", "test"):
        wanted = sorted(data.table["key"].iloc[data.rows(role)])
        if sorted(done.predictions(role).index) != wanted:
            raise RehearsalError(f"{role} has {len(wanted)} utterances; others were predicted")
