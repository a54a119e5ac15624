"""The file of an archive: packed, and proved clean, whole, and to follow from what it holds.

The file is read in memory and never unpacked; it must be, byte for byte, what packing its files
gives, so that nothing is between them. Faults are listed, up to `MOST` of each look; what was found
broken is not looked into further.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
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

NAME = re.compile(r"archive\.json|claims\.json|runs/[a-z][a-z-]*-[0-9a-f]{12}\.json")
MOST = 20
CLOSE = 1e-9  # two sums in another order


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip file of some files, the same bytes each time and on any machine: not compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # when it was made is nobody's business
            entry.create_system = 3
            archive.writestr(entry, data)
    return out.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of which `pack` gives these bytes.

    Raises:
        ValueError: There are none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if odd := [e.filename for e in entries if not NAME.fullmatch(e.filename)]:
                raise ValueError(f"{shown(odd[0])} does not belong there")
            if any(e.compress_type or e.flag_bits for e in entries):
                raise ValueError("its files are compressed or hidden")
            if sum(e.file_size for e in entries) > len(data):  # so it unpacks to no more than it is
                raise ValueError("its files are larger than itself")
            files = {e.filename: archive.read(e) for e in entries}
    except (EOFError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"is no whole zip file: {error}") from error
    if missing := {"archive.json", "claims.json"} - set(files):
        raise ValueError(f"{min(missing)} is missing")
    if pack(files) != data:
        raise ValueError("is not packed as `serlib archive make` packs: bytes belong to no file")
    return files


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
        self.kept: dict[str, dict[tuple[int, int], Kept]] = {}
        for run in kept:
            asked = run.record["config"]["recipe"]
            self.kept.setdefault(system_key(asked), {})[asked["seed"], asked["fold"]] = run

    def runs(self, recipe: Recipe) -> dict[tuple[int, int], tuple[Recipe, Kept]]:
        """The run of a recipe for each seed and fold."""
        found = self.kept.get(system_key(forms.bare(records.plain(recipe))), {})
        return {(s, k): (recipe.change(seed=s, fold=k), run) for (s, k), run in found.items()}

    def interval(self, systems: Systems, metric: str, role: str) -> intervals.Interval:
        """See `claims.runs.Evidence`."""
        runs = [run for pairs in systems.values() for _, run in pairs]
        if lacking := [run.path.name for run in runs if role not in run.record["sums"]]:
            raise records.RecordError(f"{lacking[0]} has no sums for {role!r}")
        added = [_pooled(pairs, metric, role) for pairs in systems.values()]
        if any(scored != added[0][0][0] for of in added for scored, _ in of):
            raise ValueError(f"runs of {', '.join(systems)} were scored on different utterances")
        tables = [np.stack([table for _, table in of]) for of in added]  # each (S, G, ...)
        seeds = max(map(len, tables))  # a floor has one, for every seed of the other
        tables = [np.broadcast_to(t, (seeds, *t.shape[1:])) for t in tables]
        speakers, within = np.arange(tables[0].shape[1]), sums.within(metric)
        return intervals.jackknife_sums(sums.statistic(metric), tables, speakers, within=within)


def _pooled(pairs: Iterable[tuple[Recipe, Kept]], metric: str, role: str) -> list[tuple]:
    """Per seed the masks of what was scored, fold by fold, and the sums (G, ...) over all folds."""
    seeds: dict[int, list[Kept]] = {}
    for recipe, run in pairs:
        seeds.setdefault(recipe.seed, []).append(run)
    found = []
    for runs in seeds.values():
        parts = [run.record["sums"][role] for run in runs]
        added = [sums.unpack(p, metric, r.n_classes) for p, r in zip(parts, runs, strict=True)]
        names = sorted({name for part in parts for name in part["speakers"]})
        table = np.zeros((len(names), *added[0].shape[1:]))
        for part, of in zip(parts, added, strict=True):
            table[np.searchsorted(names, part["speakers"])] += of
        found.append(([(p["utterances"], p["speakers"]) for p in parts], table))
    return found


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
    try:
        files = unpack(Path(path).read_bytes())
    except ValueError as error:
        return [f"{Path(path).name}: {error}"]
    found = [
        fault for name, data in files.items() for fault in islice(forms.faults(name, data), MOST)
    ]
    return found or list(islice(_content({n: json.loads(d) for n, d in files.items()}), MOST))


def _content(contents: dict[str, Any]) -> Iterator[str]:
    """Scores that do not follow from the sums, and verdicts that do not follow from both."""
    about, rows = contents.pop("archive.json"), contents.pop("claims.json")
    kept = [Kept(PurePath(name).with_suffix(""), content) for name, content in contents.items()]
    for run in kept:
        if run.record["config"]["recipe"]["profile"] != about["profile"]:
            yield f"{run.path}.json is not of profile {about['profile']}"
        for role, found in run.record["sums"].items():
            try:
                anew, told = sums.scores(found, run.n_classes), run.record["scores"].get(role)
            except (ValueError, TypeError, OverflowError) as error:
                yield f"{run.path}.json, {role}: {error}"
            else:
                yield from _unequal(
                    f"{run.path}.json, {role}", anew if told is None else told, anew
                )
        if lacking := set(run.record["scores"]) - set(run.record["sums"]):
            yield f"{run.path}.json: scores without sums: {', '.join(sorted(lacking))}"
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
