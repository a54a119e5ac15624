from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from serlib.data import splits, tables
from serlib.data.splits import LeakError
from serlib.data.tables import ManifestError


def iemocap_like(sessions: int = 5) -> pd.DataFrame:
    """Two talkers a session, both of them in every dialogue, whoever wears the markers."""
    rows = []
    for s, wearer, d in itertools.product(range(1, sessions + 1), "FM", range(4)):
        for talker, turn in itertools.product("FM", range(3)):
            dialogue = f"Demo{s:02d}{wearer}_d{d:02d}"
            rows.append(
                dict(
                    utt_id=f"{dialogue}_{talker}{turn:03d}", speaker=f"demo-{s}{talker}",
                    group=f"demo-{s}", session=f"demo-{s}", dialogue=dialogue, fold=s,
                    split={1: "test1", 2: "dev", 3: "test2", 4: None}.get(s, "train"),
                )
            )  # fmt: skip
    df = pd.DataFrame(rows)
    index = np.random.default_rng(0).permutation(len(df))  # rows in no order, an index of its own
    return df.assign(key="demo-" + df["utt_id"], sha256=None).iloc[index]


def parts(df: pd.DataFrame, roles: pd.Series) -> dict[str, pd.DataFrame]:
    assert roles.index.equals(df.index)
    assert set(roles) <= {"train", "dev", "test", None}
    return {role: df[roles == role] for role in ("train", "dev", "test")}


def one_talker_each() -> pd.DataFrame:
    df = iemocap_like()
    return df.assign(group=df["speaker"])


def test_session_protocol_tests_each_fold_once_and_takes_the_next_for_dev():
    df = iemocap_like()
    for fold in range(1, 6):
        roles = splits.protocol(df, "session", fold=fold)
        expected = df["fold"].map({fold: "test", fold % 5 + 1: "dev"}).fillna("train")
        assert roles.tolist() == expected.tolist()
        splits.assert_disjoint(**parts(df, roles))


def test_session_protocol_takes_folds_as_they_are_named():
    df = iemocap_like(4)
    df["fold"] = df["fold"].map({1: 10, 2: 9, 3: None, 4: 2}).astype("Int64")
    roles = splits.protocol(df, "session", fold=1)  # in the order of numbers: 2, 9, 10
    assert set(roles[df["fold"] == 2]) == {"test"} and set(roles[df["fold"] == 9]) == {"dev"}
    assert set(roles[df["fold"].isna()]) == {None} and set(roles[df["fold"] == 10]) == {"train"}


def test_speaker_protocol_leaves_one_talker_out():
    df = one_talker_each()
    tested = []
    for fold in range(1, 11):
        part = parts(df, splits.protocol(df, "speaker", fold=fold))
        assert part["test"]["speaker"].nunique() == part["dev"]["speaker"].nunique() == 1
        assert part["train"]["speaker"].nunique() == 8
        tested += part["test"]["speaker"].unique().tolist()
    assert sorted(tested) == sorted(df["speaker"].unique())


def test_speaker_protocol_deals_talkers_into_folds():
    df = one_talker_each()
    tested = []
    for fold in range(1, 4):
        part = parts(df, splits.protocol(df, "speaker", fold=fold, folds=3, seed=1))
        assert part["test"]["speaker"].nunique() in (3, 4)
        tested += part["test"]["speaker"].unique().tolist()
    assert sorted(tested) == sorted(df["speaker"].unique())
    again = splits.protocol(df.iloc[::-1], "speaker", folds=3, seed=1)
    one = splits.protocol(df, "speaker", folds=3, seed=1)
    assert again.sort_index().equals(one.sort_index())  # the order of rows does not decide
    other = [splits.protocol(df, "speaker", folds=3, seed=s).tolist() for s in range(5)]
    assert len({tuple(roles) for roles in other}) > 1


def test_speaker_protocol_is_refused_where_talkers_share_a_session():
    df = iemocap_like()
    with pytest.raises(LeakError, match=r"train shares with test 1 group \(demo-1\)"):
        splits.protocol(df, "speaker")
    part = parts(df, splits.protocol(df, "speaker", allow_leaks=True))
    assert part["test"]["speaker"].unique().tolist() == ["demo-1F"]
    assert part["dev"]["speaker"].unique().tolist() == ["demo-2F"]  # not the partner: it trains
    shared = splits.leaks(part["train"], part["test"], ["group", "speaker", "dialogue"])
    assert [(leak.column, leak.share_of_test) for leak in shared] == [("group", 1), ("dialogue", 1)]


