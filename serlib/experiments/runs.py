"""Finished runs by name: their predictions, and scores over seeds, folds and speakers."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from serlib import records
from serlib.experiments import remarks
from serlib.metrics import intervals, measures
from serlib.recipes.recipe import Recipe
from serlib.tasks import attributes
from serlib.tasks.answers import ratio_range, task_ratio

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

        Where a name ran in several folds, a seed's table has all of them, one below the other: each
        utterance is then answered by the model that did not train on it.

        Raises:
            ValueError: A seed lacks a fold, two folds have some utterances in common (not all, as
                of "dev_as_test"), or the seeds were scored on different utterances.
        """
        return self._tables(name, role=role)[0]

    def _tables(self, *names: str, role: str) -> list[list[pd.DataFrame]]:
        """The tables of each name, which must all be of the same utterances."""
        found = [self.named(name)._pooled(role) for name in names]
        first, *others = (table for tables in found for table in tables)
        if any(list(table.index) != list(first.index) for table in others):
            raise ValueError(f"runs of {', '.join(names)} were scored on different utterances")
        return found

    def _pooled(self, role: str) -> list[pd.DataFrame]:
        """One table per seed of these runs, which have one name: their folds, put together."""
        parts: dict[Any, dict[int, pd.DataFrame]] = {}
        times: collections.Counter = collections.Counter()
        for recipe, run in self._pairs:
            which = recipe.seed, recipe.fold
            parts.setdefault((recipe.seed, times[which]), {})[recipe.fold] = run.predictions(role)
            times[which] += 1
        name, folds = self.recipes[0].name, sorted({r.fold for r in self.recipes})
        for (seed, _), tables in parts.items():
            if missing := ", ".join(str(k) for k in folds if k not in tables):
                told = f"seed {seed} of {name!r} was not run in fold {missing}, as other seeds were"
                raise ValueError(f"{told}: run it, or leave that seed out")
        return [_below([tables[k] for k in folds], name) for tables in parts.values()]

    def stacked(self, name: str, role: str = "test") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth (U,), predictions (S, U) over the seeds of one name, and speakers (U,)."""
        tables = self.predictions(name, role)
        predictions = np.stack([t["prediction"].to_numpy() for t in tables])
        return tables[0]["truth"].to_numpy(), predictions, tables[0]["speaker"].to_numpy()

    def interval(self, name: str, metric: str, role: str = "test") -> intervals.Interval:
        """Mean over seeds with its 95 % interval over speakers and seeds.

        Metrics are those of `METRICS`, and of other tasks those of `task_ratio` and
        `attributes.MEASURES`. Several folds give one score over all their utterances; that their
        models share most of their training data is not in the interval (Bengio and Grandvalet
        2004).
        """
        return self._jackknife(metric, role, name)

    def _jackknife(self, metric: str, role: str, *names: str) -> intervals.Interval:
        """Interval of one name's metric, or of the second's minus the first's."""
        found, systems = self._tables(*names, role=role), []
        seeds = max(map(len, found))
        if odd := [f"{len(t)} of {n!r}" for t, n in zip(found, names, strict=True)
                   if len(t) not in (1, seeds)]:  # fmt: skip
            raise ValueError(f"{seeds} seeds against {odd[0]}: compare in together{names}")
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
            measure, within = attributes.MEASURES[metric], attributes.within(metric)
            interval = intervals.jackknife_sums(measure, bare, speakers, within=within)
        elif metric not in METRICS:
            interval = intervals.jackknife_ratio(systems, speakers, within=ratio_range(metric))
        else:
            jackknife = intervals.jackknife if len(names) == 1 else intervals.paired_jackknife
            c = len(self.named(names[0]).recipes[0].classes)
            interval = jackknife(METRICS[metric], truth, *bare, speakers, n_classes=c)
        notes = [interval.note, _unknown(speakers, found[0][0].index.to_numpy())]
        if interval.bounded:
            notes += [_lucky(self.named(n), len(t)) for t, n in zip(found, names, strict=True)]
        if metric in ("wer", "cer"):
            notes.append(remarks.repeated(self.named(names[-1]).runs[0]))
        return replace(interval, note="; ".join(dict.fromkeys(filter(None, notes))))

    def summary(
        self, metrics_: Sequence[str] = ("wa", "ua", "macro_f1"), role: str = "test"
    ) -> pd.DataFrame:
        """One row per name: how many seeds and speakers, and each metric with its 95 % interval.

        With several folds their number, too; `folds` has the scores of each.
        """
        rows, crossed = {}, len({r.fold for r in self.recipes}) > 1
        for name in self.names():
            tables = self.predictions(name, role)
            rows[name] = {"seeds": len(tables), "speakers": tables[0]["speaker"].nunique()}
            if crossed:
                rows[name]["folds"] = len({r.fold for r in self.named(name).recipes})
            rows[name] |= {m: self.interval(name, m, role) for m in metrics_}
        return pd.DataFrame.from_dict(rows, orient="index")

    def folds(
        self,
        name: str,
        metrics_: Sequence[str] = ("wa", "ua", "macro_f1"),
        role: str = "test",
    ) -> pd.DataFrame:
        """Each fold's scores, means over the seeds; their mean over folds; and the pooled score.

        Published tables have the mean of folds, here with the standard deviation over folds. It is
        no pooled score: a fold in which a class is rare counts as much as any other, and of UA,
        macro-F1 and WER the mean differs from what all utterances together give.
        """
        own = self.named(name)
        rows = {
            fold: {m: of.interval(name, m, role).value for m in metrics_}
            for fold in sorted({r.fold for r in own.recipes})
            for of in [_of(pair for pair in own._pairs if pair[0].fold == fold)]
        }
        each = pd.DataFrame.from_dict(rows, orient="index")
        spread = zip(each.mean(), each.std(), strict=True)
        pooled = [own.interval(name, m, role) for m in metrics_]
        table = each.astype(object)
        table.loc["mean of folds"] = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in spread]
        table.loc["pooled"] = pooled
        return table.rename_axis("fold")

    def difference(self, a: str, b: str, metric: str, role: str = "test") -> intervals.Interval:
        """Paired interval of metric(b) - metric(a) on the same speakers and seeds.

        A system that ran once (a floor has no seeds) is compared with every seed of the other.
        """
        return self._jackknife(metric, role, a, b)

    def confusion(self, name: str, role: str = "test") -> np.ndarray:
        """Confusion counts (C, C) summed over the seeds of one name."""
        truth, predictions, _ = self.stacked(name, role)
        c = len(self.named(name).recipes[0].classes)
        return sum(measures.confusion(truth, p, c) for p in predictions)

    def histories(self, name: str) -> list[pd.DataFrame]:
        """Learning curves, one table per run."""
        return [run.history() for run in self.named(name).runs]


def _below(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """The folds of one seed as one table; all may test the same utterances, or none in common."""
    if len(tables) == 1:
        return tables[0]
    table = pd.concat(tables)
    twice = table.index[table.index.duplicated()].unique()
    if len(twice) and any(set(t.index) != set(twice) for t in tables):
        told = f"folds of {name!r} have {len(twice)} utterances in common, such as {twice[0]}"
        raise ValueError(f"{told}: folds that test some of them twice give no one score")
    return table


def _lucky(runs: Runs, seeds: int) -> str:
    """What an interval must say of a trained system with one seed: nothing of luck in training."""
    return "speakers only: 1 seed" if seeds == 1 and runs.recipes[0].trained else ""


def _unknown(speakers: np.ndarray, keys: np.ndarray) -> str:
    """What an interval over speakers must say of those that are unknown, see `targets.speakers`."""
    n = int((speakers == keys).sum())
    if n == len(speakers):
        return "over utterances, speakers are unknown"
    return f"{n} of {len(speakers)} utterances without a speaker" if n else ""


def _of(pairs: Iterable[tuple[Recipe, records.Run]]) -> Runs:
    pairs = list(pairs)
    return Runs(tuple(r for r, _ in pairs), tuple(run for _, run in pairs))
