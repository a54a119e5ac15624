"""The commands of results: the claims ledger, and archives without licensed content."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from serlib import PROFILES
from serlib.settings import Seed, argument


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    claims = add("claims", _list, "Show the claims ledger with verdicts, intervals and runs.")
    claims.add_argument("--profile", default="", choices=PROFILES,
                        help="default: full where it has a verdict, else demo")  # fmt: skip
    claims.add_argument("--of", default="", metavar="CHAPTER|ID",
                        help='a chapter ("04"), or how ids begin ("cai2021.alpha")')  # fmt: skip
    claims.add_argument("--json", action="store_true", help="one JSON list for programs")

    actions = claims.add_subparsers(metavar="run")
    run = add("run", _run, "Run the least that decides one claim, and write a page on it.", actions)
    run.add_argument("id", help="see: serlib claims")
    run.add_argument("--profile", dest="tier", default="demo", choices=PROFILES)
    run.add_argument("--seeds", type=argument(Seed), nargs="+", default=[0, 1], metavar="N")
    run.add_argument("--root", action="append", default=[], metavar="CORPUS=DIR",
                     help="where a corpus is; may be repeated")  # fmt: skip
    run.add_argument("--out", type=Path, help="the page; default: claims/ID.md in the cache")

    archive = commands.add_parser("archive", help="Hand results back, without licensed content.")
    actions = archive.add_subparsers(required=True, metavar="WHAT")
    make = add("make", _make, "Put the run records that claims rest on into one file.", actions)
    make.add_argument("--out", type=Path, required=True, metavar="FILE.zip")
    make.add_argument("--profile", default="full", choices=PROFILES)
    make.add_argument("--of", nargs="+", default=[], metavar="CHAPTER|ID",
                      help='chapters ("03"), or how ids of claims begin; default: all')  # fmt: skip
    check = add("check", _check, "Prove that an archive is clean and whole.", actions)
    check.add_argument("file", type=Path, metavar="FILE.zip")


def _list(arguments: argparse.Namespace) -> None:
    from serbook.claims import judge, pages

    found = judge.findings(arguments.of, arguments.profile)
    if arguments.json:
        from serlib import records

        rows = records.plain([pages.plain(f) for f in found])
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print(pages.lines(found))
    _tell_left_out()


def _tell_left_out() -> None:
    from serbook.runner import evidence

    for reason in evidence.look()[1]:
        print(f"serlib: left out: {reason}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    from serbook.claims import pages
    from serbook.claims.decide import decide
    from serbook.claims.ledger import ClaimError, read
    from serlib import records

    roots = {}
    for pair in arguments.root:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise ClaimError(f"--root {pair}: write CORPUS=DIR")
        roots[name] = str(Path(folder).expanduser().resolve())
    ledger = read()
    found = decide(arguments.id, arguments.tier, seeds=arguments.seeds, roots=roots, ledger=ledger)
    page = pages.report(found, ledger)
    out = arguments.out or records.home() / "claims" / f"{arguments.id}.{arguments.tier}.md"
    records.atomic_write(out, page)
    print(page)
    print(f"page: {out}", file=sys.stderr)
    _tell_left_out()
    return 0


def _make(arguments: argparse.Namespace) -> None:
    from serbook.archive.make import make

    made = make(arguments.out, arguments.profile, arguments.of)
    print(f"{arguments.out}: {made.runs} runs, {len(made.claims)} claims, checked")
    if made.single:
        print(f"{made.single} speakers have one clip: their counts are its label, without a name")
    for id in made.moved:
        print(f"{id}: {made.claims[id]} by other resamples; the ledger here says otherwise")


def _check(arguments: argparse.Namespace) -> int:
    from serbook.archive import checking

    found = checking.faults(arguments.file)
    for fault in found:
        print(f"serlib: {fault}", file=sys.stderr)
    if not found:
        print(f"{arguments.file} is clean and whole; its scores and verdicts follow from its sums")
    return 1 if found else 0
