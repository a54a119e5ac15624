"""What an interval says about a claim, in the words of the book's tables."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from pandas.io.formats.style import Styler

from serlib.metrics.intervals import Interval


def verdict(difference: Interval, better: int = 1) -> str:
    """Whether a paired difference lies on the better side of zero: yes, no, or cannot tell.

    The last is said where the difference is not told from zero, see `Interval.decides`. `better` is
    1 where larger is better, -1 where smaller is, such as an error rate.

    Raises:
        ValueError: Another ``better``.

    >>> verdict(Interval(0.02, 0.01, 0.03, 0.95)), verdict(Interval(0.0, -0.1, 0.1, 0.95))
    ('yes', 'cannot tell')
    """
    if better not in (1, -1):
        raise ValueError(f"better={better!r}: 1 if larger is better, -1 if smaller is")
    if not difference.decides:
        return "cannot tell"
    return "yes" if better * difference.value > 0 else "no"


def all_of(verdicts: Iterable[str]) -> str:
    """Of several: "yes" if all are, "no" if one is, else "cannot tell" (none at all included).

    >>> all_of(["yes", "cannot tell"]), all_of(["yes", "no"]), all_of(["yes", "yes"])
    ('cannot tell', 'no', 'yes')
    """
    found = set(verdicts)
    return "no" if "no" in found else "yes" if found == {"yes"} else "cannot tell"


def bold(table: pd.DataFrame, caption: str = "") -> Styler:
    """A table of `Interval` cells, bold where one `decides`; others as they are, the unknown –."""

    def weight(cell: object) -> str:
        return "font-weight: bold" if isinstance(cell, Interval) and cell.decides else ""

    styled = table.style.format(na_rep="–").map(weight)
    return styled.set_caption(caption) if caption else styled
