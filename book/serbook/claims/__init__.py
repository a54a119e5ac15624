"""Verdicts on the papers' claims, from finished runs.

`book/claims.yaml` holds every claim with its rule, fixed before any run (`ledger`); `runs` finds
the runs and measures. `of` gives a chapter its claims, with verdicts, each one of `VERDICTS`:

- contradicted by the paper itself: no numbers that round to the printed ones fulfill the statement;
- of a number, from the interval of the measured minus the printed one: "reproduced" if the two are
  at most `TOLERANCE` apart and the interval reaches at most `WIDEST` to either side; else
  "reproduced better" or "not reproduced" if it lies wholly on one side of zero, and "within seed
  noise" if it holds zero;
- of a direction, by `verdicts.verdict`: yes, no and cannot tell are "reproduced", "not reproduced"
  and "within seed noise"; of several, all must hold;
- not testable here, and why.

A number on human speech gets a verdict from the full tier only. The demo tier answers directions,
on synthetic speech, beside the answer that was planted there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from serbook.claims import proofs, runs, verdicts
from serbook.claims.ledger import LEDGER, UNITS, Claim, ClaimError, Ledger, read
from serbook.claims.runs import Finished, Measured
from serlib.metrics.intervals import Interval

__all__ = ["LEDGER", "Claim", "ClaimError", "Ledger", "read"]

REPRODUCED, BETTER, NOISE = "reproduced", "reproduced better", "within seed noise"
NOT, CONTRADICTED = "not reproduced", "contradicted by the paper itself"
UNTESTED = "not testable here"
VERDICTS = (REPRODUCED, BETTER, NOISE, NOT, CONTRADICTED, UNTESTED)
OF_ANSWER = {"yes": REPRODUCED, "no": NOT, "cannot tell": NOISE}
TOLERANCE, WIDEST = 0.01, 0.05  # a point of a percentage, and five to either side


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict at one profile, why, and what was measured.

    Attributes:
        corpus: What the runs are on, if that is neither the paper's corpus nor the demo's.
    """

    claim: Claim
    profile: str
    verdict: str
    why: str = ""
    measured: tuple[Measured, ...] = ()
    corpus: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the run folders that it rests on, each once."""
        return tuple(dict.fromkeys(name for m in self.measured for name in m.runs))

    @property
    def tier(self) -> str:
        """What the verdict rests on: arithmetic, a profile's runs and where, or nothing."""
        if self.verdict == CONTRADICTED or self.claim.kind == "formula":
            return "arithmetic"
        if self.verdict == UNTESTED:
            return "none"
        return f"{self.profile}, {self.corpus}" if self.corpus else self.profile

    @property
    def planted(self) -> str:
        """What is true on the demo corpus by construction; "" elsewhere."""
        return "" if self.profile == "full" or self.corpus else self.claim.planted


def of_number(found: Interval, printed: float, better: int = 1) -> str:
    """The verdict on a number; see the module's text.

    Args:
        found: What was measured, with bounds.
        printed: In the same unit.
        better: 1 where larger is better, -1 where smaller is.

    Raises:
        ValueError: The interval has no bounds: there is no verdict without.

    >>> of_number(Interval(0.79, 0.77, 0.81, 0.95), 0.7815)
    'reproduced'
    """
    if runs.undefined(found):
        raise ValueError(f"{found} has no bounds")
    off = Interval(*(x - printed for x in (found.value, found.low, found.high)), found.level)
    reach = max(found.high - found.value, found.value - found.low)
    # The least slack, since 0.7915 - 0.7815 is a little more than 0.01 in binary.
    if abs(off.value) <= TOLERANCE + 1e-9 and reach <= WIDEST + 1e-9:
        return REPRODUCED
    return {"yes": BETTER, "no": NOT, "cannot tell": NOISE}[verdicts.verdict(off, better)]


def digest() -> str:
    """A name of today's ledger, for results that were judged by it."""
    return hashlib.sha256(LEDGER.read_bytes()).hexdigest()[:12]


