"""Trees in the layouts of other corpora: the grammar of each, and the answers beside them."""

import csv
import io
import json
import re
import wave

import numpy as np
import pytest

from serlib import __main__ as cli
from serlib.corpora.demo import corpus
from serlib.data import audio, manifest, tables
from tests.trees import __main__ as command
from tests.trees import treekit, trees
from tests.trees.treekit import choose, riff, split_mean

IEMOCAP_NAME = re.compile(
    r"Ses0(?P<ses>[1-5])(?P<wearer>[FM])_(?P<scene>impro\d\d[ab]?|script\d\d_\d[ab]?)_"
    r"(?P<talker>[FM])(?P<turn>\d{3})"
)
IEMOCAP_LINE = re.compile(
    r"^\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\w{3})\t\[([\d.]+), ([\d.]+), ([\d.]+)\]$", re.M
)


@pytest.fixture(scope="module")
def demo():
    return corpus.load().set_index("utt_id")


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    root = tmp_path_factory.mktemp("iemocap")
    return root, trees.write("iemocap", root, utterances=40)


@pytest.fixture(scope="module")
def msp(tmp_path_factory):
    root = tmp_path_factory.mktemp("msp")
    return root, trees.write("msp-podcast", root, utterances=40)


def test_a_choice_spreads_over_classes_and_keeps_to_its_limits():
    rows = choose(30, pairs=(1, 2, 3))
    assert len(rows) == 30 and {r["pair"] for r in rows} == {1, 2, 3}
    counts = np.unique([r["emotion"] for r in rows], return_counts=True)[1]
    assert len(counts) == 9 and counts.max() - counts.min() <= 3  # some pairs lack a class
    assert [r["utt_id"] for r in choose(30, pairs=(1, 2, 3))] == [r["utt_id"] for r in rows]
    assert {r["emotion"] for r in choose(9, emotions=("fear",))} == {"fear"}
    assert len(choose(10_000)) == 3200
    assert all(sum(r["votes"].values()) == 5 for r in rows)


@pytest.mark.parametrize("mean", [1.0, 3.6, 4.2, 7.0])
def test_ratings_have_the_mean_they_are_made_from(mean):
    ratings = split_mean(mean)
    assert np.mean(ratings) == pytest.approx(mean) and max(ratings) - min(ratings) <= 1


def test_riff_is_what_the_standard_library_reads(tmp_path):
    samples = np.array([0, 1, -2, 32767, -32768], dtype=np.int16)
    plain = wave.open(io.BytesIO(riff(samples)))
    assert (plain.getframerate(), plain.getnchannels(), plain.getsampwidth()) == (16_000, 1, 2)
    assert np.array_equal(np.frombuffer(plain.readframes(9), "<i2"), samples)
    odd = riff(samples, channels=2, before=(b"FLLR", 4044), after=(b"PAD ", 20))
    assert odd.index(b"data") == 12 + 8 + 16 + 8 + 4044 and odd[-28:-24] == b"PAD "
    (tmp_path / "odd.wav").write_bytes(odd)
    assert np.array_equal(audio.to_int16(audio.load(tmp_path / "odd.wav")), samples)
    (tmp_path / "fast.wav").write_bytes(riff(np.zeros(1600, np.int16), rate=48_000))
    assert wave.open(str(tmp_path / "fast.wav")).getnframes() == 4800
    assert wave.open(io.BytesIO(riff(samples[:0]))).getnframes() == 0


def test_write_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(treekit.TreeError, match="emodb has one layout only"):
        trees.write("emodb", tmp_path, version="1")
    with pytest.raises(ValueError, match="no layout 'timit': use one of iemocap"):
        trees.write("timit", tmp_path)
    with pytest.raises(ValueError, match=r"no layout for release '9': use 1\.6"):
        trees.write("msp-podcast", tmp_path, version="9")
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        trees.write("iemocap", tmp_path)


