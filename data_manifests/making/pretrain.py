"""Pre-train the demo encoders by self-supervision on synthetic speech.

The recipe is WavLM's (Chen et al., 2022) at one hundredth of the size: hide spans of frames, mix
noise or other talkers into the input, and predict the cluster of each hidden frame of the clean
speech. Three clusterings are predicted at once by three linear layers (our choice; one of phones
alone leaves prosody at chance):

- phones: k-means of 13 MFCCs and their slopes, the mean of each utterance removed;
- prosody: k-means of log pitch, voicing, energy, and their slopes;
- timbre: k-means of the MFCCs averaged over half a second, mean kept.

No transcript, label or sentence of the demo corpus is used. Words are drawn from a list of 20,000
(package wordfreq), in random order, by voices with random accent, vocal tract, pitch and tempo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm

from data_manifests.making import loop
from serlib import records
from serlib.corpora.demo import speech
from serlib.data import acoustics, audio
from serlib.models.encoders.checkpoints import DEMO

ENCODERS = DEMO  # over the shipped ones
ACCENTS = (
    "en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbclan",
)  # fmt: skip
STRIDE = 640  # samples per frame: 25 frames a second
FIELD = 905  # samples that one frame sees: the receptive field of the CNN
FRAMES = 64  # frames per training crop, 2.56 s
CLUSTERS = {"phones": 128, "prosody": 64, "timbre": 64}


@dataclass(frozen=True)
class PretrainConfig:
    """How one demo encoder is made. All values are our choice."""

    architecture: str = "wavlm"  # wavlm (as WavLM-large: layer norm first) or wav2vec2 (as base)
    hours: float = 12.0
    steps: int = 6500  # the shipped wav2vec2 had 8000
    batch: int = 32  # crops of 2.56 s
    lr: float = 1e-3
    warmup: float = 0.08
    mask_share: float = 0.45  # of frames, in spans of `mask_span`
    mask_span: int = 5
    visible_weight: float = 0.3  # of the loss on frames that were not hidden
    mix: float = 0.3  # share of crops with another talker or noise mixed in, as WavLM
    bf16: bool = True  # autocast; twice as fast on processors that have it
    seed: int = 0


def model_config(architecture: str):
    """The Hugging Face configuration of a demo encoder (1.4 million parameters)."""
    import transformers

    common = dict(
        conv_dim=(32, 64, 96, 128, 128, 128), conv_kernel=(10, 8, 8, 4, 2, 2),
        conv_stride=(5, 4, 4, 2, 2, 2), num_feat_extract_layers=6, hidden_size=144,
        num_hidden_layers=5, num_attention_heads=4, intermediate_size=432,
        num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=16, layerdrop=0.0,
        hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
        final_dropout=0.0, conv_bias=False, vocab_size=32,
        # SpecAugment of the user's: spans of 0.2 s, as 10 frames at 50 a second are. No least
        # number of spans: the usual 2 would hide a third of a clip of two seconds.
        mask_time_prob=0.05, mask_time_length=5, mask_time_min_masks=0,
    )  # fmt: skip
    if architecture == "wavlm":
        return transformers.WavLMConfig(
            feat_extract_norm="layer", do_stable_layer_norm=True, num_buckets=64,
            max_bucket_distance=160, **common,
        )  # fmt: skip
    if architecture == "wav2vec2":
        return transformers.Wav2Vec2Config(
            feat_extract_norm="group", do_stable_layer_norm=False, **common
        )
    raise ValueError(f"no demo encoder of architecture {architecture!r}; use wavlm or wav2vec2")


def random_utterance(rng: np.random.Generator, words: list[str], weights: np.ndarray):
    """One utterance of random words in a random voice: (text, voice, manner)."""
    text = " ".join(rng.choice(words, rng.integers(4, 11), p=weights))
    pitch = int(np.exp(rng.uniform(np.log(70), np.log(250))))
    voice = speech.Voice(
        accent=str(rng.choice(ACCENTS)),
        formant=int(rng.integers(88, 124)),
        pitch_hz=pitch,
        range_hz=int(max(8, pitch * np.exp(rng.uniform(np.log(0.12), np.log(1.1))))),
        rate_wpm=int(np.exp(rng.uniform(np.log(115), np.log(270)))),
    )
    manner = dict(
        loudness_db=float(rng.normal(0, 4)),
        tilt_db=float(rng.normal(0, 4)),
        tremor_depth=float(rng.uniform(0, 0.6)),
        noise_dbfs=float(rng.uniform(-62, -42)),
        noise_seed=int(rng.integers(2**31)),
    )
    return text, voice, manner


def vocabulary() -> tuple[list[str], np.ndarray]:
    """Words to speak and how often: 20,000 English words, the square root of their frequency."""
    import wordfreq

    words = [w for w in wordfreq.top_n_list("en", 25_000) if w.isalpha() and w.isascii()]
    words = [w for w in words if 2 <= len(w) <= 14][:20_000]
    weights = np.sqrt([wordfreq.word_frequency(w, "en") for w in words])
    return words, weights / weights.sum()


def _per_frame(contour: np.ndarray, frames: int) -> np.ndarray:
    """Average a contour at 100 frames a second over each encoder frame (4 to 1)."""
    contour = np.pad(contour, ((0, max(0, 4 * frames - len(contour))), (0, 0)), mode="edge")
    return contour[: 4 * frames].reshape(frames, 4, -1).mean(1)


def target_features(wave: np.ndarray) -> dict[str, np.ndarray]:
    """What is clustered, per encoder frame: phones (T, 26), prosody (T, 5), timbre (T, 13)."""
    frames = len(wave) // STRIDE
    mfcc = acoustics.mfcc(wave)
    f0, energy = acoustics.pitch(wave), acoustics.energy_db(wave)
    n = min(len(mfcc), len(f0), len(energy))
    mfcc, f0, energy = mfcc[:n], f0[:n], energy[:n]
    voiced = np.isfinite(f0)
    at = np.arange(n)
    log_f0 = (
        np.interp(at, at[voiced], np.log2(f0[voiced])) if voiced.any() else np.full(n, np.log2(120))
    )
    centered = mfcc - mfcc.mean(0)
    phones = np.c_[centered, np.gradient(centered, axis=0) * 2]
    prosody = np.c_[
        log_f0 * 4, voiced * 1.0, energy / 10, np.gradient(log_f0) * 20, np.gradient(energy) / 3
    ]
    kernel = np.ones(50) / 50
    smooth = (np.convolve(np.pad(c, 25, mode="edge"), kernel, "valid")[:n] for c in mfcc.T)
    timbre = np.stack(list(smooth), axis=1)
    return {
        "phones": _per_frame(phones, frames),
        "prosody": _per_frame(prosody, frames),
        "timbre": _per_frame(timbre, frames),
    }


def speak(
    hours: float, rng: np.random.Generator, *, whole: int = 1, longest: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Random utterances, text and samples (int16), until they last `hours` together.

    Each is cut to a multiple of `whole` samples; those above `longest` samples are left out.
    """
    words, weights = vocabulary()
    total = 0
    with tqdm(total=round(hours * 3600), desc="synthesize", unit="s") as bar:
        while total < hours * 3600 * audio.SAMPLE_RATE:
            text, voice, manner = random_utterance(rng, words, weights)
            wave, _ = speech.render(text, voice, **manner)
            if longest is not None and len(wave) > longest:
                continue
            wave = wave[: len(wave) // whole * whole]
            total += len(wave)
            yield text, wave
            bar.update(round(total / audio.SAMPLE_RATE) - bar.n)


def synthesize(hours: float, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Speak `hours` of random utterances, cut to whole frames, and cluster their targets.

    Returns:
        The samples end to end (int16), and the cluster of every frame per clustering (int16).
        Both are kept under the cache folder and found again.
    """
    from sklearn.cluster import MiniBatchKMeans

    folder = records.home() / "demo" / f"pretrain-{hours:g}h-{seed}"
    if (folder / "targets.npz").exists():
        return np.load(folder / "speech.npy", mmap_mode="r"), dict(np.load(folder / "targets.npz"))
    rng = np.random.default_rng(seed)
    waves, features = [], []
    for _, wave in speak(hours, rng, whole=STRIDE):
        waves.append(wave)
        features.append(target_features(wave.astype(np.float32) / 32768))
    targets = {}
    for name, k in CLUSTERS.items():
        x = np.concatenate([f[name] for f in features]).astype(np.float32)
        x = (x - x.mean(0)) / x.std(0)
        fit = MiniBatchKMeans(k, batch_size=8192, n_init=2, random_state=seed).fit(x[::3])
        targets[name] = fit.predict(x).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "speech.npy", np.concatenate(waves))
    np.savez(folder / "targets.partial.npz", **targets)
    (folder / "targets.partial.npz").rename(folder / "targets.npz")
    return np.load(folder / "speech.npy", mmap_mode="r"), targets


def crops(speech_: np.ndarray, targets: dict, config: PretrainConfig, rng: np.random.Generator):
    """Draw one batch: waves (B, N) float32 with mixing, targets (B, T) each, mask (B, T) bool."""
    b, t = config.batch, FRAMES
    start = rng.integers(1, len(speech_) // STRIDE - t - 2, b)
    n = (t - 1) * STRIDE + FIELD
    edge = (FIELD - STRIDE) // 2  # centers what a frame sees on what its target was computed from
    waves = np.stack([speech_[s * STRIDE - edge :][:n] for s in start]).astype(np.float32)
    waves /= 32768
    for i in np.flatnonzero(rng.random(b) < config.mix):
        length = int(rng.integers(n // 8, n // 2))
        at, source = rng.integers(0, n - length), rng.integers(0, n - length)
        if rng.random() < 0.5:
            other = waves[rng.integers(b), source : source + length].copy()
        else:
            other = rng.standard_normal(length).astype(np.float32)
        own_level, level = np.sqrt(np.mean(waves[i] ** 2)), np.sqrt(np.mean(other**2) + 1e-9)
        waves[i, at : at + length] += other * own_level / level * 10 ** (-rng.uniform(0, 15) / 20)
    labels = {
        k: np.stack([v[s : s + t] for s in start]).astype(np.int64) for k, v in targets.items()
    }
    mask = np.zeros((b, t), bool)
    spans = round(config.mask_share * t / config.mask_span * 1.25)  # spans overlap
    for i in range(b):
        for s in rng.integers(0, t - config.mask_span, spans):
            mask[i, s : s + config.mask_span] = True
    return (
        torch.from_numpy(waves),
        {k: torch.from_numpy(v) for k, v in labels.items()},
        torch.from_numpy(mask),
    )


def loss(encoder, heads, waves, labels, mask, visible_weight: float) -> tuple[torch.Tensor, dict]:
    """Cross-entropy of the three clusterings on hidden frames, plus a share on visible ones."""
    frames = encoder(waves, mask_time_indices=mask).last_hidden_state.float()
    total, accuracy = frames.new_zeros(()), {}
    for name, head in heads.items():
        logits = head(frames)
        ce = functional.cross_entropy(logits.transpose(1, 2), labels[name], reduction="none")
        total = total + ce[mask].mean() + visible_weight * ce[~mask].mean()
        hit = logits.argmax(-1) == labels[name]
        accuracy[name] = float(hit[mask].float().mean())
    return total, accuracy


def pretrain(config: PretrainConfig, out: Path | None = None, *, save_every: int = 500) -> Path:
    """Pre-train one encoder and write it as an ordinary Hugging Face folder.

    A killed run goes on from its last saved step. The card's probe table is filled in by
    `python -m data_manifests.making card`.
    """
    import transformers

    out = out or ENCODERS / f"demo-{config.architecture}"
    speech_, targets = synthesize(config.hours, config.seed)
    torch.manual_seed(config.seed)
    kind = {"wavlm": transformers.WavLMModel, "wav2vec2": transformers.Wav2Vec2Model}
    encoder = kind[config.architecture](model_config(config.architecture)).train()
    heads = torch.nn.ModuleDict({k: torch.nn.Linear(144, n) for k, n in CLUSTERS.items()})
    both = torch.nn.ModuleDict({"encoder": encoder, "heads": heads})

    def step_loss(step: int):
        rng = np.random.default_rng([config.seed, step])
        batch = crops(speech_, targets, config, rng)
        return loss(encoder, heads, *batch, config.visible_weight)

    def save(step: int, seconds: float, value: float, accuracy: dict[str, float]) -> None:
        extractor = transformers.Wav2Vec2FeatureExtractor(
            sampling_rate=audio.SAMPLE_RATE, do_normalize=False, return_attention_mask=True
        )
        loop.write(
            encoder, extractor, out, config, step, seconds,
            parameters=sum(p.numel() for p in encoder.parameters()), loss=round(value, 3),
            masked_accuracy=loop.rounded(accuracy), clusters=CLUSTERS,
        )  # fmt: skip

    loop.train(both, step_loss, config, out.name, save, save_every=save_every)
    return out
