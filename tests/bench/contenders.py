"""Three ways to train the same model on the same clips: this loop, the Trainer, the plain way.

Each is a `Contender`. They share the model's arithmetic, its starting weights and the loss, which a
test holds them to: on one batch their losses are equal to 1e-5. They differ in how batches are
made, in precision, in the attention's code and in what surrounds a step, which is the comparison.

- this loop: `loop.fit` on batches of similar length with as much audio as a budget allows;
- Trainer: Hugging Face's, with its own defaults or with settings that are said;
- plain: batches drawn at random, float32, stock attention, a look at the loss after every step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from serlib.data import audio, batching
from serlib.data.batching import Batch, Clips, collate
from serlib.losses import classification
from serlib.training import loop as training_loop
from serlib.training.loop import TrainConfig
from serlib.training.precision import autocast, to_float32
from tests.bench.rehearse import on_device

QUANTUM = audio.SAMPLE_RATE // 4  # samples, to which this loop pads lengths


@dataclass
class Contender:
    """A model and a way to train it.

    Attributes:
        name: For the table.
        model: From a batch to outputs.
        clips: What it trains on.
        epoch: Train once on all clips; returns the seconds.
        plan: The batches of an epoch, as places of clips.
        quantum: What their lengths are padded to.
    """

    name: str
    model: nn.Module
    clips: Clips
    epoch: Callable[[], float]
    plan: Callable[[], Sequence[Sequence[int]]]
    quantum: int = 1

    def padding(self) -> float:
        """Share of padding in all that an epoch computes."""
        lengths = [[len(self.clips[i].input) for i in places] for places in self.plan()]
        whole = sum(len(n) * -(-max(n) // self.quantum) * self.quantum for n in lengths)
        return 1 - sum(map(sum, lengths)) / whole

    def clips_per_step(self) -> float:
        """Clips in a batch, on average."""
        return len(self.clips) / len(self.plan())


def cross_entropy(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The loss of all contenders: the mean over clips of -log p(class)."""
    return classification.cross_entropy(outputs["emotion"], batch.emotion)


def ours(
    model: nn.Module,
    clips: Clips,
    config: TrainConfig,
    device: str,
    *,
    name: str = "this loop",
    quantum: int = QUANTUM,
    buckets: bool = True,
) -> Contender:
    """`loop.fit` for one epoch, with the batches of `batching`.

    Args:
        model: To be trained.
        clips: All of them, every epoch.
        config: Its budget decides the batches.
        device: "cpu" or "cuda".
        name: For the table.
        quantum: Samples (or frames, of stored features) that lengths are padded to.
        buckets: False draws the clips of a batch at random, as many as in a bucket on average.
    """
    sampler = batching.DurationBatchSampler(clips.durations, budget_seconds=config.budget_seconds)
    size = max(1, round(len(clips) / len(sampler.epoch(0))))
    epochs = iter(range(10**9))

    def plan(epoch: int = 0) -> Sequence[Sequence[int]]:
        return sampler.epoch(epoch) if buckets else random_plan(len(clips), size, epoch)

    def run() -> float:
        batches, config_ = clips.batches(plan(next(epochs)), quantum), replace(config, epochs=1)
        with on_device(device):
            history = training_loop.fit(
                model, cross_entropy, lambda _: batches, lambda _: {}, config_, progress=False
            )
        return float(history["train_seconds"].sum())

    return Contender(name, model, clips, run, plan, quantum)


def random_plan(n: int, size: int, epoch: int = 0) -> list[list[int]]:
    """Places of n clips in random order, `size` to a batch, the last one smaller."""
    order = np.random.default_rng((17, epoch)).permutation(n).tolist()
    return [order[i : i + size] for i in range(0, n, size)]


def plain(
    model: nn.Module,
    clips: Clips,
    config: TrainConfig,
    device: str,
    *,
    name: str = "plain loop",
    size: int = 16,
    epochs: int = 1,
) -> Contender:
    """The loop of most published code: random batches, float32, AdamW, `loss.item()` every step."""
    first = iter(range(0, 10**9, epochs))
    model.to(device)

    def run() -> float:
        model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = training_loop.make_optimizer(model, config)
        now = next(first)
        steps = [places for e in range(epochs) for places in random_plan(len(clips), size, now + e)]
        started = time.perf_counter()
        for step, places in enumerate(steps):
            for group in optimizer.param_groups:
                done = (step + 0.5) / len(steps)
                group["lr"] = group["peak"] * training_loop.learning_rate_scale(done, config)
            batch = collate([clips[i] for i in places]).to(device)
            optimizer.zero_grad()
            loss = cross_entropy(model(batch), batch)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip or float("inf"))
            optimizer.step()
            loss.item()
        return time.perf_counter() - started

    return Contender(name, model, clips, run, lambda: random_plan(len(clips), size))


