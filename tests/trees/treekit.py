"""What the trees of `tests.trees.trees` share: their utterances, their files, and the answers.

A tree is the demo corpus in another corpus's clothes. Its answers say, row by row, what a manifest
that is built from it has to say.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import struct
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd

from serlib.corpora.demo import corpus, plan
from serlib.data import audio, tables

APPLE_DOUBLE = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        "  # how such a file begins
RATERS = plan.RATERS


class TreeError(ValueError):
    """A tree that cannot be written as asked; the message names the fix."""


class Tree:
    """A folder that is being filled, and the answers to what was put there."""

    def __init__(self, dataset: str, root: Path) -> None:
        """Start an empty tree; `dataset` begins the names of talkers, sessions and so on."""
        self.dataset, self.root = dataset, Path(root)
        self.answers: list[dict] = []

    def text(self, path: str, text: str, encoding: str = "utf-8") -> None:
        """Write a file of text, its line ends as they are."""
        self.data(path, text.encode(encoding))

    def data(self, path: str, data: bytes) -> None:
        """Write a file of bytes."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def wave(self, path: str, row: dict, **form) -> None:
        """Speak one row of the demo corpus into a file; see `riff` for its form."""
        self.data(path, riff(_said(row["utt_id"]), **form))

    def apple_double(self, path: str) -> None:
        """Write the twin that macOS leaves beside a file on a foreign disk."""
        folder, _, name = path.rpartition("/")
        self.data(f"{folder}/._{name}", APPLE_DOUBLE)

    def expect(self, row: dict, utt_id: str, wav: str, present: bool = True, **known) -> None:
        """Note what the manifest must say of one utterance.

        Args:
            row: Its row of the demo corpus.
            utt_id: Its name in the tree.
            wav: Its file, which is there and decodes if `present`.
            present: See `wav`.
            **known: Other cells. Talkers, sessions, dialogues and groups get the dataset's name
                put before them, but for groups by podcast.
        """
        for name in ("speaker", "session", "dialogue", "group"):
            if known.get(name) is not None and not known[name].startswith("podcast-"):
                known[name] = f"{self.dataset}-{known[name]}"
        answer = dict(source=row["utt_id"], utt_id=utt_id, wav=wav, present=present)
        self.answers.append(answer | known)

    def table(self) -> pd.DataFrame:
        """The answers, one row per utterance; `source` is its name in the demo corpus."""
        return pd.DataFrame(self.answers, dtype=object)


@functools.lru_cache(maxsize=1)
def _demo() -> pd.DataFrame:
    return corpus.load()


@functools.lru_cache(maxsize=500)  # 60 kB each
def _said(utt_id: str) -> np.ndarray:
    df = _demo()
    wave, _ = corpus.render(df[df["utt_id"] == utt_id].to_dict("records")[0])
    return wave


def choose(
    n: int,
    *,
    pairs: Collection[int] | None = None,
    emotions: Collection[str] | None = None,
    label: str = "emotion",
    keep: Callable[[dict], object] = bool,
) -> list[dict]:
    """Take n utterances of the demo corpus, in its order, spread over talkers and classes.

    Args:
        n: How many; fewer where there are not so many.
        pairs: Pairs of talkers to take from, 1 to 20; None takes all.
        emotions: Labels to take; None takes all.
        label: "emotion" (what the raters heard) or "intended".
        keep: Whether to take a row, as it is returned.

    Returns:
        Rows as dicts with `pair` (1 to 20), `scene` (1 to 10) and `votes` (label -> raters).
    """
    df = _demo()
    df = df.assign(
        pair=df["session"].str[-2:].astype(int), scene=df["dialogue"].str[-2:].astype(int)
    )
    df = df[df["pair"].isin(pairs or df["pair"]) & df[label].isin(emotions or df[label])]
    mixed = df.sample(frac=1.0, random_state=0)
    # Classes in turns; within a class one of each talker, then a second of each, and so on.
    mixed = mixed.assign(copy=mixed.groupby(["speaker", label]).cumcount())
    mixed = mixed.sort_values("copy", kind="stable")
    mixed = mixed.assign(turns=mixed.groupby(label).cumcount())
    rows = tables.rows(mixed.sort_values("turns", kind="stable").reset_index(names="place"))
    rows = (row | {"votes": votes(row["emotion_dist"])} for row in rows)
    taken = itertools.islice(filter(keep, rows), n)
    return sorted(taken, key=lambda row: row["place"])


def votes(shares: dict[str, float]) -> dict[str, int]:
    """The raters behind the shares of an `emotion_dist`.

    >>> votes({"neutral": 0.6, "fear": 0.4})
    {'neutral': 3, 'fear': 2}
    """
    return {label: round(RATERS * share) for label, share in shares.items()}


def split_mean(mean: float, n: int = RATERS) -> list[int]:
    """The n whole ratings, as alike as can be, that have this mean.

    >>> split_mean(3.6)
    [3, 3, 4, 4, 4]
    """
    total = round(mean * n)
    return sorted(total // n + (i < total % n) for i in range(n))


def csv_text(head: list, rows: list[list]) -> str:
    """A table as CSV.

    >>> print(csv_text(["a", "b"], [[1, "x,y"]]), end="")
    a,b
    1,"x,y"
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *rows])
    return buffer.getvalue()


def riff(
    wave: np.ndarray,
    *,
    rate: int = audio.SAMPLE_RATE,
    channels: int = 1,
    before: tuple[bytes, int] | None = None,
    after: tuple[bytes, int] | None = None,
) -> bytes:
    """A 16-bit WAV file with the chunks that some corpora have.

    Args:
        wave: (N,) int16 at 16 kHz; N = 0 is possible.
        rate: Samples per second of the file; the wave is resampled.
        channels: All the same.
        before: Name (4 bytes) and size of a chunk of zeros before `data`.
        after: The same behind it.
    """
    if rate != audio.SAMPLE_RATE:
        floats = audio.resample(audio.from_int16(wave), audio.SAMPLE_RATE, rate)
        wave = audio.to_int16(floats)
    frame = 2 * channels
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 16)
    samples = np.repeat(wave, channels).astype("<i2").tobytes()
    chunks = [(b"fmt ", head), (b"data", samples)]
    if before:
        chunks.insert(1, (before[0], bytes(before[1])))
    if after:
        chunks.append((after[0], bytes(after[1])))
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
