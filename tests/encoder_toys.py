"""Tiny Whisper and RoBERTa folders with random weights, and what tests ask of all encoders."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

SENTENCES = (
    "The morning garden was quiet and yellow.",
    "I'm sure that nothing was wrong, really.",
    "Seven of them were under the kitchen table!",
)


def clips_of(lengths, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    loud = rng.uniform(0.01, 0.5, len(lengths))
    return [(a * rng.normal(size=n)).astype(np.float32) for a, n in zip(loud, lengths, strict=True)]


def pad(arrays, fill: float = 0.0):
    tensors = [torch.as_tensor(array) for array in arrays]
    padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)
    return padded, torch.tensor([len(tensor) for tensor in tensors])


def states(encoded) -> torch.Tensor:
    """(L + 2, B, T, D): all layers, then the frames."""
    return torch.stack([*encoded.layers, encoded.frames]).detach()


def company_error(encoder, items) -> float:
    """Largest change of any valid frame of any layer when waves, or texts, share a batch."""
    waves = [torch.as_tensor(encoder.prepare(item)) for item in items]
    if waves[0].is_floating_point():
        waves = [wave.to(next(encoder.parameters()).dtype) for wave in waves]
    together = encoder(*pad(waves))
    worst = 0.0
    for i, wave in enumerate(waves):
        alone = encoder(*pad([wave]))
        n = int(alone.lengths[0])
        assert int(together.lengths[i]) == n
        difference = states(alone)[:, 0] - states(together)[:, i, :n]
        worst = max(worst, float(difference.abs().max()))
    return worst


def lively(model: nn.Module) -> nn.Module:
    """Random norms and biases: fresh ones are the identity and zero, and would hide mistakes."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.05)
    return model


def whisper_config(**changes):
    """A Whisper with a context of 2 s."""
    from transformers import WhisperConfig

    settings = {
        "d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 32,
        "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
        "num_mel_bins": 20, "max_source_positions": 100, "max_target_positions": 16,
        "vocab_size": 40, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 3, "suppress_tokens": None, "begin_suppress_tokens": None,
        "encoder_layerdrop": 0.5,
    }  # fmt: skip
    return WhisperConfig(**settings | changes)


def make_whisper(folder: Path, config=None, *, whole: bool = False):
    """An ordinary folder; returns the stock encoder, or with ``whole`` the model with decoder."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = config or whisper_config()
    torch.manual_seed(0)
    model = lively((WhisperForConditionalGeneration if whole else WhisperEncoder)(config))
    model.save_pretrained(folder)
    seconds = config.max_source_positions // 50
    extractor = WhisperFeatureExtractor(config.num_mel_bins, chunk_length=seconds)
    extractor.save_pretrained(folder)
    return model.eval()


def train_tokenizer():
    """A byte-level BPE of 300 tokens, learned from three sentences."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special, min_frequency=1)
    vocabulary, merges = trained.get_vocab(), trained._tokenizer.to_str()
    pairs = [tuple(pair) for pair in json.loads(merges)["model"]["merges"]]
    return RobertaTokenizer(vocab=vocabulary, merges=pairs)


def make_roberta(folder: Path, *, kind: str = "RobertaModel", **changes):
    """An ordinary folder; returns the stock model of a class."""
    import transformers

    settings = {
        "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 32, "vocab_size": 300, "max_position_embeddings": 34,
        "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**settings | changes)
    model = lively(getattr(transformers, kind)(config))
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return model.eval()


def offered(folder: Path) -> str:
    """Load a folder that lacks files, run the command of the error; the folder that it fills."""
    from serlib.models.encoders import checkpoints
    from serlib.models.encoders.load import load_encoder

    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(checkpoints.EncoderError, match="lacks") as error:
        load_encoder(folder)
    command = shlex.split(str(error.value).splitlines()[-1])
    assert command[:2] == ["python", "-c"]
    exec(command[2], made := {})
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "it was written to"
    return made["t"]


def make_bert(folder: Path, *, kind: str = "BertModel", cased: bool = False, **changes):
    """As `make_roberta`, of a BERT with a WordPiece tokenizer learned from the three sentences."""
    import transformers
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=not cased)
    trained.train_from_iterator(SENTENCES, vocab_size=120, min_frequency=1)
    tokenizer = transformers.BertTokenizer(vocab=trained.get_vocab(), do_lower_case=not cased)
    settings = {
        "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 32, "vocab_size": 120, "max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(**settings | changes)
    model = lively(getattr(transformers, kind)(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()
