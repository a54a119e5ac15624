"""Sound files of any kind to samples at their own rate: what decodes counts, not what headers say.

`opened` and `decode` know an open file only; `audio.load` names it in errors.
"""

from __future__ import annotations

import contextlib
import io
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
CUT = 0.05  # seconds that may be missing of what a header promises: many are a little wrong
CANCELED = 0.01  # of the loudest channel's power: the average of channels of opposite phase
BLOCK = 1 << 18  # samples decoded at a time
UNKNOWN = 1 << 62  # libsndfile's number of samples where a header has none
MORE = "holds more sound than its header says: convert it (ffmpeg -i IN -ar 16000 OUT.wav)"


class AudioError(ValueError):
    """A waveform that cannot be used; the message names the file and the fix."""


class ForeignError(AudioError):
    """Sound in a container that libsndfile does not read, and ffmpeg does."""


@contextlib.contextmanager
def opened(raw: BinaryIO) -> Iterator[Sound]:
    """Open a sound file, known by its content; a length that its header lacks is filled in.

    Raises:
        AudioError: as `load`, without the name of the file.
    """
    size = os.fstat(raw.fileno()).st_size
    raw.seek(0)
    head = raw.read(containers.HEAD)
    raw.seek(max(0, size - (1 << 17)))
    tail, kind = raw.read(), containers.sniff(head)
    if kind in containers.FOREIGN:
        raise ForeignError(f"is {containers.FOREIGN[kind]}, which libsndfile does not read")
    if kind in containers.NO_SOUND:
        raise AudioError(containers.NO_SOUND[kind])
    source = _source(raw, kind, head, size)
    # A file descriptor has no suffix, so libsndfile can only go by content.
    handle = source if isinstance(source, io.BytesIO) else source.fileno()
    try:
        with soundfile.SoundFile(handle, closefd=False) as file:
            if not LOWEST <= file.samplerate <= HIGHEST:
                rate = f"a sample rate of {file.samplerate} Hz, not {LOWEST} to {HIGHEST}"
                raise AudioError(f"has {rate}: export it again")
            seconds = file.frames / file.samplerate
            lost = containers.broken(kind, head, tail, size, file.extra_info)
            if lost == 1 or _cut(lost * seconds / (1 - lost), seconds):
                raise AudioError("is cut short: copy it again")
            yield Sound(file, raw, size, kind if kind != "unknown" else file.format.lower())
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).strip(" .")
        if "not recognised" in reason:
            raise AudioError(f"is no audio that libsndfile reads ({reason})") from error
        reason = "broken off" if not reason or "not exist" in reason else reason
        raise AudioError(f"does not decode as audio ({reason}): copy it again") from error
    finally:
        if source is not raw:
            source.close()


def _source(raw: BinaryIO, kind: str, head: bytes, size: int) -> BinaryIO:
    """What libsndfile reads a file from: the file, or one in memory with a better header."""
    end, filled = containers.length(head, size)
    left = size - (end or size)
    if left > containers.BEHIND:
        raw.seek(end)
        if not containers.is_chunk(raw.read(8), left):
            raise AudioError(MORE)
    raw.seek(len(head))
    if filled:
        return io.BytesIO(filled + raw.read())
    if kind == "mp3" and not containers.counted(head):
        blank = head.replace(b"Xing", bytes(4), 1).replace(b"Info", bytes(4), 1)
        return _piped(blank + raw.read())  # the decoder takes what comes, and guesses no length
    os.lseek(raw.fileno(), 0, os.SEEK_SET)  # not raw.seek, which may stay within a buffer
    return raw


def _piped(content: bytes) -> BinaryIO:
    """The end of a pipe that content comes out of."""
    end, beginning = os.pipe()

    def feed() -> None:
        with contextlib.suppress(OSError), open(beginning, "wb") as pipe:  # nobody may read on
            pipe.write(content)

    threading.Thread(target=feed, daemon=True).start()
    return open(end, "rb", buffering=0)


