"""The demo corpus in the layouts of the corpora of clips: MELD, EmotiW 2018 and MEIJU 2025.

The clips have the names of videos but hold WAV, which readers recognize by content, so that no
video encoder is needed. Only what the corpora have a class for is taken; none has contempt.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tests.trees.treekit import Tree, choose, csv_text

BROKEN = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64)  # an MP4 that ends after its head
MELD_CODES = dict(
    neutral="neutral", happiness="joy", surprise="surprise", anger="anger", sadness="sadness",
    disgust="disgust", fear="fear",
)  # fmt: skip
MELD_FOLDERS = dict(
    train="train_splits", dev="dev_splits_complete", test="output_repeated_splits_test"
)
FEELING = {"neutral": "neutral", "happiness": "positive", "surprise": "positive"}
EMOTIW_CODES = dict(
    anger="Angry", disgust="Disgust", fear="Fear", happiness="Happy", neutral="Neutral",
    sadness="Sad", surprise="Surprise",
)  # fmt: skip
MEIJU_CODES = dict(
    happiness="happy", surprise="surprise", sadness="sad", disgust="disgust", anger="anger",
    fear="fear", neutral="neutral",
)  # fmt: skip
INTENTS = "questioning agreeing acknowledging encouraging consoling suggesting wishing neutral"
UNLABELED_PAIRS = (10,)  # of train: without labels in MEIJU's tree


def meld(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """MELD.Raw; dialogues are numbered anew in each split.

    With `flaws`: lines spoken in chorus, gaps in "Sr No.", typographic quotes, a clip that cannot
    be decoded, clips named final_videos_test, AppleDouble twins.
    """
    tree = Tree("meld", root)
    rows = choose(n, emotions=MELD_CODES)
    numbers: dict[tuple[str, str], int] = {}
    tables: dict[str, list] = {split: [] for split in MELD_FOLDERS}
    for row in rows:
        split, counted = row["split"], [key for key in numbers if key[0] == row["split"]]
        dialogue = numbers.setdefault((split, row["dialogue"]), len(counted))
        clip = f"dia{dialogue}_utt{row['turn'] - 1}"
        wav = f"{split}/{MELD_FOLDERS[split]}/{clip}.mp4"
        chorus = flaws and len(tables[split]) == 1
        broken = flaws and split == "train" and len(tables[split]) == 2
        if broken:
            tree.data(wav, BROKEN)
        else:
            tree.wave(wav, row, rate=48_000, channels=3)
        text = row["text"].replace("'", "\N{RIGHT SINGLE QUOTATION MARK}") if flaws else row["text"]
        emo, name = MELD_CODES[row["emotion"]], "All" if chorus else row["speaker"]
        tables[split].append(
            [len(tables[split]) * 2 + 1, text, name, emo, FEELING.get(row["emotion"], "negative"),
             dialogue, row["turn"] - 1, row["pair"], row["scene"], "00:00:01,000", "00:00:02,000"]
        )  # fmt: skip
        tree.expect(
            row, f"{split}_{clip}", wav, not broken, emo=emo, emotion=row["emotion"], text=text,
            speaker=None if chorus else name, gender=None, dialogue=f"{split}_dia{dialogue}",
            group=f"{split}_dia{dialogue}", turn=row["turn"], split=split,
        )  # fmt: skip
    head = (
        "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
        "StartTime,EndTime"
    ).split(",")
    for split, lines in tables.items():
        tree.text(f"{split}_sent_emo.csv", csv_text(head, lines))
    if flaws:
        tree.apple_double(tree.answers[0]["wav"])
        tree.data(f"test/{MELD_FOLDERS['test']}/final_videos_testdia0_utt0.mp4", BROKEN)
    return tree.table()


def emotiw2018(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """EmotiW 2018: train and dev in folders of emotions, test without labels.

    With `flaws`: folders of aligned faces, an XML file in Latin-1, a clip that it does not list,
    AppleDouble twins.
    """
    tree = Tree("emotiw2018", root)
    clips: dict[str, list[str]] = {"Train": [], "Val": []}
    for row in choose(n, emotions=EMOTIW_CODES):
        code = EMOTIW_CODES[row["emotion"]]
        stem = f"{row['pair']:02d}{row['scene']:02d}{row['turn']:05d}"
        word = {"train": "Train", "dev": "Val", "test": "Test"}[row["split"]]
        path = f"Test/Test_vid_Distribute/{stem}.avi"
        named = False
        if word != "Test":
            path = f"{word}_AFEW/{code}/{stem}.avi"
            named = not flaws or bool(clips[word])
            clips[word].append(_emotiw_clip(stem, row) if named else "")
        tree.wave(path, row, rate=44_100, channels=2)
        utt = f"{row['split']}_{stem}"
        tree.expect(
            row, utt, path, emo=None if word == "Test" else code,
            emotion=None if word == "Test" else row["emotion"],
            speaker=row["speaker"] if named else None, gender=row["gender"] if named else None,
            group=row["speaker"] if named else utt, split=row["split"],
        )  # fmt: skip
    encoding = "latin-1" if flaws else "utf-8"
    for word, parts in clips.items():
        text = f'<?xml version="1.0"?>\n<Database>\n{"".join(parts)}</Database>\n'
        tree.text(f"{word}_6.xml", text, encoding)
    if flaws:
        tree.data("Train_AFEW/AlignedFaces_LBPTOP_Points/Angry/000046280/001.jpg", b"\xff\xd8")
        tree.apple_double(tree.answers[0]["wav"])
    return tree.table()


def _emotiw_clip(stem: str, row: dict) -> str:
    return (
        f'<Clip Name="{stem}.avi" MovieTitle="Amélie {row["pair"]}"><Length>2</Length>'
        f'<Person NameOfActor="{row["speaker"]}" Gender="{row["gender"].title()}"/></Clip>\n'
    )


def meiju2025(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """MEIJU 2025, track 1, English, below Track1/English; intents are dealt out in turns.

    With `flaws`: a transcription table with one more column in front, a clip without a transcript,
    one that is in a list but not in the folder, AppleDouble twins.
    """
    tree = Tree("meiju2025", root)
    top, lists, said = "Track1/English", {}, {"Training": [], "Validation": []}
    for number, row in enumerate(choose(n, emotions=MEIJU_CODES)):
        word = {"train": "Training", "dev": "Validation", "test": "Testing"}[row["split"]]
        clip, emo = f"{row['utt_id']}.mp4", MEIJU_CODES[row["emotion"]]
        intent = INTENTS.split()[number % 8]
        if row["pair"] in UNLABELED_PAIRS:
            path = f"{top}/NoAnnotation/{clip}"
            tree.wave(path, row)
            tree.expect(
                row, f"unlabelled_{row['utt_id']}", path, emo=None, emotion=None, text=None,
                speaker=None, split="unlabelled",
            )  # fmt: skip
            continue
        path, test = f"{top}/Annotation/{word}/{clip}", word == "Testing"
        wordless, lost = (flaws and len(lists.get(word, ())) == k and not test for k in (1, 2))
        lists.setdefault(word, []).append(clip if test else f"{clip} {emo} {intent}")
        if not lost:
            tree.wave(path, row)
        if not test and not wordless:
            said[word].append([clip, row["text"]])
        tree.expect(
            row, f"{row['split']}_{row['utt_id']}", path, not lost, emo=None if test else emo,
            emotion=None if test else row["emotion"], intent=None if test else intent,
            text=None if test or wordless else row["text"], speaker=None, split=row["split"],
        )  # fmt: skip
    for word, lines in lists.items():
        tree.text(f"{top}/Annotation/{word}_files.txt", "\n".join(lines) + "\n")
    tree.text(
        f"{top}/Annotation/Training_transcription.csv",
        csv_text(["name", "sentence"], said["Training"]),
    )
    tree.text(
        f"{top}/Annotation/Validation_transcription.csv",
        csv_text(["", "name", "sentence"], [[i, *x] for i, x in enumerate(said["Validation"])]),
    )
    if flaws:
        tree.apple_double(tree.answers[0]["wav"])
    return tree.table()
