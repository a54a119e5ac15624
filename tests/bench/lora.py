"""Adapters of low rank against fine-tuning the same layers whole.

The demo recipe of Wang et al.'s baseline, with every layer of the demo encoder left to train and
only the CNN frozen: once whole, once by adapters beside the frozen weights (`adapters.add_lora`).
All else is the recipe's: data, batches, epochs, heads and their rate. Adapters start from nothing
and usually want a larger rate, so each rank has the recipe's and three times that (the demo's is
large already: with ten times that, one trial learned nothing). The recipe as it is shipped, whose
lowest layers are frozen, is in the table too.
"""

from __future__ import annotations

import statistics

import pandas as pd

from serlib.experiments.sweep import Runs
from serlib.models.recognizer import SER
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe
from tests.bench import turns

FULL, SHIPPED = "all layers", "as shipped"
RANKS = (4, 16)
RATES = (1, 3)  # times the recipe's rate of the encoder
WEIGHT = 4  # bytes of a number, float32
TITLES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}


def variants(profile: str = "demo", **changes) -> list[Recipe]:
    """The recipes that are compared, full fine-tuning first and the shipped recipe last.

    Args:
        profile: "demo", or "smoke" for a slice of one epoch.
        **changes: Of the recipe.
    """
    shipped = papers.wang2025_baseline(profile).change(name=SHIPPED, **changes)
    full = shipped.change(name=FULL, freeze_layers=0)
    adapted = [
        full.change(
            name=f"LoRA of rank {rank}, rate x {times}",
            lora=rank,
            lr_encoder=times * full.train.lr_encoder,
        )
        for rank in RANKS
        for times in RATES
    ]
    return [full, *adapted, shipped]


def asked(profile: str = "demo", seeds: int = 3, **changes) -> list[Recipe]:
    """Every variant with every seed, for `sweep`."""
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: train with one at least.")
    return [r for v in variants(profile, **changes) for r in v.vary(seed=[*range(seeds)])]


def costs(runs: Runs) -> pd.DataFrame:
    """What each variant trains, keeps and takes: one row per name.

    Columns: runs; the encoder's numbers that are trained, and their share of it; MB of all that is
    trained, heads included, in float32: what a run must keep beside the encoder that it started
    from; seconds of training by the clock, over all epochs (median and range over seeds), without
    what was computed once and stored before; the median over that of full fine-tuning.
    """
    seconds = {
        name: [float(history["train_seconds"].sum()) for history in runs.histories(name)]
        for name in runs.names()
    }
    middle = {name: statistics.median(x) for name, x in seconds.items()}
    rows = {}
    for name in runs.names():
        encoder, trained, everything = trained_parameters(runs.named(name).recipes[0])
        rows[name] = {
            "runs": len(seconds[name]),
            "trained in the encoder": f"{trained:,d}",
            "share": f"{trained / encoder:.1%}",
            "MB to keep": everything * WEIGHT / 1e6,
            "training s": turns.spread(seconds[name]),
            "time": f"{middle[name] / middle[FULL]:.2f} x",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def trained_parameters(recipe: Recipe) -> tuple[int, int, int]:
    """Numbers of the encoder without adapters; those trained in it; those with the heads' too."""
    model = SER(recipe.model, seed=recipe.seed)
    encoder = list(model.encoder.named_parameters())
    learning = sum(p.numel() for _, p in encoder if p.requires_grad)
    heads = sum(p.numel() for p in model.head_parameters() if p.requires_grad)
    return sum(p.numel() for name, p in encoder if "lora_" not in name), learning, learning + heads


def scores(runs: Runs, role: str = "test") -> pd.DataFrame:
    """WA, UA and macro-F1 of each variant, and how far from full fine-tuning; one row per name.

    Means over seeds with 95 % intervals over talkers and seeds; differences are paired, on the same
    talkers and seeds.
    """
    rows = {}
    for name in runs.names():
        found = {title: str(runs.interval(name, m, role)) for m, title in TITLES.items()}
        apart = {
            f"{title}, difference": "–"
            if name == FULL
            else str(runs.difference(FULL, name, m, role))
            for m, title in TITLES.items()
        }
        rows[name] = found | apart
    return pd.DataFrame.from_dict(rows, orient="index")
