"""Prove that an archive is clean and whole, and that what it says follows from what it holds.

The file is read in memory and never unpacked. Every fault is listed, up to `MOST` of a kind of
look; what was found broken is not looked into further.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serbook import claims
from serbook.archive import forms, sums
from serbook.archive.kept import LIST, NO_DATE, Archived, Kept, dump, listing, verdict
from serbook.claims.ledger import ClaimError, Ledger
from serlib import records
from serlib.data.manifest import ATTRIBUTES

NAME = re.compile(r"archive\.json|claims\.json|SHA256SUMS|runs/[a-z][a-z-]*-[0-9a-f]{12}\.json")
NEEDED = ("archive.json", "claims.json", LIST)
FILES, ONE, ALL = 5000, 64 * 2**20, 2**30  # entries, bytes of one and of all, unpacked
MOST = 20
CLOSE = 1e-9  # two sums in another order
HEADER, END = 30, 22  # bytes of a local header without its name, and of the end of a zip file


def faults(path: str | Path, ledger: Ledger | None = None) -> list[str]:
    """What is wrong with an archive, none if nothing.

    Args:
        path: The file.
        ledger: None reads the book's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = list(itertools.islice(_wrapping(archive, Path(path).stat().st_size), MOST))
            files = {} if found else _unpack(archive)
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        return [f"{Path(path).name} is no whole zip file: {error}"]
    if found:
        return found
    contents, found = {}, list(_sums(files))
    for name, data in files.items():
        if name != LIST:
            try:
                contents[name] = json.loads(data, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                found.append(f"{name} holds no JSON: {error}")
                continue
            if found_here := list(itertools.islice(_form(name, contents[name], data), MOST)):
                found += found_here
    return found or list(itertools.islice(_content(contents, ledger or claims.read()), MOST))


def _wrapping(archive: zipfile.ZipFile, size: int) -> Iterator[str]:
    """Names, sizes, and bytes that belong to no file."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    yield from (f"{name} is missing" for name in NEEDED if name not in names)
    if len(names) > FILES:
        yield f"{len(names)} files: at most {FILES}"
        return
    yield from (f"{forms.shown(n)} is there twice" for n in set(names) if names.count(n) > 1)
    place = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = forms.shown(entry.filename)
        if not NAME.fullmatch(entry.filename):
            yield f"{name} does not belong there"
        if (entry.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            yield f"{name} is no plain file"
        if entry.comment or entry.extra or entry.flag_bits & ~0x800 or entry.create_system > 3:
            yield f"{name} carries more than its content"
        if entry.date_time != NO_DATE:
            yield f"{name} has a date"
        if entry.file_size > ONE:
            yield f"{name} unpacks to {entry.file_size:,} bytes: at most {ONE:,}"
        if entry.header_offset != place:
            yield f"{forms.shown(entry.filename)}: bytes that belong to no file are before it"
        place = entry.header_offset + HEADER + len(entry.filename.encode()) + entry.compress_size
    if (total := sum(entry.file_size for entry in entries)) > ALL:
        yield f"all files unpack to {total:,} bytes: at most {ALL:,}"
    directory = sum(46 + len(entry.filename.encode()) for entry in entries)
    if archive.comment or archive.start_dir != place or size != place + directory + END:
        yield "bytes that belong to no file are at the end"


def _unpack(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """All files; an entry that says a smaller size than it has is cut and fails its checksum."""
    files = {}
    for entry in archive.infolist():
        with archive.open(entry) as file:
            files[entry.filename] = file.read(ONE + 1)
    return files


def _sums(files: Mapping[str, bytes]) -> Iterator[str]:
    """Files that are not those that the list of sums is of."""
    wanted, there = listing({n: d for n, d in files.items() if n != LIST}), files[LIST]
    if there != wanted:
        listed = there.decode("ascii", "replace").splitlines()
        lines = wanted.decode().splitlines()
        changed = [line.split("  ")[-1] for line in lines if line not in listed]
        names = ", ".join(changed[:5]) or "of a file that is not there"
        yield f"{LIST} does not agree: {names}"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _form(name: str, content: Any, data: bytes) -> Iterator[str]:
    """What is not on the list of what is allowed."""
    form = {"archive.json": forms.ABOUT, "claims.json": forms.CLAIMS}.get(name, forms.RECORD)
    found = list(itertools.islice(forms.faults(content, form, name), MOST))
    yield from found
    if isinstance(content, dict) and "config" in content:
        asked = content["config"].get("recipe") if isinstance(content["config"], dict) else None
        yield from (f"{name}, config: {fault}" for fault in forms.recipe_faults(asked))
    if not found and dump(content) != data:
        yield f"{name} is not written as `serlib archive make` writes"


def _content(contents: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
    """Scores that do not follow from the sums, and verdicts that do not follow from both."""
    about, rows = contents["archive.json"], contents["claims.json"]
    kept = [
        Kept(name[5:-5], content) for name, content in contents.items() if name.startswith("runs/")
    ]
    for run in kept:
        if run.record["config"]["recipe"]["profile"] != about["profile"]:
            yield f"runs/{run.name} is not of profile {about['profile']}"
        yield from _scores(run)
    named = {name for row in rows for name in row["runs"]}
    there = {run.name for run in kept}
    yield from (f"claims.json: no run {name}" for name in sorted(named - there))
    yield from (f"runs/{name}.json: no claim rests on it" for name in sorted(there - named))
    if about["ledger"] != claims.digest():
        yield (f"archive.json: the ledger was {about['ledger']}, this one is {claims.digest()}: "
               "check with the book that made the archive")  # fmt: skip
        return
    archived = Archived(kept)
    for row in rows:
        try:
            anew = verdict(ledger, row["id"], about["profile"], archived)
        except (ClaimError, ValueError, KeyError, TypeError) as error:
            yield f"claims.json, {row['id']}: {error}"
            continue
        yield from (
            f"claims.json, {row['id']}: {part} is {forms.shown(row[part])}, "
            f"from the sums {forms.shown(anew[part])}"
            for part in anew if not _same(row[part], anew[part])
        )  # fmt: skip


def _scores(run: Kept) -> Iterator[str]:
    """Each score must be that of the sums, and each sum such a thing as it says."""
    for role, found in run.record["sums"].items():
        told = run.record["scores"].get(role, {})
        has = {"confusion": ("wa", "ua", "macro_f1"),
               "moments": ("rmse", "ccc", *(f"ccc_{a}" for a in ATTRIBUTES))}  # fmt: skip
        wanted = [m for part, names in has.items() if part in found for m in names]
        for metric in [*wanted, *found.get("ratios", {})]:
            try:
                value = sums.score(found, metric, run.n_classes)
            except (ValueError, TypeError, OverflowError) as error:
                yield f"runs/{run.name}.json, {role}: {error}"
                continue
            if role in ("dev", "test") and not _same(told.get(metric), records.plain(value)):
                yield (f"runs/{run.name}.json, {role}: {metric} is {told.get(metric)}, "
                       f"from the sums {value}")  # fmt: skip
        yield from (
            f"runs/{run.name}.json, {role}: {metric} without sums"
            for metric in set(told) - {*wanted, *found.get("ratios", {})}
        )
    missing = set(run.record["scores"]) - set(run.record["sums"])
    yield from (f"runs/{run.name}.json: no sums of {role}" for role in sorted(missing))


def _same(a: Any, b: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return set(a) == set(b) and all(_same(a[k], b[k]) for k in a)
    if forms.number(a) and forms.number(b):
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
    return a == b
