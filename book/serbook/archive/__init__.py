"""Hand results back: one file with the run records that claims rest on, and nothing licensed.

    archive.json      what this is: profile, package and its source, the ledger, chapters
    claims.json       verdicts with what was measured, and the runs that they rest on
    runs/<run>.json   config, environment, learning curve, scores, and sums over each talker
    SHA256SUMS        of all of these

**No table of predictions is in it.** It would hold one label per utterance, which IEMOCAP and
MSP-Podcast do not let anybody pass on, and so would a table under other names: who has the corpus
could tell the rows by their order. Instead there are sums over each talker: confusion counts, edits
and words, right answers, sums and squares of ratings (`sums`). They suffice: WA, UA, F1, WER and
CCC are functions of such sums, and the bootstrap draws whole talkers. So scores come out again to
the last digits, and intervals up to the luck of the draw, since the talkers have another order:
their names are hashed with a random key that nobody keeps, the same in all runs of one archive, so
that systems can still be compared in pairs. Of a talker with one clip the sums are that clip's
label, without a name and without a key.

Not in it either are transcripts, keys, names of files and folders, of machines and users. Nothing
is searched for and removed; what is allowed is taken (`forms`), and `check` holds an
archive against the same list. It finds accidents and plain smuggling. It cannot find a message that
somebody hides in the digits of a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import serlib
from serbook import claims
from serbook.archive import checking, forms, sums
from serbook.archive.kept import Archived, Kept, dump, pack, verdict
from serbook.claims.ledger import Ledger
from serbook.claims.runs import Finished
from serlib import records


class ArchiveError(ValueError):
    """Nothing can be handed back, or what was made has faults; the message lists them."""


@dataclass(frozen=True)
class Made:
    """What `make` put into an archive.

    Attributes:
        path: The file.
        runs: How many run records.
        claims: The verdicts in it, by id.
        moved: Claims that this machine's ledger decides otherwise: near a border, an interval of
            other resamples may fall on its other side.
        single: How many talkers of one test set have one clip; see the module's text.
    """

    path: Path
    runs: int
    claims: Mapping[str, str]
    moved: tuple[str, ...]
    single: int


def make(
    out: str | Path, profile: str = "full", chosen: Iterable[str] = (), ledger: Ledger | None = None
) -> Made:
    """Write an archive of the runs that claims of this machine's ledger rest on.

    Args:
        out: The file, a .zip; it is replaced.
        profile: Whose runs: smoke, demo or full.
        chosen: Chapters ("03"), or how ids of claims begin; none is all.
        ledger: None reads the book's.

    Raises:
        ArchiveError: No claim was decided by runs, or what was made does not pass `check`.
    """
    ledger, finished = ledger or claims.read(), Finished()
    wanted = {c.id: c for part in (list(chosen) or [""]) for c in ledger.select(part)}
    found = [claims.judge(ledger, claim, profile, finished) for claim in wanted.values()]
    found = [f for f in found if f.runs and f.verdict != claims.UNTESTED]
    if not found:
        raise ArchiveError(
            f"no claim is decided by finished runs at profile {profile}: run a chapter or "
            "serlib claims run ID first; serlib claims says what is missing"
        )
    masks, folder = sums.Masks(), records.home() / "runs"
    names = sorted({name for f in found for name in f.runs})
    kept = [Kept(name, _record(records.Run(folder / name), masks)) for name in names]
    verdicts = [verdict(ledger, f.claim.id, profile, Archived(kept)) for f in found]
    about = {
        "format": forms.FORMAT, "serlib": serlib.__version__, "source": records.source_digest(),
        "ledger": claims.digest(), "profile": profile,
        "chapters": sorted({f.claim.chapter for f in found}),
    }  # fmt: skip
    files = {"archive.json": about, "claims.json": verdicts}
    files |= {f"runs/{run.name}.json": run.record for run in kept}
    records.atomic_write(out, pack({name: dump(content) for name, content in files.items()}))
    if faults := checking.faults(out, ledger):
        Path(out).unlink()
        raise ArchiveError("this would not be clean:\n" + "\n".join(faults))
    told = {row["id"]: row["verdict"] for row in verdicts}
    moved = tuple(f.claim.id for f in found if told[f.claim.id] != f.verdict)
    single = max((sums.single(s) for k in kept for s in k.record["sums"].values()), default=0)
    return Made(Path(out), len(kept), told, moved, single)


def _record(run: records.Run, masks: sums.Masks) -> dict:
    """What an archive keeps of a run."""
    config, status = run.config, run.status
    roles = [p.stem.removeprefix("predictions_") for p in run.path.glob("predictions_*.csv")]
    tables = {r: run.predictions(r) for r in sorted(roles) if not r.startswith("dev_epoch_")}
    n_classes = len(config["recipe"]["classes"])
    added = {role: sums.add_up(table, n_classes, masks) for role, table in tables.items()}
    scores = {
        role: {m: v for m, v in told.items() if forms.SCORE.fullmatch(m) and v is not None}
        for role, told in status["summary"].items()
        if role in ("dev", "test")
    }
    facts = records.read_json(run.path / "environment.json")
    epochs = [
        {k: v for k, v in row.items() if forms.CURVE.fullmatch(k)}
        for row in records.plain(run.history().to_dict("records"))
    ]
    return {
        "config": {"recipe": forms.bare(config["recipe"]), "manifest": config["manifest"]},
        "environment": forms.environment(facts), "epochs": epochs, "scores": scores, "sums": added,
    }  # fmt: skip
