"""The commands `serlib archive make` and `serlib archive check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    archive = commands.add_parser("archive", help="Hand results back, without licensed content.")
    actions = archive.add_subparsers(required=True, metavar="WHAT")
    make = add("make", _make, "Put the run records that claims rest on into one file.", actions)
    make.add_argument("--out", type=Path, required=True, metavar="FILE.zip")
    make.add_argument("--profile", default="full", choices=("smoke", "demo", "full"))
    make.add_argument("--of", nargs="+", default=[], metavar="CHAPTER|ID",
                      help='chapters ("03"), or how ids of claims begin; default: all')  # fmt: skip
    check = add("check", _check, "Prove that an archive is clean and whole.", actions)
    check.add_argument("file", type=Path, metavar="FILE.zip")


def _make(arguments: argparse.Namespace) -> None:
    from serlib import archive

    made = archive.make(arguments.out, arguments.profile, arguments.of)
    print(f"{made.path}: {made.runs} runs, {len(made.claims)} claims, checked")
    if made.single:
        print(f"{made.single} talkers have one clip: their counts are its label, without a name")
    for id in made.moved:
        print(f"{id}: {made.claims[id]} by other resamples; the ledger here says otherwise")


def _check(arguments: argparse.Namespace) -> int:
    from serlib.archive import checking

    found = checking.faults(arguments.file)
    for fault in found:
        print(f"serlib: {fault}", file=sys.stderr)
    if not found:
        print(f"{arguments.file} is clean and whole; its scores and verdicts follow from its sums")
    return 1 if found else 0
