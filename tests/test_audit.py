"""Proofs of a manifest's protocols, and audits of split files as others publish them."""

from __future__ import annotations

import json
import os
import random

import pandas as pd
import pytest

from corpus_trees import CONSENSUS, iemocap, msp, msp_rows
from serlib import __main__ as cli
from serlib.corpora import audit, builder
from serlib.data import tables
from serlib.data.tables import ManifestError


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> pd.DataFrame:
    return builder.build("iemocap", iemocap(tmp_path_factory.mktemp("i")), progress=False)[0]


# a manifest's own protocols


def test_sound_protocols_are_proved_fold_by_fold(built):
    for name, folds in (("session", 5), ("talker", 10), ("usual", 5)):
        proofs = list(audit.prove(built, name))
        assert [p.fold for p in proofs] == list(range(1, folds + 1))
        assert not any(p.leaks for p in proofs)
        assert sum(p.sizes["test"] for p in proofs) == len(built)
        assert audit.code(proofs) == 0
    first = (
        "usual, fold 1: train 60, dev 20, test 20: nothing is shared (compared: groups, speakers, "
    )
    assert str(proofs[0]).startswith(first.replace("usual", "session"))


def test_leaky_protocols_show_what_they_share(built):
    (proof,) = audit.prove(built, "prefix", fold=1)
    assert any("2 speaker (iemocap-Ses01F, iemocap-Ses01M) in 100.0%" in x for x in proof.leaks)
    assert "LEAKS" in str(proof)
    (proof,) = audit.prove(built, "speaker", fold=1)
    assert [leak.split(", ")[1].split(" (")[0] for leak in proof.leaks] == ["1 group", "1 group"]
    assert any("also share 2 dialogue" in note for note in proof.told)


def test_a_protocol_that_the_manifest_lacks_is_no_proof(built):
    with pytest.raises(ManifestError, match="has no fold here"):
        list(audit.prove(built, "official"))
    with pytest.raises(ManifestError, match="no protocol"):
        list(audit.prove(built, "loso"))
    with pytest.raises(ManifestError, match="has no fold 6 here, but 1, 2, 3, 4, 5"):
        list(audit.prove(built, "session", fold=6))


def test_rows_without_a_group_prove_nothing(built):
    df = built.assign(group=built["group"].where(built.index > 3, None))
    assert any("without a group" in leak for p in audit.prove(df, "session") for leak in p.leaks)


def test_unknown_speakers_of_shared_podcasts_are_told(tmp_path):
    rows = [r for r in msp_rows("NHA", splits=("Train", "Development", "Test1"))]
    rows += ["MSP-PODCAST_0001_0900.wav,H,2,4,2,Unknown,Male,Train"]
    rows += ["MSP-PODCAST_0201_0900.wav,H,2,4,2,Unknown,Male,Train"]  # the podcast is tested
    df, _ = builder.build("msp-podcast", msp(tmp_path, rows), progress=False)
    (proof,) = audit.prove(df, "official")
    assert not proof.leaks and proof.code == 3
    assert proof.unproved == "speakers compared in 27 of 29 rows only"
    assert "1 train rows of unknown speakers are from dialogues on both sides" in proof.told


def test_a_split_without_speakers_is_not_proved(built):
    nobody = built.assign(speaker=None)
    for name in ("session", "talker", "speaker"):
        for proof in audit.prove(nobody, name):
            assert proof.code == 3 and "NOT PROVED, speakers not compared" in str(proof)
    some = built.assign(speaker=built["speaker"].where(built.index != 7, None))
    for proof in audit.prove(some, "session"):
        assert proof.unproved == "speakers compared in 99 of 100 rows only"
    (leaky,) = audit.prove(nobody, "prefix", fold=1)
    assert leaky.code == 1, "a leak that was seen counts, whatever was not"


