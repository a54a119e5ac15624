"""The commands `serlib claims` and `serlib claims run ID`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    claims = add("claims", _list, "Show the claims ledger with verdicts, intervals and runs.")
    claims.add_argument("--profile", default="", choices=("smoke", "demo", "full"),
                        help="default: full where it has a verdict, else demo")  # fmt: skip
    claims.add_argument("--of", default="", metavar="CHAPTER|ID",
                        help='a chapter ("04"), or how ids begin ("cai2021.alpha")')  # fmt: skip
    claims.add_argument("--json", action="store_true", help="one JSON list for programs")

    actions = claims.add_subparsers(metavar="run")
    run = add("run", _run, "Run the least that decides one claim, and write a page on it.", actions)
    run.add_argument("id", help="see: serlib claims")
    run.add_argument("--profile", dest="tier", default="demo", choices=("smoke", "demo", "full"))
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="N")
    run.add_argument("--root", action="append", default=[], metavar="CORPUS=DIR",
                     help="where a corpus is; may be repeated")  # fmt: skip
    run.add_argument("--out", type=Path, help="the page; default: claims/ID.md in the cache")


def _list(arguments: argparse.Namespace) -> None:
    from serlib import claims
    from serlib.claims import pages

    found = claims.findings(arguments.of, arguments.profile)
    if arguments.json:
        from serlib import records

        rows = records.plain([pages.plain(f) for f in found])
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print(pages.lines(found))


def _run(arguments: argparse.Namespace) -> int:
    from serlib import claims, records
    from serlib.claims import pages

    roots = {}
    for pair in arguments.root:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise claims.ClaimError(f"--root {pair}: write CORPUS=DIR")
        roots[name] = str(Path(folder).expanduser().resolve())
    ledger = claims.read()
    found = claims.decide(
        arguments.id, arguments.tier, seeds=arguments.seeds, roots=roots, ledger=ledger
    )
    page = pages.report(found, ledger)
    out = arguments.out or records.home() / "claims" / f"{arguments.id}.{arguments.tier}.md"
    records.atomic_write(out, page)
    print(page)
    print(f"page: {out}", file=sys.stderr)
    return 0
