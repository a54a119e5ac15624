"""The file of an archive: packed, and proved clean, whole, and to follow from what it holds.

The file is read in memory and never unpacked. Faults are listed, up to `MOST` of each look; what
was found broken is not looked into further.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from serbook.archive import forms, sums
from serbook.archive.forms import shown
from serbook.claims import ledger
from serbook.claims.judge import judge
from serbook.claims.ledger import Ledger
from serbook.claims.runs import Systems
from serbook.runner.evidence import system_key
from serlib import records
from serlib.metrics import intervals
from serlib.recipes.recipe import Recipe

LIST = "SHA256SUMS"  # the file that all others are listed in
NAME = re.compile(r"archive\.json|claims\.json|SHA256SUMS|runs/[a-z][a-z-]*-[0-9a-f]{12}\.json")
NEEDED = ("archive.json", "claims.json", LIST)
PLAIN = {  # what every file inside says beside name and sizes; when it was made is nobody's business
    "date_time": (1980, 1, 1, 0, 0, 0), "compress_type": zipfile.ZIP_DEFLATED, "comment": b"",
    "extra": b"", "flag_bits": 0, "create_system": 3, "create_version": 20, "extract_version": 20,
    "reserved": 0, "volume": 0, "internal_attr": 0, "external_attr": 0o600 << 16,
}  # fmt: skip
FILES, ONE, ALL = 5000, 64 * 2**20, 2**30  # entries, bytes of one and of all, unpacked
MOST = 20
CLOSE = 1e-9  # two sums in another order
LOCAL, CENTRAL, END = 30, 46, 22  # bytes of a zip's headers without names, and of its end


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip file of some files and their sums; the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {**files, LIST: _listing(files)}.items():
            entry = zipfile.ZipInfo(name)
            for field, value in PLAIN.items():
                setattr(entry, field, value)
            archive.writestr(entry, data)
    return out.getvalue()


def _listing(files: Mapping[str, bytes]) -> bytes:
    """The content of `LIST`: a line for each file, as the command sha256sum writes it, sorted."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return "".join(sorted(lines)).encode()


@dataclass(frozen=True)
class Kept:
    """A run as an archive keeps it; `path` is that of its file inside, less .json."""

    path: PurePath
    record: Mapping[str, Any]

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.record["config"]["recipe"]["classes"])

    def history(self) -> pd.DataFrame:
        """The learning curve, as `records.Run.history`."""
        return pd.DataFrame(self.record["epochs"]).replace({None: np.nan})


class Archived:
    """The runs of an archive: the `claims.runs.Evidence` that they are."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        """Sort them by what they were asked to do."""
        self.kept: dict[str, dict[int, Kept]] = {}
        for run in kept:
            asked = run.record["config"]["recipe"]
            self.kept.setdefault(system_key(asked), {})[asked["seed"]] = run

    def seeds(self, recipe: Recipe) -> dict[int, tuple[Recipe, Kept]]:
        """The run of a recipe for each seed."""
        found = self.kept.get(system_key(forms.bare(records.plain(recipe))), {})
        return {seed: (recipe, run) for seed, run in found.items()}

    def interval(self, systems: Systems, metric: str, role: str) -> intervals.Interval:
        """See `claims.runs.Evidence`."""
        runs = [run for pairs in systems.values() for _, run in pairs]
        if lacking := [run.path.name for run in runs if role not in run.record["sums"]]:
            raise records.RecordError(f"{lacking[0]} has no sums for {role!r}")
        parts = [run.record["sums"][role] for run in runs]
        if any(part[k] != parts[0][k] for part in parts for k in ("utterances", "speakers")):
            raise ValueError(f"runs of {', '.join(systems)} were scored on different utterances")
        added = [sums.unpack(p, metric, r.n_classes) for p, r in zip(parts, runs, strict=True)]
        added = np.stack(added).reshape(len(systems), -1, *added[0].shape)  # (systems, S, G, ...)
        speakers = np.arange(added.shape[2])
        return intervals.bootstrap_sums(sums.statistic(metric), list(added), speakers)


def verdict(ledger: Ledger, id: str, profile: str, archived: Archived) -> dict[str, Any]:
    """A claim's verdict by what the archive holds."""
    found = judge(ledger, ledger[id], profile, archived)
    measured = [
        {"value": m.interval.value, "low": m.interval.low, "high": m.interval.high,
         "seeds": m.seeds, "answer": m.answer}
        for m in found.measured if m.interval is not None
    ]  # fmt: skip
    row = {"id": id, "verdict": found.verdict, "measured": measured, "runs": list(found.runs)}
    return records.plain(row)