def test_iemocap_follows_its_grammar(iemocap):
    root, answers = iemocap
    found = {}
    for path in root.glob("Session*/dialog/EmoEvaluation/Ses*.txt"):
        text = path.read_text()
        assert text.startswith("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n[")
        for block in text.split("\n\n")[1:]:
            start, end, name, code, *numbers = IEMOCAP_LINE.match(block).groups()
            assert float(start) < float(end) and name.startswith(path.stem)
            assert len(re.findall(r"^C-E\d:\t(\w+;)+\t\(\)$", block, re.M)) == 5
            assert len(re.findall(r"^C-[FM]1:\t", block, re.M)) == 1
            found[name] = (code, *map(float, numbers))
    for row in answers.to_dict("records"):
        match = IEMOCAP_NAME.fullmatch(row["utt_id"])
        raw = [row[f"{a}_raw"] for a in ("valence", "arousal", "dominance")]
        assert found.pop(row["utt_id"]) == (row["emo"], *raw)
        assert row["speaker"] == f"iemocap-Ses0{match['ses']}{match['talker']}"
        assert row["fold"] == int(match["ses"])
        assert (root / row["wav"]).is_file() == row["present"]
        lines = next(root.glob(f"*/dialog/transcriptions/{row['dialogue'][8:]}.txt")).read_text()
        pattern = rf"^{row['utt_id']} \[\d{{3}}\.\d{{4}}-\d{{3}}\.\d{{4}}\]: (.*)$"
        assert re.findall(pattern, lines, re.M) == [row["text"]]
    assert not found


def test_iemocap_answers_are_the_demo_corpus(iemocap, demo):
    _, answers = iemocap
    stand_in = {"frustration": "contempt", "excitement": "happiness", "other": "no_agreement"}
    for row in answers.to_dict("records"):
        source = demo.loc[row["source"]]
        assert stand_in.get(row["emotion"], row["emotion"]) == source["emotion"]
        assert (row["gender"], row["fold"]) == (source["gender"], source["fold"])
        assert int(row["utt_id"][-3:]) == source["turn"]
        for name in ("valence", "arousal", "dominance"):
            assert row[name] == pytest.approx(source[name], abs=1e-3)
        assert sum(row["emotion_dist"].values()) == pytest.approx(1)
    ranks = answers.assign(number=answers["utt_id"].str[-3:].astype(int))
    assert (ranks.groupby("dialogue")["number"].rank() == ranks["turn"]).all()
    pairs = answers.assign(theirs=demo.loc[answers["source"], "speaker"].to_numpy())
    assert len(pairs[["speaker", "theirs"]].drop_duplicates()) == pairs["speaker"].nunique() == 10


def test_iemocap_has_the_flaws_of_real_copies_only_if_asked(iemocap, tmp_path):
    root, answers = iemocap
    names = {p.name for p in root.rglob("*")}
    assert any(n.startswith("._Ses") for n in names) and "Categorical" in names
    assert (answers["emo"] == "oth").sum() == 1 and (~answers["present"].astype(bool)).sum() == 1
    words = "".join(p.read_text() for p in root.glob("*/dialog/transcriptions/Ses*.txt"))
    assert "XX0" in words and "\nM: " in words
    clean = trees.write("iemocap", tmp_path, utterances=10, flaws=False)
    assert clean["present"].all() and "oth" not in set(clean["emo"])
    assert not any(p.name.startswith("._") for p in tmp_path.rglob("*"))
    assert "XX" not in "".join(p.read_text() for p in tmp_path.rglob("*.txt"))


def msp_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_msp_tables_agree_with_each_other_and_the_demo_corpus(msp, demo):
    root, answers = msp
    rows = msp_rows(root / "Labels/labels_consensus.csv")
    assert list(rows[0]) == "FileName EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split()
    assert {r["Split_Set"] for r in rows} == {"Train", "Development", "Test1", "Test2"}
    twin = json.loads((root / "Labels/labels_consensus.json").read_text())
    assert [r["FileName"] for r in rows] == list(twin)
    assert all(twin[r.pop("FileName")] == r for r in msp_rows(root / "Labels/labels_consensus.csv"))
    labeled = answers[answers["split"] != "test3"].to_dict("records")
    assert len(labeled) == len(rows)
    for got, row in zip(labeled, rows, strict=True):
        source = demo.loc[got["source"]]
        assert got["wav"] == "Audios/" + row["FileName"] and got["emo"] == row["EmoClass"]
        assert [float(row[k]) for k in ("EmoAct", "EmoVal", "EmoDom")] == [
            source["arousal"], source["valence"], source["dominance"]]  # fmt: skip
        assert got["emotion"] == source["emotion"] or row["EmoClass"] == "O"
        assert got["split"].startswith(source["split"])
        assert (got["speaker"] is None) == (row["SpkrID"] == "Unknown")
    assert not set(answers["group"][answers["split"] == "train"]) & set(
        answers["group"][answers["split"] != "train"]
    )


