"""EmoBox's manifests of 32 corpora: read one with its talkers and folds, write one's own.

    data/emodb/emodb.jsonl                          one utterance per line, no talker
    data/emodb/data.seg.wrd.stm                     talkers
    data/emodb/fold_1/emodb_test_fold_1.jsonl       folds
    downloads/emodb/wav/03a01Fa.wav                 where the audio is expected

Source: Ma et al., Interspeech 2024, and emo-box/EmoBox at 08280f2. Most of its folds share talkers
(`serlib manifest audit` counts them); IEMOCAP's talkers there are the wearers of the markers, so
they are read from the names instead.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from serlib import records
from serlib.corpora import files
from serlib.data import splits, tables
from serlib.data.tables import EMOTIONS, ManifestError

ROLES = dict(train="train", dev="valid", test="test")  # manifest's word -> EmoBox's
FIELDS = tuple("key dataset wav type sample_rate num_frame task length emo channel".split())
WORDS = {name: name for name in EMOTIONS} | dict(
    ang="anger", angry="anger", hap="happiness", happy="happiness", exc="excitement",
    excited="excitement", neu="neutral", sad="sadness", fru="frustration", frustrated="frustration",
    sur="surprise", surprised="surprise", fea="fear", fearful="fear", dis="disgust",
    disgusted="disgust", bored="boredom", boredem="boredom", oth="other", xxx="no_agreement",
    joy="happiness",
)  # fmt: skip
_TALKER = re.compile(r"spk=([^,>\s]+)")
_IEMOCAP = re.compile(r"(Ses0\d)[FM]_\w+_([FM])\d{3}")


def emotion(word: str) -> str | None:
    """The emotion that a usual English word or a code of IEMOCAP names, or None.

    >>> emotion("Angry"), emotion("exc"), emotion("W")
    ('anger', 'excitement', None)
    """
    return WORDS.get(word.strip().lower())


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """One corpus of an EmoBox checkout.

    `root` holds `data` and, for the audio, `downloads`; `version` is the corpus by EmoBox's name.
    `fold` is the fold whose test part holds the utterance; where there is one fold only, `split`
    says train, dev or test instead.

    Raises:
        ManifestError: If `version` names none of its corpora.
    """
    data = files.need(root, "data", hint="give EmoBox's folder")
    folder = files.child(data, version) if version else None
    path = files.child(folder, f"{version}.jsonl", f"{version}.json") if folder else None
    if path is None:
        known = [name for name in files.names(data) if (data / name).is_dir()]
        raise ManifestError(f"no corpus {version!r} in {data}: use version {', '.join(known)}")
    spelled = files.child(folder, "label_map.json")  # EmoBox's own names of the labels
    titles = json.loads(files.text(spelled)) if spelled else None
    names = titles and {k: emotion(title.replace(" ", "_")) for k, title in titles.items()}
    df = from_emobox(path, names)
    talkers, notes = _talkers(folder), []
    df["speaker"] = [
        "".join(name.groups()) if (name := _IEMOCAP.fullmatch(utt)) else talkers.get(key)
        for key, utt in zip(df["key"], df["utt_id"], strict=True)
    ]
    without = int(df["speaker"].isna().sum())
    notes += [f"{without} utterances name no talker: nothing proves them apart"] * bool(without)
    unlabeled = sorted(set(df["emo"][df["emotion"].isna()].dropna()))
    notes += [f"labels without an emotion: {', '.join(unlabeled)}"] * bool(unlabeled)
    _folds(df, folder)
    df["dataset_version"] = "emobox"
    return files.rows(version, df.drop(columns="group"), notes)


def _talkers(folder: Path) -> dict[str, str]:
    texts = [files.text(folder / name) for name in files.names(folder, ".stm")]
    found = ((line, _TALKER.search(line)) for line in "\n".join(texts).split("\n"))
    return {line.split(maxsplit=1)[0]: talker[1] for line, talker in found if talker}


def _folds(df: pd.DataFrame, folder: Path) -> None:
    found = (re.fullmatch(r"fold_(\d+)", name) for name in files.names(folder))
    numbers = sorted(int(match[1]) for match in found if match)
    for number in numbers:
        for split, word in ROLES.items():
            name = f"{folder.name}_{word}_fold_{number}.jsonl"
            path = files.child(folder / f"fold_{number}", name)
            inside = df["key"].isin(files.jsonl(path).get("key", ()) if path else ())
            if len(numbers) == 1:
                df.loc[inside, "split"] = split
            elif split == "test":
                df.loc[inside, "fold"] = number


def from_emobox(path: str | os.PathLike, emotions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read an EmoBox JSONL file, of the older schema too ("audio", "label", no length).

    EmoBox knows neither speaker nor group: fill in both before you split. `num_frame` is rounded
    (it is often a float beside the whole number); other fields travel along. `emotions` maps native
    labels to names in `EMOTIONS`, and what is not in it leaves `emotion` missing; None knows the
    usual English words and IEMOCAP's codes.
    """
    df = files.jsonl(path)
    try:
        df = df.rename(columns=dict(audio="wav", label="emo", start_time="start", end_time="end"))
        if absent := {"key", "dataset", "wav", "emo", "num_frame", "sample_rate"} - set(df):
            raise ManifestError(f"no EmoBox file: {', '.join(sorted(absent))} missing")
        if "length" not in df:
            df["length"] = df["num_frame"] / df["sample_rate"]
        if emotions is None:
            emotions = {e: emotion(str(e)) for e in df["emo"]}
        df["num_frame"] = df["num_frame"].astype(float).round()
        df["utt_id"] = df.apply(lambda r: r["key"].removeprefix(f"{r['dataset']}-"), axis=1)
        df["emotion"] = [emotions.get(e) for e in df["emo"]]
        return tables.typed(df.assign(speaker=None, group=None))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def write(df: pd.DataFrame, root: Path, *, protocol: str = "session") -> Path:
    """Write a manifest in EmoBox's layout, with the folds of a protocol.

    Rows without an emotion are left out. EmoBox expects the audio below ``downloads/<dataset>`` of
    `root`. Returned is the folder that was written.

    Raises:
        ManifestError: If there are several datasets, or a row lacks what EmoBox needs.
        LeakError: If the folds leak.
    """
    df = df[df["emotion"].notna()].reset_index(drop=True)
    names = df["dataset"].unique()
    if len(names) != 1:
        raise ManifestError(f"EmoBox has one dataset per file, here are {len(names)}: split them")
    name = names[0]
    folder = Path(root) / "data" / name
    parts = [splits.protocol(df, protocol, fold=k) for k in splits.fold_numbers(df, protocol)]
    away = df.assign(wav=f"downloads/{name}/" + df["wav"])
    to_emobox(away, folder / f"{name}.jsonl")
    pairs = df[["emo", "emotion"]].drop_duplicates().to_numpy().tolist()
    titles = {native: emotion.replace("_", " ").title() for native, emotion in pairs}
    (folder / "label_map.json").write_text(json.dumps(titles, indent=4, sort_keys=True))
    lines = [
        f"{row['key']} 1 {row['speaker']} 0 {row['length']} <id={row['key']},"
        f"lang={row['language']},spk={row['speaker'].removeprefix(name + '-')},"
        f"emotion={row['emo']}> {row['emo']}\n"
        for row in tables.rows(df)
        if row["speaker"]
    ]
    (folder / "data.seg.wrd.stm").write_text("".join(lines), encoding="utf-8")
    for number, roles in enumerate(parts, start=1):
        for split, word in ROLES.items():
            if (roles == split).any():
                path = folder / f"fold_{number}" / f"{name}_{word}_fold_{number}.jsonl"
                to_emobox(away[roles == split], path)
    return folder


def to_emobox(df: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write the rows as EmoBox JSONL.

    Raises:
        ManifestError: If a row lacks what EmoBox needs, or leaves open which channel to use.
    """
    lines = []
    for row in tables.rows(tables.typed(df)):
        if row["channel"] is None and row["channels"] in (None, 1):
            row["channel"] = 1
        row = {"type": "raw", "task": "category"} | {k: v for k, v in row.items() if v is not None}
        if absent := [name for name in FIELDS if name not in row]:
            raise ManifestError(f"{row['key']} has no {absent[0]}, which EmoBox needs: add it")
        line = {name: row[name] for name in FIELDS} | {"num_frame": float(row["num_frame"])}
        line |= {f"{k}_time": row[k] for k in ("start", "end") if k in row}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    records.atomic_write(path, "".join(lines))
