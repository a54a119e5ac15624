"""Figures about several tasks at once: systems, transcripts in time, trials, attention, surfaces."""

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

from serbook.figures import parts
from serbook.figures.parts import DASHES, NOTE, PALETTE, ROW, STYLES
from serbook.figures.plots import figure, passport
from serlib.data import audio
from serlib.metrics.intervals import Interval

DET_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
DET_ENDS = (0.008, 0.8)
BLANK = "-"


@figure(
    lambda forward: (1.9 * forward.shape[1] + 1.6, 0.85 * forward.shape[0] + 0.8),
    bare="both", source="a worked example, no speech",
)  # fmt: skip
def trellis(forward: NDArray, states: Sequence[str], *, ax: Axes) -> None:
    """CTC's forward probabilities: a node per state and frame, an arrow per step it allows.

    `forward` (S, T) is the probability of all ways to be in a state at a frame, and 0 is drawn
    faint; `states` are the target's characters with a blank, "-", around and between them.
    """
    s, t = forward.shape
    for j in range(t - 1):
        for i in range(s):
            skip = i + 2 < s and states[i + 2] not in (BLANK, states[i])
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
    ax.set_yticklabels([{BLANK: "blank"}.get(x, x) for x in states])
    ax.set(xlim=(-0.5, t - 0.5), ylim=(s - 0.5, -0.5))


@figure((4.6, 3.6), legend={"fontsize": 9})
def ladder(
    table: Mapping[str, Interval], *, ax: Axes, printed: Mapping[str, float] | None = None,
    ceilings: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """A score with its interval at each setting of one knob, evenly spaced in the order of `table`.

    `printed` are a paper's values by setting, hollow since they are of other speech; `ceilings`
    names and heights of dashed lines.
    """
    values, bars = parts.reach(table.values())
    at = {name: i for i, name in enumerate(table)}
    ax.errorbar(range(len(at)), values, yerr=np.nan_to_num(bars), fmt="o-", capsize=3,
                color=PALETTE[0], label="ours")  # fmt: skip
    shown = {name: v for name, v in (printed or {}).items() if name in at}
    if shown:
        ax.plot([at[name] for name in shown], list(shown.values()), "D:", color=PALETTE[1],
                mfc="white", label="printed (IEMOCAP)")  # fmt: skip
    for name, height in (ceilings or {}).items():
        parts.level(ax, height, name, at=0.01, ha="left")
    ax.set(xticks=range(len(at)), xticklabels=list(at))
    ax.margins(x=0.08, y=0.1)


@figure((4.6, 3.6), xlabel="", ylabel="")
def surface(table: pd.DataFrame, *, ax: Axes, label: str = "") -> None:
    """A score over two settings: shades that span the table, and each value in print."""
    sns.heatmap(table.astype(float), cmap="Blues", ax=ax, annot=True, fmt=".3f", linewidths=0.5,
                cbar_kws={"label": label})  # fmt: skip
    ax.tick_params(axis="y", rotation=0)


def alignment(
    wave: NDArray, lanes: Mapping[str, pd.DataFrame], characters: Sequence[str], stride: float
) -> NDArray:
    """Words in time: boxes on the waveform, the spectrogram, and a character per frame.

    `wave` (N,) is at 16 kHz; `lanes` maps names to tables of ``word``, ``start`` and ``end`` in
    seconds, the first drawn over the waveform too; `characters` are the best of each frame, "" for
    none, with `stride` seconds per frame. Returns the three Axes.
    """
    _, axes = plt.subplots(3, 1, figsize=(10, 5.8), sharex=True, height_ratios=(1, 1.5, 1.2))
    parts.speech(axes, wave)
    first = next(iter(lanes.values()))
    for start, end in zip(first["start"], first["end"], strict=True):
        axes[0].axvspan(start, end, color=PALETTE[4], alpha=0.25, lw=0)
        for edge in (start, end):
            axes[1].axvline(edge, color="white", lw=0.8)
    names = [*lanes, "per frame"]
    for i, lane in enumerate(lanes.values()):
        for j, (word, start, end) in enumerate(lane[["word", "start", "end"]].to_numpy()):
            axes[2].barh(i, end - start, left=start, height=0.62, color=PALETTE[i % 7], alpha=0.25,
                         edgecolor=PALETTE[i % 7])  # fmt: skip
            axes[2].text(start, i + (-0.17 if j % 2 else 0.17), f" {word}", fontsize=8, va="center")
    for j, character in enumerate(characters):
        axes[2].text((j + 0.5) * stride, len(lanes), character, ha="center", va="center",
                     fontsize=8.5, family="monospace")  # fmt: skip
    axes[2].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6),
                xlabel="seconds", xlim=(0, len(wave) / audio.SAMPLE_RATE))  # fmt: skip
    axes[2].grid(visible=False)
    passport(axes[2])
    return axes


