"""The command of costs: plan."""

import argparse

from serlib import PROFILES
from serlib.settings import Count, argument

COUNT = argument(Count)


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    plan = add("plan", _plan, "Say what chapters cost before anything runs.")
    plan.add_argument("--profile", default="full", choices=PROFILES)
    plan.add_argument("--chapters", nargs="+", metavar="CHAPTER", help="default: all")
    plan.add_argument("--data-root", default="", metavar="DIR", help="of corpora: their true sizes")
    plan.add_argument("--seeds", type=COUNT, metavar="N", help="instead of the chapters' own")
    plan.add_argument("--epochs", type=COUNT, metavar="N", help="instead of the recipes' own")
    plan.add_argument("--folds", type=COUNT, default=1, metavar="K", help="of IEMOCAP; default: 1")
    plan.add_argument("--card", default="", choices=("h200", "a100", "rtx4090"),
                      help="compute what was not measured for this GPU; takes minutes")  # fmt: skip
    plan.add_argument("--machine", default="", metavar="NAME", help="a measured one; default: this")


def _plan(arguments: argparse.Namespace) -> None:
    from serbook.plan import hours, machine

    named = arguments.machine or machine.device_name(machine.chosen(None))
    rates = machine.rates(named)
    made = hours.make(
        arguments.chapters, profile=arguments.profile, data_root=arguments.data_root,
        seeds=arguments.seeds, epochs=arguments.epochs, folds=arguments.folds,
        rates=rates, card=arguments.card,
    )  # fmt: skip
    print(f"{made.table.round(1).to_string(na_rep='?')}\n\n{made.verdict()}")
    print(f"\nmachine: {named}")
    for kind, rate in rates.items():  # a rate of two steps plans as readily as one of thousands
        how = f"{rate.get('steps', '?')} steps, {rate.get('date', 'no date')}"
        print(f"rate of {kind}: {rate['train']:.3g} s of audio per second ({how})")
    for source in made.sources:
        print(f"size of {source}")
