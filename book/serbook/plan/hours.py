"""`serlib plan`: what chapters cost at the papers' scale, said before anything runs.

    hours of a training = (epochs · (train / r + dev / e) + (dev + test) / e) / 3600

with the audio seconds of each role, and the rates r of training and e of evaluation, in audio
seconds per second, that `serlib rehearse` measured for this kind of training. A kind that
nobody measured has no hours: no rate is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from serbook.plan import architectures, asked
from serbook.runner import notebooks
from serlib.experiments import dataset
from serlib.recipes.recipe import Recipe

FRAMES = 50  # a second, of every encoder of speech
TARGET_HOURS = 24  # for everything, on one H200: our own aim, not a measurement
WEIGHT, FRAME_NUMBER = 4, 2  # bytes: float32, float16


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


# (utterances, mean seconds, source). The counts are on the cards; no length was read.
PUBLISHED = {
    "iemocap": (5531, 4.5, "5,531 utterances, mean 4.5 s (assumed)"),
    "msp-podcast": (66992 + 25258, 5.75, "66,992 + 25,258 utterances, mean 5.75 s (assumed)"),
}


def size(recipe: Recipe, folds: int = 5) -> Size:
    """How much audio a recipe has: of its manifest if that is there, else as published.

    Published: of IEMOCAP one of `folds` parts each is test and dev; of MSP-Podcast's challenge
    release Development is test, and a tenth of Train is dev.

    Raises:
        PlanError: Neither is known.
    """
    corpus = Path(recipe.corpus).stem
    if (Path(recipe.data_root) / f"{corpus}.csv").is_file() and recipe.data_root:
        table = dataset.assign(recipe, dataset.locate(recipe)[0])
        seconds = table.groupby("role")["length"].sum()
        return Size(*(float(seconds[r]) for r in ("train", "dev", "test")), "the manifest")
    if corpus not in PUBLISHED:
        raise PlanError(f"nothing is known of {corpus}: give data_root, where its manifest is")
    clips, mean, source = PUBLISHED[corpus]
    if corpus == "iemocap":
        part = clips * mean / folds
        return Size(clips * mean - 2 * part, part, part, source)
    train, test = 66992 * mean, 25258 * mean
    return Size(0.9 * train, 0.1 * train, test, source)


def hours(recipe: Recipe, amount: Size, rate: Mapping[str, float]) -> float:
    """GPU hours of one training, see the formula above."""
    r, e = rate["train"], rate["evaluate"]
    every = amount.train / r + amount.dev / e
    return (recipe.train.epochs * every + (amount.dev + amount.test) / e) / 3600


@dataclass(frozen=True)
class Plan:
    """What chapters ask for and what it takes.

    Attributes:
        table: One row per chapter, and "all".
        unmeasured: Kinds of training without a rate on this machine.
        sources: Where the sizes of the corpora are from.
    """

    table: pd.DataFrame
    unmeasured: tuple[str, ...]
    sources: tuple[str, ...]

    def verdict(self) -> str:
        """Whether all of it fits into the target."""
        if self.unmeasured:
            kinds = "".join(f"\n  {kind}" for kind in self.unmeasured)
            return (
                "GPU hours: unmeasured on this machine; run serlib rehearse (one model: "
                f"python -m tests.bench train). Kinds of training without a rate:{kinds}"
            )
        total = self.table.loc["all", "GPU hours"]
        fits = "yes" if total <= TARGET_HOURS else "no"
        return f"within {TARGET_HOURS} hours: {fits}, {total:.1f} hours on this machine"


def make(
    chapters: Iterable[str] | None = None,
    *,
    profile: str = "full",
    data_root: str = "",
    seeds: int | None = None,
    folds: int = 1,
    rates: Mapping[str, Mapping] | None = None,
) -> Plan:
    """Count and add up.

    A training that an earlier chapter asked for is not run again, and not counted again.

    Args:
        chapters: Numbers, names or paths; None takes all.
        profile: "full"; the others only for counting.
        data_root: Folder of the corpora's manifests, if they are there.
        seeds: So many instead of the chapters' own; in chapters that have them.
        folds: So many folds of each training on IEMOCAP; others have one.
        rates: By kind, from `machine.rates`.
    """
    known, seen, rows, missing, sources = dict(rates or {}), set(), {}, {}, {}
    frames: dict[tuple[str, str], float] = {}  # bytes, of an expert's frames of a corpus
    for path in map(notebooks.find, chapters or notebooks.chapters()):
        new = []
        for recipe in asked.of(path, **_parameters(path, profile, seeds)).trained():
            if (key := recipe.nameless()) not in seen:
                seen.add(key)
                new.append(replace(recipe, data_root=data_root))
        rows[path.stem] = _row(new, known, folds, frames, missing, sources)
    table = pd.DataFrame.from_dict(rows, orient="index")
    total = table.sum(min_count=1, skipna=False)
    total[["memory GB", "GB while running"]] = table[["memory GB", "GB while running"]].max()
    table.loc["all"] = total
    return Plan(table, tuple(missing), tuple(f"{k}: {v}" for k, v in sources.items()))


def _parameters(path: Path, profile: str, seeds: int | None) -> dict:
    known = notebooks.declared(notebooks.read(path))
    more = {"seeds": [*range(seeds)]} if seeds and "seeds" in known else {}
    return {"profile": profile} | more


def _row(
    recipes: Sequence[Recipe],
    rates: Mapping[str, Mapping],
    folds: int,
    frames: dict,
    missing: dict,
    sources: dict,
) -> dict[str, float]:
    """One chapter's trainings."""
    count, audio, gpu, memory, disk, running = 0, 0.0, 0.0, math.nan, 0.0, 0.0
    for recipe in recipes:
        times = folds if recipe.corpus == "iemocap" else 1
        amount = size(recipe, max(folds, 5))
        sources[recipe.corpus] = amount.source
        count += times
        audio += times * recipe.train.epochs * amount.train / 3600
        weights = times * parameters(recipe) * WEIGHT
        disk += weights / 1e9
        # Last and best epoch, two moments of AdamW.
        running = max(running, 4 * weights / times / 1e9)
        rate, once = rates.get(asked.kind(recipe)), 0.0
        for name in recipe.model.frozen if recipe.system == "fusion" else ():
            if (recipe.corpus, name) not in frames:
                frames[recipe.corpus, name] = stored(name, amount)
                disk += frames[recipe.corpus, name] / 1e9
                once = amount.whole / rate["encode"] / 3600 if rate else 0.0
        if rate is None:
            missing[asked.kind(recipe)] = gpu = math.nan
        else:
            gpu += times * hours(recipe, amount, rate) + once
            memory = max(
                filter(math.isfinite, (memory, rate["peak_gb"] or math.nan)), default=memory
            )
    return {
        "trainings": count, "audio hours trained on": audio, "GPU hours": gpu,
        "memory GB": memory, "disk GB": disk, "GB while running": running,
    }  # fmt: skip


def parameters(recipe: Recipe) -> int:
    """Parameters of the encoders that a run's weights file has; heads are small beside them."""
    fusion = recipe.system == "fusion"
    names = recipe.model.tuned if fusion else [recipe.model.encoder]
    return sum(architectures.n_parameters(name) for name in names)


def stored(name: str, amount: Size) -> float:
    """Bytes of a frozen expert's frames; text has a few tokens a second, and is left out."""
    width = architectures.width(name)
    return amount.whole * FRAMES * width * FRAME_NUMBER if width else 0.0
