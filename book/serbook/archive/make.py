"""Make an archive of the runs that claims rest on; the room's text says what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import serlib
from serbook.archive import checking, forms, sums
from serbook.archive.checking import Archived, Kept, verdict
from serbook.claims.judge import UNTESTED, judge
from serbook.claims.ledger import digest, read
from serbook.claims.runs import Finished
from serlib import records


class ArchiveError(ValueError):
    """Nothing can be handed back, or what was made has faults; the message lists them."""


@dataclass(frozen=True)
class Made:
    """What `make` put into an archive."""

    runs: int  # how many
    claims: Mapping[str, str]  # the verdicts in it, by id
    # Claims that this machine's ledger decides otherwise: an interval that ends at zero up to
    # rounding may fall on its other side.
    moved: tuple[str, ...]
    single: int  # how many speakers of one test set have one clip; see the room's text


def make(out: str | Path, profile: str = "full", chosen: Iterable[str] = ()) -> Made:
    """Write a zip file `out` of a profile's runs that claims of this machine's ledger rest on.

    `chosen` are chapters ("03"), or how ids of claims begin; none is all.

    Raises:
        ArchiveError: A run is damaged, no claim was decided by runs, or what was made does not pass
            `check`.
    """
    ledger, finished = read(), Finished()
    if finished.left_out:
        raise ArchiveError("some runs cannot be believed:\n" + "\n".join(finished.left_out))
    wanted = {c.id: c for part in (list(chosen) or [""]) for c in ledger.select(part)}
    found = [judge(ledger, claim, profile, finished) for claim in wanted.values()]
    found = [f for f in found if f.runs and f.verdict != UNTESTED]
    if not found:
        raise ArchiveError(
            f"no claim is decided by finished runs at profile {profile}: run a chapter or "
            "serlib claims run ID first; serlib claims says what is missing"
        )
    masks, folder = sums.Masks(), records.home() / "runs"
    names = sorted({name for f in found for name in f.runs})
    kept = [Kept(PurePath("runs", n), _record(records.Run(folder / n), masks)) for n in names]
    verdicts = [verdict(ledger, f.claim.id, profile, Archived(kept)) for f in found]
    about = {
        "format": forms.FORMAT, "serlib": serlib.__version__, "source": records.source_digest(),
        "ledger": digest(), "profile": profile,
        "chapters": sorted({f.claim.chapter for f in found}),
    }  # fmt: skip
    files = {"archive.json": about, "claims.json": verdicts}
    files |= {f"{run.path}.json": run.record for run in kept}
    records.atomic_write(
        out, checking.pack({name: forms.dump(content) for name, content in files.items()})
    )
    if faults := checking.faults(out):
        Path(out).unlink()
        raise ArchiveError("this would not be clean:\n" + "\n".join(faults))
    told = {row["id"]: row["verdict"] for row in verdicts}
    moved = tuple(f.claim.id for f in found if told[f.claim.id] != f.verdict)
    single = max((sums.single(s) for k in kept for s in k.record["sums"].values()), default=0)
    return Made(len(kept), told, moved, single)


def _record(run: records.Run, masks: sums.Masks) -> dict[str, Any]:
    """What an archive keeps of a run."""
    config, summary = run.config, run.summary
    recipe = config["recipe"]
    roles = sorted(p.stem.removeprefix("predictions_") for p in run.path.glob("predictions_*.csv"))
    return {
        "config": {"recipe": forms.bare(recipe), "manifest": config["manifest"]},
        "environment": forms.environment(records.read_json(run.path / "environment.json")),
        "epochs": [
            {k: v for k, v in row.items() if re.fullmatch(forms.CURVE, k)}
            for row in records.plain(run.history().to_dict("records"))
        ],
        "scores": {
            role: {m: v for m, v in told.items() if re.fullmatch(forms.METRIC, m) and v is not None}
            for role, told in summary.items() if role in ("dev", "test")
        },
        "sums": {
            role: sums.add_up(run.predictions(role), len(recipe["classes"]), masks)
            for role in roles if not role.startswith("dev_epoch_")
        },
    }  # fmt: skip
