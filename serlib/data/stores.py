"""A corpus in memory: its waves, or its transcripts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from serlib import records
from serlib.data import audio, manifest

SHOWN = 10  # clips that an error lists
READ = ("wav", "channel", "start", "end", "sha256", "bytes")  # columns that decide what is decoded


def stamp(path: str | Path) -> tuple[int, ...]:
    """What changes when a file does, its size and times in ns; () if there is no such file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns  # the last cannot be set back


def replaced(row: Mapping, size: int, sha256: Callable[[], str]) -> str | None:
    """What is wrong if a file is not that of a manifest's row, as far as the row tells; or None."""
    for name, found in (("bytes", lambda: size), ("sha256", sha256)):
        if pd.notna(row.get(name)) and row[name] != found():
            return (
                f"is not the file that the manifest is of ({name} differs): restore it, or build "
                "the manifest again with serlib manifest build"
            )
    return None


class WaveStore(Sequence):
    """Mono 16 kHz clips in memory, int16 (MSP-Podcast: 12.4 GB), and ``durations`` in seconds."""

    def __init__(self, waves: Iterable[np.ndarray]) -> None:
        """Keep waves (N,) of int16; ``audio.to_int16`` makes them."""
        self.waves, self._digest = list(waves), None
        if any(wave.dtype != np.int16 or wave.ndim != 1 or not len(wave) for wave in self.waves):
            raise ValueError("waves must be int16 (N,) with N > 0; see audio.to_int16")
        self.durations = np.array([len(wave) for wave in self.waves]) / audio.SAMPLE_RATE

    @classmethod
    def from_manifest(
        cls,
        table: pd.DataFrame,
        root: str | Path,
        *,
        progress: bool = True,
        workers: int | None = None,
    ) -> WaveStore:
        """Decode the clips of a manifest, in its order.

        Files are compared with the manifest's sha256 or, without it, their size.

        Args:
            table: Column wav, and if present channel, start, end, sha256 and bytes.
            root: The folder that wav starts from.
            progress: Show a bar.
            workers: Decoding threads; None takes four more than cores.

        Raises:
            AudioError: Some clips cannot be read; one message lists them all.
        """

        def read(row: Mapping) -> np.ndarray | str:
            span = {k: row[k] for k in ("channel", "start", "end") if pd.notna(row.get(k))}
            span |= {"channel": int(span["channel"])} if "channel" in span else {}
            try:
                path = manifest.resolve(root, row["wav"])
                wave = audio.to_int16(audio.load(path, **span))
                why = replaced(row, path.stat().st_size, lambda: records.sha256(path))
                return wave if why is None else f"{path}: {why}"
            except ValueError as error:  # AudioError, ManifestError
                return str(error)

        rows = table.filter(READ).to_dict("records")
        with ThreadPoolExecutor(workers) as pool:
            waves = pool.map(read, rows)
            waves = list(tqdm(waves, "decode", len(rows), unit="clip", disable=not progress))
        if bad := [wave for wave in waves if isinstance(wave, str)]:
            found = f"{len(bad)} of {len(waves)} clips cannot be used:"
            more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
            raise audio.AudioError("\n  ".join([found, *bad[:SHOWN], *more]))
        return cls(waves)

    def __len__(self) -> int:
        """Clips."""
        return len(self.waves)

    def __getitem__(self, i: int) -> np.ndarray:
        """Clip i as float32 (N,)."""
        return audio.from_int16(self.waves[i])

    def digest(self) -> str:
        """SHA-256 of every sample of every clip, in order; computed once."""
        if self._digest is None:
            content = hashlib.sha256(np.array([len(wave) for wave in self.waves]))
            for wave in self.waves:
                content.update(np.ascontiguousarray(wave))
            self._digest = content.hexdigest()
        return self._digest


class TextStore(Sequence):
    """Transcripts as a text encoder's ``prepare`` takes them; "" where one is missing.

    >>> store = TextStore(["Yes.", None, float("nan"), ""])
    >>> list(store)
    ['Yes.', '', '', '']
    """

    def __init__(self, texts: Iterable[str | None]) -> None:
        """Keep texts as they are; None, or what a table has in its place, is missing."""
        self.texts = ["" if pd.api.types.is_scalar(t) and pd.isna(t) else t for t in texts]
        if bad := [text for text in self.texts if not isinstance(text, str)]:
            raise ValueError(f"{bad[0]!r} is no text; missing ones are None")

    def __len__(self) -> int:
        """Texts."""
        return len(self.texts)

    def __getitem__(self, i: int) -> str:
        """Text i, "" if it is missing."""
        return self.texts[i]

    def digest(self) -> str:
        """SHA-256 of all texts, in order."""
        content = hashlib.sha256(b"texts")
        for text in self.texts:
            data = text.encode("utf-8", "surrogatepass")
            content.update(f" {len(data)} ".encode() + data)  # no text can pass for two
        return content.hexdigest()
