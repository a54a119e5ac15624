"""What may stand in an archive: a list of what is allowed, for `make` to take and `check` to hold.

A form is a test of a value, a dict of fields (a name that ends in "?" may be absent), a `Map` of
names that fit a pattern, or a list with the form of its items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from serbook.claims import VERDICTS
from serlib import records
from serlib.data.manifest import ATTRIBUTES
from serlib.data.splits import PROTOCOLS
from serlib.data.tables import EMOTIONS
from serlib.models.fusion import FusionConfig
from serlib.models.recognizer import ModelConfig
from serlib.recipes.recipe import PROFILES, Recipe
from serlib.tasks.loss import LossConfig
from serlib.training.loop import TrainConfig

LEFT_OUT = ("name", "data_root")  # of a recipe: free text, and a folder
FORMAT = 1  # of archives; a new number for each change of what is below
METRIC = f"wa|ua|macro_f1|wer|cer|gender|speaker|rmse|ccc(?:_(?:{'|'.join(ATTRIBUTES)}))?"
SCORE = re.compile(METRIC)
CURVE = re.compile(  # names in a learning curve
    "epoch|loss|gradient_norm|steps|clips|audio_seconds|padding|train_seconds|seconds|best|tflops|"
    "audio_seconds_per_second|peak_share|peak_memory_gb|lr_head|lr_encoder|"
    rf"dev_(?:{METRIC}|n|ece|both|layer_\d\d?|(?:cosine_)?(?:asr|gender|speaker|attributes)|"
    "(?:asr|gender|speaker|attributes)_ratio)"
)
CORPUS = re.compile(r"[a-z][a-z0-9_-]{1,39}")
ENCODER = re.compile(r"(?:[A-Za-z0-9_-]{1,40}/)?[A-Za-z0-9_.-]{1,60}")
CHIP = r"(?:NVIDIA|AMD|Tesla)(?: [A-Z0-9][A-Za-z0-9-]{0,20}){1,6}"


@dataclass(frozen=True)
class Map:
    """A dict of names that fit a pattern, all with values of one form."""

    names: re.Pattern
    values: Any


def number(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def maybe(value: Any) -> bool:
    """A number, null, or true or false."""
    return value is None or isinstance(value, bool) or number(value)


def count(value: Any) -> bool:
    """A whole number from 0 on."""
    return type(value) is int and 0 <= value < 10**12


def among(*known: Any):
    """One of these."""
    return lambda value: isinstance(value, str | int) and value in known


def like(pattern: str):
    """A text that fits a pattern from end to end."""
    known = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and known.fullmatch(value) is not None


HASH = like("[0-9a-f]{12}")
RUN = like(r"[a-z][a-z-]{0,20}-[0-9a-f]{12}")
VERSION = like(r"[0-9][0-9a-z.+]{0,29}")
CPU = like("[A-Z][a-z]{2,9}-(?:x86_64|amd64|AMD64|aarch64|arm64)")
DEVICE = like(f"CPU|other|{CHIP}(?:, {CHIP}){{0,15}}")
ENVIRONMENT = {
    "python": VERSION, "packages": Map(re.compile("|".join(records.PACKAGES)), VERSION),
    "platform": lambda v: v == "other" or CPU(v), "cpu_count": count, "threads": count,
    "device": DEVICE,
}  # fmt: skip
SUMS = {
    "utterances": HASH, "speakers": [HASH], "confusion?": [[count]],
    "ratios?": Map(re.compile("wer|cer|gender|speaker"), [[count]]), "moments?": [[[number]]],
}  # fmt: skip
RECORD = {
    "config": {"recipe": lambda value: not [*recipe_faults(value)], "manifest": HASH},
    "environment": ENVIRONMENT, "epochs": [Map(CURVE, maybe)],
    "scores": Map(re.compile("dev|test"), Map(SCORE, number)), "sums": Map(CORPUS, SUMS),
}  # fmt: skip
ABOUT = {
    "format": among(FORMAT), "serlib": VERSION, "source": HASH, "ledger": HASH,
    "profile": among(*PROFILES), "chapters": [like("[0-9]{2}")],
}  # fmt: skip
ANSWER = among("", "yes", "no", "cannot tell")
MEASURED = {"value": maybe, "low": maybe, "high": maybe, "seeds": count, "answer": ANSWER}
CLAIMS = [
    {"id": like(r"[a-z0-9_]+(\.[a-z0-9_]+)*"), "verdict": among(*VERDICTS), "runs": [RUN],
     "measured": [MEASURED]}
]  # fmt: skip


def faults(value: Any, form: Any, where: str) -> Iterator[str]:
    """What in a value does not fit its form, each with its place."""
    if isinstance(form, (dict, Map)) and isinstance(value, dict):
        if isinstance(form, Map):
            known = {key: form.values for key in value if form.names.fullmatch(key)}
        else:
            known = {key.rstrip("?"): part for key, part in form.items()}
            lacking = [key for key in form if not key.endswith("?") and key not in value]
            yield from (f"{where}: {key} is missing" for key in lacking)
        for key, part in value.items():
            if key in known:
                yield from faults(part, known[key], f"{where}, {key}")
            else:
                yield f"{where}: {shown(key)} does not belong there"
    elif isinstance(form, list) and isinstance(value, list):
        for i, part in enumerate(value):
            yield from faults(part, form[0], f"{where}[{i}]")
    elif not callable(form) or not form(value):
        yield f"{where}: {shown(value)} does not belong there"


def shown(value: Any) -> str:
    """The beginning of a value, for messages."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------------------- configurations


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
    return name if ENCODER.fullmatch(name) else PurePath(name).name


