"""The commands of costs: plan, and rehearse."""

import argparse
import dataclasses

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
    plan.add_argument("--folds", type=COUNT, default=1, metavar="K", help="of IEMOCAP; default: 1")
    plan.add_argument("--machine", default="", metavar="NAME", help="a measured one; default: this")

    rehearse = add("rehearse", _rehearse, "Train every kind that chapters ask for a few hundred "
                   "steps, kill it and go on.")  # fmt: skip
    rehearse.add_argument("--chapters", nargs="+", metavar="CHAPTER", help="default: all")
    rehearse.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    rehearse.add_argument("--steps", type=COUNT, default=200, metavar="N", help="default: 200")
    rehearse.add_argument("--utterances", type=COUNT, default=600, metavar="N", help="default: 600")
    rehearse.add_argument("--layers", type=COUNT, metavar="L", help="default: all; else not kept")
    rehearse.add_argument("--width", type=COUNT, metavar="D",
                          help="narrow encoders; not kept either")  # fmt: skip


def _rehearse(arguments: argparse.Namespace) -> None:
    from serbook.plan import machine, rehearse
    from serbook.runner import notebooks

    device = machine.chosen(arguments.device)
    given = vars(arguments) | {"device": device}
    names = [field.name for field in dataclasses.fields(rehearse.Stage)]
    stage = rehearse.Stage(**{name: given[name] for name in names})
    table = rehearse.run(arguments.chapters or notebooks.chapters(), stage)
    print(f"Rehearsal, {stage.steps} steps or more\n{table.to_string(na_rep='-')}")
    print(", ".join(f"{name}: {fact}" for name, fact in machine.facts(device).items()))


def _plan(arguments: argparse.Namespace) -> None:
    from serbook.plan import hours, machine

    named = arguments.machine or machine.device_name(machine.chosen(None))
    rates = machine.rates(named)
    made = hours.make(
        arguments.chapters, profile=arguments.profile, data_root=arguments.data_root,
        seeds=arguments.seeds, folds=arguments.folds, rates=rates,
    )  # fmt: skip
    print(f"{made.table.round(1).to_string(na_rep='?')}\n\n{made.verdict()}")
    print(f"\nmachine: {named}")
    for kind, rate in rates.items():  # a rate of two steps plans as readily as one of thousands
        how = f"{rate.get('steps', '?')} steps, {rate.get('date', 'no date')}"
        print(f"rate of {kind}: {rate['train']:.3g} s of audio per second ({how})")
    for source in made.sources:
        print(f"size of {source}")
