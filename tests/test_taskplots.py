"""Figures about several tasks: what is drawn is what was given, and odd input makes a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation
from scipy.stats import norm

from serbook.figures import taskplots
from serlib.metrics import intervals, measures

NAN = float("nan")


pytestmark = pytest.mark.usefixtures("look")


def interval(value=0.5, low=0.4, high=0.6):
    return intervals.Interval(value, low, high, 0.95)


FORWARD = np.array([[0.1, 0.03], [0.7, 0.24], [0.0, 0.21]])
WORDS = pd.DataFrame({"word": ["A", "BE"], "start": [0.0, 0.2], "end": [0.1, 0.4]})
WAVE = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
FIGURES = {
    "trellis": lambda: taskplots.trellis(FORWARD, ["-", "a", "-"]),
    "ladder": lambda: taskplots.ladder({"0": interval(), "1": interval(0.6)}, printed={"1": 0.7}),
    "surface": lambda: taskplots.surface(pd.DataFrame([[0.1, 0.2]], index=["0"]), label="UA"),
    "alignment": lambda: taskplots.alignment(WAVE, {"x": WORDS, "y": WORDS}, list("A-B"), 0.1)[2],
    "groups": lambda: taskplots.groups({"a": {"x": interval()}, "b": {"x": interval(0.2)}}),
}
RNG = np.random.default_rng(0)
SAME = np.arange(400) < 150
SCORES = RNG.normal(size=400) + 2 * SAME
BOXES = {"a": (0, 0, "a"), "b": (3, 0, "b\n(B, H)"), "c": (3, 2, "c")}
SPANS = [("oh", 0.0, 0.2, True), ("well", 0.2, 0.5, False)]
WEIGHTS = RNG.dirichlet(np.ones(3), 20)
GROUPS = ["x", "y"] * 10
FIGURES |= {
    "flow": lambda: taskplots.flow(BOXES, [("a", "b"), ("b", "c")], colors={"b": 1}),
    "trials": lambda: taskplots.trials(SCORES, SAME, threshold=1.0),
    "det": lambda: taskplots.det({"one": (SCORES, SAME), "two": (-SCORES, SAME)}),
    "shares": lambda: taskplots.shares(WEIGHTS, ["p", "q", "r"], GROUPS, ["x", "y", "z"]),
    "attention": lambda: taskplots.attention(
        RNG.normal(0, 0.1, 8000).astype(np.float32), np.full(12, 1 / 12), 0.04, SPANS
    ),
}
ODD = {
    "no bounds": lambda: taskplots.ladder({"0": interval(0.5, NAN, NAN)}),
    "nothing known": lambda: taskplots.groups({"a": {"x": interval(NAN, NAN, NAN)}}),
    "no words": lambda: taskplots.alignment(WAVE, {"x": WORDS.iloc[:0]}, [], 0.1)[0],
    "one state": lambda: taskplots.trellis(np.array([[1.0]]), ["-"]),
    "equal cells": lambda: taskplots.surface(pd.DataFrame([[0.5, 0.5]])),
}


@pytest.mark.parametrize("name", [*FIGURES, *ODD])
def test_every_figure_says_once_which_tier_made_it(name):
    figure = (FIGURES | ODD)[name]().figure
    figure.canvas.draw()
    (note,) = [t.get_text() for t in figure.texts if "tier:" in t.get_text()]
    assert note.startswith("demo tier: ")
    about = {"trellis": "no speech", "one state": "no speech", "flow": "no data"}
    assert about.get(name, "synthetic speech") in note


def test_the_trellis_draws_only_steps_that_ctc_allows():
    def arrows(states):
        ax = taskplots.trellis(np.ones((len(states), 2)), states)
        found = [t for t in ax.texts if t.get_text() == ""]
        return {(int(t.xyann[1]), int(t.xy[1])) for t in found}

    stay_and_next = {(i, i) for i in range(5)} | {(i, i + 1) for i in range(4)}
    assert arrows(["-", "a", "-", "b", "-"]) == stay_and_next | {(1, 3)}
    assert arrows(["-", "l", "-", "l", "-"]) == stay_and_next  # a double letter needs its blank
    reached = taskplots.trellis(FORWARD, ["-", "a", "-"])
    assert sum(t.get_text() == "0" for t in reached.texts) == 1
    assert {int(t.xyann[1]) for t in reached.texts if t.get_text() == ""} == {0, 1}


def test_the_ladder_keeps_order_and_sets_print_apart():
    ax = taskplots.ladder(
        {"0": interval(0.2, 0.1, 0.4), "0.1": interval(0.5)}, printed={"0.1": 0.9, "7": 0.3},
        ceilings={"everything": 0.95},
    )  # fmt: skip
    ours, printed, ceiling = ax.get_lines()[0], ax.get_lines()[-2], ax.get_lines()[-1]
    assert ours.get_ydata().tolist() == [0.2, 0.5]
    assert printed.get_xydata().tolist() == [[1, 0.9]]  # a setting that we lack is not drawn
    assert printed.get_markerfacecolor() == "white" and set(ceiling.get_ydata()) == {0.95}
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.1, 0.4))


def test_the_surface_prints_its_values():
    ax = taskplots.surface(pd.DataFrame([[0.1234, 0.2]], index=["a"], columns=["x", "y"]))
    assert [t.get_text() for t in ax.texts] == ["0.123", "0.200"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a"]


def test_words_and_characters_lie_where_they_were_said():
    axes = taskplots.alignment(WAVE, {"aligned": WORDS}, ["A", "", "B"], 0.1)
    bars = axes[2].patches
    assert [(b.get_x(), round(b.get_width(), 6)) for b in bars] == [(0.0, 0.1), (0.2, 0.2)]
    said = {t.get_text().strip(): t.get_position()[0] for t in axes[2].texts}
    assert said["BE"] == 0.2 and said["B"] == pytest.approx(0.25)
    assert [t.get_text() for t in axes[2].get_yticklabels()] == ["aligned", "per frame"]
    assert axes[2].get_xlim() == (0, 0.5)


def test_groups_lie_side_by_side_and_differ_in_mark():
    ax = FIGURES["groups"]()
    first, second = (c.lines[0] for c in ax.containers)
    assert first.get_ydata() == [0.5] and second.get_ydata() == [0.2]
    assert first.get_xdata() < second.get_xdata()
    assert first.get_marker() != second.get_marker()


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
    assert accepted[at] == pytest.approx(measures.eer(SCORES, SAME), abs=0.02)


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


def test_odd_trials_and_attention_make_a_figure():
    for ax in (
        taskplots.det({"none of one kind": (SCORES, np.zeros(400, bool))}),
        taskplots.trials(SCORES, ~np.zeros(400, bool)),
        taskplots.attention(np.zeros(800, np.float32), np.ones(1), 0.04, []),
        taskplots.shares(np.ones((1, 1)), ["p"], ["x"], ["x"]),
    ):
        ax.figure.canvas.draw()
