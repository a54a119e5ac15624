"""The label files of MSP-Podcast in their several spellings, on literal trees."""

from __future__ import annotations

import functools
import json
import re

import pandas as pd
import pytest

from corpus_trees import CONSENSUS, msp, msp_rows, wav, write
from serlib.corpora import builder, cards, counts
from serlib.data import manifest, splits
from serlib.data.tables import ManifestError

utterances = functools.partial(builder.utterances, "msp-podcast")

ROW = "MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Test1"
LINES = [
    "WORKER00000001; Other-confused; Concerned,Confused; A:3.000000; V:3.000000; D:4.000000;",
    "WORKER00000002; Neutral; A:2.000000; V:4.000000; D:3.000000;",  # no secondary labels
    "WORKER00000003; Neutral; Disappointed; A:2.000000; V:4.000000; D:3.000000;",
    "WORKER00000004; Contempt; Neutral; A:1.000000; V:4.000000; D:3.000000;",
]
SHARES = {"other": 0.25, "neutral": 0.5, "contempt": 0.25}


def test_a_row(tmp_path):
    row = utterances(msp(tmp_path, [ROW], wavs=False)).iloc[0]
    assert row["utt_id"] == "MSP-PODCAST_0001_0008"
    assert row["wav"] == "Audios/MSP-PODCAST_0001_0008.wav"
    assert (row["emo"], row["emotion"], row["split"]) == ("N", "neutral", "test1")
    # The order of the file is Act, Val, Dom.
    assert (row["arousal"], row["valence"], row["dominance"]) == (2.2, 4.0, 2.6)
    assert (row["arousal_raw"], row["valence_raw"], row["dominance_raw"]) == (2.2, 4.0, 2.6)
    assert row["attr_scale"] == [1, 7]
    assert row["speaker"] == row["group"] == "msp-podcast-30" and row["gender"] == "male"
    assert row["dialogue"] == "msp-podcast-0001" and row["turn"] == 8
    assert row["emotion_dist"] is None and pd.isna(row["n_raters"]) and row["text"] is None


@pytest.mark.parametrize(
    ("folder", "name", "split"),
    [
        ("Labels", "labels_consensus.csv", "Development"),
        ("labels", "labels_concensus.csv", "Validation"),
        ("label", "labels_concensus.csv", "Validation"),
    ],
)
def test_both_spellings(tmp_path, folder, name, split):
    row = ROW.replace("Test1", split)
    df = utterances(msp(tmp_path, [row], name=name, folder=folder, audio="Audio"))
    assert df["split"].tolist() == ["dev"] and df["wav"][0].startswith("Audio/")


def test_consensus_as_json(tmp_path):
    values = ROW.split(",")
    fields = dict(zip(CONSENSUS.split(","), values, strict=True))
    whole = {values[0]: {**fields, "EmoAct": 2.2, "SpkrID": 30}}
    by_json = msp(tmp_path / "json", [ROW], wavs=False)
    (by_json / "Labels" / "labels_consensus.csv").unlink()
    write(by_json / "Labels" / "labels_consensus.json", json.dumps(whole))
    by_csv = msp(tmp_path / "csv", [ROW], wavs=False)
    pd.testing.assert_frame_equal(utterances(by_json), utterances(by_csv))
    for odd in ("{", "[1]", "7", "null", '{"a.wav": 7}', "{}"):
        write(by_json / "Labels" / "labels_consensus.json", odd)
        with pytest.raises(
            ManifestError, match=r"labels_consensus\.json (is no JSON|has no column)"
        ):
            utterances(by_json)


@pytest.mark.parametrize(
    ("cell", "mean"),
    [("2.2", 2.2), ("2,2", 2.2), ("7", 7.0), (" 1,000 ", 1.0), ("", None), ("nan", None)],
)
@pytest.mark.parametrize("kind", ["csv", "semicolons", "json"])
def test_decimal_points_and_commas_are_read(tmp_path, kind, cell, mean):
    cells = [*ROW.split(",")[:2], cell, *ROW.split(",")[3:]]
    root = msp(tmp_path, [], wavs=False)
    path = root / "Labels" / "labels_consensus.csv"
    if kind == "json":
        path.unlink()
        fields = dict(zip(CONSENSUS.split(","), cells, strict=True))
        write(path.with_suffix(".json"), json.dumps({cells[0]: fields}))
    elif kind == "csv":
        write(path, CONSENSUS + "\n" + ",".join(f'"{cell}"' for cell in cells) + "\n")
    else:
        write(path, CONSENSUS.replace(",", ";") + "\n" + ";".join(cells) + "\n")
    row = utterances(root).iloc[0]
    for name in ("arousal", "arousal_raw"):
        assert pd.isna(row[name]) if mean is None else row[name] == mean
    assert row["valence"] == 4.0


