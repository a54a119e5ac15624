"""The demo corpus in the layouts of the acted corpora EmoDB, RAVDESS and CREMA-D.

What was acted is the demo corpus's `intended` class, what was heard is what its raters chose. The
words are not those of the prompts, which the file names give; contempt goes under boredom in
EmoDB and under calm in RAVDESS, which have no contempt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.trees.treekit import Tree, choose, csv_text, riff

EMODB_CODES = dict(
    anger="W", contempt="L", disgust="E", fear="A", happiness="F", sadness="T", neutral="N"
)
EMODB_WOMEN = ("08", "09", "13", "14", "16")  # speakers of pairs 1 to 5
EMODB_MEN = ("03", "10", "11", "12", "15")
EMODB_TEXTS = "a01 a02 a04 a05 a07 b01 b02 b03 b09 b10".split()
RAVDESS_CODES = dict(
    neutral="01", contempt="02", happiness="03", sadness="04", anger="05", fear="06", disgust="07",
    surprise="08",
)  # fmt: skip
CREMAD_CODES = dict(
    anger="ANG", disgust="DIS", fear="FEA", happiness="HAP", neutral="NEU", sadness="SAD"
)
CREMAD_TEXTS = "IEO TIE IOM IWW TAI MTI IWL ITH DFA ITS TSI WSI".split()
SILENCE = "1076_MTI_SAD_XX"  # without sound in the corpus itself


def _nth(rows: list[dict]) -> list[tuple[int, dict]]:
    """Each row with its number among those of its talker and intended class."""
    seen: dict[tuple, int] = {}
    numbered = []
    for row in rows:
        key = row["speaker"], row["intended"]
        seen[key] = seen.get(key, -1) + 1
        numbered.append((seen[key], row))
    return numbered


def emodb(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """EmoDB; its ten speakers are the demo corpus's pairs 1 to 5.

    With `flaws`: a chunk PAD before the samples of some files, AppleDouble twins, a wav with
    another name, and in erkennung.txt recordings that are not in the corpus.
    """
    tree = Tree("emodb", root)
    rated = ["Nr.\tSatz\terkannt\tnatuerlich"]
    for k, row in _nth(choose(n, pairs=range(1, 6), label="intended", emotions=EMODB_CODES)):
        women = row["gender"] == "female"
        speaker = (EMODB_WOMEN if women else EMODB_MEN)[row["pair"] - 1]
        code = EMODB_CODES[row["intended"]]
        utt = f"{speaker}{EMODB_TEXTS[k % 10]}{code}{'abcdefgh'[k // 10]}"
        pad = (b"PAD ", 4044) if flaws and len(tree.answers) % 9 == 0 else None
        tree.wave(f"wav/{utt}.wav", row, before=pad)
        heard = row["votes"].get(row["intended"], 0) / sum(row["votes"].values())
        cell = f"{100 * heard:.2f}".replace(".", ",") + "\N{NO-BREAK SPACE}" * 5
        rated.append(f"{len(rated)}\N{NO-BREAK SPACE} \t{utt}.wav\t{cell}\t75,00")
        tree.expect(
            row, utt, f"wav/{utt}.wav", emo=code, speaker=speaker, gender=row["gender"],
            emotion="boredom" if row["intended"] == "contempt" else row["intended"],
            group=speaker, fold=row["fold"], recognized=heard,
        )  # fmt: skip
    if flaws:
        rated.append(f"{len(rated)}\t16b10Zz.wav\t20,00\t30,00")
        tree.apple_double(f"wav/{utt}.wav")
        tree.data("wav/probe.wav", riff(np.zeros(1600, np.int16)))
        tree.text("erklaerung.txt", "20 Hörer\n", "latin-1")
    tree.text("erkennung.txt", "\r\n".join(rated), "latin-1")
    return tree.table()


def ravdess(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """RAVDESS's speech; actors 2p - 1 (a man) and 2p (a woman) are pair p, up to 12.

    All files are at 48 kHz and have a chunk FLLR before the samples. With `flaws`: a stereo file,
    two equal files of one actor, a song, AppleDouble twins, and one actor's folder a second time in
    another folder, as in copies from Kaggle.
    """
    tree = Tree("ravdess", root)
    rows = choose(n, pairs=range(1, 13), label="intended", emotions=RAVDESS_CODES)
    form = dict(rate=48_000, before=(b"FLLR", 4044))
    names = []
    for k, row in _nth(rows):
        actor = 2 * row["pair"] - (row["gender"] == "male")
        code = RAVDESS_CODES[row["intended"]]
        if k >= (4 if code == "01" else 8):
            continue  # an actor has no more recordings of this class
        statement, repetition, intensity = (1 + (k >> bit) % 2 for bit in range(3))
        utt = f"03-01-{code}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        wav = f"Actor_{actor:02d}/{utt}.wav"
        names.append((wav, row))
        tree.wave(wav, row, **form, channels=2 if flaws and len(names) == 2 else 1)
        tree.expect(
            row, utt, wav, emo=code, speaker=f"{actor:02d}", gender=row["gender"],
            emotion="calm" if row["intended"] == "contempt" else row["intended"],
            intensity=f"{intensity:02d}", group=f"{actor:02d}", fold=(actor - 1) // 4 + 1,
            channels=2 if flaws and len(names) == 2 else 1,
        )  # fmt: skip
    if flaws:
        _ravdess_flaws(tree, *names[0])
    return tree.table()


def _ravdess_flaws(tree: Tree, wav: str, row: dict) -> None:
    folder, name = wav.split("/")
    data = (tree.root / wav).read_bytes()
    tree.data(f"{folder}/{name.replace('03-01-', '03-02-', 1)}", data)
    tree.data(f"audio_speech_actors_01-24/{wav}", data)
    tree.apple_double(wav)
    first = tree.answers[0]
    other = name[:-9] + "02" + name[-7:]  # the second repetition, byte for byte the first
    if other not in {answer["utt_id"] + ".wav" for answer in tree.answers}:
        tree.data(f"{folder}/{other}", data)
        tree.answers.append(first | dict(utt_id=other[:-4], wav=f"{folder}/{other}"))


def cremad(root: Path, n: int, flaws: bool) -> pd.DataFrame:
    """CREMA-D; actors 1000 + 2p - 1 (a woman) and 1000 + 2p (a man) are pair p.

    Only utterances are taken whose raters chose among CREMA-D's six classes. The column
    `perceived` of the answers is what they heard. With `flaws`: equal audio under two labels, a
    file of silence, AppleDouble twins, an actor whom the demographics lack.
    """
    tree = Tree("cremad", root)
    rows = choose(n, label="intended", emotions=CREMAD_CODES, keep=_heard)
    numbered = [(k, row) for k, row in _nth(rows) if k < 14]
    lost = max(_cremad_actor(row) for _, row in numbered) if flaws else 0
    table = []
    for k, row in numbered:
        actor, code = _cremad_actor(row), CREMAD_CODES[row["intended"]]
        sentence = CREMAD_TEXTS[max(0, k - 2)]
        level = ("LO", "MD", "HI")[k] if k < 3 and code != "NEU" else "XX"
        if code == "NEU" and k in (1, 2):
            continue  # all would be IEO_NEU_XX
        utt = f"{actor}_{sentence}_{code}_{level}"
        tree.wave(f"AudioWAV/{utt}.wav", row)
        _cremad_answer(tree, row, utt, _heard(row), actor == lost)
        table.append([utt, _heard(row)])
    people = {_cremad_actor(row): row["gender"].title() for _, row in numbered}
    if flaws:
        _cremad_flaws(tree, table, numbered[0][1], people)
    known = [[a, 30, sex, "Unknown", "Unknown"] for a, sex in sorted(people.items()) if a != lost]
    head = ["ActorID", "Age", "Sex", "Race", "Ethnicity"]
    tree.text("VideoDemographics.csv", csv_text(head, known))
    head = ["", "FileName", "VoiceVote", "VoiceLevel"]
    lines = [[i, *line, 60] for i, line in enumerate(table, start=1)]
    tree.text("processedResults/summaryTable.csv", csv_text(head, lines))
    return tree.table()


def _cremad_actor(row: dict) -> int:
    return 1000 + 2 * row["pair"] - (row["gender"] == "female")


def _heard(row: dict) -> str:
    """The letters of the classes most raters chose, "A:S" in a tie; "" if one is not CREMA-D's."""
    top = max(row["votes"].values())
    tied = [label for label, count in row["votes"].items() if count == top]
    return ":".join(CREMAD_CODES[x][0] for x in tied) if set(tied) <= set(CREMAD_CODES) else ""


