"""The shipped encoders, and the program that made them."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_manifests.making import pretrain
from serlib import records
from serlib.corpora.demo import corpus, speech
from serlib.data import audio
from serlib.models.encoders.load import load_encoder

SHIPPED = ("demo-wavlm", "demo-wav2vec2")
# By how much the best layer must beat the best one of a random copy. Transcribing teaches no
# talker, and random tokens tell words apart as well.
MARGINS = {
    "speech": {"emotion (UA)": 0.05, "talker (accuracy)": 0.1, "phone (frame accuracy)": 0.1},
    "demo-whisper": {"emotion (UA)": 0.05, "phone (frame accuracy)": 0.1},
    "demo-roberta": {"emotion (UA)": 0.05},
}
WORDS = ["garden", "kitchen", "under", "seven", "yellow"], np.full(5, 0.2)


def probes(name: str) -> dict[str, list[dict]]:
    rows = list(csv.DictReader((pretrain.ENCODERS / name / "probes.csv").open()))
    return {w: [r for r in rows if r["weights"] == w] for w in ("pre-trained", "random")}


@pytest.mark.parametrize("name", SHIPPED)
def test_an_ordinary_folder_that_loads(name):
    folder = pretrain.ENCODERS / name
    assert {p.name for p in folder.iterdir()} >= {
        "config.json", "model.safetensors", "preprocessor_config.json", "README.md", "probes.csv",
    }  # fmt: skip
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))
    encoder = load_encoder(name)
    assert (encoder.width, encoder.n_layers, encoder.stride) == (144, 5, 640)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert 1e6 < parameters < 3e6
    wave = torch.from_numpy(encoder.prepare(np.zeros(16_000, np.float32)))[None]
    with torch.inference_mode():
        frames = encoder(wave, torch.tensor([wave.shape[1]])).frames
    assert frames.shape == (1, 24, 144) and bool(frames.isfinite().all())


def test_the_demo_whisper_loads_and_counts_its_frames():
    encoder = load_encoder("demo-whisper")
    assert (encoder.width, encoder.n_layers, encoder.stride) == (112, 3, 320)
    assert encoder.facts["context_seconds"] == 6
    wave = torch.from_numpy(encoder.prepare(np.zeros(16_001, np.float32)))[None]
    with torch.inference_mode():
        frames = encoder(wave, torch.tensor([wave.shape[1]])).frames
    assert frames.shape == (1, 51, 112) and bool(frames.isfinite().all())


def test_the_demo_roberta_loads_and_takes_every_transcript_whole():
    encoder = load_encoder("demo-roberta")
    assert (encoder.width, encoder.n_layers, encoder.modality) == (96, 3, "text")
    ids = [encoder.prepare(text) for text in corpus.load()["text"]]
    assert max(len(i) for i in ids) < encoder.facts["max_tokens"]
    unknown = encoder.tokenizer.token_to_id("<unk>")
    assert not any((i == unknown).any() for i in ids), "a transcript has an unknown token"


def test_all_encoders_together_stay_small():
    size = sum(p.stat().st_size for p in pretrain.ENCODERS.rglob("*") if p.is_file())
    assert size < 10e6


@pytest.mark.parametrize("name", (*SHIPPED, "demo-whisper", "demo-roberta"))
def test_pre_training_is_worth_having_by_the_card(name):
    """The best layer of the encoder beats the best layer of its random copy by a clear margin."""
    found = probes(name)
    margins = MARGINS.get(name, MARGINS["speech"])
    for column, margin in margins.items():
        best = {w: max(float(r[column]) for r in rows) for w, rows in found.items()}
        assert best["pre-trained"] > best["random"] + margin, (column, best)
        assert f"{best['pre-trained']:.3f}" in (pretrain.ENCODERS / name / "README.md").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_about_these_weights(name):
    """One figure of the card is measured again: a ridge probe for pitch, on the last layer."""
    from data_manifests.making import card

    table = corpus.load()
    some = table.groupby("dialogue").head(2).reset_index(drop=True)
    waves = [audio.from_int16(corpus.render(row)[0]) for row in some.to_dict("records")]
    random = load_encoder(name, freeze="all", random_init=True)
    trained = load_encoder(name, freeze="all")
    score = {
        kind: card.cue(card.embed(encoder, waves)[:, -1], some, "pitch_hz")
        for kind, encoder in (("trained", trained), ("random", random))
    }
    assert score["trained"] > score["random"] + 0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_what_would_be_written_now(name):
    from data_manifests.making import card

    folder = pretrain.ENCODERS / name
    found = pd.read_csv(folder / "probes.csv")
    written = (folder / "README.md").read_text()
    shown = card.text(name, found)
    assert shown.split("| weights")[0] == written.split("| weights")[0]


def test_a_text_encoder_is_probed_for_what_a_text_can_tell(tmp_path):
    from data_manifests.making import card
    from encoder_toys import make_roberta

    make_roberta(tmp_path, num_hidden_layers=1)
    encoder = load_encoder(tmp_path, freeze="all")
    table = corpus.load().groupby("dialogue").head(2).reset_index(drop=True)
    rows = card.probes(encoder, table, table["text"].tolist(), 0)
    assert [row["layer"] for row in rows] == [0, 1]
    chance = 1 / table["adjective"].nunique()
    for row in rows:  # random layers pass on which words there were
        assert set(row) == {"layer", "emotion (UA)", "adjective (accuracy)"}
        assert row["adjective (accuracy)"] > 3 * chance and 0 < row["emotion (UA)"] < 1


def test_whisper_frames_are_probed_where_they_lie(tmp_path):
    """A click shows around the frame that the phone probe places at its time."""
    from data_manifests.making import card
    from encoder_toys import make_whisper

    make_whisper(tmp_path)
    encoder = load_encoder(tmp_path, freeze="all", n_layers=1)
    noise = 0.01 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    before = card.frames_of(encoder, noise)[0]
    for frame in (10, 40):
        wave = noise.copy()
        wave[frame * encoder.stride] += 1.0
        change = np.abs(card.frames_of(encoder, wave)[0] - before).sum(1)
        assert np.average(np.arange(len(change)), weights=change) == pytest.approx(frame, abs=0.2)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    monkeypatch.setattr(pretrain, "vocabulary", lambda: WORDS)
    monkeypatch.setattr(pretrain, "CLUSTERS", {"phones": 6, "prosody": 4, "timbre": 3})
    return pretrain.PretrainConfig(hours=0.012, steps=4, batch=3, bf16=False)


@pytest.mark.parametrize("architecture", ["wavlm", "wav2vec2"])
def test_pre_training_runs_resumes_and_writes_a_folder(small, tmp_path, architecture):
    config = pretrain.PretrainConfig(**{**vars(small), "architecture": architecture})
    whole = pretrain.pretrain(config, tmp_path / "whole", save_every=2)
    state = tmp_path / "demo" / f"pretrain-{records.digest(vars(config))}.pt"
    saved = torch.load(state, weights_only=True)
    assert saved["step"] == 4
    state.unlink()

    class KilledError(Exception):
        pass

    original, calls = pretrain.loss, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KilledError
        return original(*arguments)

    pretrain.loss = dies
    try:
        with pytest.raises(KilledError):
            pretrain.pretrain(config, tmp_path / "again", save_every=2)
    finally:
        pretrain.loss = original
    assert json.loads((tmp_path / "again" / "pretraining.json").read_text())["steps_done"] == 2
    again = pretrain.pretrain(config, tmp_path / "again", save_every=2)
    weights = [(Path(f) / "model.safetensors").read_bytes() for f in (whole, again)]
    assert weights[0] == weights[1], "resumed differs from uninterrupted"
    assert load_encoder(whole).width == 144


def test_targets_line_up_with_what_a_frame_sees(small):
    """A click in the middle of a frame's receptive field is in the middle of its target's span."""
    field, stride = pretrain.FIELD, pretrain.STRIDE
    config = pretrain.model_config("wavlm")
    seen = 1
    for kernel, step in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        seen = (seen - 1) * step + kernel
    assert (seen, int(np.prod(config.conv_stride))) == (field, stride)
    wave = np.zeros(100 * stride, np.int16)
    wave[50 * stride + stride // 2] = 1000  # the center of frame 50
    targets = {"phones": np.arange(100)}
    alone = pretrain.PretrainConfig(**{**vars(small), "mix": 0.0, "batch": 8})
    for seed in range(40):
        waves, labels, _ = pretrain.crops(wave, targets, alone, np.random.default_rng(seed))
        for crop, label in zip(waves.numpy(), labels["phones"].numpy(), strict=True):
            at = np.flatnonzero(crop)
            if len(at) and 50 in label:
                frame = int(np.flatnonzero(label == 50)[0])
                assert abs(at[0] - (frame * stride + field // 2)) <= 1
                return
    raise AssertionError("no crop held the click")


def test_target_features_hear_pitch_and_ignore_level_where_they_should():
    say = lambda hz, db: audio.from_int16(speech.render(  # noqa: E731
        "Under the yellow garden.", speech.Voice("en-us", 100, hz, 30, 170), loudness_db=db,
        noise_dbfs=-90.0,
    )[0])  # fmt: skip
    low, high, loud = (pretrain.target_features(say(*x)) for x in ((90, 0), (180, 0), (90, 6)))
    octave = np.median(high["prosody"][:, 0]) - np.median(low["prosody"][:, 0])
    assert octave == pytest.approx(4, abs=0.6)  # log2 pitch times 4
    n = min(len(low["prosody"]), len(loud["prosody"]))
    louder = np.median(loud["prosody"][:n, 2] - low["prosody"][:n, 2])
    assert louder == pytest.approx(0.6, abs=0.1)  # decibels over 10
    assert np.abs(loud["phones"][:n, 0] - low["phones"][:n, 0]).mean() < 0.5


def test_masks_and_mixing(small):
    rng = np.random.default_rng(0)
    speech_ = (rng.standard_normal(300 * pretrain.STRIDE) * 3000).astype(np.int16)
    targets = {"phones": np.arange(300) % 7}
    clean = pretrain.PretrainConfig(**{**vars(small), "mix": 0.0, "batch": 64})
    mixed = pretrain.PretrainConfig(**{**vars(small), "mix": 1.0, "batch": 64})
    a = pretrain.crops(speech_, targets, clean, np.random.default_rng(1))
    b = pretrain.crops(speech_, targets, mixed, np.random.default_rng(1))
    assert 0.3 < a[2].float().mean() < 0.5
    touched = (a[0] != b[0]).float().mean(1)
    assert bool((touched > 0.1).all()) and bool((touched <= 0.51).all())
    assert all(bool((a[1][k] == b[1][k]).all()) for k in targets), "targets are of the clean speech"


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="no demo encoder of architecture 'hubert'"):
        pretrain.model_config("hubert")
