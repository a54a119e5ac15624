"""What only the audio files tell: hash, container, rate, channels, length, and whether they decode.

What was measured is kept under `records.home()` by path, size and time of change, so a build that
was interrupted, or is repeated after files were added, measures the rest only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from serlib import records
from serlib.data import manifest, tables

SAVE_EVERY = 30.0  # seconds between two writings of what was measured
SILENT = 1e-4  # a peak below -80 dB relative to full scale: nothing was recorded
TOO_SHORT, TOO_LONG = 0.5, 60.0  # seconds; our choice: flags for the reader, not exclusions
CUT = 0.01  # share of the announced bytes that may be missing: headers are often a little wrong
FACTS = ("sha256", "bytes", "container", "sample_rate", "channels", "num_frame", "peak", "error")

# First bytes -> container. Suffixes lie: RIFF named .mp3, web pages named .wav.
_MAGIC = (
    (0, b"RF64", "wav"), (0, b"fLaC", "flac"), (0, b"OggS", "ogg"), (0, b"ID3", "mp3"),
    (0, b".snd", "au"), (0, b"NIST_1A", "sphere"), (0, b"\x1aE\xdf\xa3", "matroska"),
    (4, b"ftyp", "mp4"), (0, b"\x00\x05\x16\x07", "appledouble"), (0, b"PK\x03\x04", "zip"),
    (0, b"version https://git-lfs", "lfs"), (0, b"\x1f\x8b", "gzip"),
)  # fmt: skip
_AUDIO = {"wav", "aiff", "flac", "ogg", "mp3"}
_MEND = {
    "avi": "is a video clip (AVI): pull the sound out first, with serlib manifest extract",
    "mp4": "is a video clip (MP4): pull the sound out first, with serlib manifest extract",
    "matroska": "is a video clip: pull the sound out first, with serlib manifest extract",
    "lfs": "is a Git LFS pointer, not the audio: run git lfs pull in the corpus",
    "html": "is a web page, not audio: the download failed, fetch it again",
    "appledouble": "is a macOS companion file (AppleDouble), not audio: delete it",
    "zip": "is a ZIP archive: unpack it",
    "gzip": "is a gzip archive: unpack it",
    "empty": "is empty: copy it again",
}  # fmt: skip


def sniff(head: bytes) -> str:
    """Name the container by the first bytes of a file ("wav", "aiff", "mp4", ...), or "unknown".

    >>> sniff(b"RIFF0000WAVEfmt "), sniff(b"<!DOCTYPE html>"), sniff(b"")
    ('wav', 'html', 'empty')
    """
    if not head:
        return "empty"
    if head[:4] in (b"RIFF", b"FORM"):
        form = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}
        return form.get(head[8:12], "unknown")
    for start, magic, name in _MAGIC:
        if head[start : start + len(magic)] == magic:
            return name
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "html"
    return "mp3" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 else "unknown"


def measure(
    root: Path,
    wavs: Sequence[str],
    *,
    verify: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure files of a corpus, by their paths from `root`; repeated ones are measured once.

    Without `verify` files are neither hashed nor decoded, only their headers are read: `sha256` and
    `peak` stay missing. `workers` are threads; None takes one per core.

    Returns:
        One row per different path, the index, with columns `FACTS`: bytes of the file, rate in Hz,
        peak in 0..1 of full scale; `error` says why a file cannot be used, else it is None.
    """
    wavs = list(dict.fromkeys(wavs))
    name = hashlib.sha256(f"{root}\n{verify}".encode()).hexdigest()[:16]
    memory = records.home() / "measured" / f"{name}.json"
    try:  # wav -> size, time of change in ns, and `FACTS`
        known = records.read_json(memory)
    except (FileNotFoundError, records.RecordError):  # it only saves time
        known = {}
    rows, fresh, saved = [], {}, time.monotonic()
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = pool.map(functools.partial(_one, root, known, verify), wavs)
        bar = tqdm(found, "measure", len(wavs), unit="file", disable=not progress)
        try:
            for wav, (stamp, row) in zip(wavs, bar, strict=True):
                rows.append(row)
                if stamp and known.get(wav) != [*stamp, *row]:
                    fresh[wav] = [*stamp, *row]
                if fresh and time.monotonic() - saved > SAVE_EVERY:
                    records.atomic_write(memory, json.dumps(known | fresh))
                    saved = time.monotonic()
        except BaseException:  # Ctrl-C: do not measure the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if fresh:
                records.atomic_write(memory, json.dumps(known | fresh))
    return pd.DataFrame(rows, columns=list(FACTS), index=pd.Index(wavs, name="wav"), dtype=object)


