"""Sound files of any kind to samples at their own rate: what decodes counts, not what headers say.

`opened` and `decode` know an open file only; `audio.load` names it in errors.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile

from serlib.data import containers

MAX_OVERSHOOT = 1.5  # band-limiting may push a full-scale clip over 1.0, never this far
END_SLACK = 1e-3  # seconds: annotated ends are rounded and may lie this far beyond the file
LOWEST, HIGHEST = 4_000, 384_000  # sample rates; a header that says another is damaged
LONGEST = 4  # hours that are decoded at a time: 0.9 GB at 16 kHz
CUT = 0.01  # seconds that may be missing of what a header promises: many are a little wrong
PADDING = 0.05  # of MP3, a frame or two
CANCELED = 0.01  # of the loudest channel's power: the average of channels of opposite phase
BLOCK = 1 << 22  # samples decoded at a time: 16 MB
UNKNOWN = 1 << 62  # libsndfile's number of samples where a header has none
MORE = "holds more sound than its header says: convert it (ffmpeg -i IN -ar 16000 OUT.wav)"


class AudioError(ValueError):
    """A waveform that cannot be used; the message names the file and the fix."""


class ForeignError(AudioError):
    """Sound in a container or a coding that libsndfile does not read; ffmpeg reads more."""


@dataclass(frozen=True)
class Sound:
    """An open sound file.

    Attributes:
        file: libsndfile's.
        source: What that reads: the file on disk, one in memory, or a pipe.
        kind: The container, see `containers.sniff`.
        frames: Samples per channel that the header promises; None if it does not.
    """

    file: soundfile.SoundFile
    source: BinaryIO
    kind: str
    frames: int | None


@contextlib.contextmanager
def opened(raw: BinaryIO) -> Iterator[Sound]:
    """Open a sound file, known by its content; a length that its header lacks is filled in.

    Args:
        raw: The file, without a buffer.

    Raises:
        AudioError: as `audio.load`, without the name of the file.
    """
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    head = raw.read(containers.HEAD)
    kind = containers.sniff(head)
    if kind in containers.FOREIGN:
        raise ForeignError(f"is {containers.FOREIGN[kind]}, which libsndfile does not read")
    if kind in containers.NO_SOUND:
        raise AudioError(containers.NO_SOUND[kind])
    raw.seek(max(0, size - containers.TAIL))
    tail = raw.read() if kind == "ogg" else b""
    end, mended = containers.length(head, size)
    _check_end(raw, end or size, size)
    source = _source(raw, kind, head, mended)
    # A file descriptor has no suffix, so libsndfile can only go by content.
    handle = source if isinstance(source, io.BytesIO) else source.fileno()
    try:
        with soundfile.SoundFile(handle, closefd=False) as file:
            frames = file.frames if file.frames < UNKNOWN else None
            rate, told = file.samplerate, containers.promised(kind, head) or frames
            if not LOWEST <= rate <= HIGHEST:
                why = f"a sample rate of {rate} Hz, not {LOWEST} to {HIGHEST}"
                raise AudioError(f"has {why}: export it again")
            if containers.broken(kind, tail, file.extra_info):
                raise AudioError("is cut short: copy it again")
            if frames is not None:
                _compare(frames, told, rate)
                if end is not None and end > size:
                    _compare(frames, max(frames, 1) * end // size, rate)
            yield Sound(file, source, kind if kind != "unknown" else file.format.lower(), told)
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).strip(" .")
        if "not recognised" in reason:
            raise AudioError(f"is no audio that libsndfile reads ({reason})") from error
        if "unimplemented" in reason or "unsupported" in reason:
            raise ForeignError(f"has a coding that libsndfile does not read ({reason})") from error
        reason = "broken off" if not reason or "not exist" in reason else reason
        raise AudioError(f"does not decode as audio ({reason}): copy it again") from error
    finally:
        if source is not raw:
            source.close()


def _check_end(raw: BinaryIO, end: int, size: int) -> None:
    """Refuse a file that goes on, with what is no chunk, where its header says that it ends."""
    if size - end > containers.BEHIND:
        raw.seek(end + end % 2)
        if not containers.is_chunk(raw.read(8), size - end):
            raise AudioError(MORE)


def _source(raw: BinaryIO, kind: str, head: bytes, mended: bytes | None) -> BinaryIO:
    """What libsndfile reads a file from: the file, or one in memory with a better header."""
    if mended:
        raw.seek(len(head))
        return io.BytesIO(mended + raw.read())
    if kind == "mp3":
        raw.seek(containers.after_tag(head))
        if not containers.counted(frame := raw.read(256)):
            blank = frame.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
            return _piped(blank + raw.read())  # the decoder takes what comes, and guesses no length
    raw.seek(0)
    return raw


def _piped(content: bytes) -> BinaryIO:
    """The end of a pipe that content comes out of."""
    end, beginning = os.pipe()

    def feed() -> None:
        with contextlib.suppress(OSError), open(beginning, "wb") as pipe:  # nobody may read on
            pipe.write(content)

    threading.Thread(target=feed, daemon=True).start()
    return open(end, "rb", buffering=0)


def _compare(found: int, told: int, rate: int, slack: float = CUT) -> None:
    """Refuse another number of samples than that promised; a little is not worth a word."""
    slack *= min(rate, told)
    if found < told - slack:
        raise AudioError(f"is cut short or damaged ({found:,} of {told:,} samples): copy it again")
    if found > told + slack:
        raise AudioError(MORE)


def decode(
    sound: Sound, channel: int | None = None, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Mono samples (N,) of an open file at its own rate, as many as really decode.

    The options are those of `audio.load`.
    """
    file, channels, rate = sound.file, sound.file.channels, sound.file.samplerate
    if channel is not None and not 1 <= channel <= channels:
        raise AudioError(f"channel {channel} of {channels}. Channels count from 1.")
    first, stop = _span(sound.frames, rate, start, end)
    skipped = 0 if file.seekable() else first
    if file.seekable():
        file.seek(first)
    if sound.kind not in ("flac", "mp3") and stop is not None:  # the size of the file bears it out
        _check_hours(stop - first, rate)
    blocks = list(_blocks(sound, UNKNOWN if end is None else stop - first + skipped))
    got = sum(map(len, blocks)) - skipped
    if got <= 0:
        raise AudioError("holds no samples that decode. Copy it again or drop its row.")
    if stop is not None:
        _compare(got, stop - first, rate, PADDING if sound.kind == "mp3" else CUT)
    rest = sound.source.read() if sound.kind == "mp3" and end is None else b""
    if sound.frames and rest[:1] == b"\xff":  # frames that the header does not count, not tags
        more = sound.frames * len(rest) // (sound.source.tell() - len(rest))
        _compare(sound.frames + more, sound.frames, rate, PADDING)
    with np.errstate(over="ignore", invalid="ignore"):
        samples = np.concatenate(blocks)[skipped:]
        wave = samples.mean(axis=1) if channel is None else samples[:, channel - 1]
        if channel is None and channels > 1:
            power = samples.var(axis=0, dtype=np.float64)
            if wave.var(dtype=np.float64) < CANCELED * power.max():
                wave = samples[:, power.argmax()]
        peak = float(np.abs(wave).max())
    if not np.isfinite(wave).all():
        raise AudioError("holds NaN or infinity. Export it again or drop its row.")
    if peak > MAX_OVERSHOOT:
        raise AudioError(f"has a peak of {peak:.3g} times full scale: divide it by its peak")
    return wave


