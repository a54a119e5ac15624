"""Figures about losses: where a step leads, how wide predictions spread, what a batch measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from serbook.figures import parts
from serbook.figures.parts import DASHES, MARKERS, NOTE, PALETTE, STYLES
from serbook.figures.plots import figure

WAYS = ("to the truth", "hardly at all", "away from it")
SHADES = ("#BFDDF2", "#EEEEEE", "#D55E00")  # told apart in print: light, lighter, dark and hatched
LEAST = 0.05  # a step below this share of that of squared error counts as none
TRIANGLES = 13  # on each curve of a penalty


@figure((4.6, 3.6), xlabel="prediction", ylabel="loss", source="arithmetic, no speech")
def penalty(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], truth: float, *, ax: Axes
) -> None:
    """A loss over the prediction at one true value; triangles point where a step would lead.

    `lines` has for each name predictions, losses and slopes. A step goes against the slope, which
    need not be that of the curve: a part of it may be detached.
    """
    for i, (name, (x, y, slope)) in enumerate(lines.items()):
        x, y, slope = (np.asarray(v, float) for v in (x, y, slope))
        color = PALETTE[i % 8]
        ax.plot(x, y, color=color, ls=STYLES[i % 4], lw=1.8, label=name)
        at = np.linspace(0, len(x) - 1, TRIANGLES + 2).round().astype(int)[1:-1]
        for mark, there in ((">", slope[at] < 0), ("<", slope[at] > 0)):
            ax.plot(x[at[there]], y[at[there]], mark, color=color, ms=7, mec="white", mew=0.5)
    ax.axvline(truth, color=NOTE, ls=":", lw=1.4)
    ax.annotate("truth", (truth, 1.0), xycoords=("data", "axes fraction"), ha="center",
                va="bottom", fontsize=9, color=NOTE)  # fmt: skip
    if len(lines) > 1:
        ax.legend(fontsize=9)


@figure((4.4, 4), bare="both", xlabel="prediction", ylabel="truth", source="arithmetic, no speech")
def directions(
    step: NDArray, plain: NDArray, predicted: ArrayLike, truth: ArrayLike, *, ax: Axes
) -> None:
    """Where a gradient step leads at each prediction and truth: to the truth, away, hardly at all.

    `step` (Y, X) is minus the gradient at truth y, upward, and prediction x, along x; `plain` that
    of squared error, which always leads to the truth.
    """
    kind = np.where(np.abs(step) < LEAST * np.abs(plain), 1, np.where(step * plain < 0, 2, 0))
    kind = np.where(plain == 0, 0, kind)
    ax.pcolormesh(predicted, truth, kind, cmap=ListedColormap(SHADES), vmin=0, vmax=2,
                  shading="nearest", rasterized=True)  # fmt: skip
    wrong = np.where(kind == 2, 1.0, 0.0)
    if wrong.any():
        with plt.rc_context({"hatch.color": "white", "hatch.linewidth": 0.6}):
            ax.contourf(predicted, truth, wrong, levels=[0.5, 1.5], colors="none", hatches=["//"])
    ends = [min(np.min(predicted), np.min(truth)), max(np.max(predicted), np.max(truth))]
    ax.plot(ends, ends, color="black", lw=1, ls=":")
    ax.set_aspect("equal")


def ways(ax: Axes) -> None:
    """The key to `directions`, under the whole figure."""
    patches = [
        Patch(facecolor=shade, label=name, hatch="//" if i == 2 else "", edgecolor="white")
        for i, (name, shade) in enumerate(zip(WAYS, SHADES, strict=True))
    ]
    ax.figure.legend(handles=patches, loc="outside upper right", ncols=3, title="a step leads")


@figure(lambda table: (5, 0.42 * len(table) + 1.3), bare="y")
def ranges(
    table: Mapping[str, ArrayLike], *, ax: Axes, limits: tuple[float, float] | None = None
) -> None:
    """How far numbers spread: a thin line from 5 to 95 %, a thick one from 25 to 75 %, the median.

    The first row of `table` is the reference: black, its thin line's ends as dashes through all
    rows. `limits` are the ends of the axis.
    """
    for i, values in enumerate(table.values()):
        low, quarter, middle, three, high = np.nanpercentile(values, [5, 25, 50, 75, 95])
        color = "black" if i == 0 else PALETTE[(i - 1) % 6]
        ax.plot([low, high], [i, i], color=color, lw=1.6)
        ax.plot([quarter, three], [i, i], color=color, lw=6, solid_capstyle="butt")
        ax.plot(middle, i, MARKERS[i % 8], color="white", mec=color, ms=7, mew=1.6)
        for end in (low, high) if i == 0 else ():
            ax.axvline(end, color=NOTE, lw=1, ls="--", zorder=0)
    ax.set(yticks=range(len(table)), yticklabels=list(table), ylim=(len(table) - 0.5, -0.5))
    if limits is not None:
        ax.set_xlim(limits)


@figure((5, 3.6), legend={})
def bands(
    lines: Mapping[str, tuple[Sequence[float], NDArray]], *, ax: Axes,
    levels: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """A number over the size of a sample: its mean as a line, 5 to 95 % of its draws as a band.

    `lines` has for each name the sizes (X,) and the draws (X, R); `levels` the value without
    sampling, a dashed line of the same color.
    """
    for i, (name, (sizes, draws)) in enumerate(lines.items()):
        color, draws = PALETTE[i % 8], np.asarray(draws, float)
        low, high = np.nanpercentile(draws, [5, 95], axis=1)
        ax.fill_between(sizes, low, high, color=color, alpha=0.15, lw=0)
        ax.plot(sizes, np.nanmean(draws, 1), ms=6, label=name, **parts.look(i))
        if levels and name in levels:
            ax.axhline(levels[name], **DASHES | {"color": color})
    ticks = sorted({size for sizes, _ in lines.values() for size in sizes})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
