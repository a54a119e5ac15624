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
        ({"length": 0}, "length is outside 0.001..86400"),
        ({"length": -1}, "length is outside 0.001..86400"),
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
        ({"channel": 0}, "channel is outside 1..256"),
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
        # Numbers that cannot be true.
        *[
            ({name: low - 1}, f"{name} is outside {low}..")
            for name, (low, _) in manifest.RANGES.items()
            if name != "length"
        ],
        *[
            ({name: high + 1}, f"{name} is outside ")
            for name, (_, high) in manifest.RANGES.items()
            if np.isfinite(high) and name != "channels"
        ],
        ({"channels": 257, "flags": ["stereo"]}, "channels is outside"),
        ({"length": 1e300}, "length is outside"),
        ({"length": 1e-9}, "length is outside"),
        # A row that contradicts itself.
        ({"num_frame": 16_000, "sample_rate": 16_000}, "length is not end - start"),
        ({"num_frame": 24_000, "sample_rate": 44_100}, "length is not end - start"),
        ({"length": 3600, "num_frame": 24_000, "sample_rate": 16_000}, "length is not end"),
        ({"start": 0.0, "end": 1.0}, "length is not end - start"),
        ({"start": 0.5, "num_frame": 24_000, "sample_rate": 16_000}, "length is not end - start"),
        ({"end": 100, "num_frame": 24_000, "sample_rate": 16_000}, "behind the end of the file"),
        ({"start": 2, "num_frame": 24_000, "sample_rate": 16_000}, "behind the end of the file"),
        ({"channels": 1, "channel": 2}, "channel is none of the file's channels"),
        ({"channels": 2}, "channels and the flag stereo contradict"),
        ({"channels": 1, "flags": ["stereo"]}, "channels and the flag stereo contradict"),
        *[
            (
                {"valence_raw": raw, "valence": 4, "attr_scale": [1, 5]},
                "valence is not 1 + 6 (valence",
            )
            for raw in (1, 5)
        ],
        *[
            ({"attr_scale": scale}, "attr_scale is not [low, high]")
            for scale in (
                [7, 1],
                [1, 1],
                [1],
                [],
                {},
                5,
                [1, "x"],
                [True, 5],
                [1, float("inf")],
                [float("nan"), 5],
            )
        ],
        *[
            ({"emotion_dist": dist}, "emotion_dist is not shares of known emotions")
            for dist in (
                {"angry": 1.0},
                {"anger": True},
                {"anger": "1"},
                {"anger": None},
                [1.0],
                1,
                {"anger": [1]},
                {"anger": {"x": 1}},
                {"anger": float("nan")},
                {"anger": float("inf")},
                {"anger": 10**400},
            )
        ],
        ({"emotion_dist": {"boredom": 1.0}}, "emotion is outvoted by emotion_dist"),
        ({"emotion_dist": {"anger": 0.4, "fear": 0.6}}, "emotion is outvoted by emotion_dist"),
        *[
            ({"flags": flags}, "flags are not a list of")
            for flags in (5, [["no_audio"]], [{"a": 1}], [None], [1])
        ],
        *[
            ({"valence_raw": raw, "valence": value, "attr_scale": [1, 5]}, "valence_raw is outside")
            for raw in (-3, 900)
            for value in (4, None)
        ],
        # Names that are none, or not what they look like.
        *[
            ({name: f"d-{word}"}, f"{name} says that it is not known")
            for name in ("speaker", "group")
            for word in ("nan", "-1", "N/A", "?", "Unknown")
        ],
        ({"speaker": "d-\u0430nna"}, "speaker has letters of another alphabet"),
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
    same = {"sha256": "a" * 64, "end": 1.0, "length": 0.5}
    first = row(1, **same | {"length": 1.0}, start=0.0)
    parts = [first, row(2, **same, start=0.5, emotion="sadness")]
    assert manifest.check(pd.DataFrame(parts)) == []
    parts.append(row(3, **same, start=0.5, emotion="anger"))
    assert "2 rows, first d-2" in manifest.check(pd.DataFrame(parts))[0]


def test_a_file_with_two_rows_is_found_by_its_path_too():
    """Without any sha256, and however the path is written; other channels are other recordings."""
    pair = [row(1, wav="a/x.wav"), row(2, wav="./a//x.wav", split="test")]
    assert "channel repeat an earlier row: 1 rows, first d-2" in check(*pair)
    two = "equal audio has different emotions (flag duplicate_audio): 2 rows, first d-1"
    assert check(pair[0], pair[1] | {"emotion": "fear"}) == two
    assert check(*(r | {"channel": i + 1} for i, r in enumerate(pair))) == ""


def check(*given: dict) -> str:
    return "; ".join(manifest.check(pd.DataFrame(given)))


def test_what_only_looks_like_a_contradiction_is_none():
    ties = {"anger": 0.5, "fear": 0.5}
    rows = [
        row(1, emotion_dist=ties), row(2, emotion_dist={"anger": 0.4, "fear": 0.5, "other": 0.1}),
        row(3, emotion="no_agreement", emotion_dist=ties), row(4, emotion=None, emotion_dist=ties),
        row(5, emotion="other", emotion_dist={"fear": 1.0}),
        row(6, emotion_source="acted", emotion_dist={"fear": 1.0}),  # heard otherwise
        row(7, num_frame=24_100, sample_rate=16_000), row(8, valence_raw=3.3, attr_scale=[1, 5]),
        row(9, valence=4.5, valence_raw=3.3333, attr_scale=[1, 5]), row(10, speaker="d-Нина"),
        row(11, channels=2, channel=2, flags=["stereo"]), row(12, speaker="d-Jo Unknown"),
    ]  # fmt: skip
    assert check(*rows) == ""


def test_names_that_look_alike_are_told():
    """A speaker whose letters are Cyrillic in one of two places is two speakers otherwise."""
    found = check(row(1, speaker="d-C01"), row(2, speaker="d-\u042101"), row(3, speaker="d-C02"))
    assert found == ("speaker has letters of another alphabet that look alike: 2 rows, first d-1")


# paths


def test_links_below_the_root_are_the_owners_choice(tmp_path):
    """As in a cache of Hugging Face: what a manifest's path cannot do, a link there may."""
    blobs, root = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    (blobs / "0a1b").write_text("sound")
    root.mkdir(parents=True)
    os.symlink("../../blobs/0a1b", root / "x.wav")
    os.symlink(blobs, root / "disk")
    os.symlink(root, tmp_path / "alias")
    os.symlink("loop", root / "loop")
    for place, wav in ((root, "x.wav"), (root, "disk/0a1b"), (tmp_path / "alias", "x.wav")):
        path = manifest.resolve(place, wav)
        assert path == root / wav and path.read_text() == "sound"
    assert manifest.resolve(str(root), "new/..a.wav").name == "..a.wav"  # need not be there
    manifest.resolve(root, "loop/a.wav")  # does not hang; opening it fails


@pytest.mark.parametrize(
    "wav",
    ["", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a\\b", "..\\a", "C:/a", "c:a", "a\0b"]
    + ["\\\\host\\a", "//host/a"],
)
def test_resolve_refuses_other_paths(tmp_path, wav):
    with pytest.raises(ManifestError):
        manifest.resolve(tmp_path, wav)


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
