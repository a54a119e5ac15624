"""MSP-Podcast: the challenge release (Odyssey 2024, Interspeech 2025), 1.6 to 1.12 and 2.0.

The card has the layout and the source. The columns of attributes are in the order Act, Val, Dom.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from serlib.corpora import cards, files
from serlib.data.spelling import unknown
from serlib.data.tables import ManifestError

DATASET = "msp-podcast"
EMOTIONS = cards.read(DATASET).labels
RATED = {k.lower(): name for code, name in EMOTIONS.items() if code != "X" for k in (code, name)}
RATED |= dict(angry="anger", sad="sadness", happy="happiness")
GENDERS = {"female": "female", "male": "male", "": None}
ATTRIBUTES = {"arousal": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}
NAME = r"^[^_/\\]+_([^_/\\]+)_[^/\\]+$"  # the second field is the podcast
SPELLED = ("consensus", "concensus")  # the second up to release 1.9
_HINT = "give the folder that holds Audios and Labels"


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every labeled turn, X (no agreement) and O (other) too, and Test3 without labels.

    `group` is the speaker, or ``podcast-<second field of the name>`` where the speaker is not
    known: the same voices come back within a podcast. `dialogue` is the podcast in any case.
    `emotion_dist` is the share of raters by their first choice, "Other-..." as other.

    Raises:
        ManifestError: If `root` has no labels, or they are not of this layout.
    """
    labels = files.need(root, "Labels", "Label", hint=_HINT)
    audio = files.need(root, "Audios", "Audio", hint=_HINT)
    table = _consensus(labels)
    wavs = files.names(audio, ".wav")
    blind = sorted({wav for wav in wavs if "test3" in wav.lower()} - set(table["FileName"]))
    nothing = pd.DataFrame({"FileName": blind, "Split_Set": "test3"})
    nothing = nothing.reindex(columns=table.columns, fill_value="")
    df = _rows(pd.concat([table, nothing], ignore_index=True), audio.name)
    podcast = df["utt_id"].str.extract(NAME, expand=False)
    if len(odd := df["utt_id"][podcast.isna()]):
        raise ManifestError(f"no podcast in {odd.iloc[0]!r}: names are like MSP-PODCAST_0001_0008")
    df["dialogue"], turn = f"{DATASET}-" + podcast, df["utt_id"].str.extract(r"_(\d+)$")[0]
    df["turn"] = pd.to_numeric(turn).astype("Int64")
    df["text"] = _texts(root, df["utt_id"])
    votes, unknown = _votes(labels)
    df["n_raters"] = df["utt_id"].map({utt: n for utt, (_, n) in votes.items()})
    df["emotion_dist"] = [votes.get(utt, (None, 0))[0] for utt in df["utt_id"]]
    if version:
        df["dataset_version"] = version
    df = files.rows(DATASET, df, _notes(df, wavs, blind, unknown), EMOTIONS)
    df["group"] = df["speaker"].where(df["speaker"].notna(), "podcast-" + podcast)
    return df


def _consensus(folder: Path) -> pd.DataFrame:
    """One row per file: FileName, EmoClass, EmoAct, EmoVal, EmoDom, SpkrID, Gender, Split_Set."""
    wanted = ["FileName", "EmoClass", *ATTRIBUTES.values(), "SpkrID", "Gender", "Split_Set"]
    names = [f"labels_{word}.{kind}" for kind in ("csv", "json") for word in SPELLED]
    path = files.need(folder, *names, hint="it needs labels_consensus.csv or .json of the release")
    if path.suffix.lower() == ".csv":
        table = files.table(path, wanted).fillna("")
    else:
        try:
            content = json.loads(files.text(path))
            rows = [{**row, "FileName": name} for name, row in content.items()]
        except (ValueError, TypeError, AttributeError) as error:
            raise ManifestError(f"{path} is no JSON by file ({error}): copy it again") from error
        table = pd.DataFrame(rows, dtype=object)
        table = table.where(table.notna(), "").astype(str)
    if absent := [name for name in wanted if name not in table]:
        raise ManifestError(
            f"{path} has no column {', '.join(absent)}: {', '.join(map(str, table))}"
        )
    table = table[wanted].apply(lambda cells: cells.str.strip())
    table["Split_Set"] = table["Split_Set"].str.lower()
    table["Gender"] = ["" if unknown(word) else word.lower() for word in table["Gender"]]
    rows = [f"{path}, row {row}" for row in range(1, len(table) + 1)]
    for column in ATTRIBUTES.values():
        means = files.numbers(table[column].set_axis(rows), decimal=",")  # a point is one too
        table[column] = means.to_numpy()
    for column, known in dict(EmoClass=EMOTIONS, Split_Set=files.SPLITS, Gender=GENDERS).items():
        if odd := sorted(set(table[column]) - set(known)):
            raise ManifestError(
                f"{path}: no {column} {odd[0]!r}: use {', '.join(filter(None, known))}"
            )
    return table


