"""Figures about the layers of an encoder: what each one knows, and what it weighs in a sum.

As `serbook.figures.plots`, whose look and small print they share: arrays in, matplotlib Axes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from serbook.figures.plots import MARKERS, NOTE, PALETTE, STYLES, passport
from serlib.metrics import intervals


def by_layer(
    lines: Mapping[str, Sequence[intervals.Interval | float]], *, ylabel: str = "",
    floor: float | None = None, ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """One score per layer of an encoder and line, with its interval where there is one.

    Args:
        lines: For each name a score per layer, from layer 0; bare numbers get no interval.
        ylabel: The score.
        floor: What a guesser scores, as a dotted line.
        ax: Where to draw.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(5, 3.4))[1]
    width = 0.12
    for i, (name, scores) in enumerate(lines.items()):
        value, low, high = (
            np.array([getattr(s, side, s) for s in scores], float)
            for side in ("value", "low", "high")
        )
        at = np.arange(len(scores)) + (i - (len(lines) - 1) / 2) * width
        ax.errorbar(at, value, yerr=[value - low, high - value], color=PALETTE[i % 8], ms=6,
                    ls=STYLES[i % 4], lw=1.5, marker=MARKERS[i % 8], capsize=2, elinewidth=1,
                    label=name)  # fmt: skip
    if floor is not None:
        ax.axhline(floor, color=NOTE, ls=":", lw=1.2)
        ax.annotate("guess", (1.0, floor), xycoords=("axes fraction", "data"), ha="right",
                    va="bottom", fontsize=8.5, color=NOTE)  # fmt: skip
    ax.set(xlabel="layer", ylabel=ylabel, title=title)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
    return passport(ax)


def layer_weights(
    weights: Mapping[str, NDArray], *, equal: bool = True, ylabel: str = "weight",
    ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """Learned weights of layers: a mark at the mean over seeds, small dots for the seeds.

    Args:
        weights: For each name an array (seeds, layers).
        equal: Draw the share that all layers would have alike.
        ylabel: What is weighed.
        ax: Where to draw.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(6, 3.4))[1]
    for i, (name, w) in enumerate(weights.items()):
        w = np.atleast_2d(w)
        at = np.arange(w.shape[1]) + (i - (len(weights) - 1) / 2) * 0.13
        for seed in w:
            ax.plot(at, seed, ".", ms=4, color=PALETTE[i % 8], alpha=0.6)
        ax.vlines(at, w.min(0), w.max(0), color=PALETTE[i % 8], lw=1)
        ax.plot(at, w.mean(0), MARKERS[i % 8], ms=7, color=PALETTE[i % 8], label=name)
    if equal:
        ax.axhline(1 / w.shape[1], color=NOTE, ls="--", lw=1.2)
        ax.annotate("equal", (1.0, 1 / w.shape[1]), xycoords=("axes fraction", "data"), ha="right",
                    va="bottom", fontsize=8.5, color=NOTE)  # fmt: skip
    ax.set(xlabel="layer", ylabel=ylabel, title=title, xticks=range(w.shape[1]))
    highest = max(np.max(w) for w in weights.values())
    ax.set_ylim(top=1.45 * highest)  # room for the names
    if min(np.min(w) for w in weights.values()) >= 0:
        ax.set_ylim(bottom=0)  # so that a small difference looks small
    ax.grid(axis="x", visible=False)
    if len(weights) > 1:
        ax.legend(ncols=len(weights), loc="upper center", columnspacing=1, handletextpad=0.2)
    return passport(ax)


def weight_paths(
    histories: Sequence[pd.DataFrame], *, start: Sequence[float] | None = None,
    ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """The weight of each layer after each epoch: dark lines are deep layers, thin lines seeds.

    Args:
        histories: One table per seed with the columns ``epoch`` and ``dev_layer_0`` and up.
        start: Weights before the first epoch.
        ax: Where to draw.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(5, 3.4))[1]
    columns = [name for name in histories[0] if str(name).startswith("dev_layer_")]
    shades = plt.get_cmap("viridis_r")(np.linspace(0.25, 1, len(columns)))
    ends = {}
    for i, (column, shade) in enumerate(zip(columns, shades, strict=True)):
        before = [] if start is None else [start[i]]
        paths = [([0] * len(before) + list(h["epoch"]), before + list(h[column]))
                 for h in histories]  # fmt: skip
        for x, y in paths if len(paths) > 1 else []:
            ax.plot(x, y, color=shade, lw=0.7, alpha=0.5)
        x, y = max((p[0] for p in paths), key=len), np.mean([p[1] for p in paths], 0)
        ax.plot(x, y, color=shade, lw=2, marker=MARKERS[i % 8], ms=4, markevery=max(1, len(x) // 6))
        ends[i] = float(y[-1])
    _label_ends(ax, ends, shades)
    ax.set(xlabel="epoch", ylabel="weight", title=title)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    return passport(ax)


def _label_ends(ax: Axes, ends: Mapping[int, float], colors: Sequence) -> None:
    """Write each line's number at its right end, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    step, order, at = 0.075 * (high - low), sorted(ends, key=ends.get), {}
    for previous, i in zip([None, *order], order, strict=False):  # upward where they overlap
        at[i] = ends[i] if previous is None else max(ends[i], at[previous] + step)
    limit = high
    for i in reversed(order):  # and down again from the top
        at[i] = min(at[i], limit)
        limit = at[i] - step
        ax.annotate(f"layer {i}", (1.01, at[i]), xycoords=("axes fraction", "data"),
                    fontsize=8.5, va="center", color=colors[i])  # fmt: skip