@figure(
    (8, 3.6), legend={"ncols": 3, "loc": "upper center", "bbox_to_anchor": (0.5, 1.2)}, bare="x"
)
def groups(table: Mapping[str, Mapping[str, Interval]], *, ax: Axes) -> None:
    """Intervals side by side, group by group: `table` maps system to group to interval."""
    for i, (name, row) in enumerate(table.items()):
        values, bars = parts.reach(row.values())
        ax.errorbar(parts.beside(len(row), i, len(table), 0.14), values, np.nan_to_num(bars),
                    capsize=3, ms=7, label=name, **parts.look(i, ls=""))  # fmt: skip
    names = list(next(iter(table.values())))
    ax.set(xticks=range(len(names)), xticklabels=names, xlim=(-0.5, len(names) - 0.5))


@figure((10, 4.6), source="drawing, no data")
def flow(
    boxes: Mapping[str, tuple[float, float, str]], arrows: Sequence[tuple[str, str]], *, ax: Axes,
    colors: Mapping[str, int] | None = None, width: float = 1.7,
) -> None:  # fmt: skip
    """A system as boxes and arrows between their facing sides.

    `boxes` has for each name the center (x, y) and the text; a unit is about an inch of the figure.
    `arrows` are pairs of names, from and to; `colors` are numbers of `parts.PALETTE` for the boxes'
    edges, 0 elsewhere; `width` is that of every box.
    """
    tall = {}
    for name, (x, y, text) in boxes.items():
        tall[name] = 0.24 * (text.count("\n") + 1) + 0.2
        edge = PALETTE[(colors or {}).get(name, 0)]
        corner, round_ = (x - width / 2, y - tall[name] / 2), "round,pad=0,rounding_size=0.08"
        ax.add_patch(FancyBboxPatch(corner, width, tall[name], boxstyle=round_, fc="white", ec=edge,
                                    lw=1.8, zorder=3))  # fmt: skip
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


@figure(
    (5.4, 3.8), legend={"loc": "upper left"}, xlabel="cosine of two embeddings", ylabel="density"
)
def trials(scores: NDArray, same: NDArray, *, ax: Axes, threshold: float | None = None) -> None:
    """Histograms of verification scores, of trials of one talker and of two."""
    edges = np.linspace(*np.quantile(scores, (0.0, 1.0)), 41)
    for i, (name, kind) in enumerate({"two talkers": ~same, "one talker": same}.items()):
        if kind.any():
            shape = dict(bins=edges, density=True, color=PALETTE[i])
            ax.hist(scores[kind], histtype="stepfilled", alpha=0.35, **shape)
            ax.hist(scores[kind], histtype="step", lw=2, ls=STYLES[i],
                    label=f"{name}: {kind.sum():,} trials", **shape)  # fmt: skip
    if threshold is not None:
        ax.axvline(threshold, **DASHES, label="equal errors")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.3)  # room for the legend


