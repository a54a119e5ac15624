"""EmoDB, the Berlin Database of Emotional Speech: ten actors, ten sentences, seven emotions.

The card has the layout and the source. ``erkennung.txt`` tells how many of 20 listeners named the
emotion, and found it natural. The genders are those of audEERING's table since its release 1.1.1;
the one before had four of them wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files

DATASET = "emodb"
CARD = cards.read(DATASET)
EMOTIONS, TEXTS = CARD.labels, CARD.texts
SPEAKERS = {  # gender, age in years, fold: a woman and a man each (our choice)
    "03": ("male", 31, 1), "08": ("female", 34, 1), "09": ("female", 21, 2), "10": ("male", 32, 2),
    "11": ("male", 26, 3), "13": ("female", 32, 3), "12": ("male", 30, 4), "14": ("female", 35, 4),
    "15": ("male", 25, 5), "16": ("female", 31, 5),
}  # fmt: skip
NAME = re.compile(
    rf"(?P<speaker>{'|'.join(SPEAKERS)})(?P<text>{'|'.join(TEXTS)})(?P<emo>[{''.join(EMOTIONS)}])[a-z]"
)
# "3  \t03a01Fa.wav\t90,00     \t75,00": padded with no-break spaces, decimal commas, Latin-1.
_RATED = re.compile(r"^\d+\s*\t(\w+)\.wav\s*\t(\d+[.,]?\d*)\s*\t(\d+[.,]?\d*)", re.MULTILINE)


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every recording; `recognized` and `natural` are the listening test's shares, 0..1.

    `fold` puts a woman and a man in each of five folds (our choice; the corpus has no split).

    Raises:
        ManifestError: If there is no recording.
    """
    folder = files.child(root, "wav") or root
    df, notes = files.acted(root, [folder], NAME, "wav/03a01Fa.wav", TEXTS)
    known = pd.DataFrame.from_dict(SPEAKERS, "index", columns=["gender", "age", "fold"])
    df = files.rows(DATASET, df.join(known, on="speaker"), notes, EMOTIONS)
    table = files.child(root, "erkennung.txt")
    if table is None:
        df.attrs["notes"].append("no erkennung.txt: shares of the listening test are missing")
    else:
        number = lambda cell: float(cell.replace(",", ".")) / 100  # noqa: E731
        found = {m[1]: (number(m[2]), number(m[3])) for m in _RATED.finditer(files.text(table))}
        shares = [found.get(utt, (None, None)) for utt in df["utt_id"]]
        df[["recognized", "natural"]] = pd.DataFrame(shares, dtype="float64", index=df.index)
        if unrated := int(df["recognized"].isna().sum()):
            df.attrs["notes"].append(f"{unrated} recordings have no shares in erkennung.txt")
    return df
