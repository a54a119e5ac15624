"""What may stand in an archive: a list of what is allowed, for `make` to take and `check` to hold.

A recipe is allowed if it can be built again: its fields then have the types and the values that
recipes know. The few texts that a recipe takes as they come have patterns here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)  # fmt: skip

from serbook.claims.judge import VERDICTS
from serbook.claims.rules import NAME
from serlib import records
from serlib.data.manifest import ATTRIBUTES
from serlib.data.splits import PROTOCOLS
from serlib.data.tables import EMOTIONS
from serlib.recipes.recipe import PROFILES, Recipe

FORMAT = 1  # of archives; a new number for each change of what is below
LEFT_OUT = ("name", "data_root")  # of a recipe: free text, and a folder
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
TEXTS = {  # of recipes, which do not compare these with a list themselves
    **dict.fromkeys(("encoder", "experts", "tuned"), ENCODER),
    **dict.fromkeys(("classes", "merge"), "|".join(EMOTIONS)),
    "corpus": CORPUS,
    "protocol": "|".join(PROTOCOLS),
    "freeze": "none|cnn|all",
    "select": f"-?(?:{METRIC}|both)|last",
}


def like(pattern: str) -> Any:
    """A text that fits a pattern from end to end."""
    return Annotated[str, Field(pattern=f"^(?:{pattern})$")]


Hash, Count = like("[0-9a-f]{12}"), Annotated[int, Field(ge=0, lt=10**12)]


class Strict(BaseModel):
    """All that is not named is refused, and so is each value of another type, infinities, NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Environment(Strict):
    """Versions, and the kind of machine, never its name."""

    python: like(VERSION)
    packages: dict[Literal[records.PACKAGES], like(VERSION)]
    platform: like(f"other|[A-Z][a-z]{{2,9}}-(?:{MACHINE})")
    cpu_count: Count
    threads: Count
    device: like(DEVICE)


class Sums(Strict):
    """See `sums`."""

    utterances: Hash
    speakers: Annotated[list[Hash], FailFast()]
    confusion: Annotated[list[list[Count]], FailFast()] = []
    ratios: dict[Literal["wer", "cer", "gender", "speaker"], list[list[Count]]] = {}
    moments: Annotated[list[list[list[float]]], FailFast()] = []


class _Built(Strict):
    recipe: Recipe


def built(value: Any) -> Any:
    """The fields of a recipe without name and folder, if they make one; a ValueError if not."""
    for name, text in _texts(value):
        if not re.fullmatch(TEXTS.get(name, "[a-z0-9_-]{1,24}"), text, re.ASCII):
            raise ValueError(f"{name}: {shown(text)}")
    try:
        _Built.model_validate_json(json.dumps({"recipe": _named(value)}))
    except ValidationError as error:
        raise ValueError(next(told(error, "a recipe"))) from None
    return value


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts, each with the name of its field."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, name)
    elif isinstance(value, str):
        yield name, value


def _named(value: Any) -> Any:
    """A recipe's fields with what the archive leaves out; those it builds on, too."""
    if not isinstance(value, dict) or {*LEFT_OUT} & set(value):
        raise ValueError(f"a recipe's fields without {' and '.join(LEFT_OUT)} belong here")
    before = {k: _named(value[k]) for k in ("start", "recognizer") if value.get(k) is not None}
    return value | before | dict.fromkeys(LEFT_OUT, "")


class Config(Strict):
    """What a run was asked to do."""

    recipe: Annotated[dict[str, Any], PlainValidator(built)]
    manifest: Hash


class Record(Strict):
    """What is kept of a run."""

    config: Config
    environment: Environment
    epochs: list[dict[like(CURVE), float | bool | None]]
    scores: dict[Literal["dev", "test"], dict[like(METRIC), float]]
    sums: dict[like(CORPUS), Sums]


class About(Strict):
    """What the archive is."""

    format: Literal[FORMAT]
    serlib: like(VERSION)
    source: Hash
    ledger: Hash
    profile: Literal[PROFILES]
    chapters: list[like("[0-9]{2}")]


class Measured(Strict):
    """One comparison of a claim."""

    value: float | None
    low: float | None
    high: float | None
    seeds: Count
    answer: Literal["", "yes", "no", "cannot tell"]


class Verdict(Strict):
    """A claim's verdict, and what it rests on."""

    id: like(NAME)
    verdict: Literal[VERDICTS]
    runs: list[like("[a-z][a-z-]{0,20}-[0-9a-f]{12}")]
    measured: list[Measured]


FORMS = {"archive.json": TypeAdapter(About), "claims.json": TypeAdapter(list[Verdict])}
RECORD = TypeAdapter(Record)


def faults(name: str, data: bytes) -> Iterator[str]:
    """What in a file of an archive is not allowed, each with its place."""
    try:
        FORMS.get(name, RECORD).validate_json(data)
    except ValidationError as error:
        yield from told(error, name)


def told(error: ValidationError, where: str) -> Iterator[str]:
    """Faults in one line each; values and names are cut, since they may be anything."""
    if error.error_count() > 1000:
        yield f"{where}: {error.error_count():,} faults"
        return
    for fault in error.errors(include_url=False, include_context=False):
        place = shown(".".join(map(str, fault["loc"])))
        yield f"{where}, {place}: {shown(fault['input'])}: {fault['msg']}"


def shown(value: Any) -> str:
    """The beginning of a value, for messages."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------ what `make` takes


def bare(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain fields without names and folders; those it builds on too."""
    kept = {key: value for key, value in recipe.items() if key not in LEFT_OUT}
    kept["corpus"] = PurePath(kept["corpus"]).stem.lower()
    for part in ("start", "recognizer"):
        kept[part] = None if kept.get(part) is None else bare(kept[part])
    model = dict(kept["model"])
    for key in {"encoder", "experts", "tuned"} & set(model):
        value = model[key]
        model[key] = _encoder(value) if isinstance(value, str) else [_encoder(v) for v in value]
    return kept | {"model": model}


def _encoder(name: str) -> str:
    """A hub name as it is; of a folder its last part."""
    return name if re.fullmatch(ENCODER, name) else PurePath(name).name


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
