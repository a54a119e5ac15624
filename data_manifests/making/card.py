"""Measure what a demo encoder knows, and write its model card.

Every probe is run on the pre-trained encoder and on a copy with random weights. What counts is the
distance between them: random layers already pass on much of their input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from data_manifests.making.pretrain import ENCODERS
from serlib.corpora.demo import corpus
from serlib.data import audio, manifest
from serlib.experiments import floors
from serlib.metrics import measures
from serlib.models.encoders.checkpoints import Pretrained
from serlib.models.encoders.load import load_encoder

PHONE_CLIPS = 120  # clips per side of the phone probe


def frames_of(encoder: Pretrained, item: np.ndarray | str) -> np.ndarray:
    """All layers of one wave or text, (L + 1, T, D)."""
    x = torch.from_numpy(encoder.prepare(item))[None]
    with torch.inference_mode():
        encoded = encoder(x, torch.tensor([x.shape[1]]))
    return torch.stack(encoded.layers).squeeze(1).numpy()


def embed(encoder: Pretrained, items: Sequence[np.ndarray] | Sequence[str]) -> np.ndarray:
    """Mean and standard deviation over time of every layer, (U, L + 1, 2 D)."""
    clips = (frames_of(encoder, item) for item in tqdm(items, desc="embed", leave=False))
    return np.stack([np.concatenate([f.mean(1), f.std(1)], axis=1) for f in clips])


def emotion(x: np.ndarray, table: pd.DataFrame) -> float:
    """UA of a linear probe for the eight classes, on the test talkers."""
    label = manifest.label_ids(table, manifest.CLASSES_8)
    part = {s: ((table["split"] == s) & (label >= 0)).to_numpy() for s in ("train", "dev", "test")}
    p, _ = floors.linear_probe(
        (x[part["train"]], label[part["train"]]), (x[part["dev"]], label[part["dev"]]),
        x[part["test"]], 8,
    )  # fmt: skip
    return float(measures.ua(measures.confusion(label[part["test"]], p.argmax(1), 8)))


def category(x: np.ndarray, table: pd.DataFrame, name: str) -> float:
    """Accuracy of a linear probe for a column, on dialogues it was not trained on.

    "speaker": the forty talkers. "adjective": which of the planted words is in the text.
    """
    train, test = _unseen_dialogues(table)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    y = table[name].to_numpy()
    return float(probe.fit(x[train], y[train]).score(x[test], y[test]))


def cue(x: np.ndarray, table: pd.DataFrame, name: str) -> float:
    """R squared of a ridge regression of a planted quantity, on unseen dialogues."""
    train, test = _unseen_dialogues(table)
    y = table[name].to_numpy(float)
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 6)))
    return float(probe.fit(x[train], y[train]).score(x[test], y[test]))


def _unseen_dialogues(table: pd.DataFrame):
    split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
    return next(split.split(table, groups=table["dialogue"]))


def phones(encoder: Pretrained, table: pd.DataFrame) -> list[float]:
    """Frame accuracy of a linear probe for the phone spoken, per layer, on the test talkers.

    Phones and their times come from the synthesizer itself.
    """
    # The middle of what a frame is made of: of a wave encoder's stride, or where Whisper's windows
    # lie, which start half before the clip.
    shift = 0.0 if encoder.family == "whisper" else 0.5
    sides = []
    for split in ("train", "test"):
        x, y = [], []
        for row in table[table["split"] == split].iloc[::5].head(PHONE_CLIPS).to_dict("records"):
            wave, spoken = corpus.render(row)
            layers = frames_of(encoder, audio.from_int16(wave))
            center = (np.arange(layers.shape[1]) + shift) * encoder.stride / audio.SAMPLE_RATE
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


def probes(encoder: Pretrained, table: pd.DataFrame, items: Sequence, layer: int) -> list[dict]:
    """Scores of the layers from ``layer`` on; of what a text can tell, if it is a text encoder."""
    embedded, rows = embed(encoder, items), []
    frame = phones(encoder, table) if encoder.modality == "speech" else None
    for i in range(embedded.shape[1])[layer:]:
        x = embedded[:, i]
        row = {"layer": i, "emotion (UA)": emotion(x, table)}
        if frame is None:
            row |= {"adjective (accuracy)": category(x, table, "adjective")}
        else:
            row |= {
                "talker (accuracy)": category(x, table, "speaker"),
                "phone (frame accuracy)": frame[i],
                "pitch (R²)": cue(x, table, "pitch_hz"),
                "rate (R²)": cue(x, table, "rate_wpm"),
                "tilt (R²)": cue(x, table, "tilt_db"),
            }
        rows.append(row)
    return rows


def measure(name: str, *, layers: bool = True) -> pd.DataFrame:
    """Probe an encoder and its random copy; one row per (weights, layer)."""
    table = corpus.load()
    rows = []
    for weights in ("pre-trained", "random"):
        encoder = load_encoder(name, freeze="all", random_init=weights == "random")
        if encoder.modality == "text":
            items = table["text"].tolist()
        elif not rows:
            root = corpus.make(table)
            files = tqdm(table["wav"], desc="decode")
            items = [audio.load(manifest.resolve(root, wav)) for wav in files]
        found = probes(encoder, table, items, 0 if layers else -1)
        rows += [{"weights": weights} | row for row in found]
    return pd.DataFrame(rows)


CARD = """---
license: mit
tags: [{tags}, synthetic]
---
# {name}

