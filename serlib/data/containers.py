"""What the bytes of a sound file tell before it is decoded: its container, and how long it says.

Headers are not believed. What one promises is compared with what is there, so that a cut file is
noticed; a length that was never filled in, as programs leave it that write to a pipe, is.
"""

from __future__ import annotations

import re
import struct

# First bytes -> container. Suffixes lie: RIFF named .mp3, web pages named .wav.
_MAGIC = (
    (0, b"RF64", "wav"), (0, b"RIFX", "wav"), (0, b"fLaC", "flac"), (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"), (0, b".snd", "au"), (0, b"NIST_1A", "sphere"), (0, b"caff", "caf"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"), (4, b"ftyp", "mp4"), (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf"), (0, b"#!AMR", "amr"), (0, b"FLV\x01", "flv"),
    (0, b"\x00\x05\x16\x07", "appledouble"), (0, b"PK\x03\x04", "zip"), (0, b"\x1f\x8b", "gzip"),
    (0, b"version https://git-lfs", "lfs"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"),
    (0, b"\0\0\1\xba", "mpeg"),
)  # fmt: skip
FOREIGN = {  # what ffmpeg reads and libsndfile does not
    "mp4": "MPEG-4 sound or video", "matroska": "WebM or Matroska", "avi": "a video clip (AVI)",
    "aac": "AAC without a container", "asf": "Windows Media", "amr": "AMR", "flv": "Flash video",
    "mpeg": "a video clip (MPEG)",
}  # fmt: skip
NO_SOUND = {
    "lfs": "is a Git LFS pointer, not the audio: run git lfs pull in the corpus",
    "html": "is a web page, not audio: the download failed, fetch it again",
    "appledouble": "is a macOS companion file (AppleDouble), not audio: delete it",
    "zip": "is a ZIP archive: unpack it",
    "gzip": "is a gzip archive: unpack it",
    "empty": "is empty: copy it again",
}
HEAD, TAIL = 1 << 16, 1 << 17  # bytes within which a header ends, and the last page of Ogg begins
# First bytes -> where chunks begin, their name and size, the chunk of sound, and how many of its
# bytes are no samples.
_CHUNKS = {
    b"RIFF": (12, "<4sI", b"data", 0), b"RF64": (12, "<4sI", b"data", 0),
    b"RIFX": (12, ">4sI", b"data", 0), b"FORM": (12, ">4sI", (b"SSND", b"BODY"), 8),
    b"caff": (8, ">4sQ", b"data", 4), b"riff": (40, "<16sQ", b"data\xf3\xac\xd3\x11", 24),
}  # fmt: skip
_UNKNOWN = 0x7FFF0000  # a header that says so much of a shorter file has a placeholder
BEHIND = 1_500  # bytes of tags, or a frame of MP3, that may follow the sound


def sniff(head: bytes) -> str:
    """Name the container by the first bytes of a file ("wav", "aiff", "mp3", ...), or "unknown".

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
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # 11 bits of MPEG audio
        return "mp3" if head[1] & 0x06 else "aac"
    return "unknown"


def length(head: bytes, size: int) -> tuple[int | None, bytes | None]:
    r"""Where the sound ends that a header tells of, and a header with another length.

    Of RIFF, RF64, W64, AIFF, CAF and AU. A length is missing if it is 0 though samples follow, or
    all bits are set: libsndfile takes such a file for empty, or refuses it, and gets what is there.
    Of FLAC it is taken away, so that all is decoded.

    Of a file its beginning is needed, and its size in bytes.

    >>> length(b"RIFF0000WAVEdata" + bytes(4) + b"12345678", 28)[1][16:20]
    b'\x08\x00\x00\x00'
    """
    if head[:4] == b"fLaC" and len(head) > 26:
        return None, head[:21] + bytes([head[21] & 0xF0, 0, 0, 0, 0]) + head[26:]
    if (place := _place(head)) is None:
        return None, None
    at, form, begin, overhead = place
    bits = 8 * struct.calcsize(form)
    (said,), present = struct.unpack_from(form, head, at), size - begin
    follows, left = head[begin + overhead :][:8], present - overhead
    nothing = said <= overhead and follows and not is_chunk(follows, left)
    if present > 0 and (nothing or said == 2**64 - 1):  # of 32 bits, libsndfile knows itself
        number = struct.pack(form, min(present, (1 << bits) - 1))
        return None, head[:at] + number + head[at + bits // 8 :]
    return (None if present < said >= _UNKNOWN else begin + said), None


def _place(head: bytes) -> tuple[int, str, int, int] | None:
    """Where the bytes of sound are told, in what form, where they begin, and the overhead."""
    if head[:4] == b".snd" and len(head) >= 12:
        return 8, ">I", int.from_bytes(head[4:8], "big"), 0
    at, form, sound, overhead = _CHUNKS.get(head[:4], (len(head), "<4sI", b"", 0))
    wide = struct.calcsize(form)
    while at + wide <= len(head):
        name, said = struct.unpack_from(form, head, at)
        if name.startswith(sound):
            if head[:4] == b"RF64" and said == 0xFFFF_FFFF:  # told in front, in the chunk ds64
                return 28, "<Q", at + wide, 0
            number = form[0] + form[-1]
            return at + wide - struct.calcsize(number), number, at + wide, overhead
        # W64 counts a chunk's name and size, and rounds up to 8.
        at += max(wide, -(-said // 8) * 8) if wide == 24 else wide + said + said % 2
    return None


def is_chunk(head: bytes, left: int) -> bool:
    """Whether these 8 bytes, of `left`, begin a chunk or a tag, or are zeros: no sound."""
    if re.match(rb"ID3|TAG|\0*$", head):
        return True
    fits = min(int.from_bytes(head[4:8], order) for order in ("little", "big")) <= left
    return fits and re.match(rb"[\w ]{4}", head) is not None


def promised(kind: str, head: bytes) -> int | None:
    """Samples per channel that a header tells of and libsndfile does not; None: no such header."""
    if kind == "flac":
        return int.from_bytes(head[18:26], "big") & 0xF_FFFF_FFFF or None
    found = re.search(rb"^sample_count -i (\d+)", head[:1024], re.MULTILINE)
    return int(found[1]) if kind == "sphere" and found else None


def broken(kind: str, tail: bytes, log: str) -> bool:
    """Whether libsndfile noted that the end is missing; of Ogg, that the last page is none.

    Args:
        kind: The container.
        tail: The end of a file of Ogg, more than a page.
        log: Its notes.
    """
    page = tail[tail.rfind(b"OggS") :]
    body = 27 + (page[26] if len(page) > 26 else 0)
    at_end = len(page) <= body + sum(page[27:body])  # no tags behind
    junk = at_end and "Junk after the last page" in log
    ogg = kind == "ogg" and (junk or "Corrupted bitstream?!" in log)
    return ogg or re.search("[Ss]eems to be (a )?truncated", log) is not None


def after_tag(head: bytes) -> int:
    """Where the first frame of an MP3 begins, behind an ID3 tag."""
    return head[:3] == b"ID3" and 10 + sum(
        (b & 127) << 7 * (3 - i) for i, b in enumerate(head[6:10])
    )


def counted(frame: bytes) -> bool:
    """Whether the first frame of an MP3 says how many there are; otherwise decoders guess.

    It then has no sound but a tag: Xing or Info, flags, of which the last bit says that the number
    of frames follows; or VBRI.
    """
    tag = rb"(?:Xing|Info)...[\1\3\5\7\11\13\15\17](....)|VBRI"
    found = re.search(tag, frame, re.DOTALL)
    return frame[:1] != b"\xff" or (found is not None and found[1] != bytes(4))
