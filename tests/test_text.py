"""Transcripts as characters and back, CTC's collapse, and error rates against jiwer."""

from __future__ import annotations

import math

import jiwer
import numpy as np
import pytest

from serlib.data import text
from serlib.metrics import recognition

# ---- alphabet and normalization -----------------------------------------------------------------


def test_the_alphabet_is_that_of_the_published_ctc_models():
    assert len(text.ALPHABET) == len(set(text.ALPHABET)) == 32
    assert text.ALPHABET[text.BLANK] == "<pad>" and text.BLANK == 0
    assert text.ALPHABET[text.SPACE] == "|" and text.SPACE == 4
    assert sorted(text.ALPHABET[5:]) == sorted("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    assert text.ALPHABET[5:9] == tuple("ETAO")  # by frequency, as in wav2vec 2.0's vocabulary


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ""),
        (" \t\n ", ""),
        ("[LAUGHTER]", ""),
        ("{LG} <noise> [BREATHING] ...", ""),
        ("so [LAUGHTER]{LG}<noise> yes", "SO YES"),
        ("a[b]c", "A C"),
        ("don’t ‘quote’ 'me'", "DON'T QUOTE ME"),
        ("rock 'n' roll -- twenty-one", "ROCK N ROLL TWENTY ONE"),
        ("''' ' '", ""),
        ("CAFÉ cafe\u0301 naïve Ångström", "CAFE CAFE NAIVE ANGSTROM"),
        ("ﬁne ＷＩＤＥ straße", "FINE WIDE STRASSE"),
        ("你好 привет", ""),
        ("spełniać człowiek ŁÓDŹ", "SPELNIAC CZLOWIEK LODZ"),
        ("Ærø øl ĐỨC đá ßẞ œuvre Þór ðað", "AERO OL DUC DA SSSS OEUVRE THOR DAD"),
        ("ħobż ıŞık ŧ ŋ ɓ ƙ ɛ ɔ Ƶ ə ĳ ǆ", "HOBZ ISIK T NG B K E O Z E IJ DZ"),
        ("itʼs it´s `it` o‘ʻ", "IT'S IT'S IT O"),
        ("a\u00a0b\u200bc\u2028d", "A B C D"),
        ("[never closed", "NEVER CLOSED"),
        ("closed only]", "CLOSED ONLY"),
        ("Hm?! Well…ok.", "HM WELL OK"),
    ],
)
def test_normalization_by_hand(raw, expected):
    assert text.normalize(raw) == expected


def random_text(rng) -> str:
    codes = rng.choice([*range(32, 127), *range(0xA0, 0x250), 0x2019, 0x2028, 0xFB01, 0x1F600], 40)
    return "".join(map(chr, codes))


def test_normalized_text_uses_the_alphabet_and_is_left_alone():
    rng = np.random.default_rng(0)
    for _ in range(300):
        once = text.normalize(random_text(rng))
        assert set(once) <= {*text.ALPHABET[5:], " "} and "  " not in once
        assert once == once.strip() == text.normalize(once)


# ---- numbers ------------------------------------------------------------------------------------


def test_encoding_by_hand():
    assert text.encode("Eat it") == [5, 7, 6, 4, 10, 6]
    assert [text.ALPHABET[i] for i in text.encode("it’s")] == ["I", "T", "'", "S"]
    assert text.encode("a [NOISE2] <0.5>") == [7]  # digits of a note were never said


def test_decoding_gives_back_what_was_encoded():
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(300):
        # Of the letters only those of European languages, of which all but µ have a place.
        raw = "".join(c for c in random_text(rng) if not c.isnumeric())
        raw = "".join(c for c in raw if not c.isalpha() or (c < "ƀ" and c != "µ") or c == "ﬁ")
        numbers = text.encode(raw)
        assert text.decode(numbers) == text.normalize(raw)
        assert all(4 <= i < 32 for i in numbers)
        seen += bool(numbers)
    assert seen > 250


def test_only_letters_of_other_alphabets_leave_a_clip_without_a_target():
    """European Latin letters all have a place; a word in another script is not left out."""
    latin = "äöüßáàâãåąăćčçďđéèêëęěğħíìîïįıłľĺńňñŋóòôõøőœþðŕřśšşșťţțúùûüůűųýÿźżžæ"
    for letter in latin + latin.upper():
        assert text.encode(f"a{letter}b") == text.encode(text.normalize(f"a{letter}b")) != [7, 24]
    for letter in "жאعक你あ한αʔ":
        assert text.encode(f"yes {letter}") == [] and text.normalize(f"yes {letter}") == "YES"


@pytest.mark.parametrize(
    "unusable", [None, "", "...", "[NOISE] {LG}", math.nan, 3, "route 66", "٣ cars", "x²", "½ hour"]
)
def test_what_does_not_say_what_was_said_has_no_target(unusable):
    assert text.encode(unusable) == []


