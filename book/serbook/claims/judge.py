"""Verdicts on the papers' claims, from finished runs.

`book/claims.yaml` holds every claim with its rule, fixed before any run (`ledger`); `runs` finds
the runs and measures; `pages` shows. A verdict is one of `VERDICTS`:

- contradicted by the paper itself: no numbers that round to the printed ones fulfill the statement;
- of a number, from the interval of the measured minus the printed one: "reproduced" if the two are
  at most `TOLERANCE` apart and the interval reaches at most `WIDEST` to either side; else
  "reproduced better" or "not reproduced" if it lies wholly on one side of zero, and "within seed
  noise" if it holds zero;
- of a direction, by `verdicts.verdict`: yes, no and cannot tell are "reproduced", "not reproduced"
  and "within seed noise"; of several, all must hold;
- not testable here, and why: also where an interval "cannot tell", as of two speakers.

An interval of trained systems with one seed says "speakers only: 1 seed": its verdict is about
other speakers, and nobody looked at luck in training.

A number on human speech gets a verdict from the full tier only. The demo tier answers directions,
on synthetic speech, beside the answer that was planted there. What the open tier says, of acted
human speech, stands beside a direction's verdict and is none itself, see `on_acted`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from serbook.claims import proofs, runs, verdicts
from serbook.claims.ledger import UNITS, Claim, Ledger, read
from serbook.claims.rules import Step
from serbook.claims.runs import Evidence, Finished, Measured
from serlib.metrics.intervals import Interval

REPRODUCED, BETTER, NOISE = "reproduced", "reproduced better", "within seed noise"
NOT, CONTRADICTED = "not reproduced", "contradicted by the paper itself"
UNTESTED = "not testable here"
VERDICTS = (REPRODUCED, BETTER, NOISE, NOT, CONTRADICTED, UNTESTED)
OF_ANSWER = {"yes": REPRODUCED, "no": NOT, "cannot tell": NOISE}
TOLERANCE, WIDEST = 0.01, 0.05  # a point of a percentage, and five to either side


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict at one profile, why, and what was measured.

    `corpus` is what the runs are on, if that is neither the paper's corpus nor the demo's; `acted`
    what `on_acted` says.
    """

    claim: Claim
    profile: str
    verdict: str
    why: str = ""
    measured: tuple[Measured, ...] = ()
    corpus: str = ""
    acted: str = ""

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
    def seen(self) -> str:
        """All intervals that were measured, and on how many seeds they rest."""
        found = [m for m in self.measured if m.interval is not None and not m.lacks]
        labeled = len(self.measured) > 1
        return "; ".join(f"{m.label} {m.seen}" if labeled else m.seen for m in found)

    @property
    def planted(self) -> str:
        """What is true on the demo corpus by construction; "" elsewhere."""
        return "" if self.profile == "full" or self.corpus else self.claim.planted


def of_number(found: Interval, printed: float, better: int = 1) -> str:
    """The verdict on a number, `printed` in the unit of `found`; see the module's text.

    `better` is 1 where larger is better, -1 where smaller is.

    Raises:
        ValueError: The interval has no bounds: there is no verdict without.

    >>> of_number(Interval(0.79, 0.77, 0.81, 0.95), 0.7815)
    'reproduced'
    """
    if not found.bounded:
        raise ValueError(f"{found} has no bounds")
    off = 0 - (printed - found)
    reach = max(found.high - found.value, found.value - found.low)
    # The least slack, since 0.7915 - 0.7815 is a little more than 0.01 in binary.
    if abs(off.value) <= TOLERANCE + 1e-9 and 0 < reach <= WIDEST + 1e-9:
        return REPRODUCED
    return {"yes": BETTER, "no": NOT, "cannot tell": NOISE}[verdicts.verdict(off, better)]


def arithmetic(ledger: Ledger, claim: Claim, profile: str = "full") -> Finding | None:
    """The verdict on a claim that needs no run: of its printed numbers, or of a proof."""
    derived = ledger.derived(claim)
    if derived is not None and not derived.possible:
        return Finding(claim, profile, CONTRADICTED, derived.text)
    if claim.kind != "formula":
        return None
    name = claim.steps[0].metric
    holds, text = proofs.PROOFS[name]()
    own = CONTRADICTED if name in proofs.OF_THE_PAPER else NOT
    return Finding(claim, profile, REPRODUCED if holds else own, text)


