"""From a recipe to its result: the data divided and decoded, a system trained, test scored once.

`run` trains an experiment, or reads it if it was done before. An experiment is known by a hash of
its recipe, the manifest, the package's source and the encoder's weights.
"""

from __future__ import annotations

import functools
import io
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
from tqdm.auto import tqdm

from serlib import (
    audio,
    batching,
    encoders,
    evaluation,
    features,
    floors,
    manifest,
    records,
    tasks,
    training,
)
from serlib.demo import corpus as demo_corpus
from serlib.model import SER, ModelConfig
from serlib.recipes import Recipe, RecipeError

STORE_GB = 4  # features of a frozen encoder are stored up to this size: 10 hours of CNN output
TRANSCRIBED = 20  # dev utterances whose transcripts are kept after every epoch
DIAGNOSED = 4  # batches of dev, or a few more, that the tasks' gradients are compared on
SMOKE = {"train": 150, "dev": 60, "test": 80}  # labeled utterances of the slice


@dataclass(frozen=True)
class Data:
    """The utterances of one experiment: labeled, divided, decoded."""

    table: pd.DataFrame  # manifest rows with columns `role` and `label`
    store: batching.WaveStore
    counts: np.ndarray  # (C,) training utterances per class

    def rows(self, role: str) -> np.ndarray:
        """Positions of the utterances of one role."""
        return np.flatnonzero(self.table["role"].to_numpy() == role)


def locate(recipe: Recipe) -> tuple[pd.DataFrame, Path]:
    """The manifest of a recipe's corpus and the folder its paths start from."""
    path, root = _place(recipe)
    df, _ = _manifest(path, path.stat().st_mtime_ns)
    return df.copy(), demo_corpus.make(df) if root is None else root


def _place(recipe: Recipe) -> tuple[Path, Path | None]:
    """Where a recipe's manifest is, and its root (None: the demo corpus's, in the cache)."""
    if recipe.corpus == "demo":
        return demo_corpus.MANIFEST, None
    if not recipe.data_root:
        raise RecipeError("profile='full' needs data_root, the folder of the corpus")
    path = Path(recipe.corpus)
    if path.suffix not in (".csv", ".jsonl"):
        path = Path(recipe.data_root) / f"{recipe.corpus}.csv"
    if not path.exists():
        make = f"serlib manifest build {path.stem} --root {recipe.data_root} --out {path}"
        raise RecipeError(f"no manifest {path}; make it ({make}) or name another one")
    return path, Path(recipe.data_root)


@functools.lru_cache(maxsize=2)
def _manifest(path: Path, stamp: int) -> tuple[pd.DataFrame, str]:
    """A manifest and its digest, read again when the file changes."""
    df = manifest.read(path)
    return df, manifest.digest(df)


