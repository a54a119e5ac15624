"""IEMOCAP, full release: five sessions, in each a woman and a man who act and improvise.

The card has the layout and the source. A name such as ``Ses03M_impro05a_F000`` says: session 3, the
man wears the markers (M), the woman speaks (the last field). The prefix ``Ses03M`` is therefore no
speaker, although much published code takes it for one; and since dialogues are named with and
without a letter, no fixed column holds the speaker either.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from serlib.corpora import cards, files
from serlib.data.tables import ManifestError

DATASET = "iemocap"
EMOTIONS = cards.read(DATASET).labels
RATED = {name: name for name in EMOTIONS.values()} | {"excited": "excitement"}
DIALOGUE = re.compile(r"Ses0([1-5])([FM])_(?:impro\d\d[a-z]?|script\d\d_\d[a-z]?)")
NAME = re.compile(rf"({DIALOGUE.pattern})_([FM])(\d{{3}})")
ATTRIBUTES = ("valence", "arousal", "dominance")  # in the order of the label lines
SCALE = (1, 5)
_HEADER = re.compile(
    r"\[(\d+\.\d+) - (\d+\.\d+)\]\s+(\S+)\s+(\w{3})\s+\[(\d+\.?\d*), (\d+\.?\d*), (\d+\.?\d*)\]"
)
_RATER = re.compile(r"C-E\d+:\s*([^()]*)")  # C-F and C-M are the actors' own reports
_SAID = re.compile(r"(Ses\S+) (?:\[[^]]*\])?:?\s*(.*)")


def utterances(root: Path, *, version: str = "") -> pd.DataFrame:
    """Every labeled turn; `xxx` (no majority) and `oth` too.

    `emotion_dist` is the mean over the external raters, each of whom may name several labels that
    share one vote (our choice). Attributes go from 1..5 to 1..7: x becomes 1 + (x - 1) 6 / 4; means
    outside 1..5, of which the release has seven, are missing and noted. `turn` counts
    the labeled turns of a dialogue in time, both speakers together. The column `scenario` says
    scripted or improvised.

    Raises:
        ManifestError: If there is no session with labels, or a label line is not of this grammar.
    """
    rows, skipped = [], Counter()
    for session in _sessions(root):
        folder = files.child(session / "dialog", "EmoEvaluation")
        known = [n for n in files.names(folder, ".txt") if DIALOGUE.fullmatch(n[:-4])]
        odd = len(files.names(folder, ".txt")) - len(known)
        skipped["files in EmoEvaluation that are not of a dialogue"] += odd
        for name in known:
            rows += _dialogue(folder / name, _transcript(session, name), skipped)
    if not rows:
        raise ManifestError(f"no labels in {root}: Session*/dialog/EmoEvaluation/Ses*.txt is empty")
    df = pd.DataFrame(rows).sort_values(["dialogue", "begin", "utt_id"], ignore_index=True)
    df["turn"] = df.groupby("dialogue").cumcount() + 1
    outside = [_attribute(df, name) for name in ATTRIBUTES]
    df["dataset_version"] = version or "full_release"
    notes = [f"{n} {what}: skipped" for what, n in skipped.items() if n]
    notes += [note for note in outside if note]
    df = df.drop(columns="begin")
    return files.rows(DATASET, df, notes, EMOTIONS, group="session")


def _attribute(df: pd.DataFrame, name: str) -> str:
    """Put an attribute on 1..7, without means outside 1..5; a note that names these, or ""."""
    raw = df[name]
    odd = ~raw.between(*SCALE)
    files.attribute(df, name, raw.mask(odd), *SCALE)
    some = ", ".join(df["utt_id"][odd])
    return f"{odd.sum()} means of {name} outside 1..5: missing ({some})" if some else ""


def _sessions(root: Path) -> list[Path]:
    found = [root / f"Session{s}" for s in range(1, 6)]
    found = [path for path in found if files.child(path / "dialog", "EmoEvaluation")]
    if not found:
        inner = root / "IEMOCAP_full_release"
        where = f"give {inner}" if inner.is_dir() else "give the folder IEMOCAP_full_release"
        raise ManifestError(f"no Session1/dialog/EmoEvaluation in {root}: {where}")
    return found


def _transcript(session: Path, name: str) -> dict[str, str]:
    """Utterance -> what was said; lines without an utterance's name are left out."""
    folder = files.child(session / "dialog", "transcriptions")
    if folder is None or not (folder / name).is_file():
        return {}
    lines = (_SAID.fullmatch(line.strip()) for line in files.text(folder / name).split("\n"))
    return {line[1]: line[2] for line in lines if line}


def _dialogue(path: Path, said: dict[str, str], skipped: Counter) -> list[dict]:
    rows = []
    for line in files.text(path).split("\n"):
        if line.startswith("[") or DIALOGUE.search(line):
            if (header := _HEADER.match(line)) is None:
                raise ManifestError(f"{path}: {line!r} is no label line: compare with the original")
            row = _turn(path, header, said)
            rows += [row] if row else []
            skipped["turns of unclear talkers (XX)"] += row is None
            votes: list[dict[str, float]] = []
        elif rows and row and (rater := _RATER.match(line)):
            votes.append(_vote(rater[1]))
            row["n_raters"] = sum(map(bool, votes)) or None
            row["emotion_dist"] = _mean(votes)
    return rows


def _turn(path: Path, header: re.Match, said: dict[str, str]) -> dict | None:
    begin, _, utt, code, *attributes = header.groups()
    if "XX" in utt:
        return None
    name = NAME.fullmatch(utt)
    if name is None or name[1] != path.stem:
        raise ManifestError(f"{path}: {utt!r} is no utterance of this dialogue")
    if code not in EMOTIONS:
        raise ManifestError(f"{path}: no label {code!r}: use {', '.join(EMOTIONS)}")
    dialogue, number, _, talker, _ = name.groups()
    session, scripted = f"Ses0{number}", "_script" in dialogue
    return dict(
        utt_id=utt, wav=f"Session{number}/sentences/wav/{dialogue}/{utt}.wav", emo=code,
        emotion_dist=None, n_raters=None,
        **dict(zip(ATTRIBUTES, map(float, attributes), strict=True)),
        speaker=session + talker, gender={"F": "female", "M": "male"}[talker],
        text=said.get(utt) or None,
        session=f"{DATASET}-{session}", dialogue=f"{DATASET}-{dialogue}", fold=int(number),
        style="acted" if scripted else "elicited",
        scenario="scripted" if scripted else "improvised", begin=float(begin),
    )  # fmt: skip


def _vote(text: str) -> dict[str, float]:
    """One rater's labels, which share one vote; a name that is not known counts as other."""
    labels = [label.strip().lower().removesuffix(" state") for label in text.split(";")]
    labels = [RATED.get(label, "other") for label in labels if label]
    return {label: labels.count(label) / len(labels) for label in labels}


def _mean(votes: list[dict[str, float]]) -> dict[str, float] | None:
    votes = [vote for vote in votes if vote]
    named = dict.fromkeys(label for vote in votes for label in vote)
    return {x: round(sum(v.get(x, 0) for v in votes) / len(votes), 4) for x in named} or None
