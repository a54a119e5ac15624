"""The commands `serlib manifest ...`: build, check, list, audit, extract and get."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from serlib.settings import Count, Seed, argument


def parsers(commands, add) -> None:
    """Add the commands; `add` makes one (name, function, text, group)."""
    manifest = commands.add_parser("manifest", help="Work with manifests and corpora.")
    actions = manifest.add_subparsers(required=True, metavar="WHAT")

    build = add("build", _build, "Turn a corpus as released into a manifest.", actions)
    build.add_argument("corpus", help="its name, see: serlib manifest list")
    build.add_argument("--root", type=Path, required=True, help="the corpus folder")
    build.add_argument("--out", type=Path, required=True, help="a .csv or .jsonl to write")
    build.add_argument("--version", default="", help="the release; default: recognized")
    build.add_argument("--strict", action="store_true",
                       help="write nothing if a file is missing or a count is off")  # fmt: skip
    build.add_argument("--no-verify", action="store_true", help="read only the files' headers")

    codes = ("Exit code: 0 nothing is shared, 1 something is or the manifest is wrong, 2 a file "
             "cannot be read, 3 nothing is proved, as speakers are unknown.")  # fmt: skip
    check = add("check", _check, "List what is wrong with a manifest, or prove a split.", actions)
    check.epilog = codes
    check.add_argument("file", type=Path)
    check.add_argument("--root", type=Path, help="folder of the audio; then each file is compared")
    check.add_argument("--protocol", metavar="NAME", help="prove that its folds share nothing")
    check.add_argument("--fold", type=argument(Count), metavar="K",
                       help="one fold only; default: all")  # fmt: skip
    check.add_argument("--seed", type=argument(Seed), default=0,
                       help="of protocols that deal at random")  # fmt: skip

    listing = add("list", _list, "Show the cards of the corpora.", actions)
    listing.add_argument("names", nargs="*", metavar="CORPUS", help="show these cards in full")

    audit = add("audit", _audit, "Show what train and test of published files share.", actions)
    audit.epilog = codes
    audit.add_argument("paths", nargs="+", type=Path, metavar="PATH",
                       help="TRAIN TEST, one file with --split, or a folder of them")  # fmt: skip
    audit.add_argument("--corpus", default="", help="whose names they are; default: recognized")
    audit.add_argument("--manifest", type=Path, help="look the utterances up in this manifest")
    audit.add_argument("--split", metavar="COLUMN", help="column that tells train from test")

    extract = add("extract", _extract, "Pull the sound out of a corpus of video clips.", actions)
    extract.add_argument("--root", type=Path, required=True, help="the corpus folder, only read")
    extract.add_argument("--to", type=Path, required=True, metavar="DIR",
                         help="the folder of sounds, to build the manifest from")  # fmt: skip

    get = add("get", _get, "Fetch a corpus that anybody may fetch.", actions)
    get.add_argument("corpus")
    get.add_argument("--to", type=Path, metavar="DIR",
                     help="where it goes; default: $SERLIB_HOME, with a manifest")  # fmt: skip

    for command in (build, extract):
        command.add_argument("--workers", type=argument(Count), metavar="N",
                             help="default: all cores")  # fmt: skip
    for command in (build, extract, get):
        command.add_argument("--quiet", action="store_true", help="no progress bar")


def _build(arguments: argparse.Namespace) -> int:
    from serlib.corpora import builder
    from serlib.data import tables

    out = arguments.out
    tables.suffix(out)  # before the work, not after it
    df, report = builder.build(
        arguments.corpus, arguments.root, version=arguments.version,
        verify=not arguments.no_verify, workers=arguments.workers, progress=not arguments.quiet,
    )  # fmt: skip
    print(report)
    if arguments.strict and not report.exact:
        print(f"serlib: not as on the card, {out} is not written (--strict)", file=sys.stderr)
        return 1
    tables.write(df, out)
    print(f"manifest: {out}")
    left_out = out.with_name(f"{out.name}.excluded.tsv")
    if report.excluded:
        lines = [f"{wav}\t{why}\n" for wav, why in report.excluded.items()]
        left_out.write_text("".join(["wav\treason\n", *lines]), encoding="utf-8")
        print(f"left out: {left_out}")
    else:
        left_out.unlink(missing_ok=True)  # of an earlier build
    formats = builder.CORPORA[-3:]  # a corpus in one of them is called as its manifest is
    name = out.stem if arguments.corpus in formats else arguments.corpus
    expected = arguments.root.expanduser().resolve() / f"{name}.csv"
    if out.resolve() != expected:
        print(f"chapters look for {expected}, or take -p corpus={out.resolve()}")
    return 0


@contextlib.contextmanager
def _two_if_unreadable() -> Iterator[None]:
    """Exit code 2 for what cannot be read or asked for: 1 says that something is shared."""
    from serlib.data.tables import ManifestError

    try:
        yield
    except (ManifestError, OSError) as error:
        error.exit_code = 2
        raise


@_two_if_unreadable()
def _check(arguments: argparse.Namespace) -> int:
    from serlib.corpora import audit
    from serlib.data import manifest, tables

    table = tables.read(arguments.file)
    problems = list(manifest.check(table))
    if arguments.root and not problems:
        from serlib.corpora import measure

        problems += measure.compare(table, arguments.root)
    for problem in problems:
        print(problem)
    proofs = []
    if arguments.protocol:
        fold = arguments.fold
        for proof in audit.prove(table, arguments.protocol, fold=fold, seed=arguments.seed):
            print(proof)
            proofs.append(proof)
            problems += [f"fold {proof.fold}: {leak}" for leak in proof.leaks]
    counts = f"{len(table)} utterances, {len(problems)} problems"
    unproved = sorted({proof.unproved for proof in proofs if proof.unproved})
    print(f"{arguments.file}: {', '.join([counts, *unproved])}", file=sys.stderr)
    return 1 if problems else audit.code(proofs)


def _list(arguments: argparse.Namespace) -> None:
    from serlib.corpora import cards

    if arguments.names:
        print("\n\n".join(str(cards.read(name)) for name in arguments.names))
        return
    for name in cards.names():
        card = cards.read(name)
        total = max((e.total or 0 for e in card.expected), default=0)
        print(f"{name:14s} {f'{total:,}' if total else '-':>9s}  {card.license:32s} {card.title}")


@_two_if_unreadable()
def _audit(arguments: argparse.Namespace) -> int:
    from serlib.corpora import audit
    from serlib.data import tables

    known = tables.read(arguments.manifest) if arguments.manifest else None
    corpus, split = arguments.corpus, arguments.split
    found = audit.audit(arguments.paths, corpus=corpus, known=known, split=split)
    print(*found, sep="\n")
    return audit.code(found)


def _get(arguments: argparse.Namespace) -> None:
    from serlib.corpora import cards, download

    card = cards.read(arguments.corpus)
    if arguments.to is None:
        print(download.corpus(arguments.corpus, progress=not arguments.quiet))
        return
    print(f"{card}\n\nWhoever goes on accepts the license.", flush=True)
    for path in download.get(card, arguments.to, progress=not arguments.quiet):
        print(path)


def _extract(arguments: argparse.Namespace) -> int:
    from serlib.corpora import clips

    how = dict(workers=arguments.workers, progress=not arguments.quiet)
    failed = clips.extract(arguments.root, arguments.to, **how)
    for clip, why in failed.items():
        print(f"{clip}: {why}")
    print(f"{arguments.to}: the sound of all clips but {len(failed)}", file=sys.stderr)
    return 1 if failed else 0
