"""EmoDB, RAVDESS, CREMA-D, MELD, EmotiW, MEIJU: trees give back their answers; hostile copies."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from corpus_trees import wav
from serlib import DATA
from serlib import __main__ as cli
from serlib.corpora import (
    builder,
    cards,
    clips,
    cremad,
    emodb,
    emotiw2018,
    meiju2025,
    meld,
    ravdess,
)
from serlib.data import audio, manifest, splits, tables
from serlib.data.tables import ManifestError
from tests.trees import trees

NAMES = ("emodb", "ravdess", "cremad", "meld", "emotiw2018", "meiju2025")
LOADERS = dict(zip(NAMES, (emodb, ravdess, cremad, meld, emotiw2018, meiju2025), strict=True))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that writes a tree and builds its manifest, once per corpus."""
    known = {}

    def get(name):
        if name not in known:
            root = tmp_path_factory.mktemp(name)
            answers = trees.write(name, root, utterances=40)
            known[name] = (root, answers, *builder.build(name, root, progress=False))
        return known[name]

    return get


def flat(nested) -> list[int]:
    if isinstance(nested, int):
        return [nested]
    return [n for inner in nested.values() for n in flat(inner)]


def same(answer, cell) -> bool:
    """Whether two cells agree; any missing value equals any other."""
    if answer is None or (isinstance(answer, float) and answer != answer):
        return cell is None or cell is pd.NA or cell != cell
    return cell == pytest.approx(answer) if isinstance(answer, float) else cell == answer


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_gives_back_its_answers(name, built):
    _, answers, df, report = built(name)
    there = answers[answers["present"] == 1].sort_values("utt_id")
    df = df.sort_values("utt_id")
    assert df["utt_id"].tolist() == there["utt_id"].tolist()
    for column in set(answers) - {"source", "present"}:
        wrong = [
            (u, a, c)
            for u, a, c in zip(df["utt_id"], there[column], df[column], strict=True)
            if not same(a, c)
        ]
        assert not wrong, (column, wrong[:3])
    lost = answers["wav"][answers["present"] != 1]
    assert set(report.excluded) == set(lost)
    assert report.problems == () and manifest.check(df) == []