def recipe_faults(value: Any) -> Iterator[str]:
    """Why a config is not that of a recipe without its name and folder."""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(k), dict) for k in ("model", "loss", "train")
    ):
        yield "it has no model, loss and train"
        return
    model = FusionConfig if value.get("system") == "fusion" else ModelConfig
    parts = {"model": model, "loss": LossConfig, "train": TrainConfig}
    for name, kind in (*parts.items(), ("", Recipe)):
        yield from _texts(value[name] if name else value, kind)
    for part in ("start", "recognizer"):
        if value.get(part) is not None:
            yield from recipe_faults(value[part])
    try:
        made = {k: v for k, v in value.items() if k not in (*parts, "start", "recognizer")}
        made |= {k: kind(**_tuples(value[k])) for k, kind in parts.items()}
        # Those it builds on are looked at above; that they are there is enough here.
        alone = {"start": None, "recognizer": None, "transcript": "manifest"}
        Recipe(**_tuples(made) | alone, name="", data_root="")
    except (TypeError, ValueError) as error:
        yield str(error)


def _tuples(value: Mapping) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


# Texts of recipes that the recipe itself does not compare with a list.
PLAIN = {
    **dict.fromkeys(("encoder", "experts", "tuned"), ENCODER.fullmatch),
    **dict.fromkeys(("classes", "merge"), among(*EMOTIONS)),
    "corpus": CORPUS.fullmatch,
    "protocol": among(*PROTOCOLS),
    "freeze": among("none", "cnn", "all"),
    "select": like(f"-?(?:{METRIC}|both)|last"),
}


def _texts(value: Mapping, kind: type) -> Iterator[str]:
    """Texts where numbers belong, and texts out of no list that have no plain form."""
    known = {f.name: str(f.type) for f in fields(kind)}
    for name, part in value.items():
        if isinstance(part, dict) or (name in ("start", "recognizer") and part is None):
            continue
        for text in _leaves(part):
            if not isinstance(text, str):
                if not maybe(text):
                    yield f"{name}: {shown(text)}"
            elif "str" not in known.get(name, "") or not PLAIN.get(name, among(text))(text):
                yield f"{name}: {shown(text)}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def environment(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What an archive says of the machine: its kind, never its name."""
    system, machine = facts.get("platform", "").split("-")[0], ""
    for known in ("x86_64", "amd64", "AMD64", "aarch64", "arm64"):
        machine = known if f"-{known}" in facts.get("platform", "") else machine
    device = facts.get("device", "")
    versions = {k: v for k, v in facts.get("packages", {}).items() if v and VERSION(v)}
    return {
        "python": facts["python"].split("+")[0], "packages": versions,
        "platform": f"{system}-{machine}" if CPU(f"{system}-{machine}") else "other",
        "cpu_count": facts.get("cpu_count") or 0, "threads": facts.get("threads") or 0,
        "device": device if DEVICE(device) else "other",
    }  # fmt: skip
