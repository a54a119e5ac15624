"""Features of a frozen encoder, computed only once: arrays in one file, whole or else not there.

A file per clip is slow for 100,000 clips, and one array in memory too large for a laptop. Here all
clips lie one after the other in ``<name>.bin``; ``<name>.json`` beside it, written last, has their
lengths and the checksum of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import filelock
import joblib
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from serlib import records
from serlib.data.batching import pad

KINDS = ("cnn", "lower", "frames", "layers", "layers_mean", "output_mean")
SOURCES = ("data", "models/encoders")  # folders that decide features, and are in their names
CHUNK = 256  # clips that are sorted by length, and whose features wait in memory to be written
TOGETHER = 8  # clips in a batch
# A batch's length is a multiple of this, in samples or tokens: each new length costs a CPU the time
# that it takes to plan its convolutions, as long as the work itself.
QUANTUM = {"speech": 4_000, "text": 4}


class FeatureStore(Sequence):
    """Features of all clips; ``store[i]`` is the Tensor (T, D) of clip i, in the stored type."""

    def __init__(self, rows: np.ndarray, lengths: Sequence[int]) -> None:
        """Cut rows (sum of lengths, D) into clips."""
        self.rows, self.ends = rows, np.cumsum(lengths, dtype=np.int64)
        if sum(lengths) != len(rows):
            raise ValueError(f"{len(rows)} rows for lengths that sum to {sum(lengths)}")

    def __len__(self) -> int:
        """Clips."""
        return len(self.ends)

    def __getitem__(self, i: int) -> Tensor:
        """Features of clip i, copied from the file."""
        i = range(len(self))[i]  # counts from the end if negative, refuses what lies beyond
        return torch.from_numpy(np.array(self.rows[self.ends[i - 1] if i else 0 : self.ends[i]]))


def write(path: str | Path, clips: Iterable[np.ndarray], *, dtype: str = "float32") -> None:
    """Write arrays (T, D) of one D, clip by clip as they come; the old file stays until the end.

    Args:
        path: The ``.bin`` file.
        clips: At least one.
        dtype: Type on disk, "float32" or "float16".

    Raises:
        ValueError: There are no clips, their widths differ, or a value is not finite in that type.
    """
    path = Path(path)
    content, lengths, widths = hashlib.sha256(), [], set()
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            for i, clip in enumerate(clips):
                with np.errstate(over="ignore"):
                    stored = np.ascontiguousarray(clip, dtype=dtype)
                if not np.isfinite(stored).all():
                    raise ValueError(f"clip {i} (counting from 0) is not finite in {dtype}")
                lengths.append(len(stored))
                widths.add(stored.shape[1])
                content.update(stored)
                file.write(stored)
        if len(widths) != 1:
            raise ValueError(f"clips of widths {sorted(widths)}: expected one")
        about = {"dtype": dtype, "width": widths.pop(), "sha256": content.hexdigest()}
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # a full disk must not stay full
    records.atomic_write(path.with_suffix(".json"), json.dumps(about | {"lengths": lengths}))


def read(path: str | Path) -> FeatureStore | None:
    """Map the features at ``path``; None unless they are there and every byte is as written.

    The whole file is read once for this, about a second per gigabyte, and again when it changes.
    """
    path = Path(path)
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if records.sha256(path) != about["sha256"]:
            return None
        shape = (sum(about["lengths"]), about["width"])
        rows = np.memmap(path, dtype=about["dtype"], mode="r", shape=shape)
        return FeatureStore(rows, about["lengths"])
    except (OSError, ValueError, KeyError, TypeError):  # absent, cut short, another format
        return None


def cache(
    encoder: torch.nn.Module,
    store: Sequence,
    *,
    root: str | Path | None = None,
    kind: str = "cnn",
    layer: int | None = None,
    dtype: str = "float32",
    progress: bool = True,
) -> FeatureStore:
    """Features of a frozen encoder: computed at the first call, read at the next.

    Clips of like length share a batch, which changes their last digits at most (1e-5): encoders
    see valid frames only, and one that lets padding in gets each clip alone. Each batch is on one
    thread, because their number decides in what order sums are taken: a corpus has the same
    features on any number. A hash of encoder, audio, code and arguments names the file; it is made
    anew if damaged. Processes that want the same one wait.

    Args:
        encoder: From ``load_encoder``.
        store: The clips, a ``stores.WaveStore``, or for a text encoder a ``stores.TextStore``.
        root: Folder of the files; None takes $SERLIB_HOME/features.
        kind: "cnn", what ``encoder.contextualize`` takes: (T, Dc); of wave models only. "lower",
            the states that ``freeze_layers`` = K - 1 fixes, side by side: (T, K D). "frames",
            the output: (T, D). "layers", all hidden states side by side: (T, (L + 1) D).
            "layers_mean", each averaged over time: (L + 1, D). "output_mean", the output averaged
            over time: (1, D).
        layer: Of the kind "layers" this state alone: (T, D).
        dtype: "float32", or "float16": half the size, relative error up to 5e-4.
        progress: Show a bar.

    Raises:
        ValueError: Training would change the features, float16 cannot hold them, or the encoder
            has none of that kind.
    """
    if kind not in KINDS or dtype not in ("float32", "float16"):
        raise ValueError(f"{kind=}: one of {', '.join(KINDS)}; {dtype=}: float32 or float16")
    if layer is not None and (kind != "layers" or not 0 <= layer <= encoder.n_layers):
        raise ValueError(f"{layer=}, {kind=}: one of kind 'layers', from 0 to {encoder.n_layers}")
    lower = ("cnn",) if getattr(encoder, "freeze_layers", 0) else ()
    if encoder.freeze not in {"cnn": ("all", "cnn"), "lower": lower}.get(kind, ("all",)):
        raise ValueError(f"{kind} of an encoder with freeze={encoder.freeze!r} changes in training")
    if kind == "cnn" and not hasattr(encoder, "extract"):
        raise ValueError(f"{kind=}: {encoder.family} has no CNN to store; take kind='frames'")
    weights = encoder.digest(kind if kind in ("cnn", "lower") else "all")
    source = records.source_digest(SOURCES)
    what = f"{kind} {encoder.freeze_layers}" if kind == "lower" else kind
    what = what if layer is None else f"{kind} {layer} alone"
    name = records.digest([weights, store.digest(), source, what, dtype], 24)
    path = Path(root or records.home() / "features") / f"{kind}-{name}.bin"
    if (stored := read(path)) is not None:  # in a home that may only be read, too
        return stored
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if (stored := read(path)) is None:
            with closing(
                _each(encoder, store, kind, layer)
            ) as clips:  # threads are as before at once
                bar = tqdm(clips, f"{kind} features", len(store), unit="clip", disable=not progress)
                write(path, bar, dtype=dtype)
            stored = read(path)
    if stored is None:
        raise OSError(f"{path} does not read back as written. Check the disk.")
    return stored


def _each(
    encoder: torch.nn.Module, store: Sequence, kind: str, layer: int | None
) -> Iterator[np.ndarray]:
    """Features of every clip in order, on a GPU or on all cores, a batch on each.

    A GPU multiplies in TF32, with relative errors of 5e-4, as storing in float16 has.
    """
    home, on_gpu = next(encoder.parameters()).device, torch.cuda.is_available()
    workers, before = 1 if on_gpu else joblib.cpu_count(), torch.get_num_threads()
    products = torch.get_float32_matmul_precision()
    encoder.to("cuda" if on_gpu else home)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high" if on_gpu else products)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for start in range(0, len(store), CHUNK):  # a map over all would hold all results
                rows = range(start, min(start + CHUNK, len(store)))
                items = [encoder.prepare(store[i]) for i in rows]
                yield from _chunk(encoder, items, pool, kind, layer)
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(products)
        encoder.to(home)


def _chunk(
    encoder: torch.nn.Module, items: list[np.ndarray], pool: ThreadPoolExecutor, *which
) -> list[np.ndarray]:
    """Features of prepared clips, in their order; those of like length share a batch."""
    leaks = getattr(encoder, "padding_leaks", False)
    size, quantum = (1, 1) if leaks else (TOGETHER, QUANTUM[encoder.modality])
    order = sorted(range(len(items)), key=lambda i: len(items[i]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    found = pool.map(lambda b: _batch(encoder, [items[i] for i in b], quantum, *which), batches)
    clips = dict(zip(order, (clip for batch in found for clip in batch), strict=True))
    return [clips[i] for i in range(len(items))]


@torch.no_grad()
def _batch(
    encoder: torch.nn.Module, items: list[np.ndarray], quantum: int, kind: str, layer: int | None
) -> list[np.ndarray]:
    """Features (T, D) of each prepared clip of a batch."""
    x, lengths = pad(items, quantum)
    x = x.to(next(encoder.parameters()).device, non_blocking=True)
    if hasattr(encoder, "extract"):
        x, lengths = encoder.extract(x, lengths)  # (B, T, Dc)
    if kind != "cnn":
        encoded = getattr(encoder, "contextualize", encoder)(x, lengths)
        x, lengths = encoded.frames, encoded.lengths
        if kind in ("lower", "layers", "layers_mean"):
            states = encoder.freeze_layers + 1 if kind == "lower" else None
            chosen = encoded.layers[:states] if layer is None else encoded.layers[layer : layer + 1]
            x = torch.stack(chosen, 2)  # (B, T, K, D)
    if kind in ("layers_mean", "output_mean"):
        rows = zip(x, lengths.tolist(), strict=True)
        x = torch.stack([row[:n].float().mean(0) for row, n in rows])  # (B, L + 1, D) or (B, D)
        return list(x.reshape(len(x), -1, x.shape[-1]).cpu().numpy())
    x = x.float().flatten(2).cpu().numpy()  # in one copy
    return [row[:n] for row, n in zip(x, lengths.tolist(), strict=True)]
