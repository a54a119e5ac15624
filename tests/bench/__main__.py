"""The benchmarks: `python -m tests.bench WHAT`, from the root of a checkout."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from serbook.plan import machine
from serlib.settings import Count, Positive, argument
from tests.bench import turns

COUNT = argument(Count)
CORPORA = ("iemocap", "msp-podcast", "msp-podcast-open")  # of `chain`
MODELS = ("wavlm-large", "wavlm-base", "wav2vec2-base", "demo")  # of `train`


def main(argv: list[str] | None = None) -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="WHAT")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    train = add("train", _train, "Full-size models: this loop against others, and each switch "
                "off in turn.")  # fmt: skip
    train.add_argument("--model", default=MODELS[0], choices=MODELS)
    train.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    train.add_argument("--layers", type=COUNT, metavar="L", help="transformer layers; default: all")
    train.add_argument("--seconds", type=argument(Positive), metavar="S", help="audio in a repeat")
    train.add_argument(
        "--budget", type=argument(Positive), metavar="S", help="padded audio in a batch"
    )
    train.add_argument("--repeats", type=COUNT, default=3, metavar="N", help="default: 3")
    train.add_argument("--only", choices=("rivals", "switches"), help="one of the two tables")

    cpu = add("cpu", _cpu, "The demo fine-tuning against others, and start-up times.")
    cpu.add_argument("--repeats", type=COUNT, default=3, metavar="N", help="seeds; default: 3")
    cpu.add_argument("--threads", type=COUNT, default=2, metavar="N", help="default: 2")

    lora = add("lora", _lora, "LoRA against full fine-tuning, on the demo corpus.")
    lora.add_argument("--seeds", type=COUNT, default=3, metavar="N", help="default: 3")
    lora.add_argument("--workers", type=COUNT, metavar="N", help="at a time; default: one per core")
    for command in (cpu, lora):
        command.add_argument("--profile", default="demo", choices=("smoke", "demo"))

    losses = add("losses", _losses, "Losses against versions that loop over samples.")
    losses.add_argument("--repeats", type=COUNT, default=5, metavar="N", help="default: 5")

    intervals = add("intervals", _intervals, "How often 95 % intervals are wrong, by simulation.")
    intervals.add_argument("--trials", type=COUNT, default=1_000, metavar="N", help="default: 1000")
    for name, many in (
        ("speakers", (2, 3, 4, 5, 8, 10, 14, 20, 30, 50)),
        ("seeds", (1, 2, 3, 5, 10)),
    ):
        intervals.add_argument(f"--{name}", type=COUNT, nargs="+", default=many, metavar="N")

    gpu = add("gpu", _gpu, "All that only a GPU can tell, in some minutes.")

    for command in (train, cpu, lora, losses, intervals, gpu):
        command.add_argument("--markdown", action="store_true", help="tables for a page")

    rehearse = add("rehearse", _rehearse, "Train every kind that chapters ask for a few hundred "
                   "steps, kill it and go on; for the hours of serlib plan.")  # fmt: skip
    rehearse.add_argument("--chapters", nargs="+", metavar="CHAPTER", help="default: all")
    rehearse.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    rehearse.add_argument("--steps", type=COUNT, default=200, metavar="N", help="default: 200")
    rehearse.add_argument("--utterances", type=COUNT, default=600, metavar="N", help="default: 600")
    rehearse.add_argument("--layers", type=COUNT, metavar="L", help="default: all; else not kept")
    rehearse.add_argument(
        "--width", type=COUNT, metavar="D", help="narrow encoders; not kept either"
    )

    chain = add("chain", _chain, "Chapters 02 to 07 in full, on small trees and small encoders: "
                "what fails, fails here.")  # fmt: skip
    chain.add_argument("--chapters", nargs="+", metavar="NN", help="default: 02 to 07")
    chain.add_argument("--corpora", nargs="+", choices=CORPORA, help="default: all")
    chain.add_argument("--folder", type=Path, metavar="DIR", help="keeps it; default: a new one")
    chain.add_argument("--utterances", type=COUNT, default=160, metavar="N", help="default: 160")
    chain.add_argument("--epochs", type=COUNT, default=1, metavar="N", help="default: 1")
    chain.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    arguments = parser.parse_args(argv)
    arguments.command(arguments)


def _train(arguments: argparse.Namespace) -> None:
    from tests.bench import train

    device = machine.chosen(arguments.device)
    small = {} if device == "cuda" else {"seconds": 240.0, "budget": 48.0}
    given = {k: getattr(arguments, k) for k in ("seconds", "budget") if getattr(arguments, k)}
    setup = train.Setup(
        arguments.model, device, layers=arguments.layers, repeats=arguments.repeats, **small | given
    )
    layers = f", {setup.layers} layer(s) only" if setup.layers else ""
    title = f"{setup.model}{layers}, {setup.seconds:g} s of audio, {setup.repeats} repeats"
    if arguments.only != "switches":
        turns.show(train.compare(setup), title, device, arguments.markdown)
    if arguments.only != "rivals":
        turns.show(train.ablate(setup), f"Switches: {title}", device, arguments.markdown)
        if not train.compiler(device):
            print("Compiled layers are not measured: torch.compile finds no compiler here.")


def _cpu(arguments: argparse.Namespace) -> None:
    import torch

    from tests.bench import cpu

    torch.set_num_threads(arguments.threads)
    n = arguments.repeats
    title = f"Demo fine-tuning, {n} seeds, profile {arguments.profile}"
    turns.show(cpu.fine_tune(arguments.profile, n), title, "cpu", arguments.markdown)
    turns.show(cpu.start_up(max(n, 3)), "Start-up", "cpu", arguments.markdown)


def _lora(arguments: argparse.Namespace) -> None:
    from serlib.experiments.sweep import sweep
    from tests.bench import lora

    device = machine.chosen(None)
    runs = sweep(lora.asked(arguments.profile, arguments.seeds), workers=arguments.workers)
    title = f"LoRA, profile {arguments.profile}, {arguments.seeds} seed(s)"
    turns.show(lora.costs(runs), title, device, arguments.markdown)
    for role in ("dev", "test"):
        turns.show(lora.scores(runs, role), f"{title}: {role}", device, arguments.markdown)


def _gpu(arguments: argparse.Namespace) -> None:
    from tests.bench import gpu, train

    for title, table in gpu.run(train.Setup(device="cuda", seconds=1000.0, repeats=1)):
        turns.show(table, title, "cuda", arguments.markdown)


def _losses(arguments: argparse.Namespace) -> None:
    from tests.bench import losses

    table = losses.run(repeats=arguments.repeats)
    turns.show(table, f"Losses, {arguments.repeats} repeats", "cpu", arguments.markdown)


def _intervals(arguments: argparse.Namespace) -> None:
    from tests.bench import intervals

    table = intervals.table(arguments.trials, arguments.speakers, arguments.seeds)
    title = f"Intervals at 95 % that miss, percent of {arguments.trials}"
    turns.show(table, title, "cpu", arguments.markdown)


def _rehearse(arguments: argparse.Namespace) -> None:
    from serbook.runner import notebooks
    from tests.bench import rehearse

    device = machine.chosen(arguments.device)
    given = vars(arguments) | {"device": device}
    names = [field.name for field in dataclasses.fields(rehearse.Stage)]
    stage = rehearse.Stage(**{name: given[name] for name in names})
    table = rehearse.run(arguments.chapters or notebooks.chapters(), stage)
    turns.show(table, f"Rehearsal, {stage.steps} steps or more", device)


def _chain(arguments: argparse.Namespace) -> None:
    from tests.bench import chain

    with tempfile.TemporaryDirectory(prefix="chain-") as fresh:
        table = chain.show(chain.run(
            arguments.folder or Path(fresh), arguments.chapters or chain.CHAPTERS,
            corpora=arguments.corpora or chain.CORPORA, utterances=arguments.utterances,
            epochs=arguments.epochs, device=arguments.device,
        ))  # fmt: skip
    minutes, failed = table["minutes"].sum(), int((table["verdict"] != "ok").sum())
    print(f"{len(table)} executions, {failed} of them failed, {minutes:.1f} minutes")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
