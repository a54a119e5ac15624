"""The published architectures with random weights, in local folders: the same cost, and no hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import safetensors.torch
import torch

from serbook.plan import architectures
from serlib import records
from serlib.models.encoders.checkpoints import CONFIG, DEMO, EXTRACTOR, TOKENIZER

NORMALIZED = ("facebook/wav2vec2-base", "microsoft/wavlm-large")  # their extractors scale a wave


def write(name: str, *, layers: int | None = None, width: int | None = None) -> Path:
    """A folder with random weights of a published model, as the hub would give it.

    It is made once, under $SERLIB_HOME/bench; `architectures.config` tells the arguments. The text
    model gets the tokenizer of the demo, which makes about as many tokens of a sentence.
    """
    if (DEMO / name).is_dir():
        return DEMO / name
    made = architectures.config(name, layers=layers, width=width)
    size = "-".join(str(x) for x in (layers or "all", width or "full"))
    folder = records.home() / "bench" / "architectures" / f"{name.replace('/', '--')}-{size}"
    if (folder / CONFIG).is_file():  # written last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = architectures.model(made)
    if made.model_type == "roberta":
        for file in (TOKENIZER, "tokenizer_config.json"):
            shutil.copy(DEMO / "demo-roberta" / file, folder / file)
    else:
        records.write_json(folder / EXTRACTOR, _extractor(made, name).to_dict())
    weights = {k: x.contiguous() for k, x in model.state_dict().items()}
    records.atomic_write(folder / "model.safetensors", safetensors.torch.save(weights))
    records.atomic_write(folder / CONFIG, made.to_json_string(use_diff=False))
    return folder


def _extractor(made, name: str):
    from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    if made.model_type == "whisper":
        return WhisperFeatureExtractor(feature_size=made.num_mel_bins)
    masked = made.feat_extract_norm == "layer"
    return Wav2Vec2FeatureExtractor(do_normalize=name in NORMALIZED, return_attention_mask=masked)
