"""A folder with a table, EmoBox in and out, audformat: any corpus that comes in one of these."""

import json

import numpy as np
import pandas as pd
import pytest

from serlib.corpora import audformat, builder, emobox, files, folder
from serlib.data import manifest, splits
from serlib.data.tables import ManifestError
from tests.trees import trees
from tests.trees.treekit import riff

NOISE = np.random.default_rng(0)


def sound(path, seconds=0.7):
    """A file of audible noise, different each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = NOISE.integers(-9000, 9000, int(16_000 * seconds)).astype(np.int16)
    path.write_bytes(riff(samples))


# --- tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_read_with_any_separator_and_encoding(tmp_path, separator):
    path = tmp_path / "t.csv"
    text = f"file {separator}wörd\r\na.wav{separator} “é” \r\nb.wav{separator}\r\n"
    path.write_bytes(text.encode("utf-8-sig"))
    df = files.table(path, ("file",))
    assert df.to_numpy().tolist() == [["a.wav", "“é”"], ["b.wav", None]]
    path.write_bytes("wörd\né\n".encode("latin-1"))
    assert files.table(path)["wörd"].tolist() == ["é"]


def test_tables_that_are_broken_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(ManifestError, match="row 1: 3 cells, the header 2"):
        files.table(path)
    path.write_text("a,b\n1,2\n4,5,6\n")
    with pytest.raises(ManifestError, match="row 2: 3 cells, the header 2"):
        files.table(path)


# --- folder


@pytest.fixture
def mine(tmp_path):
    """Two talkers' files in folders, and a table with names of its own."""
    root = tmp_path / "Mine"
    for name in ("x/a1.wav", "x/a2.wav", "y/b1.wav"):
        sound(root / name)
    (root / "labels.csv").write_text(
        "Filename;Label;Talker;Sex;joy\nx/a1.wav;happy;A;F;3\na2.wav;sad;A;f;1\nb1;calm;B;M;2\n"
    )
    return root


def test_usual_names_need_no_map(mine):
    (mine / "labels.csv").write_text(
        "filename,emotion,spk,sex,split,transcript,note\n"
        "x/a1.wav,happy,A,F,train,Hello,1\na2.wav,exc,A,f,Validation,,2\nb1,Neutral,B,M,test,Hm,3\n"
        "c1,,Unknown,unknown,,Hm,4\n"
    )
    sound(mine / "y/c1.wav")
    df, report = builder.build("folder", mine, progress=False)
    assert df["wav"].tolist() == ["x/a1.wav", "x/a2.wav", "y/b1.wav", "y/c1.wav"]
    assert df["emotion"].tolist() == ["happiness", "excitement", "neutral", None]
    assert df["emo"].tolist() == ["happy", "exc", "Neutral", None]
    assert df["speaker"].tolist() == ["mine-A", "mine-A", "mine-B", None]
    assert df["group"].tolist() == ["mine-A", "mine-A", "mine-B", "mine-y_c1"]
    assert df["gender"].tolist() == ["female", "female", "male", None]
    assert df["split"].tolist() == ["train", "dev", "test", None]
    assert df["key"][0] == "mine-x_a1" and df["note"].tolist() == [1, 2, 3, 4]
    assert df["flags"].tolist() == [[], ["missing_text"], [], []]
    assert manifest.check(df) == [] and report.checked == ()  # there is nothing to compare with
    assert "wav = filename, emo = emotion, speaker = spk" in report.notes[0].replace(", text", "")


def test_a_map_says_the_rest(mine):
    (mine / "corpus.yaml").write_text(
        "dataset: trial\n"
        "columns: {speaker: Talker, valence: joy}\n"
        "labels: {calm: neutral, sad: null}\n"
        "attr_scale: [1, 5]\n"
        "cells: {language: deu, style: natural, license: CC0-1.0}\n"
    )
    df, _ = builder.build("folder", mine, version="7", progress=False)
    assert df["emotion"].tolist() == ["happiness", None, "neutral"]
    assert df["valence"].tolist() == [4.0, 1.0, 2.5] and df["valence_raw"].tolist() == [3, 1, 2]
    assert df["attr_scale"].tolist() == [[1, 5]] * 3
    assert set(df["dataset"]) == {"trial"} and set(df["dataset_version"]) == {"7"}
    assert set(df["language"] + df["style"] + df["license"]) == {"deunaturalCC0-1.0"}
    assert df["speaker"][2] == "trial-B"


