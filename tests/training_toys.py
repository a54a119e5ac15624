"""A toy model whose training can be followed by hand; shared by the tests of the loop."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from serlib import records
from serlib.data.batching import Batch
from serlib.losses import classification
from serlib.training import evaluation
from serlib.training.checkpoint import copy_weights
from serlib.training.loop import TrainConfig


class Toy(nn.Module):
    """Frames (B, T, 3) -> "encoder" -> mean over time -> dropout -> head."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"emotion": self.head(self.norm(self.encoder(batch.inputs).mean(dim=1)))}

    def encoder_parameters(self):
        return self.encoder.parameters()

    def head_parameters(self):
        return [*self.norm.parameters(), *self.head.parameters()]


def toy_batch(start: int, size: int, n_frames: int = 4, seconds: float = 1.0) -> Batch:
    """Clips start to start + size; the class is the sign of the first channel."""
    generator = torch.Generator().manual_seed(100 + start)
    emotion = torch.arange(start, start + size) % 2
    inputs = torch.randn(size, n_frames, 3, generator=generator)
    inputs[:, :, 0] += 2.0 * emotion[:, None] - 1.0
    return Batch(
        inputs=inputs,
        lengths=torch.full((size,), n_frames),
        emotion=emotion,
        keys=[f"clip{i}" for i in range(start, start + size)],
        index=torch.arange(start, start + size),
        seconds=seconds * size,
    )


def toy_batches(epoch: int) -> list[Batch]:
    """Three batches of different sizes, in an order that depends on the epoch."""
    batches = [toy_batch(0, 4), toy_batch(4, 4), toy_batch(8, 3)]
    return [batches[(epoch + i) % 3] for i in range(3)]


def cross_entropy(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    return classification.cross_entropy(outputs["emotion"], batch.emotion)


def noisy_cross_entropy(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Draws from all three random generators, so that a resumed run must restore each."""
    noise = 1 + 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * torch.rand(())
    return cross_entropy(outputs, batch) * noise


def dev_scores(model: nn.Module) -> dict[str, float]:
    table = evaluation.predict(model, [toy_batch(20, 8)])
    return evaluation.score(table, 2)


def scripted(scores: list[float], name: str = "ua", seen: list | None = None):
    """An ``evaluate`` that gives these scores in turn, and notes the weights it saw."""
    pending = iter(scores)

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        if seen is not None:
            seen.append(copy_weights(model))
        return {name: next(pending)}

    return evaluate


def settings(**changes) -> TrainConfig:
    values = {"epochs": 4, "lr_encoder": 0.01, "lr_head": 0.02, "precision": "fp32"}
    return TrainConfig(**{**values, **changes})


def open_run(folder: Path) -> records.Run:
    return records.Run.open(folder, {"test": 1}, key="run")


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def lasting(history: pd.DataFrame) -> pd.DataFrame:
    """The columns that depend neither on the clock nor on what else the process did."""
    clock = ["seconds", "train_seconds", "audio_seconds_per_second", "tflops", "peak_share"]
    return history.drop(columns=[*clock, "peak_memory_gb"])


def state_epochs(run: records.Run) -> int:
    file = run.path / "checkpoint" / "state.pt"
    return len(torch.load(file, weights_only=True)["rows"]) if file.exists() else 0
