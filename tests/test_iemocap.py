"""The grammars of IEMOCAP's label and transcript files, on literal trees."""

from __future__ import annotations

import itertools

import pytest

from corpus_trees import HEAD, iemocap, iemocap_dialogue, turn, write
from serlib.corpora import builder
from serlib.corpora.iemocap import utterances
from serlib.data import splits, tables
from serlib.data.tables import ManifestError

RATERS = (
    "C-E2:\tNeutral;\t()",
    "C-E3:\tAnger; Frustration;\t()",
    "C-E4:\tHappiness; Excited; Surprise;\t(laughs)",
    "C-F1:\tSadness;\t(curious)",
    "A-E3:\tval 3; act 2; dom  2;\t()",
    "A-F1:\tval 3; act 2; dom 1;\t()",
)


def one(root, name="Ses01F_impro01_F000", *lines, code="xxx", vad="1.0000, 5.0000, 2.5000", **how):
    dialogue = name.rsplit("_", 1)[0]
    iemocap_dialogue(root, dialogue, turn(name, 6.2901, code, vad, *lines), wavs=False, **how)
    return utterances(root).iloc[0]


def test_a_turn_with_its_raters(tmp_path):
    row = one(tmp_path, "Ses01F_impro01_F000", *RATERS,
              said="Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n")  # fmt: skip
    assert (row["emo"], row["emotion"], row["emotion_source"]) == (
        "xxx",
        "no_agreement",
        "majority",
    )
    # Three external raters; the second splits one vote in two, the third in three.
    shares = {"neutral": 2 / 6, "anger": 1 / 6, "frustration": 1 / 6, "happiness": 1 / 9,
              "excitement": 1 / 9, "surprise": 1 / 9}  # fmt: skip
    assert row["emotion_dist"] == pytest.approx(shares, abs=1e-4) and row["n_raters"] == 3
    assert (row["valence"], row["arousal"], row["dominance"]) == (1.0, 7.0, 3.25)
    assert (row["valence_raw"], row["arousal_raw"], row["dominance_raw"]) == (1.0, 5.0, 2.5)
    assert row["attr_scale"] == [1, 5]
    assert row["text"] == "Excuse me." and row["text_source"] == "human"
    assert row["wav"] == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"


def test_a_turn_without_raters_or_transcript(tmp_path):
    row = one(tmp_path)
    assert row["emotion_dist"] is None and row["n_raters"] is None and row["text"] is None
    row = one(tmp_path, "Ses01F_impro01_F000", "C-E1:\t;\t()", "C-E2:\tNeutral state;\t()", "A-E1:")
    assert row["emotion_dist"] == {"neutral": 1.0} and row["n_raters"] == 1


@pytest.mark.parametrize(
    ("name", "speaker", "style"),
    [
        ("Ses01F_impro01_M003", "Ses01M", "elicited"),  # the marker's letter is not the talker's
        ("Ses03M_impro05a_F000", "Ses03F", "elicited"),  # dialogues with a letter shift columns
        ("Ses03M_impro05b_M012", "Ses03M", "elicited"),
        ("Ses03M_impro08b_F001", "Ses03F", "elicited"),
        ("Ses05M_script01_1b_F000", "Ses05F", "acted"),
        ("Ses05F_script03_2_M041", "Ses05M", "acted"),
    ],
)
def test_the_talker_is_the_letter_of_the_last_field(tmp_path, name, speaker, style):
    row = one(tmp_path, name)
    assert row["speaker"] == f"iemocap-{speaker}"
    assert row["gender"] == {"F": "female", "M": "male"}[speaker[-1]]
    assert row["session"] == row["group"] == f"iemocap-{speaker[:5]}"
    assert row["fold"] == int(speaker[4]) and row["style"] == style
    assert row["dialogue"] == f"iemocap-{name.rsplit('_', 1)[0]}"
    assert row["scenario"] == {"acted": "scripted", "elicited": "improvised"}[style]


def test_turns_count_in_time_over_both_talkers(tmp_path):
    dialogue = "Ses02F_impro02"
    times = {"F000": 20.0, "M000": 3.0, "M001": 21.0, "F001": 100.5}
    blocks = "".join(turn(f"{dialogue}_{k}", t, "neu", "3.0, 3.0, 3.0") for k, t in times.items())
    iemocap_dialogue(tmp_path, dialogue, blocks, wavs=False)
    df = utterances(tmp_path)
    assert dict(zip(df["utt_id"].str[-4:], df["turn"], strict=True)) == {
        "M000": 1, "F000": 2, "M001": 3, "F001": 4,
    }  # fmt: skip


