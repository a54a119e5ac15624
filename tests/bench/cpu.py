"""The demo fine-tuning against the Trainer and a plain loop, and start-up times.

All three train the demo recipe of Wang et al.'s baseline: same model and starting weights, same
utterances, epochs, learning rates, schedule, weight decay and clipping; the last epoch counts. The
Trainer has its own defaults for all else, first of all 8 clips to a batch in random order. It and
the plain loop get waves, as they do in published code; this loop gets what its frozen part makes of
them, computed once. What that takes is in the table, in a column of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import torch

from serlib.data import batching
from serlib.data.batching import Clips
from serlib.experiments import dataset
from serlib.experiments.inputs import inputs
from serlib.models.recognizer import SER
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe
from serlib.tasks.targets import task_targets
from serlib.training import evaluation
from serlib.training import loop as training_loop
from tests.bench import contenders, rehearse, turns

STARTS = {
    "python": ["-c", "pass"],
    "import serlib": ["-c", "import serlib"],
    "serlib --help": ["-m", "serlib", "--help"],
    "serlib manifest list": ["-m", "serlib", "manifest", "list"],
}


class Fight:
    """The recipe's data, and each way to train on it, from the same start."""

    def __init__(self, recipe: Recipe) -> None:
        """Read the corpus."""
        self.recipe, self.data = recipe, dataset.load(recipe)
        self.targets, _ = task_targets(self.data.table, recipe.model.tasks)
        self.once = 0.0  # seconds in which what is frozen was computed

    def model(self, seed: int) -> SER:
        """Fresh heads on the pre-trained encoder."""
        return SER(self.recipe.model, seed=seed)

    def waves(self, model: SER, role: str) -> Clips:
        """The clips of a role, as waves."""
        return self._of(self.data.store, model.encoder.prepare, role)

    def _of(self, store, prepare: Callable | None, role: str) -> Clips:
        rows, data = self.data.rows(role), self.data
        stored = [store[int(i)] for i in rows] if prepare is None else _Some(store, rows)
        keys = data.table["key"].iloc[rows]
        label = data.table["label"].to_numpy()[rows]
        return Clips(stored, keys, data.store.durations[rows], emotion=label, prepare=prepare)

    def ours(self, seed: int) -> dict[str, float]:
        """`loop.fit` on what the frozen part made of the clips."""
        model, config = self.model(seed), replace(self.recipe.train, select="last", seed=seed)
        started = time.perf_counter()
        clips, quantum = inputs(self.recipe, self.data, model.encoder, self.targets)
        self.once = max(self.once, time.perf_counter() - started)  # the first time; then it is read
        rows = self.data.rows("train")
        sampler = batching.DurationBatchSampler(
            self.data.store.durations[rows], budget_seconds=config.budget_seconds, seed=seed
        )

        def batches(epoch: int) -> batching.Batches:
            return clips.batches([rows[places] for places in sampler.epoch(epoch)], quantum)

        with rehearse.on_device("cpu"):
            history = training_loop.fit(
                model, contenders.cross_entropy, batches, lambda _: {}, config, progress=False
            )
        return {"seconds": float(history["train_seconds"].sum())} | self.scores(model)

    def trainer(self, seed: int) -> dict[str, float]:
        """Hugging Face's Trainer."""
        model, epochs = self.model(seed), self.recipe.train.epochs
        clips = self.waves(model, "train")
        loop = contenders.trainer(
            model, clips, self.recipe.train, "cpu", epochs=epochs, seed=seed,
            max_grad_norm=self.recipe.train.clip or 0.0,
        )  # fmt: skip
        return {"seconds": loop.epoch()} | self.scores(model)

    def plain(self, seed: int) -> dict[str, float]:
        """The plain loop."""
        model = self.model(seed)
        torch.manual_seed(seed)
        loop = contenders.plain(
            model, self.waves(model, "train"), self.recipe.train, "cpu", size=8,
            epochs=self.recipe.train.epochs,
        )  # fmt: skip
        return {"seconds": loop.epoch()} | self.scores(model)

    def scores(self, model: SER) -> dict[str, float]:
        """UA and WA on test."""
        clips = self.waves(model, "test")
        sampler = batching.DurationBatchSampler(clips.durations, budget_seconds=24, shuffle=False)
        batches = clips.batches(sampler.epoch(0), contenders.QUANTUM)
        table = evaluation.predict(model, batches, "cpu")
        found = evaluation.score(table, len(self.recipe.classes))
        return {name: found[name] for name in ("ua", "wa")}


class _Some:
    """Entries of a store, read when they are asked for."""

    def __init__(self, store, places) -> None:
        self.store, self.places = store, [int(i) for i in places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int):
        return self.store[self.places[i]]


def fine_tune(profile: str = "demo", repeats: int = 3, **changes) -> pd.DataFrame:
    """One row per way to train; a repeat is a seed, the ways take turns.

    Columns: audio seconds per second over all epochs (median and range), this loop's over it,
    seconds of training, seconds that computing the frozen part took once, UA and WA on test (means
    over seeds).

    Args:
        profile: "demo", or "smoke" for a slice of one epoch.
        repeats: Seeds.
        **changes: Of the recipe.
    """
    recipe = papers.wang2025_baseline(profile).change(**changes)
    fight = Fight(recipe)
    audio = fight.data.store.durations[fight.data.rows("train")].sum() * recipe.train.epochs
    ways = {"this loop": fight.ours, "Trainer": fight.trainer, "plain loop": fight.plain}
    found: dict[str, list[dict]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as home, mock.patch.dict("os.environ", SERLIB_HOME=home):
        for seed in range(repeats):  # with a home of its own nothing is stored beforehand
            for name, way in ways.items():
                found[name].append(way(seed))
    speeds = {name: [audio / each["seconds"] for each in rows] for name, rows in found.items()}
    middle = {name: statistics.median(x) for name, x in speeds.items()}
    return pd.DataFrame.from_dict(
        {
            name: {
                "audio s/s": turns.spread(speeds[name]),
                "this loop is": f"{middle['this loop'] / middle[name]:.2f} x",
                "training s": statistics.median(each["seconds"] for each in rows),
                "once s": fight.once if name == "this loop" else 0.0,
                "UA": float(np.mean([each["ua"] for each in rows])),
                "WA": float(np.mean([each["wa"] for each in rows])),
            }
            for name, rows in found.items()
        },
        orient="index",
    )


def start_up(repeats: int = 5) -> pd.DataFrame:
    """Seconds from the shell's prompt and back, medians and ranges; python alone for comparison."""

    def timed(arguments: list[str]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            return time.perf_counter() - started

        return run

    found = turns.alternate({name: timed(a) for name, a in STARTS.items()}, repeats)
    return pd.DataFrame({"seconds": {name: turns.spread(x) for name, x in found.items()}})
