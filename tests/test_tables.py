from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

from serlib.corpora import emobox
from serlib.data import spelling, tables
from serlib.data.tables import COLUMNS, ManifestError

HEADER = "key,dataset,utt_id,wav,length,emotion,speaker,group"


def line(i: int, **changes) -> dict:
    row = dict(
        key=f"d-{i}", dataset="d", utt_id=f"{i}", wav=f"a/{i}.wav", length=1.5, emotion="anger",
        speaker=f"d-{i}", group=f"d-{i}",
    )  # fmt: skip
    return row | changes


def save(path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def save_csv(path, header: str, *lines: str):
    return save(path, "\n".join([header, *lines]) + "\n")


# what is read


def test_columns_are_typed_ordered_and_complete(tmp_path):
    path = save_csv(tmp_path / "m.csv", f"{HEADER},bytes,flags", "d-1,d,1,a/1.wav,1.5,anger,,g,7,")
    df = tables.read(path)
    assert tuple(df.columns) == COLUMNS and len(COLUMNS) == 44 and len(df) == 1
    row = tables.rows(df)[0]
    assert row["length"] == 1.5 and row["bytes"] == 7 and row["flags"] == []
    assert type(row["bytes"]) is int and type(row["length"]) is float
    missing = {name for name, value in row.items() if value is None}
    assert {"speaker", "text", "age", "valence", "emotion_dist"} <= missing
    assert df["speaker"][0] is None and df["text"][0] is None and df["emotion_dist"][0] is None
    assert np.isnan(df["valence"][0]) and df["age"][0] is pd.NA
    assert df["length"].dtype == float and df["fold"].dtype == "Int64"


def hostile() -> pd.DataFrame:
    """Cells that readers of tables like to change."""
    texts = ["001", "1e5", "NA", "nan", "None", "null", "true", "a,b", 'say "x"', "x\ny", "x\r\ny"]
    texts += ["x\ry", " é ", "\\N", "'", "#", "\u2028", "12"]
    rows = [
        line(
            i, key=f"00{i}", text=text, speaker=text, intensity=text, extra=text,
            emotion_dist={"anger": 0.1 + i / 100, "é": 0.2}, attr_scale=[1, 5], flags=["stereo"],
            length=0.1 + i / 3, valence=1 + i / 7, valence_raw=5e-324, bytes=2**53 - i, fold=i,
            number=i / 7, whole=i, code=f"{i:03d}",
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    rows.append(line(99, text=None, speaker=None, extra=None, flags=[], number=None, whole=7))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_round_trip_is_exact(tmp_path, suffix):
    df, path = hostile(), tmp_path / "new" / f"m.{suffix}"
    tables.write(df, path)
    back = tables.read(path)
    for name in ("key", "text", "intensity", "extra", "code", "emotion_dist", "flags"):
        expected = [None if x is None or x != x else x for x in df[name]]
        assert back[name].tolist() == expected, name
    speakers = [" ".join(x.split()) or None for x in df["speaker"][:-1]]  # a name is what is seen
    assert back["speaker"].tolist() == [*speakers, None]
    for name in ("length", "valence", "valence_raw", "number"):
        np.testing.assert_array_equal(back[name], df[name])
    assert back["number"].dtype == float and back["whole"].dtype == "Int64"
    assert back["bytes"][:3].tolist() == [2**53, 2**53 - 1, 2**53 - 2]
    tables.write(back, path)
    pd.testing.assert_frame_equal(tables.read(path), back, check_exact=True)
    assert os.listdir(path.parent) == [path.name]


def test_csv_and_jsonl_give_the_same_table(tmp_path):
    found = []
    for name in ("m.csv", "m.jsonl"):
        tables.write(hostile(), tmp_path / name)
        found.append(tables.read(tmp_path / name))
    pd.testing.assert_frame_equal(*found, check_exact=True)
    assert tables.digest(found[0]) == tables.digest(found[1])


def test_jsonl_by_others_gives_the_same_table_as_csv(tmp_path):
    other = line(1, speaker=12, text=True, number="0.5", whole="7", bytes="3", extra={"a": 1})
    save(tmp_path / "m.jsonl", json.dumps(other) + "\r\n\r\n")
    path = save_csv(
        tmp_path / "m.csv",
        f"{HEADER},text,number,whole,bytes,extra",
        'd-1,d,1,a/1.wav,1.5,anger,12,d-1,true,0.5,7,3,"{""a"": 1}"',
    )
    pd.testing.assert_frame_equal(tables.read(tmp_path / "m.jsonl"), tables.read(path))


def test_empty_text_is_missing_in_both_formats(tmp_path):
    for name in ("m.csv", "m.jsonl"):
        given = pd.DataFrame([line(1, text="", extra=""), line(2, extra="x")])
        tables.write(given, tmp_path / name)
        df = tables.read(tmp_path / name)
        assert df["text"][0] is None and df["extra"].tolist() == [None, "x"]
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])["text"] is None


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-20", ""], "Int64"),
        (["0.5", "-1e-07", "3.0", ""], "float64"),
        (["0.5", "3"], "float64"),
        (["001", "2"], object),
        (["1.50", "2.0"], object),
        (["1e5", "2.0"], object),
        (["+1", "2"], object),
        (["1_000", "2"], object),
        (["1-2", "2"], object),
        (["nan", "1"], object),
        (["inf", "1.0"], object),
        (["1", "x"], object),
        (["99999999999999999999", "1"], object),
        (["", ""], object),
    ],
)
def test_unknown_column_is_numeric_only_if_nothing_is_lost(tmp_path, cells, kind):
    lines = [f"d-{i},d,{i},a.wav,1,anger,s,g,{cell}" for i, cell in enumerate(cells)]
    path = save_csv(tmp_path / "m.csv", f"{HEADER},extra", *lines)
    assert tables.read(path)["extra"].dtype == kind
    if kind is object:
        tables.write(tables.read(path), path)
        assert tables.read(path)["extra"].tolist() == [cell or None for cell in cells]


