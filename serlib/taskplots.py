"""Figures of the multi-task chapters: systems as boxes, verification trials, attention.

As in `serlib.plots`, whose style and passport they share: arrays in, matplotlib Axes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray
from scipy.stats import norm

from serlib import audio
from serlib.plots import MARKERS, NOTE, PALETTE, STYLES, passport

DET_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def flow(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Sequence[tuple[str, str]],
    *,
    colors: Mapping[str, int] | None = None,
    size: tuple[float, float] = (10, 4.6),
    width: float = 1.7,
    source: str = "drawing, no data",
) -> Axes:
    """A system as boxes and arrows.

    Args:
        boxes: For each name the center (x, y) and the text; a unit is about an inch of `size`.
        arrows: Pairs of names, from and to; the arrow joins their facing sides.
        colors: Numbers of `plots.PALETTE` for the boxes' edges; 0 elsewhere.
        size: Inches.
        width: Of every box.
        source: For the passport.
    """
    ax = plt.subplots(figsize=size)[1]
    tall = {}
    for name, (x, y, text) in boxes.items():
        tall[name] = 0.24 * (text.count("\n") + 1) + 0.2
        edge = PALETTE[(colors or {}).get(name, 0)]
        corner = (x - width / 2, y - tall[name] / 2)
        ax.add_patch(
            FancyBboxPatch(corner, width, tall[name], boxstyle="round,pad=0,rounding_size=0.08",
                           fc="white", ec=edge, lw=1.8, zorder=3)
        )  # fmt: skip
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5, zorder=4)
    for a, b in arrows:
        (xa, ya, _), (xb, yb, _) = boxes[a], boxes[b]
        if abs(xa - xb) > width:  # from side to side, else from top to bottom
            side = np.sign(xb - xa) * width / 2
            start, end = (xa + side, ya), (xb - side, yb)
        else:
            side = np.sign(yb - ya)
            start, end = (xa, ya + side * tall[a] / 2), (xb, yb - side * tall[b] / 2)
        look = dict(arrowstyle="-|>", color=NOTE, lw=1.3, shrinkA=1, shrinkB=1, mutation_scale=13)
        ax.annotate("", end, start, zorder=2, arrowprops=look)
    xs, ys, _ = zip(*boxes.values(), strict=True)
    ax.set(xlim=(min(xs) - width * 0.6, max(xs) + width * 0.6), ylim=(min(ys) - 0.7, max(ys) + 0.7))
    ax.axis("off")
    return passport(ax, source=source)


def trials(
    scores: NDArray, same: NDArray, *, threshold: float | None = None, ax: Axes | None = None,
    title: str = "",
) -> Axes:  # fmt: skip
    """Histograms of verification scores, of trials of one talker and of two."""
    ax = ax or plt.subplots(figsize=(5.4, 3.8))[1]
    edges = np.linspace(*np.quantile(scores, (0.0, 1.0)), 41)
    for i, (name, kind) in enumerate({"two talkers": ~same, "one talker": same}.items()):
        if not kind.any():
            continue
        ax.hist(
            scores[kind], edges, density=True, histtype="stepfilled", alpha=0.35, color=PALETTE[i]
        )
        ax.hist(scores[kind], edges, density=True, histtype="step", lw=2, ls=STYLES[i],
                color=PALETTE[i], label=f"{name}: {kind.sum():,} trials")  # fmt: skip
    if threshold is not None:
        ax.axvline(threshold, color="#000000", lw=1.2, ls=(0, (5, 2)), label="equal errors")
    ax.set(xlabel="cosine of two embeddings", ylabel="density", title=title)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.3)  # room for the legend
    ax.legend(loc="upper left")
    return passport(ax)


def det(
    systems: Mapping[str, tuple[NDArray, NDArray]], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """False rejections against false acceptances, both on normal-deviate axes.

    Two Gaussians of equal width give a straight line; the diagonal holds the equal error rates.

    Args:
        systems: For each name the scores (U,) of trials and whether each is of one talker (U,).
        ax: Where; None makes a figure.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(5.2, 4.8))[1]
    low, high = 0.008, 0.8
    ax.plot(norm.ppf([low, high]), norm.ppf([low, high]), color=NOTE, lw=1, ls=":")
    for i, (name, (scores, same)) in enumerate(systems.items()):
        order = np.argsort(scores, kind="stable")
        rejected = np.cumsum(same[order]) / max(same.sum(), 1)
        accepted = 1 - np.cumsum(~same[order]) / max((~same).sum(), 1)
        inside = (np.minimum(rejected, accepted) >= low) & (np.maximum(rejected, accepted) <= high)
        x, y = norm.ppf(accepted[inside]), norm.ppf(rejected[inside])
        look = dict(color=PALETTE[i % 8], ls=STYLES[i % 4], marker=MARKERS[i % 8], ms=6)
        ax.plot(x, y, lw=1.8, markevery=max(1, len(x) // 6), label=name, **look)
    ticks = [t for t in DET_TICKS if low <= t <= high]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{t:.0%}" for t in ticks])
    ax.set(xlabel="false acceptances", ylabel="false rejections", title=title,
           xlim=norm.ppf([low, high]), ylim=norm.ppf([low, high]))  # fmt: skip
    ax.tick_params(axis="x", rotation=45)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return passport(ax)


def shares(
    weights: NDArray, tasks: Sequence[str], groups: Sequence[str], names: Sequence[str], *,
    ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """Mean attention to each task per group, with bars of one standard deviation.

    Args:
        weights: (U, J), rows sum to 1.
        tasks: J names.
        groups: (U,) the group of each row, such as its class.
        names: Groups in the order to draw; those without rows get no mark.
        ax: Where; None makes a figure.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(9, 3.8))[1]
    table = pd.DataFrame(weights, columns=list(tasks)).groupby(np.asarray(groups))
    mean, spread = table.mean().reindex(names), table.std().reindex(names)
    at = np.arange(len(names))
    for i, task in enumerate(tasks):
        x = at + (i - (len(tasks) - 1) / 2) * 0.2
        ax.errorbar(x, mean[task], spread[task], fmt=MARKERS[i % 8], color=PALETTE[i % 8], ms=7,
                    capsize=3, label=task)  # fmt: skip
    ax.axhline(1 / len(tasks), color="#000000", lw=1.2, ls=(0, (5, 2)), label="uniform")
    count = table.size().reindex(names).fillna(0).astype(int)
    ax.set(
        xticks=at, ylabel="attention", title=title, ylim=(0, max(1.0, (mean + spread).max().max()))
    )
    ax.set_xticklabels([f"{name}\nn = {count[name]}" for name in names])
    ax.grid(axis="x", visible=False)
    ax.legend(ncols=len(tasks) + 1, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    return passport(ax)


def attention(
    wave: NDArray, weights: NDArray, stride: float, words: Sequence[tuple[str, float, float, bool]],
    *, ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """A waveform with the weight of each frame over it, and its words; cue words are shaded.

    Args:
        wave: (N,) at 16 kHz.
        weights: (T,), summing to 1.
        stride: Seconds per frame.
        words: (word, start, end, is a cue), in seconds.
        ax: Where; None makes a figure.
        title: Of the panel.
    """
    ax = ax or plt.subplots(figsize=(9, 2.4))[1]
    seconds = np.arange(len(wave)) / audio.SAMPLE_RATE
    top = max(float(np.max(weights)), 1e-9) * 1.3
    loud = max(float(np.abs(wave).max()), 1e-9)
    ax.plot(seconds, (0.42 * wave / loud + 0.42) * top, lw=0.4, color="#B0B0B0")
    edges = np.arange(len(weights) + 1) * stride
    ax.stairs(weights, edges, color=PALETTE[1], lw=2, baseline=None, zorder=3, label="attention")
    ax.hlines(
        1 / len(weights), 0, edges[-1], color="#000000", lw=1, ls=(0, (5, 2)), label="uniform"
    )
    for word, start, end, cue in words:
        if cue:
            ax.axvspan(start, end, color=PALETTE[4], alpha=0.28, lw=0, zorder=0)
        ax.text((start + end) / 2, top * 0.985, word, ha="center", va="top", fontsize=9,
                weight="bold" if cue else "normal")  # fmt: skip
    ax.set(xlim=(0, max(seconds[-1], edges[-1])), ylim=(0, top), ylabel="weight", title=title)
    ax.grid(visible=False)
    return passport(ax)