def test_ids_of_utterances_are_no_speakers(built):
    for ids in (built["key"], built["utt_id"], [f"id{i}" for i in range(len(built))]):
        for proof in audit.prove(built.assign(speaker=ids), "session"):
            assert proof.code == 3 and any("has a speaker of its own" in x for x in proof.told)


def test_one_test_set_is_one_fold(built):
    split = built["fold"].map({1: "test", 2: "dev"}).fillna("train")
    assert [p.name for p in audit.prove(built.assign(split=split), "official")] == [
        "official, fold 1"
    ]
    (proof,) = audit.prove(built.assign(split=split.replace("dev", "train")), "official")
    assert proof.code == 0 and "no rows of dev, by which training chooses its epoch" in proof.told
    split = built["fold"].map({1: "test1", 2: "dev", 3: "test2", 4: "test3"}).fillna("train")
    found = list(audit.prove(built.assign(split=split), "official"))
    assert [p.name for p in found] == [f"official, fold {k}" for k in (1, 2, 3)]
    blind = built.assign(split=split, emotion=built["emotion"].where(split != "test3", None))
    assert len(list(audit.prove(blind, "official"))) == 2


# published files


def lists_of(folder, train, test, name="{}.csv"):
    """Two lists of lines, as files."""
    folder.mkdir(exist_ok=True, parents=True)
    for role, lines in (("train", train), ("test", test)):
        (folder / name.format(role)).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rows_of(*rows: dict) -> list[str]:
    return [json.dumps(row) for row in rows]


def emobox(dataset: str, *keys: str) -> list[str]:
    rows = [dict(key=f"{dataset}-{k}", dataset=dataset, wav=f"x/{k}.wav", emo="-") for k in keys]
    return rows_of(*rows)