def test_bom_and_windows_line_ends_are_read(tmp_path):
    text = f"{HEADER}\r\nd-1,d,1,a.wav,1,anger,é,g\r\n\r\n"
    df = tables.read(save(tmp_path / "m.csv", b"\xef\xbb\xbf" + text.encode()))
    assert df["key"].tolist() == ["d-1"] and df["group"][0] == "g" and df["speaker"][0] == "é"
    text = json.dumps(line(1, speaker="é"), ensure_ascii=False)
    df = tables.read(save(tmp_path / "m.jsonl", b"\xef\xbb\xbf" + text.encode()))
    assert df["key"].tolist() == ["d-1"] and df["speaker"][0] == "é"


# what is refused


GOOD = "d-1,d,1,a.wav,1,anger,s,g"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        (f"{HEADER}\n", "no rows"),
        ("\n\n", "no rows"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "key 'd-1' stands in rows 1, 2: make keys unique"),
        (f"{HEADER}\n{GOOD[4:]}\n", "row 1 has 7 cells, the header 8"),
        (f"{HEADER}\n{GOOD}\n{GOOD},x\n", "row 2 has 9 cells, the header 8"),
        (f"{HEADER}\n{GOOD}\nd-2,d,2,a.w", "row 2 has 4 cells"),
        (f'{HEADER}\n{GOOD}\n"d-2,d,2,a.wav', "is not CSV"),
        (f"{HEADER}\n,{GOOD[4:]}\n", "row 1 has no key"),
        (f"{HEADER}\n\u00a0,{GOOD[4:]}\n", "row 1 has no key"),
        (f"{HEADER},Valence\n{GOOD},1\n", "column 'Valence' is no column of manifests, but looks"),
        (f"{HEADER},end \n{GOOD},1\n", "looks like 'end': rename it"),
        (f"{HEADER},emotion dist\n{GOOD},1\n", "looks like 'emotion_dist'"),
        (f"{HEADER},gneder\n{GOOD},male\n", "looks like 'gender'"),
        (f"{HEADER},languge\n{GOOD},eng\n", "looks like 'language'"),  # codespell:ignore languge
        (f"{HEADER},splet\n{GOOD},test\n", "looks like 'split'"),  # codespell:ignore splet
        (f"{HEADER},speakers\n{GOOD.replace(',s,', ',,')},x\n", "looks like 'speaker'"),
        (f'{HEADER},emotion_dist\n{GOOD},"{{""a"": 1, ""a"": 2}}"\n', "is no JSON"),
        (f"{HEADER},key\n{GOOD},x\n", "column names are empty or repeated"),
        (f",{HEADER}\n0,{GOOD}\n", "column names are empty or repeated"),
        ("key,dataset,wav,length\nd-1,d,a.wav,1\n", "columns utt_id, emotion, speaker, group are"),
        (f"{HEADER}\nd-1,d,1,a.wav,long,anger,s,g\n", "row 1, column length: 'long' is no finite"),
        (f"{HEADER}\nd-1,d,1,a.wav,nan,anger,s,g\n", "column length: 'nan' is no finite number"),
        (f"{HEADER}\nd-1,d,1,a.wav,1e999,anger,s,g\n", "column length: '1e999' is no finite"),
        (f'{HEADER}\nd-1,d,1,a.wav,"3,58",anger,s,g\n', "column length: '3,58' is no finite"),
        (f"{HEADER},fold\n{GOOD},1.5\n", "row 1, column fold: '1.5' is no whole number"),
        (f"{HEADER},fold\n{GOOD},1e300\n", "column fold: '1e300' is no whole number"),
        (f"{HEADER},fold\n{GOOD},True\n", "column fold: 'True' is no whole number"),
        (f"{HEADER},fold\n{GOOD},FALSE\n", "column fold: 'FALSE' is no whole number"),
        (f"{HEADER},fold,turn\n{GOOD},2,x\n", "row 1, column turn: 'x' is no whole number"),
        (f"{HEADER},fold\n{GOOD},0x1A\n", "column fold: '0x1A' is no whole number"),
        (f"{HEADER},flags\n{GOOD},stereo\n", "row 1, column flags: 'stereo' is no JSON"),
        (f"{HEADER},flags\n{GOOD},null\n", "row 1, column flags: 'null' is no JSON"),
        (f"{HEADER}\n{GOOD}\0\n", "null bytes"),
    ],
)
def test_hostile_csv_is_refused_with_the_reason(tmp_path, text, message):
    path = save(tmp_path / "m.csv", text)
    with pytest.raises(ManifestError) as caught:
        tables.read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("{", "line 1 is not JSON"),
        (json.dumps(line(1)) + '\n{"key": "d-2"', "line 2 is not JSON"),
        ("[1]", "line 1 is not one JSON object"),
        ("[" * 100_000, "line 1 is not JSON (maximum recursion"),
        (json.dumps(line(1))[:-1] + ', "emotion": "fear"}', "'emotion' stands twice in one object"),
        ('{"emotion_dist": {"fear": 1, "fear": 0}}', "'fear' stands twice in one object"),
        (json.dumps(line(1, text="\ud800")), "line 1 is not JSON ('utf-8' codec can't encode"),
        (json.dumps(line(1, fold=10**400)), "row 1, column fold: 1000"),
        (json.dumps(line(1, length=10**400)), "is no finite number"),
        (json.dumps(line(1, length="9" * 400)), "is no finite number"),
        (json.dumps(line(1, key=" \u200b")), "row 1 has no key"),
        (json.dumps([line(1)]), "line 1 is not one JSON object"),
        ('{"key": "d-1"}', "columns dataset, utt_id"),
        (json.dumps(line(1, length=[1])), "column length: [1] is no finite number"),
        (json.dumps(line(1, length=True)), "column length: True is no finite number"),
        (json.dumps(line(1, length=float("inf"))), "column length: inf is no finite number"),
    ],
)
def test_hostile_jsonl_is_refused_with_the_reason(tmp_path, text, message):
    path = save(tmp_path / "m.jsonl", text)
    with pytest.raises(ManifestError) as caught:
        tables.read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_refused_with_the_line(tmp_path, encoding):
    text = f"{HEADER}\n{GOOD}\nd-2,d,2,für.wav,1,anger,s,g\n"
    number = {"latin-1": 3, "utf-16": 1}[encoding]
    with pytest.raises(ManifestError, match=f"line {number} is not UTF-8: save the file as UTF-8"):
        tables.read(save(tmp_path / "m.csv", text.encode(encoding)))


