"""Figures about experts together: what is drawn, not how it looks."""

from __future__ import annotations

import numpy as np
import pytest

from serbook.figures import fusionplots
from serlib.metrics.intervals import Interval

pytestmark = pytest.mark.usefixtures("look")
EXPERTS = ("a", "b", "c")


def test_the_architecture_has_a_row_per_expert_in_their_order():
    ax = fusionplots.architecture({"b": ("wave", "(T, D)"), "a": ("text", "(S, D)")}, n_classes=4)
    texts = [t.get_text() for t in ax.texts]
    assert len(ax.patches) == 2 * 5 + 4
    assert "LSTM\nstep 2" in texts and "LSTM\nstep 3" not in texts and "4 emotion\nlogits" in texts
    height = {t.get_text().split("\n")[0]: t.get_position()[1] for t in ax.texts}
    assert height["b"] > height["a"]


def test_companies_stand_above_the_dots_of_their_members():
    scores = {("a",): 0.2, ("c",): 0.3, ("a", "b"): 0.5}
    table = {m: {c: Interval(v, v - 0.1, v + 0.2, 0.95) for c, v in scores.items()} for m in "xy"}
    ceilings = {"x": {"all": 0.9}}
    axes = fusionplots.companies(table, EXPERTS, ceilings=ceilings, labels={"a": "Alpha", "y": "Y"})
    assert len(axes) == 3 and [ax.get_ylabel() for ax in axes[:2]] == ["x", "Y"]
    drawn = axes[0].containers[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), list(scores.values()))
    assert [t.get_text() for t in axes[0].texts] == ["0.20", "0.30", "0.50", "all"]
    assert [t.get_text() for t in axes[2].get_yticklabels()] == ["Alpha", "b", "c"]
    inside = [line.get_xdata().tolist() for line in axes[2].lines[1::2]]
    assert inside == [[0, 2], [2], [1]]


def test_a_cloud_shows_both_spreads():
    truth = np.array([2.0, 4.0, 6.0])
    (ax,) = fusionplots.cloud(truth, {"flat": np.array([3.0, 4.0, 5.0])}, ylabel="said")
    bars = [line for line in ax.lines if line.get_linewidth() == 3]
    assert np.ptp(bars[0].get_ydata()) == pytest.approx(2 * np.std([3, 4, 5]))
    assert np.ptp(bars[1].get_xdata()) == pytest.approx(2 * np.std(truth))
    assert ax.get_title(loc="left") == "flat" and ax.get_ylabel() == "said"
