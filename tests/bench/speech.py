"""Clips that cost what a corpus costs: lengths like MSP-Podcast's, noise for sound."""

from __future__ import annotations

import numpy as np

from serlib.data import audio
from serlib.data.stores import WaveStore

# MSP-Podcast cuts its segments to 2.75 to 11 s (Lotfian & Busso 2019). Inside, a log-normal with
# this median and deviation has the mean of 5.75 s that is usually taken; no length was read.
SHORTEST, LONGEST = 2.75, 11.0
MEDIAN, SIGMA = 5.4, 0.42


def durations(seconds: float, *, seed: int = 0) -> np.ndarray:
    """Lengths of clips that come to about `seconds` in all: log-normal, cut to 2.75 to 11 s.

    At least two clips; all lengths are whole samples.
    """
    rng, found = np.random.default_rng(seed), []
    while len(found) < 2 or sum(found) < seconds:
        x = float(rng.lognormal(np.log(MEDIAN), SIGMA))
        if SHORTEST <= x <= LONGEST:
            found.append(round(x * audio.SAMPLE_RATE) / audio.SAMPLE_RATE)
    return np.array(found)


def corpus(seconds: float, n_classes: int, *, seed: int = 0) -> tuple[WaveStore, np.ndarray]:
    """A store of noise, about `seconds` in all, and a class for each clip."""
    lengths, rng = durations(seconds, seed=seed), np.random.default_rng(seed)
    samples = (lengths * audio.SAMPLE_RATE).round().astype(int)
    waves = [audio.to_int16(rng.uniform(-0.3, 0.3, n).astype(np.float32)) for n in samples]
    return WaveStore(waves), rng.integers(n_classes, size=len(waves))
