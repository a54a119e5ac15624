"""Full-size architectures: this loop against the others, and its switches.

Random weights, clips as long as MSP-Podcast's, the model of Wang et al.'s baseline (attentive
statistics over the encoder's output, two layers, cross-entropy, frozen CNN).
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd
import torch

from serlib.data import features
from serlib.data.batching import Batch, Clips, collate
from serlib.models import adapters
from serlib.models.encoders.load import load_encoder
from serlib.models.recognizer import SER, ModelConfig
from serlib.recipes import papers
from serlib.training import speed
from serlib.training.loop import TrainConfig
from tests.bench import contenders, speech, turns, weights
from tests.bench.contenders import Contender

SHORT = {
    "wavlm-large": "microsoft/wavlm-large",
    "wavlm-base": "microsoft/wavlm-base",
    "wav2vec2-base": "facebook/wav2vec2-base",
    "demo": "demo-wavlm",
}
# Additions to a recipe, by their names in `ModelConfig`.
ADDED = {
    "with LoRA of rank 8": {"lora": 8},
    "with gradient checkpointing": {"checkpoint_layers": True},
    "with compiled layers": {"compile": True},  # last: what it compiled stays in the process
}


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        model: A name of `SHORT`.
        device: "cpu" or "cuda".
        seconds: Audio in an epoch; every contender trains one epoch per repeat.
        repeats: Measured epochs of each.
        budget: Padded seconds in a batch of this loop.
        layers: Transformer layers; None takes all.
        width: For tests, see `weights.write`.
    """

    model: str = "wavlm-large"
    device: str = "cpu"
    seconds: float = 2000.0
    repeats: int = 3
    budget: float = 200.0
    layers: int | None = None
    width: int | None = None

    @property
    def is_wavlm(self) -> bool:
        """Whether the attention is replaced by ours unless it is asked for as it is."""
        return "wav2vec2" not in self.model

    def recipe(self) -> tuple[ModelConfig, TrainConfig]:
        """The baseline of Wang et al. with this encoder, as many clips as the budget holds."""
        folder = weights.write(SHORT[self.model], layers=self.layers, width=self.width)
        recipe = papers.wang2025_baseline("full").change(
            encoder=str(folder), budget_seconds=self.budget, select="last",
            hidden=self.width or (144 if self.model == "demo" else 1024), n_layers=self.layers,
        )  # fmt: skip
        return recipe.model, recipe.train

    def make(self, *, stock: bool = False, tuned: Mapping | None = None, **options) -> SER:
        """The model, with the same weights each time.

        Args:
            stock: Take the library's attention.
            tuned: What `serlib.models.adapters` does to it, by its names in `ModelConfig`.
            **options: See `load_encoder`.
        """
        config, _ = self.recipe()
        settings = dict(
            freeze=config.freeze, spec_augment=config.spec_augment, n_layers=config.n_layers
        )
        # Stock wav2vec 2.0 has torch's fused attention as it is; its eager one takes other masks.
        settings |= {"attention": "stock"} if stock and self.is_wavlm else {}
        encoder = load_encoder(config.encoder, **settings | options)
        config = replace(config, freeze=options.get("freeze", config.freeze), **tuned or {})
        return SER(config, encoder=encoder)

    def clips(self, prepare: Callable | None) -> Clips:
        """Noise as long as speech, with random classes."""
        store, emotion = speech.corpus(self.seconds, 8)
        keys = [f"clip-{i}" for i in range(len(store))]
        return Clips(store, keys, store.durations, emotion=emotion, prepare=prepare)


def rivals(setup: Setup) -> list[Contender]:
    """This loop; the Trainer with defaults, with batches by length, at its best; the plain loop."""
    config, device = setup.recipe()[1], setup.device
    bf16 = config.precision != "fp32" and torch.device(device).type == "cuda"
    first = setup.make()
    clips = setup.clips(first.encoder.prepare)
    found = [contenders.ours(first, clips, config, device)]
    like_ours = max(1, round(found[0].clips_per_step()))
    grouped = dict(train_sampling_strategy="group_by_length")
    for name, settings in {
        "Trainer, defaults": {},
        "Trainer, group_by_length": grouped,
        "Trainer, best": grouped | dict(per_device_train_batch_size=like_ours, bf16=bf16),
    }.items():
        model = setup.make(stock=True)
        found.append(contenders.trainer(model, clips, None, device, name=name, **settings))
    found.append(contenders.plain(setup.make(stock=True), clips, config, device))
    return found


