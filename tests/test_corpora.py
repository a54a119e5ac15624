"""Builds of whole manifests: the cards, the counts, what is left out, the chapters' way to it."""

from __future__ import annotations

import collections
import importlib
import itertools
import json
import os

import pandas as pd
import pytest
import soundfile

from corpus_trees import iemocap, iemocap_dialogue, msp, msp_rows, turn, wav, write
from serlib import DATA, records
from serlib import __main__ as cli
from serlib.corpora import builder, cards, counts, files, measure
from serlib.data import containers, manifest, splits, tables
from serlib.data.audio import AudioError
from serlib.data.stores import WaveStore
from serlib.data.tables import ManifestError
from serlib.experiments import dataset
from serlib.recipes import papers
from serlib.recipes.recipe import RecipeError


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A home in which nothing was measured."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# cards


@pytest.mark.parametrize("name", cards.names())
def test_cards_are_complete(name):
    card = cards.read(name)
    assert card.name == name and set(card.labels.values()) <= {*tables.EMOTIONS, None}
    assert card.title and card.license and card.how_to_get and card.known_defects
    assert str(card).startswith(f"## {card.title}\n\n`serlib manifest list {name}`\n")
    for expected in card.expected:
        assert expected.source and expected.status in ("verified", "quoted")
        assert isinstance(expected.version, str)  # YAML reads 1.12 as a number
        columns = {c for by in expected.counts for c in by.split()} | set(expected.where)
        assert columns <= {*tables.COLUMNS, "scenario"}
        for by, nested in expected.counts.items():
            sizes = [n for _, n in counts._flat(nested)]
            assert all(isinstance(n, int) and n >= 0 for n in sizes), (name, expected.name, by)
            if expected.total and "version" != by:
                assert sum(sizes) == expected.total, (name, expected.name, by)


def sums(nested, depth: int) -> dict[str, int]:
    """Counts by the value of one column among those of a nested table, from outside in."""
    found = collections.Counter()
    for path, n in counts._flat(nested):
        found[path[depth]] += n
    return dict(found)


@pytest.mark.parametrize("name", cards.names())
def test_counts_of_a_card_agree_with_each_other(name):
    """Sums over more columns are the counts by fewer, and those of a part of the rows fit."""
    card = cards.read(name)
    for expected in card.expected:
        assert expected.total is not None, f"{expected.name}: a set says how many there are"
        by_column = {}
        for columns, nested in expected.counts.items():
            for depth, column in enumerate(columns.split()):
                found = sums(nested, depth)
                assert by_column.setdefault(column, found) == found, (expected.name, column)
        if "gender" in by_column and name == "iemocap" and "speaker" in by_column:
            women = sum(n for who, n in by_column["speaker"].items() if who.endswith("F"))
            assert women == by_column["gender"]["female"]
        for column, values in expected.where.items():
            assert set(by_column.get(column, {})) <= {str(v) for v in values}
    for part, whole in itertools.permutations(card.expected, 2):
        if part.version == whole.version and not whole.where:
            assert part.total <= whole.total
            for by in set(part.counts) & set(whole.counts):
                inside, around = dict(counts._flat(part.counts[by])), dict(
                    counts._flat(whole.counts[by]))  # fmt: skip
                assert all(n <= around.get(value, 0) for value, n in inside.items()), (name, by)
                if [*part.where] == [by]:
                    assert inside == {value: around[value] for value in inside}, (name, by)


