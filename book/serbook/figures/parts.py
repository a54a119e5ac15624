"""What figures share: colors and marks, series side by side, lines to compare with, speech.

Colors are Okabe and Ito's, told apart by every kind of color vision, and never alone: lines also
differ in style and marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from serlib.data import acoustics, audio
from serlib.metrics.intervals import Interval

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "", "--")
NOTE = "#555555"
DASHES = dict(color="#000000", ls=(0, (5, 2)), lw=1.2)  # a line to compare with, such as a ceiling
ROW = dict(ncols=99, loc="upper center")  # a legend with all of its names side by side


def look(i: int, **other) -> dict:
    """Color, dashes and marks of the i-th series, or other ones."""
    return dict(color=PALETTE[i % 8], ls=STYLES[i % 4], marker=MARKERS[i % 8]) | other


def beside(n: int, i: int, of: int, step: float) -> NDArray:
    """Places 0 to n - 1 (n,) for the i-th `of` series that lie side by side."""
    return np.arange(n) + (i - (of - 1) / 2) * step


def reach(found: Iterable[Interval | float]) -> tuple[NDArray, NDArray]:
    """Values (X,) and their distances (2, X) to the ends of their intervals; 0 of bare numbers."""
    ends = [[getattr(v, end, v) for end in ("value", "low", "high")] for v in found]
    value, low, high = np.array(ends, float).reshape(-1, 3).T
    return value, np.abs([value - low, high - value])


def level(
    ax: Axes, height: float, name: str, *, at: float = 1.0, line: dict | None = None, **text
) -> None:
    """A line across the panel, dashed and black by default, its name at a share of the width."""
    ax.axhline(height, **DASHES | (line or {}))
    where = dict(xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    ax.annotate(name, (at, height), **where | text)


def speech(axes: Sequence[Axes], wave: NDArray) -> None:
    """A wave (N,) at 16 kHz on the first Axes, its log-mel spectrogram on the second."""
    axes[0].plot(np.arange(len(wave)) / audio.SAMPLE_RATE, wave, lw=0.4, color=PALETTE[0])
    axes[0].set_ylabel("amplitude")
    mel = acoustics.log_mel(wave)
    hop = np.arange(len(mel) + 1) / 100
    axes[1].pcolormesh(hop, np.arange(mel.shape[1] + 1), mel.T, cmap="cividis", rasterized=True)
    axes[1].set_ylabel("mel band")
    axes[1].grid(visible=False)
