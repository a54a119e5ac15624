"""The right answers: what the best possible listener scores on the demo corpus.

The listener knows how the corpus is made and knows each talker's neutral voice, but not what was
intended. No model can do better in expectation, so these scores are ceilings.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
import pandas as pd

from serlib.corpora.demo import plan
from serlib.data.manifest import ATTRIBUTES
from serlib.metrics import measures

HEARD = {
    "prosody": plan.CUES[:4],
    "voice quality": plan.CUES[4:],
    "words": ("words",),
    "prosody and voice quality": plan.CUES,
    "everything": (*plan.CUES, "words"),
}
SLOTS = {"interjection": plan.INTERJECTIONS, "adjective": plan.ADJECTIVES}


def word_likelihood(lists: dict[str, tuple[str, ...]]) -> tuple[list[str], np.ndarray]:
    """The vocabulary of a slot and P(word | class), shape (C, V).

    P(w | c) = OWN / |list_c| if w is in the list of c, plus (1 - OWN) / V.
    """
    words = [w for c in plan.CLASSES for w in lists[c]]
    own = np.array([[w in lists[c] for w in words] for c in plan.CLASSES], float)
    return words, plan.OWN * own / own.sum(1, keepdims=True) + (1 - plan.OWN) / len(words)


def rater_confusion() -> np.ndarray:
    """P(one rater reports column | row was intended), shape (C, C)."""
    c = len(plan.CLASSES)
    wrong = np.full(c, 0.5 / c)
    wrong[plan.CLASSES.index("neutral")] += 0.5
    return plan.ACCURACY * np.eye(c) + (1 - plan.ACCURACY) * wrong


def consensus_confusion() -> np.ndarray:
    """P(the consensus is column | row was intended), shape (C, C); rows sum to P(agreement).

    Exact: all multisets of five votes, the plurality where it is unique.
    """
    rater = rater_confusion()
    c = len(rater)
    result = np.zeros((c, c))
    for votes in combinations_with_replacement(range(c), plan.RATERS):
        counts = np.bincount(votes, minlength=c)
        if (counts == counts.max()).sum() > 1:
            continue
        ways = factorial(plan.RATERS) / np.prod([factorial(k) for k in counts])
        result[:, counts.argmax()] += ways * np.prod(rater**counts, axis=1)
    return result


def log_likelihood(rows: pd.DataFrame, heard: Iterable[str]) -> np.ndarray:
    """Log P(what is heard | intended class), up to a constant per row, shape (U, C).

    Cues are independent given the class: a unit Gaussian around `plan.MEANS` for prosody and
    voice quality (columns ``cue_*``, in standard deviations), and `word_likelihood` for the words.
    """
    heard = set(heard)
    total = np.zeros((len(rows), len(plan.CLASSES)))
    for k, cue in enumerate(plan.CUES):
        if cue in heard:
            total -= 0.5 * (rows[f"cue_{cue}"].to_numpy(float)[:, None] - plan.MEANS[:, k]) ** 2
    if "words" in heard:
        for column, lists in SLOTS.items():
            words, likelihood = word_likelihood(lists)
            position = {w: i for i, w in enumerate(words)}
            total += np.log(likelihood[:, [position[w] for w in rows[column]]]).T
    return total


def posterior(rows: pd.DataFrame, heard: Iterable[str] = HEARD["everything"]) -> np.ndarray:
    """P(consensus label, and that there is one | what is heard), shape (U, C).

    sum_e P(e | heard) P(label | e), with P(e | heard) by Bayes from `plan.PRIOR`.
    """
    return _classes(rows, heard, plan.PRIOR) @ consensus_confusion()


def _classes(rows: pd.DataFrame, heard: Iterable[str], prior: np.ndarray) -> np.ndarray:
    """P(intended class | what is heard) by Bayes, shape (U, C), for weights of the classes (C,)."""
    score = log_likelihood(rows, heard) + np.log(prior)
    score = np.exp(score - score.max(1, keepdims=True))
    return score / score.sum(1, keepdims=True)


def draw(n: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw `n` fresh labeled utterances from the plan, without speaking them.

    Returns:
        Rows with the columns `log_likelihood` reads and ``intended``, the number of the class that
        was meant; and the consensus label of each. Utterances without agreement are left out, so a
        few fewer than `n` come back.
    """
    rng = np.random.default_rng(seed)
    intended = rng.choice(len(plan.CLASSES), n, p=plan.PRIOR)
    cues = plan.MEANS[intended] + rng.standard_normal((n, len(plan.CUES)))
    rows = pd.DataFrame(cues, columns=[f"cue_{c}" for c in plan.CUES])
    rows["intended"] = intended
    for column, lists in SLOTS.items():
        words, likelihood = word_likelihood(lists)
        rows[column] = np.array(words)[_categorical(likelihood[intended], rng)]
    consensus = consensus_confusion()[intended]
    label = _categorical(np.c_[consensus, 1 - consensus.sum(1)], rng)
    agreed = label < len(plan.CLASSES)
    return rows[agreed].reset_index(drop=True), label[agreed]


