"""`serlib plan`: what chapters cost at the papers' scale, said before anything runs.

    hours of a training = (epochs · (train / r + dev / e) + (dev + test) / e) / 3600

with the audio seconds of each role, and the rates r of training and e of evaluation, in audio
seconds per second, that `python -m tests.bench rehearse` measured for this kind of training. A
kind that nobody measured has no hours, unless a card is named for which `work` computes them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from serbook.plan import architectures, asked, work
from serbook.runner import notebooks
from serlib.experiments import dataset
from serlib.models.encoders import checkpoints
from serlib.recipes.recipe import Recipe, RecipeError

FRAMES = 50  # a second, of every encoder of speech
WEIGHT, FRAME_NUMBER = 4, 2  # bytes: float32, float16
SVM = 41 / 3600, 8000, 2.1  # hours of a core at so many rows, and the power that they grow with
UNKNOWN = dict.fromkeys(("train", "evaluate", "encode", "peak_gb"), math.nan)  # nobody measured
COLUMNS = [
    "trainings", "audio hours trained on", "GPU hours", "memory GB", "disk GB", "GB while running",
]  # fmt: skip


class PlanError(ValueError):
    """Nothing can be said about this; the message names the fix."""


@dataclass(frozen=True)
class Size:
    """Audio seconds of the three roles in one fold, and where the numbers are from."""

    train: float
    dev: float
    test: float
    source: str

    @property
    def whole(self) -> float:
        """All three together."""
        return self.train + self.dev + self.test


def size(recipe: Recipe, folds: int = 5) -> Size:
    """How much audio a recipe has: of its manifest if that is there, else as published.

    Published are counts, on the cards; mean lengths are assumed. Of IEMOCAP one of `folds` parts
    each is test and dev; of MSP-Podcast's challenge release Development is test, and a tenth of
    Train is dev.

    Raises:
        PlanError: Neither is known.
    """
    corpus = Path(recipe.corpus).stem
    if _there(recipe):
        table = dataset.assign(dataset.in_folds(recipe)[0], dataset.locate(recipe)[0])
        seconds = table.groupby("role")["length"].sum()
        return Size(*(float(seconds[r]) for r in ("train", "dev", "test")), "the manifest")
    if corpus == "iemocap":
        whole, source = 5531 * 4.5, "5,531 utterances, mean 4.5 s (assumed)"
        part = whole / folds
        return Size(whole - 2 * part, part, part, source)
    if corpus == "msp-podcast":
        train, source = 66992 * 5.75, "66,992 + 25,258 utterances, mean 5.75 s (assumed)"
        return Size(0.9 * train, 0.1 * train, 25258 * 5.75, source)
    raise PlanError(f"nothing is known of {corpus}: give data_root, where its manifest is")


def _there(recipe: Recipe) -> bool:
    """Whether the manifest of a recipe's corpus can be read."""
    with suppress(RecipeError):
        return dataset.locate(recipe) is not None
    return False


def hours(recipe: Recipe, amount: Size, rate: Mapping[str, float]) -> float:
    """GPU hours of one training, by the formula above."""
    r, e = rate["train"], rate["evaluate"]
    every = amount.train / r + amount.dev / e
    return (recipe.train.epochs * every + (amount.dev + amount.test) / e) / 3600


@dataclass(frozen=True)
class Plan:
    """What chapters ask for and what it takes."""

    table: pd.DataFrame  # one row per chapter, and "all"
    unmeasured: tuple[str, ...]  # kinds of training without a rate on this machine
    sources: tuple[str, ...]  # where the sizes of the corpora are from
    card: str = ""  # for which hours of unmeasured kinds were computed
    cpu: float = 0.0  # hours of one core that support vector machines take, extrapolated

    def verdict(self) -> str:
        """How long all of it takes, and by what that is known."""
        beside = f"\nSVMs on functionals: about {self.cpu:.1f} hours of one CPU core, extrapolated"
        return self._gpu() + (beside if self.cpu >= 0.05 else "")

    def _gpu(self) -> str:
        if self.unmeasured:
            kinds = "".join(f"\n  {kind}" for kind in self.unmeasured)
            return (
                "GPU hours: unmeasured on this machine; run python -m tests.bench rehearse in a "
                f"checkout (one model: train). Kinds of training without a rate:{kinds}"
            )
        total = self.table.loc["all", "GPU hours"]
        known = f"computed for {self.card}, not measured" if self.card else "by measured rates"
        return f"{total:.1f} GPU hours in all, {known}"