def test_what_real_copies_hold_beside_the_labels(tmp_path):
    dialogue = "Ses04F_impro01"
    blocks = turn(f"{dialogue}_F000", 1.0, "neu", "3.0, 3.0, 3.0", "C-E1:\tNeutral;\t()")
    blocks += turn(f"{dialogue}_MXX0", 2.0, "ang", "3.0, 3.0, 3.0", "C-E1:\tAnger;\t()")
    said = (
        f"{dialogue}_F000 [001.0-002.0]: Café, [LAUGHTER] yes.\r\n"
        f"{dialogue}_MXX0 [002.0-003.0]: Mhm.\r\nM: no name here\r\n\r\n"
    )
    iemocap_dialogue(tmp_path, dialogue, blocks, wavs=False)
    session = tmp_path / "Session4" / "dialog"
    write(session / "transcriptions" / f"{dialogue}.txt", said, "latin-1")
    evaluation = session / "EmoEvaluation"
    write(evaluation / f"._{dialogue}.txt", "\0\5\26\7")
    write(evaluation / "notes.txt", "[not a label]")
    write(evaluation / "Self-evaluation" / f"{dialogue}_e.txt", "F000")
    (tmp_path / "Documentation").mkdir()
    df = utterances(tmp_path)
    assert df["utt_id"].tolist() == [f"{dialogue}_F000"]
    assert df["text"][0] == "Café, [LAUGHTER] yes."
    assert df["emotion_dist"][0] == {"neutral": 1.0}  # the skipped turn's rater is not added
    notes = " ".join(df.attrs["notes"])
    assert "1 files in EmoEvaluation" in notes and "1 turns of unclear talkers" in notes


def test_all_codes_become_emotions(tmp_path):
    codes = "ang hap exc sad neu fru sur fea dis oth xxx".split()
    df = utterances(iemocap(tmp_path, [1], codes))
    assert set(df["emo"]) == set(codes) and set(df["emotion"]) <= set(tables.EMOTIONS)
    pairs = dict(zip(df["emo"], df["emotion"], strict=True))
    assert (pairs["exc"], pairs["hap"], pairs["xxx"], pairs["oth"]) == (
        "excitement", "happiness", "no_agreement", "other",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tneu\n", "is no label line"),
        ("[1.0 - 2.0]\tSes01F_impro01_X000\tneu\t[3.0, 3.0, 3.0]\n", "is no utterance of this"),
        ("[1.0 - 2.0]\tSes01F_impro02_F000\tneu\t[3.0, 3.0, 3.0]\n", "is no utterance of this"),
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tjoy\t[3.0, 3.0, 3.0]\n", "no label 'joy'"),
    ],
)
def test_lines_of_another_grammar_are_errors(tmp_path, block, message):
    write(tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", HEAD + block)
    with pytest.raises(ManifestError, match=message):
        utterances(tmp_path)


def test_a_folder_that_is_none_says_what_to_give(tmp_path):
    with pytest.raises(ManifestError, match="give the folder IEMOCAP_full_release"):
        utterances(tmp_path)
    iemocap(tmp_path / "IEMOCAP_full_release", [1])
    with pytest.raises(ManifestError, match=r"give .*/IEMOCAP_full_release"):
        utterances(tmp_path)
    (tmp_path / "Session1" / "dialog" / "EmoEvaluation").mkdir(parents=True)
    with pytest.raises(ManifestError, match="no labels in"):
        utterances(tmp_path)


def test_protocols_of_a_built_manifest(tmp_path):
    df, report = builder.build("iemocap", iemocap(tmp_path), progress=False)
    assert len(df) == 100 and not report.excluded and report.problems == ()
    for fold in range(1, 6):
        roles = splits.protocol(df, "session", fold=fold)
        assert set(df["session"][roles == "test"]) == {f"iemocap-Ses0{fold}"}
        assert splits.protocol(df, "usual", fold=fold).equals(roles)
    tested = []
    for fold in range(1, 11):
        part = {r: df[splits.protocol(df, "talker", fold=fold) == r] for r in ("train", "test")}
        (talker,) = part["test"]["speaker"].unique()
        assert not set(part["test"]["session"]) & set(part["train"]["session"])
        tested.append(talker)
    assert tested == [f"iemocap-Ses0{s}{g}" for s, g in itertools.product(range(1, 6), "FM")]
    with pytest.raises(splits.LeakError, match="shares with test 1 group"):
        splits.protocol(df, "speaker")
    for name in ("prefix", "random"):
        with pytest.raises(splits.LeakError, match="leaks by design"):
            splits.protocol(df, name)
    leaky = splits.protocol(df, "prefix", allow_leaks=True)
    shared = splits.leaks(df[leaky == "train"], df[leaky == "test"], ["speaker"])
    assert shared[0].shared == 2 and shared[0].share_of_test == 1