def _categorical(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((len(p), 1)) > np.cumsum(p, 1)[:, :-1]).sum(1)


def decide(posteriors: np.ndarray, metric: str, truth_share: np.ndarray) -> np.ndarray:
    """The decision that maximizes the expected value of `metric`, shape (U,).

    Accuracy: the largest posterior. UA: the largest posterior over class share. Macro-F1 is a sum
    of ratios 2 M_cc / (row_c + column_c) of the confusion matrix M, so its best decision weighs
    and shifts the posteriors by the derivative of each ratio, found by iteration (Narasimhan et
    al., ICML 2015).
    """
    if metric == "wa":
        return posteriors.argmax(1)
    decision = (posteriors / truth_share).argmax(1)
    if metric == "ua":
        return decision
    p = posteriors / posteriors.sum(1, keepdims=True)
    best, best_value = decision, -1.0
    for _ in range(50):
        chosen = np.eye(p.shape[1])[decision]
        hit, column = (chosen * p).mean(0), chosen.mean(0)
        value = np.mean(2 * hit / (truth_share + column))
        if value <= best_value + 1e-9:
            break
        best, best_value = decision, value
        decision = ((2 * p - 2 * hit / (truth_share + column)) / (truth_share + column)).argmax(1)
    return best


def ceilings(n: int = 200_000, seed: int = 0) -> pd.DataFrame:
    """Best possible WA, UA and macro-F1 by what is heard, against the consensus label.

    Monte Carlo over `n` drawn utterances: the standard error is below 0.001 for WA.
    """
    rows, label = draw(n, seed)
    share = np.bincount(label, minlength=len(plan.CLASSES)) / len(label)
    table = {}
    for name, heard in HEARD.items():
        p, table[name] = posterior(rows, heard), {}
        for metric in ("wa", "ua", "macro_f1"):
            cm = measures.confusion(label, decide(p, metric, share), len(plan.CLASSES))
            table[name][metric] = float(getattr(measures, metric)(cm))
    return pd.DataFrame(table).T


def attribute_ceilings(n: int = 200_000, seed: int = 0) -> pd.DataFrame:
    """Best possible CCC of valence, arousal and dominance by what is heard, and its price.

    Let m = E[y | heard], which no prediction beats in squared error. Of all predictions with a
    standard deviation s, those that rise linearly with m have the largest covariance with y, s σ_m;
    so the CCC is at most 2 s σ_m / (s² + σ_y²), and that is largest at s = σ_y, where it is σ_m /
    σ_y. At s = σ_m, with m itself, it is lower: 2 σ_m² / (σ_m² + σ_y²). A prediction that is as
    wide as the truth wins in CCC and loses in squared error.

    Returns:
        Rows as in `ceilings`; columns: the attributes and ``ccc``, their mean, of the best
        prediction for CCC; ``ccc of the mean`` of m, best in squared error.
    """
    rows, _ = draw(n, seed)
    rng = np.random.default_rng(seed + 1)
    means = np.array([plan.ATTRIBUTES[c] for c in plan.CLASSES])[rows["intended"]]
    means = means + plan.ATTRIBUTE_SCATTER * rng.standard_normal(means.shape)
    ratings = means + plan.RATER_SCATTER * rng.standard_normal((plan.RATERS, *means.shape))
    truth = np.clip(np.round(ratings), 1, 7).mean(0)  # (U, 3), as utterances are rated
    of_class = pd.DataFrame(truth).groupby(rows["intended"].to_numpy()).mean().to_numpy()  # (C, 3)
    agreement, table = consensus_confusion().sum(1), {}
    for name, heard in HEARD.items():
        expected = _classes(rows, heard, plan.PRIOR * agreement) @ of_class  # m
        ratio = expected.std(0) / truth.std(0)
        table[name] = dict(zip(ATTRIBUTES, ratio, strict=True)) | {
            "ccc": ratio.mean(), "ccc of the mean": np.mean(2 * ratio**2 / (1 + ratio**2))
        }  # fmt: skip
    return pd.DataFrame(table).T
