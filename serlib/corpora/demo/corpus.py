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
from serlib.corpora.demo import oracle, plan, speech
from serlib.data import audio, manifest, tables

MANIFEST = DATA / "demo.csv"
PAIRS, FOLDS, DIALOGUES = 20, 5, 10
SPLITS = {"train": range(1, 11), "dev": range(11, 14), "test": range(14, 21)}
PER_TALKER = 80
# Not en-gb-scotland: its trilled r differs from one time to the next.
ACCENTS = ("en-us", "en-us", "en", "en-gb-x-rp", "en-us-nyc")
CONFOUND = 1.0  # standard deviation of a talker's and a dialogue's log preference per class
SEED = 20_250


def make(
    df: pd.DataFrame | None = None, *, digest: str | None = None, progress: bool = True
) -> Path:
    """Speak every row of the manifest into the cache and return the folder its paths start from.

    A finished corpus is found again by the digest of the manifest. The first waveform that differs
    from the manifest's sha256 is an error on Linux x86-64 and a warning elsewhere, where the
    compiler may round otherwise.

    Args:
        df: The manifest; None takes the shipped one.
        digest: Of the manifest, where it is known: computing it takes half a second.
        progress: Show a bar.

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
    return speech.render(
        row["text"],
        voice,
        loudness_db=float(row["loudness_db"]),
        tilt_db=float(row["tilt_db"]),
        tremor_depth=float(row["tremor_depth"]),
        noise_dbfs=float(row["noise_dbfs"]),
        noise_seed=int(row["noise_seed"]),
    )


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
                    pair=pair,
                    gender=gender,
                    accent=ACCENTS[rng.integers(len(ACCENTS))],
                    formant=int(np.clip(rng.normal(formant, 4), formant - 8, formant + 8)),
                    pitch_hz=pitch * 2 ** (np.clip(rng.normal(), -2, 2) * 1.5 / 12),
                    range_share=0.40 * 2 ** (rng.normal() * 0.15),
                    rate_wpm=170 * np.exp(rng.normal() * 0.07),
                    tilt_db=rng.normal() * 1.5,
                    preference=np.exp(CONFOUND * rng.standard_normal(len(plan.CLASSES))),
                )
            )
    return voices


def _deal(rng: np.random.Generator, voices: list[dict]) -> list[tuple[dict, int, int]]:
    """Deal (talker, dialogue, class): exact class shares per split, talkers' and moods' tastes."""
    cards = []
    for pairs in SPLITS.values():
        hands = [v for v in voices if v["pair"] in pairs]
        n = PER_TALKER * len(hands)
        exact = n * plan.PRIOR
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact)[: n - counts.sum()]] += 1
        room = np.full(len(hands), PER_TALKER)
        moods = {v["pair"]: np.exp(CONFOUND * rng.standard_normal((8, DIALOGUES))) for v in hands}
        seats = {v["pair"]: np.full(DIALOGUES, 2 * PER_TALKER // DIALOGUES) for v in hands}
        for c in rng.permutation(np.repeat(np.arange(len(counts)), counts)):
            taste = np.array([v["preference"][c] for v in hands]) * room
            who = rng.choice(len(hands), p=taste / taste.sum())
            room[who] -= 1
            pair = hands[who]["pair"]
            mood = moods[pair][c] * seats[pair]
            dialogue = rng.choice(DIALOGUES, p=mood / mood.sum())
            seats[pair][dialogue] -= 1
            cards.append((hands[who], dialogue + 1, int(c)))
    return cards


def _manner(rng: np.random.Generator, voice: dict, c: int) -> dict:
    """Draw the cues of one utterance, turn them into physical units, and read them back.

    espeak-ng takes whole hertz and words per minute, so the cues that an ideal listener hears are
    computed from the rounded values.
    """
    cue = dict(zip(plan.CUES, plan.MEANS[c] + rng.standard_normal(len(plan.CUES)), strict=True))
    unit = plan.UNITS
    pitch = round(voice["pitch_hz"] * 2 ** (unit["pitch"] * cue["pitch"] / 12))
    span = max(8, round(pitch * voice["range_share"] * 2 ** (unit["range"] * cue["range"])))
    rate = int(np.clip(round(voice["rate_wpm"] * np.exp(unit["rate"] * cue["rate"])), 90, 300))
    rest = np.log(plan.TREMOR_REST / (1 - plan.TREMOR_REST))
    heard = dict(
        cue,
        pitch=12 * np.log2(pitch / voice["pitch_hz"]) / unit["pitch"],
        range=np.log2(span / (pitch * voice["range_share"])) / unit["range"],
        rate=np.log(rate / voice["rate_wpm"]) / unit["rate"],
    )
    return dict(
        pitch_hz=pitch,
        range_hz=span,
        rate_wpm=rate,
        loudness_db=round(unit["loudness"] * cue["loudness"], 2),
        tilt_db=round(voice["tilt_db"] + unit["tilt"] * cue["tilt"], 2),
        tremor_depth=round(1 / (1 + np.exp(-rest - unit["tremor"] * cue["tremor"])), 3),
        noise_dbfs=round(rng.uniform(-58, -46), 1),
        noise_seed=int(rng.integers(2**31)),
        **{f"cue_{k}": round(float(v), 3) for k, v in heard.items()},
    )


def _words(rng: np.random.Generator, c: int, topic: str) -> dict:
    chosen = {}
    for slot, lists in (("interjection", plan.INTERJECTIONS), ("adjective", plan.ADJECTIVES)):
        vocabulary, likelihood = oracle.word_likelihood(lists)
        chosen[slot] = vocabulary[rng.choice(len(vocabulary), p=likelihood[c])]
    frame = plan.FRAMES[rng.integers(len(plan.FRAMES))]
    text = frame.format(i=chosen["interjection"], t=topic, a=chosen["adjective"])
    return dict(text=text[0].upper() + text[1:] + ".", topic=topic, **chosen)


def _raters(rng: np.random.Generator, c: int) -> dict:
    """Five raters' votes, their consensus, and their mean attributes."""
    votes = rng.choice(len(plan.CLASSES), plan.RATERS, p=oracle.rater_confusion()[c])
    counts = np.bincount(votes, minlength=len(plan.CLASSES))
    agreed = (counts == counts.max()).sum() == 1
    label = plan.CLASSES[counts.argmax()] if agreed else "no_agreement"
    truth = np.array(plan.ATTRIBUTES[plan.CLASSES[c]])
    truth = truth + plan.ATTRIBUTE_SCATTER * rng.standard_normal(3)
    ratings = truth + plan.RATER_SCATTER * rng.standard_normal((plan.RATERS, 3))
    valence, arousal, dominance = np.clip(np.round(ratings), 1, 7).mean(0).round(2).tolist()
    share = {plan.CLASSES[i]: round(k / plan.RATERS, 2) for i, k in enumerate(counts) if k}
    return dict(
        emo=label, emotion=label, emotion_source="majority", emotion_dist=share,
        n_raters=plan.RATERS, valence=valence, arousal=arousal, dominance=dominance,
        valence_raw=valence, arousal_raw=arousal, dominance_raw=dominance, attr_scale=[1, 7],
    )  # fmt: skip


