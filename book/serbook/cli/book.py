"""The commands of chapters and pages: run, book, site, pair, exercises and machine."""

import argparse
import sys
from pathlib import Path

from serlib import PROFILES
from serlib.settings import Positive, argument


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    run = add("run", _run, "Execute one chapter; a finished one is not run again.")
    run.add_argument("chapter", help="number, name or path: 02, 02_baseline, book/02_baseline.py")
    run.add_argument("-p", dest="parameters", metavar="NAME=VALUE", action="append", default=[],
                     help="set a parameter of the chapter; may be repeated")  # fmt: skip
    run.add_argument("--shipped", action="store_true",
                     help="as the notebook beside it was made: with more seeds, where it says so")  # fmt: skip
    run.add_argument("--force", action="store_true", help="run again even if finished")
    run.add_argument("--timeout", type=argument(Positive), metavar="S",
                     help="give up a cell that does nothing for so long")  # fmt: skip

    exercises = add("exercises", _exercises, "Write chapters as notebooks without their solutions.")
    exercises.add_argument("--out", type=Path, required=True, metavar="FOLDER",
                           help="where to; what a reader changed there is never replaced")  # fmt: skip
    exercises.add_argument("--solutions", action="store_true", help="and NN_name_solutions.ipynb")

    book = add("book", _book, "Execute every chapter, then render the site.")
    book.add_argument("--force", action="store_true", help="run finished chapters again")
    book.add_argument("--jobs", type=int, metavar="N", help="chapters at a time; default: as fit")
    book.add_argument("--no-site", action="store_true", help="do not render the site")

    site = add("site", _site, "Render the site from finished chapters.")
    site.add_argument("--shipped", action="store_true", help="from the notebooks in book/")
    site.add_argument("--pdf", action="store_true", help="print it to one PDF too; needs Chromium")
    for command in (book, site):
        command.add_argument("--profile", default="demo", choices=PROFILES)
    pair = add("pair", _pair, "Write finished runs as notebooks beside their sources.")
    for command in (exercises, pair):
        command.add_argument("chapters", nargs="*", metavar="CHAPTER", help="default: all")
    add("machine", _machine, "Show what this machine has and how long the chapters take.")


def _run(arguments: argparse.Namespace) -> int:
    from serbook.runner import chapters, notebooks

    source = notebooks.find(arguments.chapter)
    known = notebooks.declared(notebooks.read(source))
    given = notebooks.parse(arguments.parameters, known)
    given = (notebooks.SHIPPED.get(source.stem, {}) if arguments.shipped else {}) | given
    asked = dict(parameters=given, force=arguments.force, timeout=arguments.timeout)
    run = chapters.execute(source, **asked)
    _show(run)
    print(run.notebook)
    return 0 if run.ok else 1


def _show(run) -> None:
    took = f"{run.seconds / 60:.1f} min, peak {run.peak_mb / 1024:.1f} GB"
    state = "finished before, not run again;" if run.cached else "done;" if run.ok else "FAILED;"
    print(f"{run.chapter} ({run.profile}): {state} {took}", flush=True)
    if not run.ok:
        print(f"{run.error}\n{run.chapter} as far as it came: {run.notebook}", file=sys.stderr)


def _book(arguments: argparse.Namespace) -> int:
    from serbook.runner import chapters

    if arguments.profile == "open":
        _fetch()
        for chapter, why in chapters.CLOSED.items():
            print(f"{chapter} is left out: {why}", flush=True)
    asked = dict(force=arguments.force, jobs=arguments.jobs, report=_show)
    runs = chapters.book(arguments.profile, **asked)
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


def _fetch() -> None:
    """What the open tier hears and listens with; what is there stays."""
    from serlib.corpora import download
    from serlib.models.encoders.load import locate
    from serlib.recipes import papers

    print("The open tier needs two corpora (41 and 208 MB) and an encoder (290 MB).", flush=True)
    manifests = [download.corpus(name) for name in ("emodb", "ravdess")]
    print(*manifests, locate(papers.OPEN["encoder"]), sep="\n", flush=True)


def _render(runs, name: str) -> Path:
    from serbook.runner import notebooks
    from serbook.site import publish

    page = publish.build(runs, notebooks.BOOK.parent / "_build" / name)
    print(f"The site is at {page}", flush=True)
    return page


def _site(arguments: argparse.Namespace) -> None:
    from serbook.site import pdf, publish

    name = "shipped" if arguments.shipped else arguments.profile
    page = _render(publish.shipped() if arguments.shipped else publish.finished(name), name)
    if arguments.pdf:
        print(f"The PDF is at {pdf.write(page, page.parents[1] / 'book.pdf')}")


def _pair(arguments: argparse.Namespace) -> None:
    from serbook.site import publish

    for run in publish.finished(chosen=arguments.chapters):
        print(publish.pair(run))


def _machine(arguments: argparse.Namespace) -> None:
    import psutil

    from serbook.runner import notebooks
    from serlib import records

    facts = records.environment()
    versions = facts.pop("packages", {})
    for name, value in facts.items():
        print(f"{name:12s} {value}")
    print(f"{'memory':12s} {psutil.virtual_memory().total / 2**30:.0f} GB")
    print(f"{'results in':12s} {records.home()}")
    print(f"{'versions':12s} {', '.join(f'{k} {v}' for k, v in versions.items() if v)}")
    print("\nMinutes and peak memory of the demo tier, on the machine that made the notebooks:")
    for name, took in notebooks.measured(notebooks.BOOK).items():
        known = "?"
        if took:
            minutes, gigabytes = took["seconds"] / 60, took["peak_mb"] / 1024
            cores = notebooks.on_cores([took["cores"]])
            known = f"{minutes:6.1f} min {gigabytes:6.1f} GB  ({cores})"
        print(f"{name:24s} {known}")


def _exercises(arguments: argparse.Namespace) -> None:
    from serbook.lesson import exercises

    made = exercises.make(arguments.chapters, arguments.out, solutions=arguments.solutions)
    for path, grades in made.items():
        print(f"{path}: {', '.join(f'{n} {grade.lower()}' for grade, n in grades.items())}")
