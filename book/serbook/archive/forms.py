"""What may stand in an archive: a list of what is allowed, for `make` to take and `check` to hold.

A recipe is allowed if it can be built again: its fields then have the types and the words that
recipes know. Its other texts, and all texts beside it, have patterns here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, TypeAdapter

from serbook.archive.sums import PARTS
from serbook.claims.judge import VERDICTS
from serbook.claims.rules import NAME
from serlib.data.manifest import ATTRIBUTES
from serlib.recipes.recipe import PROFILES, Recipe
from serlib.records.digests import PACKAGES

FORMAT = 2  # of archives; a new number for each change of what is below
METRIC = f"wa|ua|macro_f1|wer|cer|gender|speaker|rmse|ccc(?:_(?:{'|'.join(ATTRIBUTES)}))?"
CURVE = (  # names in a learning curve
    "epoch|loss|gradient_norm|steps|clips|audio_seconds|padding|train_seconds|seconds|best|tflops|"
    "audio_seconds_per_second|peak_share|peak_memory_gb|lr_head|lr_encoder|"
    rf"dev_(?:{METRIC}|n|ece|both|layer_[0-9]{{1,2}}|(?:cosine_)?(?:asr|gender|speaker|attributes)|"
    "(?:asr|gender|speaker|attributes)_ratio)"
)
CORPUS = "[a-z][a-z0-9_-]{1,39}"
ENCODER = "(?:[A-Za-z0-9_-]{1,40}/)?[A-Za-z0-9_.-]{1,60}"
VERSION = "[0-9][0-9a-z.+]{0,29}"
MACHINE = "x86_64|amd64|AMD64|aarch64|arm64"
CHIP = "(?:NVIDIA|AMD|Tesla)(?: [A-Z0-9][A-Za-z0-9-]{0,20}){1,6}"
DEVICE = f"CPU|other|{CHIP}(?:, {CHIP}){{0,15}}"
TEXTS = {  # of recipes, where a field does not list its words itself
    **dict.fromkeys(("encoder", "experts", "tuned"), ENCODER),
    "corpus": CORPUS, "layers": "last|weighted|[0-9]{1,2}", "select": "[a-z0-9_-]{1,24}",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bare(Recipe):
    """A recipe without its name and folder; those that it builds on, too."""

    name: str = ""
    data_root: str = ""
    start: Bare | None = None
    recognizer: Bare | None = None


def bare(value: Any, field: str = "") -> Any:
    """A recipe's plain fields without names and folders; those it builds on too.

    A text that is none that this field may have is None, with which no recipe can be built.
    """
    if isinstance(value, dict):
        return {k: bare(v, k) for k, v in value.items() if k not in ("name", "data_root")}
    if isinstance(value, list):
        return [bare(part, field) for part in value]
    if not isinstance(value, str) or field not in TEXTS:
        return value
    if field == "corpus":
        value = PurePath(value).stem.lower()
    elif field in ("encoder", "experts", "tuned") and not re.fullmatch(ENCODER, value):
        value = PurePath(value).name  # of a folder the last part; a hub's name stays
    return value if re.fullmatch(TEXTS[field], value, re.ASCII) else None


def like(pattern: str) -> Any:
    """A text that fits a pattern from end to end."""
    return Annotated[str, Field(pattern=f"^(?:{pattern})$")]


def form(**parts: Any) -> type[pydantic.BaseModel]:
    """What has these parts and no other, each of exactly this type; no NaN, no infinity."""
    config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    fields = {k: part if isinstance(part, tuple) else (part, ...) for k, part in parts.items()}
    return pydantic.create_model("form", __config__=config, **fields)


def rows(item: Any) -> Any:
    """Many of these, and if they are none the first fault is told."""
    return Annotated[list[item], pydantic.FailFast()]


HASH, COUNT = like("[0-9a-f]{12}"), Annotated[int, Field(ge=0, lt=10**12)]
ENVIRONMENT = form(
    python=like(VERSION), packages=dict[Literal[PACKAGES], like(VERSION)],
    platform=like(f"other|[A-Z][a-z]{{2,9}}-(?:{MACHINE})"), cpu_count=COUNT, threads=COUNT,
    device=like(DEVICE),
)  # fmt: skip
SUMS = form(  # see `sums`
    utterances=HASH, speakers=rows(HASH),
    parts=dict[Literal[PARTS], rows(list[float] | list[list[float]])],
)  # fmt: skip
RECORD = form(
    config=form(recipe=Bare, manifest=HASH), environment=ENVIRONMENT,
    epochs=rows(dict[like(CURVE), float | bool | None]),
    scores=dict[Literal["dev", "test"], dict[like(METRIC), float]], sums=dict[like(CORPUS), SUMS],
)  # fmt: skip
ABOUT = form(
    format=Literal[FORMAT], serlib=like(VERSION), source=HASH, ledger=HASH,
    profile=Literal[PROFILES], chapters=rows(like("[0-9]{2}")),
)  # fmt: skip
MEASURED = form(
    value=float | None, low=float | None, high=float | None, seeds=COUNT,
    answer=Literal["", "yes", "no", "cannot tell"],
)  # fmt: skip
VERDICT = form(
    id=like(NAME), verdict=Literal[VERDICTS], measured=rows(MEASURED),
    runs=rows(like("[a-z][a-z-]{0,20}-[0-9a-f]{12}")),
)  # fmt: skip
FILES = {"archive.json": ABOUT, "claims.json": rows(VERDICT)}  # all others are records


def dump(content: Any) -> bytes:
    """The one way in which a value is written, so that nothing hides in blanks or double keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def faults(name: str, data: bytes) -> Iterator[str]:
    """What in a file is not allowed, each with its place and in one line, or written otherwise."""
    try:
        TypeAdapter(FILES.get(name, RECORD)).validate_json(data)
    except pydantic.ValidationError as error:
        if error.error_count() > 1000:
            yield f"{name}: {error.error_count():,} faults"
            return
        for fault in error.errors(include_url=False, include_context=False):
            place = shown(".".join(map(str, fault["loc"])))
            yield f"{name}, {place}: {shown(fault['input'])}: {fault['msg'][:100]}"
    else:
        content = json.loads(data)
        if name not in FILES:
            content["config"]["recipe"] = bare(content["config"]["recipe"])
        if dump(content) != data:
            yield (f"{name} is not written as `serlib archive make` writes, or its recipe has a "
                   "name, a folder, or a text that such a field does not have")  # fmt: skip


def shown(value: Any) -> str:
    """The beginning of a value, which may be anything, for messages."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def environment(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What an archive says of the machine: its kind, never its name."""
    found = re.match(rf"([A-Z][a-z]{{2,9}})-(?:.*-)?({MACHINE})(?:-|$)", facts.get("platform", ""))
    packages, device = facts.get("packages", {}), facts.get("device", "")
    return {
        "python": facts["python"].split("+")[0],
        "packages": {k: v for k, v in packages.items() if re.fullmatch(VERSION, v or "")},
        "platform": "-".join(found.groups()) if found else "other",
        "cpu_count": facts.get("cpu_count") or 0, "threads": facts.get("threads") or 0,
        "device": device if re.fullmatch(DEVICE, device) else "other",
    }  # fmt: skip
