"""Figures of the book: arrays in, matplotlib Axes out. Only this and `taskplots` import matplotlib.

Colors are Okabe and Ito's, told apart by every kind of color vision, and never alone: lines also
differ in style and marks. Backgrounds are white so that figures stay readable on a dark page.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from serlib.data import acoustics, audio
from serlib.metrics import measures
from serlib.metrics.intervals import Interval

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NOTE = "#555555"


def style(profile: str, corpus: str = "") -> None:
    """Set the book's look once per chapter; profile and corpus go on every figure's passport."""
    sns.set_theme(context="notebook", style="whitegrid", palette=list(PALETTE))
    plt.rcParams.update({
        "figure.dpi": 80, "savefig.dpi": 80, "figure.facecolor": "white", "axes.titlesize": 12,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 11,
        "legend.frameon": False, "figure.constrained_layout.use": True, "font.size": 11,
        "lines.linewidth": 2, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True,
    })  # fmt: skip
    style.profile = profile
    if corpus not in ("", "demo"):
        style.source = f"corpus {Path(corpus).stem}"
    else:
        human = profile == "full" and not corpus
        style.source = "human speech" if human else "synthetic speech"
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        plt.switch_backend(plt.get_backend())  # starts it: it would register its own writer later
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


style.profile, style.source = "demo", "synthetic speech"


def _png(figure: Figure) -> bytes:
    """A figure for a notebook: 128 colors do, at a quarter of the bytes."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    Image.open(full).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()


def passport(ax: Axes, text: str = "", *, source: str = "") -> Axes:
    """Write in small print which tier made the figure: synthetic speech is never shown as human.

    `source` says what a figure shows if it is not the tier's speech, such as published counts.
    """
    note = f"{style.profile} tier: {source or style.source}" + (f"; {text}" if text else "")
    for earlier in [t for t in ax.figure.texts if t.get_gid() == "passport"]:
        earlier.remove()  # one per figure, the last one, however many panels it has
    ax.figure.text(
        0.995, -0.015, note, ha="right", va="top", fontsize=8, color=NOTE, gid="passport"
    )
    return ax


def counts(table: pd.DataFrame, *, ax: Axes | None = None, title: str = "", unit: str = "") -> Axes:
    """Grouped bars of shares or counts: rows of `table` along x, one color per column."""
    ax = ax or plt.subplots(figsize=(8.5, 3.6))[1]
    table.plot.bar(ax=ax, width=0.8, color=PALETTE[: table.shape[1]], edgecolor="white", rot=0)
    for bars, hatch in zip(ax.containers, ("", "//", "..", "xx", "\\\\", "++"), strict=False):
        for bar in bars:
            bar.set_hatch(hatch)
    ax.legend()  # drawn again, with the hatches
    ax.set(xlabel="", ylabel=unit, title=title)
    ax.grid(axis="x", visible=False)
    return passport(ax)


def waveform(wave: NDArray, *, title: str = "") -> NDArray:
    """Waveform, log-mel spectrogram and pitch of one utterance, on one time axis.

    Returns:
        The three Axes.
    """
    fig, axes = plt.subplots(3, 1, figsize=(8.5, 5.6), sharex=True, height_ratios=(1, 1.6, 1))
    seconds = np.arange(len(wave)) / audio.SAMPLE_RATE
    axes[0].plot(seconds, wave, lw=0.4, color=PALETTE[0])
    axes[0].set(ylabel="amplitude", title=title)
    mel = acoustics.log_mel(wave)
    hop = np.arange(len(mel) + 1) / 100
    axes[1].pcolormesh(hop, np.arange(mel.shape[1] + 1), mel.T, cmap="cividis", rasterized=True)
    axes[1].set(ylabel="mel band")
    axes[1].grid(visible=False)
    f0 = acoustics.pitch(wave)
    axes[2].plot(np.arange(len(f0)) / 100, f0, ".", ms=4, color=PALETTE[1])
    axes[2].set(ylabel="pitch (Hz)", xlabel="seconds", xlim=(0, seconds[-1] if len(wave) else 1))
    passport(axes[2])
    return axes


def learning_curves(
    histories: Mapping[str, Sequence[pd.DataFrame]], column: str, *, ylabel: str = "",
    ax: Axes | None = None, ceiling: float | None = None,
) -> Axes:  # fmt: skip
    """One metric against epoch: the mean over seeds as a line, each seed as a thin one."""
    ax = ax or plt.subplots(figsize=(8, 3.8))[1]
    for i, (name, seeds) in enumerate(histories.items()):
        look = dict(color=PALETTE[i % 8], ls=STYLES[i % 4])
        for h in seeds:
            ax.plot(h["epoch"], h[column], lw=0.8, alpha=0.45, **look)
        mean = pd.concat(seeds).groupby("epoch")[column].mean()
        ax.plot(mean.index, mean, marker=MARKERS[i % 8], ms=5, label=name, **look)
    if ceiling is not None:
        _ceiling(ax, ceiling, horizontal=True)
    ax.set(xlabel="epoch", ylabel=ylabel or column)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend()
    return passport(ax)


