"""Error rates of recognized speech: words and characters, against what was said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def edits(unit: str, reference: str, hypothesis: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions of one clip, and the units of its reference.

    Units are "words" or "characters"; the reference was said, the hypothesis heard. An empty
    reference means that nobody knows what was said, not that nothing was: (0, 0), whatever was
    heard.

    >>> edits("words", "a b c", "a x c d"), edits("words", "", "a")
    ((2, 3), (0, 0))
    """
    import jiwer

    reference, hypothesis = (" ".join(text.split()) for text in (reference, hypothesis))
    if not reference:
        return 0, 0
    found = getattr(jiwer, f"process_{unit}")(reference, hypothesis)
    missed = found.substitutions + found.deletions
    return missed + found.insertions, missed + found.hits


def words_heard(reference: str, hypothesis: str) -> list[bool]:
    """For each word of a reference, whether the hypothesis has it in its place.

    "In its place" is as the alignment of `wer` has it, which makes the fewest errors.

    >>> words_heard("a b c", "a x c d")
    [True, False, True]
    """
    import jiwer

    words = reference.split()
    if not words:
        return []
    chunks = jiwer.process_words(" ".join(words), " ".join(hypothesis.split())).alignments[0]
    equal = (range(c.ref_start_idx, c.ref_end_idx) for c in chunks if c.type == "equal")
    heard = {place for places in equal for place in places}
    return [place in heard for place in range(len(words))]


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of a corpus: (substitutions + deletions + insertions) / reference words.

    Split at whitespace and compared as they are: fold case and drop punctuation first. Can exceed
    1. Clips without a reference are left out, see `edits`; NaN if none has one.

    >>> wer(["a b c", ""], ["a x c", "d"])  # 1 / 3
    0.3333333333333333
    """
    return _error_rate("words", references, hypotheses)


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of a corpus: as `wer`, over characters; one space between words counts.

    >>> cer(["ab cd"], ["ab  d"])  # the second space folds into the first
    0.2
    """
    return _error_rate("characters", references, hypotheses)


def _error_rate(unit: str, references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits over reference units, from jiwer's alignments."""
    if isinstance(references, str) or len(references) != len(hypotheses):
        raise ValueError("references and hypotheses must be two lists of texts of equal length")
    pairs = zip(references, hypotheses, strict=True)
    wrong, units = np.sum([(0, 0), *(edits(unit, *pair) for pair in pairs)], axis=0)
    return float(wrong / units) if units else math.nan