S = "file,speaker"
# Train, test, exit code, words of the headline; each the smallest case of its kind.
VERDICTS = {
    "names that tell nothing": (["file", "a/1"], ["file", "a/2"], 3, "speakers not compared"),
    "speakers apart": ([S, "1.wav,ann"], [S, "2.wav,bob"], 0, "compared: utterances, speakers"),
    "speakers shared": ([S, "1.wav,ann"], [S, "2.wav,ann"], 1, "LEAKS"),
    "speakers on one side": ([S, "1.wav,ann"], ["file", "2.wav"], 3, "speakers not compared"),
    "a cell is empty on both sides": (
        [S, "1.wav,ann", "2.wav,"], [S, "3.wav,bob", "4.wav,"], 3, "speakers compared in 2 of 4"),
    "all cells are empty": ([S, "1.wav,"], [S, "3.wav,"], 3, "speakers not compared"),
    "words for nobody": ([S, "1.wav,Unknown"], [S, "2.wav,unknown"], 3, "speakers not compared"),
    "a column of speakers": (["file,speakers", "1,ann"], ["file,speakers", "2,ann"], 1, "LEAKS"),
    "another heading": (["File,Speaker ID", "1,7"], ["File,Speaker ID", "2,7.0"], 1, "LEAKS"),
    "an odd name in train": (
        ["file", "Ses01F_impro01_F000.wav", "Ses01F_impro01_MXX0.wav"],
        ["file", "Ses01F_impro02_F000.wav"], 1, "LEAKS"),
    "an odd name, nothing shared": (
        ["file", "Ses01F_impro01_F000.wav", "Ses01F_impro01_MXX0.wav"],
        ["file", "Ses02F_impro02_F000.wav"], 3, "speakers compared in 2 of 3 rows"),
    "an odd name in test": (
        ["file", "03-01-05-01-02-01-16.wav"],
        ["file", "03-01-05-01-02-01-16 (1).wav", "03-01-06-01-02-01-16.wav"], 1, "LEAKS"),
    "a name cut short": (
        ["file", "1001_DFA_ANG_XX", "1002_IEO_SA"], ["file", "1003_DFA_ANG_XX"], 3, "2 of 3"),
    "folders are part of a name": (
        [S, "DC/a01.wav,DC", "DC/a02.wav,DC"], [S, "JE/a01.wav,JE"], 0, "nothing is shared"),
    "bare names of several speakers": (
        [S, "a01.wav,DC", "a02.wav,DC"], [S, "a01.wav,JE"], 0, "nothing is shared"),
    "one file spelt twice": (["file", "./x/a.wav"], ["file", "x//a.WAV"], 1, "LEAKS"),
    "a backslash": (["file", "x\\a.wav"], ["file", "x/a.wav"], 1, "LEAKS"),
    "rows by number": (
        ["key,file,speaker", "0,a.wav,ann"], ["key,file,speaker", "0,b.wav,bob"], 0, "nothing"),
    "keys tell bare names apart": (
        ["key,file,speaker", "x-a-1,1.wav,ann", "x-b-1,1.wav,ann"],
        ["key,file,speaker", "x-c-1,1.wav,bob"], 0, "nothing is shared"),
    "one file under two keys": (
        ["key,file,speaker", "k1,x/1.wav,ann"], ["key,file,speaker", "k2,x/1.wav,bob"], 1, "LEAKS"),
    "one sha256": (
        ["file,speaker,sha256", "1,ann,ab"], ["file,speaker,sha256", "2,bob,ab"], 1, "LEAKS"),
    "a group of some kind is none": (
        ["file,speaker,group", "1,ann,old"], ["file,speaker,group", "2,bob,old"], 0, "nothing"),
    "speakers are ids": (
        [S, "1.wav,1", "2.wav,2"], [S, "3.wav,3"], 3, "speakers not compared"),
    "names like EmoDB's by chance": (
        [S, "x.wav,ann", "03a01Fa.wav,bob"], [S, "03a02Fa.wav,cy"], 0, "nothing is shared"),
    "names in keys": (
        ["key,file", "ravdess-03-01-05-01-02-01-16,x/1"],
        ["key,file", "ravdess-03-01-06-01-02-02-16,x/2"], 1, "LEAKS"),
    "a column does not stand in for a name": (
        [S, "Ses01F_impro01_F000.wav,01F", "Ses01F_impro01_MXX0.wav,01F"],
        [S, "Ses02F_impro01_F000.wav,02F"], 3, "2 of 3 rows"),
    "several corpora": (
        ["file", "03a01Fa.wav", "03a02Fa.wav"], ["file", "03-01-05-01-02-01-03.wav"], 0, "nothing"),
    "podcasts are shared": (
        ["FileName,SpkrID", "MSP-PODCAST_0001_0008.wav,1"],
        ["FileName,SpkrID", "MSP-PODCAST_0001_0009.wav,2"], 0, "nothing is shared"),
}  # fmt: skip
SPELT = [" Anna", "Anna ", "\u00a0Anna", "An\u200bna", "ANNA", "Ａnna", "anna"]
VERDICTS |= {
    f"{name!r} is Anna": ([S, "1.wav,Anna"], [S, f'2.wav,"{name}"'], 1, "LEAKS") for name in SPELT
} | {"NFC and NFD": ([S, "1.wav,Zo\u00e9"], [S, "2.wav,Zoe\u0301"], 1, "LEAKS")}


@pytest.mark.parametrize(("train", "test", "code", "words"), VERDICTS.values(), ids=VERDICTS)
def test_verdicts(tmp_path, capsys, train, test, code, words):
    folder = lists_of(tmp_path / "f", train, test)
    paths = [str(folder / "train.csv"), str(folder / "test.csv")]
    assert cli.main(["manifest", "audit", *paths]) == code
    headline = capsys.readouterr().out.split("\n")[0]
    verdict = {0: "nothing is shared", 1: "LEAKS", 3: "NOT PROVED"}
    assert words in headline and [v in headline for v in verdict.values()].count(True) == 1
    assert verdict[code] in headline and "(compared: " in headline


