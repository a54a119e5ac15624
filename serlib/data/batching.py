"""Batches of about equal cost, of clips that lie in `serlib.data.stores`.

Clips differ in length tenfold, and batches of random clips spend 40 % of the work on padding. Here
clips of similar length share a batch, and a batch is as large as a budget of seconds allows:

    store = WaveStore.from_manifest(table, root)
    clips = Clips(store, table["key"], store.durations, emotion=labels, prepare=encoder.prepare)
    sampler = DurationBatchSampler(store.durations, budget_seconds=60)
    for batch in clips.batches(sampler.epoch(0), quantum=4_000): ...

A model of several encoders takes one input of a clip for each, from a store of each:

    clips = Clips({"demo-wavlm": frames, "demo-roberta": tokens}, table["key"], store.durations)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from serlib.losses.classification import IGNORE


class Item(NamedTuple):
    """One clip on its way into a batch; see ``Batch``."""

    # wave (N,), token ids (S,), or features (T, D); by name if a model takes several
    input: np.ndarray | Tensor | Mapping[str, np.ndarray | Tensor]
    key: str
    index: int
    seconds: float
    emotion: int = IGNORE
    extra: Mapping[str, object] = {}


@dataclass(frozen=True)
class Batch:
    """Clips padded to one length. Lengths and index stay on the CPU: no GPU waits to read them.

    So do characters and their numbers: `losses.ctc` reads them there.

    With several inputs per clip, ``streams`` has each of them and its lengths by name, each padded
    to its own longest; ``inputs`` and ``lengths`` are then those of the first.
    """

    inputs: Tensor  # waves (B, N), token ids (B, S), or features (B, T, D) as they are stored
    lengths: Tensor  # (B,) int64, valid samples or frames
    emotion: Tensor  # (B,) int64 class numbers, IGNORE where unknown
    keys: list[str]
    index: Tensor  # (B,) int64, places in the corpus
    seconds: float  # of real audio, all clips together
    extra: dict[str, Tensor] = field(default_factory=dict)  # other targets by name, (B, ...)
    streams: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # inputs and lengths

    @property
    def padding(self) -> float:
        """Share of the input that is padding, in [0, 1)."""
        return 1 - int(self.lengths.sum()) / (len(self.keys) * self.inputs.shape[1])

    def to(self, device: torch.device | str) -> Batch:
        """Inputs and targets on a device, but for what stays on the CPU."""
        return self._each(lambda x: x.to(device, non_blocking=True), stay=("tokens", "n_tokens"))

    def pinned(self) -> Batch:
        """Inputs and targets in memory that a GPU reads by itself, so that ``to`` does not wait."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor], stay: Sequence[str] = ()) -> Batch:
        streams = {name: (move(x), n) for name, (x, n) in self.streams.items()}
        first = next(iter(streams.values()), None)  # moved once, and not again as `inputs`
        return replace(
            self,
            inputs=first[0] if first else move(self.inputs),
            emotion=move(self.emotion),
            extra={name: x if name in stay else move(x) for name, x in self.extra.items()},
            streams=streams,
        )