@pytest.mark.parametrize("cell", ["2;2", "two", "1.2.3", "1,234,5", "inf", "2.2 5"])
def test_a_mean_that_is_no_number_is_refused_with_its_row(tmp_path, cell):
    odd = ROW.replace("_0008", "_0009").replace(",2.6,", f',"{cell}",')
    message = rf"labels_consensus.csv, row 2, column EmoDom: '{re.escape(cell)}' is no number"
    with pytest.raises(ManifestError, match=message):
        utterances(msp(tmp_path, [ROW, odd], wavs=False))


def detailed_of(layout: str) -> str:
    name = ROW.split(",")[0]
    if layout == "EmoDetail":  # 1.7 to 1.12 and the challenges
        return "FileName,EmoDetail\n" + "".join(f'{name},"{line}"\n' for line in LINES)
    first = [line.split(";")[1].strip() for line in LINES]
    if layout == "1.6":
        head = "FileName,Workers,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom\n"
    else:  # 2.0
        head = "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom\n"
    return head + "".join(f'{name},{i},{x},"Sad,Angry",3,4,3\n' for i, x in enumerate(first))


@pytest.mark.parametrize("layout", ["EmoDetail", "1.6", "2.0"])
def test_layouts_of_detailed_labels(tmp_path, layout):
    df = utterances(msp(tmp_path, [ROW], detailed=detailed_of(layout)))
    assert df["emotion_dist"][0] == SHARES and df["n_raters"][0] == 4


def test_labels_txt_serves_where_there_is_no_table(tmp_path):
    other = ROW.replace("_0008", "_0009")
    root = msp(tmp_path, [ROW, other])
    blocks = [
        "\n".join(["MSP-PODCAST_0001_0008.wav; N; A:2.400000; V:4.000000; D:2.800000;", *LINES]),
        "\n".join(["MSP-PODCAST_0001_0009.wav; X; A:2.4; V:4.0; D:2.8;", LINES[3]]),
    ]
    write(root / "Labels" / "labels.txt", "\n\n".join(blocks) + "\n")
    df = utterances(root)
    assert df["emotion_dist"].tolist() == [SHARES, {"contempt": 1.0}]
    assert df["n_raters"].tolist() == [4, 1]


def test_first_choices_that_are_no_known_name_are_told(tmp_path):
    text = detailed_of("1.6").replace("Contempt", "Hapy").replace("Other-confused", "")
    df = utterances(msp(tmp_path, [ROW], detailed=text))
    assert df["emotion_dist"][0] == pytest.approx({"neutral": 2 / 3, "other": 1 / 3}, abs=1e-4)
    assert df["n_raters"][0] == 3
    assert any("1 ratings have a first choice" in note for note in df.attrs["notes"])
    with pytest.raises(ManifestError, match="neither EmoClass_Major nor EmoDetail, only FileName"):
        utterances(msp(tmp_path, [ROW], detailed="FileName,Emo\n"))


def test_unknown_speakers_are_grouped_by_podcast(tmp_path):
    rows = [
        "MSP-PODCAST_0002_0001.wav,H,2,4,2,Unknown,Male,Train",
        "MSP-PODCAST_0002_0002.wav,H,2,4,2,Unknown,Unknown,Train",
        "MSP-PODCAST_1655_0140_0028.wav,H,2,4,2,Unknown,Female,Train",
        "MSP-PODCAST_0002_0003.wav,H,2,4,2,12,Male,Train",
    ]
    df = utterances(msp(tmp_path, rows, wavs=False))
    assert df["speaker"].tolist() == [None, None, None, "msp-podcast-12"]
    assert df["gender"].tolist() == ["male", None, "female", "male"]
    groups = ["podcast-0002", "podcast-0002", "podcast-1655", "msp-podcast-12"]
    assert df["group"].tolist() == groups
    assert any("3 utterances of unknown speakers (train 3)" in n for n in df.attrs["notes"])


def test_unknown_speakers_on_both_sides_of_the_official_split_are_refused(tmp_path):
    """In 1.11 they are in train only; where they are not, nothing proves that they differ."""
    rows = msp_rows(splits=("Train", "Development", "Test1"))
    fine = [*rows, "MSP-PODCAST_0900_0001.wav,H,2,4,2,Unknown,Male,Train"]
    df, _ = builder.build("msp-podcast", msp(tmp_path / "a", fine), progress=False)
    assert (splits.protocol(df, "official") == "test").sum() == 24
    crossing = [*fine, "MSP-PODCAST_0900_0002.wav,H,2,4,2,Unknown,Male,Test1"]
    df, _ = builder.build("msp-podcast", msp(tmp_path / "b", crossing), progress=False)
    with pytest.raises(splits.LeakError, match=r"1 group \(podcast-0900\)"):
        splits.protocol(df, "official")