@pytest.mark.parametrize("name", NAMES)
def test_cells_that_the_card_knows(name, built):
    _, _, df, _ = built(name)
    card = cards.read(name)
    assert (df["license"] == card.license).all() and (df["dataset"] == name).all()
    assert set(df["language"]) == {"deu" if name == "emodb" else "eng"}
    labeled = df[df["emo"].notna()]
    assert (labeled["emo"].map(dict(card.labels)) == labeled["emotion"]).all()
    assert set(card.labels.values()) <= set(tables.EMOTIONS)
    for expected in card.expected:
        sums = [sum(flat(nested)) for nested in expected.counts.values()]
        assert expected.total is None or set(sums) <= {expected.total}, expected.name
    content = yaml.safe_load((DATA / f"{name}.yaml").read_text())
    if "to_native" in content:  # predictions of the usual eight classes go back
        back = content["to_native"]
        assert set(back) == set(manifest.CLASSES_8)
        assert {v: k for k, v in back.items() if v} == dict(card.labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_no_such_tree_is_refused(name, tmp_path):
    (tmp_path / "._03a01Fa.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ManifestError, match=r"give|no clip like"):
        LOADERS[name].utterances(tmp_path)


@pytest.mark.parametrize("name", ["emodb", "ravdess", "cremad"])
def test_folds_keep_talkers_apart(name, built):
    _, _, df, _ = built(name)
    folds = df.groupby("speaker")["fold"].nunique()
    assert (folds == 1).all() and (df["group"] == df["speaker"]).all()
    roles = splits.protocol(df, "session", fold=1)
    assert {"train", "dev", "test"} == set(roles)


@pytest.mark.parametrize("share", ["90,00", "90.00", "90"])
def test_emodb_shares_have_a_decimal_comma_or_point(tmp_path, share):
    for name in ("03a01Fa", "08a01Na"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    (tmp_path / "erkennung.txt").write_text(f"1\t03a01Fa.wav\t{share}   \t75,00\n")
    df = emodb.utterances(tmp_path)
    assert df["recognized"][0] == 0.9 and df["natural"][0] == 0.75
    assert df.attrs["notes"] == ["1 recordings have no shares in erkennung.txt"]


def test_emodb_reads_names_and_the_listening_test(tmp_path):
    (tmp_path / "wav").mkdir()
    for name in ("03a01Fa", "12b10Nc", "16b02Lb", "99a01Fa", "03a03Fa"):
        (tmp_path / f"wav/{name}.wav").write_bytes(b"")
    lines = "Nr.\tSatz\terkannt\tnatuerlich\n1\xa0 \t03a01Fa.wav\t90,00\xa0\xa0 \t75,00\xa0\n"
    (tmp_path / "erkennung.txt").write_bytes(lines.encode("latin-1"))
    df = emodb.utterances(tmp_path).set_index("utt_id")
    assert df.loc["03a01Fa", ["gender", "age", "fold", "recognized", "natural"]].tolist() == [
        "male", 31, 1, 0.9, 0.75]  # fmt: skip
    assert df.loc["12b10Nc", "gender"] == "male" and df.loc["12b10Nc", "emotion"] == "neutral"
    assert df.loc["16b02Lb", "emotion"] == "boredom" and pd.isna(df.loc["16b02Lb", "natural"])
    assert "2 files are not named like 03a01Fa.wav: skipped (03a03Fa.wav" in df.attrs["notes"][0]
    inner = emodb.utterances(tmp_path / "wav")  # the folder of sounds itself
    assert inner["wav"][0] == "03a01Fa.wav" and "no erkennung.txt" in inner.attrs["notes"][1]


def test_emodb_speakers_are_five_women_and_five_men_in_five_mixed_folds():
    table = pd.DataFrame(emodb.SPEAKERS.values(), columns=["gender", "age", "fold"])
    assert table.groupby("fold")["gender"].apply(set).tolist() == [{"female", "male"}] * 5
    women = {s for s, (gender, _, _) in emodb.SPEAKERS.items() if gender == "female"}
    assert women == {"08", "09", "13", "14", "16"}


def test_ravdess_reads_every_field(tmp_path):
    for name in ("Actor_08/03-01-05-02-01-02-08", "Actor_08/01-01-05-02-01-02-08",
                 "Actor_07/03-02-05-01-01-01-07", "Actor_07/03-01-09-01-01-01-07",
                 "Actor_07/03-01-02-01-02-01-07", "all/Actor_07/03-01-02-01-02-01-07",
                 "Actor_25/03-01-02-01-02-01-25"):  # fmt: skip
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    df = ravdess.utterances(tmp_path)
    assert df["wav"].tolist() == [
        "Actor_07/03-01-02-01-02-01-07.wav", "Actor_08/03-01-05-02-01-02-08.wav"]  # fmt: skip
    row = df.iloc[1]
    assert (row["emotion"], row["intensity"], row["gender"], row["text"], row["fold"]) == (
        "anger", "02", "female", "Kids are talking by the door.", 2)  # fmt: skip
    assert df["emotion"][0] == "calm" and df["gender"][0] == "male"
    notes = " ".join(df.attrs["notes"])
    assert "2 files are not named" in notes and "2 recordings are songs or videos" in notes
    assert "1 recordings lie in the copy twice" in notes
    assert ravdess.utterances(tmp_path / "all")["wav"].tolist() == [
        "Actor_07/03-01-02-01-02-01-07.wav"]  # fmt: skip


def test_a_copy_of_songs_alone_is_refused(tmp_path):
    (tmp_path / "Actor_01").mkdir()
    (tmp_path / "Actor_01/03-02-01-01-01-01-01.wav").write_bytes(b"")
    with pytest.raises(ManifestError, match="holds no labeled utterance of ravdess"):
        builder.utterances("ravdess", tmp_path)


def test_cremad_gives_what_was_heard_on_request(built):
    root, answers, acted, _ = built("cremad")
    heard, report = builder.build("cremad", root, version="perceived", progress=False)
    theirs = answers.set_index("utt_id")["perceived"]
    assert (heard["emotion"] == heard["utt_id"].map(theirs)).all()
    assert set(heard["emotion_source"]) == {"perceived_voice"}
    assert (heard["acted"] == acted["emotion"]).all()
    assert (acted["perceived"] == heard["emotion"]).all()
    assert (heard["emotion"] != acted["emotion"]).any()
    assert set(acted["dataset_version"]) == {"acted"} and set(heard["dataset_version"]) == {
        "perceived"}  # fmt: skip
    assert report.version == "perceived"


def test_cremad_flags_equal_audio_and_silence(built):
    _, _, df, report = built("cremad")
    twins = df[[("duplicate_audio" in flags) for flags in df["flags"]]]
    assert len(twins) == 2 and twins["sha256"].nunique() == 1 and twins["emotion"].nunique() == 2
    assert report.duplicates == ((tuple(twins["key"]), True),)
    silent = df[["no_audio" in flags for flags in df["flags"]]]
    assert silent["utt_id"].tolist() == ["1076_MTI_SAD_XX"]


def test_cremad_without_its_tables(tmp_path):
    (tmp_path / "1001_IEO_ANG_HI.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "1001_XYZ_ANG_HI.wav").write_bytes(b"")
    df = cremad.utterances(tmp_path)
    assert df["gender"].isna().all() and "perceived" not in df
    assert len(df.attrs["notes"]) == 3 and len(df) == 1
    with pytest.raises(ManifestError, match="summaryTable"):
        cremad.utterances(tmp_path, version="perceived")
    with pytest.raises(ManifestError, match="acted or perceived"):
        cremad.utterances(tmp_path, version="1.0")
    with pytest.raises(ManifestError, match="git lfs pull"):
        builder.build("cremad", tmp_path, progress=False)
    (tmp_path / "VideoDemographics.csv").write_text('"ActorID","Sex"\n1001,"Male"\n')
    with pytest.raises(ManifestError, match="no column Age"):
        cremad.utterances(tmp_path)
    for age, sex in (("41 years", "Male"), ("", "Male"), ("41", "M")):
        table = f"ActorID,Age,Sex\n1001,51,Male\n1002,{age},{sex}\n"
        (tmp_path / "VideoDemographics.csv").write_text(table)
        with pytest.raises(ManifestError, match=r"VideoDemographics\.csv, row 2: Sex M"):
            cremad.utterances(tmp_path)


HEAD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode\n"


def test_meld_numbers_count_anew_in_each_split(tmp_path):
    for split, talker in (("train", "Ross"), ("dev", "Joey and Ross"), ("test", "All")):
        line = f'1,"Hey, you’re late",{talker},joy,positive,0,3,4,7\n'
        (tmp_path / f"{split}_sent_emo.csv").write_text(HEAD + line, encoding="utf-8")
    df = meld.utterances(tmp_path)
    assert df["utt_id"].tolist() == [f"{s}_dia0_utt3" for s in ("train", "dev", "test")]
    assert df["speaker"].tolist() == ["meld-Ross", None, None]
    assert df["group"].is_unique and df["text"][0] == "Hey, you’re late" and df["turn"][0] == 4
    assert df["wav"][2] == "output_repeated_splits_test/dia0_utt3.mp4"
    assert (df["emotion"] == "happiness").all() and df["season"][0] == "4"
    folder = tmp_path / "train" / "train_splits"
    folder.mkdir(parents=True)
    for name in ("dia0_utt3.mp4", "dia0_utt3.wav", "._dia0_utt3.wav"):
        (folder / name).write_bytes(b"")
    assert meld.utterances(tmp_path)["wav"][0] == "train/train_splits/dia0_utt3.wav"


def test_meld_tells_what_is_wrong_with_its_tables(tmp_path):
    path = tmp_path / "train_sent_emo.csv"
    path.write_text(HEAD + "1,Hey,Ross,ecstasy,positive,0,0,4,7\n")
    with pytest.raises(ManifestError, match="no emotion 'ecstasy'"):
        meld.utterances(tmp_path)
    path.write_text("Utterance,Speaker\nHey,Ross\n")
    with pytest.raises(ManifestError, match="no column Emotion, Dialogue_ID"):
        meld.utterances(tmp_path)
    for numbers in ("0,x", ",0", "1.0,0"):
        path.write_text(
            HEAD + f"1,Hey,Ross,joy,positive,0,0,4,7\n2,Yo,Ross,joy,positive,{numbers},4,7\n"
        )
        with pytest.raises(ManifestError, match=r"train_sent_emo\.csv, row 2: .* names no clip"):
            meld.utterances(tmp_path)
    path.write_text("")
    with pytest.raises(ManifestError, match="train_sent_emo.csv has no rows"):
        meld.utterances(tmp_path)
    path.write_text(HEAD + "1,Hey,Ross,joy,positive,0,0,4,7\n")
    assert meld.utterances(tmp_path).attrs["notes"] == [
        "no dev_sent_emo.csv: dev is missing", "no test_sent_emo.csv: test is missing"]  # fmt: skip


def test_a_strict_build_forgives_what_no_copy_has(tmp_path, monkeypatch):
    """MELD's two clips that cannot be decoded, and no other."""
    trees.write("meld", tmp_path, utterances=40, flaws=False)
    card = cards.read("meld")
    where = meld.utterances(tmp_path)["wav"].iloc[[0, 1]].tolist()
    (tmp_path / where[0]).write_bytes(b"")
    for unusable, exact in ((where[:1], True), (where[1:], False), ([], False)):
        now = cards.Card(
            **vars(card) | {"expected": (), "unusable": tuple(w[:-4] for w in unusable)}
        )
        monkeypatch.setattr(cards, "read", lambda name, now=now: now)
        _, report = builder.build("meld", tmp_path, progress=False)
        assert [*report.excluded] == where[:1] and report.exact == exact
    content = yaml.safe_load((DATA / "meld.yaml").read_text())
    rows = {split: sum(sizes.values()) for split, sizes in content["labels_by_split"].items()}
    assert rows == dict(train=9989, dev=1109, test=2610)
    assert len(card.unusable) == 2 == sum(rows.values()) - card.expected[0].total
    assert content["labels_by_split"]["test"] == card.expected[1].counts["emo"]


def test_meld_official_split_shares_talkers_and_is_refused(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}_sent_emo.csv").write_text(
            HEAD + "1,Hey,Ross,joy,positive,0,0,4,7\n2,Yes,Emma,fear,negative,1,0,4,7\n"
        )
    df = meld.utterances(tmp_path).assign(sha256=None)
    with pytest.raises(splits.LeakError, match="shares with test 2 speaker"):
        splits.protocol(df, "official")
    assert set(splits.protocol(df, "official", allow_leaks=True)) == {"train", "dev", "test"}


def test_emotiw_reads_actors_where_there_is_an_xml(tmp_path):
    for path in ("Train_AFEW/Angry/000046280.avi", "Val_AFEW/Sad/000046280.avi",
                 "Train_AFEW/Angry/000046281.avi", "Train_AFEW/Angry/000046281.wav",
                 "Test_AFEW/000000001.avi", "Train_AFEW/Faces/readme.txt"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    xml = (
        '<D><C><File>000046280.avi</File><P NameOfActor="Zoé" Gender="Female"/>'
        '<M MovieTitle="Film"/></C><C><File>000046281</File><P NameOfActor=" "/></C></D>'
    )
    (tmp_path / "Train_6.xml").write_bytes(xml.encode("latin-1"))
    df = emotiw2018.utterances(tmp_path).set_index("utt_id")
    assert df.loc["train_000046280", ["speaker", "gender", "film", "group"]].tolist() == [
        "emotiw2018-Zoé", "female", "Film", "emotiw2018-Zoé"]  # fmt: skip
    assert df.loc["train_000046281", "wav"] == "Train_AFEW/Angry/000046281.wav"
    assert df.loc["train_000046281", "group"] == "emotiw2018-train_000046281"
    assert pd.isna(df.loc["dev_000046280", "speaker"])
    assert pd.isna(df.loc["test_000000001", "emotion"])
    assert df.attrs["notes"] == [
        "no Val_6.xml: actors of Val are missing",
        "3 rows name no speaker: nothing proves them apart",
    ]
    (tmp_path / "Train_6.xml").write_text("<D><C></D>")
    with pytest.raises(ManifestError, match=r"Train_6\.xml is no XML"):
        emotiw2018.utterances(tmp_path)
    (tmp_path / "Train_AFEW/Faces/1.avi").write_bytes(b"")
    (tmp_path / "Train_6.xml").unlink()
    with pytest.raises(ManifestError, match="Faces: no emotion; use Angry"):
        emotiw2018.utterances(tmp_path)


def test_meiju_refuses_lines_that_it_does_not_know(tmp_path):
    labels = tmp_path / "Annotation"
    labels.mkdir()
    (labels / "Training_files.txt").write_text("a.mp4 happy wishing\n\nb.mp4 sad neutral\n")
    df = meiju2025.utterances(tmp_path)
    assert df[["emotion", "intent"]].to_numpy().tolist() == [
        ["happiness", "wishing"], ["sadness", "neutral"]]  # fmt: skip
    assert df["wav"].tolist() == ["Annotation/Training/a.mp4", "Annotation/Training/b.mp4"]
    assert df.attrs["notes"][0] == "no Validation_files.txt: dev is missing"
    odd = ("joyful wishing", "happy", "happy sympathizing", "happy wish", "happy a", "hap wishing")
    for line in (f"c.mp4 {labels}" for labels in odd):
        (labels / "Training_files.txt").write_text(f"a.mp4 happy wishing\n{line}\n")
        with pytest.raises(ManifestError, match=r"Training_files\.txt, line 2.*agreeing, ack"):
            meiju2025.utterances(tmp_path)


def test_meiju_sentences_belong_to_clips(tmp_path):
    labels = tmp_path / "Annotation"
    labels.mkdir()
    (labels / "Training_files.txt").write_text("a.mp4 happy wishing\n")
    (labels / "Training_transcription.csv").write_text("name,sentence\na.mp4,Hi\n,Oh\n")
    with pytest.raises(ManifestError, match=r"transcription\.csv, row 2: no name of a clip"):
        meiju2025.utterances(tmp_path)


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program named ffmpeg that checks how it is called and copies WAV, or fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "a = sys.argv\n"
        "assert a[a.index('-ac') + 1] == '1' and a[a.index('-ar') + 1] == '16000' and '-vn' in a\n"
        "data = open(a[a.index('-i') + 1], 'rb').read()\n"
        "if data[:4] != b'RIFF':\n"
        "    open(a[-1], 'wb').write(b'half'); sys.exit('moov atom not found')\n"
        "open(a[-1], 'wb').write(data)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_clips_become_a_tree_of_sounds(built, tmp_path, fake_ffmpeg):
    root, answers, videos, _ = built("meld")
    out = tmp_path / "sound"
    failed = clips.extract(root, out, progress=False)
    broken = answers["wav"][answers["present"] != 1].iloc[0]
    extra = "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4"
    assert failed == dict.fromkeys((broken, extra), "ffmpeg: moov atom not found")
    sounds, report = builder.build("meld", out, progress=False)
    assert set(Path(wav).suffix for wav in sounds["wav"]) == {".wav"}
    same_cells = ["utt_id", "emotion", "speaker", "text", "split", "sha256"]
    pd.testing.assert_frame_equal(sounds[same_cells], videos[same_cells])
    assert report.excluded == {broken: "there is no such file"}
    assert not list(out.rglob("._*")) and not list(out.rglob(".*.wav"))
    stamp = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    (out / sounds["wav"][0]).unlink()
    clips.extract(root, out, progress=False)  # only what is missing
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    assert set(after) == set(stamp)
    assert sum(after[path] != stamp[path] for path in stamp) == 1


def test_the_command_extract_names_what_failed(built, tmp_path, fake_ffmpeg, capsys):
    root, answers, _, _ = built("meld")
    arguments = ["manifest", "extract", "--root", str(root), "--to", str(tmp_path / "o"), "--quiet"]
    assert cli.main(arguments) == 1
    broken = answers["wav"][answers["present"] != 1].iloc[0]
    told = capsys.readouterr()
    assert f"{broken}: ffmpeg: moov atom not found" in told.out and "but 2" in told.err
    with pytest.raises(ManifestError, match="serlib manifest extract"):
        (tmp_path / "videos/train_splits").mkdir(parents=True)
        (tmp_path / "videos/train_splits/dia0_utt0.mp4").write_bytes((root / broken).read_bytes())
        line = "1,Hey,Ross,joy,positive,0,0,4,7\n"
        (tmp_path / "videos/train_sent_emo.csv").write_text(HEAD + line)
        builder.build("meld", tmp_path / "videos", progress=False)


def test_clips_need_ffmpeg_and_a_folder_of_their_own(tmp_path, monkeypatch, fake_ffmpeg):
    (tmp_path / "in").mkdir()
    for out in (tmp_path / "in", tmp_path / "in" / "sound", tmp_path):
        with pytest.raises(ManifestError, match="lie in each other"):
            clips.extract(tmp_path / "in", out)
    with pytest.raises(ManifestError, match="nothing to pull sound out of"):
        clips.extract(tmp_path / "in", tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ManifestError, match="no ffmpeg on this machine.*install it"):
        clips.extract(tmp_path / "in", tmp_path / "out")


MP4 = b"\0\0\0\x20ftypM4A "
SHORTENED = (
    b"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 16000\nsample_n_bytes -i 2\n"
    b"sample_byte_format -s2 01\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
).ljust(1024)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.m4a", MP4), ("a.mp4", MP4), ("a.3gp", b"\0\0\0\x18ftyp3gp4"), ("a.wav", MP4),
        ("a.webm", b"\x1aE\xdf\xa3"), ("a.mka", b"\x1aE\xdf\xa3"), ("a.aac", b"\xff\xf1\x50\x80"),
        ("a.wma", b"0&\xb2u\x8ef\xcf\x11"), ("a.mov", b"\0\0\0\x08moov"), ("a.mpg", b"\0\0\1\xba"),
        ("a.sph", SHORTENED), ("a.amr", b"#!AMR\n"), ("a.avi", b"RIFF0000AVI LIST"),
    ],
)  # fmt: skip
def test_every_container_that_is_not_read_has_a_way_out(
    tmp_path, monkeypatch, fake_ffmpeg, name, head
):
    """The command of each message is run, with a program that takes the sound out."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    program = tmp_path / "bin" / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\na = sys.argv\n"
        "data = open(a[a.index('-i') + 1], 'rb').read()\n"
        "open(a[-1], 'xb').write(data[data.index(b'RIFF', 4):])\n"
    )
    root = tmp_path / "the corpus"
    wav(root / "sound" / "b.wav")
    hidden = head + bytes(40) + (root / "sound" / "b.wav").read_bytes()
    (root / "sound" / name).write_bytes(hidden)
    (root / "labels.csv").write_text(
        f"wav,emotion,speaker\nsound/{name},anger,p\nsound/b.wav,anger,q\n"
    )
    with pytest.raises(audio.AudioError, match="libsndfile does not read") as error:
        audio.load(root / "sound" / name)
    command = shlex.split(str(error.value).split("Convert it with: ")[1])
    subprocess.run(command, check=True)
    assert len(audio.load(command[-1])) > 1_000
    assert (root / "sound" / name).read_bytes() == hidden
    Path(command[-1]).unlink()

    df, report = builder.build("folder", root, progress=False)
    assert list(df["wav"]) == ["sound/b.wav"]
    command = shlex.split(report.excluded[f"sound/{name}"].split(" with ")[1])
    assert command[0] == "serlib" and cli.main([*command[1:], "--quiet"]) == 0
    df, report = builder.build("folder", command[-1], progress=False)
    assert sorted(df["wav"]) == ["sound/a.wav", "sound/b.wav"] and report.excluded == {}


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg on this machine")
def test_the_real_ffmpeg_reads_a_clip(tmp_path):
    trees.write("emotiw2018", tmp_path / "in", utterances=8, flaws=False)  # stereo, 44.1 kHz
    assert clips.extract(tmp_path / "in", tmp_path / "out", progress=False) == {}
    df, _ = builder.build("emotiw2018", tmp_path / "out", progress=False)
    assert set(df["sample_rate"]) == {16_000} and set(df["channels"]) == {1}


@pytest.mark.skipif(
    "SERLIB_REAL" not in os.environ, reason="SERLIB_REAL names no folder of corpora"
)
@pytest.mark.parametrize("name", ["emodb", "ravdess"])
def test_real_copies(name):
    """For a reader who has them: SERLIB_REAL/emodb and SERLIB_REAL/ravdess."""
    root = Path(os.environ["SERLIB_REAL"]) / name
    if not root.is_dir():
        pytest.skip(f"no {root}")
    df, report = builder.build(name, root, progress=False)
    assert report.excluded == {} and report.problems == () and report.notes == ()
    if name == "emodb":
        assert report.differences == () and report.exact
    wave = audio.load(manifest.resolve(root, df["wav"][0]))
    assert len(wave) == pytest.approx(df["length"][0] * audio.SAMPLE_RATE, abs=2)