def test_msp_raters_make_the_consensus(msp):
    root, answers = msp
    line = re.compile(r"(WORKER\d{8}); ([^;]+); ([^;]*); A:([\d.]+); V:([\d.]+); D:([\d.]+);")
    first = {"Angry": "anger", "Sad": "sadness", "Happy": "happiness", "Neutral": "neutral"}
    raters = {}
    for row in msp_rows(root / "Labels/labels_detailed.csv"):
        raters.setdefault(row["FileName"], []).append(line.fullmatch(row["EmoDetail"]).groups())
    for row in msp_rows(root / "Labels/labels_consensus.csv"):
        own = raters.pop(row["FileName"])
        means = np.mean([[float(x) for x in rater[3:]] for rater in own], axis=0)
        assert means == pytest.approx([float(row[k]) for k in ("EmoAct", "EmoVal", "EmoDom")])
        shares = answers.set_index("wav")["emotion_dist"]["Audios/" + row["FileName"]]
        for word, label in first.items():
            assert sum(r[1] == word for r in own) / 5 == pytest.approx(shares.get(label, 0))
    assert not raters
    blocks = (root / "Labels/labels.txt").read_text().split("\n\n")
    assert re.match(r"MSP-PODCAST_\d{4}(_\d{4})?_\d{4}\.wav; [A-Z]; A:\d\.\d{6};", blocks[0])


def test_msp_has_unknown_speakers_lost_files_and_a_secret_test(msp):
    root, answers = msp
    hidden = answers[answers["speaker"].isna() & (answers["split"] != "test3")]
    assert len(hidden) and hidden["group"].str.startswith("podcast-0").all()
    secret = answers[answers["split"] == "test3"]
    assert len(secret) and secret[["emo", "emotion", "speaker", "text"]].isna().all(axis=None)
    labels = (root / "Labels/labels_consensus.csv").read_text()
    assert "test3" not in labels
    there = {p.name for p in (root / "Audios").glob("MSP*.wav")}
    assert there == {w.removeprefix("Audios/") for w in answers["wav"][answers["present"] == 1]}
    assert (root / "Audios").joinpath("._" + answers["wav"][4][7:]).parent.is_dir()
    assert any(p.name.startswith("._MSP") for p in (root / "Audios").iterdir())
    assert (answers["present"] == 0).sum() == 1


@pytest.mark.parametrize(
    "version, spelled, dev, columns",
    [
        ("1.6", "concensus", "Validation", "FileName Workers EmoClass_Major EmoClass_Second"),
        ("1.8", "concensus", "Validation", "FileName EmoDetail"),
        ("2.0", "consensus", "Development", "FileName WorkerID EmoClass_Major EmoClass_Second"),
        ("is2025", "consensus", "Development", "FileName EmoDetail"),
    ],
)
def test_msp_releases_differ_as_they_do(tmp_path, version, spelled, dev, columns):
    answers = trees.write("msp-podcast", tmp_path, utterances=24, version=version)
    rows = msp_rows(tmp_path / f"Labels/labels_{spelled}.csv")
    assert dev in {r["Split_Set"] for r in rows}
    assert {"Validation", "Development"} - {dev} - {r["Split_Set"] for r in rows}
    head = (tmp_path / "Labels/labels_detailed.csv").read_text().splitlines()[0]
    assert head.split(",")[: len(columns.split())] == columns.split()
    assert ("test3" in set(answers["split"])) == (spelled == "consensus")
    if version == "is2025":
        assert all(r["SpkrID"].isdigit() for r in rows)
        assert set(answers["split"]) == {"train", "dev", "test3"}


