"""Changed manifests: each is read as it was meant, refused in one line, or told by `check`.

``SERLIB_FUZZ=5000`` tries so many changes of each kind of file; without it there are a few.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

from serlib.corpora import builder
from serlib.data import manifest, tables
from serlib.data.tables import ManifestError

TRIES = int(os.environ.get("SERLIB_FUZZ", "100"))
N = 6


def truth() -> list[dict]:
    """Rows of which every cell is held by a rule, by another cell, or by nothing but its text."""
    rows = []
    for i in range(N):
        emotion = ("anger", "sadness", "neutral")[i % 3]
        seconds = 2 + i / 4
        rows.append(
            dict(
                key=f"d-{i}", dataset="d", dataset_version="1", utt_id=f"{i}", wav=f"w/{i}.wav",
                sha256=f"{i:x}" * 64, bytes=44 + int(seconds * 32_000), sample_rate=16_000,
                channels=1, num_frame=int(seconds * 16_000), channel=1, start=0.5,
                end=seconds if i % 2 else None,
                length=seconds - 0.5, emo=emotion[:3], emotion=emotion, emotion_source="majority",
                emotion_dist={emotion: 0.75, "fear": 0.25}, n_raters=4, valence=1.0 + i / 2,
                valence_raw=1.0 + i / 3, attr_scale=[1, 5], speaker=f"d-Ann {i % 2}",
                gender="female", age=30 + i, language="eng", text="Oh, it is 5 o'clock.",
                text_source="human", session=f"d-s{i % 2}", dialogue=f"d-d{i % 3}", turn=i,
                group=f"d-Ann {i % 2}", split="train", fold=1 + i % 2, style="acted",
                license="CC0-1.0", flags=[],
            )
        )  # fmt: skip
    return rows


# What a cell, its file or its name may be changed to; a change that keeps the meaning is marked.
INVISIBLE = ["\u200b", "\u00ad", "\ufeff", "\u2060"]
NUMBERS = [
    "-1",
    "0",
    "1e300",
    "1e-9",
    "nan",
    "inf",
    "1,5",
    "0x10",
    "1_0",
    "9" * 400,
    "x",
    "true",
    "²",
]
JUNK = [
    [],
    {},
    [[1]],
    {"a": {"b": 1}},
    {"anger": None},
    {"anger": [1]},
    {"anger": "1"},
    True,
    5,
    "x",
]
WORDS = ["N/A", "-1", "?", "Unknown", "none", "ANGER", "happy", " anger", "F", "Train", "é", "a\tb"]
KEPT = "kept"


def change(rng: np.random.Generator, rows: list[dict]) -> tuple[list[dict], str]:
    """One change to one row, or to a column's name, and what it was; KEPT if the meaning stays."""
    rows = [dict(row) for row in rows]
    i, name = rng.integers(len(rows)), rng.choice(list(rows[0]))
    row, pick = rows[i], lambda options: options[rng.integers(len(options))]
    kind = rng.integers(8)
    if kind == 0:
        name = pick(tables.NAMES)
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in row[name])
        blanks = [f" {row[name]}", f"{row[name]}\u00a0", row[name].replace(" ", "  ")]
        row[name] = pick(
            [*blanks, wide, row[name].upper(), row[name][:3] + pick(INVISIBLE) + row[name][3:]]
        )
        return rows, KEPT
    if kind == 1:
        row["wav"] = pick(["./", ".//", "././"]) + row["wav"].replace("/", pick(["/", "//", "/./"]))
        return rows, KEPT
    if kind == 2:
        meant = pick([n for n in rows[0] if n != "key"])
        names = [
            meant.upper(),
            f" {meant}",
            f"{meant} ",
            meant.title(),
            f"{meant}s",
            meant + meant[-1],
        ]
        new = pick([n for n in names if n not in tables.KINDS])
        return [{new if n == meant else n: cell for n, cell in row.items()} for row in rows], "name"
    if kind == 3:
        other = rows[(i + 1) % len(rows)]
        name = pick(["key", "utt_id", "wav", "sha256", "length", "valence", "emotion"])
        row[name] = other[name]
        return rows, f"{name} of another row"
    if kind == 4:
        name = pick([n for n, k in tables.KINDS.items() if k in ("int", "float") and n in row])
        row[name] = pick(NUMBERS)
    elif kind == 5:
        name = pick(["flags", "attr_scale", "emotion_dist"])
        row[name] = pick(JUNK)
    elif kind == 6:
        name = pick(
            ["speaker", "group", "emotion", "gender", "split", "style", "text_source", "sha256"]
        )
        row[name] = pick(WORDS)
    else:
        row[name] = pick([None, "", "\u0430" + str(row[name]), "../" + str(row[name])])
    return rows, f"{name} = {row[name]!r:.40}"


# Cells that nothing else in a manifest holds: there any value is as good as another.
FREE = set(
    "dataset dataset_version bytes emo language text text_source license session dialogue turn "
    "n_raters age fold channel speaker group gender split style emotion_source sha256 utt_id "
    "key wav".split()
)
NEEDED = ("key", "dataset", "utt_id", "wav", "group", "length")


