"""Sound files of every kind, whole and spoiled: what libsndfile writes, and mutations."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
# Container, coding, and how far a sample may be off; None: coded by ear, the power is compared.
FORMATS = [
    ("WAV", "PCM_16", 1e-4), ("WAV", "PCM_24", 1e-6), ("WAV", "FLOAT", 1e-6), ("WAV", "ULAW", 0.02),
    ("WAV", "IMA_ADPCM", 0.1), ("WAVEX", "PCM_16", 1e-4), ("RF64", "PCM_16", 1e-4),
    ("W64", "PCM_16", 1e-4), ("AIFF", "PCM_16", 1e-4), ("AIFF", "ALAW", 0.02),
    ("AU", "PCM_16", 1e-4), ("CAF", "PCM_16", 1e-4), ("CAF", "ALAC_16", 1e-4),
    ("NIST", "PCM_16", 1e-4), ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", None),
    ("OGG", "OPUS", None), ("MP3", "MPEG_LAYER_III", None), ("SVX", "PCM_16", 1e-4),
    ("VOC", "PCM_16", 1e-4),
]  # fmt: skip
NAMES = [f"{container}-{coding}" for container, coding, _ in FORMATS]


def speechlike(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """A tone in noise (N,) that rises and falls."""
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    noise = np.random.default_rng(seed).standard_normal(n)
    return (0.3 * np.sin(2 * np.pi * 220 * t) + 0.02 * noise) * (0.6 + 0.4 * np.sin(9 * t))


def write(path: Path, container: str, coding: str, wave: np.ndarray | None = None) -> bytes:
    """Write a file and return its bytes."""
    wave = speechlike() if wave is None else wave
    soundfile.write(path, wave, RATE, format=container, subtype=coding)
    return path.read_bytes()


def put(data: bytes, at: int, form: str, number: int) -> bytes:
    """Bytes with a number in them."""
    new = struct.pack(form, number)
    return data[:at] + new + data[at + len(new) :]


def after(data: bytes, name: bytes, n: int = 4) -> int:
    """Where the number behind a name stands."""
    return data.index(name) + n


def flac(data: bytes, samples: int) -> bytes:
    """A FLAC file whose header tells of so many samples."""
    told = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return put(data, 18, ">Q", told)


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and the spoiled bytes: header more often than body."""
    kind = rng.choice(
        ("cut", "field", "flip", "flip", "hole", "insert", "zeros", "noise", "append")
    )
    at = rng.randrange(min(len(data), 200)) if rng.random() < 0.7 else rng.randrange(len(data))
    n = rng.choice((1, 4, 100, 2_000))
    if kind == "cut":
        data = data[: rng.randrange(len(data))]
    elif kind == "field":
        number = rng.choice((0, 1, 25, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10_000_025))
        data = put(data, at, rng.choice("<>") + "I", number)
    elif kind == "flip":
        spoiled = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            spoiled[min(len(data) - 1, at + rng.randrange(8))] ^= 1 << rng.randrange(8)
        data = bytes(spoiled)
    elif kind == "hole":
        data = data[:at] + data[at + n :]
    elif kind == "append":
        data += rng.randbytes(n)
    else:
        new = bytes(n) if kind == "zeros" else rng.randbytes(n)
        data = data[:at] + new + data[at + (0 if kind == "insert" else n) :]
    return f"{kind} at {at}, {n}", data