def _blocks(sound: Sound, left: int) -> Iterator[np.ndarray]:
    """What decodes, up to `left` samples, in blocks (n, channels)."""
    file, done, most = sound.file, 0, max(1, BLOCK // sound.file.channels)
    while left > 0:
        size = min(left, most, max(4_096, (sound.frames or most) - done))
        block = np.full((size, file.channels), np.nan, np.float32)
        try:
            block = file.read(out=block)
        except soundfile.SoundFileError:
            if sound.source.read(1):
                raise
            # The end of a file that does not tell its length is an error to libsndfile.
            block = block[: int(np.isfinite(block[:, 0]).sum())]
            left = len(block)
        if len(block) == 0:
            return
        done, left = done + len(block), left - len(block)
        _check_hours(done, file.samplerate)
        yield block


def _check_hours(samples: int, rate: int) -> None:
    if samples > LONGEST * 3600 * rate:
        raise AudioError(f"lasts more than {LONGEST} hours: cut it into shorter files")


def _span(
    frames: int | None, rate: int, start: float | None, end: float | None
) -> tuple[int, int | None]:
    """First sample and stop sample, at the file's own rate; None if the end is not known."""
    if frames == 0:
        raise AudioError("holds no samples. Drop its row from the manifest.")
    seconds = math.inf if frames is None else frames / rate
    begin, until = 0.0 if start is None else start, seconds if end is None else end
    inside = 0 <= begin < until <= seconds + END_SLACK  # False for NaN too
    first, stop = round(begin * rate) if inside else 0, frames if inside else 0
    if inside and end is not None:
        stop = min(round(end * rate), frames or UNKNOWN)
    if stop is not None and first >= stop:
        raise AudioError(
            f"no samples from {begin} s to {until} s in a file of {seconds:.3f} s. "
            "start and end are in seconds, with 0 <= start < end <= duration."
        )
    return first, stop
