"""The demo corpus in the layouts of IEMOCAP and MSP-Podcast.

IEMOCAP has five pairs of talkers and no contempt: its sessions are the demo corpus's pairs 1 to 5,
contempt goes under frustration, and lively happiness under excitement. MSP-Podcast has all of it.
Grammars as quoted by public readers of the two releases; no label or text of either is here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from tests.trees.treekit import Tree, TreeError, choose, csv_text, split_mean

SCENES = (
    "impro01 impro02 impro05a impro05b impro08a script01_1 script01_1b script01_2 script02_1 "
    "script03_2"
).split()  # of the demo corpus's dialogues 1 to 10
IEMOCAP_EMOTIONS = {
    "anger": ("ang", "Anger"), "happiness": ("hap", "Happiness"),
    "excitement": ("exc", "Excited"), "neutral": ("neu", "Neutral"), "sadness": ("sad", "Sadness"),
    "fear": ("fea", "Fear"), "disgust": ("dis", "Disgust"), "surprise": ("sur", "Surprise"),
    "frustration": ("fru", "Frustration"), "other": ("oth", "Other"), "no_agreement": ("xxx", ""),
}  # fmt: skip
LIVELY = 5.0  # arousal from which happiness is called excitement
ASIDE = ("MOCAP_hand", "MOCAP_head", "MOCAP_rotated", "avi", "lab")  # folders without use here

MSP_EMOTIONS = {
    "anger": ("A", "Angry"), "sadness": ("S", "Sad"), "happiness": ("H", "Happy"),
    "surprise": ("U", "Surprise"), "fear": ("F", "Fear"), "disgust": ("D", "Disgust"),
    "contempt": ("C", "Contempt"), "neutral": ("N", "Neutral"), "other": ("O", "Other-confused"),
    "no_agreement": ("X", ""),
}  # fmt: skip
MSP_VERSIONS = ("1.6", "1.8", "1.11", "1.12", "2.0", "is2025")
UNKNOWN_PAIRS = (9, 10)  # of train: some of their rows do not name the speaker
SECRET_PAIRS = (19, 20)  # of test: audio only, as Test3


def iemocap(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """IEMOCAP's full release; see `tests.trees.trees.write`.

    Names keep the turns' numbers; `turn` counts those that are there. With `flaws`: a turn without
    its wav, one labeled `oth`, turns named XX0 and lines without a name among the transcripts,
    AppleDouble twins, folders inside EmoEvaluation, self-reports with several labels or a number
    missing.
    """
    tree = Tree("iemocap", root)
    rows = choose(n, pairs=range(1, 6))
    odd = next((r for r in rows if r["emotion"] == "no_agreement"), None) if flaws else None
    lost = rows[-1] if flaws else None
    dialogues: dict[tuple[int, str], list[tuple[str, dict, str]]] = {}
    for row in rows:
        dialogue = f"Ses{row['pair']:02d}{row['utt_id'][6]}_{SCENES[row['scene'] - 1]}"
        utt = f"{dialogue}_{row['utt_id'][-4:]}"
        emotion = "other" if row is odd else _iemocap_emotion(row)
        wav = f"Session{row['pair']}/sentences/wav/{dialogue}/{utt}.wav"
        dialogues.setdefault((row["pair"], dialogue), []).append((utt, row, emotion))
        if row is not lost:
            tree.wave(wav, row)
        raw = {f"{a}_raw": _on_five(row[a]) for a in ("valence", "arousal", "dominance")}
        tree.expect(
            row, utt, wav, row is not lost, emo=IEMOCAP_EMOTIONS[emotion][0], emotion=emotion,
            speaker=f"Ses{row['pair']:02d}{utt[-4]}", gender=row["gender"], text=row["text"],
            session=f"Ses{row['pair']:02d}", dialogue=dialogue, group=f"Ses{row['pair']:02d}",
            turn=len(dialogues[row["pair"], dialogue]), split=None, fold=row["fold"],
            emotion_dist=_iemocap_dist(row), n_raters=row["n_raters"], **raw,
            **{a.removesuffix("_raw"): round(1 + (x - 1) * 6 / 4, 4) for a, x in raw.items()},
        )  # fmt: skip
    for (session, dialogue), turns in dialogues.items():
        _iemocap_dialogue(tree, f"Session{session}", dialogue, turns, flaws)
    tree.text("Documentation/README.txt", "synthetic speech in IEMOCAP's layout\n")
    return tree.table()


def _iemocap_emotion(row: dict) -> str:
    if row["emotion"] == "happiness" and row["arousal"] >= LIVELY:
        return "excitement"
    return {"contempt": "frustration"}.get(row["emotion"], row["emotion"])


def _iemocap_dist(row: dict) -> dict[str, float]:
    other = {"contempt": "frustration"}
    if row["arousal"] >= LIVELY:
        other["happiness"] = "excitement"
    return {other.get(label, label): share for label, share in row["emotion_dist"].items()}


def _on_five(value: float) -> float:
    """From 1..7 to 1..5, to four digits as the files have it."""
    return round(1 + (value - 1) * 4 / 6, 4)


def _iemocap_dialogue(tree: Tree, session: str, dialogue: str, turns: list, flaws: bool) -> None:
    folder = f"{session}/dialog"
    labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    words, now = [], 6.2901
    for utt, row, emotion in sorted(turns, key=lambda turn: turn[1]["turn"]):
        end = now + row["length"]
        labels.append(_iemocap_block(utt, row, emotion, now, end, flaws))
        words.append(f"{utt} [{now:08.4f}-{end:08.4f}]: {row['text']}\n")
        now = end + 0.5
    evaluation = f"{folder}/EmoEvaluation/{dialogue}.txt"
    transcript = f"{folder}/transcriptions/{dialogue}.txt"
    if flaws:
        words.insert(1, f"{dialogue}_FXX0 [000.5000-001.1000]: Hm.\n")
        words += [f"{dialogue}_MXX1 [{now:08.4f}-{now + 1:08.4f}]: Right.\n", "M: (laughs)\n"]
        for kind in ("Attribute", "Categorical", "Self-evaluation"):
            line = f"{turns[0][0]} :Anger; ()\n"
            tree.text(f"{folder}/EmoEvaluation/{kind}/{dialogue}_e2.txt", line)
        for path in (evaluation, transcript, f"{session}/sentences/wav/{dialogue}/{utt}.wav"):
            tree.apple_double(path)
        for name in ASIDE:
            (tree.root / folder / name).mkdir(parents=True, exist_ok=True)
    tree.text(evaluation, "\n".join(labels))
    tree.text(transcript, "".join(words))


def _iemocap_block(utt: str, row: dict, emotion: str, start: float, end: float, flaws: bool) -> str:
    """One turn of EmoEvaluation: its line, the raters, and the talker's own report."""
    v, a, d = (_on_five(row[name]) for name in ("valence", "arousal", "dominance"))
    code = IEMOCAP_EMOTIONS[emotion][0]
    lines = [f"[{start:.4f} - {end:.4f}]\t{utt}\t{code}\t[{v:.4f}, {a:.4f}, {d:.4f}]"]
    shares = _iemocap_dist(row)
    names = [
        IEMOCAP_EMOTIONS[label][1]
        for label, count in zip(shares, row["votes"].values(), strict=True)
        for _ in range(count)
    ]
    lines += [f"C-E{i}:\t{name};\t()" for i, name in enumerate(names, start=1)]
    own = utt[-4]
    report = "Anger; Frustration;" if flaws and row["turn"] % 2 else "Neutral;"
    lines.append(f"C-{own}1:\t{report}\t(curious)")
    lines += [f"A-E{i}:\tval {v:.0f}; act {a:.0f}; dom  {d:.0f};\t()" for i in (1, 2)]
    lines.append(f"A-{own}1:\tval {v:.0f}; act {a:.0f}; dom  {'' if flaws else 3};\t()")
    return "\n".join(lines) + "\n"


