"""Proofs of a manifest's protocols, and audits of split files as others publish them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from corpus_trees import iemocap, msp, msp_rows
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
    assert "nothing is shared" in str(proofs[0]) and str(proofs[0]).startswith("session, fold 1")


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


def test_rows_without_a_group_prove_nothing(built):
    df = built.assign(group=built["group"].where(built.index > 3, None))
    assert any("without a group" in leak for p in audit.prove(df, "session") for leak in p.leaks)


def test_unknown_speakers_of_shared_podcasts_are_told(tmp_path):
    rows = [r for r in msp_rows("NHA", splits=("Train", "Development", "Test1"))]
    rows += ["MSP-PODCAST_0001_0900.wav,H,2,4,2,Unknown,Male,Train"]
    rows += ["MSP-PODCAST_0201_0900.wav,H,2,4,2,Unknown,Male,Train"]  # the podcast is tested
    df, _ = builder.build("msp-podcast", msp(tmp_path, rows), progress=False)
    (proof,) = audit.prove(df, "official")
    assert not proof.leaks
    assert "1 train rows of unknown speakers are from dialogues on both sides" in proof.told


# published files


def files_of(folder, train, test, name="iemocap_01F.{}.csv"):
    folder.mkdir(exist_ok=True)
    for role, lines in (("train", train), ("test", test)):
        (folder / name.format(role)).write_text("\n".join(lines) + "\n")
    return folder


def test_prefix_folds_share_both_talkers(tmp_path):
    """In the form of Cai 2021: a fold is a marker's prefix; no column says who talks."""
    train = [
        "file,emotion,text",
        "Ses01M_impro05a_F000.wav,e0,hi",
        "x/Ses01M_impro01_M000.wav,e1,a",
    ]
    test = [
        "file,emotion,text",
        "Ses01F_impro01_F000.wav,e0,hi",
        "x/Ses01F_script01_1b_M000.wav,e1,",
    ]
    (proof,) = audit.audit([files_of(tmp_path / "f", train, test)])
    assert proof.leaks == ("2 speaker (Ses01F, Ses01M) in 100.0% of the rows of test",)
    assert "train and test also share 1 text (hi) in 50.0% of the rows of test" in proof.told
    assert any(note.startswith("sha256 is not known") for note in proof.told)
    assert proof.sizes == {"train": 2, "test": 2}


def test_a_random_split_shares_dialogues_and_misnames_talkers(tmp_path):
    """In the form of MTLSER: the column speaker holds the prefix."""
    head = "path,emotion,speaker"
    train = [head, "Ses02F_impro03_F001,0,02F", "Ses02F_impro03_M002,0,02F"]
    test = [head, "Ses02F_impro03_M001,0,02F", "Ses02M_impro04_M001,0,02M"]
    folder = files_of(tmp_path / "f", train, test)
    paths = [folder / f"iemocap_01F.{role}.csv" for role in ("train", "test")]
    (proof,) = audit.audit(paths)
    assert [leak.split(" (")[0] for leak in proof.leaks] == ["1 speaker", "1 dialogue"]
    assert "the files' speaker is the talker in 2 of 4 rows" in proof.told
    whole = pd.concat([pd.read_csv(p) for p in paths]).assign(part=["train"] * 2 + ["test"] * 2)
    whole.to_csv(tmp_path / "all.csv", index=False)
    (same,) = audit.audit([tmp_path / "all.csv"], split="part")
    assert same.leaks == proof.leaks


def emobox(keys: list[str], dataset: str) -> list[str]:
    rows = [dict(key=f"{dataset}-{k}", dataset=dataset, wav=f"x/{k}.wav", emo="-") for k in keys]
    return [json.dumps(row) for row in rows]


@pytest.mark.parametrize(
    ("dataset", "train", "test", "leaks"),
    [
        ("iemocap", ["Ses01F_impro01_F000"], ["Ses02F_impro01_F000"], []),
        (
            "cremad",
            ["1001_DFA_ANG_XX", "1002_IEO_SAD_HI"],
            ["1001_DFA_SAD_XX"],
            ["1 speaker"],
        ),
        ("ravdess", ["03-01-05-01-02-01-16"], ["03-01-06-01-02-02-16"], ["1 speaker"]),
        ("ravdess", ["03-01-05-01-02-01-16"], ["03-01-05-01-02-01-15"], []),
        ("emodb", ["03a01Fa", "08a01Na"], ["03a02Nc"], ["1 speaker"]),
        (
            "msp-podcast",
            ["MSP-PODCAST_0001_0008"],
            ["MSP-PODCAST_0001_0009"],
            ["1 dialogue"],
        ),
        ("mystery", ["a1"], ["a1"], ["1 utterance"]),
    ],
)
def test_emobox_folds(tmp_path, dataset, train, test, leaks):
    for fold in (1, 2):
        folder = tmp_path / f"fold_{fold}"
        name = f"{dataset}_{{}}_fold_{fold}.jsonl"
        files_of(folder, emobox(train, dataset), emobox(test, dataset), name)
        (folder / f"{dataset}_valid_fold_{fold}.jsonl").write_text("")
    found = audit.audit([tmp_path])
    assert [p.name for p in found] == [f"fold_{k}/{dataset}_train_fold_{k}.jsonl" for k in (1, 2)]
    for proof in found:
        assert [leak.split(" (")[0] for leak in proof.leaks] == leaks


