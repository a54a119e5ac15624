"""How the demo Whisper and the demo RoBERTa are made."""

import json

import numpy as np
import pytest
import torch
import transformers

from data_manifests.making import loop, pretrain, roberta, whisper
from serlib import records
from serlib.corpora.demo import corpus
from serlib.data import text

WORDS = ["garden", "kitchen", "under", "seven", "yellow", "market", "letter"], np.full(7, 1 / 7)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    for module in (pretrain, roberta):
        monkeypatch.setattr(module, "vocabulary", lambda: WORDS)
    monkeypatch.setattr(roberta, "TOPICS", 3)
    return tmp_path


SMALL = {
    "whisper": (whisper.pretrain, whisper.WhisperConfig(hours=0.004, steps=4, batch=2, bf16=False)),
    "roberta": (
        roberta.pretrain,
        roberta.RobertaConfig(vocabulary=300, sentences=40, steps=4, batch=4, bf16=False),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_pre_training_runs_resumes_and_writes_a_folder(home, monkeypatch, name):
    make, config = SMALL[name]
    whole = make(config, home / "whole", save_every=2)
    (home / "demo" / f"pretrain-{records.digest(vars(config))}.pt").unlink()
    real = loop.train

    def dies(model, loss, *rest, **kept):
        def fails(step: int):
            if step == 3:
                raise KeyboardInterrupt
            return loss(step)

        real(model, fails, *rest, **kept)

    monkeypatch.setattr(loop, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        make(config, home / "again", save_every=2)
    assert json.loads((home / "again" / "pretraining.json").read_text())["steps_done"] == 2
    monkeypatch.setattr(loop, "train", real)
    again = make(config, home / "again", save_every=2)
    first, second = ((f / "model.safetensors").read_bytes() for f in (whole, again))
    assert first == second, "resumed differs from uninterrupted"
    assert {f.suffix for f in whole.iterdir()} <= {".json", ".safetensors"}
    model = transformers.AutoModel.from_pretrained(whole)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_the_transcriber_asks_what_the_stock_model_asks():
    """Its cross-entropy is that of transformers, which shifts the labels itself."""
    torch.manual_seed(0)
    model = whisper.Transcriber().eval()
    waves = [
        np.random.default_rng(i).standard_normal(n).astype("f") for i, n in enumerate((9000, 20000))
    ]
    said = [text.encode("an old garden"), text.encode("no")]
    mels = whisper.extractor()(waves, sampling_rate=16_000, return_tensors="pt").input_features
    labels = torch.full((2, 14), -100)
    for row, tokens in zip(labels, said, strict=True):
        row[: len(tokens) + 1] = torch.tensor([*tokens, whisper.END])
    with torch.no_grad():
        stock = model.whisper(input_features=mels, labels=labels).loss
        ours, _ = model(waves, said, 0.0)
    assert float(ours) == pytest.approx(float(stock), abs=1e-5)


def test_utterances_fit_the_context_and_are_found_again(home):
    waves, ends, said = whisper.synthesize(0.01, 0)
    assert len(ends) == len(said) > 3 and ends[-1] == len(waves)
    assert np.diff(np.r_[0, ends]).max() <= whisper.CONTEXT * 16_000
    assert {c for s in said for c in text.decode(s).lower().split()} <= set(WORDS[0])
    stored = home / "demo" / "transcribed-0.01h-0" / "speech.npy"
    before = stored.stat().st_mtime_ns
    whisper.synthesize(0.01, 0)
    assert stored.stat().st_mtime_ns == before


def test_all_clips_of_the_demo_corpus_fit_the_context():
    assert corpus.load()["length"].max() < whisper.CONTEXT


def test_sentences_keep_to_their_topic(home, monkeypatch):
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)]
    monkeypatch.setattr(roberta, "vocabulary", lambda: (words, np.full(300, 1 / 300)))
    monkeypatch.setattr(roberta, "TOPICS", 20)
    topics = np.random.default_rng(0).integers(0, 20, (300, roberta.TOPICS_PER_WORD))

    def share(topical: float) -> float:
        shares = []
        for sentence in roberta.sentences(200, topical, 0):
            said = [words.index(w.strip(",.").lower()) for w in sentence.split()]
            held = [np.mean([t in topics[i] for i in said]) for t in range(20)]
            shares.append(max(held))
        return float(np.mean(shares))

    assert share(1.0) == 1.0 and 0.7 < share(0.7) < 0.95 and share(0.0) < 0.55
    assert all(4 <= len(s.split()) <= 12 and s[0].isupper() and s.endswith(".")
               for s in roberta.sentences(50, 0.7, 1))  # fmt: skip


def test_hidden_tokens_are_as_many_and_as_hidden_as_said():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 500, (400, 50), generator=generator)
    tokens[:, 0], tokens[:, -1] = 0, 2
    tokens[:, 40:49] = 1  # padding
    shown, target = roberta.hide(tokens, 0.15, 500, generator)
    asked = target != -100
    assert bool((target[asked] == tokens[asked]).all())
    assert not bool(asked[tokens < 5].any()), "a special token was hidden"
    assert bool((shown[~asked] == tokens[~asked]).all())
    assert float(asked[:, 1:40].float().mean()) == pytest.approx(0.15, abs=0.01)
    masked = (shown[asked] == 4).float().mean()
    kept = (shown[asked] == tokens[asked]).float().mean()
    assert float(masked) == pytest.approx(0.8, abs=0.03)
    assert float(kept) == pytest.approx(0.1, abs=0.03)


def test_the_tokenizer_frames_a_sentence_and_gives_it_back(home):
    tokens = roberta.tokenizer(roberta.sentences(50, 0.7, 0), 300)
    ids = tokens("The yellow garden.")["input_ids"]
    assert ids[0] == 0 and ids[-1] == 2 and tokens("")["input_ids"] == [0, 2]
    assert tokens.decode(ids, skip_special_tokens=True).strip() == "The yellow garden."
    assert len(tokens(" ".join(["garden"] * 200), truncation=True)["input_ids"]) == roberta.LONGEST