def judge(
    ledger: Ledger,
    claim: Claim,
    profile: str,
    finished: Finished,
    corpus: str = "",
    data_root: str = "",
) -> Finding:
    """The verdict on a claim by the runs of one profile.

    Args:
        ledger: Where it stands.
        claim: The claim.
        profile: smoke, demo or full.
        finished: The runs to look among.
        corpus: Of the runs, as a chapter is given it; "" is the profile's own. On another one than
            the claim's, directions are judged all the same, and say so; numbers are not.
        data_root: Of that corpus.
    """
    derived, steps, other = ledger.derived(claim), claim.steps, ""
    arithmetic = "" if derived is None else derived.text
    if derived is not None and not derived.possible:
        return Finding(claim, profile, CONTRADICTED, arithmetic)

    def untested(why: str, measured: tuple[Measured, ...] = ()) -> Finding:
        why = "; ".join(filter(None, (why, arithmetic)))
        return Finding(claim, profile, UNTESTED, why, measured, other)

    if not steps:
        return untested(claim.why)
    if claim.kind == "formula":
        holds, text = proofs.proved(steps[0].metric)
        own = CONTRADICTED if steps[0].metric in proofs.OF_THE_PAPER else NOT
        return Finding(claim, profile, REPRODUCED if holds else own, text)
    if claim.kind == "number" and profile != "full":
        return untested("a number on human speech: needs profile='full'")
    names = dict.fromkeys(name for step in steps for name in step.systems)
    own = {Path(ledger.recipe(name, profile).corpus).stem for name in names}
    other = Path(corpus).stem if corpus and Path(corpus).stem not in own else ""
    if claim.kind == "number" and other:
        return untested(f"a number on {claim.corpus}; these runs are on {other}")
    place = {"corpus": corpus, "data_root": data_root}
    systems = {name: ledger.recipe(name, profile, **place) for name in names}
    found = tuple(runs.measure(step, systems, finished) for step in steps)
    lacks = "; ".join(dict.fromkeys(m.lacks for m in found if m.lacks))
    if claim.kind == "number":
        (one,) = found
        if lacks or runs.undefined(one.interval):
            return untested(lacks or "fewer than two talkers: no interval", found)
        printed = float(claim.printed) * UNITS[claim.unit]
        verdict = of_number(one.interval, printed, steps[0].better)
        why = "; ".join(filter(None, (claim.why, arithmetic)))
        return Finding(claim, profile, verdict, why, found)
    answers = [_answer(step, m) for step, m in zip(steps, found, strict=True)]
    whole = verdicts.all_of(a for a in answers if a)
    if not all(answers) and whole != "no":  # one refuted part refutes the whole
        return untested(lacks or "fewer than two talkers: no interval", found)
    return Finding(claim, profile, OF_ANSWER[whole], claim.why, found, other)


def _answer(step, measured: Measured) -> str:
    """yes, no or cannot tell; "" where nothing was measured."""
    if measured.lacks:
        return ""
    if measured.answer:
        return measured.answer
    return "" if runs.undefined(measured.interval) else verdicts.verdict(
        measured.interval, step.better
    )  # fmt: skip


def findings(
    chosen: str = "",
    profile: str = "demo",
    ledger: Ledger | None = None,
    corpus: str = "",
    data_root: str = "",
) -> list[Finding]:
    """The verdicts on all claims, on those of a chapter ("04"), or whose id begins so.

    Args:
        chosen: See `Ledger.select`.
        profile: smoke, demo or full; "" takes full where that gives a verdict, else demo.
        ledger: None reads the book's.
        corpus: See `judge`.
        data_root: See `judge`.
    """
    ledger = ledger or read()
    finished = Finished()
    found = []
    for claim in ledger.select(chosen):
        verdict = judge(ledger, claim, profile or "full", finished, corpus, data_root)
        if not profile and verdict.verdict == UNTESTED:
            verdict = judge(ledger, claim, "demo", finished)
        found.append(verdict)
    return found


def of(chosen: str = "", profile: str = "demo") -> pd.DataFrame:
    """Claims with their verdicts as a table; `pages.chapter` shows a chapter its slice.

    Args:
        chosen: A chapter's number, or how the ids begin ("cai2021.alpha"); "" is all.
        profile: As in `findings`.

    Returns:
        One row per claim, index its id: where, claim, printed, measured, verdict, tier, planted
        (what is true on the demo corpus; of directions only), why, runs.
    """
    return table(findings(chosen, profile))


