"""What each task is taught: numbers for every utterance, from the columns of a manifest.

Letters: S characters, U utterances.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from serlib.data import text
from serlib.losses.classification import IGNORE
from serlib.tasks import attributes

GENDERS = ("female", "male")
SPEAKER_LABELS = ("true", "prefix", "shuffled")


def speaker_names(table: pd.DataFrame, labels: str, seed: int = 0) -> pd.Series:
    """What counts as the speaker of each row; None where unknown.

    Args:
        table: A manifest; for "shuffled" with a column ``role``.
        labels: "true": the talker. "prefix": the first part of the utterance's name, as in MTLSER's
            code; on IEMOCAP it says who wore the markers. "shuffled": the talkers of each role,
            dealt to its rows at random: a control with the same counts and no information.
        seed: Of the shuffling.
    """
    if labels not in SPEAKER_LABELS:
        raise ValueError(f"speaker_labels={labels!r}, expected one of {SPEAKER_LABELS}.")
    if labels == "prefix":
        return table["utt_id"].str.split("_").str[0]
    names = table["speaker"].astype(object).where(table["speaker"].notna(), None)
    if labels == "shuffled":
        rng = np.random.default_rng(seed)
        names = names.groupby(table["role"].to_numpy()).transform(rng.permutation)
    return names


def speakers(table: pd.DataFrame) -> pd.Series:
    """Who speaks in each row of a manifest, by its key, for predictions and their intervals.

    Whom nobody knows is a speaker of their own, named as the row: where no speaker is known, what
    is over speakers is over utterances.
    """
    named = table.set_index("key")["speaker"].astype(object)
    return named.where(named.notna(), named.index.to_series()).astype(str)


def task_targets(
    table: pd.DataFrame, tasks: tuple[str, ...], speaker_labels: str = "true", seed: int = 0
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Targets of all tasks but the emotion, one per row, and the names of the known speakers.

    Args:
        table: A manifest with a column ``role``; speakers get their numbers from its train rows.
        tasks: See ``recognizer.TASKS``.
        speaker_labels: See ``speaker_names``.
        seed: Of the shuffled ones.

    Returns:
        ``gender`` (U,), ``speaker`` (U,), both IGNORE where unknown; ``tokens`` (U, S) and
        ``n_tokens`` (U,), 0 where there is no usable transcript; ``attributes`` (U, 3), NaN where
        unknown. Speakers who are not trained on are unknown.
    """
    found, names = {}, []
    if "gender" in tasks:
        number = {name: i for i, name in enumerate(GENDERS)}
        found["gender"] = np.array([number.get(g, IGNORE) for g in table["gender"]])
    if "speaker" in tasks:
        speaker = speaker_names(table, speaker_labels, seed)
        names = sorted(speaker[table["role"] == "train"].dropna().unique())
        number = {name: i for i, name in enumerate(names)}
        found["speaker"] = np.array([number.get(s, IGNORE) for s in speaker])
    if "asr" in tasks:
        found["tokens"], found["n_tokens"] = text.pad(table["text"].tolist())
    if "attributes" in tasks:
        found["attributes"] = attributes.targets(table)
    return found, names
