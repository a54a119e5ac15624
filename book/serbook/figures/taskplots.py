"""Figures about several tasks at once: systems, transcripts in time, trials, attention, surfaces.

As `serbook.figures.plots`, whose look and small print they share: arrays in, matplotlib Axes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray
from scipy.stats import norm

from serbook.figures.plots import MARKERS, NOTE, PALETTE, STYLES, passport
from serlib.data import acoustics, audio
from serlib.metrics import intervals

DET_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def trellis(
    forward: NDArray, states: Sequence[str], *, blank: str = "-", ax: Axes | None = None
) -> Axes:
    """CTC's forward probabilities: a node per state and frame, an arrow per step it allows.

    Args:
        forward: (S, T) probability of all ways to be in a state at a frame; 0 is drawn faint.
        states: The target's characters with a blank around and between them.
        blank: What the blank is called there.
        ax: Where to draw.
    """
    s, t = forward.shape
    ax = ax or plt.subplots(figsize=(1.9 * t + 1.6, 0.85 * s + 0.8))[1]
    for j in range(t - 1):
        for i in range(s):
            skip = i + 2 < s and states[i + 2] not in (blank, states[i])
            for k in [i, i + 1, *([i + 2] if skip else [])]:
                if k < s and forward[i, j] > 0:
                    ax.annotate("", (j + 0.8, k), (j + 0.2, i), arrowprops=dict(
                        arrowstyle="->", color=NOTE, lw=1, shrinkA=0, shrinkB=0))  # fmt: skip
    for (i, j), value in np.ndenumerate(forward):
        ends = j == t - 1 and i >= s - 2
        ax.text(j, i, f"{value:.3f}" if value > 0 else "0", ha="center", va="center", fontsize=10,
                color="black" if value > 0 else NOTE,
                bbox=dict(boxstyle="round,pad=0.45", fc="#DCEBF7" if ends else "white",
                          ec=PALETTE[0] if value > 0 else "#BBBBBB"))  # fmt: skip
    ax.set(xticks=range(t), xticklabels=[f"frame {j + 1}" for j in range(t)], yticks=range(s))
    ax.set_yticklabels([{blank: "blank"}.get(x, x) for x in states])
    ax.set(xlim=(-0.5, t - 0.5), ylim=(s - 0.5, -0.5))
    ax.grid(visible=False)
    return passport(ax, source="a worked example, no speech")


def ladder(
    table: Mapping[str, intervals.Interval], *, printed: Mapping[str, float] | None = None,
    xlabel: str = "", ylabel: str = "", ceilings: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """A score with its interval at each setting of one knob, beside the values a paper printed.

    Args:
        table: Setting to interval, in the order of the axis; settings are evenly spaced.
        printed: Setting to the paper's value; hollow, since it is of other speech.
        xlabel: What is set.
        ylabel: What is measured.
        ceilings: Names and heights of dashed lines.
        ax: Where to draw.
    """
    ax = ax or plt.subplots(figsize=(4.6, 3.6))[1]
    at = {name: i for i, name in enumerate(table)}
    values = np.array([[v.value, v.low, v.high] for v in table.values()]).T
    bars = np.nan_to_num(np.abs(values[1:] - values[0]))
    ax.errorbar(range(len(at)), values[0], yerr=bars, fmt="o-", capsize=3, color=PALETTE[0],
                label="ours")  # fmt: skip
    shown = {name: v for name, v in (printed or {}).items() if name in at}
    if shown:
        ax.plot([at[name] for name in shown], list(shown.values()), "D:", color=PALETTE[1],
                mfc="white", label="printed (IEMOCAP)")  # fmt: skip
    for name, height in (ceilings or {}).items():
        ax.axhline(height, color="#000000", ls=(0, (5, 2)), lw=1.2)
        ax.annotate(name, (0.01, height), xycoords=("axes fraction", "data"), fontsize=9,
                    va="bottom")  # fmt: skip
    ax.set(xticks=range(len(at)), xticklabels=list(at), xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.08, y=0.1)
    ax.legend(fontsize=9)
    return passport(ax)


def surface(
    table: pd.DataFrame, *, label: str = "", xlabel: str = "", ylabel: str = "", title: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """A score over two settings: shades that span the table, and each value in print."""
    ax = ax or plt.subplots(figsize=(4.6, 3.6))[1]
    sns.heatmap(table.astype(float), cmap="Blues", ax=ax, annot=True, fmt=".3f", linewidths=0.5,
                cbar_kws={"label": label})  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.tick_params(axis="y", rotation=0)
    return passport(ax)


def alignment(
    wave: NDArray, lanes: Mapping[str, pd.DataFrame], characters: Sequence[str], stride: float,
) -> NDArray:  # fmt: skip
    """Words in time: boxes on the waveform, the spectrogram, and a character per frame.

    Args:
        wave: (N,) float32 at 16 kHz.
        lanes: Name to a table of ``word``, ``start`` and ``end`` in seconds; the first is drawn
            over the waveform too.
        characters: The best character of each frame; "" draws none.
        stride: Seconds per frame.

    Returns:
        The three Axes: waveform, spectrogram, lanes.
    """
    seconds = len(wave) / audio.SAMPLE_RATE
    fig, axes = plt.subplots(3, 1, figsize=(10, 5.8), sharex=True, height_ratios=(1, 1.5, 1.2))
    axes[0].plot(np.arange(len(wave)) / audio.SAMPLE_RATE, wave, lw=0.4, color=PALETTE[0])
    first = next(iter(lanes.values()))
    for start, end in zip(first["start"], first["end"], strict=True):
        axes[0].axvspan(start, end, color=PALETTE[4], alpha=0.25, lw=0)
        for edge in (start, end):
            axes[1].axvline(edge, color="white", lw=0.8)
    axes[0].set(ylabel="amplitude")
    mel = acoustics.log_mel(wave)
    axes[1].pcolormesh(np.arange(len(mel) + 1) / 100, np.arange(mel.shape[1] + 1), mel.T,
                       cmap="cividis", rasterized=True)  # fmt: skip
    axes[1].set(ylabel="mel band")
    names = [*lanes, "per frame"]
    for i, lane in enumerate(lanes.values()):
        for j, (word, start, end) in enumerate(lane[["word", "start", "end"]].to_numpy()):
            axes[2].barh(i, end - start, left=start, height=0.62, color=PALETTE[i % 7], alpha=0.25,
                         edgecolor=PALETTE[i % 7])  # fmt: skip
            axes[2].text(start, i + (-0.17 if j % 2 else 0.17), f" {word}", fontsize=8, va="center")
    for j, character in enumerate(characters):
        axes[2].text((j + 0.5) * stride, len(lanes), character, ha="center", va="center",
                     fontsize=8.5, family="monospace")  # fmt: skip
    axes[2].set(yticks=range(len(names)), yticklabels=names, xlabel="seconds", xlim=(0, seconds))
    axes[2].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes[1:]:
        ax.grid(visible=False)
    passport(axes[2])
    return axes


def groups(
    table: Mapping[str, Mapping[str, intervals.Interval]],
    *,
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Intervals of several systems side by side, group by group along x.

    Args:
        table: System to (group to interval); all systems have the same groups.
        ylabel: What is measured.
        ax: Where to draw.
    """
    ax = ax or plt.subplots(figsize=(8, 3.6))[1]
    for i, (name, row) in enumerate(table.items()):
        at = np.arange(len(row)) + (i - (len(table) - 1) / 2) * 0.14
        values = np.array([[v.value, v.low, v.high] for v in row.values()]).T
        bars = np.nan_to_num(np.abs(values[1:] - values[0]))
        ax.errorbar(at, values[0], yerr=bars, fmt=MARKERS[i % 8], color=PALETTE[i % 8], capsize=3,
                    ms=7, label=name)  # fmt: skip
    names = list(next(iter(table.values())))
    ax.set(xticks=range(len(names)), xticklabels=names, ylabel=ylabel)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return passport(ax)


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