def make(
    chapters: Iterable[str] | None = None, *, profile: str = "full", data_root: str = "",
    seeds: int | None = None, epochs: int | None = None, folds: int = 1,
    rates: Mapping[str, Mapping] | None = None, card: str = "",
) -> Plan:  # fmt: skip
    """Count and add up; a training that an earlier chapter asked for is not counted again.

    Args:
        chapters: Numbers, names or paths; None takes all.
        profile: "full"; the others only for counting.
        data_root: Folder of the corpora's manifests, if they are there.
        seeds: So many instead of the chapters' own; in chapters that have them.
        epochs: So many of each training instead of the recipes' own; in chapters that take them.
        folds: So many folds of each training on IEMOCAP; others have one.
        rates: By kind, from `machine.rates`.
        card: One of `work.CARDS`, for whose hours and memory kinds without a rate are computed,
            as far as `work.computable` goes.
    """
    rates, seen, stored, rows, kinds, sources = rates or {}, set(), set(), {}, {}, {}
    cpu = 0.0
    for path in map(notebooks.find, chapters or notebooks.chapters()):
        given = {"seeds": seeds and [*range(seeds)], "epochs": epochs}
        known = notebooks.declared(notebooks.read(path))
        more = {name: value for name, value in given.items() if value and name in known}
        costs = []
        found = asked.of(path, profile=profile, **more)
        for recipe in (*found.trained(), *(r for r in found.recipes if r.system == "svm")):
            if recipe.profile != profile or (key := recipe.nameless()) in seen:
                continue  # what a chapter of human speech trains in full takes a CPU minutes
            seen.add(key)
            recipe = replace(recipe, data_root=data_root)
            amount, kind = size(recipe, max(folds, 5)), asked.kind(recipe)
            if recipe.system == "svm":
                cpu += SVM[0] * (amount.train / work.CLIP / SVM[1]) ** SVM[2]
                continue
            if card and kind not in rates and work.computable(recipe):
                rates = {**rates, kind: work.rate(recipe, work.CARDS[card])}
            sources[recipe.corpus], kinds[kind] = amount.source, kind in rates
            frozen = recipe.model.frozen if recipe.system == "fusion" else ()
            first = [name for name in frozen if (recipe.corpus, name) not in stored]
            stored |= {(recipe.corpus, name) for name in first}
            times = folds if recipe.corpus == "iemocap" else 1
            times = times if recipe.fold else len(dataset.in_folds(recipe))  # 0 is all folds
            costs.append(_costs(recipe, amount, rates.get(kind, UNKNOWN), times, first))
        rows[path.stem] = _total(pd.DataFrame(costs, columns=COLUMNS, dtype=float))
    table = pd.DataFrame(rows).T
    table.loc["all"] = _total(table)
    table = table.astype({"trainings": int})
    missing = tuple(kind for kind, is_known in kinds.items() if not is_known)
    told = card and f"{work.CARDS[card].name} at {work.SHARE:.0%} of its peak"
    sizes = tuple(f"{k}: {v}" for k, v in sources.items())
    return Plan(table, missing, sizes, told, cpu)


def _total(rows: pd.DataFrame) -> pd.Series:
    """All together; of memory, and of what is on disk only while a training runs, the most."""
    total = rows.sum(skipna=False)
    total["memory GB"] = rows["memory GB"].max()
    total["GB while running"] = max([0.0, *rows["GB while running"]])
    return total


def _costs(
    recipe: Recipe, amount: Size, rate: Mapping, times: int, experts: Sequence[str]
) -> tuple[float, ...]:
    """A training's row of the table; `experts` are the frozen ones whose frames it stores."""
    model = recipe.model
    frozen = recipe.system != "fusion" and model.freeze == "all" and not model.random_init
    names = model.tuned if recipe.system == "fusion" else [] if frozen else [model.encoder]
    # Of the encoders that a run's weights file has; heads are small beside them.
    weights = sum(map(architectures.n_parameters, names)) * WEIGHT / 1e9
    disk = times * weights + sum(frames(name, amount) for name in experts) / 1e9
    once = amount.whole / rate["encode"] / 3600 if experts else 0.0
    gpu, memory = times * hours(recipe, amount, rate) + once, rate["peak_gb"] or math.nan
    # While it runs there are the last and the best epoch, and two moments of AdamW.
    return times, times * recipe.train.epochs * amount.train / 3600, gpu, memory, disk, 4 * weights


def frames(name: str, amount: Size) -> float:
    """Bytes of a frozen expert's frames; text has a few tokens a second, and is left out."""
    made = architectures.config(name)
    speech = made.model_type not in checkpoints.TEXT
    return amount.whole * FRAMES * made.hidden_size * FRAME_NUMBER if speech else 0.0
