"""Words for intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serbook.claims.verdicts import all_of, bold, verdict
from serlib.metrics.intervals import Interval


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95)


@pytest.mark.parametrize(
    ("low", "high", "larger", "smaller"),
    [
        (0.01, 0.03, "yes", "no"),
        (-0.03, -0.01, "no", "yes"),
        (-0.01, 0.03, "cannot tell", "cannot tell"),
        (0.0, 0.03, "cannot tell", "cannot tell"),  # zero itself is inside
        (np.nan, np.nan, "cannot tell", "cannot tell"),
    ],
)
def test_verdicts(low, high, larger, smaller):
    assert verdict(interval(low, high)) == larger
    assert verdict(interval(low, high), -1) == smaller


def test_a_direction_is_one_of_two():
    with pytest.raises(ValueError, match="better=0"):
        verdict(interval(0, 1), 0)


def test_several_verdicts():
    assert all_of([]) == "cannot tell" and all_of(iter(["yes", "yes"])) == "yes"
    assert all_of(["cannot tell", "no"]) == "no"


def test_bold_marks_intervals_without_zero_and_leaves_the_rest():
    table = pd.DataFrame(
        {
            "a": [interval(0.1, 0.2), interval(-0.1, 0.2)],
            "b": [interval(np.nan, np.nan), None],
            "c": [0.5, "x"],
        }
    )
    html = bold(table, "a caption").to_html()
    assert html.count("font-weight: bold") == 1 and "a caption" in html
    assert "0.150 [0.100, 0.200]" in html and "–" in html
