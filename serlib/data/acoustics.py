"""Classical acoustic features of a waveform: MFCC, energy, pitch, log-mel, and their statistics.

All frame-wise features share one grid: a clip of N samples has T = 1 + N // 160 frames, frame t is
centered on sample 160 t (every 10 ms).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import fft
from torchaudio import functional

from serlib.data.audio import HOP, N_FFT, POWER_FLOOR, SAMPLE_RATE, WINDOW, checked

PITCH_HZ = (60.0, 500.0)
PITCH_WINDOW = SAMPLE_RATE // 20  # 50 ms: three periods of the lowest pitch
PITCH_BAND_HZ = 2_500.0  # harmonics above add little but hiss
OCTAVE_COST = 0.06  # per doubling of the lag: two periods correlate as well as one
VOICING = 0.5  # two minutes of white noise reach 0.47
SILENCE = 0.03  # of the loudest frame's level: -30 dB
PITCH_REFERENCE_HZ = 150.0  # between typical male and female voices
_SHORTEST = math.floor(SAMPLE_RATE / PITCH_HZ[1])  # lags, in samples
_LONGEST = math.ceil(SAMPLE_RATE / PITCH_HZ[0])


@lru_cache
def _mel_tables(n_mels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hann window (WINDOW,) and mel filters (N_FFT // 2 + 1, n_mels)."""
    filters = functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, n_mels, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(WINDOW), filters


def log_mel(wave: np.ndarray, n_mels: int = 80) -> np.ndarray:
    """Log-mel spectrogram: ln max(|STFT|² · filters, 1e-10).

    (T, n_mels) float32; 25 ms Hann window, 10 ms hop, zeros beyond the clip; area-normalized
    triangles on Slaney's mel scale from 0 to 8 kHz (as in librosa and Whisper).
    """
    window, filters = _mel_tables(n_mels)
    tensor = torch.from_numpy(checked(wave))
    power = functional.spectrogram(  # zeros at the edges, because reflection refuses short clips
        tensor, 0, window, N_FFT, HOP, WINDOW, 2.0, False, pad_mode="constant"
    )  # (N_FFT // 2 + 1, T)
    return (power.T @ filters).clamp(min=POWER_FLOOR).log().numpy()


def mfcc(wave: np.ndarray, n: int = 13) -> np.ndarray:
    """Mel-frequency cepstral coefficients: the first n of the orthonormal DCT-II of `log_mel`.

    (T, n) float32; coefficient 0 is the level, 1 the spectral tilt. 80 mel bands, no liftering.
    """
    return fft.dct(log_mel(wave), norm="ortho", axis=1)[:, :n]


