"""Tiny encoders with random weights, and clips for them; shared by the tests of models."""

from __future__ import annotations

import json

import numpy as np
import torch

from serlib.data.batching import Batch, Item, collate
from serlib.models.recognizer import SER

RATE = 16_000


def tiny_folders(tmp_path_factory):
    """Make tiny encoders' folders: ``folder("wavlm", "group")`` is a path."""
    from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

    from transformers import AutoModel  # isort: skip

    made = {}

    def make(family: str = "wav2vec2", norm: str = "layer"):
        if (family, norm) not in made:
            kinds = {"wav2vec2": Wav2Vec2Config, "wavlm": WavLMConfig, "hubert": HubertConfig}
            config = kinds[family](
                hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                conv_dim=(12, 12), conv_kernel=(10, 8), conv_stride=(8, 8), conv_bias=False,
                num_feat_extract_layers=2, feat_extract_norm=norm, num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2, do_stable_layer_norm=norm == "layer",
            )  # fmt: skip
            torch.manual_seed(1)
            path = tmp_path_factory.mktemp(f"{family}-{norm}")
            AutoModel.from_config(config).save_pretrained(path)
            extractor = {"do_normalize": norm == "layer", "sampling_rate": RATE}
            (path / "preprocessor_config.json").write_text(json.dumps(extractor))
            made[family, norm] = str(path)
        return made[family, norm]

    return make


def tone(i: int, seconds: float) -> np.ndarray:
    """Class i % 4 is one of four pitches, in noise."""
    rng = np.random.default_rng(i)
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * (300 * 2 ** (i % 4)) * time) + 0.1 * rng.normal(size=len(time))
    return (0.1 * wave).astype(np.float32)


def clips(model: SER, numbers, *, quantum: int = 1, features: bool = False) -> Batch:
    """Clip i of the little corpus lasts between 0.1 and 0.4 seconds, whatever its neighbors."""
    items = []
    for i in numbers:
        wave = model.encoder.prepare(tone(i, 0.1 + 0.1 * (i % 7 % 4)))
        if features:
            with torch.no_grad():
                length = torch.tensor([len(wave)])
                wave = model.encoder.extract(torch.from_numpy(wave)[None], length)[0][0]
        items.append(Item(wave, f"clip{i}", i, 0.1 + 0.1 * (i % 7 % 4), i % 4))
    return collate(items, quantum)
