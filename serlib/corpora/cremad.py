"""CREMA-D: 91 actors, twelve sentences, six emotions; what was acted, and what was heard.

The card has the layout and the source. Acted and heard differ much: by the voice alone, more than
half of the recordings sound neutral to most listeners. So each result must say which it used.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files
from serlib.data.tables import ManifestError

DATASET = "cremad"
CARD = cards.read(DATASET)
EMOTIONS, TEXTS = CARD.labels, CARD.texts
HEARD = {code[0]: emotion for code, emotion in EMOTIONS.items()}
# The level X is a slip for XX in older copies (1040_ITH_SAD_X).
NAME = re.compile(
    rf"(?P<speaker>1\d{{3}})_(?P<text>{'|'.join(TEXTS)})_(?P<emo>{'|'.join(EMOTIONS)})_"
    r"(?P<intensity>XX|LO|MD|HI|X)"
)
VERSIONS = ("acted", "perceived")
FOLDS = 5


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every recording.

    `emotion` is what was acted, or with ``version="perceived"`` what most listeners heard in the
    voice alone; a tie of listeners is no_agreement. The columns `acted` and `perceived` hold
    both, as far as the copy has them. `fold` deals the actors into five folds by their number (our
    choice).

    Raises:
        ManifestError: If there is no recording; if the version is another; if the listeners'
            labels are asked for and not there.
    """
    if version and version not in VERSIONS:
        raise ManifestError(f"no labels {version!r}: use version {' or '.join(VERSIONS)}")
    folder = files.child(root, "AudioWAV") or root
    df, odd = files.acted(root, [folder], NAME, "AudioWAV/1001_IEO_ANG_HI.wav", TEXTS)
    df["fold"] = (df["speaker"].astype(int) - 1001) % FOLDS + 1
    notes = _people(df, root)
    df = files.rows(DATASET, df, notes + odd, EMOTIONS)
    df["acted"] = df["emotion"]
    df.attrs["notes"] += _hear(df, root, version)
    return df


def _people(df: pd.DataFrame, root: Path) -> list[str]:
    """Add gender and age of the actors; remarks."""
    path = files.child(root, "VideoDemographics.csv")
    if path is None:
        df[["gender", "age"]] = None
        return ["no VideoDemographics.csv: gender and age are missing"]
    table = files.table(path, ("ActorID", "Age", "Sex"))
    odd = ~(table["Sex"].str.lower().isin(["female", "male"]) & table["Age"].str.isdigit().eq(True))
    if odd.any():
        row = int(odd.argmax())
        said = f"Sex {table['Sex'][row]}, Age {table['Age'][row]}"
        raise ManifestError(f"{path}, row {row + 1}: {said}: it needs a sex and whole years")
    people = table.drop_duplicates("ActorID", keep="last").set_index("ActorID")
    df["gender"] = df["speaker"].map(people["Sex"].str.lower())
    df["age"] = df["speaker"].map(people["Age"].astype(int))
    return []


def _hear(df: pd.DataFrame, root: Path, version: str) -> list[str]:
    """Add what listeners heard, and make it the label if asked to; remarks."""
    folder = files.child(root, "processedResults")
    path = files.child(folder, "summaryTable.csv") if folder else None
    df["dataset_version"] = version or "acted"
    if path is None:
        if version == "perceived":
            raise ManifestError(f"no processedResults/summaryTable.csv in {root}: get it too")
        return ["no processedResults/summaryTable.csv: what listeners heard is missing"]
    table = files.table(path, ("FileName", "VoiceVote"))
    votes = dict(zip(table["FileName"].str.removesuffix(".wav"), table["VoiceVote"], strict=True))
    vote = df["utt_id"].map(votes)
    # A tie is written "N:S".
    df["perceived"] = vote.map(lambda v: HEARD.get(v, "no_agreement") if isinstance(v, str) else v)
    if version == "perceived":
        df["emo"], df["emotion"] = vote, df["perceived"]
        df["emotion_source"] = "perceived_voice"
    without = int(vote.isna().sum())
    return [f"{without} recordings are not in summaryTable.csv"] * bool(without)
