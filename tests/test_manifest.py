from __future__ import annotations

import itertools
import os

import numpy as np
import pandas as pd
import pytest

from serlib.data import manifest, splits, tables
from serlib.data.splits import Leak, LeakError
from serlib.data.tables import ManifestError


def row(i: int, **changes) -> dict:
    return dict(
        key=f"d-{i}", dataset="d", utt_id=f"{i}", wav=f"a/{i}.wav", length=1.5, emotion="anger",
        speaker=f"d-{i}", group=f"d-{i}", flags=[],
    ) | changes  # fmt: skip


# rules


def test_sound_rows_have_no_problems():
    full = row(
        1, sha256="0" * 64, channel=1, start=0.0, end=1.5, emotion_source="majority",
        emotion_dist={"anger": 0.33, "fear": 0.33, "sadness": 0.33}, valence=1, arousal=7.0,
        dominance=4.5, gender="female", text_source="asr:whisper", split="test3", style="natural",
        flags=["stereo", "too_long"], wav="x..y/a b/é..wav",
    )  # fmt: skip
    assert manifest.check(pd.DataFrame([full, row(2, emotion=None, speaker=None)])) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"valence": 0.99}, "valence is outside 1..7"),
        ({"arousal": 7.01}, "arousal is outside 1..7"),
        ({"dominance": -1}, "dominance is outside 1..7"),
        ({"length": 0}, "length is not above 0"),
        ({"length": -1}, "length is not above 0"),
        ({"length": None}, "length is missing"),
        ({"group": None}, "group is missing"),
        ({"emotion": "happy"}, "emotion is not one of anger|contempt"),
        ({"emotion": "Anger"}, "emotion is not one of"),
        ({"emotion": "anger "}, "emotion is not one of"),
        ({"emotion_source": "guess"}, "emotion_source is not one of"),
        ({"gender": "F"}, "gender is not one of female|male|other"),
        ({"split": "Train"}, "split is not one of"),
        ({"style": "posed"}, "style is not one of"),
        ({"text_source": "asr:"}, "text_source is not one of"),
        ({"sha256": "0" * 63}, "sha256 is not one of"),
        ({"flags": ["loud"]}, "flags are not a list of"),
        ({"flags": {"stereo": 1}}, "flags are not a list of"),
        ({"emotion_dist": {"anger": 0.5}}, "emotion_dist is not shares"),
        ({"emotion_dist": {"anger": 1.5, "fear": -0.5}}, "emotion_dist is not shares"),
        ({"emotion_dist": {}}, "emotion_dist is not shares"),
        ({"channel": 0}, "channel does not count from 1"),
        ({"start": 2.0, "end": 1.0}, "start and end"),
        ({"start": -0.1}, "start and end"),
        ({"wav": "/a.wav"}, "wav is not a relative"),
        ({"wav": "a/../../b.wav"}, "wav is not a relative"),
        ({"wav": "a\\b.wav"}, "wav is not a relative"),
        ({"wav": "C:/b.wav"}, "wav is not a relative"),
        ({"wav": None}, "wav is missing"),
        ({"utt_id": "1"}, "(dataset, utt_id) repeats"),
        ({"key": "d-1"}, "key 'd-1' stands in rows 1, 2"),
        ({"length": "x"}, "'x' is no finite number"),
    ],
)
def test_each_rule_finds_its_breach_and_names_the_row(changes, problem):
    found = manifest.check(pd.DataFrame([row(1), row(2, **changes), row(3)]))
    assert found and problem in found[0]
    assert "d-2" in found[0] or "row" in found[0]
    if "is missing" not in problem:
        assert len(found) == 1


def test_equal_audio_with_different_labels_must_be_flagged():
    same = {"sha256": "a" * 64}
    pair = [row(1, **same), row(2, **same, emotion="sadness"), row(3), row(4)]
    assert "2 rows, first d-1" in manifest.check(pd.DataFrame(pair))[0]
    for r in pair[:2]:
        r["flags"] = ["duplicate_audio"]
    assert manifest.check(pd.DataFrame(pair)) == []
    assert manifest.check(pd.DataFrame([row(1, **same), row(2, **same)])) == []


def test_segments_of_one_file_may_have_different_labels():
    same = {"sha256": "a" * 64, "end": 1.0}
    parts = [row(1, **same, start=0.0), row(2, **same, start=0.5, emotion="sadness")]
    assert manifest.check(pd.DataFrame(parts)) == []
    parts.append(row(3, **same, start=0.5, emotion="anger"))
    assert "2 rows, first d-2" in manifest.check(pd.DataFrame(parts))[0]


# paths


def test_resolve_follows_links_inside_the_root_only(tmp_path):
    root = tmp_path / "corpus"
    (root / "wav").mkdir(parents=True)
    (tmp_path / "secret").write_text("")
    (root / "wav" / "a.wav").write_text("")
    os.symlink(root / "wav", root / "inside")
    os.symlink(tmp_path, root / "outside")
    os.symlink("../secret", root / "escape.wav")
    os.symlink("loop", root / "loop")
    os.symlink(root, tmp_path / "alias")
    assert manifest.resolve(root, "inside/a.wav") == root / "wav" / "a.wav"
    assert manifest.resolve(tmp_path / "alias", "wav/a.wav") == root / "wav" / "a.wav"
    assert manifest.resolve(root, "wav/new.wav") == root / "wav" / "new.wav"  # not there yet
    assert manifest.resolve(str(root), "wav/..a.wav").name == "..a.wav"
    for wav in ("outside/secret", "escape.wav", "outside"):
        with pytest.raises(ManifestError, match="links to .* outside"):
            manifest.resolve(root, wav)
    manifest.resolve(root, "loop/a.wav")  # does not hang; opening it fails


