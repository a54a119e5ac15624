"""Tiny Whisper and RoBERTa folders with random weights; shared by the tests that need them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

SENTENCES = (
    "The morning garden was quiet and yellow.",
    "I'm sure that nothing was wrong, really.",
    "Seven of them were under the kitchen table!",
)


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
    import json

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
