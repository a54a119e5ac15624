"""The command `serlib`: train a recipe, let a run answer for recordings, work with corpora.

serlib train cai2021 --set alpha=0.1 --seeds 0,1,2
accelerate launch --num_processes 4 -m serlib train cai2021 --profile full ...
serlib train wang2025 --profile full --data-root /data/MSP --scheduler tcp://head:8786

Other packages add commands of their own through the entry points "serlib.commands", as the book
does. What the user can mend ends in one line on standard error, with exit code 2 for a wrong
command or parameter and 1 for work that failed; a traceback means a fault in the package. Modules
that take seconds to import are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import ast
import errno
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import serlib
from serlib import settings
from serlib.corpora import commands as manifest_commands

RECIPES = ("cai2021", "mtlser2025", "wang2025_baseline", "wang2025", "challenge_baseline",
           "zgorzynski2025", "floor")  # fmt: skip
FULL, NO_LOCKS = (errno.ENOSPC, errno.EDQUOT), (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class TrainError(ValueError):
    """A training that cannot be asked for like that; the message names the fix."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong with a command in one line."""

    def error(self, message: str) -> None:
        """End with exit code 2."""
        self.exit(2, f"serlib: {' '.join(message.split())} (see: {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter must not end the work
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except KeyboardInterrupt:
        print("serlib: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _packages():
            raise
        need = "pip install 'serlib[book]' for chapters, 'serlib[cluster]' for dask"
        print(f"serlib: the package {error.name} is not installed: {need}", file=sys.stderr)
        return 1
    except Exception as error:
        ours = any(c.__module__.split(".")[0] in _packages() for c in type(error).__mro__)
        if not (ours or isinstance(error, OSError)):
            raise
        print(f"serlib: {error if ours else explained(error)}", file=sys.stderr)
        return 2 if isinstance(error, FileNotFoundError) else getattr(error, "exit_code", 1)


def explained(error: OSError) -> str:
    """What the system refused and the way out, in one line."""
    from serlib import records

    if error.errno is None or error.filename is None:
        return str(error)
    told = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if error.errno in FULL:
        return f"{told}: make room there, or set SERLIB_HOME to a folder on a larger disk"
    if error.errno in NO_LOCKS:
        return f"{told}: files cannot be locked there; set SERLIB_HOME to a folder on a local disk"
    path, home = Path(os.fsdecode(error.filename)).absolute(), records.home()
    if path.is_relative_to(home) or home.is_relative_to(path):
        return f"{told}: results go to {home}; set SERLIB_HOME to a folder that can be written"
    return told


def _packages() -> set[str]:
    """The packages whose commands these are, and so whose errors are told in one line."""
    return {"serlib", *(entry.module.split(".")[0] for entry in _others())}


def _others():
    return entry_points(group="serlib.commands")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="serlib", description=serlib.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"serlib {serlib.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, text: str, group=commands) -> argparse.ArgumentParser:
        command = group.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    train = add("train", _train, "Train and test a recipe; a finished one is only read.")
    train.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    train.add_argument("--set", dest="changes", metavar="NAME=VALUE", action="append", default=[],
                       help="an argument of the recipe or a value of it, such as alpha=0.1, "
                       "epochs=5 or name=mine; may be repeated")  # fmt: skip
    train.add_argument("--profile", default="demo", choices=serlib.PROFILES)
    train.add_argument("--corpus", default="", help="a manifest, or its name in the data root")
    train.add_argument("--data-root", default="", metavar="DIR", help="folder of the corpus")
    train.add_argument("--seeds", default="0", metavar="N,N", help="one run for each; default: 0")
    train.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster, to train there")

    predict = add("predict", _predict, "Let a trained run answer for recordings.")
    predict.add_argument("run", help="its folder, or the beginning of its name")
    predict.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio of any rate")
    predict.add_argument("--text", help="what was said, for a system that reads; one FILE only")
    predict.add_argument("--json", action="store_true", help="one JSON object per line")

    manifest_commands.parsers(commands, add)
    demo = commands.add_parser("demo", help="Make the demo corpus.")
    makes = demo.add_subparsers(required=True, metavar="WHAT")
    add("corpus", _demo_corpus, "Speak the demo corpus into the cache (under a minute).", makes)
    for entry in _others():
        entry.load()(commands, add)
    return parser


def value(text: str) -> Any:
    """What NAME=VALUE means by VALUE: a Python literal if it is one, else the words themselves.

    >>> value("0.1"), value("(1, 2)"), value("None"), value("microsoft/wavlm-large")
    (0.1, (1, 2), None, 'microsoft/wavlm-large')
    """
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text
    return tuple(found) if isinstance(found, list) else found


def asked(arguments: argparse.Namespace) -> list:
    """The recipes of a command line, one per seed."""
    import inspect

    from serlib.recipes import papers

    changes = {}
    for pair in arguments.changes:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise TrainError(f"--set {pair!r}: expected NAME=VALUE, such as alpha=0.1")
        changes[name] = value(text)
    if "seed" in changes:
        raise TrainError(f"--set seed: write --seeds, such as --seeds {changes['seed']!r}")
    try:
        seeds = [settings.argument(settings.Seed)(seed) for seed in arguments.seeds.split(",")]
    except argparse.ArgumentTypeError as error:
        raise TrainError(f"--seeds: expected numbers, such as 0,1,2; {error}") from error
    make = getattr(papers, arguments.recipe)
    root = str(Path(arguments.data_root).expanduser().resolve()) if arguments.data_root else ""
    of_function = inspect.signature(make).parameters
    own = {k: changes.pop(k) for k in [*changes] if k in of_function}
    if missing := [k for k, p in of_function.items() if p.default is p.empty and k not in own
                   and p.kind is not p.VAR_KEYWORD]:  # fmt: skip
        raise TrainError(f"{arguments.recipe} needs --set {missing[0]}=...")
    where = {"profile": arguments.profile, "corpus": arguments.corpus, "data_root": root}
    recipe = make(**(where | own)).change(**changes)
    return recipe.vary(seed=list(dict.fromkeys(seeds)))


def _train(arguments: argparse.Namespace) -> None:
    wanted, address = asked(arguments), arguments.scheduler
    if address is not None and ":" not in address:
        raise TrainError(f"--scheduler {address!r}: expected an address such as tcp://head:8786")

    from serlib.experiments import dataset, experiment, remarks, sweep
    from serlib.training import processes

    wanted = [r for recipe in wanted for r in dataset.in_folds(recipe)]
    if address:
        runs = sweep.sweep(wanted, address).runs
    elif processes.count() > 1:  # they share each run
        runs = tuple(experiment.run(recipe) for recipe in wanted)
    else:
        runs = sweep.sweep(wanted).runs
    if not processes.main():
        return
    for recipe, run in zip(wanted, runs, strict=True):
        print(f"{recipe.name}, fold {recipe.fold}, seed {recipe.seed}: {run.path}")
        for role in ("dev", "test"):
            scores = run.summary[role].items()
            told = ", ".join(f"{k} {v:.3f}" for k, v in scores if isinstance(v, float))
            print(f"  {role:4s} {told}")
        if lacking := run.summary.get("train_without"):
            known = run.summary["train_transcripts"]
            print(f"  {lacking} of {known + lacking} clips of train have no usable transcript")
        if told := remarks.repeated(run):
            print(f"  wer, cer: {told}")
    together = sweep.Runs(tuple(wanted), runs)
    if len({recipe.fold for recipe in wanted}) > 1:
        print(*(together.folds(name).to_string() for name in together.names()), sep="\n")


def _predict(arguments: argparse.Namespace) -> None:
    import dataclasses
    import json

    from serlib.data import audio
    from serlib.experiments import inference

    if arguments.text is not None and len(arguments.files) > 1:
        raise inference.InferenceError("--text belongs to one FILE: give them one by one")
    recognizer = inference.Recognizer(inference.find(arguments.run))
    for file in arguments.files:
        answer = recognizer(audio.load(file), arguments.text)
        if arguments.json:
            told = {"file": str(file)} | dataclasses.asdict(answer)
            print(json.dumps(told | {"trained_on": recognizer.trained_on}), flush=True)
            continue
        print(file)
        ranked = ", ".join(f"{name} {p:.2f}" for name, p in list(answer.probabilities.items())[:3])
        for name in ("emotion", "gender", "speaker", "transcript"):
            if (value := getattr(answer, name)) is not None:
                print(f"  {name:10s} {value}" + (f"  ({ranked})" if name == "emotion" else ""))
        for name, value in (answer.attributes or {}).items():
            print(f"  {name:10s} {value:.1f} of 1 to 7")
    if not arguments.json:
        print(f"trained on {recognizer.trained_on}", file=sys.stderr)


def _demo_corpus(arguments: argparse.Namespace) -> None:
    from serlib.corpora.demo import corpus

    print(f"The demo corpus is at {corpus.make(progress=True)}")


if __name__ == "__main__":
    sys.exit(main())