def _rows(table: pd.DataFrame, audio: str) -> pd.DataFrame:
    raw = {k: pd.to_numeric(table[c]) for k, c in ATTRIBUTES.items()}
    return pd.DataFrame(
        dict(
            utt_id=table["FileName"].str.replace(r"(?i)\.wav$", "", regex=True),
            wav=audio + "/" + table["FileName"],
            emo=table["EmoClass"].replace("", None),
            attr_scale=[[1, 7] if code else None for code in table["EmoClass"]],
            **raw, **{f"{k}_raw": x for k, x in raw.items()},
            speaker=[None if unknown(name) else name for name in table["SpkrID"]],
            gender=table["Gender"].map(GENDERS),
            split=table["Split_Set"].map(files.SPLITS),
        )
    )  # fmt: skip


def _texts(root: Path, utterances: pd.Series) -> list[str | None]:
    """Transcripts as they are, but for white space at the ends and line breaks.

    Notes such as [inaudible 00:04:08] stay: `serlib.data.text` drops what stands in brackets.
    """
    folder = files.child(root, "Transcripts", "Transcript")
    known = set(files.names(folder, ".txt"))
    said = (files.text(folder / f"{u}.txt") if f"{u}.txt" in known else "" for u in utterances)
    return [" ".join(text.split()) or None for text in said]


def _votes(folder: Path) -> tuple[dict[str, tuple[dict[str, float], int]], int]:
    """Utterance -> shares of its raters' first choices, and how many they were.

    The second value counts first choices that are no known name; they count as other.
    """
    rated, choices = _ratings(folder)
    words = {spelled: spelled.strip().lower().split("-")[0].strip() for spelled in set(choices)}
    # None for no choice, "" for one that is no known name.
    named = {spelled: RATED.get(word, "") if word else None for spelled, word in words.items()}
    label = pd.Series([named[spelled] for spelled in choices], dtype=object)
    # One row per utterance and one column per emotion, in the order of the alphabet.
    table = pd.crosstab(np.array(rated, dtype=object), label.replace("", "other"))
    votes = {}
    for name, row in zip(table.index, table.to_numpy().tolist(), strict=True):
        dist = {x: round(k / sum(row), 4) for x, k in zip(table, row, strict=True) if k}
        votes[name.removesuffix(".wav")] = dist, sum(row)
    return votes, int((label == "").sum())


def _ratings(folder: Path) -> tuple[list[str], list[str]]:
    """File and first choice of every single rating, from whichever file there is."""
    path = files.child(folder, "labels_detailed.csv")
    if path is None:
        path = files.child(folder, "labels.txt")
        return _blocks(files.text(path)) if path else ([], [])
    header, *rows = csv.reader(io.StringIO(files.text(path), newline=""))
    place = {name.strip(): i for i, name in enumerate(header)}
    rows = [row for row in rows if len(row) > 1]
    if "EmoClass_Major" in place:  # 1.6, and 2.0 with WorkerID
        first = [row[place["EmoClass_Major"]] for row in rows]
    elif "EmoDetail" in place:  # "WORKER00000001; Other-confused; Concerned,Confused; A:3.0; ..."
        first = [(row[place["EmoDetail"]].split(";", 2) + [""])[1] for row in rows]
    else:
        names = ", ".join(place)
        raise ManifestError(f"{path} has neither EmoClass_Major nor EmoDetail, only {names}")
    return [row[place["FileName"]].strip() for row in rows], first


def _blocks(text: str) -> tuple[list[str], list[str]]:
    """labels.txt: a line for the file, then one for each rater, then an empty one."""
    names, first, name = [], [], None
    for line in text.split("\n"):
        fields = [field.strip() for field in line.split(";")]
        if fields[0].lower().endswith(".wav"):
            name = fields[0]
        elif name and len(fields) > 1:
            names.append(name)
            first.append(fields[1])
    return names, first


def _notes(df: pd.DataFrame, wavs: list[str], blind: list[str], unknown: int) -> list[str]:
    unlabeled = len(set(wavs) - set(df["wav"].str.rsplit("/", n=1).str[-1]))
    nobody = df["split"][df["speaker"].isna() & (df["split"] != "test3")]
    by_split = ", ".join(f"{s} {n:,}" for s, n in nobody.value_counts().items())
    found = [
        (unlabeled, "audio files have no labels: not in the manifest"),
        (len(blind), "files of test3 have no labels: rows without emotion"),
        (len(nobody), f"utterances of unknown speakers ({by_split}), grouped by podcast"),
        (unknown, "ratings have a first choice that is no known name: counted as other"),
    ]
    return [f"{n:,} {what}" for n, what in found if n]