def _ceiling(
    ax: Axes, value: float, *, horizontal: bool, label: str = "ceiling", rotation: float = 0
) -> None:
    line = ax.axhline if horizontal else ax.axvline
    line(value, color="#000000", ls=(0, (5, 2)), lw=1.2)
    if horizontal:
        ax.annotate(label, (1.0, value), xycoords=("axes fraction", "data"), ha="right",
                    va="bottom", fontsize=9)  # fmt: skip
    else:
        ax.annotate(label, (value, 1.01), xycoords=("data", "axes fraction"), ha="center",
                    va="bottom", fontsize=9, rotation=rotation)  # fmt: skip


def intervals(
    table: Mapping[str, Interval], *, xlabel: str = "", ax: Axes | None = None,
    ceilings: Mapping[str, float] | None = None, zero: bool = False,
) -> Axes:  # fmt: skip
    """A point and its interval per row, best read from top to bottom; ceilings as dashed lines."""
    ax = ax or plt.subplots(figsize=(8, 0.45 * len(table) + 1.4))[1]
    for i, (_, v) in enumerate(table.items()):
        ax.errorbar(v.value, i, xerr=[[v.value - v.low], [v.high - v.value]], fmt=MARKERS[i % 8],
                    color=PALETTE[i % 7], capsize=3, ms=7)  # fmt: skip
        ax.annotate(f"{v.value:.3f}", (v.value, i), textcoords="offset points", xytext=(0, 7),
                    ha="center", fontsize=8.5)  # fmt: skip
    ax.set(yticks=range(len(table)), yticklabels=list(table), xlabel=xlabel)
    ax.set_ylim(len(table) - 0.4, -0.7)
    ax.locator_params(axis="x", nbins=6)  # in a narrow panel more labels would touch
    for name, value in (ceilings or {}).items():  # several are too close for level labels
        rotation = 45 if len(ceilings) > 1 else 0
        _ceiling(ax, value, horizontal=False, label=name, rotation=rotation)
    if zero:
        ax.axvline(0, color="#000000", lw=1)
    ax.grid(axis="y", visible=False)
    return passport(ax)


