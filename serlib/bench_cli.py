"""The commands `serlib bench ...` and `serlib plan`: measure, rehearse, and tell the cost."""

from __future__ import annotations

import argparse
import dataclasses

MODELS = ("wavlm-large", "wavlm-base", "wav2vec2-base", "demo")  # of `bench train`


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    bench = commands.add_parser("bench", help="Measure how fast this package trains.")
    actions = bench.add_subparsers(required=True, metavar="WHAT")

    train = add("train", _train, "Full-size models: this loop against others, and each switch "
                "off in turn.", actions)  # fmt: skip
    train.add_argument("--model", default=MODELS[0], choices=MODELS)
    train.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    train.add_argument("--layers", type=int, metavar="L", help="transformer layers; default: all")
    train.add_argument("--seconds", type=float, metavar="S", help="audio in a repeat")
    train.add_argument("--budget", type=float, metavar="S", help="padded audio in a batch")
    train.add_argument("--repeats", type=int, default=3, metavar="N", help="default: 3")
    train.add_argument("--only", choices=("rivals", "switches"), help="one of the two tables")

    cpu = add("cpu", _cpu, "The demo fine-tuning against others, and start-up times.", actions)
    cpu.add_argument("--repeats", type=int, default=3, metavar="N", help="seeds; default: 3")
    cpu.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")

    lora = add("lora", _lora, "LoRA against full fine-tuning, on the demo corpus.", actions)
    lora.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3")
    lora.add_argument("--workers", type=int, metavar="N", help="at a time; default: one per core")
    for command in (cpu, lora):
        command.add_argument("--profile", default="demo", choices=("smoke", "demo"))

    losses = add("losses", _losses, "Losses against versions that loop over samples.", actions)
    losses.add_argument("--repeats", type=int, default=5, metavar="N", help="default: 5")

    rehearse = add("rehearse", _rehearse, "Train every kind that chapters ask for a few hundred "
                   "steps, kill it and go on.", actions)  # fmt: skip
    rehearse.add_argument("--chapters", nargs="+", metavar="CHAPTER", help="default: all")
    rehearse.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    rehearse.add_argument("--steps", type=int, default=200, metavar="N", help="default: 200")
    rehearse.add_argument("--utterances", type=int, default=600, metavar="N", help="default: 600")
    rehearse.add_argument("--layers", type=int, metavar="L", help="default: all; else not kept")
    rehearse.add_argument("--width", type=int, metavar="D", help="narrow encoders; not kept either")

    for command in (train, cpu, lora, losses, rehearse):
        command.add_argument("--markdown", action="store_true", help="tables for a page")

    plan = add("plan", _plan, "Say what chapters cost before anything runs.")
    plan.add_argument("--profile", default="full", choices=("smoke", "demo", "full"))
    plan.add_argument("--chapters", nargs="+", metavar="CHAPTER", help="default: all")
    plan.add_argument(
        "--data-root", default="", metavar="DIR", help="corpora, for their true sizes"
    )
    plan.add_argument("--seeds", type=int, metavar="N", help="instead of the chapters' own")
    plan.add_argument("--folds", type=int, default=1, metavar="K", help="of IEMOCAP; default: 1")
    plan.add_argument("--machine", default="", metavar="NAME", help="a measured one; default: this")


def _device(asked: str | None) -> str:
    import torch

    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _show(table, title: str, device: str, markdown: bool) -> None:
    from serlib.bench import machine

    about = machine.facts(device)
    if markdown:
        print(machine.markdown(table, about, title), end="\n\n", flush=True)
        return
    print(f"{title}\n{table.to_string(na_rep='-')}")
    print(", ".join(f"{k}: {v}" for k, v in about.items()), end="\n\n", flush=True)


def _train(arguments: argparse.Namespace) -> None:
    from serlib.bench import train

    device = _device(arguments.device)
    small = {} if device == "cuda" else {"seconds": 240.0, "budget": 48.0}
    given = {k: getattr(arguments, k) for k in ("seconds", "budget") if getattr(arguments, k)}
    setup = train.Setup(
        arguments.model, device, layers=arguments.layers, repeats=arguments.repeats, **small | given
    )
    layers = f", {setup.layers} layer(s) only" if setup.layers else ""
    title = f"{setup.model}{layers}, {setup.seconds:g} s of audio, {setup.repeats} repeats"
    if arguments.only != "switches":
        _show(train.compare(setup), title, device, arguments.markdown)
    if arguments.only != "rivals":
        _show(train.ablate(setup), f"Switches: {title}", device, arguments.markdown)
        if not train.compiler(device):
            print("Compiled layers are not measured: torch.compile finds no compiler here.")


def _cpu(arguments: argparse.Namespace) -> None:
    import torch

    from serlib.bench import cpu

    torch.set_num_threads(arguments.threads)
    n = arguments.repeats
    title = f"Demo fine-tuning, {n} seeds, profile {arguments.profile}"
    _show(cpu.fine_tune(arguments.profile, n), title, "cpu", arguments.markdown)
    _show(cpu.start_up(max(n, 3)), "Start-up", "cpu", arguments.markdown)


def _lora(arguments: argparse.Namespace) -> None:
    from serlib.bench import lora
    from serlib.sweep import sweep

    device = _device(None)
    runs = sweep(lora.asked(arguments.profile, arguments.seeds), workers=arguments.workers)
    title = f"LoRA, profile {arguments.profile}, {arguments.seeds} seed(s)"
    _show(lora.costs(runs), title, device, arguments.markdown)
    for role in ("dev", "test"):
        _show(lora.scores(runs, role), f"{title}: {role}", device, arguments.markdown)


def _losses(arguments: argparse.Namespace) -> None:
    from serlib.bench import losses

    table = losses.run(repeats=arguments.repeats)
    _show(table, f"Losses, {arguments.repeats} repeats", "cpu", arguments.markdown)


def _rehearse(arguments: argparse.Namespace) -> None:
    from serlib import notebooks
    from serlib.bench import rehearse

    device = _device(arguments.device)
    given = vars(arguments) | {"device": device}
    names = [field.name for field in dataclasses.fields(rehearse.Stage)]
    stage = rehearse.Stage(**{name: given[name] for name in names})
    table = rehearse.run(arguments.chapters or notebooks.chapters(), stage)
    title = f"Rehearsal, {stage.steps} steps or more"
    _show(table, title, device, arguments.markdown)


def _plan(arguments: argparse.Namespace) -> None:
    from serlib import plan
    from serlib.bench import machine

    named = arguments.machine or machine.device_name(_device(None))
    rates = machine.rates(named)
    made = plan.make(
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