class ForTrainer(nn.Module):
    """The model as the Trainer wants it: named tensors in, {"loss", "logits"} out."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model; it is trained in place."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: list[int], labels: Tensor) -> dict[str, Tensor]:
        """Lengths come as plain numbers, so that the Trainer leaves them on the CPU as well."""
        n = torch.tensor(lengths)
        batch = Batch(input_ids, n, labels, [""] * len(lengths), torch.arange(len(lengths)), 0.0)
        outputs = to_float32(self.model(batch))
        return {"loss": cross_entropy(outputs, batch), "logits": outputs["emotion"]}


@dataclass
class Rows(torch.utils.data.Dataset):
    """Clips as the Trainer's items; its length sampler looks for `input_ids`."""

    clips: Clips

    def __len__(self) -> int:
        """Clips."""
        return len(self.clips)

    def __getitem__(self, i: int) -> dict:
        """Clip i, prepared."""
        item = self.clips[i]
        return {"input_ids": item.input, "labels": item.emotion}


def to_batch(rows: Sequence[dict]) -> dict:
    """The Trainer's collator: pad with zeros to the longest."""
    inputs, lengths = batching.pad([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": inputs, "lengths": lengths.tolist(), "labels": labels}


def trainer(
    model: nn.Module,
    clips: Clips,
    config: TrainConfig | None,
    device: str,
    *,
    name: str = "Trainer, defaults",
    epochs: int = 1,
    **settings,
) -> Contender:
    """Hugging Face's Trainer, with its defaults but for `settings`.

    Its defaults: 8 clips to a batch in random order, float32, the fused AdamW, learning rate 5e-5
    with linear decay, gradients clipped at 1, no loader processes. Off in all of them: checkpoints,
    logs and bars, which cost time and are not the loop.

    Args:
        model: To be trained.
        clips: All of them, every epoch.
        config: Its learning rates and schedule in the place of the Trainer's; None keeps those.
        device: "cpu" or "cuda".
        name: For the table.
        epochs: How many a call trains.
        **settings: See transformers' TrainingArguments.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    rows, wrapped = Rows(clips), ForTrainer(model)
    size = settings.get("per_device_train_batch_size", 8)

    def run() -> float:
        with (
            tempfile.TemporaryDirectory() as folder,
            on_device(device),
            training_loop.isolated_accelerator(),
        ):
            arguments = TrainingArguments(
                folder, num_train_epochs=epochs, report_to="none", save_strategy="no",
                logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
                use_cpu=torch.device(device).type == "cpu", **settings,
            )  # fmt: skip
            optimizers = (None, None)
            if config is not None:
                steps = epochs * -(-len(clips) // size)
                optimizers = _optimizers(model.to(device), config, steps)
            loop = Trainer(
                wrapped, arguments, data_collator=to_batch, train_dataset=rows,
                optimizers=optimizers,
            )  # fmt: skip
            loop.remove_callback(PrinterCallback)
            return float(loop.train().metrics["train_runtime"])

    def plan() -> Sequence[Sequence[int]]:
        if settings.get("train_sampling_strategy") != "group_by_length":
            return random_plan(len(clips), size)
        from transformers.trainer_pt_utils import get_length_grouped_indices

        lengths = [len(rows[i]["input_ids"]) for i in range(len(rows))]
        generator = torch.Generator().manual_seed(0)
        order = get_length_grouped_indices(lengths, size, generator=generator)
        return [order[i : i + size] for i in range(0, len(order), size)]

    return Contender(name, model, clips, run, plan)


def _optimizers(model: nn.Module, config: TrainConfig, steps: int):
    """A recipe's optimizer and schedule as the Trainer takes them."""
    optimizer = training_loop.make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]

    def scale(step: int) -> float:
        return training_loop.learning_rate_scale(min((step + 0.5) / steps, 1.0), config)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


@torch.no_grad()
def loss_of(contender: Contender, batch: Batch, device: str, precision: str = "fp32") -> float:
    """What a contender computes for a batch, without dropout."""
    model = contender.model.to(device).eval()
    batch = batch.to(device)
    if contender.name.startswith("Trainer"):
        return float(ForTrainer(model)(batch.inputs, batch.lengths.tolist(), batch.emotion)["loss"])
    with autocast(device, precision):
        outputs = model(batch)
    return float(cross_entropy(to_float32(outputs), batch))