@pytest.mark.parametrize("layout", trees.LAYOUTS)
def test_answers_use_the_manifest_words(layout, tmp_path):
    answers = trees.write(layout, tmp_path, utterances=12)
    assert answers["utt_id"].is_unique and answers["wav"].is_unique
    assert set(answers["emotion"].dropna()) <= set(tables.EMOTIONS)
    more = {"source", "present", "recognized", "perceived", "intent"}
    assert set(answers) - more <= set(tables.COLUMNS)
    for row in answers[answers["present"] == 1].to_dict("records"):
        assert len(audio.load(manifest.resolve(tmp_path, row["wav"]))) > 1000


@pytest.mark.parametrize("layout", ["emodb", "ravdess", "cremad"])
def test_acted_trees_are_the_intended_classes(layout, tmp_path, demo):
    answers = trees.write(layout, tmp_path, utterances=40)
    stand_in = {"boredom": "contempt", "calm": "contempt"}
    # A flaw of two trees is a copy of a file under another name.
    own = answers.drop_duplicates("source").to_dict("records")
    assert len(own) >= 35
    for row in own:
        source = demo.loc[row["source"]]
        assert stand_in.get(row["emotion"], row["emotion"]) == source["intended"]
        assert row["gender"] in (source["gender"], None)
    talkers = answers.drop_duplicates("source").assign(
        theirs=lambda df: demo.loc[df["source"], "speaker"].to_numpy()
    )
    assert len(talkers[["speaker", "theirs"]].drop_duplicates()) == talkers["speaker"].nunique()


def test_cremad_says_what_was_acted_and_what_was_heard(tmp_path, demo):
    answers = trees.write("cremad", tmp_path, utterances=60, flaws=False)
    heard = demo.loc[answers["source"], "emotion"].to_numpy()
    assert (answers["perceived"] == heard).all()
    assert (answers["perceived"] != answers["emotion"]).any()
    assert "no_agreement" in set(answers["perceived"])
    votes = csv.DictReader((tmp_path / "processedResults/summaryTable.csv").open())
    assert any(":" in row["VoiceVote"] for row in votes)


@pytest.mark.parametrize("layout", ["meld", "emotiw2018", "meiju2025"])
def test_clip_trees_keep_labels_and_splits(layout, tmp_path, demo):
    answers = trees.write(layout, tmp_path, utterances=40)
    sources = demo.loc[answers["source"]]
    labeled = answers["emotion"].notna().to_numpy()
    assert (answers["emotion"][labeled].to_numpy() == sources["emotion"][labeled]).all()
    official = answers["split"].to_numpy() != "unlabelled"
    assert (answers["split"][official].to_numpy() == sources["split"][official]).all()
    assert answers["utt_id"].is_unique


def test_real_quirks_of_the_acted_corpora(tmp_path):
    trees.write("emodb", tmp_path / "emodb", utterances=12)
    assert any(b"PAD " in p.read_bytes()[:64] for p in (tmp_path / "emodb/wav").glob("*.wav"))
    table = (tmp_path / "emodb/erkennung.txt").read_bytes()
    assert b"\xa0 \t" in table and b",00" in table
    answers = trees.write("ravdess", tmp_path / "ravdess", utterances=12)
    first = (tmp_path / "ravdess" / answers["wav"][0]).read_bytes()
    assert first[36:40] == b"FLLR" and int.from_bytes(first[24:28], "little") == 48_000
    assert answers["channels"].max() == 2
    assert (tmp_path / "ravdess" / answers["wav"].iloc[-1]).read_bytes() == first


def test_the_command_writes_a_tree_that_the_next_command_reads(tmp_path, capsys):
    root, out = str(tmp_path / "tree"), str(tmp_path / "emodb.csv")
    command.main(["emodb", "--to", root, "--utterances", "9"])
    assert f"serlib manifest build emodb --root {root} --out FILE.csv" in capsys.readouterr().out
    assert cli.main(["manifest", "build", "emodb", "--root", root, "--out", out, "--quiet"]) == 0
    assert len(tables.read(out)) == 9
    for wrong in (["emodb", "--to", root], ["timit", "--to", str(tmp_path / "t")]):
        with pytest.raises(SystemExit, match="2"):
            command.main(wrong)
        assert "error: " in capsys.readouterr().err
