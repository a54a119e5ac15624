"""Names of speakers, groups and files: one form for what people spell in many ways."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# What tables write, beside an empty cell, where a name is not known; `identity` of it.
UNKNOWN = frozenset(
    "-1 nan na n/a #n/a <na> none null nil unknown unk undefined missing unspecified".split()
)
# Cyrillic and Greek letters that look like Latin ones.
_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеорсухіѕјΑΒΕΖΗΙΚΜΝΟΡΤΥΧονα", "ABESIJKMHOPCTYXaeopcyxisjABEZHIKMNOPTYXova"
)


def clean(name: str) -> str:
    """A name as it is seen: one Unicode form, nothing invisible, single blanks, "7" for "7.0"."""
    seen = unicodedata.normalize("NFKC", name)
    if not seen.isascii():
        seen = "".join(c for c in seen if unicodedata.category(c) != "Cf")
        seen = unicodedata.normalize("NFKC", seen)  # what stood apart may belong together now
    return re.sub(r"((?:^|-)\d+)\.0+$", r"\1", " ".join(seen.split()))


def identity(name: str) -> str:
    """One form for all spellings of a name: of a speaker, a group, a file.

    Unicode forms, width, case, blanks around and invisible characters do not count, nor does the
    ".0" that a number gets in a spreadsheet: "Ｓ01 ", "s01" are one, "7.0" and "7", not "07".

    >>> identity("\u00a0ANNA\u200b") == identity("anna"), identity("7.0"), identity("07")
    (True, '7', '07')
    """
    return clean(unicodedata.normalize("NFKD", clean(name)).casefold())


def unknown(name: str) -> bool:
    """Whether a cell says that a name is not known: "N/A", "-1", "unknown", "?", "--", ...

    >>> unknown("NaN"), unknown("?"), unknown("-1"), unknown("Nan Li"), unknown("1")
    (True, True, True, False, False)
    """
    same = identity(name)
    return same in UNKNOWN or not any(c.isalnum() for c in same)


def disguised(names: Iterable[str]) -> set[str]:
    """Those that look like another one, or mix alphabets in a word, though letters differ.

    >>> disguised(["C01", "\u042101", "Anna", "Нина"]) == {"C01", "\u042101"}
    True
    """
    looks = {name: identity(name.translate(_ALIKE)) for name in names}
    twins = {look for look, count in Counter(looks.values()).items() if count > 1}
    words = {name: re.findall(r"[^\W\d_]+", name) for name in looks if not name.isascii()}
    return {
        name
        for name, look in looks.items()
        if look in twins or any(map(_mixed, words.get(name, ())))
    }


def _mixed(word: str) -> bool:
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in word}
    return len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1
