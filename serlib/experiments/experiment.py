"""From a recipe to its result: a system trained on `serlib.data`, test scored once.

`run` trains an experiment, or reads it if it was done before. An experiment is known by a hash of
its recipe, the manifest, the package's source and the encoder's weights.
"""

from __future__ import annotations

import functools
import shutil
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace

import pandas as pd
import safetensors.torch
import torch

from serlib import records
from serlib.data import batching
from serlib.experiments import dataset, floors, remarks
from serlib.experiments.dataset import Data, load
from serlib.experiments.inputs import default_device, frozen, inputs, transcripts, unchanged
from serlib.experiments.screen import lines, quiet
from serlib.models import fusion
from serlib.models.encoders.load import load_encoder
from serlib.models.pooling import standardize
from serlib.models.recognizer import SER, ModelConfig
from serlib.recipes.recipe import GUESSERS, TRAINED, Recipe, RecipeError
from serlib.tasks.loss import gradient_cosine, task_losses, total_loss
from serlib.tasks.targets import speakers, task_targets
from serlib.training import evaluation, loop, processes, selection, speed

TRANSCRIBED = 20  # dev utterances whose transcripts are kept after every epoch
STALE = 3600  # seconds after its last write that a half-written file is nobody's
DIAGNOSED = 4  # batches of dev, or a few more, that the tasks' gradients are compared on


def record(recipe: Recipe) -> records.Run:
    """The run folder of a recipe, finished or not."""
    key, config = identity(recipe)
    return records.Run.open(records.home() / "runs", config, key=key)


def identity(recipe: Recipe) -> tuple[str, dict]:
    """The name of a recipe's run folder, and its config; nothing is written."""
    recipe = dataset.taught(recipe)
    config = {"recipe": asdict(recipe.nameless()), "manifest": dataset.digest(recipe)}
    return f"{recipe.system}-{records.digest([config, _sources(recipe)])}", config


def needs(recipe: Recipe) -> list[Recipe]:
    """The recipes that must have run before this one: what it starts from, or only predicts with.

    Those may have needs of their own.
    """
    if recipe.transcript != "manifest":
        return [*filter(None, [recipe.recognizer]), _taught(recipe)]
    return [] if recipe.start is None else [recipe.start]


def _taught(recipe: Recipe) -> Recipe:
    """The recipe of the training that a recipe with other transcripts predicts with."""
    return replace(recipe, transcript="manifest", recognizer=None)


def run(recipe: Recipe, *, progress: bool = True) -> records.Run:
    """Train and test one experiment, or read it if it was done before.

    The epoch, or the floor's penalty, is chosen on dev; test is scored once, afterwards. A second
    process that asks for the same run waits for the first and reads its result. Processes that
    `accelerate launch` started do it together.
    """
    recipe = dataset.taught(recipe)
    if not recipe.fold:
        raise RecipeError("fold=0 is all folds, several runs: give the recipe to sweep")
    with quiet(not progress or not processes.main()):
        with processes.one_first():
            found = record(recipe)
        if processes.say(found.done):  # the first process writes, and its word on that counts
            found.checked()
            # Of no more use; one that is killed before it can delete it leaves it to the next.
            shutil.rmtree(found.path / "checkpoint", ignore_errors=True)
            return found
        for before in needs(recipe):
            try:
                run(before)
            except RecipeError as error:
                told = f"{before.name}, which {recipe.name} builds on: {error}"
                fresh = "; or begin without it, --set start=None" if recipe.start else ""
                raise RecipeError(told + fresh) from None
        with found.lock() if processes.main() else nullcontext():
            if not processes.say(found.done):
                _work(recipe, found)
            processes.gather("done")
        return found


def _work(recipe: Recipe, found: records.Run) -> None:
    """Do what a recipe asks; one of several processes writes."""
    if not (trains := recipe.system in TRAINED) and not processes.main():
        return
    if processes.main():
        _sweep_features()
    with processes.one_first() if trains else nullcontext():
        data = load(recipe)
    if not trains:
        predictions, facts = floors.fit(recipe, data)
    else:
        system = _fine_tune if recipe.transcript == "manifest" else _reread
        predictions, facts = system(recipe, data, found)
    if not processes.main():
        return
    scores = {}
    for role, table in predictions.items():
        table["speaker"] = speakers(data.table).reindex(table.index)
        found.save_predictions(role, table)
        scores[role] = evaluation.score(table, len(recipe.classes))
    found.finish({**scores, **facts})
    shutil.rmtree(found.path / "checkpoint", ignore_errors=True)  # of no more use