def test_prefix_protocol_leaks_every_test_talker():
    df = iemocap_like()
    prefixes = sorted({utt.split("_")[0] for utt in df["utt_id"]})
    for fold, prefix in enumerate(prefixes, start=1):
        part = parts(df, splits.protocol(df, "prefix", fold=fold, allow_leaks=True))
        assert set(part["test"]["utt_id"].str[:7]) == {prefix}
        assert set(part["dev"]["group"]).isdisjoint(part["test"]["group"])  # partner stays in train
        true_talker = part["test"]["utt_id"].str.rsplit("_", n=1).str[1].str[0]
        assert set(true_talker) == {"F", "M"}  # the prefix names one of them only
        speaker, group = splits.leaks(part["train"], part["test"], ["speaker", "group"])
        assert (speaker.shared, speaker.share_of_test) == (2, 1.0)
        assert (group.shared, group.share_of_test) == (1, 1.0)
        assert not splits.leaks(part["train"], part["test"], ["dialogue"])  # and looks clean here


@pytest.mark.parametrize("name", ["random", "dialogue"])
def test_random_protocols_cover_everything_once_and_leak(name):
    df = iemocap_like()
    unit = {"random": "key", "dialogue": "dialogue"}[name]
    tested = []
    for fold in range(1, 6):
        roles = splits.protocol(df, name, fold=fold, seed=3, allow_leaks=True)
        part = parts(df, roles)
        assert len(part["test"]) == len(part["dev"]) == len(df) / 5 and roles.notna().all()
        assert not splits.leaks(part["train"], part["test"], [unit])
        assert splits.leaks(part["train"], part["test"], ["speaker"])[0].share_of_test > 0.9
        tested += part["test"]["key"].tolist()
    assert sorted(tested) == sorted(df["key"])


def test_official_protocol_follows_the_split_column():
    df = iemocap_like()
    for fold, tested in ((1, "test1"), (2, "test2")):
        roles = splits.protocol(df, "official", fold=fold)
        expected = {"train": "train", "dev": "dev", tested: "test"}
        assert roles.tolist() == [expected.get(split) for split in df["split"]]
    plain = df.assign(split=df["split"].replace({"test1": "test"}))
    assert set(splits.protocol(plain, "official")) == {"train", "dev", "test", None}
    without = splits.protocol(plain[plain["split"] != "dev"], "official")
    assert set(without) == {"train", "test", None}
    with pytest.raises(ManifestError, match="nothing to train on or to test"):
        splits.protocol(df, "official", fold=3)


@pytest.mark.parametrize("column", ["speaker", "group"])
@pytest.mark.parametrize(
    "spelt", [" Anna", "anna\u00a0", "An\u200bna", "ANNA", "\uff21nna"], ids=ascii
)
def test_a_name_spelt_otherwise_is_the_same(column, spelt):
    df = iemocap_like()
    df[column] = df[column].mask(df["fold"] == 1, "Anna").mask(df["fold"] == 5, spelt)
    with pytest.raises(LeakError, match=rf"train shares with test 1 {column} \(Anna\) in 100.0%"):
        splits.protocol(df, "session")


def test_a_file_is_on_one_side_only_even_without_its_sha256():
    df = iemocap_like()
    df["wav"] = df["utt_id"] + ".wav"
    splits.protocol(df, "session")
    df["wav"] = df["wav"].mask(df["fold"] == 1, "a/b.wav").mask(df["fold"] == 5, "./a//b.wav")
    with pytest.raises(LeakError, match=r"train shares with test 1 file \(a/b.wav\) in 100.0%"):
        splits.protocol(df, "session")
    hashed = df.assign(sha256=[f"{i:064}" for i in range(len(df))])
    splits.protocol(hashed, "session")  # audio was compared as such


def test_official_protocol_is_no_excuse_for_a_leak():
    df = iemocap_like().assign(speaker="demo-1")
    with pytest.raises(LeakError, match=r"1 speaker \(demo-1\) in 100.0% of the rows of test"):
        splits.protocol(df, "official")
    assert (splits.protocol(df, "official", allow_leaks=True) == "test").any()


def test_leaky_protocols_are_refused_unless_asked_for():
    df = iemocap_like()
    assert {"random", "prefix", "dialogue"} == splits.LEAKY < set(splits.PROTOCOLS)
    for name in splits.LEAKY:
        with pytest.raises(LeakError, match="leaks by design: pass allow_leaks=True"):
            splits.protocol(df, name)
        assert (splits.protocol(df, name, allow_leaks=True) == "test").any()


