"""Waveforms in and out.

Everything in the book is mono, 16 kHz, float32 in [-1, 1]: `load` makes it so or says why it
cannot.
"""

from __future__ import annotations

import io
import math
import os
import shlex
from pathlib import Path

import numpy as np
import soundfile
from scipy import fft

from serlib import records
from serlib.data import decoding
from serlib.data.decoding import HIGHEST, LOWEST, MAX_OVERSHOOT, AudioError, ForeignError

SAMPLE_RATE = 16_000
HOP = SAMPLE_RATE // 100  # samples between frames: 10 ms
WINDOW = SAMPLE_RATE // 40  # samples of a mel or energy frame: 25 ms
N_FFT = 512  # the window padded with zeros to the next power of two
POWER_FLOOR = 1e-10  # -100 dB, below the quantization noise of 16 bits


def load(
    path: str | os.PathLike,
    *,
    channel: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Read one clip as mono 16 kHz float32.

    The container is recognized by its content, whatever the suffix says.

    Args:
        path: WAV, FLAC, OGG, MP3 or anything else libsndfile reads, at 4 to 384 kHz.
        channel: 1-based channel to keep; None averages all channels. Where they cancel each other
            out (opposite phase, the average 20 dB below the loudest), None keeps the loudest.
        start: where to begin, in seconds; None is the beginning of the file.
        end: where to stop, in seconds; None is the end of the file.

    Returns:
        wave (N,) float32, N > 0, all finite. Resampling may take it over 1.0 a little.

    Raises:
        AudioError: the file is missing, not audio, empty or cut short, holds NaN, infinity or
            values far over full scale, or lasts for hours; the channel or the time span is not in
            it.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file. Check data_root and the manifest's wav column.")
    try:
        with path.open("rb", buffering=0) as raw, decoding.opened(raw) as sound:
            wave = decoding.decode(sound, channel, start, end)
            return np.clip(resample(wave, sound.file.samplerate), -MAX_OVERSHOOT, MAX_OVERSHOOT)
    except ForeignError as error:
        where = shlex.quote(str(path.with_name(f"{path.stem}-16kHz.wav")))
        fix = f"ffmpeg -i {shlex.quote(str(path))} -ar {SAMPLE_RATE} {where}"
        raise AudioError(f"{path}: {error}. Convert it with: {fix}") from error
    except (AudioError, OSError) as error:
        raise AudioError(f"{path}: {error}") from error


def resample(wave: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Change the sample rate, by Kaiser-windowed sinc interpolation at usual rates.

    (N,) at `rate` samples per second becomes (ceil(N target / rate),) float32. To 16 kHz it is flat
    up to 7 kHz, and aliases stay below -100 dB. Rates without a common factor of 25 or more, whose
    filter bank would be huge, are changed in the spectrum of the whole wave, see `_by_spectrum`.
    AudioError for rates outside 4 to 384 kHz.

    >>> resample(np.zeros(441), 44_100).shape
    (160,)
    """
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if not (LOWEST <= rate <= HIGHEST and LOWEST <= target <= HIGHEST):
        raise AudioError(f"from {rate} to {target} Hz: both must be {LOWEST} to {HIGHEST}.")
    if rate == target:
        return wave
    if math.gcd(rate, target) < 25:
        return _by_spectrum(wave, rate, target)
    import torch
    from torchaudio import functional

    zeros, rolloff, beta = 64, 0.945, 14.8  # a long filter: the default loses 15 dB at 7 kHz
    method = "sinc_interp_kaiser"
    tensor = torch.from_numpy(wave)
    return functional.resample(tensor, rate, target, zeros, rolloff, method, beta).numpy()


def _by_spectrum(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Keep the part of the discrete Fourier transform that both rates can hold.

    Zeros fill the wave up to a length that is a whole number of samples at both rates, and at least
    0.1 s, which the filter's ringing needs. From 7/8 of the lower rate's half to all of it, a
    raised cosine fades out.
    """
    down, up = (r // math.gcd(rate, target) for r in (rate, target))
    periods = -(-(len(wave) + rate // 10) // down)
    spectrum = fft.rfft(wave.astype(np.float64), periods * down)[: periods * up // 2 + 1]
    share = np.arange(len(spectrum)) * rate / (periods * down) / (min(rate, target) / 2)
    spectrum *= 0.5 + 0.5 * np.cos(np.pi * np.clip(8 * share - 7, 0, 1))
    found = fft.irfft(spectrum, periods * up)[: -(-len(wave) * target // rate)]
    return (found * (up / down)).astype(np.float32)


def save(path: str | os.PathLike, wave: np.ndarray) -> None:
    """Write a 16 kHz mono 16-bit WAV atomically: a reader sees the whole file or none.

    AudioError if the wave is empty, not one-dimensional, not finite, or would clip (over 1.0).
    """
    peak = float(np.abs(checked(wave)).max())
    if peak > 1.0:
        raise AudioError(f"{path}: peak {peak:.4f} would clip. Divide the wave by its peak first.")
    content = io.BytesIO()
    soundfile.write(content, to_int16(wave), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    records.atomic_write(path, content.getvalue())


def checked(wave: np.ndarray) -> np.ndarray:
    """The wave as float32 (N,), or an AudioError."""
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or wave.size == 0:
        raise AudioError(f"shape {wave.shape}: expected one channel of N > 0 samples, (N,).")
    if not np.isfinite(wave).all():
        raise AudioError("the wave holds NaN or infinity. Find its source; load never returns any.")
    return wave


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Quantize to 16 bits: round(32768 x), saturating at the ends of the range.

    Exact for audio that came from 16 bits: to_int16(from_int16(k)) is k. Saturation serves only the
    overshoot of resampling; a wave far outside [-1, 1] is refused, its scale must be wrong.

    >>> to_int16(np.array([-1.0, 0.5, 1.0])).tolist()
    [-32768, 16384, 32767]
    """
    wave = checked(wave)
    peak = float(np.abs(wave).max())
    if peak > MAX_OVERSHOOT:
        raise AudioError(f"peak {peak:.3g} is far outside [-1, 1]. Scale the wave first.")
    return np.clip(np.rint(wave * 32_768), -32_768, 32_767).astype(np.int16)


def from_int16(wave: np.ndarray) -> np.ndarray:
    """Back to float32 in [-1, 1): k / 32768."""
    return np.asarray(wave, dtype=np.int16).astype(np.float32) / 32_768


def normalize(wave: np.ndarray) -> np.ndarray:
    """Zero mean, unit variance per clip: (x - mean) / sqrt(var + 1e-7). Do it before padding.

    The 1e-7 is that of Hugging Face's wav2vec 2.0 feature extractor: silence becomes zeros, and a
    nearly silent clip is not blown up.

    >>> normalize(np.array([1.0, 3.0])).round(3).tolist()
    [-1.0, 1.0]
    >>> normalize(np.full(3, 0.1)).tolist()
    [0.0, 0.0, 0.0]
    """
    wave = checked(wave).astype(np.float64)
    return ((wave - wave.mean()) / math.sqrt(wave.var() + 1e-7)).astype(np.float32)