def energy_db(wave: np.ndarray) -> np.ndarray:
    """Level: 10 log10(mean x² + 1e-10) over 25 ms, in dB relative to full scale.

    (T,) float32; -100 is digital silence, -3 a full-scale sine. Edge frames average only the
    samples that exist, so a steady tone is steady to its end.
    """
    wave = checked(wave).astype(np.float64)
    centers = np.arange(1 + len(wave) // HOP) * HOP
    low = np.clip(centers - WINDOW // 2, 0, len(wave) - 1)
    high = np.clip(centers + WINDOW // 2, 1, len(wave))
    total = np.concatenate([[0.0], np.cumsum(wave**2)])
    power = (total[high] - total[low]) / (high - low)
    return (10 * np.log10(power + POWER_FLOOR)).astype(np.float32)


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Of frames (T, PITCH_WINDOW) below PITCH_BAND_HZ; (T, _LONGEST + 2), one column per lag.

    Divided by the autocorrelation of the window, so that a period in phase reaches r(0) = 1.
    """
    size = fft.next_fast_len(PITCH_WINDOW + _LONGEST + 2, real=True)  # no wrap-around
    window = np.hanning(PITCH_WINDOW).astype(np.float32)
    band = np.arange(size // 2 + 1) * SAMPLE_RATE < PITCH_BAND_HZ * size
    r = fft.irfft(np.abs(fft.rfft(frames * window, size)) ** 2 * band, size)[:, : _LONGEST + 2]
    own = fft.irfft(np.abs(fft.rfft(window, size)) ** 2, size)[: _LONGEST + 2]
    return r / np.maximum(r[:, :1], 1e-12) / (own / own[0])


def pitch(wave: np.ndarray) -> np.ndarray:
    """Fundamental frequency, frame by frame, from the peak of the normalized autocorrelation r.

        lag* = argmax over the local maxima of r(lag) - OCTAVE_COST log2(lag)

    refined by a parabola through three points. A frame is voiced if r(lag*) > VOICING and its level
    is within 30 dB of the loudest frame's. Dividing r by the autocorrelation of the window and
    charging for octaves are from Boersma (1993, Proc. Inst. Phonetic Sciences 17); the constants
    are ours, and no path is searched through the frames, so single octave errors can remain.

    Returns:
        (T,) float32, about 60 to 500 Hz, NaN where unvoiced.
    """
    padded = np.pad(checked(wave), PITCH_WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, PITCH_WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)  # (T, PITCH_WINDOW)
    level = np.sqrt((frames**2).mean(axis=1))
    r = _autocorrelation(frames)
    before, here, after = (r[:, _SHORTEST + i : _LONGEST + i + 1] for i in (-1, 0, 1))
    lags = np.arange(_SHORTEST, _LONGEST + 1)
    peak = (here >= before) & (here > after)
    best = np.where(peak, here - OCTAVE_COST * np.log2(lags), -np.inf).argmax(axis=1)
    at = np.arange(len(best)), best
    curvature = np.where(peak[at], before[at] - 2 * here[at] + after[at], -np.inf)
    lag = lags[best] + 0.5 * (before[at] - after[at]) / curvature
    audible = level > max(SILENCE * float(level.max()), math.sqrt(POWER_FLOOR))
    voiced = peak[at] & (here[at] > VOICING) & audible
    return np.where(voiced, SAMPLE_RATE / lag, np.nan).astype(np.float32)


_CEPSTRA = [f"{kind}_{i}" for kind in ("mfcc", "delta") for i in range(13)]
_STATISTICS = ("mean", "std", "p5", "p50", "p95", "slope")
FUNCTIONAL_NAMES = tuple(
    [f"{c}_{s}" for c in ("log_pitch", "energy_db", *_CEPSTRA) for s in _STATISTICS]
    + ["voiced_share", "duration"]
)


def _statistics(contours: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Statistics (K, 6) of K contours (T, K) sampled at `seconds` (T,); all zero if T = 0."""
    if len(contours) == 0:
        return np.zeros((contours.shape[1], len(_STATISTICS)))
    mean, time = contours.mean(axis=0), seconds - seconds.mean()
    slope = time @ (contours - mean) / max(float(time @ time), 1e-12)  # least squares, per second
    percentiles = np.percentile(contours, [5, 50, 95], axis=0)
    return np.stack([mean, contours.std(axis=0), *percentiles, slope], axis=1)


def functionals(wave: np.ndarray) -> np.ndarray:
    """One vector per clip: how pitch, level and spectrum behave over time.

    Mean, standard deviation, percentiles 5, 50, 95 and slope per second of ln(pitch / 150 Hz) over
    voiced frames, `energy_db`, 13 MFCCs and their deltas (regression over five frames), then the
    share of voiced frames and the duration in seconds: our choice, after eGeMAPS (Eyben et al.,
    2016). Without voiced frames the pitch statistics are 0, which stands for a flat 150 Hz.

    Returns:
        (len(FUNCTIONAL_NAMES),) float32, finite for every valid wave.
    """
    hz = pitch(wave)
    voiced = np.isfinite(hz)
    log_pitch = np.log(hz[voiced, None].astype(np.float64) / PITCH_REFERENCE_HZ)
    cepstrum = mfcc(wave)
    deltas = functional.compute_deltas(torch.from_numpy(cepstrum.T.copy())).numpy().T
    others = np.concatenate([energy_db(wave)[:, None], cepstrum, deltas], axis=1, dtype=np.float64)
    seconds = np.arange(len(hz)) * HOP / SAMPLE_RATE
    tables = _statistics(log_pitch, seconds[voiced]), _statistics(others, seconds)
    summary = [voiced.mean(), len(wave) / SAMPLE_RATE]
    return np.concatenate([*map(np.ravel, tables), summary]).astype(np.float32)