def test_rows_that_name_nobody_are_told(tmp_path):
    train = ["file", "Ses01F_impro01_F000.wav", "Ses01F_impro01_MXX0.wav"]
    folder = lists_of(tmp_path, train, ["file", "Ses02F_impro02_F000.wav"])
    (proof,) = audit.audit([folder])
    assert "1 rows name no speaker, such as Ses01F_impro01_MXX0" in proof.told
    assert "1 session" not in str(proof)


def test_names_that_look_alike_are_told_but_not_merged(tmp_path):
    (proof,) = audit.audit([lists_of(tmp_path, [S, "1.wav,Anna"], [S, "2.wav,\u0410nna"])])
    assert not proof.leaks and any(
        "look alike" in note and "\u0410nna" in note for note in proof.told
    )


def test_prefix_folds_share_both_speakers(tmp_path):
    """In the form of Cai 2021: a fold is a marker's prefix; no column says who speaks."""
    head = "file,emotion,text"
    train = [head, "Ses01M_impro05a_F000.wav,e0,hi", "x/Ses01M_impro01_M000.wav,e1,a"]
    test = [head, "Ses01F_impro01_F000.wav,e0,hi", "x/Ses01F_script01_1b_M000.wav,e1,"]
    (proof,) = audit.audit([lists_of(tmp_path / "f", train, test)])
    assert proof.leaks == (
        "1 group (Ses01) in 100.0% of the rows of test",
        "2 speaker (Ses01F, Ses01M) in 100.0% of the rows of test",
    )
    assert "train and test also share 1 text (hi) in 50.0% of the rows of test" in proof.told
    assert "texts in 3 of 4 rows; not: audio" in proof.compared
    assert proof.sizes == {"train": 2, "test": 2}


def test_a_random_split_shares_dialogues_and_misnames_speakers(tmp_path):
    """In the form of MTLSER: the column speaker holds the prefix."""
    head = "path,emotion,speaker"
    train = [head, "Ses02F_impro03_F001,0,02F", "Ses02F_impro03_M002,0,02F"]
    test = [head, "Ses02F_impro03_M001,0,02F", "Ses02M_impro04_M001,0,02M"]
    folder = lists_of(tmp_path / "f", train, test)
    paths = [folder / f"{role}.csv" for role in ("train", "test")]
    (proof,) = audit.audit(paths)
    assert [leak.split(" (")[0] for leak in proof.leaks] == ["1 group", "1 speaker"]
    assert any(note.startswith("train and test also share 1 dialogue") for note in proof.told)
    assert "the files' speaker is the true one in 2 of 4 rows" in proof.told
    whole = pd.concat([pd.read_csv(p) for p in paths]).assign(part=["train"] * 2 + ["test"] * 2)
    whole.to_csv(tmp_path / "all.csv", index=False)
    (same,) = audit.audit([tmp_path / "all.csv"], split="part")
    assert same.leaks == proof.leaks


