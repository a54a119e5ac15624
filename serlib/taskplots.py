"""Figures about several tasks at once: weights, transcripts in time, surfaces of two weights.

As `serlib.plots`, whose look and small print they share: arrays in, matplotlib Axes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from serlib import audio, metrics
from serlib.plots import MARKERS, NOTE, PALETTE, passport


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
    table: Mapping[str, metrics.Interval], *, printed: Mapping[str, float] | None = None,
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
    mel = audio.log_mel(wave)
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
    table: Mapping[str, Mapping[str, metrics.Interval]], *, ylabel: str = "", ax: Axes | None = None
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
