"""A small ledger, and finished runs that need no training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from serbook.claims.judge import judge
from serbook.claims.ledger import read
from serbook.claims.runs import Finished
from serbook.runner import evidence
from serlib import records
from serlib.experiments import experiment

SMALL = """
papers:
  p: {title: "A paper", cite: p, read: "all of it"}
systems:
  a: {recipe: cai2021, with: {alpha: 0.0}}
  b: {recipe: cai2021, with: {alpha: 0.1}}
groups:
  - id: p.t
    paper: p
    where: "Table 1"
    chapter: "03"
    corpus: IEMOCAP
    protocol: "as printed"
    claims:
      - {id: a.wa, says: "accuracy of a", printed: "70.0", rule: "value(a, wa)"}
      - {id: b.wa, says: "accuracy of b", printed: "72.0", rule: "value(b, wa)"}
      - {id: more, says: "b beats a", rule: "more(a, b, wa) and less(a, b, wer)", planted: "yes"}
      - {id: gain, says: "b gains", printed: "3.0", rule: "gain(a, b, wa)",
         derive: "[p.t.b.wa] - [p.t.a.wa]"}
      - {id: rank, says: "the best", rule: none, why: "nobody else is here"}
unsaid:
  - {id: u, paper: p, open: "alpha", ours: "0.1", alternative: "0", base: b, instead: a,
     metrics: "wa wer", chapter: "03"}
  - {id: v, paper: p, open: "epochs", ours: "4", note: "not measured", chapter: "03"}
"""

SAID = ["X Y"] * 80
HEARD = ["X X"] * 80  # half the words wrong, but for one talker more and for one fewer
HEARD[0], HEARD[10] = "X Y", "Z Z"


def ledger(folder):
    """`SMALL`, written to a file and read."""
    path = folder / "claims.yaml"
    path.write_text(SMALL)
    return read(path)


def home(folder, monkeypatch):
    """An empty home, and names of runs that need no weights."""
    monkeypatch.setenv("SERLIB_HOME", str(folder / "home"))

    def identity(recipe):
        key = records.digest(evidence.system_key(records.plain(recipe)))
        return f"{recipe.system}-{key}{recipe.fold}{recipe.seed}", {}

    monkeypatch.setattr(experiment, "identity", identity)
    where = {"device": "CPU", "python": "3", "packages": {"torch": "2"}}
    monkeypatch.setattr(records, "environment", lambda: where)
    return folder


def make(recipe, right, *, talkers=8, words=(), history=(), stale=False):
    """A finished run with the share `right` of 10 utterances per talker answered rightly.

    Of several talkers one has one more, and the next one fewer; who, depends on `right`.
    """
    n, hits = talkers * 10, np.full(talkers, round(10 * right))
    if talkers > 2:
        one = round(100 * right) % talkers
        hits[[one - 1, one]] += [1, -1]
    truth = np.arange(n) % 4
    wrong = np.arange(n) % 10 >= hits.repeat(10)
    table = pd.DataFrame({"truth": truth, "prediction": (truth + wrong) % 4})
    table.index = pd.Index([f"u{recipe.fold}-{i}" for i in range(n)], name="key")
    table["speaker"] = [f"t{recipe.fold}-{i // 10}" for i in range(n)]
    if words:
        table["reference"], table["hypothesis"] = words
    name = experiment.identity(recipe)[0] + ("x" if stale else "")
    run = records.Run.open(records.home() / "runs", {"recipe": records.plain(recipe)}, key=name)
    with run.lock():
        for row in history:
            run.log(**row)
        run.save_predictions("test", table)
        run.finish({"test": {}})
    return run


def judged(ledger, id, profile="full"):
    return judge(ledger, ledger[id], profile, Finished())