def compose(seed: int = SEED) -> pd.DataFrame:
    """Write the manifest, all but what only the finished waveforms tell (hash, length)."""
    rng = np.random.default_rng(seed)
    voices = talkers(rng)
    cards = _deal(rng, voices)
    topic = {
        (p, d): plan.TOPICS[rng.integers(len(plan.TOPICS))]
        for p in range(1, PAIRS + 1)
        for d in range(1, DIALOGUES + 1)
    }
    order = rng.permutation(len(cards))
    cards = sorted((cards[i] for i in order), key=lambda card: (card[0]["pair"], card[1]))
    turns: dict[tuple, int] = {}
    rows = []
    for voice, dialogue, c in cards:
        pair, letter = voice["pair"], voice["gender"][0].upper()
        wearer = "FM"[dialogue % 2]  # as IEMOCAP's file prefix: not the talker
        scene = f"Demo{pair:02d}{wearer}_d{dialogue:02d}"
        turn = turns[scene] = turns.get(scene, 0) + 1
        utt = f"{scene}_{letter}{turn:03d}"
        split = next(s for s, pairs in SPLITS.items() if pair in pairs)
        rows.append(
            dict(
                key=f"demo-{utt}", dataset="demo", dataset_version="1", utt_id=utt,
                wav=f"wav/Demo{pair:02d}/{utt}.wav", type="raw", task="category",
                speaker=f"demo-{pair:02d}{letter}", gender=voice["gender"], language="eng",
                text_source="prompt", session=f"demo-{pair:02d}", dialogue=f"demo-{scene}",
                turn=turn, group=f"demo-{pair:02d}", split=split, fold=(pair - 1) % FOLDS + 1,
                style="acted", license="LicenseRef-synthetic", flags=[],
                intended=plan.CLASSES[c], accent=voice["accent"], formant=voice["formant"],
                **_words(rng, c, topic[pair, dialogue]), **_manner(rng, voice, c),
                **_raters(rng, c),
            )
        )  # fmt: skip
    return pd.DataFrame(rows)


def build(path: Path = MANIFEST, *, seed: int = SEED) -> pd.DataFrame:
    """Compose the manifest, speak it once to measure it, and write it; for the demo's authors."""
    df = compose(seed)
    measured = []
    scratch = records.home() / "demo" / "scratch.wav"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    for row in tqdm(df.to_dict("records"), desc="speak", unit="utterance"):
        wave, _ = render(row)
        audio.save(scratch, audio.from_int16(wave))
        data = scratch.read_bytes()
        measured.append(
            dict(
                sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
                sample_rate=audio.SAMPLE_RATE, channels=1, num_frame=len(wave),
                length=round(len(wave) / audio.SAMPLE_RATE, 4),
            )
        )  # fmt: skip
    scratch.unlink()
    df = pd.concat([df, pd.DataFrame(measured)], axis=1)
    known = [c for c in tables.COLUMNS if c in df]
    missing = [c for c in tables.COLUMNS if c not in df]
    df = df.assign(**dict.fromkeys(missing)).reindex(
        columns=[*tables.COLUMNS, *(c for c in df if c not in known)]
    )
    tables.write(df, path)
    return df
