"""A folder with a table, EmoBox in and out, audformat: any corpus that comes in one of these."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from serlib import __main__ as cli
from serlib.corpora import audformat, builder, emobox, files, folder
from serlib.data import manifest, splits, tables
from serlib.data.tables import ManifestError
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


CELLS = [["wav", "emo", "note"], ["a.wav", "sad", "„so, so“"], ["b.wav", "happy", ""]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("litter", ["", "blank", "wide"])
def test_a_table_is_the_same_in_every_dress(tmp_path, separator, encoding, litter):
    wide = separator * 4 if litter == "wide" else ""
    lines = [
        separator.join(f'"{c}"' if separator in c else c for c in cells) + wide for cells in CELLS
    ]
    lines += {"": [], "blank": ["", "  "], "wide": [separator * 6] * 3}[litter]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode(encoding))
    df = files.table(tmp_path / "t.csv")
    assert [list(df), *df.fillna("").to_numpy().tolist()] == CELLS
    assert df.attrs["decimal"] == ("." if separator == "," else ",")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"\n \n", "has no rows"),
        (b"wav,emo\n", "has no rows"),
        (b"wav,emo\n,\n,,,\n", "has no rows"),
        (b"wav,emo\na,sad\nb\n", "row 2: 1 cells, the header 2"),
        (b"wav,emo\na,so, sad\n", "row 1: 3 cells, the header 2"),
        (b"wav,emo,wav\na,sad,b\n", "several columns 'wav'"),
        (b'wav,emo\n"a,sad\n', "no CSV table (unexpected end of data)"),
        (b"PK\x03\x04\0\0", "holds null bytes"),
    ],
)
def test_a_table_that_is_none_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ManifestError) as error:
        files.table(tmp_path / "t.csv")
    assert message in str(error.value) and "t.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_quotes_in_a_table_of_tabs_are_letters(tmp_path):
    """As Common Voice and others write theirs."""
    (tmp_path / "t.tsv").write_text('path\tsentence\na\t"No", she said\nb\t5" long\n')
    assert files.table(tmp_path / "t.tsv")["sentence"].tolist() == ['"No", she said', '5" long']


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [("1,5", ",", 1.5), ("1.5", ",", 1.5), ("-3", ".", -3), ("1e3", ".", 1000), ("?", ".", None),
     ("N/A", ".", None), ("nan", ",", None), ("-1", ",", -1), (None, ".", None)],
)  # fmt: skip
def test_numbers_are_read_right(cell, decimal, value):
    found = files.numbers(pd.Series([cell, "2"], dtype=object), decimal).tolist()
    assert found[1] == 2 and (np.isnan(found[0]) if value is None else found[0] == value)


@pytest.mark.parametrize(
    ("cell", "decimal"),
    [
        ("1,5", "."),
        ("1.234,5", ","),
        ("x", "."),
        ("inf", "."),
        ("1:30", "."),
        ("5 s", ","),
        ("1_0", "."),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(cell, decimal):
    cells = pd.Series(["1", cell], index=["t.csv, row 1", "t.csv, row 2"], name="age", dtype=object)
    with pytest.raises(ManifestError, match=f"t.csv, row 2, column age: '{re.escape(cell)}' is no"):
        files.numbers(cells, decimal)


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
        (
            "file,label,spk\na1,sad,A\n",
            "columns: {spk: spk}",
            "'spk' is no column.*write speaker: spk",
        ),
        (
            "file,label\na1,sad\n",
            "columns: {speeker: file}",
            "'speeker' is no.*write speaker: file",
        ),
        ("file,label\na1,sad\n", "columns: [file]", "columns is not a map, {name: value}"),
        ("file,label\na1,sad\n", "labels: [anger]", "labels is not a map"),
        ("file,label\na1,sad\n", "table: {a: b}", "table is not a text"),
        ("file,label\na1,sad\n", "cells: 5", "cells is not a map"),
        ("file,label\na1,sad\n", "attr_scale: 5", "attr_scale is not a list"),
        ("file,label,valence\na1,sad,3\n", "attr_scale: [5, 1]", r"say in corpus.yaml attr_scale"),
        ("file,label,valence\na1,sad,3\n", "attr_scale: [a, b]", r"say in corpus.yaml attr_scale"),
        ("file,label,valence\na1,sad,3\n", "attr_scale: [1, 3, 5]", r"say in corpus.yaml attr"),
        ("file,label\na1,sad\n", "labels: {a: b", "corpus.yaml, line 1: this is no YAML"),
        ("file,label\na1,sad\n", "\tlabels: 1", "corpus.yaml, line 1: this is no YAML"),
        ("file,label\na1,sad\n", "labels: {a: fear, a: anger}", "line 1.*a name stands twice"),
        ("file,label\na1,sad\n", "[" * 3000, "corpus.yaml.*no YAML"),
        ("file,label\na1,what: no?\n", "", r'as labels: {"what: no\?": happiness}'),
        ("file,label\n", "", "labels.csv has no rows"),
        ("file;label;age\na1;sad;3\nx/same.wav;sad;3,x\n", "", "row 2, column age: '3,x' is no"),
        ("file,label,start\na1,sad,0:30\n", "", "labels.csv, row 1, column start: '0:30' is no"),
        (
            "file,label\na1,sad\nx/same.wav,sad\nx/a1.wav,sad\n",
            "",
            "labels.csv, row 1 and labels.csv, row 3 are both wav x/a1.wav",
        ),
        ("file,label,utt_id\na1,sad,7\nx/same.wav,sad,7\n", "", "are both utt_id 7"),
        # Patterns.
        ("file,label\na1,sad\n", "pattern: '('", "pattern is no regular expression"),
        ("file,label\na1,sad\n", "pattern: '.*'", "pattern names nothing but the path"),
        ("file,label\na1,sad\n", "pattern: '(?P<file>.*)'", "pattern names nothing but the path"),
        ("file,label\na1,sad\n", "pattern: '((?P<emo>a+)+)b'", "pattern repeats what repeats"),
        (
            "file,label\na1,sad\n",
            "pattern: '(?P<emo>a+).wav'",
            "no path .* fits.*x/a1.wav.*mend",
        ),
        ("file,label\na1,sad\n", "pattern: '(?P<who>.*)'", "no column for emo among wav, who"),
        (
            "file,label\na1,sad\n",
            "{table: labels.csv, pattern: '(?P<label>.*)'}",
            "'label' is in the pattern and in labels.csv",
        ),
    ],
)
def test_what_is_unclear_is_asked_back(tmp_path, table, text, message):
    for name in ("x/a1.wav", "x/same.wav", "y/same.wav"):
        sound(tmp_path / name, 0.01)
    (tmp_path / "labels.csv").write_text(table)
    if text:
        (tmp_path / "corpus.yaml").write_text(text)
    with pytest.raises(ManifestError, match=message) as error:
        folder.utterances(tmp_path)
    assert "\n" not in str(error.value)


def test_words_in_corpus_yaml_are_texts(tmp_path):
    """YAML takes no for false and 01 for 1 elsewhere."""
    for name in "abcd":
        sound(tmp_path / f"{name}.wav", 0.6)
    (tmp_path / "t.csv").write_text("file,label\na,no\nb,01\nc,null\nd,on\n")
    (tmp_path / "corpus.yaml").write_text(
        "labels: {no: neutral, 01: anger, null: fear, on: null}\ndataset: 2024\n"
    )
    df = folder.utterances(tmp_path)
    assert (
        df["emotion"].tolist()[:3] == ["neutral", "anger", "fear"]
        and df["emotion"].isna()[3:].all()
    )
    assert set(df["dataset"]) == {"2024"}


def test_decimal_commas_are_numbers(tmp_path):
    for name in "ab":
        sound(tmp_path / f"{name}.wav", 3.0)
    (tmp_path / "t.csv").write_text(
        "file;label;valence;start;end;age\na;sad;1,5;0,25;2,75;31\nb;sad;N/A;;2;?\n"
    )
    (tmp_path / "corpus.yaml").write_text("attr_scale: [1, 5]")
    df, report = builder.build("folder", tmp_path, progress=False)
    assert df["valence"].tolist()[0] == 1.75 and df["valence_raw"][0] == 1.5
    assert np.isnan(df["valence"][1]) and np.isnan(df["start"][1]) and pd.isna(df["age"][1])
    assert df["length"].tolist() == [2.5, 2.0] and df["age"][0] == 31 and report.problems == ()


def test_a_file_is_found_in_either_unicode_form(tmp_path):
    """As a disk of macOS has it, and as a table has it."""
    sound(tmp_path / "Zoe\u0308/e\u0301.wav", 0.6)
    for cell in ("Zo\u00eb/\u00e9.wav", "\u00e9", "Zoe\u0308/\u00e9.wav"):
        (tmp_path / "t.csv").write_text(f"file,label,length\n{cell},sad,2 s\n")
        assert folder.utterances(tmp_path)["wav"].tolist() == ["Zoe\u0308/e\u0301.wav"]


def test_speakers_are_who_they_are(tmp_path):
    """One spelling for one speaker; words for "not known" and names of utterances are nobody."""
    spelled = [
        "Ann",
        " ann",
        "ANN\u00a0",
        "Ａｎｎ",
        "7",
        "7.0",
        "-1",
        "nan",
        "N/A",
        "None",
        "?",
        "f9",
    ]
    names = [f"f{i}" for i in range(12)][:11] + ["f9"]
    names[9] = "g9"
    for name in names:
        sound(tmp_path / f"{name}.wav", 0.6)
    lines = [f"{name};sad;{who};{who}" for name, who in zip(names, spelled, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["file;label;spk;group", *lines]))
    df, report = builder.build("folder", tmp_path, progress=False)
    base = tmp_path.name.lower()
    assert df["speaker"].tolist() == [f"{base}-Ann"] * 4 + [f"{base}-7"] * 2 + [None] * 6
    assert df["group"].tolist()[:6] == ["Ann"] * 4 + ["7"] * 2 and df["group"][6:].is_unique
    assert "speaker is not known in 5 rows (-1, ?, N/A, None, nan)" in report.notes
    assert "speaker is the name of the utterance in 1 rows: taken for unknown" in report.notes
    assert report.problems == ()


def test_columns_that_look_like_a_manifests_are_left_out_by_name(mine):
    (mine / "labels.csv").write_text(
        "filename,label,spk,Emotion,dialog,mood\nx/a1.wav,sad,A,1,d1,low\nb1,sad,B,2,d2,high\n"
    )
    df, report = builder.build("folder", mine, progress=False)
    assert df["mood"].tolist() == ["low", "high"] and df["dialogue"].isna().all()
    assert not {"Emotion", "dialog"} & {*df} and report.problems == ()
    told = "column 'dialog' is left out: it looks like 'dialogue', but is not called so"
    assert told in report.notes and any("'Emotion'" in note for note in report.notes)


def test_the_command_of_the_readme_works_again_and_again(mine, capsys):
    (mine / "corpus.yaml").write_text("{columns: {speaker: Talker}, attr_scale: [1, 5]}")
    (mine / "labels.csv").write_text("Filename;Label;Talker\nx/a1.wav;happy;A\ngone.wav;sad;B\n")
    out = mine / "mine.csv"
    for _ in range(2):
        assert cli.main(f"manifest build folder --root {mine} --out {out} --quiet".split()) == 0
        assert (mine / "mine.csv.excluded.tsv").read_text().count("gone.wav") == 1
    assert "chapters look for" not in capsys.readouterr().out
    assert tables.read(out)["wav"].tolist() == ["x/a1.wav"]


def test_a_table_for_each_split(tmp_path):
    for name in "abc":
        sound(tmp_path / f"{name}.wav", 0.6)
    (tmp_path / "my_train.csv").write_text("file,label\na,sad\nb,happy\n")
    (tmp_path / "my-test.csv").write_text("label,file\nfear,c\n")
    df = folder.utterances(tmp_path)
    assert dict(zip(df["wav"], df["split"], strict=True)) == {
        "a.wav": "train", "b.wav": "train", "c.wav": "test"}  # fmt: skip
    (tmp_path / "my-test.csv").write_text("kind,file\nfear,c\n")
    with pytest.raises(ManifestError, match="other columns than"):
        folder.utterances(tmp_path)
    (tmp_path / "more.csv").write_text("label,file\nfear,c\n")
    with pytest.raises(ManifestError, match="3 tables of labels.*table: labels.csv"):
        folder.utterances(tmp_path)


def test_paths_tell_what_no_table_does(tmp_path):
    """Class folders, and names that carry speaker and take: no table, no script."""
    for path in (
        "happy/ann_1.wav",
        "happy/bob_1.wav",
        "sad/ann_2.wav",
        "sad/readme.txt",
        "odd.wav",
    ):
        sound(tmp_path / path, 0.6)
    pattern = r"(?P<label>[^/]+)/(?P<speaker>[a-z]+)_(?P<take>\d)[.]wav"
    (tmp_path / "corpus.yaml").write_text(f"pattern: '{pattern}'\ncells: {{language: eng}}\n")
    df, report = builder.build("folder", tmp_path, progress=False)
    base = tmp_path.name.lower()
    assert df["wav"].tolist() == ["happy/ann_1.wav", "happy/bob_1.wav", "sad/ann_2.wav"]
    assert df["emotion"].tolist() == ["happiness", "happiness", "sadness"]
    assert df["speaker"].tolist() == [f"{base}-ann", f"{base}-bob", f"{base}-ann"]
    assert df["take"].tolist() == [1, 1, 2] and set(df["language"]) == {"eng"}
    assert "1 paths do not fit the pattern (odd.wav)" in report.notes
    assert report.problems == () and report.excluded == {}


def test_a_pattern_adds_to_a_table_that_is_named(tmp_path):
    for path in ("A/1.wav", "B/2.wav", "3.wav"):
        sound(tmp_path / path, 0.6)
    (tmp_path / "t.csv").write_text("file,label\n1,sad\nB/2.wav,happy\n3,sad\n")
    (tmp_path / "corpus.yaml").write_text("{table: t.csv, pattern: '(?P<spk>.)/.*'}")
    df = folder.utterances(tmp_path)
    assert df["wav"].tolist() == ["A/1.wav", "B/2.wav", "3.wav"]
    base = tmp_path.name.lower()
    assert df["speaker"].tolist() == [f"{base}-A", f"{base}-B", None]
    assert "1 paths do not fit the pattern (3.wav)" in df.attrs["notes"]


def test_a_corpus_of_links_is_a_corpus(tmp_path):
    """A cache of Hugging Face, audio on another disk, and links that go in a circle."""
    root = tmp_path / "snapshots" / "1a"
    root.mkdir(parents=True)
    for name in ("f00", "f01"):
        sound(tmp_path / f"blobs/{name}", 0.6)
        (root / f"{name}.wav").symlink_to(f"../../blobs/{name}")
    sound(tmp_path / "disk/deep/c.wav", 0.6)
    (root / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(root)
    (tmp_path / "disk/round").symlink_to(tmp_path / "disk")
    (root / "inside").symlink_to(root)
    (root / "t.csv").write_text(
        f"file,label\nf00.wav,sad\n{root}/f01.wav,happy\nc,fear\n{tmp_path}/disk/deep/c.wav,sad\n"
    )
    df, report = builder.build("folder", root, progress=False)
    assert df["wav"].tolist() == ["f00.wav", "f01.wav", "data/deep/c.wav"]
    assert ["is absolute" in why for why in report.excluded.values()] == [True]
    assert df["sha256"].nunique() == 3


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


def checkout(root, name, lines, labels=None, speakers=None, folds=()):
    """One corpus as EmoBox has it: `lines` are utt_id, emo; folds are {role: [utt_id]}."""
    folder = root / "data" / name
    line = dict(type="raw", sample_rate=16000, num_frame=16000.0, length=1.0, task="category")
    rows = {
        utt: dict(key=f"{name}-{utt}", dataset=name, wav=f"downloads/{name}/{utt}.wav", emo=emo,
                  channel=1, **line)
        for utt, emo in lines
    }  # fmt: skip

    def save(path, utts):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(rows[utt]) + "\n" for utt in utts))

    save(folder / f"{name}.jsonl", rows)
    for number, roles in enumerate(folds, start=1):
        for role, utts in roles.items():
            save(folder / f"fold_{number}" / f"{name}_{role}_fold_{number}.jsonl", utts)
    if labels is not None:
        (folder / "label_map.json").write_text(json.dumps(labels))
    stm = [
        f"{name}-{utt} 1 x 0 1.0 <id={name}-{utt},lang=en,spk={who},emotion=e> e\n"
        for utt, who in (speakers or {}).items()
    ]
    (folder / "data.seg.wrd.stm").write_text("".join(stm))
    return emobox.utterances(root, version=name)


def test_emobox_labels_are_found_in_any_case_and_never_lost_in_silence(tmp_path):
    lines = [
        ("a", "neutral"),
        ("b", "Neutral"),
        ("c", "W"),
        ("d", "dis"),
        ("e", "odd"),
        ("f", "odd"),
    ]
    titles = {"Neutral": "Neutral", "w": "Angry", "n": "Fear", "N": "Sad", "dis": "Disappointed"}
    df = checkout(tmp_path, "two", [("a", "N"), ("b", "n"), ("c", "NEUTRAL")], titles)
    assert df["emotion"].tolist() == ["sadness", "fear", "neutral"]
    df = checkout(tmp_path, "mine", lines, titles)
    assert df["emotion"].tolist() == ["neutral", "neutral", "anger", None, None, None]
    assert "3 rows have labels without an emotion: dis (1), odd (2)" in df.attrs["notes"]
    df = checkout(
        tmp_path, "emovo", [(code, code) for code in "dis gio neu pau rab sor tri".split()]
    )
    assert df["emotion"].tolist() == (
        "disgust happiness neutral fear anger surprise sadness".split()
    )
    (tmp_path / "data/emovo/label_map.json").write_text("[")
    with pytest.raises(ManifestError, match="is no map of labels"):
        emobox.utterances(tmp_path, version="emovo")


def test_emobox_speakers_have_blanks_and_are_no_utterances(tmp_path):
    lines = [(utt, "sad") for utt in ("a", "b 1.wav", "c 2.wav", "d")]
    who = "downloads/x/Raw JL (unchecked)"
    speakers = {"a": f"{who}/female1", "b 1.wav": f"{who}/male1", "c 2.wav": "c 2.wav"}
    df = checkout(tmp_path, "mine", lines, speakers=speakers)
    assert df["speaker"].tolist() == [
        f"mine-{who}/female1", f"mine-{who}/male1", None, None,
    ]  # fmt: skip
    assert df["group"][2:].tolist() == ["mine-c 2.wav", "mine-d"]
    assert df.attrs["notes"] == [
        "speaker is the name of the utterance in 1 rows: taken for unknown",
        "2 rows name no speaker: nothing proves them apart",
    ]


def test_emobox_folds_are_the_manifests(tmp_path):
    utts = [f"u{i}" for i in range(6)]
    folds = [
        {
            "test": utts[2 * k : 2 * k + 2],
            "train": [u for u in utts if u not in utts[2 * k : 2 * k + 2]],
        }
        for k in range(3)
    ]
    speakers = {utt: f"s{i // 2}" for i, utt in enumerate(utts)}
    df = checkout(tmp_path, "mine", [(utt, "sad") for utt in utts], None, speakers, folds)
    assert df["fold"].tolist() == [1, 1, 2, 2, 3, 3] and df["split"].isna().all()
    for fold in range(1, 4):
        roles = splits.protocol(df.assign(sha256=None), "session", fold=fold)
        assert set(df["utt_id"][roles == "test"]) == set(folds[fold - 1]["test"])


@pytest.mark.parametrize(
    "change", [{"num_frame": "x"}, {"key": None}, {"sample_rate": None}, {"dataset": 3}, {"wav": 5}]
)
def test_emobox_lines_of_other_kinds_are_refused_by_name(tmp_path, change):
    checkout(tmp_path, "mine", [("a", "sad")])
    path = tmp_path / "data/mine/mine.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    try:
        emobox.utterances(tmp_path, version="mine")
    except ManifestError as error:
        assert "mine.jsonl" in str(error) and "\n" not in str(error)


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
        "1 rows name no speaker: nothing proves them apart",
        "1 rows have labels without an emotion: blue (1)",
    ]
    with pytest.raises(ManifestError, match="no corpus 'meld'.*use version iemocap"):
        emobox.utterances(tmp_path, version="meld")
    with pytest.raises(ManifestError, match="give EmoBox's folder"):
        emobox.utterances(folder, version="iemocap")


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
    lines = {
        "emotion.train": "file,emotion\nwav/a.wav,anger\nwav/b.wav,mixed\n",
        "emotion.test": "file,emotion,arousal\nwav/c.wav,happiness,0.5\nwav/d.wav,,\n",
        "segments": "file,start,end,emotion\n"
        "wav/a.wav,0 days 00:00:00,0 days 00:00:00.500000,anger\n"
        "wav/a.wav,0 days 00:00:01.250000,,happiness\n",
        "files": "file,speaker,transcription\nwav/a.wav,3,Ja\nwav/b.wav,8,\nwav/c.wav,8,Nein\n",
        "speaker": "speaker,gender,age\n3,male,31\n8,female,34\n",
    }
    for name, text in lines.items():
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
    assert report.notes == (
        "1 rows name no speaker: nothing proves them apart",
        "1 rows have labels without an emotion: mixed (1)",
    )


SPEAKERS = {
    "in the scheme": "speaker: {labels: {3: {gender: male, age: 31}, "
    "8: {gender: female, age: 34}}}",
    "in a misc table": "speaker: {labels: people}",
    "in a table of its name": "speaker: {dtype: int}",
}


@pytest.mark.parametrize("where", SPEAKERS)
def test_audformat_keys_are_what_their_schemes_say(tmp_path, where):
    """As audEERING's EmoDB had and has it: texts and speakers are keys."""
    for name in "ab":
        sound(tmp_path / f"wav/{name}.wav", 1.0)
    misc = {"in a misc table": "people", "in a table of its name": "speaker"}.get(where)
    people = f"misc_tables:\n  {misc}: {{columns: {{gender: {{}}, age: {{}}}}}}\n"
    (tmp_path / "db.yaml").write_text(
        "name: trial\nlanguages: [deu]\naudb: {version: 1.3.0, root: x}\n"
        "schemes:\n  emotion: {labels: [anger, sadness]}\n"
        "  sentence: {labels: {a01: 'Der Lappen liegt da.', '02': Nein}}\n"
        f"  {SPEAKERS[where]}\n"
        "tables:\n  emotion: {type: filewise, columns: {emotion: {scheme_id: emotion}}}\n"
        "  files: {type: filewise, columns: {speaker: {scheme_id: speaker}, "
        "transcription: {scheme_id: sentence}}}\n" + (people if misc else "")
    )
    (tmp_path / "db.emotion.csv").write_text("file,emotion\nwav/a.wav,anger\nwav/b.wav,sadness\n")
    (tmp_path / "db.files.csv").write_text(
        "file,speaker,transcription\nwav/a.wav,3,a01\nwav/b.wav,8,02\n"
    )
    if misc:
        (tmp_path / f"db.{misc}.csv").write_text("speaker,gender,age\n3,male,31\n8,female,34\n")
    df, report = builder.build("audformat", tmp_path, progress=False)
    assert df["text"].tolist() == ["Der Lappen liegt da.", "Nein"]
    assert df["speaker"].tolist() == ["trial-3", "trial-8"]
    assert df["gender"].tolist() == ["male", "female"] and df["age"].tolist() == [31, 34]
    assert set(df["dataset_version"]) == {"1.3.0"} and report.problems == ()
    assert (
        builder.build("audformat", tmp_path, version="emo*", progress=False)[1].version == "1.3.0"
    )


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
    path = database / "db.segments.csv"
    whole = path.read_text()
    path.write_text(whole.replace("0 days 00:00:00.500000", "half a second"))
    with pytest.raises(ManifestError, match="db.segments.csv, row 1, column end: 'half a second'"):
        audformat.utterances(database, version="segments")
    (database / "db.segments.csv").rename(database / "db.segments.parquet")
    with pytest.raises(ManifestError, match='storage_format="csv"'):
        audformat.utterances(database, version="segments")
    (database / "db.yaml").write_text("- a\n")
    with pytest.raises(ManifestError, match="db.yaml is not a map"):
        audformat.utterances(database)
    (database / "db.yaml").unlink()
    with pytest.raises(ManifestError, match="no db.yaml"):
        audformat.utterances(database)