def assign(recipe: Recipe, df: pd.DataFrame) -> pd.DataFrame:
    """Rows that take part, with `role` (train, dev, test) and `label`; leaks are refused."""
    df = df.assign(
        role=manifest.protocol(
            df, recipe.protocol, fold=recipe.fold, seed=recipe.seed, allow_leaks=recipe.allow_leaks
        ),
        label=manifest.label_ids(df, recipe.classes, dict(recipe.merge)),
    )
    df = df[df["role"].notna() & (df["label"] >= 0)]
    if recipe.profile == "smoke":
        roles = [(df[df["role"] == role], n) for role, n in SMOKE.items()]
        df = pd.concat([rows.iloc[:: max(1, len(rows) // n)].head(n) for rows, n in roles])
    df = df.reset_index(drop=True)
    part = {role: df[df["role"] == role] for role in ("train", "dev", "test")}
    for role, rows in part.items():
        if rows.empty:
            raise RecipeError(f"protocol {recipe.protocol!r} leaves no labeled {role} utterances")
    if not recipe.allow_leaks:
        manifest.assert_disjoint(part["train"], part["dev"], part["test"])
    return df


def load(recipe: Recipe, *, progress: bool = True) -> Data:
    """Read, divide and decode the data of a recipe."""
    df, root = locate(recipe)
    table = assign(recipe, df)
    store = _store(recipe, table, root, progress)
    counts = np.bincount(
        table.loc[table["role"] == "train", "label"], minlength=len(recipe.classes)
    )
    return Data(table, store, counts)


_STORES: dict[tuple, batching.WaveStore] = {}  # the last corpus decoded, shared by a sweep's runs


def _store(recipe: Recipe, table: pd.DataFrame, root: Path, progress: bool) -> batching.WaveStore:
    key = (str(root), recipe.max_seconds, records.digest(table["key"].tolist()))
    if key not in _STORES:
        _STORES.clear()
        if recipe.max_seconds is not None:
            long = table["length"] > recipe.max_seconds
            end = table["start"].fillna(0.0) + recipe.max_seconds
            table = table.assign(end=table["end"].mask(long, end))
        _STORES[key] = batching.WaveStore.from_manifest(table, root, progress=progress)
    return _STORES[key]


def record(recipe: Recipe) -> records.Run:
    """The run folder of a recipe, finished or not."""
    path, _ = _place(recipe)
    _, digest = _manifest(path, path.stat().st_mtime_ns)
    config = {"recipe": asdict(recipe) | {"name": None}, "manifest": digest}
    key = f"{recipe.system}-{records.digest([config, _sources(recipe)])}"
    return records.Run.open(records.home() / "runs", config, key=key)


def run(recipe: Recipe, *, progress: bool = True) -> records.Run:
    """Train and test one experiment, or read it if it was done before.

    The epoch, or the floor's penalty, is chosen on dev; test is scored once, afterwards. A second
    process that asks for the same run waits for the first and reads its result.
    """
    found = record(recipe)
    if found.done:
        return found
    with found.lock():
        if not found.done:
            data = load(recipe, progress=progress)
            system = _fine_tune if recipe.system == "fine-tune" else _floor
            predictions, facts = system(recipe, data, found, progress)
            speaker = data.table.set_index("key")["speaker"]
            scores = {}
            for role, table in predictions.items():
                table["speaker"] = speaker.reindex(table.index)
                found.save_predictions(role, table)
                scores[role] = evaluation.score(table, len(recipe.classes))
            found.finish({**scores, **facts})
            shutil.rmtree(found.path / "checkpoint", ignore_errors=True)  # of no more use
    return found


def trained(recipe: Recipe) -> SER:
    """The model of a fine-tuning run with the weights of its best epoch; trained if need be."""
    return restore(run(recipe))


def restore(run: records.Run) -> SER:
    """The model of a finished fine-tuning run, in eval mode, from its folder alone."""
    about = records.read_json(run.path / "model.json")
    settings = about["model"] | {"tasks": tuple(about["model"]["tasks"])}
    model = SER(ModelConfig(**settings), n_speakers=len(about["speakers"]))
    model.load_state_dict(safetensors.torch.load_file(run.path / "model.safetensors"))
    return model.eval()


def _sources(recipe: Recipe) -> list[str]:
    """What decides a result beside the recipe: the package's source and the encoder's weights."""
    if recipe.system in ("svm", *floors.GUESSERS):
        return [records.source_digest()]
    return [records.source_digest(), _weights(recipe.model.encoder, recipe.model.random_init)]


@functools.cache
def _weights(name: str, random_init: bool) -> str:
    return encoders.load(name, random_init=random_init).digest()


def _fine_tune(recipe: Recipe, data: Data, record: records.Run, progress: bool):
    """Train a `SER` on train, keep its best epoch on dev, and predict dev and test."""
    wanted, c = recipe.model.tasks, len(recipe.classes)
    targets, speakers = tasks.targets(data.table, wanted, recipe.speaker_labels, recipe.seed)
    model = SER(recipe.model, n_speakers=len(speakers), seed=recipe.seed)
    about = {"model": asdict(recipe.model), "classes": recipe.classes, "speakers": speakers}
    records.write_json(record.path / "model.json", about | {"recipe": recipe.name})
    clips, quantum = inputs(recipe, data, model.encoder, targets, progress)
    plan = {role: _plan(recipe, data, role) for role in ("train", "dev", "test")}
    terms = tasks.task_losses(recipe.loss, wanted, data.counts)

    def batches(role: str, epoch: int = 0, every: int = 1) -> batching.Batches:
        rows, chosen = data.rows(role), plan[role].epoch(epoch)[::every]
        return clips.batches([rows[batch] for batch in chosen], quantum)

    def predict(model, role: str) -> pd.DataFrame:
        return evaluation.predict(model, batches(role), precision=recipe.train.precision)

    def judge(model) -> dict[str, float]:
        table = predict(model, "dev")
        scores = evaluation.score(table, c)
        if "hypothesis" in table:
            heard = table[["reference", "hypothesis"]].head(TRANSCRIBED)
            record.save_predictions(f"dev_epoch_{len(record.history()) + 1:03d}", heard)
        if model.layer_sum is not None:
            weights = model.layer_sum.weights.tolist()
            scores |= {f"layer_{i}": weight for i, weight in enumerate(weights)}
        if recipe.diagnose:
            every = max(1, len(plan["dev"].epoch(0)) // DIAGNOSED)
            scores |= tasks.gradient_cosine(model, terms, batches("dev", every=every))
        return scores

    training.fit(
        model,
        tasks.total_loss(recipe.loss, wanted, data.counts),
        lambda epoch: batches("train", epoch),
        judge,
        replace(recipe.train, seed=recipe.seed),
        record,
        progress,
    )
    return {role: predict(model, role) for role in ("dev", "test")}, _transcripts(data, targets)


def _plan(recipe: Recipe, data: Data, role: str) -> batching.DurationBatchSampler:
    return batching.DurationBatchSampler(
        data.store.durations[data.rows(role)],
        budget_seconds=recipe.train.budget_seconds,
        seed=recipe.seed,
        max_clips=recipe.max_clips if role == "train" else None,
        shuffle=role == "train",
    )


def _transcripts(data: Data, targets: dict[str, np.ndarray]) -> dict[str, float]:
    """How many clips of train speech recognition learns from."""
    if "n_tokens" not in targets:
        return {}
    usable = targets["n_tokens"][data.rows("train")] > 0
    return {"train_transcripts": int(usable.sum()), "train_without": int((~usable).sum())}


def inputs(
    recipe: Recipe,
    data: Data,
    encoder: encoders.Encoder,
    targets: dict[str, np.ndarray] | None = None,
    progress: bool = True,
) -> tuple[batching.Clips, int]:
    """Clips to batch, and the quantum their lengths are padded to.

    What is frozen gives the same numbers in every epoch: the CNN's frames, or with a wholly frozen
    encoder all its hidden states. If they fit they are computed once, each clip alone, and stored.
    Otherwise the encoder gets waves.
    """
    label, keys = data.table["label"].to_numpy(), data.table["key"].tolist()
    frames = data.store.durations.sum() * audio.SAMPLE_RATE / encoder.stride
    states = encoder.n_layers + 1
    kind, numbers, dtype = {
        "none": ("waves", np.inf, "float32"),
        "cnn": ("cnn", encoder.cnn_width, "float32"),
        "all": ("layers", states * encoder.width, "float16"),
    }[recipe.model.freeze]
    alone = kind == "layers" and not recipe.model.masked_encoder  # then padding must be seen
    x, prepare, quantum = data.store, encoder.prepare, audio.SAMPLE_RATE // 4
    if not alone and frames * numbers * np.dtype(dtype).itemsize <= STORE_GB * 1e9:
        x = features.cache(encoder, data.store, kind=kind, dtype=dtype, progress=progress)
        prepare, quantum = None, 4
        if kind == "layers":
            prepare = lambda row: row.view(len(row), states, -1)  # noqa: E731 (T, L + 1, D)
    clips = batching.Clips(
        x, keys, data.store.durations, emotion=label, extra=targets, prepare=prepare
    )
    return clips, quantum


def _floor(recipe: Recipe, data: Data, record: records.Run, progress: bool):
    """Fit one of `serlib.floors`; scores are stored like a model's probabilities."""
    label, c = data.table["label"].to_numpy(), len(recipe.classes)
    part = {role: data.rows(role) for role in ("train", "dev", "test")}
    judged, facts = np.r_[part["dev"], part["test"]], {}
    if recipe.system in floors.GUESSERS:
        scores = floors.guess(recipe.system, label[part["train"]], len(judged), c, seed=recipe.seed)
    else:
        x = functionals(data) if recipe.system == "svm" else embeddings(recipe, data)
        fit = floors.svm if recipe.system == "svm" else floors.linear_probe
        train, dev = ((x[part[role]], label[part[role]]) for role in ("train", "dev"))
        scores, facts["penalty"] = fit(train, dev, x[judged], c, select=recipe.train.select)
    table = pd.DataFrame(scores, columns=[f"p_{i}" for i in range(c)])
    table.insert(0, "prediction", scores.argmax(1))
    table.insert(0, "truth", label[judged])
    table.index = pd.Index(data.table["key"].iloc[judged], name="key")
    n = len(part["dev"])
    return {"dev": table.iloc[:n].copy(), "test": table.iloc[n:].copy()}, facts


def functionals(data: Data) -> np.ndarray:
    """`audio.functionals` of every clip, (U, F); computed once per corpus."""
    name = records.digest([data.store.digest(), records.source_digest(["audio"])])
    path = records.home() / "features" / f"functionals-{name}.npy"
    if not path.exists():
        waves = tqdm(range(len(data.store)), desc="functionals", unit="clip")
        buffer = io.BytesIO()
        np.save(buffer, np.stack([audio.functionals(data.store[i]) for i in waves]))
        path.parent.mkdir(parents=True, exist_ok=True)
        records.atomic_write(path, buffer.getvalue())
    return np.load(path)


def embeddings(recipe: Recipe, data: Data) -> np.ndarray:
    """Mean over time of the frozen encoder's output, (U, D)."""
    m = recipe.model
    encoder = encoders.load(m.encoder, freeze="all", random_init=m.random_init, seed=recipe.seed)
    means = features.cache(encoder, data.store, kind="output_mean")
    return np.stack([np.asarray(means[i])[0] for i in range(len(means))])
