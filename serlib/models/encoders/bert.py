"""BERT and RoBERTa for transcripts, giving a text the same frames in any batch.

Devlin et al. (NAACL 2019) and Liu et al. (2019). Two steps; a frame is a token:

    prepare   one text, or None   token ids (S,): <s>, the text's, </s> (BERT: [CLS], [SEP])
    forward   token ids (B, S)    ``Encoded``
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from serlib.models.encoders import checkpoints
from serlib.models.encoders.checkpoints import TOKENIZER, Encoded, EncoderError, Pretrained


class TextEncoder(Pretrained):
    """BERT or RoBERTa, made by ``load_encoder``; ``facts`` says what was loaded, and how.

    Texts are taken as the manifest has them, case and punctuation included: RoBERTa was trained on
    cased text, and "I'm" and "I'M" are other tokens. A corpus in capitals should be lowered before;
    an uncased BERT's tokenizer does so itself. A text is one segment, of token type 0. At most
    ``max_tokens`` of its tokens are used, the first ones. What follows the last layer, such as
    BERT's pooler, is left out.
    """

    FACTS = (*Pretrained.FACTS, "max_tokens")
    DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    REFUSED = ("is_decoder", "add_cross_attention")
    modality = "text"

    def __init__(self, model: nn.Module, tokenizer, *, freeze: str) -> None:
        """Wrap a transformers model and its tokenizer; see ``load_encoder``."""
        super().__init__(model, "none" if freeze == "cnn" else freeze)  # there is no CNN
        self.tokenizer = tokenizer.backend_tokenizer
        self.begin, self.end = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.pad = model.config.pad_token_id
        self.max_tokens = model.config.max_position_embeddings - self.first

    @property
    def first(self) -> int:
        """The number of the first position; RoBERTa's follows that of the padding token."""
        return 0 if self.family == "bert" else self.pad + 1

    @staticmethod
    def beside(folder: Path, config):
        """The folder's tokenizer; refused if it does not fit the model."""
        from transformers import AutoTokenizer

        if (kind := getattr(config, "position_embedding_type", "absolute")) != "absolute":
            raise EncoderError(f"{folder}: {kind} positions are not supported. Take another.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        except Exception as error:  # tokenizers raises bare exceptions
            why = f"{TOKENIZER} unusable ({error})"
            raise EncoderError(f"{folder}: {why}. Fetch it again.") from error
        if len(tokenizer) > config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
            found = f"{len(tokenizer)} tokens, padding {tokenizer.pad_token_id}"
            model = f"{config.vocab_size} and {config.pad_token_id}"
            fix = "Fetch both again, from one checkpoint."
            raise EncoderError(f"{folder}: {TOKENIZER} has {found}; the model {model}. {fix}")
        if None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
            lacks = f"{TOKENIZER} lacks the token that begins or ends a text"
            raise EncoderError(f"{folder}: {lacks}. Fetch it again.")
        return tokenizer

    @staticmethod
    def stock(config) -> nn.Module:
        """The transformers model."""
        from transformers import AutoModel

        return AutoModel.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa", add_pooling_layer=False
        )

    @staticmethod
    def rename(name: str) -> str:
        """The model's name of a checkpoint's weight, which may be saved with a head."""
        name = re.sub(r"^(roberta|bert)\.", "", name)
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")  # BERT's first checkpoints
        return name.replace("LayerNorm.beta", "LayerNorm.bias")

    def prepare(self, text: str | None) -> np.ndarray:
        """One text to token ids (S,) int64: <s>, at most ``max_tokens`` - 2 of the text, </s>.

        A missing transcript, None or blank, is <s> and </s>. What is too long loses its end.

        Raises:
            TypeError: Something else than a text or None, such as a NaN out of a table.
        """
        if not isinstance(text, str | None):
            raise TypeError(f"{text!r} is no text: pass a string, or None where it is missing")
        ids = []
        if text and text.strip():
            # A transcript is data: a "</s>" in it is four characters, and ends nothing. Copies of a
            # tokenizer forget this switch.
            self.tokenizer.encode_special_tokens = True
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([self.begin, *ids[: self.max_tokens - 2], self.end], np.int64)

    def frame_lengths(self, n_tokens: Tensor | int) -> Tensor:
        """Frames of texts of ``n_tokens``: as many."""
        return torch.as_tensor(n_tokens)

    def encode(self, inputs: Tensor, lengths: Tensor) -> Encoded:
        """Token ids (B, S) to all states."""
        lengths = checkpoints.checked(inputs, lengths, 2, 1, "tokens")
        if inputs.is_floating_point() or int(lengths.max()) > self.max_tokens:
            found = f"{inputs.dtype}, {int(lengths.max())} of them"
            raise ValueError(f"need at most {self.max_tokens} token ids (use prepare), got {found}")
        n_tokens = inputs.shape[1]
        valid = checkpoints.frame_mask(lengths, n_tokens, inputs.device)
        numbers = torch.arange(n_tokens, device=inputs.device) + self.first
        x = self.model.embeddings(
            input_ids=inputs.long().masked_fill(~valid, self.pad),
            position_ids=numbers.expand_as(inputs).masked_fill(~valid, self.pad),
        )
        mask = valid[:, None, None] if int(lengths.min()) < n_tokens else None  # see `valid_mask`
        states = [checkpoints.blank(x, valid) for x in self.through([x], mask)]
        return self.finished(states, valid, lengths)

    def settings(self) -> str:
        """What decides the output beside weights and configuration: the tokenizer."""
        content = json.loads(self.tokenizer.to_str())
        content = {
            key: content[key] for key in sorted(content) if key not in ("padding", "truncation")
        }
        content = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return f"{content} {self.begin} {self.end} {self.max_tokens}"
