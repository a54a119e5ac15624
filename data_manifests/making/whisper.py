"""Pre-train the demo Whisper: transcription of synthetic speech.

Whisper (Radford et al., 2023) is trained to write down what is said: an encoder over log-mel
frames, and a decoder that gives the transcript token by token. Here the tokens are the characters
of ``serlib.data.text``, and a CTC loss on the encoder's output is added, which finds out sooner
where in the sound each character is (Watanabe et al., 2017; our choice: Whisper has none).

The speech is that of ``pretrain``: random words in random voices, no sentence of the demo corpus.
The context is 6 seconds instead of 30, which all clips of the demo corpus fit in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from data_manifests.making import loop
from data_manifests.making.pretrain import ENCODERS, speak
from serlib import records
from serlib.data import audio, text
from serlib.losses import classification
from serlib.losses.ctc import ctc_loss

CONTEXT = 6  # seconds
START, END = len(text.ALPHABET), len(text.ALPHABET) + 1  # tokens beside the characters


@dataclass(frozen=True)
class WhisperConfig:
    """How the demo Whisper is made. All values are our choice."""

    architecture: str = "whisper"
    hours: float = 12.0
    steps: int = 3000
    batch: int = 24  # utterances
    lr: float = 2e-3
    warmup: float = 0.08
    ctc: float = 0.5  # share of the CTC loss
    bf16: bool = True
    seed: int = 0


def model_config():
    """The Hugging Face configuration of the demo Whisper."""
    import transformers

    return transformers.WhisperConfig(
        vocab_size=END + 1, num_mel_bins=80, d_model=112, encoder_layers=3, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=336,
        decoder_ffn_dim=336, max_source_positions=50 * CONTEXT, max_target_positions=160,
        decoder_start_token_id=START, bos_token_id=START, eos_token_id=END,
        pad_token_id=text.BLANK, suppress_tokens=[], begin_suppress_tokens=[],
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip


def synthesize(hours: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Speak `hours` of random utterances that fit the context.

    Returns:
        All samples end to end (int16), where each utterance ends, and its characters. They are
        kept under the cache folder and found again.
    """
    folder = records.home() / "demo" / f"transcribed-{hours:g}h-{seed}"
    if not (folder / "said.json").exists():
        rng = np.random.default_rng([seed, 1])  # other utterances than pretrain.synthesize's
        made = list(speak(hours, rng, longest=CONTEXT * audio.SAMPLE_RATE))
        said, waves = [sentence for sentence, _ in made], [wave for _, wave in made]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "speech.npy", np.concatenate(waves))
        np.save(folder / "ends.npy", np.cumsum([len(wave) for wave in waves]))
        records.write_json(folder / "said.json", said)
    waves, ends = np.load(folder / "speech.npy", mmap_mode="r"), np.load(folder / "ends.npy")
    said = [text.encode(sentence) for sentence in records.read_json(folder / "said.json")]
    return waves, ends, said


@functools.cache
def extractor():
    """Log-mel features as Whisper's, for the context of the demo."""
    import transformers

    return transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=CONTEXT)


class Transcriber(torch.nn.Module):
    """Whisper with characters for tokens, and a CTC head on its encoder."""

    def __init__(self) -> None:
        """Random weights."""
        import transformers

        super().__init__()
        self.whisper = transformers.WhisperForConditionalGeneration(model_config())
        self.ctc = torch.nn.Linear(112, len(text.ALPHABET))

    def forward(self, waves: list[np.ndarray], said: list[list[int]], share: float):
        """The loss of transcribing waves (N,), float32, as characters, and what to show of it."""
        with torch.autocast("cpu", enabled=False):
            mels = extractor()(waves, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
        frames = self.whisper.model.encoder(mels.input_features).last_hidden_state
        n_tokens = torch.tensor([len(s) for s in said])
        tokens = torch.zeros(len(said), int(n_tokens.max()) + 1, dtype=torch.long)
        for row, s in zip(tokens, said, strict=True):
            row[: len(s) + 1] = torch.tensor([*s, END])
        start = torch.full((len(said), 1), START)
        spoken = self.whisper.model.decoder(
            input_ids=torch.cat([start, tokens[:, :-1]], 1), encoder_hidden_states=frames
        ).last_hidden_state
        logits = self.whisper.proj_out(spoken).float()
        place = torch.arange(tokens.shape[1])
        written = tokens.masked_fill(place > n_tokens[:, None], classification.IGNORE)
        ce = functional.cross_entropy(logits.transpose(1, 2), written)
        lengths = torch.tensor([-(-len(wave) // 320) for wave in waves])
        ctc = ctc_loss(self.ctc(frames), lengths, tokens, n_tokens, reduction="characters")
        right = (logits.argmax(-1) == written)[written != classification.IGNORE].float().mean()
        shown = {"characters": right.item(), "ctc": ctc.item()}
        return (1 - share) * ce + share * ctc, shown


def pretrain(config: WhisperConfig, out: Path | None = None, *, save_every: int = 250) -> Path:
    """Pre-train the demo Whisper and write it as an ordinary Hugging Face folder."""
    out = out or ENCODERS / "demo-whisper"
    waves, ends, said = synthesize(config.hours, config.seed)
    begins = np.r_[0, ends[:-1]]
    torch.manual_seed(config.seed)
    model = Transcriber().train()

    def loss(step: int):
        rng = np.random.default_rng([config.seed, step])
        chosen = rng.integers(0, len(said), config.batch)
        clips = [audio.from_int16(np.array(waves[begins[i] : ends[i]])) for i in chosen]
        return model(clips, [said[i] for i in chosen], config.ctc)

    def save(step: int, seconds: float, value: float, shown: dict[str, float]) -> None:
        inside = sum(p.numel() for p in model.whisper.model.encoder.parameters())
        loop.write(
            model.whisper, extractor(), out, config, step, seconds,
            parameters=inside, loss=round(value, 3), shown=loop.rounded(shown),
        )  # fmt: skip
        (out / "generation_config.json").unlink(missing_ok=True)

    loop.train(model, loss, config, out.name, save, save_every=save_every)
    return out
