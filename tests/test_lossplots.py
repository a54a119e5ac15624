"""Figures about losses: right numbers, directions that can be read, small print."""

from __future__ import annotations

import numpy as np
import pytest

from serbook.figures import lossplots

pytestmark = pytest.mark.usefixtures("look")

X = np.linspace(1, 7, 61)
STEP = np.subtract.outer(X, X)  # truth - prediction, as squared error
DRAWS = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, np.nan]])
FIGURES = {
    "penalty": lambda: lossplots.penalty(
        {"a": (X, (X - 3) ** 2, 2 * (X - 3)), "b": (X, X, -np.ones(61))}, 3.0
    ),
    "directions": lambda: lossplots.directions(np.where(X > 5, -1, 1) * STEP, STEP, X, X),
    "ranges": lambda: lossplots.ranges({"raters": X, "model": np.full(9, 4.0)}, limits=(1, 7)),
    "bands": lambda: lossplots.bands({"a": ([4, 16], DRAWS)}, levels={"a": 0.6}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_once_what_it_shows(name):
    figure = FIGURES[name]().figure
    figure.canvas.draw()
    (note,) = [t.get_text() for t in figure.texts if "tier:" in t.get_text()]
    source = "arithmetic, no speech" if name in ("penalty", "directions") else "synthetic speech"
    assert note == f"demo tier: {source}"


def test_triangles_point_against_the_slope():
    ax = FIGURES["penalty"]()
    right = [line for line in ax.lines if line.get_marker() == ">"]
    left = [line for line in ax.lines if line.get_marker() == "<"]
    assert max(right[0].get_xdata()) < 3 < min(left[0].get_xdata())
    assert len(right[1].get_xdata()) == 13 and len(left[1].get_xdata()) == 0
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]


def test_directions_tell_right_wrong_and_next_to_none():
    ax = FIGURES["directions"]()
    kind = ax.collections[0].get_array().reshape(61, 61)
    row = kind[30]  # truth 4
    assert (row[X <= 5] == 0).all() and (row[X > 5] == 2).all()
    faint = lossplots.directions(0.01 * STEP, STEP, X, X).collections[0].get_array().ravel()
    assert set(faint) == {0, 1} and (faint == 0).sum() == 61  # on the diagonal nothing is wrong
    lossplots.ways(ax)
    names = [t.get_text() for t in ax.figure.legends[0].get_texts()]
    assert names == list(lossplots.WAYS)


def test_ranges_are_percentiles_and_the_first_row_is_the_reference():
    ax = FIGURES["ranges"]()
    thin, thick = ax.lines[0], ax.lines[1]
    np.testing.assert_allclose(thin.get_xdata(), np.percentile(X, [5, 95]))
    np.testing.assert_allclose(thick.get_xdata(), np.percentile(X, [25, 75]))
    dashes = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(dashes) == 2 and ax.get_xlim() == (1, 7)
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "read from top to bottom"


def test_bands_are_means_and_percentiles_of_the_draws_that_exist():
    ax = FIGURES["bands"]()
    line = next(line for line in ax.lines if line.get_label() == "a")
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.45])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "16"]
    assert any(np.allclose(line.get_ydata(), 0.6) for line in ax.lines)
