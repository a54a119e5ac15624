"""Run the least that decides one claim: what its rule names and is not there yet.

What a rule asks on another corpus than that of the training is scored here, which no chapter does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np

from serbook.claims.judge import Finding, arithmetic, judge
from serbook.claims.ledger import Ledger, read
from serbook.claims.runs import Finished
from serlib import records
from serlib.data import batching, manifest
from serlib.data.stores import WaveStore
from serlib.experiments import dataset, experiment
from serlib.experiments.dataset import Data
from serlib.experiments.inputs import inputs
from serlib.experiments.sweep import sweep
from serlib.recipes.recipe import Recipe, RecipeError
from serlib.tasks.targets import speakers, task_targets
from serlib.training import evaluation


def decide(
    id: str,
    profile: str = "demo",
    *,
    seeds: Iterable[int] = (0, 1),
    roots: Mapping[str, str] | None = None,
    progress: bool = True,
    workers: int | None = None,
    ledger: Ledger | None = None,
) -> Finding:
    """Run the least that decides one claim, and judge it; `progress` and `workers` as in `sweep`.

    Every system that the rule names gets the `seeds`; finished runs are only read. The full tier
    needs `roots`, the folder of each corpus, such as {"iemocap": "/data/IEMOCAP"}. No `ledger` is
    the book's.

    Raises:
        ClaimError: There is no such claim.
        RecipeError: A corpus is not where it must be.
    """
    ledger, roots = ledger or read(), dict(roots or {})
    claim = ledger[id]
    runnable = claim.kind == "direction" or (claim.kind == "number" and profile == "full")
    if not runnable or arithmetic(ledger, claim) is not None:
        return judge(ledger, claim, profile, Finished())
    if missing := {step.role for step in claim.steps} - {"test"} - set(roots):
        name = sorted(missing)[0]
        raise RecipeError(f"the claim is scored on {name}: say where it is, --root {name}=DIR")
    systems = {name: ledger.recipe(name, profile, roots) for name in claim.systems}
    finished = Finished()
    there = {name: finished.runs(recipe) for name, recipe in systems.items()}
    if asked := [recipe.change(seed=seed) for name, recipe in systems.items()
                 for seed in seeds if (seed, recipe.fold) not in there[name]]:  # fmt: skip
        sweep(asked, progress=progress, workers=workers)
    finished = Finished()
    for step in claim.steps:
        for name in step.systems if step.role != "test" else ():
            for recipe, run in finished.runs(systems[name]).values():
                elsewhere(recipe, run, step.role, roots[step.role], progress)
    return judge(ledger, claim, profile, Finished())


def elsewhere(
    recipe: Recipe, run: records.Run, corpus: str, root: str, progress: bool = True
) -> None:
    """Score a trained run on all labeled clips of another corpus, as its predictions of that name.

    Classes that the other corpus does not have are not answered: their probabilities are dropped,
    the mapping (a) of chapter 04. A clip whose speaker is unknown has a speaker of its own.

    The run, finished by `recipe`, gets `predictions_<corpus>.csv`, unless it has it. The other
    corpus has its manifest at `root`/<corpus>.csv, whose paths start from `root`.
    """
    with suppress(records.RecordError):  # none, or one that a killed process left
        run.predictions(corpus)
        return
    there = recipe.change(corpus=corpus, data_root=str(root))
    df, folder = dataset.locate(there)
    label = manifest.label_ids(df, recipe.classes, dict(recipe.merge))
    table = df.assign(label=label, role="test")[label >= 0].reset_index(drop=True)
    if table.empty:
        raise RecipeError(f"{corpus} has no utterance of the classes {', '.join(recipe.classes)}")
    store = WaveStore.from_manifest(table, folder, progress=progress)
    data = Data(table, store, np.bincount(table["label"], minlength=len(recipe.classes)))
    model = experiment.restore(run)
    targets, _ = task_targets(table, recipe.model.tasks)
    clips, quantum = inputs(there, data, model.encoder, targets)
    plan = batching.DurationBatchSampler(
        store.durations, budget_seconds=recipe.train.budget_seconds, seed=0, shuffle=False
    )
    answers = evaluation.predict(model, clips.batches(plan.epoch(0), quantum))
    answers["prediction"] = known_classes(answers, data.counts > 0)
    answers["speaker"] = speakers(table).reindex(answers.index)
    with run.lock():
        run.save_predictions(corpus, answers)


def known_classes(answers, present: np.ndarray) -> np.ndarray:
    """The most probable of the classes that are present, per row."""
    p = answers[[f"p_{c}" for c in range(len(present))]].to_numpy()
    return np.where(present, p, -1.0).argmax(1)
