"""Arrays of different lengths in one memory-mapped file that is whole or else not there.

A file per clip is slow for 100,000 clips, and one array in memory too large for a laptop. Here all
clips lie one after the other in ``<name>.bin``; ``<name>.json`` beside it, written last, has their
lengths and the checksum of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


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
