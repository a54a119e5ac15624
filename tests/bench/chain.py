"""The whole chain at full settings before a GPU is rented: `python -m tests.bench chain`.

Corpora laid out as IEMOCAP and MSP-Podcast (its test labels closed, as they are), of a few
synthetic utterances; the published encoders by their names, with few narrow layers and random
weights, where the hub's would lie. Then chapters 02 to 07 at profile=full as a reviewer runs them,
with data, epochs and sweeps cut by parameters. What a chapter asks of a corpus, of an encoder or of
another chapter fails here in minutes, and not there after hours. Scores and speeds mean nothing.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import pandas as pd

from serbook.plan.architectures import PUBLISHED
from serbook.runner import chapters
from serlib import __main__ as cli
from serlib import records
from tests.bench import weights
from tests.bench.rehearse import on_device
from tests.trees import trees

LAYOUTS = ("iemocap", "msp-podcast")
CHAPTERS = ("02", "03", "04", "05", "06", "07")
CUTS = {  # one of each that a chapter sweeps over
    "03": {"alphas": [0.0, 0.1], "label_seeds": [0]},
    "05": {"frozen_epochs": 1, "tuned_seeds": [0], "betas": [1.0], "sigmas": [1.0]},
    "06": {"frozen_epochs": 1, "tuned_seeds": [0], "probe_rows": 50},
    "07": {"sigmas": [1.0], "weights": [1.0]},
}


class ChainError(RuntimeError):
    """What a chapter needs could not be made; the message is that of the command that failed."""


def prepare(folder: Path, utterances: int, layouts: Iterable[str] = LAYOUTS) -> None:
    """Trees with their manifests, and encoders; what is there stays."""
    for layout in layouts:
        tree = folder / f"{layout}-{utterances}"
        file = tree / f"{layout}.csv"
        if file.exists():
            continue
        shutil.rmtree(tree, ignore_errors=True)
        trees.write(layout, tree, utterances=utterances)
        build = [*map(str, ("manifest", "build", layout, "--root", tree, "--out", file))]
        if cli.main([*build, "--quiet"]):
            raise ChainError(f"serlib {' '.join(build)} failed")
    for name in PUBLISHED:
        there = records.home() / "encoders" / name
        if not there.exists():
            shutil.copytree(weights.write(name, layers=2, width=32), there)


def run(
    folder: Path, names: Iterable[str] = CHAPTERS, *, utterances: int = 160, epochs: int = 1,
    layouts: Iterable[str] = LAYOUTS, device: str = "cpu",
) -> Iterator[dict]:  # fmt: skip
    """Execute chapters, by number, on each corpus; yield a row for each as it ends.

    Args:
        folder: Keeps all of it: what ran is not run again. Its `home` is $SERLIB_HOME meanwhile.
        names: Chapters.
        utterances: Of each tree.
        epochs: Of each fine-tuning.
        layouts: Corpora, of `LAYOUTS`.
        device: "cpu" hides a GPU from the chapters; "cuda" leaves it to them.

    Yields:
        ``chapter``; ``corpus``; ``minutes``; ``runs``, that it made; ``verdict``, "ok" or the last
        line of what went wrong; ``cell``, where.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    home = {"SERLIB_HOME": str(folder.resolve() / "home")}
    with mock.patch.dict("os.environ", home | hidden), on_device(device):
        prepare(folder, utterances, layouts)
        for name in names:
            for layout in layouts:
                root = str(folder.resolve() / f"{layout}-{utterances}")
                given = {"corpus": layout, "data_root": root, "seeds": [0, 1], "epochs": epochs}
                before, began = finished(), time.perf_counter()
                done = chapters.execute(name, "full", given | CUTS.get(name[:2], {}))
                yield {
                    "chapter": done.chapter,
                    "corpus": layout,
                    "minutes": (time.perf_counter() - began) / 60,
                    "runs": len(finished() - before),
                } | verdict(done)


def verdict(done: chapters.ChapterRun) -> dict[str, str]:
    """ "ok", or what went wrong and in which cell."""
    if done.ok:
        return {"verdict": "ok" + ", was finished" * done.cached, "cell": ""}
    where, _, rest = done.error.partition("\n\n")
    raised = re.findall(r"^\w*(?:Error|Exception|Timeout|Interrupt)\b.*", rest, re.MULTILINE)
    return {"verdict": raised[-1] if raised else "failed", "cell": f"{where}\n{rest}"}


def finished() -> set[str]:
    """Names of the runs that are done."""
    return {path.parent.name for path in (records.home() / "runs").glob("*/status.json")}


def show(rows: Iterable[dict], told=print) -> pd.DataFrame:
    """Print each row as it comes, with the cell of one that failed; a table of all."""
    kept = []
    for row in rows:
        told("{chapter} on {corpus}: {minutes:.1f} min, {runs} runs, {verdict}".format(**row))
        if row["cell"]:
            told(row["cell"])
        kept.append(row)
    return pd.DataFrame(kept).drop(columns="cell")
