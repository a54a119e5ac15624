"""Figures about the layers of an encoder: what each one knows, and what it weighs in a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from serbook.figures import parts
from serbook.figures.parts import MARKERS, NOTE, PALETTE, ROW
from serbook.figures.plots import figure
from serlib.metrics.intervals import Interval

FAINT = dict(color=NOTE, fontsize=8.5)


@figure((5, 3.4), bare="x", xlabel="layer")
def by_layer(
    lines: Mapping[str, Sequence[Interval | float]], *, ax: Axes, floor: float | None = None
) -> None:
    """One score per layer of an encoder, from layer 0, for each name; bare numbers get no interval.

    `floor` is what a guesser scores, as a dotted line.
    """
    for i, (name, scores) in enumerate(lines.items()):
        at = parts.beside(len(scores), i, len(lines), 0.12)
        ax.errorbar(at, *parts.reach(scores), ms=6, lw=1.5, capsize=2, elinewidth=1, label=name,
                    **parts.look(i))  # fmt: skip
    if floor is not None:
        parts.level(ax, floor, "guess", line={"color": NOTE, "ls": ":"}, **FAINT)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))


@figure((6, 3.4), bare="x", xlabel="layer", ylabel="weight")
def layer_weights(weights: Mapping[str, NDArray], *, ax: Axes) -> None:
    """Learned weights (seeds, layers) for each name: a mark at the mean, small dots for the seeds.

    Dashed is the share that all layers would have alike.
    """
    for i, (name, w) in enumerate(weights.items()):
        w = np.atleast_2d(w)
        at = parts.beside(w.shape[1], i, len(weights), 0.13)
        for seed in w:
            ax.plot(at, seed, ".", ms=4, color=PALETTE[i % 8], alpha=0.6)
        ax.vlines(at, w.min(0), w.max(0), color=PALETTE[i % 8], lw=1)
        ax.plot(at, w.mean(0), ms=7, label=name, **parts.look(i, ls=""))
    parts.level(ax, 1 / w.shape[1], "equal", line={"color": NOTE, "ls": "--"}, **FAINT)
    ax.set_xticks(range(w.shape[1]))
    highest = max(np.max(w) for w in weights.values())
    ax.set_ylim(top=1.45 * highest)  # room for the names
    if min(np.min(w) for w in weights.values()) >= 0:
        ax.set_ylim(bottom=0)  # so that a small difference looks small
    if len(weights) > 1:
        ax.legend(**ROW, columnspacing=1, handletextpad=0.2)


@figure((5, 3.4), xlabel="epoch", ylabel="weight")
def weight_paths(
    histories: Sequence[pd.DataFrame], *, ax: Axes, start: Sequence[float] | None = None
) -> None:
    """The weight of each layer after each epoch: dark lines are deep layers, thin lines seeds.

    `histories` holds one table per seed, with the columns ``epoch`` and ``dev_layer_0`` and up;
    `start` the weights before the first epoch.
    """
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
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))


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