def switches(setup: Setup) -> Iterable[tuple[str, Callable[[], Contender]]]:
    """This loop with each switch off in turn, and with what can be added to it."""
    config, device = setup.recipe()[1], setup.device

    def loop(name: str, config: TrainConfig = config, how: dict | None = None, **options):
        model = setup.make(**options)
        clips = setup.clips(model.encoder.prepare)
        return contenders.ours(model, clips, config, device, name=name, **how or {})

    def stored(name: str) -> Contender:
        model = setup.make()
        clips = setup.clips(None)
        frames = features.cache(model.encoder.to(device), clips.inputs, kind="cnn", progress=False)
        clips = Clips(frames, clips.keys, clips.durations, emotion=clips.emotion)
        return contenders.ours(model, clips, config, device, name=name, quantum=4)

    cuda = torch.device(device).type == "cuda"
    yield "this loop", lambda: loop("this loop")
    yield "random batches", lambda: loop("random batches", how={"buckets": False})
    yield "lengths as they are", lambda: loop("lengths as they are", how={"quantum": 1})
    if cuda:
        yield "float32", lambda: loop("float32", replace(config, precision="fp32"))
    else:
        yield "with bf16", lambda: loop("with bf16", replace(config, precision="bf16"))
    if setup.is_wavlm:
        yield "stock attention", lambda: loop("stock attention", stock=True)
    if any(isinstance(m, torch.nn.GroupNorm) for m in setup.make().modules()):
        unmasked = {"masked_group_norm": False}
        yield "stock group norm", lambda: loop("stock group norm", **unmasked)
    yield "CNN trained too", lambda: loop("CNN trained too", freeze="none")
    yield "with stored CNN outputs", lambda: stored("with stored CNN outputs")
    for name, tuned in ADDED.items():
        if "compile" not in tuned or compiler(device):
            yield name, functools.partial(loop, name, tuned=tuned)


def compiler(device: str) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler on a CPU, a C compiler on a GPU."""
    needed = ("g++", "clang++") if torch.device(device).type == "cpu" else ("gcc", "clang", "cc")
    return any(map(shutil.which, needed)) or any(map(os.environ.get, ("CXX", "CC")))


def measure(found: list[Contender], setup: Setup) -> pd.DataFrame:
    """One row per contender: medians over the repeats, measured in turns.

    Columns: audio seconds per second with their range; the first row's speed over this one's;
    TFLOP/s, of the clips alone, so that padding is no achievement; their share of the measured peak
    of a matrix product (bf16 on a GPU that has it); share of padding; clips per step; peak memory
    in GB (GPU only).
    """
    peaks: dict[str, list[float]] = {c.name: [] for c in found}

    def timed(contender: Contender) -> Callable[[], float]:
        def run() -> float:
            watch = Peak(contender.model, setup.device)
            seconds = contender.epoch()
            peaks[contender.name].append(watch.gigabytes())
            return sum(contender.clips.durations) / seconds

        return run

    speeds = turns.alternate({c.name: timed(c) for c in found}, setup.repeats)
    middle = {name: statistics.median(x) for name, x in speeds.items()}
    first, device = middle[found[0].name], torch.device(setup.device)
    top = speed.peak(device, setup.recipe()[1].precision)
    rates = {c.name: middle[c.name] * flops_per_second(c, setup) / 1e12 for c in found}
    return pd.DataFrame.from_dict(
        {
            c.name: {
                "audio s/s": turns.spread(speeds[c.name]),
                f"{found[0].name} is": f"{first / middle[c.name]:.2f} x",
                "TFLOP/s": rates[c.name],
                "of peak": f"{rates[c.name] / top:.0%}",
                "padding": f"{c.padding():.0%}",
                "clips per step": round(c.clips_per_step(), 1),
                "peak GB": max(peaks[c.name]),
            }
            for c in found
        },
        orient="index",
    )


def flops_per_second(contender: Contender, setup: Setup) -> float:
    """Floating-point operations per second of audio, forward and backward, without padding.

    Of the model as it is trained, counted by `speed.cost` on one clip, and summed over the
    lengths of all of them. What gradient checkpointing computes again is no achievement either.
    """
    clips, device = contender.clips, setup.device
    with computed_once(contender.model):
        cost = speed.cost(contender.model.to(device), collate([clips[0]]).to(device))
    total = sum(cost(alone(len(clips[i].input))) for i in range(len(clips)))
    return total / sum(clips.durations)


@contextmanager
def computed_once(model: torch.nn.Module) -> Iterator[None]:
    """Inside, activations are kept, also by a model that otherwise computes them again."""
    encoder = getattr(model, "encoder", None)
    again = getattr(getattr(encoder, "model", None), "is_activation_checkpointing", False)
    if again:
        encoder.model.activation_checkpointing_disable()
    try:
        yield
    finally:
        if again:
            adapters.checkpoint_layers(encoder)


def alone(length: int) -> Batch:
    """A clip of so many samples or frames, without content: enough to tell its cost."""
    n, index = torch.tensor([length]), torch.zeros(1, dtype=torch.long)
    return Batch(torch.empty(1, length, device="meta"), n, index, ["clip"], index, 0.0)


class Peak:
    """GPU memory that one contender needs at most, its own weights included; NaN on a CPU."""

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        """Begin to watch."""
        self.model, self.cuda = model, torch.device(device).type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            self.resident = sum(p.numel() * p.element_size() for p in model.parameters()
                                if p.is_cuda)  # fmt: skip

    def gigabytes(self) -> float:
        """What was needed since."""
        if not self.cuda:
            return float("nan")
        return (torch.cuda.max_memory_allocated() - self.before + self.resident) / 1e9


def compare(setup: Setup) -> pd.DataFrame:
    """This loop against the others; see `measure`."""
    return measure(rivals(setup), setup)


def ablate(setup: Setup) -> pd.DataFrame:
    """This loop with each switch off in turn; see `measure`.

    Each is measured against this loop in turns, two models in memory at a time.
    """
    (_, make), *others = switches(setup)
    rows, whole = [], make()
    for _, variant in others:
        table = measure([whole, variant()], setup)
        rows.append(table.iloc[1:])
        gc.collect()
    return pd.concat(rows)
