"""Compose the manifest of the demo corpus: who says what, and how, and what raters hear in it.

What is planted in it says `serlib.corpora.demo.plan`, and who talks `serlib.corpora.demo.corpus`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from serlib import records
from serlib.corpora.demo import corpus, oracle, plan
from serlib.data import audio, tables

FOLDS, DIALOGUES = 5, 10
SPLITS = {"train": range(1, 11), "dev": range(11, 14), "test": range(14, 21)}
PER_TALKER = 80
# One standard deviation of a cue in physical units: semitones, octaves of range, log rate, dB, dB,
# and depth of tremor on a logit scale around `TREMOR_REST`.
UNITS = dict(pitch=1.6, range=0.4, rate=0.10, loudness=3.0, tilt=3.0, tremor=0.8)
TREMOR_REST = 0.15
FRAMES = (
    "{i}, the {t} was {a}", "{i}, I think the {t} is {a}", "{i}, you said the {t} was {a}",
    "{i}, this {t} looks {a} to me", "{i}, we found the {t} rather {a}",
    "{i}, they call the {t} {a}", "{i}, her {t} seems {a} today", "{i}, my {t} has been {a}",
)  # fmt: skip
TOPICS = (
    "garden", "kitchen", "ticket", "letter", "bridge", "window", "market", "teacher", "village",
    "concert", "morning", "station", "picture", "journey", "doctor", "dinner", "jacket", "river",
    "office", "movie", "party", "lesson", "contract", "hotel", "island", "camera", "museum",
    "paper", "village hall", "shower", "cottage", "engine", "football", "harbor", "airport",
    "library", "mirror", "number", "pencil", "project", "question", "reason", "school", "song",
    "story", "table", "theater", "towel", "tractor", "valley", "voyage", "wallet", "weather",
    "wedding", "basement", "bicycle", "carpet", "cinema", "decision", "elevator",
)  # fmt: skip


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
        moods = {
            v["pair"]: np.exp(corpus.CONFOUND * rng.standard_normal((8, DIALOGUES))) for v in hands
        }
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
    unit = UNITS
    pitch = round(voice["pitch_hz"] * 2 ** (unit["pitch"] * cue["pitch"] / 12))
    span = max(8, round(pitch * voice["range_share"] * 2 ** (unit["range"] * cue["range"])))
    rate = int(np.clip(round(voice["rate_wpm"] * np.exp(unit["rate"] * cue["rate"])), 90, 300))
    rest = np.log(TREMOR_REST / (1 - TREMOR_REST))
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
    for slot, lists in oracle.SLOTS.items():
        vocabulary, likelihood = oracle.word_likelihood(lists)
        chosen[slot] = vocabulary[rng.choice(len(vocabulary), p=likelihood[c])]
    frame = FRAMES[rng.integers(len(FRAMES))]
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


def compose(seed: int = corpus.SEED) -> pd.DataFrame:
    """Write the manifest, all but what only the finished waveforms tell (hash, length)."""
    rng = np.random.default_rng(seed)
    voices = corpus.talkers(rng)
    cards = _deal(rng, voices)
    topic = {
        (p, d): TOPICS[rng.integers(len(TOPICS))]
        for p in range(1, corpus.PAIRS + 1)
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


def build(path: Path = corpus.MANIFEST, *, seed: int = corpus.SEED) -> pd.DataFrame:
    """Compose the manifest, speak it once to measure it, and write it."""
    df = compose(seed)
    measured = []
    scratch = records.home() / "demo" / "scratch.wav"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    for row in tqdm(df.to_dict("records"), desc="speak", unit="utterance"):
        wave, _ = corpus.render(row)
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