@dataclass(frozen=True)
class Sound:
    """An open sound file: libsndfile's, that on disk, its bytes, and its container."""

    file: soundfile.SoundFile
    raw: BinaryIO
    size: int
    kind: str

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.file.samplerate

    @property
    def known(self) -> bool:
        """Whether the header tells how long it is, which may be wrong all the same."""
        return self.file.frames < UNKNOWN

    def rest(self) -> bytes:
        """What libsndfile has not asked for yet."""
        self.raw.seek(os.lseek(self.raw.fileno(), 0, os.SEEK_CUR))
        return self.raw.read()


def decode(
    sound: Sound, channel: int | None = None, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Mono samples (N,) of an open file at its own rate, as many as really decode; see `load`."""
    file, channels = sound.file, sound.file.channels
    if channel is not None and not 1 <= channel <= channels:
        raise AudioError(f"channel {channel} of {channels}. Channels count from 1.")
    first, stop = _span(file.frames, sound.rate, start, end)
    skipped = 0 if file.seekable() else first
    if file.seekable():
        file.seek(first)
    blocks = list(_blocks(sound, stop - first + skipped))
    got, wanted = sum(map(len, blocks)) - skipped, stop - first
    told = sound.known or end is not None
    if got <= 0 or (told and _cut((wanted - got) / sound.rate, wanted / sound.rate)):
        share = f"{max(got, 0):,} of {wanted:,}" if told else "no"
        raise AudioError(f"is cut short or damaged ({share} samples decode): copy it again")
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


def _cut(lost: float, of: float) -> bool:
    """Whether so many seconds are too many to miss."""
    return lost > CUT * min(1.0, of)


def _blocks(sound: Sound, left: int) -> Iterator[np.ndarray]:
    """What decodes, up to `left` samples, in blocks (n, channels)."""
    file, done, size = sound.file, 0, max(1, BLOCK // sound.file.channels)
    while left > 0:
        block = np.full((min(left, size), file.channels), np.nan, np.float32)
        try:
            block = file.read(out=block)
        except soundfile.SoundFileError:
            if sound.rest():
                raise
            if sound.known:
                raise AudioError("is cut short or damaged: copy it again") from None
            # The end of a file that does not know its length is an error to libsndfile.
            block = block[: int(np.isfinite(block[:, 0]).sum())]
            left = len(block)
        if len(block) == 0:
            return
        done, left = done + len(block), left - len(block)
        if done > LONGEST * 3600 * sound.rate:
            raise AudioError(f"lasts more than {LONGEST} hours: cut it into shorter files")
        yield block
    if sound.known and file.tell() >= file.frames and _goes_on(sound):
        raise AudioError(MORE)


def _goes_on(sound: Sound) -> bool:
    """Whether there is more than the samples that the header of a FLAC or MP3 file counts."""
    if sound.kind == "mp3":
        return sound.rest()[:1] == b"\xff"  # the next frame; tags begin with a letter
    if sound.kind != "flac":
        return False
    sound.raw.seek(0)
    content = bytearray(sound.raw.read())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])  # the number of samples: unknown
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            file.seek(sound.file.frames)
            return len(file.read(1)) > 0
    except soundfile.SoundFileError:
        return False


def _span(frames: int, rate: int, start: float | None, end: float | None) -> tuple[int, int]:
    """First sample and stop sample, at the file's own rate."""
    if frames == 0:
        raise AudioError("holds no samples. Drop its row from the manifest.")
    seconds = frames / rate
    begin = 0.0 if start is None else start
    inside = 0 <= begin < (seconds if end is None else end) <= seconds + END_SLACK  # no NaN either
    first = round(begin * rate) if inside else 0
    stop = 0 if not inside else frames if end is None else min(round(end * rate), frames)
    if first >= stop:
        raise AudioError(
            f"no samples from {begin} s to {seconds if end is None else end} s in a file of "
            f"{seconds:.3f} s. "
            "start and end are in seconds, with 0 <= start < end <= duration."
        )
    return first, stop
