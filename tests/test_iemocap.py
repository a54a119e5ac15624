"""The grammars of IEMOCAP's label and transcript files, on literal trees."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest

from corpus_trees import HEAD, iemocap, iemocap_dialogue, turn, write
from serlib import __main__ as cli
from serlib.corpora import builder, cards, counts
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
    ("vad", "lost"),
    [
        ("5.5000, 5.0000, 2.0000", ["valence"]),
        ("4.0000, 3.0000, 0.5000", ["dominance"]),
        ("0.0000, 5.0001, 1.0000", ["valence", "arousal"]),
        ("5.0000, 1.0000, 1", []),
    ],
)
def test_means_outside_the_scale_are_missing_and_named(tmp_path, vad, lost):
    row = one(tmp_path, vad=vad)
    for name, said in zip(("valence", "arousal", "dominance"), vad.split(", "), strict=True):
        if name in lost:
            assert np.isnan(row[name]) and np.isnan(row[f"{name}_raw"])
        else:
            assert row[f"{name}_raw"] == float(said) and 1 <= row[name] <= 7
    notes = [note for note in utterances(tmp_path).attrs["notes"] if "outside 1..5" in note]
    assert [note.split()[3] for note in notes] == lost
    assert all("Ses01F_impro01_F000" in note for note in notes)


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
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tneu\t[2.5.1, 3.0, 3.0]\n", "is no label line"),
        ("1.0 - 2.0]\tSes01F_impro01_F000\tneu\t[2.5, 3.0, 3.0]\n", "is no label line"),
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


def deal(sizes: dict, rng) -> list:
    """Each value as often as its number says, in no order."""
    return rng.permutation(np.repeat([*sizes], [*sizes.values()])).tolist()


def whole_release(root) -> None:
    """Labels in the true sizes, with names of our own numbering.

    Sizes as on the public list of label lines: 5,239 men and 4,800 women talk, while 5,098 lines
    are of dialogues in which the man wears the markers and 4,941 of those of the woman; seven means
    are outside of 1..5.
    """
    rng, every = np.random.default_rng(0), cards.read("iemocap").expected
    four = next(e for e in every if e.where).counts
    rest = dict(xxx=2507, fru=1849, sur=107, fea=40, oth=3, dis=2)
    lines = []
    for session, sizes in four["session emo"].items():
        who = deal({g: four["speaker"][session + g] for g in "FM"}, rng)
        lines += [[session, g, emo] for g, emo in zip(who, deal(sizes, rng), strict=True)]
    who = deal({"M": 5239 - 2882, "F": 4800 - 2649}, rng)
    for i, (g, emo) in enumerate(zip(who, deal(rest, rng), strict=True)):
        lines.append([f"Ses0{i % 5 + 1}", g, emo])
    scene = deal({"impro01": 2943, "script01_1b": 2588}, rng)
    scene += deal({"impro01": 4784 - 2943, "script01_1b": 5255 - 2588}, rng)
    wearer = deal({"M": 5098, "F": 4941}, rng)
    blocks, turns = collections.defaultdict(str), collections.Counter()
    for i, (session, g, emo) in enumerate(lines):
        dialogue = f"{session}{wearer[i]}_{scene[i]}"
        vad = ["5.5, 5.0, 2.0"] * 4 + ["4.0, 3.0, 0.5"] * 3
        vad = vad[i // 1000] if i % 1000 == 0 and i < 7000 else "2.5, 3.0, 1.0"
        name = f"{dialogue}_{g}{turns[dialogue, g]:03d}"
        blocks[dialogue] += turn(name, 2.0 * i, emo, vad)
        turns[dialogue, g] += 1
    for dialogue, text in blocks.items():
        path = root / f"Session{dialogue[4]}/dialog/EmoEvaluation/{dialogue}.txt"
        write(path, HEAD + text)


def test_the_whole_release_is_as_on_the_card(tmp_path):
    whole_release(tmp_path)
    df = builder.utterances("iemocap", tmp_path)
    assert len(df) == 10039 and df["gender"].value_counts().to_dict() == dict(
        male=5239, female=4800
    )
    assert df["utt_id"].str[5].value_counts().to_dict() == dict(M=5098, F=4941)
    checked, different = counts.compare(df, cards.read("iemocap"))
    assert checked == ["all labels", "usual four classes"] and different == []
    assert df[["valence", "arousal", "dominance"]].isna().sum().tolist() == [4, 0, 3]
    by_wearer = df.assign(gender=df["utt_id"].str[5].map(dict(M="male", F="female")))
    _, different = counts.compare(by_wearer, cards.read("iemocap"))
    assert ("gender", "male", 5239, 5098) in [
        (d.by, d.value, d.expected, d.found) for d in different
    ]


def test_a_strict_build_and_a_check_pass_on_what_the_release_holds(tmp_path, monkeypatch, capsys):
    tree, out = iemocap(tmp_path / "tree"), tmp_path / "m.csv"
    path = tree / "Session3/dialog/EmoEvaluation/Ses03F_impro01.txt"
    path.write_text(path.read_text().replace("2.5000, 2.0000, 3.0000", "5.5, 2.0, 0.5", 1))
    path.write_text(path.read_text() + turn("Ses03F_impro01_MXX0", 99.0, "neu", "3.0, 3.0, 3.0"))
    card = cards.read("iemocap")
    sizes = {"gender": dict(male=50, female=50), "emo": dict.fromkeys(
        ("neu", "hap", "ang", "sad", "exc"), 20)}  # fmt: skip
    small = cards.Card(**vars(card) | {"expected": (cards.Expected("toy", "here", counts=sizes),)})
    monkeypatch.setattr(cards, "read", lambda name: small)
    command = ["manifest", "build", "iemocap", "--root", str(tree), "--out", str(out), "--strict"]
    assert cli.main([*command, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "1 means of valence outside 1..5: missing (Ses03F_impro01_F000)" in shown
    assert cli.main(["manifest", "check", str(out), "--protocol", "usual"]) == 0
    assert capsys.readouterr().out.count("nothing is shared") == 5
