"""The command `serlib exercises`: notebooks for a class, made from the chapters.

serlib exercises --out class
serlib exercises 01 02 --out class --solutions
"""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(add) -> None:
    """Add the command; ``add`` is that of `serlib.cli`."""
    command = add("exercises", _exercises, "Write chapters as notebooks without their solutions.")
    command.add_argument("chapters", nargs="*", metavar="CHAPTER", help="such as 02; default: all")
    where = "folder to write to; what a reader changed there is never replaced"
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=where)
    teacher = "also write NN_name_solutions.ipynb"
    command.add_argument("--solutions", action="store_true", help=teacher)


def _exercises(arguments: argparse.Namespace) -> None:
    from serlib import exercises

    made = exercises.make(arguments.chapters, arguments.out, solutions=arguments.solutions)
    for path, grades in made.items():
        print(f"{path}: {', '.join(f'{n} {grade.lower()}' for grade, n in grades.items())}")