def test_a_manifest_tells_what_names_do_not(tmp_path, built):
    known = built.assign(sha256=built["sha256"].mask(built.index == 7, built["sha256"][0]))
    rows = [["file"], known["wav"].iloc[[0, 3]], known["utt_id"].iloc[[7, 60]]]
    train, test = [*rows[0], *rows[1]], [*rows[0], *rows[2], "Ses01F_impro01_F999"]
    (proof,) = audit.audit([files_of(tmp_path / "f", train, test)], known=known)
    assert [leak.split(" (")[0] for leak in proof.leaks] == [
        "1 group", "1 speaker", "1 dialogue", "1 sha256",
    ]  # fmt: skip
    assert "1 utterances are not in the manifest" in proof.told
    with pytest.raises(ManifestError, match="no utterance such as 'x' is in the manifest"):
        audit.audit([files_of(tmp_path / "g", ["file", "x"], ["file", "y"])], known=known)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "jsonl", "json"])
def test_formats(tmp_path, suffix):
    names = ["1001_DFA_ANG_XX.wav", "a\\b/1002_IEO_SAD_HI.wav"]
    form = {
        "csv": "emotion;Path\n" + "".join(f"0;{n}\n" for n in names),
        "tsv": "FileName\temotion\n" + "".join(f"{n}\t0\n" for n in names),
        "txt": "".join(f"{n} 0\n" for n in names),
        "jsonl": "".join(json.dumps({"audio": n}) + "\n" for n in names),
        "json": json.dumps([{"audio": n} for n in names]),
    }[suffix]
    for role in ("train", "test"):
        (tmp_path / f"{role}.{suffix}").write_text(form)
    (proof,) = audit.audit([tmp_path])
    assert proof.leaks[0].startswith("2 utterance (1001_DFA_ANG_XX, 1002_IEO_SAD_HI)")


def test_what_cannot_be_audited_is_said(tmp_path):
    a = tmp_path / "a.csv"
    a.write_text("emotion,n\n0,1\n")
    with pytest.raises(ManifestError, match="no column of files among emotion, n"):
        audit.audit([a, a])
    with pytest.raises(ManifestError, match="give TRAIN and TEST"):
        audit.audit([a])
    with pytest.raises(ManifestError, match="has no column 'part', only emotion, n"):
        audit.audit([a], split="part")
    with pytest.raises(ManifestError, match="holds 1: no train/test"):
        audit.audit([a], split="n")
    with pytest.raises(ManifestError, match="no files named"):
        audit.audit([tmp_path])
    a.write_text("file\nx\n")
    with pytest.raises(ManifestError, match="'x' is no name of iemocap"):
        audit.audit([a, a], corpus="iemocap")
    with pytest.raises(ManifestError, match="no grammar of names for 'timit'"):
        audit.audit([a, a], corpus="timit")
    bad = tmp_path / "b.jsonl"
    bad.write_text("{")
    with pytest.raises(ManifestError, match="is no list of files"):
        audit.audit([bad, bad])


# commands


def test_check_proves_a_protocol(tmp_path, built, capsys):
    path = str(tmp_path / "m.csv")
    tables.write(built, path)
    assert cli.main(["manifest", "check", path, "--protocol", "session"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("nothing is shared") == 5 and "0 problems" in shown.err
    command = ["manifest", "check", path, "--protocol", "prefix", "--fold", "1"]
    assert cli.main(command) == 1
    assert "2 speaker" in capsys.readouterr().out
    assert cli.main(["manifest", "check", path, "--protocol", "loso"]) == 1


def test_audit_exits_with_one_where_something_is_shared(tmp_path, capsys):
    lines = ["file", "1001_DFA_ANG_XX.wav"]
    folder = files_of(tmp_path / "f", lines, ["file", "1002_DFA_ANG_XX.wav"], "{}.csv")
    assert cli.main(["manifest", "audit", str(folder)]) == 0
    assert "nothing is shared" in capsys.readouterr().out
    files_of(folder, lines, lines, "{}.csv")
    paths = [str(folder / "train.csv"), str(folder / "test.csv")]
    assert cli.main(["manifest", "audit", *paths, "--corpus", "cremad"]) == 1
    assert "1 utterance" in capsys.readouterr().out