def test_published_counts_are_those_of_the_cards():
    table = pd.read_csv(DATA / "published_counts.csv", keep_default_na=False)
    sets = {
        ("iemocap", "all"): "all labels", ("iemocap", "4 classes"): "usual four classes",
        ("msp-podcast", "1.12 train"): "training set of 1.12",
        ("msp-podcast", "challenge"): "sizes of the challenge release",
        ("msp-podcast", "challenge, 8 classes"): "eight classes of the challenge release",
    }  # fmt: skip
    columns = dict.fromkeys(("class", "total"), "emo") | dict(
        style="scenario", gender="gender", session="session", talker="speaker"
    )
    seen = 0
    for row in table.itertuples():
        card = cards.read(row.corpus)
        (one,) = [e for e in card.expected if e.name == sets[row.corpus, row.subset]]
        by = one.counts.get("split" if row.name in ("train", "dev") else columns.get(row.kind), {})
        parts = row.name.split("+")  # hap+exc
        if set(parts) <= set(by):
            assert sum(by[part] for part in parts) == row.n, row
            seen += 1
        if row.name == "utterances":
            assert one.total == row.n
        if row.kind == "class" and len(parts) == 1:
            assert card.labels[row.name] == row.emotion
    assert seen >= 45


@pytest.mark.parametrize("name", builder.CORPORA)
def test_every_corpus_has_a_card_that_agrees_with_its_module(name):
    card = cards.read(name)
    module = importlib.import_module(f"serlib.corpora.{name.replace('-', '_')}")
    assert card.layout and callable(module.utterances)
    if card.labels:  # a corpus; the others are formats
        assert dict(card.labels) == module.EMOTIONS
        assert card.citation and set(card.protocols) & set(splits.PROTOCOLS)


def test_an_unknown_card_is_refused_with_those_that_are_known():
    with pytest.raises(ManifestError, match="no card .*none.yaml: there are audformat, cremad"):
        cards.read("none")


# counts


def toy_card(**expected) -> cards.Card:
    one = cards.Expected("all", "counted by hand", **expected)
    return cards.Card("toy", "A toy", "MIT", "here", dataset="toy", expected=(one,))


def toy_rows() -> pd.DataFrame:
    columns = dict(session=["toy-1", "toy-1", "toy-2", None], emo=["a", "b", "a", "a"])
    return pd.DataFrame(columns | dict(speaker=["toy-x", "toy-x", "toy-y", "toy-y"]))


def differ(**expected) -> list[tuple]:
    _, found = counts.compare(toy_rows(), toy_card(**expected))
    return [(d.by, d.value, d.expected, d.found) for d in found]


def test_counts_that_agree_differ_nowhere():
    by = {"session": {"1": 2, "2": 1}, "emo": {"a": 3, "b": 1}, "speaker": {"x": 2, "y": 2}}
    assert differ(total=4, counts=by) == []
    assert differ(counts={"session emo": {"1": {"a": 1, "b": 1}, "2": {"a": 1}}}) == []
    assert differ(where={"emo": ["a"], "session": ["1"]}, total=1) == []


def test_differences_by_class_session_and_speaker():
    assert differ(total=5) == [("total", "", 5, 4)]
    assert differ(counts={"session": {"1": 2, "3": 7}}) == [
        ("session", "3", 7, 0), ("session", "2", 0, 1),
    ]  # fmt: skip
    assert differ(counts={"session emo": {"1": {"a": 2, "b": 1}, "2": {"a": 1}}}) == [
        ("session emo", "1 a", 2, 1)
    ]
    assert differ(where={"emo": ["b"]}, counts={"speaker": {"x": 1, "y": 1}}) == [
        ("speaker", "y", 1, 0)
    ]


def test_counts_of_another_release_are_not_compared():
    card = toy_card(version="2", total=9)
    assert counts.compare(toy_rows(), card, "1") == ([], [])
    names, found = counts.compare(toy_rows(), card, "2")
    assert names == ["all"] and len(found) == 1


# builds


