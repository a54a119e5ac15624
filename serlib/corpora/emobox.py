"""EmoBox's manifests of 32 corpora: one with its speakers and folds.

The card has the layout and the source, read at commit 08280f2 of emo-box/EmoBox. Speakers stand in
``.stm`` files; those of IEMOCAP there are the wearers of the markers, so they are read from the
names instead. Most folds share speakers (`serlib manifest audit` counts them).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from serlib.corpora import files
from serlib.data import tables
from serlib.data.tables import EMOTIONS, ManifestError

ROLES = dict(train="train", dev="valid", test="test")  # manifest's word -> EmoBox's
WORDS = {name: name for name in EMOTIONS} | dict(
    ang="anger", angry="anger", hap="happiness", happy="happiness", exc="excitement",
    excited="excitement", neu="neutral", sad="sadness", fru="frustration", frustrated="frustration",
    sur="surprise", surprised="surprise", fea="fear", fearful="fear", dis="disgust",
    disgusted="disgust", bored="boredom", boredem="boredom", oth="other", xxx="no_agreement",
    joy="happiness", joyful="happiness", scared="fear", afraid="fear", others="other",
    pleasant_surprise="surprise", ps="surprise",
    gio="happiness", pau="fear", rab="anger", sor="surprise", tri="sadness",  # EMOVO's, Italian
)  # fmt: skip
_KEYS = (r"^(\S+) ", r"<id=([^,>]+)")  # the id has the blanks of a name, where there is one
_IEMOCAP = re.compile(r"(Ses0\d)[FM]_\w+_([FM])\d{3}")


def emotion(word: str) -> str | None:
    """The emotion that a usual English word or a code of IEMOCAP or EMOVO names, or None.

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
    df, speakers = from_emobox(path, _label_map(folder)), speakers_of(folder)
    df["speaker"] = [
        "".join(name.groups()) if (name := _IEMOCAP.fullmatch(utt or "")) else speakers.get(key)
        for key, utt in zip(df["key"], df["utt_id"], strict=True)
    ]
    _folds(df, folder)
    df["dataset_version"] = "emobox"
    return files.rows(version, df.drop(columns="group"), [])


def _label_map(folder: Path) -> dict[str, str | None]:
    """EmoBox's own names of a corpus's labels, by the label as it is and in lower case."""
    path = files.child(folder, "label_map.json", "label_dict.json")
    try:
        titles = json.loads(files.text(path)) if path else {}
        named = {label: emotion(title.replace(" ", "_")) for label, title in titles.items()}
        return {label.lower(): name for label, name in named.items()} | named
    except (ValueError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path} is no map of labels ({error}): copy it again") from error


def speakers_of(folder: Path) -> dict[str, str]:
    """Key -> speaker, from the .stm files in a corpus's folder; empty if there are none."""
    text = "\n".join(files.text(folder / name) for name in files.names(folder, ".stm"))
    found = (re.findall(f"{key}.*?spk=([^,>]+)", text, re.MULTILINE) for key in _KEYS)
    return {key: speaker for pairs in found for key, speaker in pairs}


def _folds(df: pd.DataFrame, folder: Path) -> None:
    found = (re.fullmatch(r"fold_(\d+)", name) for name in files.names(folder))
    numbers = sorted(int(match[1]) for match in found if match)
    for number in numbers:
        for split, word in ROLES.items():
            names = [f"{folder.name}_{word}_fold{_}{number}.jsonl" for _ in ("_", "")]
            path = files.child(folder / f"fold_{number}", *names)
            inside = df["key"].isin(files.jsonl(path).get("key", ()) if path else ())
            if len(numbers) == 1:
                df.loc[inside, "split"] = split
            elif split == "test":
                df.loc[inside, "fold"] = number


def from_emobox(path: str | os.PathLike, emotions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read an EmoBox JSONL file, of the older schema too ("audio", "label", no length).

    EmoBox knows neither speaker nor group: fill in both before you split. `num_frame` is rounded
    (it is often a float beside the whole number); other fields travel along. `emotions` maps native
    labels, in any case, to names in `EMOTIONS`; of the others the usual English words and known
    codes are taken, and the rest leaves `emotion` missing.
    """
    df = files.jsonl(path)
    try:
        df = df.rename(columns=dict(audio="wav", label="emo", start_time="start", end_time="end"))
        if absent := {"key", "dataset", "wav", "emo", "num_frame", "sample_rate"} - set(df):
            raise ManifestError(f"no EmoBox file: {', '.join(sorted(absent))} missing")
        if "length" not in df:
            df["length"] = df["num_frame"] / df["sample_rate"]
        df["num_frame"] = df["num_frame"].astype(float).round()
        df["utt_id"] = df.apply(lambda r: r["key"].removeprefix(f"{r['dataset']}-"), axis=1)
        emotions, native = emotions or {}, [str(emo) for emo in df["emo"]]
        df["emotion"] = [emotions.get(e, emotions.get(e.lower(), emotion(e))) for e in native]
        return tables.typed(df.assign(speaker=None, group=None))
    except (ValueError, TypeError, AttributeError) as error:  # cells of other kinds
        raise ManifestError(f"{path}: {error}") from error
