"""Prove that an archive is clean and whole, and that what it says follows from what it holds.

The file is read in memory and never unpacked. Faults are listed, up to `MOST` of each look; what
was found broken is not looked into further.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from serbook.archive import forms, sums
from serbook.archive.forms import shown
from serbook.archive.kept import LIST, NO_DATE, Archived, Kept, dump, listing, verdict
from serbook.claims import ledger

NAME = re.compile(r"archive\.json|claims\.json|SHA256SUMS|runs/[a-z][a-z-]*-[0-9a-f]{12}\.json")
NEEDED = ("archive.json", "claims.json", LIST)
FILES, ONE, ALL = 5000, 64 * 2**20, 2**30  # entries, bytes of one and of all, unpacked
MOST = 20
CLOSE = 1e-9  # two sums in another order
LOCAL, CENTRAL, END = 30, 46, 22  # bytes of a zip's headers without names, and of its end


def faults(path: str | Path) -> list[str]:
    """What is wrong with an archive, none if nothing."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if found := list(islice(_wrapping(archive, path.stat().st_size), MOST)):
                return found
            files = dict(_unpack(archive))
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        return [f"{path.name} is no whole zip file: {error}"]
    listed, wanted = files.pop(LIST), listing(files)
    if listed != wanted:
        changed = {*wanted.splitlines()} - {*listed.splitlines()}
        names = sorted(line.decode().split("  ")[-1] for line in changed)[:5]
        return [f"{LIST} does not agree: {', '.join(names) or 'of a file that is not there'}"]
    found = [fault for name, data in files.items() for fault in islice(_form(name, data), MOST)]
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
        more = entry.comment or entry.extra or entry.flag_bits & ~0x800 or entry.create_system > 3
        for wrong, what in (
            (names.count(entry.filename) > 1, "is there twice"),
            (not NAME.fullmatch(entry.filename), "does not belong there"),
            ((entry.external_attr >> 16) & 0o170000 not in (0, 0o100000), "is no plain file"),
            (more, "carries more than its content"),
            (entry.date_time != NO_DATE, "has a date"),
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


def _unpack(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """All files; an entry that says a smaller size than it has is cut and fails its checksum."""
    for entry in archive.infolist():
        with archive.open(entry) as file:
            yield entry.filename, file.read(ONE + 1)


def _form(name: str, data: bytes) -> Iterator[str]:
    """What is not on the list of what is allowed, or written in another way."""
    found = list(forms.faults(name, data))
    yield from found
    if not found and dump(json.loads(data)) != data:
        yield f"{name} is not written as `serlib archive make` writes"


def _content(contents: dict[str, Any]) -> Iterator[str]:
    """Scores that do not follow from the sums, and verdicts that do not follow from both."""
    about, rows = contents.pop("archive.json"), contents.pop("claims.json")
    kept = [Kept(PurePath(name).with_suffix(""), content) for name, content in contents.items()]
    for run in kept:
        if run.record["config"]["recipe"]["profile"] != about["profile"]:
            yield f"{run.path}.json is not of profile {about['profile']}"
        yield from _scores(run)
    named, there = {name for row in rows for name in row["runs"]}, {run.path.name for run in kept}
    yield from (f"claims.json: no run {name}" for name in sorted(named - there))
    yield from (f"runs/{name}.json: no claim rests on it" for name in sorted(there - named))
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
    for role, found in run.record["sums"].items():
        try:
            anew = {m: sums.score(found, m, run.n_classes) for m in sums.metrics(found)}
        except (ValueError, TypeError, OverflowError) as error:
            yield f"{run.path}.json, {role}: {error}"
            continue
        if role in ("dev", "test"):
            anew = {m: value for m, value in anew.items() if not math.isnan(value)}
            yield from _unequal(
                f"{run.path}.json, {role}", run.record["scores"].get(role, {}), anew
            )
    missing = set(run.record["scores"]) - set(run.record["sums"])
    yield from (f"{run.path}.json: no sums of {role}" for role in sorted(missing))


def _unequal(where: str, told: Mapping[str, Any], anew: Mapping[str, Any]) -> Iterator[str]:
    """The parts of something told that are not those of the sums."""
    for part in sorted({*told, *anew}):
        if not _same(told.get(part), anew.get(part)):
            yield f"{where}: {part} is {shown(told.get(part))}, from the sums {anew.get(part)!r}"


def _same(a: Any, b: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return set(a) == set(b) and all(_same(a[k], b[k]) for k in a)
    if {type(a), type(b)} <= {int, float}:
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
    return a == b
