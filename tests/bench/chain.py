"""The whole chain at full settings before a GPU is rented: `python -m tests.bench chain`.

Corpora laid out as IEMOCAP and MSP-Podcast, of a few synthetic utterances; the published encoders
by their names, with two narrow layers and random weights, where the hub's would lie. Then chapters
02 to 07 at profile=full as a reviewer runs them, with one seed and the sweeps cut by parameters.
What a chapter asks of a corpus, an encoder or another chapter fails here in minutes, and not there
after hours. Numbers mean nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import pandas as pd

from serbook.plan.architectures import PUBLISHED
from serbook.runner import chapters, notebooks
from serlib import __main__ as cli
from tests.bench import weights
from tests.trees import trees

LAYOUTS = ("iemocap", "msp-podcast")
CUTS = {  # one of each that a chapter sweeps over
    "03": {"alphas": [0.0, 0.1], "label_seeds": [0]},
    "05": {"tuned_seeds": [0], "betas": [1.0], "sigmas": [1.0]},
    "06": {"tuned_seeds": [0], "frozen_epochs": 1},
    "07": {"sigmas": [1.0], "weights": [1.0]},
}


class ChainError(RuntimeError):
    """Something on the way does not hold; the message is that of the command that failed."""


def prepare(folder: Path, utterances: int) -> None:
    """Trees with their manifests, and encoders; what is there stays."""
    for layout in LAYOUTS:
        tree = folder / layout
        if not (tree / f"{layout}.csv").exists():
            shutil.rmtree(tree, ignore_errors=True)
            trees.write(layout, tree, utterances=utterances)
            build = ["manifest", "build", layout, "--root", tree, "--out", tree / f"{layout}.csv"]
            if cli.main([*map(str, build), "--quiet"]):
                raise ChainError(f"serlib {' '.join(map(str, build))} failed")
    for name in PUBLISHED:
        there = folder / "home" / "encoders" / name
        if not there.exists():
            shutil.copytree(weights.write(name, layers=2, width=32), there)


def run(
    folder: Path, names: Iterable[str] = (), *, utterances: int = 160,
    layouts: Iterable[str] = LAYOUTS,
) -> pd.DataFrame:  # fmt: skip
    """Run chapters, by number, on each layout; one row for each, with minutes and what went wrong.

    `folder` keeps all of it, so that what ran is not run again.
    """
    rows = {}
    with mock.patch.dict("os.environ", SERLIB_HOME=str(folder / "home")):
        prepare(folder, utterances)
        for number in names or ("02", "03", "04", "05", "06", "07"):
            for layout in layouts:
                given = {"corpus": layout, "data_root": str(folder / layout), "seeds": [0]}
                began = time.perf_counter()
                done = chapters.execute(
                    notebooks.find(number), "full", given | CUTS.get(number, {})
                )
                minutes = (time.perf_counter() - began) / 60
                wrong = "" if done.ok else done.error.strip().splitlines()[-1]
                rows[number, layout] = {"minutes": minutes, "ok": done.ok, "error": wrong}
                print(f"{number} on {layout}: {'ok' if done.ok else wrong}", flush=True)
    return pd.DataFrame.from_dict(rows, orient="index")
