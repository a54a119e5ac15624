"""The published architectures with random weights, in local folders: the same cost, and no hub.

Sizes are those of the checkpoints' own configurations, as the papers print them: Baevski et al.
2020 (wav2vec 2.0, base), Chen et al. 2022 (WavLM, base and large), Radford et al. 2023 and the
model card (Whisper large-v3), Liu et al. 2019 (RoBERTa large). What is not written out is the
default of transformers, which for wav2vec 2.0 and WavLM is the base model.
"""

from __future__ import annotations

import functools
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from serlib import records
from serlib.models.encoders.checkpoints import CONFIG, DEMO, EXTRACTOR, TOKENIZER

LARGE = dict(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    feat_extract_norm="layer", do_stable_layer_norm=True,
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A model type and what differs from the defaults of transformers; ``speech`` if it hears."""

    kind: str
    settings: dict
    normalize: bool = False  # what its extractor does to a wave

    @property
    def speech(self) -> bool:
        """Whether it takes waves."""
        return self.kind != "roberta"


PUBLISHED = {
    "facebook/wav2vec2-base": Architecture("wav2vec2", {}, normalize=True),
    "microsoft/wavlm-base": Architecture("wavlm", {}),
    "microsoft/wavlm-large": Architecture("wavlm", LARGE, normalize=True),
    "openai/whisper-large-v3": Architecture(
        "whisper",
        dict(
            d_model=1280,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            num_mel_bins=128,
            vocab_size=51866,
            decoder_layers=1,
        ),  # fmt: skip  (the decoder is neither made nor read)
    ),
    "FacebookAI/roberta-large": Architecture(
        "roberta",
        dict(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            vocab_size=50265,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        ),  # fmt: skip
    ),
}
SHORT = {
    "wavlm-large": "microsoft/wavlm-large",
    "wavlm-base": "microsoft/wavlm-base",
    "wav2vec2-base": "facebook/wav2vec2-base",
    "demo": "demo-wavlm",
}


class UnknownArchitectureError(ValueError):
    """No sizes are written down for a model of this name."""


def config(name: str, *, layers: int | None = None, width: int | None = None):
    """The transformers configuration of a published model.

    Args:
        name: One of `PUBLISHED`.
        layers: Transformer layers; None takes all.
        width: For tests, a small D with four heads and convolutions of that width.

    Raises:
        UnknownArchitectureError: There is no such name.
    """
    from transformers import AutoConfig

    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UnknownArchitectureError(f"{name!r}: sizes are written down for {known}")
    made = AutoConfig.for_model(PUBLISHED[name].kind, **PUBLISHED[name].settings)
    if layers is not None:
        made.num_hidden_layers = layers
        made.update({"encoder_layers": layers} if made.model_type == "whisper" else {})
    if width is not None:
        made.update(_narrow(made.model_type, width))
    return made


def _narrow(kind: str, width: int) -> dict:
    if kind == "whisper":
        return dict(d_model=width, encoder_attention_heads=4, encoder_ffn_dim=2 * width,
                    decoder_attention_heads=4, decoder_ffn_dim=width)  # fmt: skip
    common = dict(hidden_size=width, num_attention_heads=4, intermediate_size=2 * width)
    return common if kind == "roberta" else common | {"conv_dim": [width] * 7}


@functools.cache
def n_layers(name: str) -> int | None:
    """L of a published or shipped model; None of others."""
    if name in PUBLISHED:
        return config(name).num_hidden_layers
    if (DEMO / name / CONFIG).is_file():
        found = records.read_json(DEMO / name / CONFIG)
        return found.get("num_hidden_layers", found.get("encoder_layers"))
    return None


@functools.cache
def width(name: str) -> int | None:
    """D of an encoder of speech, published or shipped; None of others."""
    if name in PUBLISHED:
        return config(name).hidden_size if PUBLISHED[name].speech else None
    if (DEMO / name / CONFIG).is_file():
        found = records.read_json(DEMO / name / CONFIG)
        return (
            None
            if found["model_type"] == "roberta"
            else found.get("hidden_size", found.get("d_model"))
        )
    return None


def write(name: str, *, layers: int | None = None, width: int | None = None) -> Path:
    """A folder with random weights of a published model, as the hub would give it.

    It is made once, under $SERLIB_HOME/bench; `config` tells the arguments. A shipped model is in
    its own folder already. The text model gets the tokenizer of the demo, since the published one
    is trained and not drawn: it makes about as many tokens of a sentence.
    """
    if (DEMO / name).is_dir():
        return DEMO / name
    made = config(name, layers=layers, width=width)
    size = "-".join(str(x) for x in (layers or "all", width or "full"))
    folder = records.home() / "bench" / "architectures" / f"{name.replace('/', '--')}-{size}"
    if (folder / CONFIG).is_file():  # written last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    architecture = PUBLISHED[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = _model(made)
    if architecture.speech:
        records.write_json(folder / EXTRACTOR, _extractor(made, architecture))
    else:
        for file in (TOKENIZER, "tokenizer_config.json"):
            shutil.copy(DEMO / "demo-roberta" / file, folder / file)
    weights = {k: x.contiguous() for k, x in model.state_dict().items()}
    records.atomic_write(folder / "model.safetensors", safetensors.torch.save(weights))
    records.atomic_write(folder / CONFIG, made.to_json_string(use_diff=False))
    return folder


def _model(made) -> torch.nn.Module:
    from transformers import AutoModel

    if made.model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder(made)
    return AutoModel.from_config(made, dtype=torch.float32)


def _extractor(made, architecture: Architecture) -> dict:
    """What preprocessor_config.json has."""
    if made.model_type == "whisper":
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=made.num_mel_bins).to_dict()
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
        "sampling_rate": 16000, "padding_value": 0.0, "padding_side": "right",
        "do_normalize": architecture.normalize,
        "return_attention_mask": made.feat_extract_norm == "layer",
    }  # fmt: skip


@functools.cache
def n_parameters(name: str) -> int:
    """Parameters of a published or shipped encoder, counted on the meta device."""
    from transformers import AutoConfig

    made = config(name) if name in PUBLISHED else AutoConfig.from_pretrained(DEMO / name)
    with torch.device("meta"):
        return sum(math.prod(p.shape) for p in _model(made).parameters())
