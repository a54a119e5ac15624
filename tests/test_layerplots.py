"""Figures about several tasks and layers: right numbers, told apart without color, small print."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serbook.figures import layerplots
from serlib.metrics import intervals

pytestmark = pytest.mark.usefixtures("look")


def paths(seed=0.0, epochs=3):
    table = {"epoch": np.arange(1, epochs + 1)}
    table |= {f"dev_layer_{i}": np.linspace(1 / 3, 0.2 * i + seed, epochs) for i in range(3)}
    return pd.DataFrame(table)


SCORES = [intervals.Interval(0.4, 0.3, 0.45, 0.95), intervals.Interval(0.5, 0.4, 0.6, 0.95)]
WEIGHTS = {"asr": np.array([[0.2, 0.8], [0.4, 0.6]]), "gender": np.array([[0.5, 0.5]])}
FIGURES = {
    "by_layer": lambda: layerplots.by_layer({"a": SCORES, "b": [0.2, 0.1]}, floor=0.1),
    "layer_weights": lambda: layerplots.layer_weights(WEIGHTS),
    "weight_paths": lambda: layerplots.weight_paths([paths(), paths(0.02)], start=[1 / 3] * 3),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_once_which_tier_made_it(name):
    figure = FIGURES[name]().figure
    figure.canvas.draw()
    (note,) = [t.get_text() for t in figure.texts if "tier:" in t.get_text()]
    assert note.startswith("demo tier: synthetic speech")


def test_scores_by_layer_have_their_intervals_and_bare_numbers_none():
    ax = FIGURES["by_layer"]()
    (bars,) = ax.containers[0].lines[2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.3, 0.45], [0.4, 0.6]]
    (none,) = ax.containers[1].lines[2]
    assert all(np.ptp(segment[:, 1]) == 0 for segment in none.get_segments())
    styles = {(c.lines[0].get_linestyle(), c.lines[0].get_marker()) for c in ax.containers}
    assert len(styles) == 2


def test_layer_weights_show_the_mean_over_seeds():
    ax = FIGURES["layer_weights"]()
    marks = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(marks["asr"], [0.3, 0.7])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["asr", "gender"]


def test_weight_paths_begin_at_the_start_and_name_every_layer_apart():
    ax = FIGURES["weight_paths"]()
    thick = [line for line in ax.lines if line.get_linewidth() == 2]
    assert all(line.get_ydata()[0] == pytest.approx(1 / 3) for line in thick)
    assert thick[1].get_ydata()[-1] == pytest.approx(0.21)
    heights = sorted(t.xy[1] for t in ax.texts)
    assert len(heights) == 3 and np.diff(heights).min() > 0.02


def test_labels_of_lines_that_end_together_stay_apart_and_inside():
    crowd = pd.DataFrame({"epoch": [1, 2]} | {f"dev_layer_{i}": [0.1, 0.5] for i in range(5)})
    crowd["dev_layer_5"] = [0.1, 0.0]
    ax = layerplots.weight_paths([crowd])
    heights = sorted(t.xy[1] for t in ax.texts)
    assert np.diff(heights).min() > 0.03 and heights[-1] <= ax.get_ylim()[1]


def test_free_weights_below_zero_are_seen():
    low, high = layerplots.layer_weights({"free": np.array([[-0.5, 1.5]])}).get_ylim()
    assert low < -0.5 and high > 1.5
    assert FIGURES["layer_weights"]().get_ylim()[0] == 0


def test_weights_of_one_epoch_and_seed_can_be_drawn():
    assert layerplots.weight_paths([paths(epochs=1)]).lines
