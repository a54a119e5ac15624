"""The file of the claims ledger, `book/claims.yaml`, read strictly.

Every claim has an id that stays, what is said where, what is printed, and the rule of its verdict,
fixed before any run; see `serbook.claims.rules`. `serbook.claims` judges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from serbook.claims import rules
from serbook.claims.proofs import PROOFS
from serbook.claims.rules import NAME, Derived, RuleError, Step
from serbook.runner.notebooks import BOOK
from serlib.recipes import papers
from serlib.recipes.recipe import PROFILES, Recipe

LEDGER = BOOK / "claims.yaml"
UNITS = {"percent": 0.01, "points": 0.01, "fraction": 1.0}  # of printed numbers
PLANTED = ("yes", "no", "open")


def cai2021_other_rate(profile: str, corpus: str = "", data_root: str = "") -> Recipe:
    """Cai et al. without the second task at another learning rate: full at that of α > 0.

    The demo, which has one for all, takes a fifth. So chapter 03 has it.
    """
    recipe, factor = papers.cai2021(profile, corpus, data_root), 5 if profile == "full" else 1 / 5
    rates = {k: factor * getattr(recipe.train, k) for k in ("lr_encoder", "lr_head")}
    return recipe.change(**rates)


def zgorzynski2025_alone(
    profile: str, corpus: str = "", data_root: str = "", *, phase: str, **changes
) -> Recipe:
    """One phase of Zgórzyński et al. from fresh weights, with as many epochs as both phases have.

    What their ablation compares, at equal budgets, as in chapter 07.
    """
    make = papers.zgorzynski2025
    first, second = make(profile).train, make(profile, phase="emotion").train
    budget = {"epochs": first.epochs + second.epochs, "lr_head": first.lr_head}
    return make(profile, corpus, data_root, phase=phase, **changes).change(start=None, **budget)


RECIPES = {
    f.__name__: f
    for f in (
        papers.cai2021, papers.mtlser2025, papers.wang2025_baseline, papers.wang2025,
        papers.challenge_baseline, papers.zgorzynski2025, papers.floor, zgorzynski2025_alone,
        cai2021_other_rate,
    )
}  # fmt: skip


class ClaimError(ValueError):
    """The ledger is not as it must be, or has no such claim; the message names the place."""

    exit_code = 2


@dataclass(frozen=True)
class Claim:
    """One claim; see `book/claims.yaml` for what each field means."""

    id: str
    paper: str
    where: str
    says: str
    chapter: str
    corpus: str
    protocol: str
    rule: str
    printed: str = ""
    unit: str = "percent"
    derive: str = ""
    why: str = ""
    planted: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The rule's comparisons."""
        return rules.parse(self.rule)

    @property
    def kind(self) -> str:
        """What it is: "number", "direction", "formula" or "statement"."""
        first = self.steps[0].kind if self.steps else ""
        known = {"value": "number", "gain": "number", "prove": "formula", "": ""}.get(first)
        return known or ("direction" if first else "number" if self.printed else "statement")

    @property
    def metric(self) -> str:
        """What is measured."""
        return ", ".join(dict.fromkeys(s.metric for s in self.steps if s.kind != "prove"))