@pytest.mark.parametrize(
    ("dataset", "train", "test", "leaks", "code"),
    [
        ("iemocap", ["Ses01F_impro01_F000"], ["Ses02F_impro01_F000"], [], 0),
        ("cremad", ["1001_DFA_ANG_XX", "1002_IEO_SAD_HI"], ["1001_DFA_SAD_XX"], ["1 speaker"], 1),
        ("ravdess", ["03-01-05-01-02-01-16"], ["03-01-06-01-02-02-16"], ["1 speaker"], 1),
        ("ravdess", ["03-01-05-01-02-01-16"], ["03-01-06-01-02-01-15"], [], 0),
        ("emodb", ["03a01Fa", "08a01Na"], ["03a02Nc"], ["1 speaker"], 1),
        ("msp-podcast", ["MSP-PODCAST_0001_0008"], ["MSP-PODCAST_0001_0009"], [], 3),
        ("mystery", ["a1"], ["a1"], ["1 utterance"], 1),
        ("mystery", ["03a01Fa"], ["03a02Nc"], [], 3),
    ],
)
def test_emobox_folds(tmp_path, dataset, train, test, leaks, code):
    """As in a checkout: .json twins of .jsonl, valid beside them, speakers in an .stm above."""
    for fold in (1, 2):
        folder = tmp_path / f"fold_{fold}"
        name = f"{dataset}_{{}}_fold_{fold}.jsonl"
        lists_of(folder, emobox(dataset, *train), emobox(dataset, *test), name)
        (folder / f"{dataset}_valid_fold_{fold}.jsonl").write_text("")
        for role, keys in (("train", train), ("test", test)):
            twin = {f"{dataset}-{k}": dict(wav=f"x/{k}.wav", emo="-") for k in keys}
            (folder / f"{dataset}_{role}_fold_{fold}.json").write_text(json.dumps(twin, indent=1))
    found = audit.audit([tmp_path])
    assert [p.name for p in found] == [f"fold_{k}/{dataset}_train_fold_{k}.jsonl" for k in (1, 2)]
    twins = [tmp_path / f"fold_1/{dataset}_{role}_fold_1.json" for role in ("train", "test")]
    for proof in [*found, *audit.audit(twins)]:
        assert [leak.split(" (")[0] for leak in proof.leaks] == leaks and proof.code == code
    speakers = {key: f"a speaker, {n % 2}" for n, key in enumerate([*train, *test])}
    stm = [
        f"{dataset}-{k} 1 0 0 1.5 <id=0,lang=en,spk=S {s[-1]} x,emotion=-> -"
        for k, s in speakers.items()
    ]
    (tmp_path / "data.seg.wrd.stm").write_text("\n".join(stm) + "\n")
    shared = {speakers[k] for k in train} & {speakers[k] for k in test}
    if dataset in ("mystery", "msp-podcast"):  # whose names tell no speaker
        assert {p.code for p in audit.audit([tmp_path])} == {1 if shared or leaks else 0}


def test_stm_speakers_that_are_utterances_are_nobody(tmp_path):
    lists_of(tmp_path / "fold_1", emobox("resd", "s1", "s2"), emobox("resd", "s3"), "r_{}.jsonl")
    stm = [f"resd-s{i} 1 s{i} 0 1 <id=0,spk=s{i},emotion=-> -" for i in (1, 2, 3)]
    (tmp_path / "data.seg.wrd.stm").write_text("\n".join(stm))
    assert audit.audit([tmp_path])[0].code == 3


def test_superb_and_meld_are_read_as_published(tmp_path, capsys):
    for role, s in (("train", 1), ("test", 2)):
        names = [f"Session{s}/wav/Ses0{s}F_impro01_M00{i}.wav" for i in (0, 1)]
        rows = [dict(path=name, label="neu", speaker=f"Ses0{s}F") for name in names]
        content = dict(labels={"neu": 0}, meta_data=rows)
        (tmp_path / f"{role}_meta_data.json").write_text(json.dumps(content))
        head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
        (tmp_path / f"{role}_sent_emo.csv").write_text(
            f"{head}1,Hi,Ann,joy,positive,0,0\n3,Oh,All,joy,x,0,1\n"
        )
    meta, sent = audit.audit([tmp_path])
    assert meta.code == 0 and "compared: utterances, groups, speakers" in meta.compared
    assert sent.leaks == ("1 speaker (Ann) in 50.0% of the rows of test",)
    assert "speakers in 2 of 4 rows" in sent.compared  # All are several
    paths = [str(tmp_path / f"{role}_meta_data.json") for role in ("train", "test")]
    assert cli.main(["manifest", "audit", *paths]) == 0


def test_a_list_without_a_test_beside_it_is_told(tmp_path):
    lists_of(tmp_path, [S, "1.wav,ann"], [S, "2.wav,bob"])
    (tmp_path / "train_2.csv").write_text("file\nx.wav\n")
    (proof,) = audit.audit([tmp_path])
    assert "not compared, as no test list is beside it: train_2.csv" in proof.told