def _sweep_features() -> None:
    """Delete features that nobody has gone on writing for an hour, as killed processes leave."""
    for half in (records.home() / "features").glob("*.partial"):
        with suppress(OSError):  # somebody else was first
            if time.time() - half.stat().st_mtime > STALE:
                half.unlink()


def trained(recipe: Recipe) -> SER | fusion.Fusion:
    """The model of a run with the weights of its best epoch, in eval mode; trained if need be.

    Of all folds, that of the first.
    """
    return restore(run(dataset.in_folds(_taught(recipe))[0]))


def restore(run: records.Run) -> SER | fusion.Fusion:
    """A finished run's model in eval mode, not compiled, from its folder; no frozen experts."""
    about = records.read_json(run.checked("config.json", "model.json"))
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in about["model"].items()}
    if "widths" in about:
        config = fusion.FusionConfig(**settings)
        tuned = fusion.load(config, names=config.tuned)
        model = fusion.Fusion(config, about["widths"], tuned=tuned)
    else:
        model = SER(ModelConfig(**settings | {"compile": False}), n_speakers=len(about["speakers"]))
        unchanged(run, {model.config.encoder: model.encoder})
    model.load_state_dict(safetensors.torch.load_file(run.checked("model.safetensors")))
    return model.eval()


def _sources(recipe: Recipe) -> list[str]:
    """What decides a result beside the recipe: the package's source and the encoders' weights."""
    if recipe.system in ("svm", *GUESSERS):
        return [records.source_digest()]
    names = recipe.model.experts if recipe.system == "fusion" else [recipe.model.encoder]
    weights = [_weights(name, recipe.model.random_init) for name in names]
    heard = [] if recipe.recognizer is None else _sources(recipe.recognizer)
    return [records.source_digest(), *weights, *heard]


@functools.cache
def _weights(name: str, random_init: bool) -> str:
    return load_encoder(name, random_init=random_init).digest()