@figure(
    (5.2, 4.8), legend={"fontsize": 9, "loc": "upper left", "bbox_to_anchor": (1.0, 1.0)},
    xlabel="false acceptances", ylabel="false rejections",
)  # fmt: skip
def det(systems: Mapping[str, tuple[NDArray, NDArray]], *, ax: Axes) -> None:
    """False rejections against false acceptances, both on normal-deviate axes.

    Two Gaussians of equal width give a straight line; the diagonal holds the equal error rates.
    `systems` has for each name scores (U,) of trials, and whether each is of one talker (U,).
    """
    low, high = DET_ENDS
    ends = norm.ppf(DET_ENDS)
    ax.plot(ends, ends, color=NOTE, lw=1, ls=":")
    for i, (name, (scores, same)) in enumerate(systems.items()):
        order = np.argsort(scores, kind="stable")
        rejected = np.cumsum(same[order]) / max(same.sum(), 1)
        accepted = 1 - np.cumsum(~same[order]) / max((~same).sum(), 1)
        inside = (np.minimum(rejected, accepted) >= low) & (np.maximum(rejected, accepted) <= high)
        x, y = norm.ppf(accepted[inside]), norm.ppf(rejected[inside])
        ax.plot(x, y, lw=1.8, ms=6, markevery=max(1, len(x) // 6), label=name, **parts.look(i))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(norm.ppf(DET_TICKS), [f"{t:.0%}" for t in DET_TICKS])
    ax.set(xlim=ends, ylim=ends)
    ax.tick_params(axis="x", rotation=45)


@figure((9, 3.8), legend=ROW | {"bbox_to_anchor": (0.5, 1.18)}, bare="x", ylabel="attention")
def shares(
    weights: NDArray, tasks: Sequence[str], groups: Sequence[str], names: Sequence[str], *, ax: Axes
) -> None:
    """Mean attention to each task per group, with bars of one standard deviation.

    `weights` (U, J) has rows that sum to 1, for J `tasks`; `groups` (U,) says the group of each
    row, such as its class; `names` orders the groups, and those without rows get no mark.
    """
    table = pd.DataFrame(weights, columns=list(tasks)).groupby(np.asarray(groups))
    mean, spread = table.mean().reindex(names), table.std().reindex(names)
    for i, task in enumerate(tasks):
        at = parts.beside(len(names), i, len(tasks), 0.2)
        ax.errorbar(at, mean[task], spread[task], capsize=3, ms=7, label=task,
                    **parts.look(i, ls=""))  # fmt: skip
    ax.axhline(1 / len(tasks), **DASHES, label="uniform")
    count = table.size().reindex(names).fillna(0).astype(int)
    ax.set(xticks=range(len(names)), ylim=(0, max(1.0, (mean + spread).max().max())))
    ax.set_xticklabels([f"{name}\nn = {count[name]}" for name in names])


@figure((9, 2.4), bare="both", ylabel="weight")
def attention(
    wave: NDArray, weights: NDArray, stride: float, words: Sequence[tuple[str, float, float, bool]],
    *, ax: Axes,
) -> None:  # fmt: skip
    """A waveform with the weight of each frame over it, and its words; cue words are shaded.

    `wave` (N,) is at 16 kHz; `weights` (T,) sum to 1, with `stride` seconds per frame; `words` are
    (word, start, end, is a cue), in seconds.
    """
    seconds = np.arange(len(wave)) / audio.SAMPLE_RATE
    top = max(float(np.max(weights)), 1e-9) * 1.3
    loud = max(float(np.abs(wave).max()), 1e-9)
    ax.plot(seconds, (0.42 * wave / loud + 0.42) * top, lw=0.4, color="#B0B0B0")
    edges = np.arange(len(weights) + 1) * stride
    ax.stairs(weights, edges, color=PALETTE[1], lw=2, baseline=None, zorder=3, label="attention")
    ax.hlines(1 / len(weights), 0, edges[-1], **DASHES | {"lw": 1}, label="uniform")
    for word, start, end, cue in words:
        if cue:
            ax.axvspan(start, end, color=PALETTE[4], alpha=0.28, lw=0, zorder=0)
        ax.text((start + end) / 2, top * 0.985, word, ha="center", va="top", fontsize=9,
                weight="bold" if cue else "normal")  # fmt: skip
    ax.set(xlim=(0, max(seconds[-1], edges[-1])), ylim=(0, top))