def judge(
    ledger: Ledger,
    claim: Claim,
    profile: str,
    evidence: Evidence,
    corpus: str = "",
    data_root: str = "",
) -> Finding:
    """The verdict on a claim by the runs of one profile among the `evidence`.

    `corpus` and its `data_root` are as a chapter is given them; "" is the profile's own. On another
    corpus than the claim's, directions are judged all the same, and say so; numbers are not.
    """
    if (sure := arithmetic(ledger, claim, profile)) is not None:
        return sure
    derived, steps, numeric, other = ledger.derived(claim), claim.steps, claim.kind == "number", ""

    def finding(verdict: str, why: str, measured: tuple[Measured, ...] = ()) -> Finding:
        why = "; ".join(filter(None, (why, "" if derived is None else derived.text)))
        return Finding(claim, profile, verdict, why, measured, other)

    if not steps:
        return finding(UNTESTED, claim.why)
    if numeric and profile != "full":
        return finding(UNTESTED, "a number on human speech: needs profile='full'")
    own = {Path(ledger.recipe(name, profile).corpus).stem for name in claim.systems}
    other = Path(corpus).stem if corpus and Path(corpus).stem not in own else ""
    if numeric and other:
        return finding(UNTESTED, f"a number on {claim.corpus}; these runs are on {other}")
    place = {"corpus": corpus, "data_root": data_root}
    systems = {name: ledger.recipe(name, profile, **place) for name in claim.systems}
    found = tuple(runs.measure(step, systems, evidence) for step in steps)
    lacks = "; ".join(dict.fromkeys(m.lacks for m in found if m.lacks))
    answers = [_answer(step, m) for step, m in zip(steps, found, strict=True)]
    whole = verdicts.all_of(a for a in answers if a)
    if not all(answers) and (numeric or whole != "no"):  # one refuted part refutes the whole
        return finding(UNTESTED, lacks or _untold(found), found)
    if not numeric:
        return Finding(claim, profile, OF_ANSWER[whole], claim.why, found, other)
    printed = float(claim.printed) * UNITS[claim.unit]
    return finding(of_number(found[0].interval, printed, steps[0].better), claim.why, found)


def on_acted(ledger: Ledger, claim: Claim, evidence: Evidence) -> str:
    """What the open tier says of a direction, through a frozen encoder, or why it cannot."""
    if claim.kind != "direction":
        return ""
    systems = [ledger.recipe(name, "demo") for name in claim.systems]
    tasks = [set(recipe.model.tasks) for recipe in systems]
    # Where all give speech recognition the same weight, it is not what is tested.
    heard = {r.loss.task_weights(r.model.tasks).get("asr", 0.0) for r in systems}
    why = {
        "all speakers say the same few sentences": len(heard) > 1 or claim.metric in ("wer", "cer"),
        "nothing is rated for valence, arousal or dominance": "attributes" in set.union(*tasks),
        "the words tell no emotion": any(recipe.system == "fusion" for recipe in systems),
        "it is of another test set": any(step.role != "test" for step in claim.steps),
    }
    if told := [reason for reason, holds in why.items() if holds]:
        return f"cannot say: {told[0]}"
    found = judge(ledger, claim, "open", evidence)
    return f"{found.verdict}: {found.seen}" if found.seen else "not run"


def _untold(found: tuple[Measured, ...]) -> str:
    """Why intervals have no bounds, such as "cannot tell: 2 speakers"."""
    return "; ".join(dict.fromkeys(m.interval.note for m in found if not m.interval.bounded))


def _answer(step: Step, measured: Measured) -> str:
    """yes, no or cannot tell; "" where nothing was measured."""
    if measured.lacks or not (measured.answer or measured.interval.bounded):
        return ""
    return measured.answer or verdicts.verdict(measured.interval, step.better)


def findings(
    chosen: str = "",
    profile: str = "demo",
    ledger: Ledger | None = None,
    corpus: str = "",
    data_root: str = "",
) -> list[Finding]:
    """The verdicts on the claims that `Ledger.select` has for `chosen`; see `judge`.

    The profile "" takes full where that gives a verdict, else demo. No `ledger` is the book's.
    """
    ledger, evidence, found = ledger or read(), Finished(), []
    for claim in ledger.select(chosen):
        verdict = judge(ledger, claim, profile or "full", evidence, corpus, data_root)
        if not profile and verdict.verdict == UNTESTED:
            verdict = judge(ledger, claim, "demo", evidence)
        found.append(replace(verdict, acted=on_acted(ledger, claim, evidence)))
    return found


def unsaid(profile: str = "demo", ledger: Ledger | None = None) -> pd.DataFrame:
    """What the papers did not say: every open choice, our default, and what another one does.

    One row per choice: paper, left open, ours, instead, effect, seeds, chapter. The effect is the
    paired difference to our choice in each metric, from finished runs of the profile.
    """
    ledger, evidence, rows = ledger or read(), Finished(), {}
    for choice in ledger.unsaid:
        effect, seeds, instead = choice.note, "", ""
        if choice.base:
            systems = {name: ledger.recipe(name, profile) for name in choice.systems}
            steps = [Step("gain", choice.systems, metric) for metric in choice.metrics]
            found = [runs.measure(step, systems, evidence) for step in steps]
            lacking = [m.lacks for m in found if m.lacks]
            told = "; ".join(f"{s.metric} {m.interval}" for s, m in zip(steps, found, strict=True))
            effect = "; ".join(filter(None, (lacking[0] if lacking else told, choice.note)))
            seeds, instead = max(m.seeds for m in found) or "", choice.alternative
        rows[choice.id] = {
            "paper": choice.paper, "left open": choice.open, "ours": choice.ours,
            "instead": instead, "effect": effect, "seeds": seeds, "chapter": choice.chapter,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("choice")