@dataclass(frozen=True)
class Open:
    """A choice that a paper left open: our default, and the systems that show what it is worth."""

    id: str
    paper: str
    open: str
    ours: str
    chapter: str
    base: str = ""
    instead: str = ""
    alternative: str = ""
    metrics: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Ledger:
    """All claims, the systems that their rules name, and what the papers left open."""

    papers: Mapping[str, Mapping[str, str]]
    systems: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]
    unsaid: tuple[Open, ...]

    def __getitem__(self, id: str) -> Claim:
        """The claim of an id."""
        found = [claim for claim in self.claims if claim.id == id]
        if not found:
            near = [c.id for c in self.claims if c.id.startswith(id)][:5] or ["see: serlib claims"]
            raise ClaimError(f"no claim {id!r}; {', '.join(near)}")
        return found[0]

    def select(self, chosen: str = "") -> list[Claim]:
        """Claims of a chapter ("04"), or whose id begins so ("cai2021.alpha"); "" is all."""
        if chosen.isdigit():
            return [claim for claim in self.claims if claim.chapter == chosen]
        parts = chosen.split(".") if chosen else []
        found = [c for c in self.claims if c.id.split(".")[: len(parts)] == parts]
        if not found:
            raise ClaimError(f"no claim's id begins with {chosen!r}")
        return found

    def printed(self) -> dict[str, str]:
        """The printed number of every claim that has one."""
        return {claim.id: claim.printed for claim in self.claims if claim.printed}

    def recipe(
        self,
        name: str,
        profile: str,
        roots: Mapping[str, str] | None = None,
        corpus: str = "",
        data_root: str = "",
    ) -> Recipe:
        """The recipe of a system at a profile, on its own corpus or on another one.

        Its folder is `data_root`, or what `roots` has for its corpus.
        """
        made = self.systems[name]
        given = dict(made.get("with", {})) | dict(made.get("at", {}).get(profile, {}))
        given = {k: _tuples(v) for k, v in given.items()} | ({"corpus": corpus} if corpus else {})
        make, first = RECIPES[made["recipe"]], [given.pop("system")] if "system" in given else []
        try:
            recipe = make(*first, profile, **given)
            root = data_root or (roots or {}).get(recipe.corpus, "")
            # Made anew: which classes a corpus can teach is known with its folder only.
            return make(*first, profile, **given, data_root=str(root)) if root else recipe
        except (ValueError, TypeError) as error:
            raise ClaimError(f"system {name} at {profile}: {error}") from error

    def derived(self, claim: Claim) -> Derived | None:
        """What a claim's arithmetic on printed numbers comes to."""
        if not claim.derive:
            return None
        own = {k: v for k, v in self.printed().items() if k.split(".")[0] == claim.paper}
        return rules.derive(claim.derive, claim.printed, own)


