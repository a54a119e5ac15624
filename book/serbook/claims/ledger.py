"""The file of the claims ledger, `book/claims.yaml`, read strictly.

Every claim has an id that stays, what is said where, what is printed, and the rule of its verdict,
fixed before any run; see `serbook.claims.rules`. `serbook.claims.judge` judges.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serbook.claims import rules
from serbook.claims.proofs import PROOFS
from serbook.claims.rules import Derived, RuleError, Step
from serbook.claims.systems import Strict, System
from serbook.runner.notebooks import BOOK
from serlib.recipes.recipe import Recipe

LEDGER = BOOK / "claims.yaml"
UNITS = {"percent": 0.01, "points": 0.01, "fraction": 1.0}  # of printed numbers
PLANTED = ("yes", "no", "open")


class ClaimError(ValueError):
    """The ledger is not as it must be, or has no such claim; the message names the place."""

    exit_code = 2


class Row(BaseModel):
    """What a claim says itself; `Claim` looks at the keys."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, str]
    id: str


class Group(Row):
    """What its claims share."""

    claims: Annotated[list[Row], Field(min_length=1)]


class Claim(Strict):
    """One claim; see `book/claims.yaml` for what each field means."""

    id: Annotated[str, Field(pattern=f"^{rules.NAME}$")]
    paper: str
    where: str
    says: str
    chapter: Annotated[str, Field(pattern="^0[0-8]$")]
    corpus: str
    protocol: str
    rule: str
    printed: str = ""
    unit: Literal[tuple(UNITS)] = "percent"
    derive: str = ""
    why: str = ""
    planted: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The rule's comparisons."""
        return rules.parse(self.rule)

    @property
    def systems(self) -> tuple[str, ...]:
        """All systems that its rule names, each once."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.systems))

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

    @property
    def as_printed(self) -> str:
        """What the paper prints, with its unit."""
        sign = {"percent": " %", "points": " points"}.get(self.unit, "")
        return f"{self.printed}{sign}" if self.printed else ""


def _words(text: Any) -> Any:
    return tuple(text.split()) if isinstance(text, str) else text


class Open(Strict):
    """A choice that a paper left open: our default, and the systems that show what it is worth."""

    id: str
    paper: str
    open: str
    ours: str
    chapter: str
    base: str = ""
    instead: str = ""
    alternative: str = ""
    metrics: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    note: str = ""

    @property
    def systems(self) -> tuple[str, ...]:
        """The system of our default, and the one of the other choice; neither may be there."""
        return tuple(filter(None, (self.base, self.instead)))


class Ledger(Strict):
    """All claims, the systems that their rules name, and what the papers left open."""

    papers: dict[str, Annotated[dict[Literal["title", "cite", "read"], str], Field(min_length=3)]]
    systems: dict[str, System]
    groups: list[Group]
    unsaid: list[Open]

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """Each claim with what it takes from its group."""
        return tuple(
            _build(Claim, group.model_extra | row.model_extra | {"id": id}, id)
            for group in self.groups
            for row in group.claims
            for id in [f"{group.id}.{row.id}"]
        )

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
        self, name: str, profile: str, roots: Mapping[str, str] | None = None, corpus: str = "",
        data_root: str = "",
    ) -> Recipe:  # fmt: skip
        """The recipe of a system at a profile, on its own corpus or on another one.

        Its folder is `data_root`, or what `roots` has for its corpus.
        """
        try:
            recipe = self.systems[name].build(profile, {"corpus": corpus} if corpus else {})
            root = data_root or (roots or {}).get(recipe.corpus, "")
            return recipe.change(data_root=str(root)) if root else recipe
        except (ValueError, TypeError) as error:
            raise ClaimError(f"system {name} at {profile}: {error}") from error

    def derived(self, claim: Claim) -> Derived | None:
        """What a claim's arithmetic on printed numbers comes to."""
        if not claim.derive:
            return None
        own = {k: v for k, v in self.printed().items() if k.split(".")[0] == claim.paper}
        return rules.derive(claim.derive, claim.printed, own)