def table(found: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table; see `of`."""
    rows = {
        f.claim.id: {
            "where": f.claim.where,
            "claim": f.claim.says,
            "printed": printed(f.claim),
            "measured": measured(f),
            "verdict": f.verdict,
            "tier": f.tier,
            "planted": f.planted,
            "why": f.why,
            "runs": ", ".join(f.runs),
        }
        for f in found
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id")


def printed(claim: Claim) -> str:
    """What the paper prints, with its unit."""
    sign = {"percent": " %", "points": " points"}.get(claim.unit, "")
    return f"{claim.printed}{sign}" if claim.printed else ""


def measured(finding: Finding) -> str:
    """All intervals of a finding, and on how many seeds they rest."""
    parts = []
    for m in finding.measured:
        if m.interval is not None and not m.lacks:
            label = f"{m.label} " if len(finding.measured) > 1 else ""
            note = f" ({m.note})" if m.note else ""
            parts.append(f"{label}{m.interval}{note}, {m.seeds} seed{'s' * (m.seeds > 1)}")
    return "; ".join(parts)


def counts(found: Iterable[Finding], by: str = "paper") -> pd.DataFrame:
    """How many claims have which verdict, by "paper", "chapter", "kind" or "tier"."""
    pairs = pd.DataFrame(
        [(f.tier if by == "tier" else getattr(f.claim, by), f.verdict) for f in found],
        columns=[by, "verdict"],
    )
    made = pd.crosstab(pairs[by], pairs["verdict"]).reindex(columns=VERDICTS, fill_value=0)
    return made.assign(all=made.sum(axis=1)).rename_axis(columns=None)


def unsaid(profile: str = "demo", ledger: Ledger | None = None) -> pd.DataFrame:
    """What the papers did not say: every open choice, our default, and what another one does.

    Args:
        profile: Of the runs that effects are read from.
        ledger: None reads the book's.

    Returns:
        One row per choice: paper, left open, ours, instead, effect, seeds, chapter. The effect is
        the paired difference to our choice in each metric, from finished runs.
    """
    ledger, finished, rows = ledger or read(), Finished(), {}
    for choice in ledger.unsaid:
        effect, seeds, instead = choice.note, "", ""
        if choice.base:
            systems = {n: ledger.recipe(n, profile) for n in (choice.base, choice.instead)}
            found = runs.differences(choice.base, choice.instead, systems, choice.metrics, finished)
            lacking = [m.lacks for m in found.values() if m.lacks]
            told = "; ".join(f"{name} {m.interval}" for name, m in found.items() if not m.lacks)
            effect = "; ".join(filter(None, (lacking[0] if lacking else told, choice.note)))
            seeds, instead = max(m.seeds for m in found.values()) or "", choice.alternative
        rows[choice.id] = {
            "paper": choice.paper, "left open": choice.open, "ours": choice.ours,
            "instead": instead, "effect": effect, "seeds": seeds, "chapter": choice.chapter,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("choice")


def decide(
    id: str,
    profile: str = "demo",
    *,
    seeds: Iterable[int] = (0, 1),
    roots: Mapping[str, str] | None = None,
    progress: bool = True,
    workers: int | None = None,
    ledger: Ledger | None = None,
) -> Finding:
    """Run the least that decides one claim, and judge it.

    Args:
        id: The claim's.
        profile: smoke, demo or full.
        seeds: Of every system that the rule names; finished runs are only read.
        roots: In full: the folder of each corpus, such as {"iemocap": "/data/IEMOCAP"}.
        progress: Progress bars.
        workers: As in `sweep`.
        ledger: None reads the book's.

    Raises:
        ClaimError: There is no such claim.
        RecipeError: A corpus is not where it must be.
    """
    ledger = ledger or read()
    claim = ledger[id]
    first = judge(ledger, claim, profile, Finished())
    numbers = claim.kind == "number" and profile != "full"
    if first.verdict == CONTRADICTED or claim.kind in ("formula", "statement") or numbers:
        return first
    if claim.steps:
        build = lambda name: ledger.recipe(name, profile, roots)  # noqa: E731
        runs.decide(claim.steps, build, seeds, roots, progress, workers)
    return judge(ledger, claim, profile, Finished())
