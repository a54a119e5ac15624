"""The whole chain at full settings before a GPU is rented: `python -m tests.bench chain`.

Corpora laid out as IEMOCAP and MSP-Podcast, once with the test labels closed and once with open
ones, of a few synthetic utterances; the published encoders by their names, with two narrow layers
and random weights, where the hub's would lie. Then chapters 02 to 07 at profile=full as a reviewer
runs them, with data, epochs and sweeps cut by parameters; heads and recipes are the full ones.
Each by the book's runner, and once more by papermill alone. What a chapter asks of a corpus, of an
encoder or of another chapter fails here in minutes, and not there after hours. Scores and speeds
mean nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import nbformat
import pandas as pd

from serbook.plan.architectures import PUBLISHED
from serbook.runner import chapters, notebooks
from serlib import __main__ as cli
from serlib import records
from tests.bench import weights
from tests.bench.rehearse import on_device
from tests.trees import trees

CHAPTERS = ("02", "03", "04", "05", "06", "07")
CORPORA = {  # by name: layout and release
    "iemocap": ("iemocap", ""),
    "msp-podcast": ("msp-podcast", "is2025"),  # no test labels: dev takes their place
    "msp-podcast-open": ("msp-podcast", "1.12"),
}
CUTS = {  # one of each that a chapter sweeps over; two seeds, where that does not take minutes
    "03": {"alphas": [0.0, 0.1], "label_seeds": [0]},
    "04": {"seeds": [0]},
    "05": {"frozen_epochs": 1, "tuned_seeds": [0], "betas": [1.0], "sigmas": [1.0]},
    "06": {"frozen_epochs": 1, "tuned_seeds": [0], "probe_rows": 50},
    "07": {"sigmas": [1.0], "weights": [1.0]},
}


class ChainError(RuntimeError):
    """What a chapter needs could not be made; the message is that of the command that failed."""


def prepare(folder: Path, corpora: Iterable[str], utterances: int) -> dict[str, Path]:
    """Trees with their manifests, and encoders; what is there stays. The folders of the trees."""
    found = {}
    for name in corpora:
        layout, version = CORPORA[name]
        found[name] = tree = folder / f"{name}-{utterances}"
        if (file := tree / f"{layout}.csv").exists():
            continue
        shutil.rmtree(tree, ignore_errors=True)
        trees.write(layout, tree, utterances=utterances, version=version)
        build = [*map(str, ("manifest", "build", layout, "--root", tree, "--out", file))]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            failed = cli.main([*build, "--quiet"])
        if failed:
            raise ChainError(f"serlib {' '.join(build)} failed: {said.getvalue()}")
    for name in PUBLISHED:
        there = records.home() / "encoders" / name
        if not there.exists():
            shutil.copytree(weights.write(name, layers=2, width=32), there)
    return found


def run(
    folder: Path, names: Iterable[str] = CHAPTERS, *, corpora: Iterable[str] = tuple(CORPORA),
    utterances: int = 160, epochs: int = 1, device: str = "cpu",
) -> Iterator[dict]:  # fmt: skip
    """Execute chapters, by number, on each corpus; yield a row for each as it ends.

    Args:
        folder: Keeps all of it: what ran is not run again. Its `home` is $SERLIB_HOME meanwhile.
        names: Chapters.
        corpora: Of `CORPORA`.
        utterances: Of each tree.
        epochs: Of each fine-tuning.
        device: "cpu" hides a GPU from the chapters; "cuda" leaves it to them.

    Yields:
        ``chapter``; ``corpus``; ``minutes``; ``runs``, that it made; ``verdict``, "ok" or the line
        that says what went wrong; ``cell``, where.
    """
    folder = folder.resolve()
    setting = {"SERLIB_HOME": str(folder / "home")}
    setting |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    with mock.patch.dict("os.environ", setting), on_device(device):
        roots = prepare(folder, corpora, utterances)
        for name in names:
            for corpus, root in roots.items():
                given = {"corpus": CORPORA[corpus][0], "data_root": str(root), "epochs": epochs}
                before, began = finished(), time.perf_counter()
                done = chapters.execute(name, "full", {**given, **CUTS.get(name[:2], {})})
                minutes = (time.perf_counter() - began) / 60
                made = {"minutes": minutes, "runs": len(finished() - before)}
                yield {"chapter": done.chapter, "corpus": corpus} | made | verdict(done)
                if done.ok and root is next(iter(roots.values())):  # once is enough for each
                    began, wrong = time.perf_counter(), stock(done)
                    made = {"minutes": (time.perf_counter() - began) / 60, "runs": 0}
                    told = {"verdict": "failed" if wrong else "ok", "cell": wrong}
                    yield {"chapter": f"papermill {done.chapter}", "corpus": corpus} | made | told


def stock(done: chapters.ChapterRun) -> str:
    """Run a chapter again as its readers may, by papermill alone, on the runs there are.

    Returns what papermill said if it failed.
    """
    source = notebooks.find(done.chapter)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / f"{name}.ipynb" for name in ("before", "after"))
        nbformat.write(notebooks.read(source), before)
        command = [sys.executable, "-m", "papermill", before, after, "--no-progress-bar"]
        given = ["--parameters_yaml", json.dumps(done.parameters)]
        ran = subprocess.run([*command, *given], capture_output=True, text=True)
    return ran.stderr if ran.returncode else ""


def verdict(done: chapters.ChapterRun) -> dict[str, str]:
    """Whether a chapter ran to its end; else what was raised, and in which cell."""
    if done.ok:
        return {"verdict": "ok", "cell": ""}
    raised = re.findall(r"^\w*(?:Error|Exception|Timeout)\b.*", done.error, re.MULTILINE)
    return {"verdict": raised[-1] if raised else "failed", "cell": done.error}


def finished() -> set[str]:
    """Names of the runs that are done."""
    return {path.parent.name for path in (records.home() / "runs").glob("*/status.json")}


def show(rows: Iterable[dict]) -> pd.DataFrame:
    """Print each row as it comes, with the cell of one that failed; a table of all."""
    kept = []
    for row in rows:
        told = "{chapter} on {corpus}: {minutes:.1f} min, {runs} runs, {verdict}".format(**row)
        print("\n\n".join(filter(None, (told, row["cell"]))), flush=True)
        kept.append(row)
    return pd.DataFrame(kept).drop(columns="cell")
