"""How often intervals are wrong: simulated speakers, seeds and utterances, no run, no corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from serlib.metrics import intervals, measures
from serlib.metrics.intervals import Interval

SHARES = np.array([0.45, 0.25, 0.15, 0.1, 0.05])  # of the classes
METRICS = {"wa": measures.wa, "ua": measures.ua, "macro_f1": measures.macro_f1}


def answers(rng: np.random.Generator, speakers: int, seeds: int, luck: float, systems: int = 2):
    """One test set and what equally good systems answer.

    Speakers say unequally much, have their own shares of the classes, and are hard or easy for
    all; a system likes some speakers and some classes of theirs. A seed prefers some classes
    (`luck`, in logits, common to all speakers) and is better or worse in all, and for each speaker.

    Returns:
        Truth (U,), predictions (K, S, U), speakers (U,), words (U,), edits (K, S, U).
    """
    who = np.repeat(np.arange(speakers), rng.lognormal(np.log(30), 0.6, speakers).astype(int) + 3)
    n, c, number = len(who), len(SHARES), np.arange(len(who))
    shares = rng.dirichlet(8 * SHARES, speakers)
    truth = (rng.random(n)[:, None] > shares.cumsum(1)[who]).sum(1).clip(0, c - 1)
    ease = np.linspace(1.5, 0.6, c)[truth] + rng.normal(0, 0.5, speakers)[who] + rng.normal(0, 1, n)
    words = rng.integers(3, 15, n)
    shape = systems, seeds
    liked = rng.normal(0, 0.2, (systems, 1, speakers, c))[:, :, who, truth]
    better = rng.normal(0, luck / 2, (*shape, 1)) + rng.normal(0, 0.2, (*shape, speakers))[..., who]
    logits = 0.5 * np.log(SHARES) + rng.normal(0, luck, (*shape, 1, c)) + rng.gumbel(
        size=(*shape, n, c)
    )  # fmt: skip
    logits[..., number, truth] += ease + liked + better
    wrong = 1 / (1 + np.exp(ease + liked + better - 0.5))
    return truth, logits.argmax(-1), who, words, rng.binomial(words, wrong)


def found(data: tuple, k: slice, by_speaker: bool = True) -> Iterator[tuple[str, Interval]]:
    """The intervals of one system, or of the difference of two, by the name of the metric."""
    truth, predictions, who, words, edits = data
    groups = who if by_speaker else np.arange(len(who))
    for name, metric in METRICS.items():
        jackknife = (intervals.jackknife, intervals.paired_jackknife)[len(predictions[k]) - 1]
        yield name, jackknife(metric, truth, *predictions[k], groups, n_classes=len(SHARES))
    pairs = [(e, np.broadcast_to(words, e.shape)) for e in edits[k]]
    yield "wer", intervals.jackknife_ratio(pairs, groups)


def missed(
    speakers: int, seeds: int, luck: float, trials: int, *, by_speaker: bool = True, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The share of intervals that miss what is true, of one system and of a pair, by metric.

    With one seed there is no luck to tell from skill, so `luck` should be 0: what is tested are the
    speakers. The expectation of one system is its mean over many test sets of as many speakers.
    """
    rng = np.random.default_rng(seed)
    one, two = [], []
    for _ in range(trials):
        data = answers(rng, speakers, seeds, luck)
        one.append(dict(found(data, slice(1), by_speaker)))
        two.append(dict(found(data, slice(2), by_speaker)))
    rates: dict[str, dict[str, float]] = {"one system": {}, "two systems": {}}
    for metric in one[0]:
        true = np.mean([i[metric].value for i in one])
        rates["one system"][metric] = np.mean(
            [i[metric].bounded and true not in i[metric] for i in one]
        )
        rates["two systems"][metric] = np.mean([i[metric].decides for i in two])
    return rates


def table(trials: int, speakers: Iterable[int], seeds: Iterable[int]) -> pd.DataFrame:
    """The percentages of `missed`, one row per number of speakers, of seeds, and spread of luck."""
    rows = {}
    for g, s, luck in itertools.product(speakers, seeds, (0.0, 0.1, 0.3)):
        if s > 1 or luck == 0:
            rates = missed(g, s, luck, trials)
            rows[g, s, luck] = {
                f"{metric}, {kind}": f"{100 * rate:.1f}"
                for kind, found in rates.items()
                for metric, rate in found.items()
            }
    names = ["speakers", "seeds", "luck"]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(names).reset_index()