def digest() -> str:
    """A name of today's ledger, for results that were judged by it."""
    return hashlib.sha256(LEDGER.read_bytes()).hexdigest()[:12]


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
        ledger = _build(Ledger, _plain(path.read_text(encoding="utf-8")), "the ledger")
        _check(ledger)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ClaimError(f"{path.name} is no plain YAML: {told}") from error
    except ClaimError as error:
        raise ClaimError(f"{path.name}: {error}") from error
    return ledger


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe, and without repeated keys, of which YAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        keys = [key for key, _ in node.value]
        texts = all(key.tag == "tag:yaml.org,2002:str" for key in keys)
        if not texts or len({key.value for key in keys}) < len(keys):
            line = node.start_mark.line + 1
            raise ClaimError(f"line {line}: a key is no text, or there twice")
        return super().construct_mapping(node, deep)


def _plain(text: str) -> Any:
    """YAML without aliases, which could make a small file huge."""
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ClaimError(f"line {line}: used again by an alias; write it out")
    return yaml.load(text, _Loader)  # noqa: S506 (a safe loader)


FIXES = {  # of pydantic's kinds of faults: key, value, type of the value, what is known
    "extra_forbidden": "unknown {0}", "missing": "lacks {0}", "literal_error": "no {0} {1}: {3}",
    "string_pattern_mismatch": "no {0} {1}: write {3}", "list_type": "it is {2}, not a list",
    "string_type": "{1} is not str; put it in quotes", "dict_type": "it is {2}, not keys and values",
    "model_type": "it is {2}, not keys and values",
}  # fmt: skip


def _build(form: type[Strict], data: Any, name: str) -> Any:
    """The data in its form, or one line that says what is wrong where."""
    try:
        return form.model_validate(data)
    except ValidationError as error:  # unknown keys first: a misspelled one is lacking, too
        found = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    kind = "extra_forbidden" if "[key]" in found["loc"] else found["type"]
    place, at = [name], data
    for key in found["loc"]:
        at = at.get(key) if isinstance(at, dict) else at[key] if isinstance(at, list) else None
        own = at.get("id") if isinstance(key, int) and isinstance(at, dict) else None
        place += [str(own or key)] * (key != "[key]")
    value, known = found["input"], str([*found.get("ctx", {}).values(), ""][0]).strip("^$")
    words = place[-1], repr(value)[:60], type(value).__name__, known
    told = FIXES[kind].format(*words) if kind in FIXES else found["msg"]
    inside = kind in ("extra_forbidden", "missing")  # then the place is that of all its keys
    raise ClaimError(f"{', '.join(place[:-1] if inside else place)}: {told}")


def _check(ledger: Ledger) -> None:
    """Refuse what does not go together, and names of what is not there."""
    rows = (*ledger.claims, *ledger.unsaid)
    many = Counter(row.id for row in rows)
    for row in rows:
        try:
            faults = _of_claim(row, ledger) if isinstance(row, Claim) else _of_open(row)
        except RuleError as error:
            raise ClaimError(f"{row.id}: {error}") from error
        for wrong, what in (
            (many[row.id] > 1, "the id is there twice"),
            (row.paper not in ledger.papers, f"no paper {row.paper!r}"),
            (set(row.systems) - set(ledger.systems),
             f"unknown systems, some of {', '.join(sorted(row.systems))}"),
            *faults,
        ):  # fmt: skip
            if wrong:
                raise ClaimError(f"{row.id}: {what}")


Faults = tuple[tuple[Any, str], ...]  # what may be wrong, each with the words


def _of_claim(claim: Claim, ledger: Ledger) -> Faults:
    if claim.printed:
        rules.bounds(claim.printed)
    ledger.derived(claim)
    proofs = {s.metric for s in claim.steps if s.kind == "prove"}
    return (
        (claim.id.split(".")[0] != claim.paper, "an id begins with its paper"),
        (proofs - set(PROOFS), f"no proof {proofs}"),
        (claim.kind == "number" and not claim.printed, "a number needs what is printed"),
        (not claim.steps and not claim.why, "the rule 'none' needs a why"),
        ((claim.kind == "direction") != (claim.planted in PLANTED),
         f"planted is {', '.join(PLANTED)}, of directions only"),
    )  # fmt: skip


def _of_open(choice: Open) -> Faults:
    pair, wanted = set(choice.systems), set(choice.metrics)
    return (
        (wanted - rules.METRICS, f"unknown metrics {wanted}"),
        (len(pair) == 1 or bool(pair) != bool(wanted), "base, instead and metrics go together"),
        (not pair and not choice.note, "say in a note where it is measured, or why not"),
    )