def test_a_built_manifest_is_complete_and_comes_back(tmp_path):
    df, report = builder.build("iemocap", iemocap(tmp_path), progress=False)
    assert manifest.check(df) == [] and len(df) == report.utterances == 100
    for column in ("sha256", "bytes", "sample_rate", "channels", "num_frame", "length", "text",
                   "speaker", "gender", "group", "license", "language", "style"):  # fmt: skip
        assert df[column].notna().all(), column
    assert set(df["key"]) == set("iemocap-" + df["utt_id"])
    assert df["length"].tolist() == [0.6] * 100 and report.hours == pytest.approx(60 / 3600)
    for name in ("m.csv", "m.jsonl"):
        tables.write(df, tmp_path / name)
        pd.testing.assert_frame_equal(tables.read(tmp_path / name), df)
    assert report.classes.loc["excitement", "all"].sum() == 20
    by = {d.by for d in report.differences}
    assert {"total", "emo", "session", "session emo", "speaker", "gender"} <= by
    assert not report.exact and "Ses03 20 of 1,151" in str(report)


def test_a_partial_copy_is_no_error(tmp_path):
    df, report = builder.build("iemocap", iemocap(tmp_path, [2, 5]), progress=False)
    assert set(df["session"]) == {"iemocap-Ses02", "iemocap-Ses05"}
    missing = {d.value for d in report.differences if d.by == "session" and not d.found}
    assert missing == {"Ses01", "Ses03", "Ses04"}


