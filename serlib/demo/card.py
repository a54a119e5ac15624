"""Measure what a demo encoder knows, and write its model card.

Every probe is run on the pre-trained encoder and on a copy with random weights. What counts is the
distance between them: random layers already pass on much of their input.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from serlib import audio, encoders, floors, manifest, metrics
from serlib.demo import corpus
from serlib.demo.pretrain import ENCODERS

PHONE_CLIPS = 120  # clips per side of the phone probe


def frames_of(encoder: encoders.Encoder, wave: np.ndarray) -> np.ndarray:
    """All layers of one clip, (L + 1, T, D)."""
    x = torch.from_numpy(encoder.prepare(wave))[None]
    with torch.inference_mode():
        encoded = encoder(x, torch.tensor([x.shape[1]]))
    return torch.stack(encoded.layers).squeeze(1).numpy()


def embed(encoder: encoders.Encoder, waves: list[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation over time of every layer, (U, L + 1, 2 D)."""
    clips = (frames_of(encoder, w) for w in tqdm(waves, desc="embed", leave=False))
    return np.stack([np.concatenate([f.mean(1), f.std(1)], axis=1) for f in clips])


def emotion(x: np.ndarray, table: pd.DataFrame) -> float:
    """UA of a linear probe for the eight classes, on the test talkers."""
    label = manifest.label_ids(table, manifest.CLASSES_8)
    part = {s: ((table["split"] == s) & (label >= 0)).to_numpy() for s in ("train", "dev", "test")}
    p, _ = floors.linear_probe(
        (x[part["train"]], label[part["train"]]), (x[part["dev"]], label[part["dev"]]),
        x[part["test"]], 8,
    )  # fmt: skip
    return float(metrics.ua(metrics.confusion(label[part["test"]], p.argmax(1), 8)))


def talker(x: np.ndarray, table: pd.DataFrame) -> float:
    """Accuracy of a linear probe for the forty talkers, on dialogues it was not trained on."""
    train, test = _unseen_dialogues(table)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    speaker = table["speaker"].to_numpy()
    return float(probe.fit(x[train], speaker[train]).score(x[test], speaker[test]))


def cue(x: np.ndarray, table: pd.DataFrame, name: str) -> float:
    """R squared of a ridge regression of a planted quantity, on unseen dialogues."""
    train, test = _unseen_dialogues(table)
    y = table[name].to_numpy(float)
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 6)))
    return float(probe.fit(x[train], y[train]).score(x[test], y[test]))


def _unseen_dialogues(table: pd.DataFrame):
    split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
    return next(split.split(table, groups=table["dialogue"]))


def phones(encoder: encoders.Encoder, table: pd.DataFrame) -> list[float]:
    """Frame accuracy of a linear probe for the phone spoken, per layer, on the test talkers.

    Phones and their times come from the synthesizer itself.
    """
    sides = []
    for split in ("train", "test"):
        x, y = [], []
        for row in table[table["split"] == split].iloc[::5].head(PHONE_CLIPS).to_dict("records"):
            wave, spoken = corpus.render(row)
            layers = frames_of(encoder, audio.from_int16(wave))
            center = (np.arange(layers.shape[1]) + 0.5) * encoder.stride / audio.SAMPLE_RATE
            at = np.searchsorted([t for t, _ in spoken], center, side="right") - 1
            keep = at >= 0
            x.append(layers[:, keep])
            y += [spoken[i][1].strip("',") for i in at[keep]]
        sides.append((np.concatenate(x, axis=1), np.array(y)))
    (x0, y0), (x1, y1) = sides
    scores = []
    for layer in range(len(x0)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100))
        scores.append(float(probe.fit(x0[layer], y0).score(x1[layer], y1)))
    return scores


def measure(name: str, *, layers: bool = True) -> pd.DataFrame:
    """Probe an encoder and its random copy; one row per (weights, layer)."""
    table = corpus.load()
    root = corpus.make(table)
    waves = [audio.load(manifest.resolve(root, w)) for w in tqdm(table["wav"], desc="decode")]
    rows = []
    for weights in ("pre-trained", "random"):
        encoder = encoders.load(name, freeze="all", random_init=weights == "random")
        embedded, frame = embed(encoder, waves), phones(encoder, table)
        for i in range(embedded.shape[1]) if layers else (embedded.shape[1] - 1,):
            x = embedded[:, i]
            rows.append({
                "weights": weights, "layer": i, "emotion (UA)": emotion(x, table),
                "talker (accuracy)": talker(x, table), "phone (frame accuracy)": frame[i],
                "pitch (R²)": cue(x, table, "pitch_hz"), "rate (R²)": cue(x, table, "rate_wpm"),
                "tilt (R²)": cue(x, table, "tilt_db"),
            })  # fmt: skip
    return pd.DataFrame(rows)


CARD = """---
license: mit
tags: [speech, self-supervised, synthetic]
---
# {name}

A {family} encoder with {parameters:,} parameters, {layers} layers of width {width}, one frame per
{stride_ms:.0f} ms. It is made for the demo tier of the serlib book and for nothing else: it has
heard synthetic speech only, and says nothing about human speech.

**Data.** {hours:g} hours of random English words (package wordfreq, 20,000 words) spoken by
espeak-ng with random accent, vocal tract, pitch, tempo, loudness and noise; none of the demo
corpus's sentences.

**Training.** Masked prediction of three clusterings at once: phones ({phones}), prosody
({prosody}), timbre ({timbre}); noise or another talker mixed into {mix:.0%} of the crops. {steps:,}
steps of {batch} crops of 2.56 s, AdamW, peak learning rate {lr:g}, seed {seed}; {minutes:.0f}
minutes on {threads} thread of a {machine} CPU that other work shared, torch {torch}, transformers
{transformers}. Accuracy on hidden frames of the last batch: {masked}. Made by
`serlib demo pretrain --architecture {architecture}`.{note}

**Weights** are stored in float16 safetensors.

**Probes** (`serlib demo card {name}`), on the demo corpus: emotion is the UA of eight classes on
unseen talkers; talker is identification among 40 on unseen dialogues; phone is frame accuracy on
unseen talkers; R² is for the planted value, on unseen dialogues. Layer 0 is the input of the first
layer.

{table}
"""


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table, three decimals."""
    rows = [list(table.columns), ["--:"] * table.shape[1], *table.round(3).astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(name: str) -> Path:
    """Measure an encoder and write `README.md` and `probes.csv` into its folder."""
    folder = ENCODERS / name
    facts = json.loads((folder / "pretraining.json").read_text())
    encoder = encoders.load(name)
    probes = measure(name)
    probes.round(4).to_csv(folder / "probes.csv", index=False)
    config = facts["config"]
    text = CARD.format(
        name=name, family={"wavlm": "WavLM", "wav2vec2": "wav2vec 2.0"}[config["architecture"]],
        parameters=facts["parameters"], layers=encoder.n_layers, width=encoder.width,
        stride_ms=1000 * encoder.stride / audio.SAMPLE_RATE, steps=facts["steps_done"],
        masked=", ".join(f"{k} {v:.0%}" for k, v in facts["masked_accuracy"].items()),
        table=_markdown(probes),
        **{k: config[k] for k in ("hours", "mix", "batch", "lr", "seed", "architecture")},
        **{k: facts[k] for k in ("minutes", "threads", "machine", "torch", "transformers")},
        **facts["clusters"], note=facts.get("note", ""),
    )  # fmt: skip
    (folder / "README.md").write_text(text)
    return folder / "README.md"
