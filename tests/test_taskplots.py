"""Figures of the multi-task chapters: what they draw, and that they carry the passport."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Annotation
from scipy.stats import norm

from serlib import metrics, plots, taskplots

RNG = np.random.default_rng(0)
SAME = np.arange(400) < 150
SCORES = RNG.normal(size=400) + 2 * SAME
BOXES = {"a": (0, 0, "a"), "b": (3, 0, "b\n(B, H)"), "c": (3, 2, "c")}
WORDS = [("oh", 0.0, 0.2, True), ("well", 0.2, 0.5, False)]
WEIGHTS = RNG.dirichlet(np.ones(3), 20)
GROUPS = ["x", "y"] * 10
FIGURES = {
    "flow": lambda: taskplots.flow(BOXES, [("a", "b"), ("b", "c")], colors={"b": 1}),
    "trials": lambda: taskplots.trials(SCORES, SAME, threshold=1.0),
    "det": lambda: taskplots.det({"one": (SCORES, SAME), "two": (-SCORES, SAME)}),
    "shares": lambda: taskplots.shares(WEIGHTS, ["p", "q", "r"], GROUPS, ["x", "y", "z"]),
    "attention": lambda: taskplots.attention(
        RNG.normal(0, 0.1, 8000).astype(np.float32), np.full(12, 1 / 12), 0.04, WORDS
    ),
}


@pytest.fixture(autouse=True)
def look():
    plots.style("demo")
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_once_which_tier_made_it(name):
    figure = FIGURES[name]().figure
    figure.canvas.draw()
    (note,) = [t.get_text() for t in figure.texts if "tier:" in t.get_text()]
    assert note.startswith("demo tier: ")
    assert ("no data" in note) == (name == "flow")


def test_arrows_join_facing_sides():
    arrows = [t for t in FIGURES["flow"]().texts if isinstance(t, Annotation)]
    (across, up) = [(t.xyann, t.xy) for t in arrows]
    assert across == ((0.85, 0), (3 - 0.85, 0))
    assert up[0][0] == up[1][0] == 3 and 0 < up[0][1] < up[1][1] < 2


def test_trials_counts_both_kinds():
    labels = [t.get_text() for t in FIGURES["trials"]().get_legend().get_texts()]
    assert labels == ["two talkers: 250 trials", "one talker: 150 trials", "equal errors"]


def test_det_crosses_the_diagonal_at_the_equal_error_rate():
    line = taskplots.det({"one": (SCORES, SAME)}).get_lines()[1]
    accepted, rejected = norm.cdf(line.get_xdata()), norm.cdf(line.get_ydata())
    at = np.abs(accepted - rejected).argmin()
    assert accepted[at] == pytest.approx(metrics.eer(SCORES, SAME), abs=0.02)


def test_shares_draws_means_and_the_uniform_line():
    ax = FIGURES["shares"]()
    first = ax.containers[0].lines[0].get_ydata()
    assert first[0] == pytest.approx(WEIGHTS[::2, 0].mean()) and np.isnan(first[2])
    (uniform,) = [line for line in ax.get_lines() if line.get_label() == "uniform"]
    assert uniform.get_ydata()[0] == pytest.approx(1 / 3)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x\nn = 10", "y\nn = 10", "z\nn = 0"]


def test_attention_shades_cue_words_and_names_all():
    ax = FIGURES["attention"]()
    assert [t.get_text() for t in ax.texts] == ["oh", "well"]
    assert [t.get_weight() for t in ax.texts] == ["bold", "normal"]
    assert len(ax.patches) == 2  # the stairs and one shade


def test_odd_input_makes_a_figure():
    for ax in (
        taskplots.det({"none of one kind": (SCORES, np.zeros(400, bool))}),
        taskplots.trials(SCORES, ~np.zeros(400, bool)),
        taskplots.attention(np.zeros(800, np.float32), np.ones(1), 0.04, []),
        taskplots.shares(np.ones((1, 1)), ["p"], ["x"], ["x"]),
    ):
        ax.figure.canvas.draw()
