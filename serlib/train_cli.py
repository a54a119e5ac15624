"""The command `serlib train`: recipes without a notebook, as launchers and job scripts need them.

serlib train cai2021 --set alpha=0.1 --seeds 0,1,2
accelerate launch --num_processes 4 -m serlib.cli train cai2021 --profile full ...
serlib train wang2025 --profile full --data-root /data/MSP --scheduler tcp://head:8786
"""

from __future__ import annotations

import argparse
import ast
from typing import Any

RECIPES = ("cai2021", "mtlser2025", "wang2025_baseline", "wang2025", "challenge_baseline",
           "zgorzynski2025", "floor")  # fmt: skip


class TrainError(ValueError):
    """A training that cannot be asked for like that; the message names the fix."""

    exit_code = 2


def parser(add) -> None:
    """Add the command; ``add`` is that of `serlib.cli`."""
    train = add("train", _train, "Train and test a recipe; a finished one is only read.")
    train.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    train.add_argument("--set", dest="changes", metavar="NAME=VALUE", action="append", default=[],
                       help="an argument of the recipe or a value of it, such as alpha=0.1, "
                       "epochs=5 or name=mine; may be repeated")  # fmt: skip
    train.add_argument("--profile", default="demo", choices=("smoke", "demo", "full"))
    train.add_argument("--corpus", default="", help="a manifest, or its name in the data root")
    train.add_argument("--data-root", default="", metavar="DIR", help="folder of the corpus")
    train.add_argument("--seeds", default="0", metavar="N,N", help="one run for each; default: 0")
    train.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster, to train there")


def value(text: str) -> Any:
    """What NAME=VALUE means by VALUE: a Python literal if it is one, else the words themselves.

    >>> value("0.1"), value("(1, 2)"), value("None"), value("microsoft/wavlm-large")
    (0.1, (1, 2), None, 'microsoft/wavlm-large')
    """
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return tuple(found) if isinstance(found, list) else found


def asked(arguments: argparse.Namespace) -> list:
    """The recipes of a command line, one per seed."""
    import inspect
    from pathlib import Path

    from serlib import recipes

    changes = {}
    for pair in arguments.changes:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise TrainError(f"--set {pair}: expected NAME=VALUE, such as alpha=0.1")
        changes[name] = value(text)
    if not all(seed.strip().isdigit() for seed in arguments.seeds.split(",")):
        raise TrainError(f"--seeds {arguments.seeds}: expected numbers, such as 0,1,2")
    make = getattr(recipes, arguments.recipe)
    root = str(Path(arguments.data_root).expanduser().resolve()) if arguments.data_root else ""
    of_function = inspect.signature(make).parameters
    own = {k: changes.pop(k) for k in [*changes] if k in of_function}
    if missing := [k for k, p in of_function.items() if p.default is p.empty and k not in own
                   and p.kind is not p.VAR_KEYWORD]:  # fmt: skip
        raise TrainError(f"{arguments.recipe} needs --set {missing[0]}=...")
    where = {"profile": arguments.profile, "corpus": arguments.corpus, "data_root": root}
    recipe = make(**(where | own)).change(**changes)
    return recipe.vary(seed=[int(seed) for seed in arguments.seeds.split(",")])


def _train(arguments: argparse.Namespace) -> None:
    wanted = asked(arguments)

    from serlib import experiments, processes, sweep

    if arguments.scheduler:
        runs = sweep.sweep(wanted, arguments.scheduler).runs
    elif processes.count() > 1:  # they share each run
        runs = [experiments.run(recipe) for recipe in wanted]
    else:
        runs = sweep.sweep(wanted).runs
    if not processes.main():
        return
    for recipe, run in zip(wanted, runs, strict=True):
        print(f"{recipe.name}, seed {recipe.seed}: {run.path}")
        for role in ("dev", "test"):
            scores = run.summary[role].items()
            told = ", ".join(f"{k} {v:.3f}" for k, v in scores if isinstance(v, float))
            print(f"  {role:4s} {told}")