@pytest.mark.parametrize(
    "table, text, message",
    [
        ("file,label\nx/a1.wav,ecstatic\n", "", "what is ecstatic.*labels: {ecstatic: happiness}"),
        ("file,label\nx/a1.wav,happy\n", "labels: {happy: bliss}", "no emotion 'bliss'"),
        ("file,label\nx/a1.wav,happy\n", "columns: {speaker: who}", "no column 'who', but file"),
        ("name,label\nx/a1.wav,happy\n", "", "no column for wav among name, label"),
        ("file,kind\nx/a1.wav,happy\n", "", "no column for emo"),
        ("file,label\nx/a1.wav,happy\n", "cols: {}", "no 'cols' here: use table, pattern, dataset"),
        ("file,label\nx/a1.wav,happy\n", "- a", "is not a map"),
        ("file,label\nx/a1.wav,happy\n", "table: other.csv", "no other.csv"),
        ("file,label,sex\nx/a1.wav,happy,q\n", "", "gender 'q' is none of f, female"),
        ("file,label,split\nx/a1.wav,happy,7\n", "", "split '7' is none of"),
        ("file,label,arousal\nx/a1.wav,happy,3\n", "", r"attr_scale: \[1, 5\]"),
        ("file,label\n,happy\n", "", "row 1 names no file"),
        ("file,label\nsame,happy\n", "", "'same' is x/same.wav or y/same.wav"),
    ],
)
def test_what_is_unclear_is_asked_back(tmp_path, table, text, message):
    for name in ("x/a1.wav", "x/same.wav", "y/same.wav"):
        sound(tmp_path / name, 0.01)
    (tmp_path / "labels.csv").write_text(table)
    if text:
        (tmp_path / "corpus.yaml").write_text(text)
    with pytest.raises(ManifestError, match=message):
        folder.utterances(tmp_path)


def test_a_path_out_of_the_folder_is_left_out_by_name(tmp_path):
    sound(tmp_path / "secret.wav")
    sound(tmp_path / "in/a.wav")
    (tmp_path / "in/b.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "in/t.csv").write_text(
        f"file,label\na.wav,sad\n../secret.wav,sad\n{tmp_path}/secret.wav,sad\nb.wav,sad\n"
    )
    df, report = builder.build("folder", tmp_path / "in", progress=False)
    assert df["wav"].tolist() == ["a.wav", "b.wav"]  # the link is the owner's own
    why = list(report.excluded.values())
    assert "climbs out" in why[0] and "absolute" in why[1]


def test_a_folder_needs_one_table_and_says_if_talkers_are_unknown(tmp_path):
    with pytest.raises(ManifestError, match="0 tables"):
        folder.utterances(tmp_path)
    sound(tmp_path / "a.wav", 2.0)
    lines = "file,label,start,end\na.wav,sad,0.0,0.9\na.wav,happy,1.0,2.0\n"
    (tmp_path / "one.csv").write_text(lines)
    df, report = builder.build("folder", tmp_path, progress=False)
    assert df["utt_id"].tolist() == ["a_0.0", "a_1.0"] and df["group"].is_unique
    assert df["length"].tolist() == [0.9, 1.0]
    assert "nothing proves" in report.notes[1]
    (tmp_path / "two.csv").write_text(lines)
    with pytest.raises(ManifestError, match="2 tables.*corpus.yaml"):
        folder.utterances(tmp_path)


# --- EmoBox