def test_each_test_set_of_one_file_is_compared(tmp_path):
    """labels_consensus.csv, as MSP-Podcast has it."""
    rows = msp_rows("NH", splits=("Train", "Development", "Test1", "Test2"))
    path = tmp_path / "labels_consensus.csv"
    shared = rows[0].replace("Train", "Test2").replace("_0000", "_0077")
    path.write_text("\n".join([CONSENSUS, *rows, shared]))
    found = audit.audit([path], split="Split_Set")
    assert [(p.name, p.code) for p in found] == [(f"{path.name}, test{k}", k - 1) for k in (1, 2)]


def test_audit_and_check_agree_on_a_podcast_on_both_sides(tmp_path):
    rows = msp_rows("NH", splits=("Train", "Development", "Test1"))
    rows += ["MSP-PODCAST_0001_0900.wav,H,2,4,2,999,Male,Test1"]  # another speaker of a podcast
    df, _ = builder.build("msp-podcast", msp(tmp_path / "m", rows), progress=False)
    (checked,) = audit.prove(df, "official")
    names = {
        role: ["file", *df["wav"][df["split"] == s]]
        for role, s in (("train", "train"), ("test", "test1"))
    }
    folder = lists_of(tmp_path / "f", **names)
    (audited,) = audit.audit([folder], known=df)
    for proof in (checked, audited):
        assert proof.code == 0
        assert any(note.startswith("train and test also share 1 dialogue") for note in proof.told)


def test_a_manifest_tells_what_names_do_not(tmp_path, built):
    known = built.assign(sha256=built["sha256"].mask(built.index == 7, built["sha256"][0]))
    rows = [["file"], known["wav"].iloc[[0, 3]], known["utt_id"].iloc[[7, 60]]]
    train, test = [*rows[0], *rows[1]], [*rows[0], *rows[2], "Ses01F_impro01_F999"]
    (proof,) = audit.audit([lists_of(tmp_path / "f", train, test)], known=known)
    assert [leak.split(" (")[0] for leak in proof.leaks] == ["1 group", "1 speaker", "1 sha256"]
    assert any(n.startswith("'Ses01F_impro01_F999' is not in the manifest") for n in proof.told)
    with pytest.raises(ManifestError, match="'x' is not in the manifest, nor is another"):
        audit.audit([lists_of(tmp_path / "g", ["file", "x"], ["file", "y"])], known=known)


def savee(**sha) -> pd.DataFrame:
    """Two speakers whose files have equal names."""
    rows = [
        dict(key=f"sv-{s}_{u}", utt_id=f"{s}_{u}", dataset="sv", wav=f"{s}/{u}.wav", length=1.0,
             emotion="anger", speaker=f"sv-{s}", group=f"sv-{s}", sha256=sha.get(s + u))
        for s, names in (("DC", ("a01", "a02")), ("JE", ("a01", "a02", "a03"))) for u in names
    ]  # fmt: skip
    return tables.typed(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("train", "test", "code"),
    [
        (["JE/a01.wav", "JE/a02.wav"], ["JE/a03.wav"], 1),
        (["DC/a01.wav", "DC/a02.wav"], ["JE/a01.wav"], 0),
        (["./DC/a01.wav", "/data/sv/DC/a02.wav"], ["JE\\a01.wav"], 0),
        (["DC_a01", "sv-DC_a02"], ["JE_a01"], 0),
        (["DC/a01.wav", "a02.wav"], ["JE/a03.wav"], 3),  # a02 is of one or the other
        (["DC/a01.wav"], ["a03.wav"], 0),
        (["DC/a01.wav"], ["JE/a03.wav", "JE/a09.wav"], 3),
    ],
)
def test_files_are_looked_up_by_as_much_of_their_path_as_there_is(tmp_path, train, test, code):
    folder = lists_of(tmp_path, ["file", *train], ["file", *test])
    (proof,) = audit.audit([folder], known=savee())
    assert proof.code == code
    assert ("'a02' may be sv-DC_a02 or sv-JE_a02" in str(proof)) == ("a02.wav" in train)