@pytest.mark.parametrize(
    "wav",
    ["", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a\\b", "..\\a", "C:/a", "c:a", "a\0b"]
    + ["\\\\host\\a", "//host/a"],
)
def test_resolve_refuses_other_paths(tmp_path, wav):
    with pytest.raises(ManifestError):
        manifest.resolve(tmp_path, wav)


def test_resolve_does_not_take_a_neighbor_for_inside(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus2").mkdir()
    os.symlink(tmp_path / "corpus2", tmp_path / "corpus" / "link")
    with pytest.raises(ManifestError):
        manifest.resolve(tmp_path / "corpus", "link/a.wav")


# labels


def test_label_ids_number_classes_and_merge():
    emotions = ["anger", "excitement", "happiness", None, "fear", "neutral", "sadness"]
    df = pd.DataFrame({"emotion": emotions})
    plain = manifest.label_ids(df, manifest.CLASSES_4)
    assert plain.dtype == np.int64 and plain.tolist() == [2, -100, 1, -100, -100, 0, 3]
    merged = manifest.label_ids(df, manifest.CLASSES_4, {"excitement": "happiness"})
    assert merged.tolist() == [2, 1, 1, -100, -100, 0, 3]
    assert manifest.label_ids(df.iloc[:0], manifest.CLASSES_4).shape == (0,)
    nan = pd.DataFrame({"emotion": pd.Series([np.nan, "anger"], dtype="str")})
    assert manifest.label_ids(nan, ("anger",)).tolist() == [-100, 0]


def test_class_orders_are_those_of_the_papers():
    codes = dict(A="anger", S="sadness", H="happiness", U="surprise", F="fear", D="disgust")
    codes |= dict(C="contempt", N="neutral")
    assert manifest.CLASSES_8 == tuple(codes[c] for c in "ASHUFDCN")
    assert set(manifest.CLASSES_8) | set(manifest.CLASSES_4) <= set(tables.EMOTIONS)


@pytest.mark.parametrize(
    ("classes", "merge", "message"),
    [
        (("anger", "happy"), None, "no emotion 'happy'"),
        (("anger",), {"exc": "anger"}, "no emotion 'exc'"),
        (("anger", "anger"), None, "repeat a name"),
        (("anger", "fear"), {"fear": "anger"}, "merged away"),
    ],
)
def test_label_ids_refuse_wrong_names(classes, merge, message):
    with pytest.raises(ManifestError, match=message):
        manifest.label_ids(pd.DataFrame({"emotion": ["anger"]}), classes, merge)


# leaks


def small() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train of four rows and test of five, made to be counted by hand."""
    columns = ["group", "speaker", "dialogue", "session", "text", "sha256"]
    train = [
        ["g1", "s1", "d1", "1", "yes", "h1"],
        ["g1", "s2", "d1", "1", "no", "h2"],
        ["g2", "s3", "d2", "2", None, None],
        ["g2", None, "d3", "2", "yes", "h4"],
    ]
    test = [
        ["g3", "s4", "d4", "2", "yes", "h5"],  # text, session
        ["g3", "s1", "d4", "3", "Yes", "h6"],  # speaker
        ["g3", None, "d1", "3", "no", None],  # dialogue, text
        ["g4", "s2", "d5", "3", None, "h7"],  # speaker
        ["g4", "s1", "d6", "2", "yes", "h8"],  # speaker, session, text
    ]
    return pd.DataFrame(train, columns=columns), pd.DataFrame(test, columns=columns)


def test_leaks_counted_by_hand():
    assert splits.leaks(*small()) == [
        Leak("speaker", 2, 3 / 5, ("s1", "s2")),
        Leak("dialogue", 1, 1 / 5, ("d1",)),
        Leak("session", 1, 2 / 5, ("2",)),
        Leak("text", 2, 3 / 5, ("no", "yes")),
    ]
    train, test = small()
    speaker = splits.leaks(train, test, ["speaker"])[0]
    assert str(speaker) == "2 speaker (s1, s2) in 60.0% of the rows"
    assert splits.leaks(train, test.iloc[:0]) == [] == splits.leaks(train.iloc[:0], test)
    many = pd.DataFrame({"group": list("edcba")})
    assert splits.leaks(many, many, ["group"]) == [Leak("group", 5, 1.0, ("a", "b", "c"))]
    with pytest.raises(ManifestError, match="no column 'speaker'"):
        splits.leaks(many, many, ["speaker"])


def test_assert_disjoint_names_what_is_shared():
    train, test = small()
    free = train.assign(group="g9", speaker=None, sha256=None)
    splits.assert_disjoint(train, free, test.assign(speaker="s9"))
    with pytest.raises(LeakError, match=r"train shares with test 2 speaker \(s1, s2\) in 60.0%"):
        splits.assert_disjoint(train, free, test)
    for parts in itertools.permutations([free, free, train]):
        with pytest.raises(LeakError, match=r"1 group \(g9\) in 100.0% of the rows"):
            splits.assert_disjoint(*parts)
    with pytest.raises(LeakError, match="train shares with dev 1 sha256"):
        splits.assert_disjoint(train, free.assign(sha256="h1"), test.assign(speaker="s9"))
    with pytest.raises(LeakError, match="dev has 1 rows without a group"):
        splits.assert_disjoint(train, free.assign(group=[None, "a", "b", "c"]), test, ["group"])