@pytest.fixture(scope="module")
def emodb(tmp_path_factory):
    """A manifest and the EmoBox checkout that was written from it, audio in its place."""
    root = tmp_path_factory.mktemp("emobox")
    trees.write("emodb", root / "downloads/emodb", utterances=40, flaws=False)
    df, _ = builder.build("emodb", root / "downloads/emodb", progress=False)
    emobox.write(df, root)
    return root, df


def test_what_is_written_for_emobox_comes_back(emodb):
    root, df = emodb
    back, report = builder.build("emobox", root, version="emodb", progress=False)
    columns = "key utt_id dataset emo emotion speaker group fold length num_frame sha256".split()
    pd.testing.assert_frame_equal(back[columns], df[columns])
    assert (back["wav"] == "downloads/emodb/" + df["wav"]).all()
    assert report.notes == () and report.excluded == {}
    for fold in range(1, 6):
        roles = splits.protocol(df, "session", fold=fold)
        pd.testing.assert_series_equal(splits.protocol(back, "session", fold=fold), roles)
    titles = json.loads((root / "data/emodb/label_map.json").read_text())
    assert titles["L"] == "Boredom" and titles["W"] == "Anger"


def test_emobox_folds_hold_each_utterance_once(emodb):
    root, df = emodb
    tested = []
    for fold in range(1, 6):
        parts = {
            word: [json.loads(line)["key"] for line in path.read_text().splitlines()]
            for word in ("train", "valid", "test")
            for path in [root / f"data/emodb/fold_{fold}/emodb_{word}_fold_{fold}.jsonl"]
        }
        assert sorted(sum(parts.values(), [])) == sorted(df["key"])
        tested += parts["test"]
    assert sorted(tested) == sorted(df["key"])


def test_emobox_iemocap_talkers_come_from_the_names(tmp_path):
    folder = tmp_path / "data/iemocap"
    folder.mkdir(parents=True)
    line = dict(dataset="iemocap", type="raw", sample_rate=16000, num_frame=16000.0, length=1.0,
                task="category", channel=1)  # fmt: skip
    utts = ("Ses03M_impro05a_F000", "Ses03M_impro05a_M001", "odd")
    rows = [
        dict(key=f"iemocap-{utt}", wav=f"downloads/{utt}.wav", emo=emo, **line)
        for utt, emo in zip(utts, ("exc", "blue", "hap"), strict=True)
    ]
    (folder / "iemocap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data.seg.wrd.stm").write_text(
        "iemocap-Ses03M_impro05a_F000 1 Ses03M 0 1.0 <id=1,lang=en,spk=Ses03M,emotion=exc> exc\n"
    )
    (folder / "fold_1").mkdir()
    (folder / "fold_1/iemocap_test_fold_1.jsonl").write_text(json.dumps(rows[0]) + "\n")
    df = emobox.utterances(tmp_path, version="iemocap")
    assert df["speaker"].tolist() == ["iemocap-Ses03F", "iemocap-Ses03M", None]
    assert df["group"][2] == "iemocap-odd"
    assert df["split"].tolist() == ["test", None, None]  # one fold only: it is the official split
    assert df.attrs["notes"] == [
        "1 utterances name no talker: nothing proves them apart",
        "labels without an emotion: blue",
    ]
    with pytest.raises(ManifestError, match="no corpus 'meld'.*use version iemocap"):
        emobox.utterances(tmp_path, version="meld")
    with pytest.raises(ManifestError, match="give EmoBox's folder"):
        emobox.utterances(folder, version="iemocap")


def test_emobox_takes_one_dataset_and_no_leaks(emodb, tmp_path):
    _, df = emodb
    mixed = pd.concat([df, df.assign(dataset="other", key="other-" + df["utt_id"])])
    with pytest.raises(ManifestError, match="here are 2"):
        emobox.write(mixed, tmp_path)
    with pytest.raises(splits.LeakError, match="random"):
        emobox.write(df, tmp_path, protocol="random")


# --- audformat