def _one(root: Path, known: dict, verify: bool, wav: str) -> tuple[list | None, list]:
    """The stamp and the facts of one file; without a stamp nothing is remembered."""
    try:
        path = manifest.resolve(root, wav)
        stat = path.stat()
    except tables.ManifestError as error:
        return None, _failed(str(error))
    except OSError:
        return None, _failed("there is no such file")
    stamp = [stat.st_size, stat.st_mtime_ns]
    if wav in known and known[wav][:2] == stamp:
        return stamp, known[wav][2:]
    try:
        return stamp, _facts(path, verify)
    except OSError as error:  # a disk that fails today may work tomorrow
        return None, _failed(f"cannot be read ({error.strerror or error})")


def _failed(why: str, sha256=None, size=None, kind=None) -> list:
    return [sha256, size, kind, None, None, None, None, why]


def _facts(path: Path, verify: bool) -> list:
    with path.open("rb") as raw:
        data = raw.read() if verify else raw.read(4096)
        size = os.fstat(raw.fileno()).st_size
        sha256 = hashlib.sha256(data).hexdigest() if verify else None
        kind = sniff(data[:64])
        if kind not in _AUDIO:
            return _failed(_MEND.get(kind, f"is no audio ({kind} content)"), sha256, size, kind)
        raw.seek(0)
        try:
            with soundfile.SoundFile(raw.fileno(), closefd=False) as sound:
                rate, channels = sound.samplerate, sound.channels
                frames, peak = _decode(sound) if verify else (sound.frames, None)
        except soundfile.SoundFileError as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            return _failed(f"does not decode ({reason}): copy it again", sha256, size, kind)
    why = _unusable(rate, frames, peak, data, size)
    return [sha256, size, kind, rate, channels, frames, peak, why]


def _decode(sound: soundfile.SoundFile) -> tuple[int, float]:
    """Frames that really come out, and the largest sample; NaN if one is not finite."""
    frames, peak = 0, 0.0
    for block in sound.blocks(1 << 18, dtype="float32", always_2d=True):
        frames += len(block)
        peak = float(np.maximum(peak, np.abs(block).max()))  # np.maximum keeps NaN
    return frames, peak


def _unusable(rate: int, frames: int, peak: float | None, data: bytes, size: int) -> str | None:
    if frames == 0:
        return "holds no samples"
    if peak is not None and not np.isfinite(peak):
        return "holds NaN or infinity: export it again"
    promised = int.from_bytes(data[4:8], "little") + 8 if data[:4] == b"RIFF" else 0
    if promised < 0xFFFFFF00 and promised - size > CUT * promised:  # above: length not known
        return f"is cut short ({size:,} of {promised:,} bytes): copy it again"
    return _odd(rate)


@functools.cache
def _odd(rate: int) -> str | None:
    """Why a sample rate cannot be changed to 16 kHz, or None."""
    from serlib.data import audio  # here: it loads torch, which cards and labels do not need

    try:
        audio.resample(np.zeros(1, np.float32), rate)
    except audio.AudioError as error:
        return f"has an {error}"
    return None


def flags(facts: pd.DataFrame, length: pd.Series) -> list[list[str]]:
    """The flags that the audio tells, per row of `facts` (index wav), with lengths in seconds."""
    aiff = [kind == "aiff" and wav.endswith(".wav") for wav, kind in facts["container"].items()]
    columns = zip(facts["peak"], facts["channels"], aiff, length, strict=True)
    return [
        ["no_audio"] * (peak is not None and peak < SILENT)
        + ["stereo"] * (channels > 1)
        + ["aiff_in_wav"] * disguised
        + ["too_short"] * (seconds < TOO_SHORT)
        + ["too_long"] * (seconds > TOO_LONG)
        for peak, channels, disguised, seconds in columns
    ]