def save(rows: list[dict], path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    cells = [
        {n: json.dumps(c) if isinstance(c, (list, dict)) else c for n, c in row.items()}
        for row in rows
    ]
    pd.DataFrame(cells, dtype=object).to_csv(path, index=False)


def same(row: dict) -> dict:
    """A row with names as they compare: if the first spelling is changed, all are that one."""
    return row | {name: tables.identity(row[name]) for name in tables.NAMES}


def judge(path, right: list[dict]) -> tuple[str, str]:
    """Refused, told or read, and what was said, or which cells are others now without a word."""
    try:
        df = tables.read(path)
    except ManifestError as error:
        return "refused", str(error)
    if problems := manifest.check(df):
        return "told", "; ".join(problems)
    silent = [
        f"{name}: {was.get(name)!r} is {cell!r}"
        for was, now in zip(right, tables.rows(df), strict=True)
        for name, cell in now.items()
        if was.get(name) != cell and (name in NEEDED if cell is None else name not in FREE)
    ]
    return ("SILENT", "; ".join(silent)) if silent else ("read", "")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_no_change_is_believed_in_silence(tmp_path, suffix):
    rng, rows = np.random.default_rng(0), truth()
    path = tmp_path / f"m.{suffix}"
    save(rows, path)
    right = tables.rows(tables.read(path))
    assert manifest.check(tables.read(path)) == []
    seen = set()
    for _ in range(TRIES):
        changed, what = change(rng, rows)
        save(changed, path)
        verdict, why = judge(path, right)
        assert verdict != "SILENT", f"{what}: {why}"
        assert "\n" not in why and len(why) < 1500, f"{what}: {why}"
        if what == KEPT:
            assert [same(row) for row in tables.rows(tables.read(path))] == [same(r) for r in right]
        seen.add(verdict)
    assert seen == {"refused", "told", "read"}


BITS = [bytes([i]) for i in b"\0\"\n\r,;{}[]:'#&*?-\\\xff"]
BITS += [
    b"[" * 5000,
    b"\xff\xfe",
    b"9" * 400,
    b"\xe2\x80\x8b",
    b"no",
    b"null",
    b"<<",
    b"(?P<",
    b"*a",
]


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """Bytes that are lost, doubled, changed or put in."""
    a, b = sorted(rng.integers(0, len(whole), 2))
    bit = BITS[rng.integers(len(BITS))]
    ways = [whole[:a], whole[:a] + whole[b:], whole[:b] + whole[a:]]
    ways += [whole[:a] + bit + whole[a + skipped :] for skipped in (0, 1)]
    return ways[rng.integers(len(ways))]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_no_damage_to_a_manifest_is_a_traceback(tmp_path, suffix):
    rng, path = np.random.default_rng(1), tmp_path / f"m.{suffix}"
    save(truth(), path)
    whole = path.read_bytes()
    for _ in range(TRIES):
        path.write_bytes(damaged(rng, whole))
        try:
            problems = manifest.check(tables.read(path))
        except ManifestError as error:
            problems = [str(error)]
        assert all("\n" not in line and len(line) < 1500 for line in problems)


FILES = {
    "folder": {
        "corpus.yaml": "table: t.csv\npattern: '(?P<speaker>.)/.*'\ndataset: mine\n"
        "columns: {text: said}\nlabels: {joy: happiness, '?': null}\nattr_scale: [1, 5]\n"
        "cells: {language: deu, flags: [stereo]}\n",
        "t.csv": "file;label;said;valence;start;age;split\n"
        'x/a.wav;joy;"Oh; no";1,5;0,2;31;train\nx/b.wav;?;;2;;;test\ny/c.wav;sad;Hm;5;1;?;dev\n',
    },
    "audformat": {
        "db.yaml": "name: x\nlanguages: [deu]\naudb: {version: 1.0.0}\n"
        "schemes: {emotion: {labels: [anger]}, said: {labels: {a: Ja}}, speaker: {labels: who},\n"
        "  valence: {minimum: 0, maximum: 1}}\nmisc_tables: {who: {columns: {age: {}}}}\n"
        "tables: {e: {type: segmented, columns: {emotion: {scheme_id: emotion}, valence: {},\n"
        "  speaker: {scheme_id: speaker}, transcription: {scheme_id: said}}}}\n",
        "db.e.csv": "file,start,end,emotion,valence,speaker,transcription\n"
        "a.wav,0 days 00:00:00,0 days 00:00:01.5,anger,0.5,3,a\nb.wav,,,anger,1,4,a\n",
        "db.who.csv": "speaker,age\n3,31\n4,32\n",
    },
    "emobox": {
        "data/m/m.jsonl": '{"key": "m-a", "dataset": "m", "wav": "a.wav", "sample_rate": 16000, '
        '"num_frame": 16000.0, "length": 1.0, "emo": "W", "channel": 1}\n',
        "data/m/label_map.json": '{"W": "Angry"}',
        "data/m/data.seg.wrd.stm": "m-a 1 x 0 1 <id=1,lang=en,spk=ann b,emotion=W> W\n",
        "data/m/fold_1/m_test_fold_1.jsonl": '{"key": "m-a"}\n',
    },
}


@pytest.mark.parametrize("corpus", FILES)
def test_no_damage_to_labels_is_a_traceback(tmp_path, corpus):
    """What a corpus's labels say is read, or refused in one line."""
    rng, whole = np.random.default_rng(2), {n: t.encode() for n, t in FILES[corpus].items()}
    version = "m" if corpus == "emobox" else ""
    for name, content in whole.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert builder.utterances(corpus, tmp_path, version=version)["emotion"].notna().any()
    for i in range(TRIES // 3):
        name = list(whole)[i % len(whole)]
        (tmp_path / name).write_bytes(damaged(rng, whole[name]))
        try:
            builder.utterances(corpus, tmp_path, version=version)
        except ManifestError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500
        (tmp_path / name).write_bytes(whole[name])
