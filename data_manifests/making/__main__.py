"""Make what the demo tier ships, for its authors: `python -m data_manifests.making WHAT`.

Run it from the root of a checkout, with the extra "pretrain" installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PRETRAINED = ("wavlm", "wav2vec2", "whisper", "roberta")  # architectures of demo encoders


def main(argv: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m data_manifests.making", description=__doc__)
    makes = parser.add_subparsers(required=True, metavar="WHAT")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = makes.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    add("manifest", _manifest, "Compose the demo corpus anew.")
    pretrain = add("pretrain", _pretrain, "Pre-train a demo encoder (an hour or two).")
    pretrain.add_argument("--architecture", default="wavlm", choices=PRETRAINED)
    pretrain.add_argument(
        "--steps", type=int, help="optimizer steps; default: the shipped recipe's"
    )
    pretrain.add_argument("--hours", type=float, help="hours of synthetic speech (not roberta)")
    pretrain.add_argument("--out", type=Path, help="folder; default: over the shipped encoder")
    card = add("card", _card, "Probe a demo encoder and write its model card.")
    card.add_argument("name", nargs="?", default="demo-wavlm")
    arguments = parser.parse_args(argv)
    arguments.command(arguments)


def _manifest(arguments: argparse.Namespace) -> None:
    from data_manifests.making import manifest
    from serlib.corpora.demo import corpus

    print(f"{len(manifest.build())} utterances in {corpus.MANIFEST}")


def _pretrain(arguments: argparse.Namespace) -> None:
    from data_manifests.making import pretrain, roberta, whisper

    make, config = {
        "whisper": (whisper.pretrain, whisper.WhisperConfig),
        "roberta": (roberta.pretrain, roberta.RobertaConfig),
    }.get(arguments.architecture, (pretrain.pretrain, pretrain.PretrainConfig))
    names = ["architecture", "steps", *(["hours"] if arguments.architecture != "roberta" else [])]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    print(make(config(**given), arguments.out))


def _card(arguments: argparse.Namespace) -> None:
    from data_manifests.making import card

    print(card.write(arguments.name))


if __name__ == "__main__":
    main()