def faults(path: str | Path) -> list[str]:
    """What is wrong with an archive, none if nothing."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if found := list(islice(_wrapping(archive, path.stat().st_size), MOST)):
                return found
            # One that says a smaller size than it has is cut, and its checksum fails.
            files = {e.filename: archive.open(e).read(ONE + 1) for e in archive.infolist()}
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        return [f"{path.name} is no whole zip file: {error}"]
    listed, wanted = files.pop(LIST), _listing(files)
    if listed != wanted:
        changed = {*wanted.splitlines()} - {*listed.splitlines()}
        names = sorted(line.decode().split("  ")[-1] for line in changed)[:5]
        return [f"{LIST} does not agree: {', '.join(names) or 'of a file that is not there'}"]
    found = [
        fault for name, data in files.items() for fault in islice(forms.faults(name, data), MOST)
    ]
    if found:
        return found
    contents = {name: json.loads(data) for name, data in files.items()}
    return list(islice(_content(contents), MOST))


def _wrapping(archive: zipfile.ZipFile, size: int) -> Iterator[str]:
    """Names, sizes, and bytes that belong to no file."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    names = [entry.filename for entry in entries]
    yield from (f"{name} is missing" for name in NEEDED if name not in names)
    if len(names) > FILES:
        yield f"{len(names)} files: at most {FILES}"
        return
    place = 0
    for entry in entries:
        odd = ", ".join(k for k, v in PLAIN.items() if getattr(entry, k) != v)
        for wrong, what in (
            (names.count(entry.filename) > 1, "is there twice"),
            (not NAME.fullmatch(entry.filename), "does not belong there"),
            (odd, f"is no plain file as `serlib archive make` packs it, see {odd}"),
            (entry.file_size > ONE, f"unpacks to {entry.file_size:,} bytes: at most {ONE:,}"),
            (entry.header_offset != place, "has bytes before it that belong to no file"),
        ):
            if wrong:
                yield f"{shown(entry.filename)} {what}"
        place = entry.header_offset + LOCAL + len(entry.filename.encode()) + entry.compress_size
    if (total := sum(entry.file_size for entry in entries)) > ALL:
        yield f"all files unpack to {total:,} bytes: at most {ALL:,}"
    directory = sum(CENTRAL + len(name.encode()) for name in names)
    if archive.comment or archive.start_dir != place or size != place + directory + END:
        yield "bytes that belong to no file are at the end"


def _content(contents: dict[str, Any]) -> Iterator[str]:
    """Scores that do not follow from the sums, and verdicts that do not follow from both."""
    about, rows = contents.pop("archive.json"), contents.pop("claims.json")
    kept = [Kept(PurePath(name).with_suffix(""), content) for name, content in contents.items()]
    for run in kept:
        if run.record["config"]["recipe"]["profile"] != about["profile"]:
            yield f"{run.path}.json is not of profile {about['profile']}"
        yield from _scores(run)
    named, there = {name for row in rows for name in row["runs"]}, {run.path.name for run in kept}
    yield from (
        f"claims.json: no run {name}, or no claim rests on it" for name in sorted(named ^ there)
    )
    if (known := ledger.digest()) != about["ledger"]:
        yield (f"archive.json: the ledger was {about['ledger']}, this one is {known}: "
               "check with the book that made the archive")  # fmt: skip
        return
    archived, book = Archived(kept), ledger.read()
    for row in rows:
        try:
            anew = verdict(book, row["id"], about["profile"], archived)
        except (ValueError, KeyError, TypeError) as error:
            yield f"claims.json, {row['id']}: {error}"
            continue
        yield from _unequal(f"claims.json, {row['id']}", row, anew)


def _scores(run: Kept) -> Iterator[str]:
    """Each score must be that of the sums, and each sum such a thing as it says."""
    anew = {}
    for role, found in run.record["sums"].items():
        try:
            anew[role] = sums.scores(found, run.n_classes)
        except (ValueError, TypeError, OverflowError) as error:
            yield f"{run.path}.json, {role}: {error}"
    for role in ("dev", "test"):
        told = run.record["scores"].get(role, {})
        yield from _unequal(f"{run.path}.json, {role}", told, anew.get(role, {}))


def _unequal(where: str, told: Any, anew: Any) -> Iterator[str]:
    """The parts of something told that are not those of the sums, numbers up to rounding."""
    if isinstance(told, dict) and isinstance(anew, dict):
        for part in sorted({*told, *anew}):
            yield from _unequal(f"{where}, {part}", told.get(part), anew.get(part))
    elif isinstance(told, list) and isinstance(anew, list) and len(told) == len(anew):
        for i, pair in enumerate(zip(told, anew, strict=True)):
            yield from _unequal(f"{where}, {i}", *pair)
    elif told != anew and not (
        {type(told), type(anew)} <= {int, float}
        and math.isclose(told, anew, rel_tol=CLOSE, abs_tol=CLOSE)
    ):
        yield f"{where} is {shown(told)}, from the sums {anew!r}"