def test_other_suffixes_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"ends in \.csv or \.jsonl"):
        tables.read(tmp_path / "m.xlsx")
    with pytest.raises(FileNotFoundError):
        tables.read(tmp_path / "m.csv")


def test_write_refuses_what_read_would_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "m.csv"
    tables.write(pd.DataFrame([line(1)]), path)
    before = path.read_bytes()
    for bad in ([line(1), line(1)], [line(1, length="x")], [{"key": "a"}]):
        with pytest.raises(ManifestError):
            tables.write(pd.DataFrame(bad), path)
    with pytest.raises(ManifestError, match="no rows"):
        tables.write(tables.read(path).iloc[:0], path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.csv"]


def test_truth_in_a_text_is_no_number_and_numbers_are_exact(tmp_path):
    values = [0.1, 1 / 3, 2**-40, 123456.789, 5e-7]
    rows = [line(i, length=x, text="It is true.", fold=i) for i, x in enumerate(values)]
    tables.write(pd.DataFrame(rows), tmp_path / "m.csv")
    df = tables.read(tmp_path / "m.csv")
    assert df["length"].tolist() == values and df["fold"].tolist() == list(range(5))
    assert df["fold"].dtype == "Int64" and df["turn"].isna().all() and df["turn"].dtype == "Int64"


def test_cells_of_a_table_are_not_shared(tmp_path):
    tables.write(pd.DataFrame([line(1), line(2)]), tmp_path / "m.csv")
    df = tables.read(tmp_path / "m.csv")
    df["flags"][0].append("stereo")
    assert df["flags"][1] == []


# names and paths

SPELLED = ["Ann é", " Ann é", "Ann é ", "Ann  é", "ANN É", "ann e\u0301", "Ann\u00a0é", "Ａｎｎ é"]
SPELLED += ["An\u200bn é", "\ufeffAnn é", "Ann é\u00ad"]


@pytest.mark.parametrize("column", tables.NAMES)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_all_spellings_of_a_name_become_the_first(tmp_path, column, suffix):
    spelled = [*SPELLED, "7.0", "7", "d-07", "d-7.00", "d-7", "d-7.5", "  ", "\u200b"]
    rows = [line(i, **{column: name}) for i, name in enumerate(spelled)]
    text = json.dumps if suffix == "jsonl" else None
    path = tmp_path / f"m.{suffix}"
    if text:
        save(path, "".join(text(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    df = tables.read(path)
    right = ["Ann é"] * len(SPELLED) + ["7", "7", "d-07", "d-7", "d-7", "d-7.5", None, None]
    assert df[column].tolist() == right
    assert df["key"].tolist() == [row["key"] for row in rows]
    tables.write(df, path)
    assert tables.read(path)[column].tolist() == right  # once is enough


def test_clean_is_clean():
    rng = np.random.default_rng(0)
    odd = [0xA0, 0xAD, 0x301, 0x200B, 0x3000, 0xFB01, 0xFF21, 0x345, 0x1E9E, 0x130, 0x3A3]
    for _ in range(1000):
        name = "".join(map(chr, rng.choice([*range(32, 127), *odd, *odd], 8)))
        once, same = spelling.clean(name), spelling.identity(name)
        assert spelling.clean(once) == once and spelling.identity(once) == same
        assert spelling.identity(same) == same == spelling.identity(once.upper())


@pytest.mark.parametrize("wav", ["a/x.wav", "./a/x.wav", "a//x.wav", "a/./x.wav", ".//a/././x.wav"])
def test_a_path_has_one_spelling(tmp_path, wav):
    path = save_csv(tmp_path / "m.csv", HEADER, f"k,d,1,{wav},1,fear,s,g")
    assert tables.read(path)["wav"][0] == "a/x.wav"


@pytest.mark.parametrize("wav", ["/a/x.wav", "..", "a/../x.wav", "a./x.wav", ".a/x.wav"])
def test_paths_that_lead_elsewhere_stay_what_they_are(tmp_path, wav):
    path = save_csv(tmp_path / "m.csv", HEADER, f"k,d,1,{wav},1,fear,s,g")
    assert tables.read(path)["wav"][0] == wav


def test_columns_of_ones_own_travel(tmp_path):
    """What only looks a little like a column, or stands beside it, is no mistake."""
    own = "age_group,page_number,folder,channel_gain,speaker_height,text_length,rating,note,intent"
    path = save_csv(tmp_path / "m.csv", f"{HEADER},{own},dialog,dialogue", f"{GOOD},{own},d,d-1")
    assert {*own.split(","), "dialog"} <= {*tables.read(path)}


# digest


def test_digest_follows_cells_and_row_order_only(tmp_path):
    dist = {"anger": 0.5, "sadness": 0.5}
    df = pd.DataFrame([line(1, extra="x", own="y", emotion_dist=dist), line(2)])
    before = tables.digest(df)
    assert len(before) == 12
    assert tables.digest(df[df.columns[::-1]]) == before
    assert tables.digest(df.assign(age=None)) == before  # an empty column is no content
    assert tables.digest(df.set_index(np.array([5, 3]))) == before
    tables.write(df, tmp_path / "m.csv")
    assert tables.digest(tables.read(tmp_path / "m.csv")) == before
    swapped = df.assign(emotion_dist=[{"sadness": 0.5, "anger": 0.5}, None])
    assert tables.digest(swapped) == before  # the order inside an object is no content
    changes = [df.iloc[::-1], df.assign(extra="y"), df.assign(length=[1.5, 1.5000000000000002])]
    changes += [df.rename(columns={"extra": "other"}), df.iloc[:1], df.assign(turn=1)]
    assert len({before, *(tables.digest(change) for change in changes)}) == 7


# EmoBox


EMOBOX = (
    '{"key": "iemocap-Ses01F_impro04_F000", "dataset": "iemocap", "wav": "downloads/iemocap/'
    'x_F000.wav", "type": "raw", "sample_rate": 16000, "num_frame": 70312.0, "task": "category", '
    '"length": 4.3945, "emo": "exc", "channel": 1}\n'
    '{"key": "iemocap-Ses01F_impro04_F001", "dataset": "iemocap", "wav": "downloads/iemocap/'
    'x_F001.wav", "type": "raw", "sample_rate": 16000, "num_frame": 70482.0, "task": "category", '
    '"length": 4.405125, "emo": "neu", "channel": 2, "start_time": 0.5, "end_time": 4.5}\n'
)


def test_emobox_comes_in(tmp_path):
    df = emobox.from_emobox(save(tmp_path / "in.jsonl", EMOBOX))
    assert df["utt_id"].tolist() == ["Ses01F_impro04_F000", "Ses01F_impro04_F001"]
    assert df["emotion"].tolist() == ["excitement", "neutral"] and df["emo"][0] == "exc"
    assert df["speaker"].isna().all() and df["group"].isna().all()
    assert tables.rows(df)[1]["start"] == 0.5 and tables.rows(df)[0]["num_frame"] == 70312


def test_older_emobox_schema_and_rounding(tmp_path):
    old = {"key": "emodb-03a", "dataset": "emodb", "audio": "w/03a.wav", "type": "raw"}
    old |= {"sample_rate": 16000, "num_frame": 65037.00000000001, "label": "boredem", "own": "x"}
    df = emobox.from_emobox(save(tmp_path / "in.jsonl", json.dumps(old)))
    row = tables.rows(df)[0]
    assert row["wav"] == "w/03a.wav" and row["num_frame"] == 65037 and row["own"] == "x"
    assert row["emotion"] == "boredom" and row["length"] == pytest.approx(65037 / 16000)


def test_emobox_labels_can_be_named(tmp_path):
    path = save(tmp_path / "in.jsonl", EMOBOX)
    df = emobox.from_emobox(path, {"exc": "happiness", "neu": None})
    assert df["emotion"].tolist() == ["happiness", None]


def test_emobox_refuses_other_files(tmp_path):
    with pytest.raises(ManifestError, match="no EmoBox file: .*num_frame"):
        emobox.from_emobox(save(tmp_path / "in.jsonl", json.dumps(line(1))))