def read(path: str | Path = LEDGER) -> Ledger:
    """Read and check a ledger.

    Raises:
        ClaimError: It is no plain YAML of the known form; an id repeats; a rule, a proof, a system
            or an expression does not exist; or a claim lacks what its rule needs.
    """
    path = Path(path)
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, stamp: int) -> Ledger:
    try:
        return _ledger(_plain(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ClaimError(f"{path.name} is no plain YAML: {error}") from error
    except ClaimError as error:
        raise ClaimError(f"{path.name}: {error}") from error


def _plain(text: str) -> Any:
    """YAML without aliases and repeated keys, which it would take in silence."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    node = yaml.compose(text, loader)
    waiting, known = [node] if node else [], set()
    while waiting:
        node = waiting.pop()
        line = node.start_mark.line + 1
        if id(node) in known:
            raise ClaimError(f"line {line}: used again by an alias; write it out")
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:str" or keys.count(key.value) > 1:
                    raise ClaimError(
                        f"line {line}: the key {key.value!r} is no text, or there twice"
                    )
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return yaml.load(text, loader)  # noqa: S506 (safe loaders both)


def _keys(
    data: Any, where: str, needed: set[str], allowed: set[str] | None = None, kind: Any = str
) -> dict:
    """A mapping with the right keys (None: any), whose values are texts unless `kind` says else."""
    if not isinstance(data, dict):
        raise ClaimError(f"{where} is {type(data).__name__}, not keys and values")
    if odd := set() if allowed is None else set(data) - needed - allowed:
        raise ClaimError(f"{where}: unknown {', '.join(sorted(odd))}")
    if lacking := needed - set(data):
        raise ClaimError(f"{where}: lacks {', '.join(sorted(lacking))}")
    for key, value in data.items():
        if not isinstance(value, kind):
            hint = "; put it in quotes" if kind is str else ""
            raise ClaimError(f"{where}, {key}: {value!r} is not {kind.__name__}{hint}")
    return data


def _ledger(data: Any) -> Ledger:
    top = _keys(data, "the ledger", {"papers", "systems", "groups", "unsaid"}, set(), object)
    papers = _keys(top["papers"], "papers", set(), kind=dict)
    for name, about in papers.items():
        _keys(about, f"paper {name}", {"title", "cite", "read"}, set())
    systems = _keys(top["systems"], "systems", set(), kind=dict)
    for name, made in systems.items():
        _keys(made, f"system {name}", {"recipe"}, {"with", "at"}, object)
        if not isinstance(made["recipe"], str) or made["recipe"] not in RECIPES:
            raise ClaimError(f"system {name}: no recipe {made['recipe']!r}")
        _keys(made.get("with", {}), f"system {name}, with", set(), kind=object)
        _keys(made.get("at", {}), f"system {name}, at", set(), set(PROFILES), dict)
    claims = [
        _check(claim, papers, systems) for group in _list(top["groups"]) for claim in _group(group)
    ]
    if repeated := [id for id, n in Counter(c.id for c in claims).items() if n > 1]:
        raise ClaimError(f"the id {repeated[0]} is there twice")
    ledger = Ledger(papers, systems, tuple(claims), _unsaid(top["unsaid"], papers, systems))
    for claim in claims:
        try:
            ledger.derived(claim)
        except RuleError as error:
            raise ClaimError(f"{claim.id}: {error}") from error
    return ledger


def _list(value: Any) -> list:
    """A list, or one that is refused where its entries are looked at."""
    return value if isinstance(value, list) else [value]


def _group(group: Any) -> list[Claim]:
    """The claims of a group, with what they share."""
    names = {f.name for f in fields(Claim)}
    needed = {"id", "paper", "where", "says", "chapter", "corpus", "protocol", "rule"}
    group = dict(_keys(group, "a group", {"id", "claims"}, names, object))
    rows = _list(group.pop("claims"))
    where = f"group {group['id']}"
    _keys(group, where, set(), names)
    found = []
    for row in rows:
        own = _keys(row, f"{where}, a claim", {"id"}, names - {"id", "paper"})
        whole = group | own | {"id": f"{group['id']}.{own['id']}"}
        found.append(Claim(**_keys(whole, whole["id"], needed, names)))
    return found


def _check(claim: Claim, papers: Mapping, systems: Mapping) -> Claim:
    """The claim, if its fields go together."""
    try:
        steps = claim.steps
        if claim.printed:
            rules.bounds(claim.printed)
    except RuleError as error:
        raise ClaimError(f"{claim.id}: {error}") from error
    named = [name for step in steps for name in step.systems]
    proofs = [s.metric for s in steps if s.kind == "prove"]
    for wrong, what in (
        (not re.fullmatch(NAME, claim.id), "an id is of small letters, digits, _ and dots"),
        (claim.paper not in papers, f"no paper {claim.paper!r}"),
        (claim.id.split(".")[0] != claim.paper, "an id begins with its paper"),
        (not re.fullmatch("0[0-8]", claim.chapter), f"no chapter {claim.chapter!r}"),
        (claim.unit not in UNITS, f"unit {claim.unit!r}: {', '.join(UNITS)}"),
        (set(named) - set(systems), f"unknown systems in {claim.rule}"),
        (set(proofs) - set(PROOFS), f"no proof {proofs}"),
        (claim.kind == "number" and not claim.printed, "a number needs what is printed"),
        (not steps and not claim.why, "the rule 'none' needs a why"),
        ((claim.kind == "direction") != (claim.planted in PLANTED),
         f"planted is {', '.join(PLANTED)}, of directions only"),
    ):  # fmt: skip
        if wrong:
            raise ClaimError(f"{claim.id}: {what}")
    return claim


def _unsaid(rows: Any, papers: Mapping, systems: Mapping) -> tuple[Open, ...]:
    """The choices that papers left open."""
    found, names = [], {f.name for f in fields(Open)}
    needed = {"id", "paper", "open", "ours", "chapter"}
    for row in _list(rows):
        given = _keys(row, "a choice left open", needed, names)
        wanted = tuple(given.get("metrics", "").split())
        entry = Open(**given | {"metrics": wanted})
        pair = {entry.base, entry.instead} - {""}
        for wrong, what in (
            (entry.id in {x.id for x in found}, "the id is there twice"),
            (entry.paper not in papers, f"no paper {entry.paper!r}"),
            (pair - set(systems), f"unknown systems {pair}"),
            (set(wanted) - rules.METRICS, f"unknown metrics {wanted}"),
            (len(pair) == 1 or bool(pair) != bool(wanted), "base, instead and metrics go together"),
            (not pair and not entry.note, "say in a note where it is measured, or why not"),
        ):
            if wrong:
                raise ClaimError(f"left open, {entry.id}: {what}")
        found.append(entry)
    return tuple(found)


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down, as recipes have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