def _cremad_answer(tree: Tree, row: dict, utt: str, vote: str, lost: bool) -> None:
    actor, _, code, level = utt.split("_")
    heard = {code[0]: label for label, code in CREMAD_CODES.items()}
    tree.expect(
        row, utt, f"AudioWAV/{utt}.wav", emo=code, emotion=row["intended"], intensity=level,
        speaker=actor, gender=None if lost else row["gender"], group=actor,
        fold=(int(actor) - 1001) % 5 + 1, perceived=heard.get(vote, "no_agreement"),
    )  # fmt: skip


def _cremad_flaws(tree: Tree, table: list, row: dict, people: dict) -> None:
    first = tree.answers[0]
    actor, sentence, code, level = first["utt_id"].split("_")
    other = "NEU" if code == "HAP" else "HAP"
    twin = f"{actor}_TIE_{other}_XX"
    if twin not in {answer["utt_id"] for answer in tree.answers}:
        data = (tree.root / first["wav"]).read_bytes()
        tree.data(f"AudioWAV/{twin}.wav", data)
        label = next(label for label, c in CREMAD_CODES.items() if c == other)
        _cremad_answer(tree, row | {"intended": label}, twin, other[0], False)
        tree.answers[-1]["gender"] = first["gender"]
        table.append([twin, other[0]])
    tree.data(f"AudioWAV/{SILENCE}.wav", riff(np.zeros(32_000, np.int16)))
    woman = row | {"intended": "sadness", "gender": "female"}
    _cremad_answer(tree, woman, SILENCE, "S", False)
    table.append([SILENCE, "S"])
    people[int(SILENCE[:4])] = "Female"
    tree.apple_double(first["wav"])
    tree.data("AudioMP3/1001_IEO_ANG_HI.mp3", b"ID3")