def confusion(
    cm: NDArray, classes: Sequence[str], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Confusion matrix: shares of each true class (rows) in color, counts in print."""
    ax = ax or plt.subplots(figsize=(5.6, 4.8))[1]
    share = cm / np.maximum(cm.sum(1, keepdims=True), 1)
    sns.heatmap(
        share, vmin=0, vmax=1, cmap="Blues", annot=cm.astype(int), fmt="d", ax=ax, square=True,
        xticklabels=classes, yticklabels=classes, linewidths=0.5, annot_kws={"size": 9},
        cbar_kws={"label": "share of the true class", "shrink": 0.8},
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="true", title=title)
    ax.tick_params(axis="x", rotation=45)
    return passport(ax)


def recalls(
    cms: Mapping[str, NDArray], classes: Sequence[str], *, ax: Axes | None = None,
    ceiling: NDArray | None = None,
) -> Axes:  # fmt: skip
    """Recall per class for several systems, with the number of test utterances of each class."""
    ax = ax or plt.subplots(figsize=(9, 3.8))[1]
    n = next(iter(cms.values())).sum(1)
    at = np.arange(len(classes))
    for i, (name, cm) in enumerate(cms.items()):
        offset = (i - (len(cms) - 1) / 2) * 0.16
        ax.plot(at + offset, measures.recalls(cm), MARKERS[i % 8], ms=8, color=PALETTE[i % 7],
                label=name)  # fmt: skip
    if ceiling is not None:
        ax.hlines(ceiling, at - 0.4, at + 0.4, color="#000000", ls="--", lw=1.2, label="ceiling")
    ax.set(xticks=at, ylabel="recall", ylim=(-0.03, 1.03))
    ax.set_xticklabels([f"{c}\nn = {int(k)}" for c, k in zip(classes, n, strict=True)])
    ax.grid(axis="x", visible=False)
    ax.legend(ncols=len(cms) + 1, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    return passport(ax)


def reliability(tables: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence: on the diagonal a probability means what it says."""
    ax = ax or plt.subplots(figsize=(4.8, 4.4))[1]
    ax.plot([0, 1], [0, 1], color=NOTE, lw=1, ls=":")
    for i, (name, t) in enumerate(tables.items()):
        ax.plot(t["confidence"], t["accuracy"], color=PALETTE[i % 7], marker=MARKERS[i % 8],
                ls=STYLES[i % 4], label=name)  # fmt: skip
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    ax.legend()
    return passport(ax)


def panels(
    n: int, *, rows: int = 1, size: tuple[float, float] = (9, 3.6), sharey: bool = False
) -> list[Axes]:
    """Axes for `n` plots on one figure of `size` inches, in reading order."""
    _, axes = plt.subplots(rows, -(-n // rows), figsize=size, sharey=sharey, squeeze=False)
    for spare in axes.flat[n:]:
        spare.remove()
    return list(axes.flat[:n])


def dots(
    table: pd.DataFrame, *, xlabel: str = "", log: bool = False, ax: Axes | None = None,
    title: str = "", note: str = "", source: str = "",
) -> Axes:  # fmt: skip
    """One row per row of `table`, one mark per column: for numbers that span magnitudes.

    NaN draws no mark; nor does 0 or less on a logarithmic axis, which has no place for it.
    """
    ax = ax or plt.subplots(figsize=(8, 0.34 * len(table) + 1.2))[1]
    for i, name in enumerate(table):
        x = table[name].astype(float)
        y = np.arange(len(table)) + (i - (len(table.columns) - 1) / 2) * 0.12
        ax.plot(x.where(x > 0) if log else x, y, MARKERS[i % 8], ms=7, color=PALETTE[i % 8],
                label=name)  # fmt: skip
    ax.set(yticks=range(len(table)), yticklabels=list(table.index), xlabel=xlabel, title=title)
    ax.set_ylim(len(table) - 0.5, -0.5)
    if log and (table.to_numpy(float) > 0).any():
        ax.set_xscale("log")
    ax.legend()
    return passport(ax, note, source=source)


def heat(
    table: pd.DataFrame, *, label: str = "", xlabel: str = "", ylabel: str = "",
    ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """The cells of `table` as shades, dark is much; `label` names what is shaded."""
    ax = ax or plt.subplots(figsize=(8.5, 3.6))[1]
    sns.heatmap(table.astype(float), cmap="Blues", vmin=0, ax=ax, linewidths=0.3,
                xticklabels=True, yticklabels=True, cbar_kws={"label": label})  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.tick_params(axis="x", rotation=90, labelsize=8.5)
    return passport(ax)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str = "",
    ylabel: str = "", log: str = "", marks: bool = True, ax: Axes | None = None, title: str = "",
    note: str = "", source: str = "",
) -> Axes:  # fmt: skip
    """Named curves (x, y), told apart by color, dashes and marks; `log` is "", "x", "y" or "xy"."""
    ax = ax or plt.subplots(figsize=(6.5, 3.6))[1]
    for i, (name, (x, y)) in enumerate(lines.items()):
        ax.plot(x, y, ls=STYLES[i % 4], color=PALETTE[i % 8], label=name, ms=6,
                marker=MARKERS[i % 8] if marks else None)  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    for axis in log:
        getattr(ax, f"set_{axis}scale")("log")
    if lines:
        ax.legend()
    return passport(ax, note, source=source)


def plane(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str = "",
    ylabel: str = "", ax: Axes | None = None, title: str = "",
) -> Axes:  # fmt: skip
    """Clouds of points (x, y) with a large mark, and the name, at the mean of each."""
    ax = ax or plt.subplots(figsize=(5.6, 4.6))[1]
    means = {name: (np.mean(x), np.mean(y)) for name, (x, y) in points.items() if len(x)}
    wide, high = (0.12 * np.ptp(np.concatenate(xy)) for xy in zip(*points.values(), strict=True))
    for i, (name, (x, y)) in enumerate(points.items()):
        look = dict(color=PALETTE[i % 8], marker=MARKERS[i % 8])
        ax.scatter(x, y, s=7, alpha=0.25, linewidths=0, rasterized=True, **look)
        if name in means:
            at = means[name]
            ax.scatter(*at, s=130, edgecolors="black", zorder=4, **look)
            near = [0 < u - at[0] < wide and abs(v - at[1]) < high for u, v in means.values()]
            side = -1 if any(near) else 1  # the name goes left if a mark is close on the right
            ax.annotate(name, at, textcoords="offset points", fontsize=9.5, zorder=3,
                        xytext=(8 * side, -9 if i % 2 else 9), va="center",
                        ha="left" if side > 0 else "right",
                        bbox=dict(fc="white", alpha=0.75, lw=0, pad=0.8))  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return passport(ax)


def stacked(
    table: pd.DataFrame, *, xlabel: str = "", ax: Axes | None = None, title: str = "",
    note: str = "",
) -> Axes:  # fmt: skip
    """One bar per row of `table`, its columns end to end, told apart by color and hatch."""
    ax = ax or plt.subplots(figsize=(8.5, 0.5 * len(table) + 1.6))[1]
    hatches = ("", "//", "..", "xx", "\\\\", "++", "", "--")
    left = np.zeros(len(table))
    for i, name in enumerate(table):
        width = table[name].to_numpy(float)
        ax.barh(range(len(table)), width, left=left, color=PALETTE[i % 8], edgecolor="white",
                hatch=hatches[i % 8], label=name, height=0.7)  # fmt: skip
        left += width
    ax.set(yticks=range(len(table)), yticklabels=list(table.index), xlabel=xlabel, title=title)
    ax.set_xlim(0, left.max() if len(left) else 1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    columns = len(table.columns) if len(table.columns) < 6 else 4
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=columns)
    return passport(ax, note)
