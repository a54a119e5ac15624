"""The command `serlib`: run chapters, build the site, make the demo tier, work with corpora.

What the user can mend ends in one line on standard error, with exit code 2 for a wrong command or
parameter and 1 for work that failed; a traceback means a fault in the package. Modules that take
seconds to import are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import serlib
from serlib import archive_cli, bench_cli, claims_cli, exercises_cli, manifest_cli, train_cli

PRETRAINED = ("wavlm", "wav2vec2", "whisper", "roberta")  # architectures of demo encoders


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except KeyboardInterrupt:
        print("serlib: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except Exception as error:
        ours = any(c.__module__.startswith("serlib.") for c in type(error).__mro__)
        if not ours and not isinstance(error, OSError):
            raise
        print(f"serlib: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serlib", description=serlib.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"serlib {serlib.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, text: str, group=commands) -> argparse.ArgumentParser:
        command = group.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    def profile(command: argparse.ArgumentParser) -> None:
        command.add_argument("--profile", default="demo", choices=("smoke", "demo", "full"))

    run = add("run", _run, "Execute one chapter; a finished one is not run again.")
    run.add_argument("chapter", help="number, name or path: 02, 02_baseline, book/02_baseline.py")
    run.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[],
                     help="set a parameter of the chapter; may be repeated")  # fmt: skip
    run.add_argument("--force", action="store_true", help="run again even if finished")
    run.add_argument("--timeout", type=float, metavar="S", help="seconds that one cell may take")

    predict = add("predict", _predict, "Let a trained run answer for recordings.")
    predict.add_argument("run", help="its folder, or the beginning of its name")
    predict.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio of any rate")
    predict.add_argument("--text", help="what was said, for a system that reads; one FILE only")
    predict.add_argument("--json", action="store_true", help="one JSON object per line")

    train_cli.parser(add)
    exercises_cli.parser(add)

    book = add("book", _book, "Execute every chapter, then render the site.")
    profile(book)
    book.add_argument("--force", action="store_true", help="run finished chapters again")
    book.add_argument("--jobs", type=int, metavar="N", help="chapters at a time; default: as fit")
    book.add_argument("--no-site", action="store_true", help="do not render the site")

    site = add("site", _site, "Render the site from finished chapters.")
    profile(site)
    site.add_argument("--shipped", action="store_true",
                      help="from the notebooks in book/, without executing anything")  # fmt: skip
    site.add_argument("--pdf", action="store_true", help="print it to one PDF too; needs Chromium")
    pair = add("pair", _pair, "Write finished demo runs as notebooks beside their sources.")
    pair.add_argument("chapters", nargs="*", metavar="CHAPTER", help="default: all")
    add("machine", _machine, "Show what this machine has and how long the chapters take.")

    _demo_parsers(commands, add)

    manifest_cli.parsers(commands, add)
    bench_cli.parsers(commands, add)
    claims_cli.parsers(commands, add)
    archive_cli.parsers(commands, add)
    return parser


def _demo_parsers(commands, add) -> None:
    demo = commands.add_parser("demo", help="Make the demo corpus or the demo encoders.")
    makes = demo.add_subparsers(required=True, metavar="WHAT")
    add("corpus", _demo_corpus, "Speak the demo corpus into the cache (under a minute).", makes)
    add("manifest", _demo_manifest, "Compose the demo corpus anew (for its authors).", makes)
    pretrain = add("pretrain", _demo_pretrain, "Pre-train a demo encoder (an hour or two).", makes)
    pretrain.add_argument("--architecture", default="wavlm", choices=PRETRAINED)
    pretrain.add_argument(
        "--steps", type=int, help="optimizer steps; default: the shipped recipe's"
    )
    pretrain.add_argument("--hours", type=float, help="hours of synthetic speech (not roberta)")
    pretrain.add_argument("--out", type=Path, help="folder; default: over the shipped encoder")
    card = add("card", _demo_card, "Probe a demo encoder and write its model card.", makes)
    card.add_argument("name", nargs="?", default="demo-wavlm")
    tree = add("tree", _demo_tree, "Write the demo corpus as another corpus lies on disk.", makes)
    tree.add_argument("layout", help="name of a corpus, see: serlib manifest list")
    tree.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    tree.add_argument("--utterances", type=int, default=48, metavar="N", help="default: 48")
    tree.add_argument("--version", default="", help="the release, of msp-podcast")


def _run(arguments: argparse.Namespace) -> int:
    from serlib import chapters, notebooks

    source = notebooks.find(arguments.chapter)
    known = notebooks.declared(notebooks.read(source))
    given = notebooks.parse(arguments.parameters, known)
    for name, value in given.items():  # the kernel runs in another folder
        if name.endswith(("_root", "_file")) and value:
            given[name] = str(Path(value).expanduser().resolve())
    run = chapters.execute(
        source, parameters=given, force=arguments.force, timeout=arguments.timeout
    )
    _show(run)
    print(run.notebook)
    return 0 if run.ok else 1


def _show(run) -> None:
    took = f"{run.seconds / 60:.1f} min, peak {run.peak_mb / 1024:.1f} GB"
    state = "finished before, not run again;" if run.cached else "done;" if run.ok else "FAILED;"
    print(f"{run.chapter} ({run.profile}): {state} {took}", flush=True)
    if not run.ok:
        print(f"{run.error}\n{run.chapter} as far as it came: {run.notebook}", file=sys.stderr)


def _predict(arguments: argparse.Namespace) -> None:
    import dataclasses
    import json

    from serlib import audio, inference

    if arguments.text is not None and len(arguments.files) > 1:
        raise inference.InferenceError("--text belongs to one FILE: give them one by one")
    recognizer = inference.Recognizer(inference.find(arguments.run))
    for file in arguments.files:
        answer = recognizer(audio.load(file), arguments.text)
        if arguments.json:
            print(json.dumps({"file": str(file)} | dataclasses.asdict(answer)), flush=True)
            continue
        print(file)
        ranked = ", ".join(f"{name} {p:.2f}" for name, p in list(answer.probabilities.items())[:3])
        for name in ("emotion", "gender", "speaker", "transcript"):
            if (value := getattr(answer, name)) is not None:
                print(f"  {name:10s} {value}" + (f"  ({ranked})" if name == "emotion" else ""))
        for name, value in (answer.attributes or {}).items():
            print(f"  {name:10s} {value:.1f} of 1 to 7")


def _book(arguments: argparse.Namespace) -> int:
    from serlib import chapters

    runs = chapters.book(
        arguments.profile, force=arguments.force, report=_show, jobs=arguments.jobs
    )
    print(f"\n{'chapter':24s} {'':8s} {'minutes':>8s} {'peak GB':>8s}")
    for run in runs:
        figures = f"{run.seconds / 60:8.1f} {run.peak_mb / 1024:8.1f}"
        print(f"{run.chapter:24s} {run.status:8s} {figures}")
    print(f"{'all, added up':33s} {sum(run.seconds for run in runs) / 60:8.1f}")
    seconds, at_a_time = chapters.elapsed(runs)
    if at_a_time > 1:
        print(f"{f'all, {at_a_time} at a time':33s} {seconds / 60:8.1f}")
    print()
    if failed := [run.chapter for run in runs if not run.ok]:
        print(f"serlib: failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if not arguments.no_site:
        _render(runs, arguments.profile)
    return 0


def _render(runs, name: str) -> Path:
    from serlib import notebooks, publish

    page = publish.build(runs, notebooks.BOOK.parent / "_build" / name)
    print(f"The site is at {page}", flush=True)
    return page


def _site(arguments: argparse.Namespace) -> None:
    from serlib import pdf, publish

    if arguments.shipped:
        page = _render(publish.shipped(), "shipped")
    else:
        page = _render(publish.finished(arguments.profile), arguments.profile)
    if arguments.pdf:
        print(f"The PDF is at {pdf.write(page, page.parents[1] / 'book.pdf')}")


def _pair(arguments: argparse.Namespace) -> None:
    from serlib import publish

    for run in publish.finished("demo", chosen=arguments.chapters):
        print(publish.pair(run))


def _machine(arguments: argparse.Namespace) -> None:
    import psutil

    from serlib import notebooks, publish, records

    facts = records.environment()
    versions = facts.pop("packages", {})
    for name, value in facts.items():
        print(f"{name:12s} {value}")
    print(f"{'memory':12s} {psutil.virtual_memory().total / 2**30:.0f} GB")
    print(f"{'results in':12s} {records.home()}")
    print(f"{'versions':12s} {', '.join(f'{k} {v}' for k, v in versions.items() if v)}")
    print("\nMinutes and peak memory of the demo tier, on the machine that made the notebooks:")
    for name, took in publish.measured(notebooks.BOOK).items():
        known = f"{took['seconds'] / 60:6.1f} min {took['peak_mb'] / 1024:6.1f} GB" if took else "?"
        print(
            f"{name:24s} {known}" + (f"  ({notebooks.on_cores([took['cores']])})" if took else "")
        )


def _demo_corpus(arguments: argparse.Namespace) -> None:
    from serlib.demo import corpus

    print(f"The demo corpus is at {corpus.make(progress=True)}")


def _demo_manifest(arguments: argparse.Namespace) -> None:
    from serlib.demo import corpus

    print(f"{len(corpus.build())} utterances in {corpus.MANIFEST}")


def _demo_pretrain(arguments: argparse.Namespace) -> None:
    from serlib.demo import pretrain, roberta, whisper

    make, config = {
        "whisper": (whisper.pretrain, whisper.WhisperConfig),
        "roberta": (roberta.pretrain, roberta.RobertaConfig),
    }.get(arguments.architecture, (pretrain.pretrain, pretrain.PretrainConfig))
    names = ["architecture", "steps", *(["hours"] if arguments.architecture != "roberta" else [])]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    print(make(config(**given), arguments.out))


def _demo_tree(arguments: argparse.Namespace) -> None:
    from serlib.demo import trees

    answers = trees.write(
        arguments.layout, arguments.to, utterances=arguments.utterances, version=arguments.version
    )
    print(f"{len(answers)} utterances as in {arguments.layout}, flaws of real copies included")
    print(f"next: serlib manifest build {arguments.layout} --root {arguments.to} --out FILE.csv")


def _demo_card(arguments: argparse.Namespace) -> None:
    from serlib.demo import card

    print(card.write(arguments.name))


if __name__ == "__main__":
    sys.exit(main())