def msp_podcast(root: Path, n: int, flaws: bool, version: str = "1.12") -> pd.DataFrame:
    """MSP-Podcast's release `version`; see `tests.trees.trees.write`.

    Up to 1.8 the labels lie in labels_concensus.csv (so spelled) and name a Validation set, later
    in labels_consensus.csv with Development. The raters' file has a column per field in 1.6 and
    2.0, else one column of text. Pairs 19 and 20 are Test3, audio only; the challenge release
    (is2025) has no other test set. With `flaws`: speakers (and a gender) Unknown, a missing wav, a
    clip of class O, missing and bracketed transcripts, AppleDouble twins.

    Raises:
        TreeError: If `version` is not one of `MSP_VERSIONS`.
    """
    if version not in MSP_VERSIONS:
        raise TreeError(f"no layout for release {version!r}: use {', '.join(MSP_VERSIONS)}")
    tree = Tree("msp-podcast", root)
    rows = choose(n)
    old = version in ("1.6", "1.8")
    challenge = version == "is2025"
    odd = next((r for r in rows if r["emotion"] == "no_agreement"), None) if flaws else None
    named, secret = [], 0
    for row in rows:
        if row["split"] == "test" and (row["pair"] in SECRET_PAIRS or challenge):
            if not old:
                secret += 1
                _msp_secret(tree, row, secret)
            continue
        emotion = "other" if row is odd else row["emotion"]
        named.append((_msp_name(row), row, emotion, _msp_split(row, old)))
    lost = named[0][0] if flaws and not challenge else None
    for number, (name, row, emotion, split) in enumerate(named):
        hidden = flaws and not challenge and row["pair"] in UNKNOWN_PAIRS and number % 2 == 0
        _msp_row(tree, name, row, emotion, split, hidden, name != lost, flaws and number == 1)
    _msp_tables(tree, named, version)
    if flaws:
        tree.apple_double(f"Audios/{named[0][0]}.wav")
        tree.text(f"ForceAligned/{named[0][0]}.TextGrid", 'File type = "ooTextFile"\n')
    tree.text("readme.txt", f"synthetic speech in the layout of MSP-Podcast {version}\n")
    return tree.table()