def test_decoding_leaves_out_what_is_no_letter_and_folds_spaces():
    assert text.decode([0, 1, 2, 3]) == ""
    assert text.decode([4, 7, 4, 4, 0, 24, 4]) == "A B"
    assert text.decode(np.array([7, 24])) == "AB" and text.decode([]) == ""


def slow_collapse(best) -> list[int]:
    kept, before = [], None
    for symbol in best:
        if symbol != before and symbol != 0:
            kept.append(symbol)
        before = symbol
    return kept


def test_collapse_against_a_loop():
    rng = np.random.default_rng(2)
    for n in [*range(12), 400]:
        for _ in range(20):
            best = rng.integers(0, 4, n)
            assert text.collapse(best) == text.collapse(best.tolist()) == slow_collapse(best)
    assert text.collapse([0, 0, 0]) == text.collapse([]) == []
    assert text.collapse([7, 0, 7]) == [7, 7] and text.collapse([7, 7]) == [7]


def spread(numbers) -> list[int]:
    """The shortest frames that collapse to a target: a blank between equal neighbors."""
    frames = []
    for i, number in enumerate(numbers):
        frames += [0, number] if i and numbers[i - 1] == number else [number]
    return frames


@pytest.mark.parametrize("raw", ["", "A", "AB", "ALL", "AAA", "BOOKKEEPER", "SO  OLD"])
def test_frames_needed_is_the_length_of_the_shortest_path(raw):
    numbers = text.encode(raw)
    assert text.collapse(spread(numbers)) == numbers
    assert text.frames_needed(numbers) == len(spread(numbers))


def test_padding_of_targets():
    numbers, lengths = text.pad(["ab", None, "[NOISE]", "a b c", "7 up"])
    assert lengths.tolist() == [2, 0, 0, 5, 0] and numbers.shape == (5, 5)
    assert numbers.dtype == lengths.dtype == np.int64
    for row, n, raw in zip(numbers, lengths, ["AB", "", "", "A B C", ""], strict=True):
        assert text.decode(row[:n]) == raw and (row[n:] == text.BLANK).all()
    for empty in ([None, ""], []):  # at least one column, for torch
        numbers, lengths = text.pad(empty)
        assert numbers.shape == (len(empty), 1) and lengths.tolist() == [0] * len(empty)


# ---- error rates --------------------------------------------------------------------------------


def edit_distance(a: list, b: list) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_edits_of_one_clip_against_an_edit_distance():
    rng = np.random.default_rng(3)
    for _ in range(50):
        pair = [" ".join(rng.choice(["a", "bee", "sea"], rng.integers(1, 7))) for _ in range(2)]
        for unit, split in (("words", str.split), ("characters", list)):
            one, other = map(split, pair)
            assert recognition.edits(unit, *pair) == (edit_distance(one, other), len(one))
    assert recognition.edits("words", "a b", "") == (2, 2)


def test_error_rates_against_an_edit_distance_and_jiwer():
    rng = np.random.default_rng(6)
    words = ["a", "bee", "sea", "dee"]
    texts = [[" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(30)] for _ in range(2)]
    references, hypotheses = texts
    for function, split, oracle in (
        (recognition.wer, str.split, jiwer.wer),
        (recognition.cer, list, jiwer.cer),
    ):
        edits = sum(map(edit_distance, map(split, references), map(split, hypotheses)))
        expected = edits / sum(len(split(r)) for r in references)
        assert function(references, hypotheses) == pytest.approx(expected)
        assert function(references, hypotheses) == pytest.approx(oracle(references, hypotheses))


def test_error_rates_are_of_the_corpus_not_means_of_utterances():
    assert recognition.wer(["a", "a b c"], ["x", "a b c"]) == 1 / 4


def test_error_rate_conventions():
    assert recognition.wer(["a b"], [""]) == 1
    assert recognition.wer(["a"], ["b c d"]) == 3  # can exceed 1
    for nothing in ("", " "):  # nobody knows what was said there: no insertion
        assert recognition.wer(["a b", nothing], ["a x", "c"]) == 1 / 2
        assert recognition.edits("characters", nothing, "c") == (0, 0)
    assert math.isnan(recognition.wer(["", " "], ["a", ""])) and math.isnan(recognition.cer([], []))
    assert recognition.wer([" a   b "], ["a b"]) == recognition.cer([" a   b "], ["a b"]) == 0
    assert recognition.wer(["A."], ["a"]) == 1  # no folding behind the caller's back
    with pytest.raises(ValueError, match="equal length"):
        recognition.wer(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="lists"):
        recognition.wer("a b", "a b")
