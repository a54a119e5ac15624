"""The finished runs of this machine by what they were asked to do, and which of them a chapter read.

A chapter's slice of the ledger shows runs of other chapters. So that it is never served when such a
run has come or gone, whoever looks for runs says so with `note`, and the runner keeps and compares.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from serlib import records

NOTES = "SERLIB_EVIDENCE"  # names the file that `note` writes to; without it nothing is noted
# What does not tell systems apart: names, seeds, folds (of one system they are pooled), where a
# corpus lies, and what is only watched.
LOOSE = frozenset({"name", "seed", "fold", "diagnose", "data_root"})

Found = dict[str, list[tuple[str, records.Run, dict]]]


def system_key(asked: dict) -> str:
    """What tells one system from another in a recipe, or in the config of a run."""

    def bare(value):
        if isinstance(value, dict):
            kept = {k: bare(v) for k, v in value.items() if k not in LOOSE}
            # A corpus is known by the name of its manifest, wherever that lies.
            return kept | ({"corpus": Path(value["corpus"]).stem} if "corpus" in value else {})
        return [bare(v) for v in value] if isinstance(value, list) else value

    return json.dumps(bare(asked), sort_keys=True)


def look() -> tuple[Found, list[str]]:
    """All finished runs by system: when each ended, the run, its recipe; and why some are left out.

    Left out is what cannot be believed (see `records`) or has no recipe; runs that are at work, or
    failed, are passed over.
    """
    found: Found = {}
    odd = []
    for path in sorted((records.home() / "runs").glob("*")):
        run = records.Run(path)
        try:
            if not path.is_dir():
                raise records.RecordError(f"{path} is no folder: move it away")
            status = run.status
            if status["state"] == "done":
                run.checked()
                asked = run.config["recipe"]
                found.setdefault(system_key(asked), []).append((status["ended"], run, asked))
            elif status["state"] == "unfinished":
                results = (path / "predictions_test.csv").exists()
                if why := status.get("error") or ("its status.json is gone" if results else ""):
                    odd.append(f"{path}: {why}: run its recipe again")
        except (OSError, records.RecordError) as error:
            odd.append(str(error))
        except (KeyError, TypeError, AttributeError):
            odd.append(f"{path}: its config.json is no recipe's: delete the folder")
    return found, odd


def finished() -> Found:
    """What `look` finds."""
    return look()[0]


def _state(entries: Iterable[tuple[str, records.Run, dict]]) -> str:
    """A digest of a system's runs: names, ends, and what they have predictions of."""
    states = (
        [run.path.name, ended, sorted(p.name for p in run.path.glob("predictions_*.csv"))]
        for ended, run, _ in entries
    )
    return records.digest(sorted(states))


def note(system: str, found: Found) -> None:
    """Say that a system's runs were looked for, and which were there."""
    if path := os.environ.get(NOTES):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{records.digest(system)} {_state(found.get(system, ()))}\n")


def noted(path: Path) -> list[str]:
    """What was noted in a file, each system with its state; with several if that changed."""
    return sorted(set(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def unchanged(read: Iterable[str]) -> bool:
    """Whether the runs that were read are those that are there now, and did not change meanwhile."""
    now = {records.digest(s): _state(runs) for s, runs in finished().items()} if read else {}
    return all(now.get(system, _state(())) == state for system, state in map(str.split, read))