def _msp_name(row: dict) -> str:
    """The name of a clip: its podcast and its number there, or for some a part between them."""
    podcast = 10 * row["pair"] + row["scene"] - 1
    part = "_0140" if row["scene"] == 10 else ""
    return f"MSP-PODCAST_{podcast:04d}{part}_{row['turn']:04d}"


def _msp_split(row: dict, old: bool) -> str:
    if row["split"] == "test":
        return "Test1" if row["pair"] < 17 else "Test2"
    return {"train": "Train", "dev": "Validation" if old else "Development"}[row["split"]]


def _msp_secret(tree: Tree, row: dict, number: int) -> None:
    name = f"MSP-PODCAST_test3_{number:04d}"
    tree.wave(f"Audios/{name}.wav", row)
    nothing = dict.fromkeys(
        "emo emotion speaker gender text valence arousal dominance emotion_dist n_raters".split()
    )
    # Nobody knows who talks; the corpus's owner keeps Test3's talkers apart from all others.
    tree.expect(row, name, f"Audios/{name}.wav", split="test3", group="podcast-test3", **nothing)


def _msp_row(
    tree: Tree, name: str, row: dict, emotion: str, split: str, hidden: bool, there: bool,
    wordless: bool,
) -> None:  # fmt: skip
    wav = f"Audios/{name}.wav"
    if there:
        tree.wave(wav, row)
    row["spkr"] = "Unknown" if hidden else str(2 * row["pair"] - (row["gender"] == "female"))
    row["sex"] = "Unknown" if hidden else row["gender"].title()
    text = None if wordless else row["text"]
    if text:
        tree.text(f"Transcripts/{name}.txt", f"{text}\n")
    podcast = name.split("_")[1]
    tree.expect(
        row, name, wav, there, emo=MSP_EMOTIONS[emotion][0], emotion=emotion, text=text,
        speaker=None if hidden else row["spkr"], gender=None if hidden else row["gender"],
        group=f"podcast-{podcast}" if hidden else row["spkr"],
        split={"Train": "train", "Test1": "test1", "Test2": "test2"}.get(split, "dev"),
        emotion_dist=row["emotion_dist"], n_raters=row["n_raters"],
        **{a: row[a] for a in ("valence", "arousal", "dominance")},
    )  # fmt: skip


def _msp_tables(tree: Tree, named: list, version: str) -> None:
    """All files of labels."""
    word = "concensus" if version in ("1.6", "1.8") else "consensus"
    fields = "EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split()
    consensus, raters, blocks = {}, [], []
    for name, row, emotion, split in named:
        code = MSP_EMOTIONS[emotion][0]
        a, v, d = (row[attribute] for attribute in ("arousal", "valence", "dominance"))
        cells = (code, a, v, d, row["spkr"], row["sex"], split)
        consensus[f"{name}.wav"] = dict(zip(fields, map(str, cells), strict=True))
        blocks.append(f"{name}.wav; {code}; A:{a:.6f}; V:{v:.6f}; D:{d:.6f};")
        own = _msp_raters(row)
        blocks += [_detail(rater) for rater in own] + [""]
        raters += [[f"{name}.wav", *rater] for rater in own]
    rows = [[name, *cells.values()] for name, cells in consensus.items()]
    tree.text(f"Labels/labels_{word}.csv", csv_text(["FileName", *fields], rows))
    tree.text(f"Labels/labels_{word}.json", json.dumps(consensus, indent=1))
    tree.text("Labels/labels.txt", "\n".join(blocks))
    if version in ("1.6", "2.0"):
        worker = "Workers" if version == "1.6" else "WorkerID"
        head = ["FileName", worker, "EmoClass_Major", "EmoClass_Second", "EmoAct", "EmoVal"]
        tree.text("Labels/labels_detailed.csv", csv_text([*head, "EmoDom"], raters))
    else:
        lines = [[name, _detail(rater)] for name, *rater in raters]
        tree.text("Labels/labels_detailed.csv", csv_text(["FileName", "EmoDetail"], lines))


def _msp_raters(row: dict) -> list[list]:
    """Worker, first choice, other choices, activation, valence, dominance; one row each."""
    choices = [MSP_EMOTIONS[label][1] for label, n in row["votes"].items() for _ in range(n)]
    numbers = [split_mean(row[name]) for name in ("arousal", "valence", "dominance")]
    others = [f"{choices[0]},Concerned", "", *choices[2:]]
    return [
        [f"WORKER{100 * row['pair'] + i:08d}", choice, other, *ratings]
        for i, (choice, other, *ratings) in enumerate(zip(choices, others, *numbers, strict=True))
    ]


def _detail(rater: list) -> str:
    worker, first, others, a, v, d = rater
    return f"{worker}; {first}; {others}; A:{a:.6f}; V:{v:.6f}; D:{d:.6f};"