def test_what_cannot_be_used_is_left_out_by_name(tmp_path, fresh):
    root = msp(tmp_path / "msp", msp_rows("NHASUFDC"))
    audio = root / "Audios"
    names = sorted(p.name for p in audio.iterdir())
    (audio / names[0]).unlink()
    write(audio / names[1], "")
    write(audio / names[2], "<!DOCTYPE html><html>404</html>")
    write(audio / names[3], "version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    whole = (audio / names[4]).read_bytes()
    (audio / names[4]).write_bytes(whole[: len(whole) // 2])
    soundfile.write(audio / names[5], [], 16_000, format="WAV")
    (audio / names[6]).unlink()
    os.symlink(tmp_path / "nowhere.wav", audio / names[6])
    (audio / names[7]).write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    (audio / names[8]).write_bytes(whole[:60])
    df, report = builder.build("msp-podcast", root, progress=False)
    assert list(report.excluded) == [f"Audios/{name}" for name in names[:9]]
    words = ["no such file", "empty", "web page", "git lfs pull", "cut short", "no samples",
             "no such file", "manifest extract", "cut short"]  # fmt: skip
    for why, word in zip(report.excluded.values(), words, strict=True):
        assert word in why
    assert len(df) == 48 - 9 and not set(df["wav"]) & set(report.excluded)
    assert not report.exact and f"Audios/{names[3]}: is a Git LFS pointer" in str(report)


def test_paths_that_leave_the_root_are_refused(tmp_path, fresh):
    wav(tmp_path / "secret.wav")
    rows = [*msp_rows("NH"), "../../secret_1_1.wav,N,2,4,2,7,Male,Train"]
    with pytest.raises(ManifestError, match="no podcast in"):
        builder.build("msp-podcast", msp(tmp_path / "msp", rows, wavs=False), progress=False)
    facts = measure.measure(tmp_path / "msp", ["../secret.wav", "/etc/passwd"], progress=False)
    assert facts["error"].str.contains("climbs out|is absolute").all()


def test_a_tree_without_audio_says_so(tmp_path, fresh):
    root = msp(tmp_path, msp_rows("NH"), wavs=False)
    with pytest.raises(ManifestError, match=r"none of 12 files under .* can be used; Audios/MSP"):
        builder.build("msp-podcast", root, progress=False)


def test_equal_audio_is_flagged_and_told(tmp_path, fresh):
    root = msp(tmp_path, msp_rows("NH"))
    a, b, c = "0001_0000", "0001_0001", "0002_0000"  # N, H; N of another speaker
    for name in (a, b, c):
        wav(root / "Audios" / f"MSP-PODCAST_{name}.wav", seed=0)
    df, report = builder.build("msp-podcast", root, progress=False)
    keys = tuple(f"msp-podcast-MSP-PODCAST_{name}" for name in (a, b, c))
    assert report.duplicates == ((keys, True),) and report.problems == ()
    flagged = df["flags"].map(lambda flags: "duplicate_audio" in flags)
    assert tuple(df["key"][flagged]) == keys
    assert "same audio, different emotions: " + ", ".join(keys) in str(report)


def test_flags_of_audio_and_text(tmp_path, fresh):
    dialogue = "Ses01F_impro01"
    names = [f"{dialogue}_F{i:03d}" for i in range(6)]
    blocks = "".join(turn(n, i, "neu", "3.0, 3.0, 3.0") for i, n in enumerate(names))
    said = "".join(f"{n} [000.0-001.0]: Yes.\n" for n in names[:5])
    iemocap_dialogue(tmp_path, dialogue, blocks, said)
    folder = tmp_path / "Session1" / "sentences" / "wav" / dialogue
    wav(folder / f"{names[0]}.wav", channels=2)
    wav(folder / f"{names[1]}.wav", 0.2, rate=44_100)
    soundfile.write(folder / f"{names[2]}.wav", [0.0] * 16_000, 16_000)
    soundfile.write(folder / f"{names[3]}.wav", [0.1, -0.1] * 8_000, 16_000, format="AIFF")
    wav(folder / f"{names[4]}.wav", 61.0, rate=8_000)
    df, report = builder.build("iemocap", tmp_path, progress=False)
    assert df["flags"].tolist() == [
        ["stereo"], ["too_short"], ["no_audio"], ["aiff_in_wav"], ["too_long"], ["missing_text"],
    ]  # fmt: skip
    for flag, name in zip(df["flags"].explode(), names, strict=True):
        assert f"flag: {flag}: 1 utterances, such as iemocap-{name}" in str(report)
    assert df["channels"].tolist() == [2, 1, 1, 1, 1, 1]
    assert df["sample_rate"].tolist() == [16_000, 44_100, 16_000, 16_000, 8_000, 16_000]
    assert df["num_frame"].tolist() == [9600, 8820, 16_000, 16_000, 488_000, 9600]
    assert report.problems == ()


def test_versions_are_given_or_recognized(tmp_path, fresh):
    root = msp(tmp_path, msp_rows("NH"))
    df, report = builder.build("msp-podcast", root, progress=False)
    assert df["dataset_version"].isna().all() and report.version == "" and not report.checked
    assert "nothing was compared" in str(report)
    df, report = builder.build("msp-podcast", root, version="1.11", progress=False)
    assert set(df["dataset_version"]) == {"1.11"} and report.checked == ("sizes of 1.11",)


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(ManifestError, match="no corpus 'timit': use one of .*iemocap"):
        builder.build("timit", tmp_path)
    with pytest.raises(ManifestError, match="no folder .*: give the one"):
        builder.build("iemocap", tmp_path / "none")


# measuring


def test_a_second_build_measures_only_what_is_new_or_changed(tmp_path, fresh, monkeypatch):
    paths = [wav(tmp_path / "c" / f"{i}.wav") for i in range(4)]
    wavs = [p.name for p in paths]
    first = measure.measure(tmp_path / "c", wavs, progress=False)
    seen, facts = [], measure._facts
    monkeypatch.setattr(measure, "_facts", lambda p, v: seen.append(p.name) or facts(p, v))
    again = measure.measure(tmp_path / "c", wavs, progress=False)
    assert seen == [] and again.equals(first)
    wav(paths[1], seed=99)
    os.utime(paths[1], ns=(1, 1))
    wav(tmp_path / "c" / "4.wav")
    measure.measure(tmp_path / "c", [*wavs, "4.wav"], workers=1, progress=False)
    assert seen == ["1.wav", "4.wav"]
    (memory,) = (fresh / "measured").iterdir()
    memory.write_text("{")  # damaged: measured anew
    assert measure.measure(tmp_path / "c", wavs[2:], progress=False).equals(first.iloc[2:])


def test_an_interrupted_build_goes_on(tmp_path, fresh, monkeypatch):
    wavs = [wav(tmp_path / "c" / f"{i:02d}.wav").name for i in range(20)]
    facts, seen = measure._facts, []

    def interrupt(path, verify):
        seen.append(path.name)
        if path.name == "10.wav":
            raise KeyboardInterrupt
        return facts(path, verify)

    monkeypatch.setattr(measure, "_facts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(tmp_path / "c", wavs, workers=1, progress=False)
    monkeypatch.setattr(measure, "_facts", lambda p, v: seen.append(p.name) or facts(p, v))
    seen.clear()
    found = measure.measure(tmp_path / "c", wavs, workers=1, progress=False)
    assert found["error"].isna().all() and seen == wavs[10:]


def test_headers_alone_prove_nothing(tmp_path, fresh):
    path = wav(tmp_path / "a.wav")
    row = measure.measure(tmp_path, ["a.wav"], verify=False, progress=False).loc["a.wav"]
    assert (row["num_frame"], row["bytes"]) == (9600, path.stat().st_size)
    assert row["sha256"] is None and row["peak"] is None and row["error"] is None


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"), (b"RIFF\0\0\0\0AVI LIST", "avi"), (b"RF64", "wav"),
        (b"FORM\0\0\0\0AIFC", "aiff"), (b"\xff\xfb\x90", "mp3"), (b"ID3\4", "mp3"),
        (b"\0\5\x16\7\0\2", "appledouble"), (b"\n<html>", "html"), (b"\x1aE\xdf\xa3", "matroska"),
        (b"\xff\xf1\x50", "aac"), (b"caff", "caf"), (b"NIST_1A\n", "sphere"), (b".snd", "au"),
        (b"hello", "unknown"), (b"R", "unknown"), (b"\xff", "unknown"),
    ],
)  # fmt: skip
def test_containers_are_told_by_content(head, kind):
    assert containers.sniff(head) == kind


def test_what_cannot_be_kept_is_measured_all_the_same(tmp_path, fresh, monkeypatch):
    """As in a home that may only be read."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "measured")

    wavs = [wav(tmp_path / "c" / f"{i}.wav").name for i in range(3)]
    first = measure.measure(tmp_path / "c", wavs, progress=False)
    for memory in (fresh / "measured").iterdir():
        memory.write_text("[1, 2]")  # nor read
    monkeypatch.setattr(records, "atomic_write", refuse)
    monkeypatch.setattr(measure, "SAVE_EVERY", 0)
    with pytest.warns(UserWarning, match="not kept .* Permission denied"):
        assert measure.measure(tmp_path / "c", wavs, progress=False).equals(first)


def test_replaced_audio_is_noticed(tmp_path, fresh, capsys):
    """By whoever reads it: the check, which knows the old files, and each decoding."""
    root = msp(tmp_path / "msp", msp_rows(per=12))
    table, _ = builder.build("msp-podcast", root, progress=False)
    out = root / "msp-podcast.csv"
    tables.write(table, out)
    check = ["manifest", "check", str(out), "--root", str(root)]
    assert cli.main(check) == 0
    one, two, three, gone = (root / name for name in table["wav"][:4])
    stamp = one.stat()
    wav(one, seed=99)  # as long as before
    os.utime(one, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    wav(two, 0.9)
    three.write_bytes(three.read_bytes()[:4000])
    gone.unlink()
    capsys.readouterr()
    assert cli.main(check) == 1
    told = capsys.readouterr().out.splitlines()
    words = ("sha256 differs", "bytes differs", "cut short", "no such file")
    for line, wav_, word in zip(told, table["wav"][:4], words, strict=True):
        assert line.startswith(f"{wav_} ") and word in line
    with pytest.raises(AudioError, match="cannot be used") as error:
        WaveStore.from_manifest(table, root, progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == 5 and "manifest build" in lines[1] and "bytes differs" in lines[2]
    tables.write(builder.build("msp-podcast", root, progress=False)[0], out)  # what the lines say
    assert cli.main(check) == 0
    sizes = table.assign(sha256=None)  # of a build with --no-verify
    assert len(measure.compare(sizes, root, progress=False)) == 3
    assert measure.compare(sizes.assign(bytes=None)[:2], root, progress=False) == []


def test_a_long_list_of_clips_is_short(tmp_path, fresh):
    table = pd.DataFrame({"wav": [f"{i}.wav" for i in range(2_000)]})
    with pytest.raises(AudioError, match="2000 of 2000 clips") as error:
        WaveStore.from_manifest(table, tmp_path, progress=False)
    assert len(str(error.value).splitlines()) == 12 and "and 1990 more" in str(error.value)


def test_manifests_of_equal_keys_never_share_what_was_decoded(tmp_path, fresh):
    """Within a process; nor does one share with itself once its audio was replaced."""
    root = msp(tmp_path, msp_rows(per=12))
    table, _ = builder.build("msp-podcast", root, progress=False)
    recipe = papers.wang2025_baseline("full", str(root / "a.csv"), str(root))

    def decoded(df) -> str:
        tables.write(df, root / "a.csv")
        return dataset.load(recipe).store.digest()

    found = {decoded(table)}
    for change in (
        {"start": 0.1}, {"end": 0.3}, {"start": 0.1, "end": 0.3}, {"channel": 1, "end": 0.4},
        {"wav": table["wav"].to_numpy()[::-1], "sha256": None, "bytes": None},
    ):  # fmt: skip
        found |= {decoded(table.assign(**change))}
    assert len(found) == 6
    anyone = table.assign(sha256=None, bytes=None)
    before = decoded(anyone)
    for name in table["wav"]:
        wav(root / name, seed=7)
    assert decoded(anyone) != before


# files


def test_texts_of_any_machine(tmp_path):
    given = {"a": "é\r\nb\rc", "b": "ü"}
    write(tmp_path / "a", given["a"], "utf-8-sig")
    write(tmp_path / "b", given["b"], "latin-1")
    assert [files.text(tmp_path / name) for name in "ab"] == ["é\nb\nc", "ü"]
    (tmp_path / "LABELS").mkdir()
    assert files.child(tmp_path, "label", "labels").name == "LABELS"
    assert files.child(tmp_path / "none", "labels") is None


# the chapters' way


@pytest.mark.parametrize("name", ["iemocap", "msp-podcast"])
def test_experiments_load_a_built_manifest(tmp_path, fresh, name):
    """From a tree to the decoded data of the papers' own recipes."""
    tree = iemocap(tmp_path) if name == "iemocap" else msp(tmp_path, msp_rows(per=12))
    out = tmp_path / f"{name}.csv"
    command = ["manifest", "build", name, "--root", str(tree), "--out", str(out), "--quiet"]
    with pytest.raises(RecipeError, match=f"serlib {' '.join(command[:-1])}"):
        dataset.load(papers.cai2021("full", name, str(tree)))
    assert cli.main(command) == 0
    recipe = papers.cai2021 if name == "iemocap" else papers.wang2025_baseline
    data = dataset.load(recipe("full", "", str(tree)))
    if name == "iemocap":
        assert data.counts.tolist() == [12, 24, 12, 12] and len(data.rows("test")) == 20
    else:
        assert data.counts.sum() + len(data.rows("dev")) == 96 == len(data.rows("test"))
        assert (data.counts > 0).all()
    assert data.store.durations == pytest.approx([0.6] * len(data.table))


# commands


def test_a_demo_corpus_that_is_spoken_otherwise_or_damaged(tmp_path, monkeypatch):
    key = dataset.demo_corpus.load()["key"][0]
    (tmp_path / "done.json").write_text(f'{{"differing": ["{key}"]}}')
    monkeypatch.setattr(dataset.demo_corpus, "make", lambda df, digest: tmp_path)
    df, _ = dataset.locate(papers.cai2021("smoke"))
    assert df["key"][df["sha256"].isna()].tolist() == [key]
    with pytest.raises(AudioError, match=f"(?s)no such file.*Delete {tmp_path}"):
        dataset.load(papers.cai2021("smoke"))


def test_manifest_build_writes_and_strict_does_not(tmp_path, fresh, capsys):
    tree, out = iemocap(tmp_path / "tree", [1]), tmp_path / "new" / "m.jsonl"
    (tree / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
    command = ["manifest", "build", "iemocap", "--root", str(tree), "--out", str(out), "--quiet"]
    assert cli.main([*command, "--strict"]) == 1 and not out.exists()
    assert "not written (--strict)" in capsys.readouterr().err
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "19 utterances" in shown and "session: Ses01 19 of 1,085" in shown
    assert f"-p corpus={out}" in shown
    left_out = out.with_name("m.jsonl.excluded.tsv").read_text().splitlines()
    assert len(left_out) == 2 and left_out[1].endswith("there is no such file")
    assert cli.main(["manifest", "check", str(out), "--root", str(tree)]) == 0
    assert cli.main([*command[:-2], str(tmp_path / "m.xlsx")]) == 1
    assert "ends in .csv or .jsonl" in capsys.readouterr().err


def test_manifest_build_is_strict_only_where_counts_differ(tmp_path, fresh, monkeypatch):
    tree = iemocap(tmp_path, [1])
    card = cards.read("iemocap")
    one = cards.Expected("toy", "here", total=20, counts={"emo": {"neu": 4}}, where={})
    fits = cards.Expected("toy", "here", total=20, counts={"session": {"Ses01": 20}})
    for expected, code in ((one, 1), (fits, 0)):
        now = cards.Card(**{**card.__dict__, "expected": (expected,)})
        monkeypatch.setattr(cards, "read", lambda name, now=now: now)
        out = str(tmp_path / "m.csv")
        command = ["manifest", "build", "iemocap", "--root", str(tree), "--out", out, "--strict"]
        assert cli.main([*command, "--quiet"]) == code
    table = json.loads(json.dumps(tables.rows(tables.read(tmp_path / "m.csv"))))
    assert len(table) == 20


def test_manifest_list(capsys):
    assert cli.main(["manifest", "list"]) == 0
    shown = capsys.readouterr().out
    for name in cards.names():
        assert f"\n{name} " in f"\n{shown}"
    assert cli.main(["manifest", "list", "iemocap"]) == 0
    assert "impro05a" in capsys.readouterr().out
    assert cli.main(["manifest", "list", "timit"]) == 1


def test_a_card_as_a_section_of_a_page():
    card = cards.Card(
        name="toy", title="Toy <1>", license="CC0-1.0", how_to_get="run get_it --now", url="https://x.org",
        labels={"h": "happiness", "u": None}, protocols={"session": "two folds"},
        known_defects=("a*b",), layout="wav/<id>.wav",
        expected=(cards.Expected("all", "its paper", total=1234),),
    )  # fmt: skip
    page = cards.markdown(card)
    assert page.startswith("## Toy &lt;1>\n") and "- **At:** <https://x.org>\n" in page
    assert r"get\_it \-\-now" in page and r"- a\*b" in page
    assert "```text\nwav/<id>.wav\n```" in page
    assert "`h` happiness, `u` left out." in page and "- `session`: two folds" in page
    assert "- all, 1,234 utterances (quoted: its paper)" in page


def test_every_card_has_a_section():
    pages = {name: cards.markdown(cards.read(name)) for name in cards.names()}
    assert len(pages) >= 12 and all(p.count("\n## ") == 0 for p in pages.values())
    assert all(page.count("```") % 2 == 0 for page in pages.values())