def test_protocol_refuses_what_it_cannot_do():
    df = iemocap_like()
    with pytest.raises(ManifestError, match="no protocol 'loso': use one of official, session"):
        splits.protocol(df, "loso")
    for fold in (0, 6, -1):
        with pytest.raises(ManifestError, match="fold .* of 5"):
            splits.protocol(df, "session", fold=fold)
    with pytest.raises(ManifestError, match="fold 1 of 2: needs 3 folds"):
        splits.protocol(df[df["fold"] < 3], "session")
    with pytest.raises(ManifestError, match="names like Ses01F_impro01_M003"):
        splits.protocol(df.assign(utt_id="x"), "prefix", allow_leaks=True)
    with pytest.raises(LeakError, match="without a group"):
        splits.protocol(df.assign(group=None), "session")
    with pytest.raises(ManifestError, match="fold 1 of 0"):
        splits.protocol(df.assign(fold=None), "session")


def test_roles_fit_a_table_that_was_read(tmp_path):
    df = iemocap_like().assign(dataset="demo", length=1.0, emotion="anger")
    df = df.assign(wav=df["utt_id"] + ".wav")
    tables.write(df, tmp_path / "m.csv")
    back = tables.read(tmp_path / "m.csv")
    for name in ("session", "official"):
        assert splits.protocol(back, name).tolist() == splits.protocol(df, name).tolist()
    roles = splits.protocol(back, "official")
    assert back.assign(role=roles)["role"].isna().sum() == sum(r is None for r in roles) > 0


def test_talker_protocol_sets_the_partner_aside():
    df = iemocap_like()
    for fold, talker in enumerate(sorted(df["speaker"].unique()), start=1):
        part = parts(df, splits.protocol(df, "talker", fold=fold))
        splits.assert_disjoint(**part)
        assert part["test"]["speaker"].unique().tolist() == [talker]
        assert part["dev"]["group"].nunique() == 1 and part["dev"]["speaker"].nunique() == 2
        assert part["train"]["group"].nunique() == 3
        assert sum(map(len, part.values())) == len(df) * 9 // 10  # all but the partner
    alone = one_talker_each()  # then nobody is set aside
    same = splits.protocol(alone, "talker", fold=3)
    assert same.equals(splits.protocol(alone, "speaker", fold=3))


def test_dev_as_test_keeps_the_official_sides_apart():
    df = one_talker_each().assign(split=lambda d: d["split"].where(d["split"] == "dev", "train"))
    tested = set(df["key"][df["split"] == "dev"])
    judged = []
    for fold in range(1, 9):
        part = parts(df, splits.protocol(df, "dev_as_test", fold=fold, seed=2))
        assert set(part["test"]["key"]) == tested
        assert part["dev"]["group"].nunique() == 1 and part["train"]["group"].nunique() == 7
        judged += part["dev"]["group"].unique().tolist()
    assert sorted(judged) == sorted(df["group"][df["split"] == "train"].unique())
    with pytest.raises(ManifestError, match="fold 9 of 8"):
        splits.protocol(df, "dev_as_test", fold=9)
    with pytest.raises(ManifestError, match="nothing to train on or to test"):
        splits.protocol(df[df["split"] != "dev"], "dev_as_test")


def test_the_usual_protocol_is_what_the_manifest_has():
    df = iemocap_like().assign(emotion="anger")
    closed = df.assign(split=df["split"].where(df["split"].isin(["train", "dev"]), None))
    bare = one_talker_each().assign(emotion="anger", fold=None)
    closed = closed.assign(group=closed["speaker"])  # two groups to train on
    for table, name in (
        (df, "official"),
        (closed, "session"),
        (closed.assign(fold=None), "dev_as_test"),
        (bare.assign(split=None), "talker"),
    ):
        assert splits.usual(table) == name
        want = splits.protocol(table, name)
        assert splits.protocol(table, "usual").equals(want)
    blind = df.assign(emotion=df["emotion"].where(df["split"].isin(["train", "dev"]), None))
    assert splits.usual(blind) == "session"  # a test set without labels tests nothing


def test_fold_numbers_are_those_that_protocol_takes():
    df = one_talker_each().assign(emotion="anger")
    found = {name: len(splits.fold_numbers(df, name)) for name in splits.PROTOCOLS}
    assert found == dict(
        official=2, session=5, speaker=10, talker=10, dev_as_test=1, usual=2, prefix=10,
        dialogue=5, random=5,
    )  # fmt: skip
    assert splits.fold_numbers(df, "speaker", 3) == [1, 2, 3]
    one = df.assign(split=df["split"].replace({"test1": "test", "test2": None}))
    assert splits.fold_numbers(one, "official") == [1]
    blind = df.assign(emotion=df["emotion"].where(df["split"] != "test1", None))
    assert splits.fold_numbers(blind, "official") == [2]
    closed = df.assign(emotion=None)
    assert splits.fold_numbers(closed, "official") == [1, 2]
    for name in splits.PROTOCOLS:
        for fold in splits.fold_numbers(df, name):
            splits.protocol(df, name, fold=fold, allow_leaks=True)
    with pytest.raises(ManifestError, match="no protocol 'loso'"):
        splits.fold_numbers(df, "loso")
