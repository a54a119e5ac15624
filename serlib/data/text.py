"""Transcripts as characters, and characters heard frame by frame as transcripts.

The alphabet is that of wav2vec 2.0's CTC models: 32 entries, the V of Cai et al. (2021). Entry 0 is
CTC's blank; the other names in angle brackets are kept so that numbers agree with those models, and
never occur in a target.

Letters: S characters of a transcript, T frames, V size of the alphabet.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

ALPHABET = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BLANK, SPACE = 0, 4
_NUMBER = {symbol: i for i, symbol in enumerate(ALPHABET)}
_NOTES = re.compile(r"\[[^]]*\]|\{[^}]*\}|<[^>]*>")  # of the transcriber
_APOSTROPHES = str.maketrans(dict.fromkeys("’ʼʻ`´", "'"))
# Letters that are no letter with an accent to Unicode: Ł is "L WITH STROKE", Æ "LETTER AE".
_NAMED = re.compile(r"LATIN CAPITAL (?:LETTER|LIGATURE) (?:OPEN )?([A-Z]{1,2})(?: WITH .+)?")
_LETTERS = {"ẞ": "SS", "Þ": "TH", "Ð": "D", "Ŋ": "NG", "Ə": "E", "ĸ": "K", "ʼ": "'"}


def normalize(text: str) -> str:
    """Upper case A to Z, apostrophes and single spaces; the rest is dropped or folded to those.

    Notes of the transcriber in brackets ([LAUGHTER], {LG}, <noise>) go as a whole: their letters
    were never said. Accents and strokes fall away, and letters that join two are written as two
    (Ł is L, Ø is O, Æ is AE, ß is SS, Þ is TH); a hyphen or other punctuation separates words.

    >>> normalize("Well-- it’s a café, [LAUGHTER] isn't it?"), normalize("Człowiek")
    ("WELL IT'S A CAFE ISN'T IT", 'CZLOWIEK')
    """
    words = (word.strip("'") for word in re.sub(r"[^A-Z']", " ", _folded(text)).split())
    return " ".join(word for word in words if word)


def _folded(text: str) -> str:
    """Upper case without notes and accents; letters that the alphabet lacks are left."""
    text = _NOTES.sub(" ", text.translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKD", text).upper()
    return "".join(map(_latin, text)) if not text.isascii() else text


@functools.cache
def _latin(letter: str) -> str:
    if unicodedata.combining(letter):
        return ""
    named = _NAMED.fullmatch(unicodedata.name(letter, "")) if letter > "\x7f" else None
    return _LETTERS.get(letter, named[1] if named else letter)


def encode(text: str | None) -> list[int]:
    """Numbers of the normalized characters, "|" between words; [] if there is no usable transcript.

    Not usable are: none at all, one without letters, one with letters of another alphabet, which
    would be half a target, and one with digits, which do not say how they were read ("1990"). Such
    a clip has no target; the others of its batch are not affected.

    >>> encode("A b."), encode("Route 66"), encode("Привет, A"), encode("[NOISE]"), encode(None)
    ([7, 4, 24], [], [], [], [])
    """
    if not isinstance(text, str) or any(c.isnumeric() for c in _NOTES.sub("", text)):
        return []
    if any(c.isalpha() and c not in _NUMBER for c in _folded(text)):
        return []
    return [_NUMBER[c] for c in normalize(text).replace(" ", ALPHABET[SPACE])]


def decode(numbers: Iterable[int]) -> str:
    """The text of encoded characters, which `encode` gives back.

    >>> decode(encode("it's here"))
    "IT'S HERE"
    """
    symbols = [ALPHABET[i] for i in numbers]
    letters = "".join(s for s in symbols if len(s) == 1)
    return " ".join(letters.replace(ALPHABET[SPACE], " ").split())


def sentence(text: str) -> str:
    """A text without case and punctuation as people write one: "Oh no I'm late." ("" stays "").

    For readers of cased text: to RoBERTa a sentence in capitals is another language. Names and
    commas cannot be had back. Our choice.

    >>> sentence("OH NO I'M LATE"), sentence("")
    ("Oh no I'm late.", '')
    """
    words = (re.sub(r"^i(?=$|')", "I", word) for word in text.lower().split())
    line = " ".join(words)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def collapse(best: Sequence[int]) -> list[int]:
    """Greedy CTC decoding: the best character of each frame, repeats merged, then blanks removed.

    A blank between two equal characters keeps them apart (Graves et al. 2006, the map B).

    >>> collapse([7, 7, 0, 7, 24, 24, 0])
    [7, 7, 24]
    """
    best = np.asarray(best, dtype=np.int64)
    new = np.diff(best, prepend=-1) != 0
    return best[new & (best != BLANK)].tolist()


def frames_needed(numbers: Sequence[int]) -> int:
    """The fewest frames T in which CTC can write a target: S, plus a blank in each double letter.

    >>> frames_needed(encode("all"))
    4
    """
    return len(numbers) + sum(a == b for a, b in zip(numbers, numbers[1:], strict=False))


def pad(texts: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Targets of many clips: numbers (U, S), padded with blanks, and how many each has (U,).

    >>> numbers, lengths = pad(["ab", None])
    >>> numbers.tolist(), lengths.tolist()
    ([[7, 24], [0, 0]], [2, 0])
    """
    encoded = [encode(text) for text in texts]
    lengths = np.array([len(numbers) for numbers in encoded], dtype=np.int64)
    width = max(1, lengths.max(initial=0))  # torch wants a column even where nothing is said
    padded = [numbers + [BLANK] * (width - len(numbers)) for numbers in encoded]
    return np.array(padded, dtype=np.int64).reshape(-1, width), lengths
