"""Whether a second task slows emotion down at first and pays later: a claim about curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from serbook.claims import verdicts
from serlib.metrics.intervals import Interval


@dataclass(frozen=True)
class Dynamics:
    """What learning curves say about b against a, in yes, no or cannot tell; see `dynamics`."""

    slower: str  # is b below a in the first fifth of the epochs?
    ahead: str  # is it above at the last epoch?
    waits: str  # does it overtake only once its WER has settled?
    gap: Interval  # the difference at the last epoch, from the lowest to the highest seed
    leads: int  # the epoch from which the mean curve stays above; one more than `epochs` if none
    settled: int  # the first epoch from which the WER stays within 0.05 of the last
    epochs: int

    @property
    def answer(self) -> str:
        """The whole claim: all three must hold."""
        return verdicts.all_of((self.slower, self.ahead, self.waits))

    def __str__(self) -> str:
        """In words, for tables."""
        return (
            f"last epoch on dev, lowest to highest seed; slower at first: {self.slower}, "
            f"ahead at last: {self.ahead}, only once the WER has settled: {self.waits}"
        )


def dynamics(a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], metric: str) -> Dynamics:
    """Whether b learns more slowly than a at first, is ahead at last, and only once its WER rests.

    Rule 4 of chapter 03, on the curves `dev_<metric>`: in the first fifth of the epochs (at least
    one) b is below a, and at the last epoch above, for every seed, of which there must be two; and the epoch from which the
    mean curve stays above is not before the first whose WER is within 0.05 of the last. If that is
    the last epoch itself, one cannot tell. Of both systems there is a table per seed, the same
    seeds, with a row per epoch; b is the one that learns to transcribe.
    """
    below, above = (np.stack([table[f"dev_{metric}"] for table in tables]) for tables in (a, b))
    gap = above - below  # (seeds, epochs)
    epochs, last = gap.shape[1], gap[:, -1]
    wer = np.mean([table["dev_wer"] for table in b], axis=0)
    settled = int(np.flatnonzero(np.abs(wer - wer[-1]) > 0.05).max(initial=-1)) + 2  # from 1 on
    leads = int(np.flatnonzero(gap.mean(0) <= 0).max(initial=-1)) + 2

    def signs(x: np.ndarray) -> str:
        if len(x) < 2 or not ((x > 0).all() or (x < 0).all()):
            return "cannot tell"
        return "yes" if x[0] > 0 else "no"

    order = "yes" if settled <= leads <= epochs else "no"
    return Dynamics(
        slower=signs(-gap[:, : max(1, epochs // 5)].mean(1)),
        ahead=signs(last),
        waits="cannot tell" if settled >= epochs or len(last) < 2 else order,
        gap=Interval(float(last.mean()), float(last.min()), float(last.max()), 1.0),
        leads=leads,
        settled=settled,
        epochs=epochs,
    )