def _fine_tune(recipe: Recipe, data: Data, record: records.Run):
    """Train a model on train, keep its best epoch on dev, and predict dev and test."""
    wanted = recipe.model.tasks
    targets, taught = task_targets(data.table, wanted, recipe.speaker_labels, recipe.seed)
    model, about, given = _build(recipe, data, targets, len(taught))
    about |= {"classes": recipe.classes, "speakers": taught, "recipe": recipe.name}
    about["trained_on"] = remarks.speech(data.table)
    if processes.main():
        records.write_json(record.path / "model.json", about)
    _start(model, recipe)
    plan = {role: _plan(recipe, data, role) for role in ("train", "dev")}
    if recipe.model.standardize and recipe.start is None:
        of_train = _batches(data, given, "train", plan["train"].epoch(0))
        standardize(model.to(default_device()), of_train)

    def share(epoch: int) -> batching.Batches:
        return _batches(data, given, "train", plan["train"].epoch(epoch, **processes.place()))

    judged: list[pd.DataFrame] = []  # dev after each epoch since a process began or went on

    def judge(model) -> dict[str, float]:
        judged.append(table := _predict(model, recipe, data, given, "dev"))
        scores = evaluation.score(table, len(recipe.classes))
        if "hypothesis" in table and processes.main():
            heard = table[["reference", "hypothesis"]].head(TRANSCRIBED)
            record.save_predictions(f"dev_epoch_{len(record.history()) + 1:03d}", heard)
        if {"macro_f1", "ccc"} <= set(scores):
            scores["both"] = (scores["macro_f1"] + scores["ccc"]) / 2
        if getattr(model, "layer_sum", None) is not None:
            scores |= {f"layer_{i}": w for i, w in enumerate(model.layer_sum.weights.tolist())}
        if recipe.diagnose:
            dev, terms = plan["dev"].epoch(0), task_losses(recipe.loss, wanted, data.counts)
            some = _batches(data, given, "dev", dev[:: max(1, len(dev) // DIAGNOSED)])
            scores |= gradient_cosine(model, terms, some)
        return scores

    loss, config = total_loss(recipe.loss, wanted, data.counts), recipe.train
    config = replace(config, seed=recipe.seed)
    history = loop.fit(model, loss, share, judge, config, record, lines())
    facts = {"throughput": speed.summary(history)}
    if "asr" in wanted:
        usable = targets["n_tokens"][data.rows("train")] > 0
        facts |= {"train_transcripts": int(usable.sum()), "train_without": int((~usable).sum())}
        facts |= remarks.repetition(data.table)
    dev = selection.of_selected(judged, history.to_dict("records"), config.select)
    dev = _predict(model, recipe, data, given, "dev") if dev is None else dev
    return {"dev": dev, "test": _predict(model, recipe, data, given, "test")}, facts


def _build(recipe: Recipe, data: Data, targets: dict, n_speakers: int):
    """The model before training, what to restore it from, and its `inputs`."""
    about = {"model": asdict(recipe.model)}
    if recipe.system == "fine-tune":
        model = SER(recipe.model, n_speakers=n_speakers, seed=recipe.seed)
        about["frozen"] = frozen({recipe.model.encoder: model.encoder})
        return model, about, inputs(recipe, data, model.encoder, targets)
    experts = fusion.load(recipe.model, seed=recipe.seed)
    about["frozen"] = frozen(experts)
    about["widths"] = {name: encoder.width for name, encoder in experts.items()}
    tuned = {name: experts[name] for name in recipe.model.tuned}
    model = fusion.Fusion(recipe.model, about["widths"], seed=recipe.seed, tuned=tuned)
    return model, about, inputs(recipe, data, experts, targets)


def _plan(recipe: Recipe, data: Data, role: str) -> batching.DurationBatchSampler:
    return batching.DurationBatchSampler(
        data.store.durations[data.rows(role)],
        budget_seconds=recipe.train.budget_seconds,
        seed=recipe.seed,
        max_clips=recipe.max_clips if role == "train" else None,
        shuffle=role == "train",
    )


def _batches(data: Data, given: tuple, role: str, chosen: list[list[int]]) -> batching.Batches:
    """Batches of `inputs`, each a list of places among the utterances of a role."""
    (clips, quantum), rows = given, data.rows(role)
    return clips.batches([rows[batch] for batch in chosen], quantum)


def _predict(
    model: torch.nn.Module, recipe: Recipe, data: Data, given: tuple, role: str, device=None
) -> pd.DataFrame:
    """The predictions of all utterances of a role, by all processes together."""
    mine = _batches(data, given, role, processes.share(_plan(recipe, data, role).epoch(0)))
    table = evaluation.predict(model, mine, device, precision=recipe.train.precision)
    return evaluation.together(table, data.table["key"].iloc[data.rows(role)])


def _start(model: torch.nn.Module, recipe: Recipe) -> None:
    """Give a model the weights that its recipe starts from, all of them."""
    if recipe.start is None:
        return
    path = run(recipe.start).checked("model.safetensors")
    weights, own = safetensors.torch.load_file(path), model.state_dict()
    # An encoder that was frozen before is in the same state as when it was loaded.
    before = {k: x for k, x in own.items() if k.startswith(("encoder.", "encoders."))}
    weights = before | weights
    shapes = [{name: tuple(x.shape) for name, x in state.items()} for state in (weights, own)]
    if wrong := sorted(dict(shapes[0].items() ^ shapes[1].items())):
        there, here = (shape.get(wrong[0], "not there") for shape in shapes)
        raise RecipeError(
            f"{recipe.name!r} cannot start from {recipe.start.name!r}: {len(wrong)} weights do not "
            f"fit, such as {wrong[0]}, {there} where {here} is needed; give both the same model"
        )
    model.load_state_dict(weights)


def _reread(recipe: Recipe, data: Data, record: records.Run):
    """Predict dev and test with a trained fusion, whose experts of text read something else."""
    base, heard = run(_taught(recipe)), {}
    if recipe.recognizer is not None:
        source = run(recipe.recognizer)
        for role in ("dev", "test"):
            heard |= source.predictions(role)["hypothesis"].to_dict()
    model, experts = restore(base), fusion.load(recipe.model, seed=recipe.seed)
    if all(encoder.modality == "speech" for encoder in experts.values()):
        raise RecipeError(f"transcript={recipe.transcript!r}: none of the experts reads text")
    experts |= {name: model.encoders[fusion.key(name)] for name in recipe.model.tuned}
    targets, _ = task_targets(data.table, recipe.model.tasks, recipe.speaker_labels, recipe.seed)
    texts, roles = transcripts(recipe, data, heard), ("dev", "test")
    given = inputs(recipe, data, experts, targets, texts=texts, roles=roles)
    device = default_device()
    found = {role: _predict(model, recipe, data, given, role, device) for role in roles}
    return found, {"model": base.path.name}
