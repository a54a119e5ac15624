"""Small trees in the layouts of IEMOCAP and MSP-Podcast, for the tests of loaders and builds."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import soundfile

HEAD = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
CONSENSUS = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"


def wav(path: Path, seconds: float = 0.6, *, seed: int | None = None, rate=16_000, channels=1):
    """A wave of noise; the same seed gives the same bytes, None those of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()) if seed is None else seed)
    noise = rng.integers(-3000, 3000, (int(seconds * rate), channels)).astype(np.int16)
    soundfile.write(path, noise, rate, format="WAV", subtype="PCM_16")
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def turn(name: str, begin: float, code: str, vad: str, *lines: str) -> str:
    """One block of an EmoEvaluation file."""
    head = f"[{begin:.4f} - {begin + 1.5:.4f}]\t{name}\t{code}\t[{vad}]"
    return "\n".join([head, *lines]) + "\n\n"


def iemocap_dialogue(root: Path, dialogue: str, blocks: str, said: str = "", wavs=True) -> None:
    """One dialogue's labels and transcript, and a wave for each label line."""
    session = root / f"Session{dialogue[4]}"
    write(session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", HEAD + blocks)
    write(session / "dialog" / "transcriptions" / f"{dialogue}.txt", said)
    names = [line.split("\t")[1] for line in blocks.split("\n") if line.startswith("[")]
    for name in names if wavs else []:
        wav(session / "sentences" / "wav" / dialogue / f"{name}.wav")


def iemocap(root: Path, sessions=range(1, 6), codes=("neu", "hap", "ang", "sad", "exc")) -> Path:
    """Two dialogues a session, in which both talkers say each code once."""
    for s in sessions:
        for dialogue in (f"Ses0{s}F_impro01", f"Ses0{s}M_script01_1b"):
            blocks, said = "", ""
            for i, code in enumerate(codes):
                for k, talker in enumerate("FM"):
                    name = f"{dialogue}_{talker}{i:03d}"
                    blocks += turn(name, 10 * i + k, code, "2.5000, 2.0000, 3.0000")
                    said += f"{name} [000.0-001.0]: Well, {code}.\n"
            iemocap_dialogue(root, dialogue, blocks, said)
    return root


def msp(root: Path, rows: list[str], *, detailed: str = "", wavs=True, name="labels_consensus.csv",
        folder="Labels", audio="Audios") -> Path:  # fmt: skip
    """Labels as given, and a wave for each."""
    write(root / folder / name, "\n".join([CONSENSUS, *rows]) + "\n")
    if detailed:
        write(root / folder / "labels_detailed.csv", detailed)
    (root / audio).mkdir(exist_ok=True)
    for row in rows if wavs else []:
        wav(root / audio / row.split(",")[0])
    return root


def msp_rows(codes="NHASUFDC", *, splits=("Train", "Development"), per=3) -> list[str]:
    """Rows of all codes in each split, by speakers of that split only."""
    rows = []
    for s, split in enumerate(splits):
        for speaker in range(per):
            podcast = 100 * s + speaker + 1
            for i, code in enumerate(codes):
                gender = "Female" if speaker % 2 else "Male"
                rows.append(
                    f"MSP-PODCAST_{podcast:04d}_{i:04d}.wav,{code},2.2,4.0,2.6,"
                    f"{podcast},{gender},{split}"
                )
    return rows
