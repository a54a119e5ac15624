"""Figures about experts together: the architecture, and what each company of them scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from serbook.figures import parts, taskplots
from serbook.figures.parts import NOTE, PALETTE
from serbook.figures.plots import panels, passport
from serlib.metrics.intervals import Interval

GAP = 1.25  # inches between the rows of the drawing


def architecture(experts: Mapping[str, tuple[str, str]], *, n_classes: int = 8) -> Axes:
    """The system of Zgórzyński et al. as boxes and arrows, one row per expert, in their order.

    `experts` has for each what it reads, and what it gives, such as a shape; C is `n_classes`.
    """
    boxes, arrows, colors = {}, [], {}
    middle = (len(experts) - 1) / 2 * GAP
    for k, (name, (source, frames)) in enumerate(experts.items()):
        y = -k * GAP
        row = {
            "reads": (0, source), "expert": (2.2, f"{name}\n(frozen)"),
            "pool": (4.5, f"attentive\nstatistics\n{frames}"),
            "dense": (6.8, "projection,\ndense\n→ D"), "cell": (9.0, f"LSTM\nstep {k + 1}"),
        }  # fmt: skip
        boxes |= {(part, name): (x, y, text) for part, (x, text) in row.items()}
        arrows += [((a, name), (b, name)) for a, b in itertools.pairwise(row)]
        colors |= {("expert", name): 7, ("reads", name): 6, ("cell", name): 3}
    arrows += [(("cell", a), ("cell", b)) for a, b in itertools.pairwise(experts)]
    boxes["linear"] = (11.2, -2 * middle, "one linear layer\nH → C + 3")
    boxes["emotion"] = (11.2, -2 * middle + 1.15, f"{n_classes} emotion\nlogits")
    boxes["sigmoid"] = (13.3, -2 * middle, "1 + 6 σ(·)")
    boxes["attributes"] = (13.3, -2 * middle + 1.15, "valence, arousal,\ndominance")
    arrows += [(("cell", name), "linear"), ("linear", "emotion")]
    arrows += [("linear", "sigmoid"), ("sigmoid", "attributes")]
    colors |= {"emotion": 1, "attributes": 2, "sigmoid": 2}
    size = (14.5, 1.35 * len(experts) + 0.6)
    return taskplots.flow(boxes, arrows, colors=colors, size=size, width=1.75)


def companies(
    scores: Mapping[str, Mapping[tuple[str, ...], Interval]], experts: Sequence[str], *,
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    labels: Mapping[str, str] | None = None,
) -> NDArray:  # fmt: skip
    """Scores of every company of experts, above a grid of dots that says who is in it.

    `scores` has for each metric the interval of each company; `experts` are all, from top to bottom
    of the grid; `ceilings` are for each metric names and heights of dashed lines; `labels` say what
    a metric, or an expert, is called. Returns the Axes: one per metric, and the grid.
    """
    known = labels or {}
    columns = list(next(iter(scores.values())))
    heights = [1] * len(scores) + [0.16 * len(experts) + 0.1]
    size = (1.1 * len(columns) + 2.6, 1.75 * len(scores) + 0.5 * len(experts))
    axes = plt.subplots(len(heights), figsize=size, sharex=True, height_ratios=heights)[1]
    *above, grid = axes
    for i, (ax, (metric, found)) in enumerate(zip(above, scores.items(), strict=True)):
        value, bars = parts.reach(found.values())
        ax.errorbar(range(len(columns)), value, bars, capsize=3, ms=7, **parts.look(i, ls=""))
        for x, y in enumerate(value):
            ax.annotate(f"{y:.2f}", (x, y), textcoords="offset points", xytext=(8, -3),
                        fontsize=8.5)  # fmt: skip
        for name, height in (ceilings or {}).get(metric, {}).items():
            parts.level(ax, height, name, at=1.005, line={"lw": 1}, fontsize=8, ha="left",
                        va="center")  # fmt: skip
        ax.set_ylabel(known.get(metric, metric))
        ax.margins(y=0.18)
    for y, name in enumerate(experts):
        inside = [name in company for company in columns]
        grid.plot(range(len(columns)), [y] * len(columns), "o", color="#DDDDDD", ms=9)
        grid.plot(np.flatnonzero(inside), [y] * sum(inside), "o", color=NOTE, ms=9)
    grid.set(yticks=range(len(experts)), yticklabels=[known.get(name, name) for name in experts])
    grid.set(ylim=(len(experts) - 0.5, -0.5), xlim=(-0.5, len(columns) - 0.3), xticks=[])
    for ax in (*above, grid):
        ax.grid(axis="x", visible=False)
    grid.grid(visible=False)
    passport(grid)
    return axes


def cloud(
    truth: NDArray, predictions: Mapping[str, NDArray], *, xlabel: str = "truth", ylabel: str = ""
) -> list[Axes]:
    """Predictions on a scale of 1 to 7 against the truth, one panel per system.

    Dashed is the diagonal. The bar on the right spans one standard deviation of the predictions to
    either side of their mean, the bar below that of the truth.
    """
    axes = panels(len(predictions), size=(3.1 * len(predictions) + 0.4, 3.5), sharey=True)
    for i, (ax, (name, y)) in enumerate(zip(axes, predictions.items(), strict=True)):
        ax.plot([1, 7], [1, 7], color=NOTE, ls="--", lw=1)
        ax.scatter(truth, y, s=7, alpha=0.3, color=PALETTE[i % 8], linewidths=0, rasterized=True)
        spans = [np.mean(z) + np.std(z) * np.array([-1, 1]) for z in (y, truth)]
        ax.plot([6.85, 6.85], spans[0], color="#000000", lw=3)
        ax.plot(spans[1], [1.15, 1.15], color="#000000", lw=3)
        ax.set(title=name, xlabel=xlabel, xlim=(1, 7), ylim=(1, 7), aspect="equal")
    axes[0].set_ylabel(ylabel)
    passport(axes[-1])
    return axes
