"""The demo corpus: a manifest whose every row is the recipe of its waveform.

Twenty pairs of talkers hold dialogues about one topic each. Each class has its prosody, its voice
quality and its words (`serlib.corpora.demo.plan`); talkers differ in vocal tract, pitch, tempo and
accent. Two things are confounded on purpose, for the chapters on leaks: each talker prefers some
classes, and each dialogue (hence its topic word) has a mood. Neither helps with a new talker.
"""

from __future__ import annotations

import hashlib
import platform
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from serlib import DATA, records
from serlib.corpora.demo import plan, speech
from serlib.data import audio, manifest, tables

MANIFEST = DATA / "demo.csv"
PAIRS = 20
# Not en-gb-scotland: its trilled r differs from one time to the next.
ACCENTS = ("en-us", "en-us", "en", "en-gb-x-rp", "en-us-nyc")
CONFOUND = 1.0  # standard deviation of a talker's and a dialogue's log preference per class
SEED = 20_250


def make(
    df: pd.DataFrame | None = None, *, digest: str | None = None, progress: bool = True
) -> Path:
    """Speak every row of the manifest into the cache and return the folder its paths start from.

    A finished corpus is found again by the digest of the manifest (None: the shipped one), which
    takes half a second to compute where it is not given. Waveforms that differ from the manifest's
    sha256 are an error on Linux x86-64 and a warning elsewhere, where the compiler may round
    otherwise.

    Raises:
        RuntimeError: If the waveforms are not the manifest's (another espeak-ng).
    """
    df = load() if df is None else df
    root = records.home() / "demo" / (digest or tables.digest(df))
    done = root / "done.json"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        if done.exists():
            return root
        differing = []
        rows = df.to_dict("records")
        for row in tqdm(rows, desc="demo corpus", unit="utterance", disable=not progress):
            wave, _ = render(row)
            path = manifest.resolve(root, row["wav"])
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.save(path, audio.from_int16(wave))
            if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
                differing.append(row["key"])
        if differing:
            message = (
                f"{len(differing)} of {len(df)} waveforms differ from the manifest, first "
                f"{differing[0]}; install espeakng-loader at the pinned version"
            )
            if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
                raise RuntimeError(message)
            warnings.warn(message, stacklevel=2)
        records.write_json(done, {"utterances": len(df), "differing": differing})
    return root


def load() -> pd.DataFrame:
    """The demo corpus's manifest, without its waveforms."""
    return tables.read(MANIFEST)


def render(row: dict) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The waveform (int16, 16 kHz) and the phones of one manifest row."""
    voice = speech.Voice(
        row["accent"], *(int(row[k]) for k in ("formant", "pitch_hz", "range_hz", "rate_wpm"))
    )
    effects = ("loudness_db", "tilt_db", "tremor_depth", "noise_dbfs")
    levels = {name: float(row[name]) for name in effects}
    return speech.render(row["text"], voice, **levels, noise_seed=int(row["noise_seed"]))


def reworded(row: dict, emotion: str, rng: np.random.Generator | None = None) -> dict:
    """A manifest row with cue words from the lists of `emotion`, all else alike.

    Without `rng` they are the first of each list; with it, an interjection and an adjective drawn.
    """
    lists = plan.INTERJECTIONS[emotion], plan.ADJECTIVES[emotion]
    said, adjective = (str(rng.choice(words)) if rng else words[0] for words in lists)
    old = row["interjection"]
    text = row["text"].replace(old[0].upper() + old[1:], said[0].upper() + said[1:], 1)
    new = {"text": text.replace(row["adjective"], adjective)}
    return row | new | {"interjection": said, "adjective": adjective}


def spoken_words(row: dict) -> pd.DataFrame:
    """When the synthesizer says each word of a row, and which are cue words.

    The sentence is spoken up to each word; the phones that are new are that word's.

    Returns:
        `word` as it is written, `start` and `end` in seconds, `cue`. Empty if a word adds no phone.
    """

    def phones(said: str) -> tuple[list[tuple[float, str]], list[int], int]:
        wave, found = render(row | {"text": said})
        return found, [i for i, (_, name) in enumerate(found) if name.strip("_:|; ")], len(wave)

    words, first = row["text"].split(), len(row["interjection"].split())
    found, voiced, n = phones(row["text"])
    edges = [0, *(len(phones(" ".join(words[: k + 1]))[1]) for k in range(len(words)))]
    if min(np.diff(edges)) < 1:
        return pd.DataFrame(columns=["word", "start", "end", "cue"])
    times = [*(start for start, _ in found), n / audio.SAMPLE_RATE]
    return pd.DataFrame(
        {
            "word": word,
            "start": times[voiced[edges[k]]],
            "end": times[voiced[edges[k + 1] - 1] + 1],
            "cue": k < first or word.strip(",.") == row["adjective"],
        }
        for k, word in enumerate(words)
    )


def talkers(rng: np.random.Generator) -> list[dict]:
    """Forty neutral voices, a woman and a man in each pair."""
    voices = []
    for pair in range(1, PAIRS + 1):
        for gender, pitch, formant in (("female", 165, 114), ("male", 92, 98)):
            voices.append(
                dict(
                    pair=pair, gender=gender, accent=ACCENTS[rng.integers(len(ACCENTS))],
                    formant=int(np.clip(rng.normal(formant, 4), formant - 8, formant + 8)),
                    pitch_hz=pitch * 2 ** (np.clip(rng.normal(), -2, 2) * 1.5 / 12),
                    range_share=0.40 * 2 ** (rng.normal() * 0.15),
                    rate_wpm=170 * np.exp(rng.normal() * 0.07), tilt_db=rng.normal() * 1.5,
                    preference=np.exp(CONFOUND * rng.standard_normal(len(plan.CLASSES))),
                )
            )  # fmt: skip
    return voices