def test_segments_of_one_file_tell_what_they_agree_on(tmp_path):
    known = savee().assign(wav=["1.wav", "1.wav", "2.wav", "3.wav", "3.wav"], speaker=[*"aabac"])
    folder = lists_of(tmp_path, ["file", "1.wav"], ["file", "2.wav", "3.wav"])
    (proof,) = audit.audit([folder], known=known)
    assert proof.unproved == "speakers compared in 2 of 3 rows only"


def test_the_same_path_is_the_same_audio_where_a_sha256_is_missing():
    df = savee(DCa01="0" * 64).assign(fold=[1, 1, 2, 3, 4])
    df["wav"] = ["DC/a01.wav", "DC/a02.wav", "./DC/a01.wav", "JE/a02.wav", "JE/a03.wav"]
    found = [proof.leaks for proof in audit.prove(df, "session", fold=1)]
    assert any("1 file (DC/a01.wav)" in leak for leak in found[0])


FORMS = {
    "csv": "emotion;Path\n0;{}\n0;{}\n",
    "tsv": "FileName\temotion\n{}\t0\n{}\t0\n",
    "txt": "{} 0\n{} 0\n",
    "jsonl": '{{"audio": "{}"}}\n{{"audio": "{}"}}\n',
    "json": '[{{"audio": "{}"}}, {{"audio": "{}"}}]',
    "list.json": '["{}", "{}"]',
    "by key.json": '{{"a": {{"audio": "{}"}}, "b": {{"audio": "{}"}}}}',
    "Train.csv": "file\n{}\n{}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_formats(tmp_path, form):
    names = "1001_DFA_ANG_XX.wav", "a b/1002_IEO_SAD_HI.wav"
    for role in ("train", "test"):
        name = f"{role}.{form}" if "Train" not in form else form.replace("Train", role.title())
        (tmp_path / name).write_text(FORMS[form].format(*names))
    (proof,) = audit.audit([tmp_path])
    assert proof.leaks[0].startswith("2 utterance (1001_DFA_ANG_XX, 1002_IEO_SAD_HI)")
    assert proof.leaks[1].startswith("2 speaker (1001, 1002)")


def test_what_cannot_be_audited_is_said(tmp_path, capsys):
    a = tmp_path / "a.csv"
    a.write_text("emotion,n\n0,1\n")
    with pytest.raises(ManifestError, match="no column of files among 'emotion', 'n'"):
        audit.audit([a, a])
    with pytest.raises(ManifestError, match="give TRAIN and TEST"):
        audit.audit([a])
    with pytest.raises(ManifestError, match="has no column 'part', only 'emotion', 'n'"):
        audit.audit([a], split="part")
    with pytest.raises(ManifestError, match="holds '1': no train/test"):
        audit.audit([a], split="n")
    with pytest.raises(ManifestError, match="no files named"):
        audit.audit([tmp_path])
    a.write_text("file,n\nx,1\n,2\n")
    with pytest.raises(ManifestError, match="train, row 2 names no file"):
        audit.audit([a, a])
    a.write_text("file\nx\n")
    with pytest.raises(ManifestError, match="'x' is no name of iemocap"):
        audit.audit([a, a], corpus="iemocap")
    with pytest.raises(ManifestError, match="no grammar of names for 'timit'"):
        audit.audit([a, a], corpus="timit")
    bad = tmp_path / "b.jsonl"
    none = "is no list of files"
    for text, why in (("{", "line 1 is not JSON"), ("[1]", none), ("[]", none), ("7", none)):
        bad.write_text(text)
        with pytest.raises(ManifestError, match=why):
            audit.audit([bad, bad])
    for paths in (["b.jsonl", "b.jsonl"], ["none.csv", "a.csv"], ["a.csv"]):
        assert cli.main(["manifest", "audit", *(str(tmp_path / path) for path in paths)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


ODD = [
    None, "", 1, 1.5, "nan", [1], {"a": 1}, True, 10**40, "..", "/", "a\nb", "x" * 300, " Anna",
    "7.0", "a/b.wav", "./a/b.wav", "\u0410nna", "Ses01F_impro01_F000.wav", "03a01Fa.wav",
]  # fmt: skip
HEADS = (
    "key file speaker speakers text utterance dataset group utt_id sha256 Dialogue_ID Utterance_ID "
    "Utterance Speaker Emotion split".split()
)


def odd_list(rng, kind: str) -> str:
    """A list of one form, with anything in its cells."""
    heads = ["file"] * (rng.random() < 0.7)
    heads += [h for h in rng.sample(HEADS, rng.randint(1, 5)) if h not in heads]
    rows = [{h: rng.choice(ODD[-9:] if h == "file" else ODD) for h in heads} for _ in range(4)]
    rows = rows[: rng.randint(0, 4)]
    if kind == "jsonl":
        return "\n".join(map(json.dumps, rows))
    if kind == "json":
        by_key = {str(i): row for i, row in enumerate(rows)}
        return json.dumps(rng.choice([rows, by_key, {"labels": {}, "meta": rows}, [[rows]], 7]))
    text = "\n".join(",".join(json.dumps(str(x)) for x in row.values()) for row in rows)
    return f"{','.join(heads)}\n{text}" if kind == "csv" else text


def test_no_list_ends_in_a_traceback(tmp_path, capsys, built):
    """SERLIB_FUZZ=N tries N pairs."""
    known, rng, codes = str(tmp_path / "m.csv"), random.Random(0), set()
    tables.write(built, known)
    for _ in range(int(os.environ.get("SERLIB_FUZZ", 60))):
        kind = rng.choice(["jsonl", "json", "csv", "txt"])
        train, test = (tmp_path / f"{role}.{kind}" for role in ("train", "test"))
        for path in (train, test):
            path.write_text(odd_list(rng, kind)[: rng.choice([None, None, 40])], encoding="utf-8")
        how = rng.choice([[test], [test], ["--split", "split"], [test, "--manifest", known]])
        code = cli.main(["manifest", "audit", str(train), *map(str, how)])
        shown = capsys.readouterr()
        said = shown.out.split("\n")[0] if code != 2 else shown.err
        word = {0: "nothing is shared", 1: "LEAKS", 2: "serlib: ", 3: "NOT PROVED"}[code]
        assert word in said and (code != 2 or said.count("\n") == 1), (code, said)
        codes.add(code)
    assert codes >= {1, 2, 3}


# commands


def test_check_proves_a_protocol(tmp_path, built, capsys):
    path = str(tmp_path / "m.csv")
    tables.write(built, path)
    check = ["manifest", "check", path, "--protocol"]
    assert cli.main([*check, "session"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("nothing is shared") == 5 and "0 problems" in shown.err
    assert cli.main([*check, "prefix", "--fold", "1"]) == 1
    assert "2 speaker" in capsys.readouterr().out
    for wrong in (["loso"], ["session", "--fold", "9"], ["official"]):
        assert cli.main([*check, *wrong]) == 2
    with pytest.raises(SystemExit, match="2"):
        cli.main([*check, "session", "--fold", "0"])
    assert cli.main(["manifest", "check", str(tmp_path / "none.csv")]) == 2
    tables.write(built.assign(speaker=None), path)
    capsys.readouterr()
    for name in ("session", "usual", "talker"):
        assert cli.main([*check, name]) == 3
        shown = capsys.readouterr()
        assert "nothing is shared" not in shown.out and "speakers not compared" in shown.err