HEADER = """
name: Trial
languages: [deu]
license: CC0-1.0
splits: {learn: {type: train}, test: {type: test}}
schemes:
  emotion: {dtype: str, labels: [anger, happiness, mixed]}
  arousal: {dtype: float, minimum: -1, maximum: 1}
tables:
  emotion.train: {type: filewise, split_id: learn, columns: {emotion: {scheme_id: emotion}}}
  emotion.test: {type: filewise, columns: {emotion: {scheme_id: emotion}, arousal: {}}}
  segments: {type: segmented, columns: {emotion: {scheme_id: emotion}}}
  files: {type: filewise, columns: {speaker: {}, transcription: {}}}
misc_tables:
  speaker: {columns: {gender: {}, age: {}}}
"""


@pytest.fixture
def database(tmp_path):
    for name in "abcd":
        sound(tmp_path / f"wav/{name}.wav", 2.0)
    tables = {
        "emotion.train": "file,emotion\nwav/a.wav,anger\nwav/b.wav,mixed\n",
        "emotion.test": "file,emotion,arousal\nwav/c.wav,happiness,0.5\nwav/d.wav,,\n",
        "segments": "file,start,end,emotion\n"
        "wav/a.wav,0 days 00:00:00,0 days 00:00:00.500000,anger\n"
        "wav/a.wav,0 days 00:00:01.250000,,happiness\n",
        "files": "file,speaker,transcription\nwav/a.wav,3,Ja\nwav/b.wav,8,\nwav/c.wav,8,Nein\n",
        "speaker": "speaker,gender,age\n3,male,31\n8,female,34\n",
    }
    for name, text in tables.items():
        (tmp_path / f"db.{name}.csv").write_text(text)
    (tmp_path / "db.yaml").write_text(HEADER)
    return tmp_path


def test_audformat_tables_are_put_together(database):
    df, report = builder.build("audformat", database, version="emotion.*", progress=False)
    assert df["wav"].tolist() == [f"wav/{name}.wav" for name in "abcd"]
    assert df["emo"].tolist() == ["anger", "mixed", "happiness", None]
    assert df["emotion"].tolist() == ["anger", None, "happiness", None]
    assert df["split"].tolist() == ["train", "train", "test", "test"]
    assert df["speaker"].tolist() == ["trial-3", "trial-8", "trial-8", None]
    assert df["gender"].tolist() == ["male", "female", "female", None]
    assert df["age"].tolist()[:3] == [31, 34, 34]
    assert df["text"].tolist() == ["Ja", None, "Nein", None]
    assert df["arousal"][2] == 5.5 and df["arousal_raw"][2] == 0.5
    assert set(df["dataset"]) == {"trial"} and set(df["license"]) == {"CC0-1.0"}
    assert set(df["language"]) == {"deu"} and report.problems == ()
    assert report.notes == ("labels without an emotion: mixed",)


def test_audformat_segments_keep_their_times(database):
    df, report = builder.build("audformat", database, version="segments", progress=False)
    assert df["utt_id"].tolist() == ["wav_a_0.0", "wav_a_1.25"]
    assert df["start"].tolist() == [0.0, 1.25] and df["end"][0] == 0.5 and np.isnan(df["end"][1])
    assert df["length"].tolist() == [0.5, 0.75] and report.problems == ()


def test_audformat_tells_what_it_cannot_read(database):
    with pytest.raises(ManifestError, match="no table emotions in .*there are emotion.train"):
        audformat.utterances(database, version="emotions")
    (database / "db.emotion.test.csv").write_text("file,emotion\nwav/a.wav,anger\n")
    with pytest.raises(ManifestError, match="wav/a.wav is labeled in several.*choose by version"):
        audformat.utterances(database, version="emotion.*")
    (database / "db.segments.csv").rename(database / "db.segments.parquet")
    with pytest.raises(ManifestError, match='storage_format="csv"'):
        audformat.utterances(database, version="segments")
    (database / "db.yaml").write_text("- a\n")
    with pytest.raises(ManifestError, match="no header of a database"):
        audformat.utterances(database)
    (database / "db.yaml").unlink()
    with pytest.raises(ManifestError, match="no db.yaml"):
        audformat.utterances(database)
