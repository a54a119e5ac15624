"""The published architectures: their sizes, and how many parameters they have.

Sizes are those of the checkpoints' own configurations, as the papers print them: Baevski et al.
2020 (wav2vec 2.0, base), Chen et al. 2022 (WavLM, base and large), Radford et al. 2023 and the
model card (Whisper base and large-v3), Liu et al. 2019 (RoBERTa large). What is not written out is the
default of transformers, which for wav2vec 2.0 and WavLM is the base model.
"""

import functools
import math
from pathlib import Path

import torch

from serlib.models.encoders.checkpoints import CONFIG, DEMO
from serlib.records import home

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
PUBLISHED = {
    "facebook/wav2vec2-base": dict(model_type="wav2vec2"),
    "microsoft/wavlm-base": dict(model_type="wavlm"),
    "microsoft/wavlm-large": LARGE
    | dict(model_type="wavlm", feat_extract_norm="layer", do_stable_layer_norm=True),
    "openai/whisper-base": dict(
        model_type="whisper", d_model=512, encoder_layers=6, encoder_attention_heads=8,
        encoder_ffn_dim=2048, num_mel_bins=80, vocab_size=51865, decoder_layers=1,
    ),
    "openai/whisper-large-v3": dict(
        model_type="whisper", d_model=1280, encoder_layers=32, encoder_attention_heads=20,
        encoder_ffn_dim=5120, num_mel_bins=128, vocab_size=51866,
        decoder_layers=1,  # the decoder is neither made nor read
    ),
    "FacebookAI/roberta-large": LARGE
    | dict(
        model_type="roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
}  # fmt: skip


class UnknownArchitectureError(ValueError):
    """No sizes are written down for a model of this name."""


def config(name: str, *, layers: int | None = None, width: int | None = None):
    """The transformers configuration of a demo model, of one that lies here, or a published one.

    It has all layers, or so many. With a `width` D, for tests, it has four heads and convolutions
    of that width.

    Raises:
        UnknownArchitectureError: There is no such name, here or in `PUBLISHED`.
    """
    from transformers import AutoConfig

    if (DEMO / name / CONFIG).is_file():
        return AutoConfig.from_pretrained(DEMO / name)
    here = next(
        (f for f in (Path(name), home() / "encoders" / name) if (f / CONFIG).is_file()), None
    )
    if here is None and name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        where = "or put the model's folder into $SERLIB_HOME/encoders"
        raise UnknownArchitectureError(f"{name!r}: sizes are written down for {known}; {where}")
    made = AutoConfig.from_pretrained(here) if here else AutoConfig.for_model(**PUBLISHED[name])
    if layers is not None:
        made.num_hidden_layers = layers  # Whisper's configuration knows it as encoder_layers
    if width is not None:
        inner = dict.fromkeys(("intermediate_size", "encoder_ffn_dim"), 2 * width)
        made.update(
            {"hidden_size": width, "num_attention_heads": 4, "conv_dim": [width] * 7} | inner
        )
    return made


def model(made) -> torch.nn.Module:
    """The model of a configuration, with random weights; of Whisper the encoder alone."""
    from transformers import AutoModel

    if made.model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder(made)
    return AutoModel.from_config(made, dtype=torch.float32)


@functools.cache
def n_parameters(name: str) -> int:
    """Parameters of a published or shipped encoder, counted on the meta device."""
    with torch.device("meta"):
        return sum(math.prod(p.shape) for p in model(config(name)).parameters())
