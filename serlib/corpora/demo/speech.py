"""Synthetic speech: espeak-ng driven through its C interface, and the few effects it lacks.

espeak-ng (GPL-3, from the `espeakng-loader` wheel) is a formant synthesizer: a voice is a handful
of numbers, so every acoustic property of an utterance is known exactly. Spectral tilt, tremor and
background noise are added here. All arithmetic is float64 and ends in 16-bit integers, so that the
same recipe gives the same samples on every x86-64 machine.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from serlib.data.audio import SAMPLE_RATE

_SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
_CHARS_UTF8, _RATE, _PHONEME = 1, 1, 7
NOMINAL_DBFS = -26.0  # level of speech before loudness is added, RMS
TREMOR_HZ = 6.0


class SpeechError(RuntimeError):
    """The synthesizer cannot be loaded or refused a voice."""


@dataclass(frozen=True)
class Voice:
    """What espeak-ng needs to know about a talker and a manner of speaking."""

    accent: str  # espeak-ng voice name, for example en-us
    formant: int  # frequencies in percent of the accent's own (a shorter vocal tract: > 100)
    pitch_hz: int  # at the bottom of the intonation
    range_hz: int  # span of the intonation above it
    rate_wpm: int  # words per minute, 80 to 450


class _Event(ctypes.Structure):
    class _Id(ctypes.Union):
        _fields_ = [("number", ctypes.c_int), ("string", ctypes.c_char * 8)]

    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    ]  # fmt: skip


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesizer:
    """One espeak-ng instance. The C library is global: one per process, never shared by threads."""

    def __init__(self) -> None:
        """Load the library; a `SpeechError` if that fails."""
        import espeakng_loader

        # A data folder of our own, linked to the wheel's, so that voice variants can be written.
        self._folder = tempfile.TemporaryDirectory(prefix="serlib-espeak-")
        data = Path(self._folder.name) / "espeak-ng-data"
        self._variants = data / "voices" / "!v"
        self._variants.mkdir(parents=True)
        for entry in Path(espeakng_loader.get_data_path()).iterdir():
            if entry.name != "voices":
                os.symlink(entry, data / entry.name)
        try:
            self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            why = f"cannot load espeak-ng ({error}); reinstall the package espeakng-loader"
            raise SpeechError(why) from error
        how = _SYNCHRONOUS, 0, str(data).encode(), _PHONEME_EVENTS
        self.rate = self._lib.espeak_Initialize(*how)
        if self.rate <= 0:
            raise SpeechError("espeak-ng did not start; reinstall the package espeakng-loader")
        self._callback = _Callback(self._collect)  # kept: the C side holds only a pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)
        # The first utterances of a process differ from later ones: let that pass unheard.
        for _ in range(3):
            self.speak("Now then.", Voice("en", 100, 100, 40, 170))

    def _collect(self, samples, count, events) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != 0:
            if events[i].type == _PHONEME:
                name = events[i].id.string.decode("utf-8", "replace")
                self._phones.append((events[i].audio_position / 1000, name))
            i += 1
        return 0

    def _once(self, text: bytes) -> None:
        self._chunks: list[np.ndarray] = []
        self._phones: list[tuple[float, str]] = []
        self._lib.espeak_Synth(text, len(text) + 1, 0, 1, 0, _CHARS_UTF8, None, None)

    def speak(self, text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[float, str]]]:
        """Return the samples (float64, -1 to 1, at `self.rate`) and the phones with start seconds.

        The synthesizer keeps some state from one utterance to the next. Speaking each text twice
        and keeping the second makes the result a function of its arguments alone.
        """
        (self._variants / "talker").write_text(
            f"language variant\nname talker\nflutter 0\n"
            f"pitch {voice.pitch_hz} {voice.pitch_hz + voice.range_hz}\n"
            + "".join(f"formant {i} {voice.formant} 100 100\n" for i in range(1, 9)),
            encoding="utf-8",
        )
        if self._lib.espeak_SetVoiceByName(f"{voice.accent}+talker".encode()) != 0:
            raise SpeechError(f"espeak-ng has no voice {voice.accent!r}")
        self._lib.espeak_SetParameter(_RATE, voice.rate_wpm, 0)
        self._once(text.encode())
        self._once(text.encode())
        if not self._chunks:
            raise SpeechError(f"espeak-ng made no sound for {text!r}")
        return np.concatenate(self._chunks) / 32768.0, self._phones


@functools.cache
def synthesizer() -> Synthesizer:
    """The one synthesizer of this process."""
    return Synthesizer()


def tilt(wave: np.ndarray, db: float) -> np.ndarray:
    """Tilt the spectrum by `db` between 500 Hz and 4 kHz (bright, pressed > 0 > breathy, dull).

    A first-order shelf; a single number stands for the voice quality that laryngeal tension
    produces (our simplification).
    """
    gain = 10 ** (db / 20)
    # Bilinear transform of H(s) = (g s + w) / (s + w), w at 1.4 kHz: 1 at DC, g at high frequency.
    w = 2 * np.pi * 1400 / SAMPLE_RATE
    b, a = signal.bilinear([gain, w], [1, w], fs=1.0)
    return signal.lfilter(b, a, wave)


def tremor(wave: np.ndarray, depth: float) -> np.ndarray:
    """Modulate the amplitude at 6 Hz: y = x (1 - depth/2 + depth/2 cos 2 pi 6 t), depth in 0..1."""
    t = np.arange(len(wave)) / SAMPLE_RATE
    return wave * (1 - depth / 2 + depth / 2 * np.cos(2 * np.pi * TREMOR_HZ * t))


def noise(n: int, dbfs: float, seed: int) -> np.ndarray:
    """Brownish background noise of `n` samples at an RMS level of `dbfs`."""
    white = np.random.Generator(np.random.PCG64(seed)).standard_normal(n + 200)
    colored = signal.lfilter([1.0], [1.0, -0.95], white)[200:]
    return colored * 10 ** (dbfs / 20) / np.sqrt(np.mean(colored**2))


def render(
    text: str,
    voice: Voice,
    *,
    loudness_db: float = 0.0,
    tilt_db: float = 0.0,
    tremor_depth: float = 0.0,
    noise_dbfs: float = -60.0,
    noise_seed: int = 0,
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Speak `text` and give it loudness, voice quality (`tilt`, `tremor`) and background `noise`.

    Loudness is relative to `NOMINAL_DBFS`; the noise does not follow it, so loudness stays audible
    as signal-to-noise ratio after any level normalization.

    Returns:
        The samples (int16, 16 kHz, mono) and the phones as (start in seconds, espeak-ng name).
    """
    machine = synthesizer()
    wave, phones = machine.speak(text, voice)
    up, down = SAMPLE_RATE // 50, machine.rate // 50  # 22,050 Hz to 16,000 Hz is 320 / 441
    wave = signal.resample_poly(wave, up, down)
    wave = tremor(tilt(wave, tilt_db), tremor_depth)
    active = wave[np.abs(wave) > 1e-3]
    level = 10 ** ((NOMINAL_DBFS + loudness_db) / 20)
    wave = wave * level / np.sqrt(np.mean(active**2))
    wave = wave + noise(len(wave), noise_dbfs, noise_seed)
    peak = np.max(np.abs(wave))
    if peak > 0.99:
        wave = wave * (0.99 / peak)
    return np.round(wave * 32767).astype(np.int16), phones