def pad(arrays: Sequence[np.ndarray | Tensor], quantum: int = 1) -> tuple[Tensor, Tensor]:
    """Arrays (N_b, ...) to one tensor (B, N, ...) with zeros behind, and their lengths (B,).

    N is the longest, rounded up to a multiple of ``quantum``.
    """
    arrays = [torch.as_tensor(array) for array in arrays]
    lengths = torch.tensor([len(array) for array in arrays])
    longest = -(-int(lengths.max()) // quantum) * quantum
    padded = arrays[0].new_zeros((len(arrays), longest, *arrays[0].shape[1:]))
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def collate(items: Sequence[Item], quantum: int | Mapping[str, int] = 1) -> Batch:
    """Pad with zeros to the longest item, rounded up to a multiple of ``quantum``.

    The quantum is in samples for waves, in frames for features; one per name where items have
    several inputs. With few distinct shapes, kernels and compiled graphs are reused.

    >>> a, b = Item(np.ones(3, np.float32), "a", 0, 0.1), Item(np.ones(5, np.float32), "b", 1, 0.2)
    >>> batch = collate([a, b], quantum=4)
    >>> tuple(batch.inputs.shape), batch.lengths.tolist(), batch.padding
    ((2, 8), [3, 5], 0.5)
    """
    if not items:
        raise ValueError("a batch needs at least one clip")
    inputs, keys, index, seconds, emotion, extras = zip(*items, strict=True)
    streams = {}
    if isinstance(inputs[0], Mapping):
        for name in inputs[0]:
            step = quantum[name] if isinstance(quantum, Mapping) else quantum
            streams[name] = pad([each[name] for each in inputs], step)
    x, lengths = next(iter(streams.values())) if streams else pad(inputs, quantum)
    extra = {k: torch.stack([torch.as_tensor(e[k]) for e in extras]) for k in extras[0]}
    emotion, index = torch.tensor(emotion), torch.tensor(index)
    return Batch(x, lengths, emotion, list(keys), index, float(sum(seconds)), extra, streams)


class Clips(Sequence):
    """Inputs and targets of a corpus: ``clips[i]`` is an Item, ``batches`` makes Batches."""

    def __init__(
        self,
        inputs: Sequence | Mapping[str, Sequence],
        keys: Sequence[str],
        durations: Sequence[float],
        *,
        emotion: Sequence[int] | None = None,
        extra: Mapping[str, Sequence] | None = None,
        prepare: Callable | Mapping[str, Callable | None] | None = None,
    ) -> None:
        """Put a store, or several by name, and as many keys, seconds and targets side by side.

        Emotions are class numbers, ``extra`` has other targets by name. ``prepare`` is called on
        each input of the store, or by name on those of each.
        """
        self.inputs, self.prepare, self.extra = inputs, prepare, dict(extra or {})
        self.keys, self.durations = list(keys), list(durations)
        self.emotion = [IGNORE] * len(self.keys) if emotion is None else list(emotion)
        counts = [len(x) for x in (inputs.values() if isinstance(inputs, Mapping) else [inputs])]
        others = [len(x) for x in (self.keys, self.durations, self.emotion, *self.extra.values())]
        if not counts or len({*counts, *others}) > 1:
            found = ", ".join(map(str, counts))
            raise ValueError(f"{found} inputs, {others} keys, durations, emotions and others")

    def __len__(self) -> int:
        """Clips."""
        return len(self.keys)

    def __getitem__(self, i: int) -> Item:
        """Clip i with its targets."""
        if isinstance(self.inputs, Mapping):
            prepare = self.prepare or {}
            clip = {n: _prepared(store[i], prepare.get(n)) for n, store in self.inputs.items()}
        else:
            clip = _prepared(self.inputs[i], self.prepare)
        extra = {name: targets[i] for name, targets in self.extra.items()}
        return Item(clip, self.keys[i], i, float(self.durations[i]), self.emotion[i], extra)

    def batches(
        self,
        plan: Iterable[Sequence[int]],
        quantum: int | Mapping[str, int] = 1,
        *,
        ahead: int | None = None,
    ) -> Batches:
        """The batches of a plan: places of clips, batch by batch.

        If there is a GPU their memory is pinned, so that copies to it overlap with its work.

        Args:
            plan: Whose places, batch by batch.
            quantum: As in ``collate``.
            ahead: Batches, and threads, at work while one is used; None: 4 with a GPU, else 1.
        """
        gpu = torch.cuda.is_available()
        return Batches(self, list(plan), quantum, ahead or (4 if gpu else 1), gpu)


def _prepared(clip, prepare: Callable | None):
    return prepare(clip) if prepare else clip


@dataclass(frozen=True)
class Batches:
    """As many batches as a plan has, made one by one; threads make the next ones meanwhile."""

    clips: Clips
    plan: Sequence[Sequence[int]]
    quantum: int | Mapping[str, int]
    ahead: int
    pin: bool

    def __len__(self) -> int:
        """Batches."""
        return len(self.plan)

    def _make(self, places: Sequence[int]) -> Batch:
        batch = collate([self.clips[i] for i in places], self.quantum)
        return batch.pinned() if self.pin else batch

    def __iter__(self) -> Iterator[Batch]:
        """Make them in order; no more than ``ahead`` + 1 are held."""
        with ThreadPoolExecutor(self.ahead) as pool:
            waiting: deque[Future[Batch]] = deque()
            for places in self.plan:
                waiting.append(pool.submit(self._make, places))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


class DurationBatchSampler:
    """Batches of clips of similar length, as large as a budget of seconds allows.

    A batch costs its padded duration: clips times the longest, rounded up to the quantum. Clips are
    sorted by duration plus noise of at most one quantum, cut greedily, and the batches shuffled.
    Each comes once per epoch; one over the budget comes alone. Equal (seed, epoch): equal batches.
    """

    def __init__(
        self,
        durations: Sequence[float],
        *,
        budget_seconds: float,
        quantum_seconds: float = 0.25,
        seed: int = 0,
        shuffle: bool = True,
        max_clips: int | None = None,
    ) -> None:
        """Set the rules.

        Args:
            durations: Seconds, all positive.
            budget_seconds: Padded seconds in a batch at most.
            quantum_seconds: What padded lengths are multiples of; give ``collate`` the same.
            seed: Of the order.
            shuffle: False sorts by duration, longest first: memory runs out at once or never.
            max_clips: Clips in a batch at most.
        """
        self.durations = np.asarray(durations, dtype=float)
        if not (np.isfinite(self.durations).all() and (self.durations > 0).all()):
            raise ValueError("durations must be positive, in seconds")
        if not 0 < quantum_seconds <= budget_seconds or (max_clips is not None and max_clips < 1):
            raise ValueError(f"{budget_seconds=}, {quantum_seconds=}, {max_clips=}")
        self.quantum, self.seed, self.shuffle = quantum_seconds, seed, shuffle
        self.max_clips = max_clips or len(self.durations)
        # Whole quanta add up exactly; the slack forgives the last digit of the division.
        self.quanta = np.ceil(self.durations / quantum_seconds - 1e-6).astype(int).tolist()
        self.budget = int(budget_seconds / quantum_seconds + 1e-6)

    def epoch(self, epoch: int, *, rank: int = 0, world: int = 1) -> list[list[int]]:
        """The batches of an epoch, or of the process ``rank`` of ``world``.

        Processes share each batch, clip by clip, so that a step of all is the step of one: as many
        steps, each over the same clips. A batch of fewer clips than processes, such as the last,
        first joins its neighbor in length.

        Raises:
            ValueError: Batches, or the whole corpus, are too small for that many processes.
        """
        if not 0 <= rank < world:
            raise ValueError(f"{rank=}, {world=}: ranks count from 0")
        if 0 < (most := min(self.max_clips, len(self.durations))) < world:
            raise ValueError(f"{most} clips per batch, at most, for {world} processes: use fewer")
        rng = np.random.default_rng((self.seed, epoch))
        noise = self.quantum * rng.uniform(-1, 1, len(self.durations)) * self.shuffle
        batches, longest = [], 0
        for i in np.argsort(-(self.durations + noise), kind="stable").tolist():
            longest = max(longest, self.quanta[i])
            clips = len(batches[-1]) + 1 if batches else 0
            if not batches or clips > self.max_clips or clips * longest > self.budget:
                batches.append([])
                longest = self.quanta[i]
            batches[-1].append(i)
        while (small := min(map(len, batches), default=world)) < world:
            at = next(i for i, batch in enumerate(batches) if len(batch) == small)
            batches[max(at - 1, 0)] += batches.pop(max(at, 1))
        if self.shuffle:
            rng.shuffle(batches)
        return batches if world == 1 else [batch[rank::world] for batch in batches]
