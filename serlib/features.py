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
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from serlib import records

KINDS = ("cnn", "lower", "frames", "layers", "layers_mean", "output_mean")
# The source that decides features, and is in their names.
SOURCES = tuple("audio checkpoints encoders features roberta stores wav2vec2 wavlm whisper".split())
CHUNK = 64  # clips whose features wait in memory to be written


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
    partial.write_text(json.dumps(about | {"lengths": lengths}), encoding="utf-8")
    os.replace(partial, path.with_suffix(".json"))


def read(path: str | Path) -> FeatureStore | None:
    """Map the features at ``path``; None unless they are there and every byte is as written.

    The whole file is read once for this, about a second per gigabyte.
    """
    path = Path(path)
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
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
    key: str = "",
    kind: str = "cnn",
    dtype: str = "float32",
    progress: bool = True,
) -> FeatureStore:
    """Features of a frozen encoder: computed at the first call, read at the next.

    Each clip is computed alone and on one thread: neither padding nor the number of threads, which
    decides in what order sums are taken, can matter. A hash of encoder, audio, code and
    arguments names the file; it is made anew if damaged. Processes that want the same one wait.

    Args:
        encoder: From ``encoders.load``.
        store: The clips, a ``batching.WaveStore``, or for a text encoder a ``batching.TextStore``.
        root: Folder of the files; None takes $SERLIB_HOME/features.
        key: Anything else the features depend on.
        kind: "cnn", what ``encoder.contextualize`` takes: (T, Dc); of wave models only. "lower",
            the states that ``freeze_layers`` = K - 1 fixes, side by side: (T, K D). "frames",
            the output: (T, D). "layers", all hidden states side by side: (T, (L + 1) D).
            "layers_mean", each averaged over time: (L + 1, D). "output_mean", the output averaged
            over time: (1, D).
        dtype: "float32", or "float16": half the size, relative error up to 5e-4.
        progress: Show a bar.

    Raises:
        ValueError: Training would change the features, float16 cannot hold them, or the encoder
            has none of that kind.
    """
    if kind not in KINDS or dtype not in ("float32", "float16"):
        raise ValueError(f"{kind=}: one of {', '.join(KINDS)}; {dtype=}: float32 or float16")
    lower = ("cnn",) if getattr(encoder, "freeze_layers", 0) else ()
    if encoder.freeze not in {"cnn": ("all", "cnn"), "lower": lower}.get(kind, ("all",)):
        raise ValueError(f"{kind} of an encoder with freeze={encoder.freeze!r} changes in training")
    if kind == "cnn" and not hasattr(encoder, "extract"):
        raise ValueError(f"{kind=}: {encoder.family} has no CNN to store; take kind='frames'")
    weights = encoder.digest(kind if kind in ("cnn", "lower") else "all")
    source = records.source_digest(SOURCES)
    what = f"{kind} {encoder.freeze_layers}" if kind == "lower" else kind
    name = records.digest([weights, store.digest(), source, key, what, dtype], 24)
    path = Path(root or records.home() / "features") / f"{kind}-{name}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if (stored := read(path)) is None:
            with closing(_each(encoder, store, kind)) as clips:  # threads are as before at once
                bar = tqdm(clips, f"{kind} features", len(store), unit="clip", disable=not progress)
                write(path, bar, dtype=dtype)
            stored = read(path)
    if stored is None:
        raise OSError(f"{path} does not read back as written. Check the disk.")
    return stored


def _each(encoder: torch.nn.Module, store: Sequence, kind: str) -> Iterator[np.ndarray]:
    """Features of every clip in order; on a CPU, as many clips at a time as torch has threads."""
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    workers, before = torch.get_num_threads() if on_cpu else 1, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for start in range(0, len(store), CHUNK):  # a map over all would hold all results
                rows = range(start, min(start + CHUNK, len(store)))
                yield from pool.map(lambda i: _alone(encoder, store[i], kind), rows)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _alone(encoder: torch.nn.Module, item: np.ndarray | str, kind: str) -> np.ndarray:
    """Features (T, D) of one clip."""
    x = torch.from_numpy(encoder.prepare(item))[None].to(next(encoder.parameters()).device)
    lengths = torch.tensor([x.shape[1]])
    if hasattr(encoder, "extract"):
        x, lengths = encoder.extract(x, lengths)  # (1, T, Dc)
    if kind != "cnn":
        encode = getattr(encoder, "contextualize", encoder)
        encoded = encode(x, lengths)
        if kind == "lower":
            x = torch.cat(encoded.layers[: encoder.freeze_layers + 1], -1)  # (1, T, K D)
        elif kind == "layers":
            x = torch.cat(encoded.layers, -1)  # (1, T, (L + 1) D)
        elif kind == "layers_mean":
            x = torch.stack(encoded.layers, 1).mean(2)  # (1, L + 1, D)
        elif kind == "output_mean":
            x = encoded.frames.mean(1, keepdim=True)  # (1, 1, D)
        else:
            x = encoded.frames  # (1, T, D)
    return x[0].float().cpu().numpy()
