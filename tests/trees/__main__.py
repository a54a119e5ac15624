"""Write the demo corpus as another corpus lies on disk: `python -m tests.trees LAYOUT --to DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from serlib.settings import Count, argument
from tests.trees import treekit, trees


def main(argv: list[str] | None = None) -> None:
    """Write one tree."""
    parser = argparse.ArgumentParser(prog="python -m tests.trees", description=__doc__)
    parser.add_argument("layout", help="name of a corpus, see: serlib manifest list")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--utterances", type=argument(Count), default=48, metavar="N", help="default: 48"
    )
    parser.add_argument("--version", default="", help="the release, of msp-podcast")
    given = parser.parse_args(argv)
    how = dict(utterances=given.utterances, version=given.version)
    try:
        answers = trees.write(given.layout, given.to, **how)
    except treekit.TreeError as error:
        parser.error(str(error))
    print(f"{len(answers)} utterances as in {given.layout}, flaws of real copies included")
    print(f"next: serlib manifest build {given.layout} --root {given.to} --out FILE.csv")


if __name__ == "__main__":
    main()