{about}

**Weights** are stored in float16 safetensors.

**Probes** (`python -m data_manifests.making card {name}`), on the demo \
corpus: emotion is the UA of eight classes on
{probes} Layer 0 is the input of the first
layer.

{table}
"""
MASKED = """\
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
{transformers}. Accuracy on hidden frames of the last batch: {shown}. Made by
`python -m data_manifests.making pretrain --architecture {architecture}`.{note}"""
WHISPER = """\
A Whisper with {parameters:,} parameters in its encoder, {layers} layers of width {width}, one frame
per {stride_ms:.0f} ms, and a context of {context:g} s instead of 30. It is made for the demo tier
of the serlib book and for nothing else: it has heard synthetic speech only, and says nothing about
human speech. The decoder's tokens are characters, so Whisper's own tokenizer does not fit it.

**Data.** {hours:g} hours of random English words (package wordfreq, 20,000 words) spoken by
espeak-ng with random accent, vocal tract, pitch, tempo, loudness and noise; none of the demo
corpus's sentences.

**Training.** To write down what is said: cross-entropy of the decoder's characters, and CTC on the
encoder's output with a share of {ctc:g}. {steps:,} steps of {batch} utterances, AdamW, peak
learning rate {lr:g}, seed {seed}; {minutes:.0f} minutes on {threads} thread of a {machine} CPU that
other work shared, torch {torch}, transformers {transformers}. In the last batch: {shown}. Made by
`python -m data_manifests.making pretrain --architecture whisper`.{note}"""
ROBERTA = """\
A RoBERTa with {parameters:,} parameters, {layers} layers of width {width}, for texts of at most
{max_tokens} tokens. It is made for the demo tier of the serlib book and for nothing else: it has
read invented text only, and knows nothing of what words mean to people.

**Data.** {sentences:,} sentences of random English words (package wordfreq, 20,000 words), most
words of a sentence from one of a hundred invented topics; none of the demo corpus's sentences. A
byte-level BPE of {vocabulary:,} tokens, learned from them.

**Training.** To name hidden words: {mask_share:.0%} of the tokens, as in BERT. {steps:,} steps of
{batch} sentences, AdamW, peak learning rate {lr:g}, seed {seed}; {minutes:.0f} minutes on {threads}
thread of a {machine} CPU that other work shared, torch {torch}, transformers {transformers}. In the
last batch: {shown}.
Made by `python -m data_manifests.making pretrain --architecture roberta`.{note}"""
HEARD = """\
unseen talkers; talker is identification among 40 on unseen dialogues; phone is frame accuracy on
unseen talkers; R² is for the planted value, on unseen dialogues."""
READ = """\
unseen talkers, from their words alone; adjective is which planted word was said, on unseen
dialogues."""
FAMILIES = {"wavlm": "WavLM", "wav2vec2": "wav2vec 2.0"}
ABOUT = {"wavlm": MASKED, "wav2vec2": MASKED, "whisper": WHISPER, "roberta": ROBERTA}


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table, three decimals."""
    rows = [list(table.columns), ["--:"] * table.shape[1], *table.round(3).astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def text(name: str, found: pd.DataFrame) -> str:
    """The card of an encoder, from the facts in its folder and its probes."""
    facts = json.loads((ENCODERS / name / "pretraining.json").read_text())
    encoder, config = load_encoder(name), facts["config"]
    shown = facts.get("shown", facts.get("masked_accuracy"))
    values = config | facts | facts.get("clusters", {}) | encoder.facts
    values |= {
        "family": FAMILIES.get(config["architecture"]),
        "layers": encoder.n_layers,
        "stride_ms": 1000 * getattr(encoder, "stride", 0) / audio.SAMPLE_RATE,
        "context": encoder.facts.get("context_seconds"),
        "steps": facts["steps_done"],
        "shown": ", ".join(f"{k} {_share(k, v)}" for k, v in shown.items()),
        "note": facts.get("note", ""),
    }
    speech = encoder.modality == "speech"
    return CARD.format(
        name=name, tags="speech, self-supervised" if config["architecture"] in FAMILIES
        else "speech, transcription" if speech else "text",
        about=ABOUT[config["architecture"]].format_map(values),
        probes=HEARD if speech else READ, table=_markdown(found),
    )  # fmt: skip


def _share(name: str, value: float) -> str:
    """A share in percent; the CTC loss as it is."""
    return f"{value:.2f}" if name == "ctc" else f"{value:.0%}"


def write(name: str) -> Path:
    """Measure an encoder and write `README.md` and `probes.csv` into its folder."""
    folder, found = ENCODERS / name, measure(name)
    found.round(4).to_csv(folder / "probes.csv", index=False)
    (folder / "README.md").write_text(text(name, found))
    return folder / "README.md"
