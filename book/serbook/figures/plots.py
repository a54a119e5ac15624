"""Figures of the book: arrays in, matplotlib Axes out; and how all of them begin and end.

Every figure that `figure` decorates returns its Axes and takes, beside its own keywords, `ax` to
draw on (or the `size` of a figure in inches), `title`, `xlabel`, `ylabel`, and for the `passport`
`note` and `source`. Backgrounds are white so that figures stay readable on a dark page.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.registry import BackendFilter, backend_registry
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from serbook.figures import parts
from serbook.figures.parts import DASHES, HATCHES, MARKERS, NOTE, PALETTE, ROW
from serlib.data import acoustics, audio
from serlib.metrics import measures
from serlib.metrics.intervals import Interval

NO_WINDOW = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)


def style(profile: str, corpus: str = "") -> None:
    """Set the book's look once per chapter; profile and corpus go on every figure's passport."""
    plt.rcdefaults()  # whatever a settings file of the user's says
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
        # Started here: it would register its own writer later. One without a window draws into the
        # notebook, or its figures would be seen nowhere.
        if (chosen := plt.get_backend()).lower() in NO_WINDOW:
            shell.enable_matplotlib("inline")
        else:
            plt.switch_backend(chosen)
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


def figure(
    size: tuple[float, float] | Callable, *, legend: Mapping | None = None, bare: str = "",
    source: str = "", **labels: str,
) -> Callable[[Callable[..., None]], Callable[..., Axes]]:  # fmt: skip
    """What most figures begin and end with: Axes, labels, legend, passport; the rest is drawn.

    Args:
        size: Inches where the caller gives no Axes, or a function of what is drawn that says them.
        legend: Keywords of the legend; None draws none.
        bare: Whose grid lines are left out: "x", "y" or "both".
        source: For the passport where the caller names none.
        labels: `title`, `xlabel` and `ylabel` where the caller says nothing; what is in neither is
            left as it is drawn.
    """

    def decorate(draw: Callable[..., None]) -> Callable[..., Axes]:
        @functools.wraps(draw)
        def drawn(*args, ax=None, size=size, note="", source=source, **options) -> Axes:
            asked = {"title", "xlabel", "ylabel"} & options.keys()
            texts = labels | {name: options.pop(name) for name in asked}
            if ax is None:
                ax = plt.subplots(figsize=size(args[0]) if callable(size) else size)[1]
            draw(*args, ax=ax, **options)
            ax.set(**texts)
            if bare:
                ax.grid(axis=bare, visible=False)
            if legend is not None and ax.get_legend_handles_labels()[0]:
                ax.legend(**legend)
            return passport(ax, note, source=source)

        return drawn

    return decorate


def panels(
    n: int, *, rows: int = 1, size: tuple[float, float] = (9, 3.6), sharey: bool = False
) -> list[Axes]:
    """Axes for `n` plots on one figure of `size` inches, in reading order."""
    _, axes = plt.subplots(rows, -(-n // rows), figsize=size, sharey=sharey, squeeze=False)
    for spare in axes.flat[n:]:
        spare.remove()
    return list(axes.flat[:n])


@figure((8.5, 3.6), legend={}, bare="x", xlabel="")
def counts(table: pd.DataFrame, *, ax: Axes, unit: str = "") -> None:
    """Grouped bars of shares or counts: rows of `table` along x, one color per column."""
    table.plot.bar(ax=ax, width=0.8, color=PALETTE[: table.shape[1]], edgecolor="white", rot=0)
    for bars, hatch in zip(ax.containers, HATCHES, strict=False):
        for bar in bars:
            bar.set_hatch(hatch)
    ax.set_ylabel(unit)


def waveform(wave: NDArray, *, title: str = "") -> NDArray:
    """Waveform, log-mel spectrogram and pitch of one utterance, on one time axis: three Axes."""
    _, axes = plt.subplots(3, 1, figsize=(8.5, 5.6), sharex=True, height_ratios=(1, 1.6, 1))
    parts.speech(axes, wave)
    axes[0].set_title(title)
    f0 = acoustics.pitch(wave)
    axes[2].plot(np.arange(len(f0)) / 100, f0, ".", ms=4, color=PALETTE[1])
    end = (len(wave) - 1) / audio.SAMPLE_RATE if len(wave) else 1
    axes[2].set(ylabel="pitch (Hz)", xlabel="seconds", xlim=(0, end))
    passport(axes[2])
    return axes


@figure((8, 3.8), legend={}, xlabel="epoch")
def learning_curves(
    histories: Mapping[str, Sequence[pd.DataFrame]], column: str, *, ax: Axes,
    ceiling: float | None = None,
) -> None:  # fmt: skip
    """One metric against epoch: the mean over seeds as a line, each seed as a thin one."""
    for i, (name, seeds) in enumerate(histories.items()):
        for h in seeds:
            ax.plot(h["epoch"], h[column], lw=0.8, alpha=0.45, **parts.look(i, marker=None))
        mean = pd.concat(seeds).groupby("epoch")[column].mean()
        ax.plot(mean.index, mean, ms=5, label=name, **parts.look(i))
    if ceiling is not None:
        parts.level(ax, ceiling, "ceiling")
    ax.set_ylabel(column)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))


@figure(lambda table: (8, 0.45 * len(table) + 1.4), bare="y")
def intervals(
    table: Mapping[str, Interval], *, ax: Axes, ceilings: Mapping[str, float] | None = None,
    zero: bool = False,
) -> None:  # fmt: skip
    """A point and its interval per row, best read from top to bottom; ceilings as dashed lines."""
    values, bars = parts.reach(table.values())
    for i, value in enumerate(values):
        ax.errorbar(value, i, xerr=bars[:, [i]], fmt=MARKERS[i % 8], color=PALETTE[i % 7],
                    capsize=3, ms=7)  # fmt: skip
        ax.annotate(f"{value:.3f}", (value, i), textcoords="offset points", xytext=(0, 7),
                    ha="center", fontsize=8.5)  # fmt: skip
    ax.set(yticks=range(len(table)), yticklabels=list(table), ylim=(len(table) - 0.4, -0.7))
    ax.locator_params(axis="x", nbins=6)  # in a narrow panel more labels would touch
    for name, value in (ceilings or {}).items():  # several are too close for level labels
        ax.axvline(value, **DASHES)
        ax.annotate(name, (value, 1.01), xycoords=("data", "axes fraction"), ha="center",
                    va="bottom", fontsize=9, rotation=45 if len(ceilings) > 1 else 0)  # fmt: skip
    if zero:
        ax.axvline(0, color="#000000", lw=1)


@figure((5.6, 4.8), xlabel="predicted", ylabel="true")
def confusion(cm: NDArray, classes: Sequence[str], *, ax: Axes) -> None:
    """Confusion matrix: shares of each true class (rows) in color, counts in print."""
    share = cm / np.maximum(cm.sum(1, keepdims=True), 1)
    sns.heatmap(
        share, vmin=0, vmax=1, cmap="Blues", annot=cm.astype(int), fmt="d", ax=ax, square=True,
        xticklabels=classes, yticklabels=classes, linewidths=0.5, annot_kws={"size": 9},
        cbar_kws={"label": "share of the true class", "shrink": 0.8},
    )  # fmt: skip
    ax.tick_params(axis="x", rotation=45)


@figure((9, 3.8), legend=ROW | {"bbox_to_anchor": (0.5, 1.18)}, bare="x", ylabel="recall")
def recalls(cms: Mapping[str, NDArray], classes: Sequence[str], *, ax: Axes) -> None:
    """Recall per class for several systems, with the number of test utterances of each class."""
    n = next(iter(cms.values())).sum(1)
    for i, (name, cm) in enumerate(cms.items()):
        at = parts.beside(len(classes), i, len(cms), 0.16)
        ax.plot(at, measures.recalls(cm), MARKERS[i % 8], ms=8, color=PALETTE[i % 7], label=name)
    ax.set(xticks=range(len(classes)), ylim=(-0.03, 1.03))
    ax.set_xticklabels([f"{c}\nn = {int(k)}" for c, k in zip(classes, n, strict=True)])


@figure((4.8, 4.4), legend={}, xlabel="confidence", ylabel="accuracy")
def reliability(tables: Mapping[str, pd.DataFrame], *, ax: Axes) -> None:
    """Accuracy against confidence: on the diagonal a probability means what it says."""
    ax.plot([0, 1], [0, 1], color=NOTE, lw=1, ls=":")
    for i, (name, t) in enumerate(tables.items()):
        ax.plot(t["confidence"], t["accuracy"], label=name, **parts.look(i))
    ax.set(xlim=(0, 1), ylim=(0, 1))


@figure(lambda table: (8, 0.34 * len(table) + 1.2), legend={})
def dots(table: pd.DataFrame, *, ax: Axes, log: bool = False) -> None:
    """One row per row of `table`, one mark per column: for numbers that span magnitudes.

    NaN draws no mark; nor does 0 or less on a logarithmic axis, which has no place for it.
    """
    for i, name in enumerate(table):
        x, y = table[name].astype(float), parts.beside(len(table), i, len(table.columns), 0.12)
        ax.plot(x.where(x > 0) if log else x, y, ms=7, label=name, **parts.look(i, ls=""))
    ax.set(yticks=range(len(table)), yticklabels=list(table.index), ylim=(len(table) - 0.5, -0.5))
    if log and (table.to_numpy(float) > 0).any():
        ax.set_xscale("log")


@figure((8.5, 3.6), xlabel="", ylabel="")
def heat(table: pd.DataFrame, *, ax: Axes, label: str = "") -> None:
    """The cells of `table` as shades, dark is much; `label` names what is shaded."""
    sns.heatmap(table.astype(float), cmap="Blues", vmin=0, ax=ax, linewidths=0.3,
                xticklabels=True, yticklabels=True, cbar_kws={"label": label})  # fmt: skip
    ax.tick_params(axis="x", rotation=90, labelsize=8.5)


@figure((6.5, 3.6), legend={})
def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, ax: Axes, log: str = "",
    marks: bool = True,
) -> None:  # fmt: skip
    """Named curves (x, y), told apart by color, dashes and marks; `log` is "", "x", "y" or "xy"."""
    for i, (name, (x, y)) in enumerate(lines.items()):
        ax.plot(x, y, label=name, ms=6, **parts.look(i, **{} if marks else {"marker": None}))
    for axis in log:
        getattr(ax, f"set_{axis}scale")("log")


@figure((5.6, 4.6))
def plane(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, ax: Axes) -> None:
    """Clouds of points (x, y) with a large mark, and the name, at the mean of each."""
    means = {name: (np.mean(x), np.mean(y)) for name, (x, y) in points.items() if len(x)}
    wide, high = (0.12 * np.ptp(np.concatenate(xy)) for xy in zip(*points.values(), strict=True))
    for i, (name, (x, y)) in enumerate(points.items()):
        kind = dict(color=PALETTE[i % 8], marker=MARKERS[i % 8])
        ax.scatter(x, y, s=7, alpha=0.25, linewidths=0, rasterized=True, **kind)
        if name in means:
            at = means[name]
            ax.scatter(*at, s=130, edgecolors="black", zorder=4, **kind)
            near = [0 < u - at[0] < wide and abs(v - at[1]) < high for u, v in means.values()]
            side = -1 if any(near) else 1  # the name goes left if a mark is close on the right
            ax.annotate(name, at, textcoords="offset points", fontsize=9.5, zorder=3,
                        xytext=(8 * side, -9 if i % 2 else 9), va="center",
                        ha="left" if side > 0 else "right",
                        bbox=dict(fc="white", alpha=0.75, lw=0, pad=0.8))  # fmt: skip


@figure(lambda table: (8.5, 0.5 * len(table) + 1.6), bare="y")
def stacked(table: pd.DataFrame, *, ax: Axes) -> None:
    """One bar per row of `table`, its columns end to end, told apart by color and hatch."""
    left = np.zeros(len(table))
    for i, name in enumerate(table):
        width = table[name].to_numpy(float)
        ax.barh(range(len(table)), width, left=left, color=PALETTE[i % 8], edgecolor="white",
                hatch=HATCHES[i % 8], label=name, height=0.7)  # fmt: skip
        left += width
    ax.set(yticks=range(len(table)), yticklabels=list(table.index))
    ax.set_xlim(0, left.max() if len(left) else 1)
    ax.invert_yaxis()
    columns = len(table.columns) if len(table.columns) < 6 else 4
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=columns)
