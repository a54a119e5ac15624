"""Waveforms in and out.

Everything in the book is mono, 16 kHz, float32 in [-1, 1]: `load` makes it so or says why it
cannot.
"""

from __future__ import annotations

import math
import os
import uuid
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio import functional

SAMPLE_RATE = 16_000
HOP = SAMPLE_RATE // 100  # samples between frames: 10 ms
WINDOW = SAMPLE_RATE // 40  # samples of a mel or energy frame: 25 ms
N_FFT = 512  # the window padded with zeros to the next power of two
POWER_FLOOR = 1e-10  # -100 dB, below the quantization noise of 16 bits

MAX_OVERSHOOT = 1.5  # band-limiting may push a full-scale clip over 1.0, never this far
END_SLACK = 1e-3  # seconds: annotated ends are rounded and may lie this far beyond the file


class AudioError(ValueError):
    """A waveform that cannot be used; the message names the file and the fix."""


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
        path: WAV, FLAC, OGG, MP3 or anything else libsndfile reads, at any usual sample rate.
        channel: 1-based channel to keep; None averages all channels.
        start: where to begin, in seconds; None is the beginning of the file.
        end: where to stop, in seconds; None is the end of the file.

    Returns:
        wave (N,) float32, N > 0, all finite. Resampling may take it over 1.0 a little.

    Raises:
        AudioError: the file is missing, not audio, or empty, or holds NaN or infinity; the channel
            or the time span is not in it.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file. Check data_root and the manifest's wav column.")
    try:
        # A file descriptor has no suffix, so libsndfile can only go by content.
        with path.open("rb") as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as sound:
            rate, channels = sound.samplerate, sound.channels
            if channel is not None and not 1 <= channel <= channels:
                raise AudioError(f"{path}: channel {channel} of {channels}. Channels count from 1.")
            first, stop = _span(path, sound.frames, rate, start, end)
            sound.seek(first)
            samples = sound.read(stop - first, dtype="float32", always_2d=True)  # (N, channels)
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(f"{path}: not WAV, FLAC, OGG or MP3 audio ({reason}). Fix it.") from error
    if len(samples) == 0:
        raise AudioError(f"{path}: the data ends before the header says. Copy the file again.")
    wave = samples.mean(axis=1) if channel is None else samples[:, channel - 1]
    if not np.isfinite(wave).all():
        raise AudioError(f"{path}: holds NaN or infinity. Export it again or drop its row.")
    try:
        return resample(wave, rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def _span(
    path: Path, frames: int, rate: int, start: float | None, end: float | None
) -> tuple[int, int]:
    """First sample and stop sample, at the file's own rate."""
    if frames == 0:
        raise AudioError(f"{path}: holds no samples. Drop its row from the manifest.")
    seconds = frames / rate
    begin = 0.0 if start is None else start
    end = seconds if end is None else end
    inside = 0 <= begin < end <= seconds + END_SLACK  # False for NaN too
    first, stop = (round(begin * rate), min(round(end * rate), frames)) if inside else (0, 0)
    if first >= stop:
        raise AudioError(
            f"{path}: no samples from {begin} s to {end} s in a file of {seconds:.3f} s. "
            "start and end are in seconds, with 0 <= start < end <= duration."
        )
    return first, stop


def resample(wave: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Change the sample rate by Kaiser-windowed sinc interpolation.

    (N,) at `rate` samples per second becomes (ceil(N target / rate),) float32. To 16 kHz it is flat
    up to 7 kHz, and aliases stay below -100 dB. AudioError for rates without a common factor of 25
    or more, whose filter bank would be huge.

    >>> resample(np.zeros(441), 44_100).shape
    (160,)
    """
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if rate == target:
        return wave
    if math.gcd(rate, target) < 25:
        raise AudioError(f"odd sample rate {rate} Hz. Convert with: ffmpeg -i IN -ar 16000 OUT.wav")
    zeros, rolloff, beta = 64, 0.945, 14.8  # a long filter: the default loses 15 dB at 7 kHz
    method = "sinc_interp_kaiser"
    tensor = torch.from_numpy(wave)
    return functional.resample(tensor, rate, target, zeros, rolloff, method, beta).numpy()


def save(path: str | os.PathLike, wave: np.ndarray) -> None:
    """Write a 16 kHz mono 16-bit WAV atomically: a reader sees the whole file or none.

    AudioError if the wave is empty, not one-dimensional, not finite, or would clip (over 1.0).
    """
    path = Path(path)
    peak = float(np.abs(checked(wave)).max())
    if peak > 1.0:
        raise AudioError(f"{path}: peak {peak:.4f} would clip. Divide the wave by its peak first.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        soundfile.write(temporary, to_int16(wave), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