def test_test3_is_audio_only(tmp_path):
    root = msp(tmp_path, msp_rows(), audio="Audios")
    for i in (1, 2):
        wav(root / "Audios" / f"MSP-PODCAST_test3_000{i}.wav")
    wav(root / "Audios" / "MSP-PODCAST_7777_0001.wav")  # no labels
    write(root / "Audios" / "._MSP-PODCAST_test3_0001.wav", "x")
    df, report = builder.build("msp-podcast", root, progress=False)
    blind = df[df["split"] == "test3"]
    assert blind["utt_id"].tolist() == ["MSP-PODCAST_test3_0001", "MSP-PODCAST_test3_0002"]
    for column in ("emo", "emotion", "speaker", "gender", "text", "valence"):
        assert blind[column].isna().all()
    assert set(blind["emotion_source"]) == {"none"} and set(blind["group"]) == {"podcast-test3"}
    assert not df["utt_id"].str.contains("7777").any()
    notes = " ".join(report.notes)
    assert "1 audio files have no labels" in notes and "2 files of test3" in notes
    assert report.problems == ()


def test_the_challenge_release_is_tested_on_its_development_set(tmp_path):
    """Its test labels are closed: then dev is tested, and a tenth of train's groups is dev."""
    df, _ = builder.build("msp-podcast", msp(tmp_path, msp_rows("NHAS", per=12)), progress=False)
    with pytest.raises(ManifestError, match="'usual' takes one that this manifest has"):
        splits.protocol(df, "official")
    assert splits.usual(df) == "dev_as_test"
    roles = splits.protocol(df, "usual")
    assert set(df["split"][roles == "test"]) == {"dev"} and (roles == "test").sum() == 48
    assert df["group"][roles == "dev"].nunique() in (1, 2)
    assert (roles == "dev").sum() + (roles == "train").sum() == 48
    seeds = {tuple(splits.protocol(df, "usual", seed=s)) for s in range(4)}
    assert len(seeds) > 1
    with pytest.raises(ManifestError, match="fold 11 of 10"):
        splits.protocol(df, "dev_as_test", fold=11)


def test_eight_classes_and_ten(tmp_path):
    df = utterances(msp(tmp_path, msp_rows("NHASUFDCOX", per=1), wavs=False))
    assert (manifest.label_ids(df, manifest.CLASSES_8) >= 0).sum() == 16
    assert (manifest.label_ids(df, (*manifest.CLASSES_8, "other", "no_agreement")) >= 0).sum() == 20


def test_transcripts_stay_as_they_are(tmp_path):
    root = msp(tmp_path, [ROW, ROW.replace("_0008", "_0009")], wavs=False)
    text = "...so I\n said [inaudible 00:04:08] -\n"
    write(root / "Transcripts" / "MSP-PODCAST_0001_0008.txt", text)
    df = utterances(root)
    assert df["text"].tolist() == ["...so I said [inaudible 00:04:08] -", None]
    assert df["text_source"].tolist() == ["human", None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW.replace(",N,", ",Q,"), "no EmoClass 'Q'"),
        (ROW.replace("Test1", "Test9"), "no Split_Set 'test9'"),
        (ROW.replace("Male", "Mal"), "no Gender 'mal': use female, male$"),
        (ROW.replace("MSP-PODCAST_0001_0008", "a"), "no podcast in 'a'"),
    ],
)
def test_values_of_another_layout_are_errors(tmp_path, row, message):
    with pytest.raises(ManifestError, match=message):
        utterances(msp(tmp_path, [row], wavs=False))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no Labels or Label in .*: give the folder that holds"):
        utterances(tmp_path)
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Audios").mkdir()
    with pytest.raises(ManifestError, match="it needs labels_consensus.csv"):
        utterances(tmp_path)
    write(tmp_path / "Labels" / "labels_consensus.csv", "FileName,EmoClass\n")
    with pytest.raises(ManifestError, match="has no column EmoAct, EmoVal"):
        utterances(tmp_path)


def test_releases_are_recognized_by_their_sizes():
    card = cards.read("msp-podcast")

    def table(**sizes: int) -> pd.DataFrame:
        split = [name for name, n in sizes.items() for _ in range(n)]
        return pd.DataFrame({"split": split, "emo": "N"})

    assert counts.recognize(table(train=84260, dev=31961), card) == "challenge"
    sizes = dict(train=84030, dev=19815, test1=30647, test2=14815)
    assert counts.recognize(table(**sizes), card) == "1.11"
    assert counts.recognize(table(train=112712, dev=5), card) == "1.12"
    assert counts.recognize(table(train=7), card) == ""
