"""Pre-train the demo RoBERTa: hidden words of synthetic text.

RoBERTa (Liu et al., 2019) is trained to name words hidden from it, given the words around them. So
words that keep the same company become alike. No text of people ships with this package; the text
is made, and so is the company: each of 20,000 English words belongs to three of a hundred invented
topics, drawn at random, and most words of a sentence are of one topic. What the encoder learns is
which words are which, and which of them go together in that invented world. It knows nothing of
what the words mean to people, and no sentence of the demo corpus is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from data_manifests.making import loop
from data_manifests.making.pretrain import ENCODERS, vocabulary

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # numbers 0 to 4, as RoBERTa's first four
LONGEST = 64  # tokens
TOPICS, TOPICS_PER_WORD = 100, 3


@dataclass(frozen=True)
class RobertaConfig:
    """How the demo RoBERTa is made. All values are our choice but the masking, which is BERT's."""

    architecture: str = "roberta"
    vocabulary: int = 4000  # byte-level BPE
    sentences: int = 60_000
    topical: float = 0.7  # share of a sentence's words that are of its topic
    steps: int = 4000
    batch: int = 64  # sentences
    lr: float = 2e-3
    warmup: float = 0.08
    mask_share: float = 0.15
    bf16: bool = True
    seed: int = 0


def model_config(n_tokens: int):
    """The Hugging Face configuration of the demo RoBERTa."""
    import transformers

    return transformers.RobertaConfig(
        vocab_size=n_tokens, hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=288, max_position_embeddings=LONGEST + 2, type_vocab_size=1,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def sentences(n: int, topical: float, seed: int) -> list[str]:
    """Sentences of 4 to 12 words, with a capital, perhaps a comma, and a full stop.

    Args:
        n: How many.
        topical: Share of words drawn from the sentence's topic; the others come from all words.
        seed: Decides topics and sentences.
    """
    rng = np.random.default_rng(seed)
    words, weights = vocabulary()
    words = np.array(words)
    topic = rng.integers(0, TOPICS, (len(words), TOPICS_PER_WORD))
    shares = [np.where((topic == t).any(1), weights, 0) for t in range(TOPICS)]
    members = [np.flatnonzero(share) for share in shares]
    shares = [share[m] / share[m].sum() for share, m in zip(shares, members, strict=True)]
    made = []
    for _ in range(n):
        size, t = rng.integers(4, 13), rng.integers(TOPICS)
        own = rng.choice(members[t], size, p=shares[t])
        place = np.where(rng.random(size) < topical, own, rng.choice(len(words), size, p=weights))
        said = words[place].tolist()
        if rng.random() < 0.5:
            said[rng.integers(1, 3)] += ","
        made.append(f"{' '.join(said).capitalize()}.")
    return made


def tokenizer(texts: list[str], n_tokens: int):
    """A byte-level BPE of `n_tokens` tokens learned from the texts, as RoBERTa's."""
    import tokenizers
    import transformers

    learned = tokenizers.ByteLevelBPETokenizer()
    learned.train_from_iterator(texts, n_tokens, special_tokens=list(SPECIALS), show_progress=False)
    learned.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.RobertaTokenizerFast(
        tokenizer_object=learned._tokenizer, model_max_length=LONGEST
    )


def hide(tokens: torch.Tensor, share: float, n_tokens: int, generator: torch.Generator):
    """Hide a share of the tokens: 80 % become <mask>, 10 % another token, 10 % stay (BERT's way).

    Returns:
        The tokens as shown (B, S), and the targets (B, S): -100 where nothing was hidden.
    """
    draw = torch.rand(tokens.shape, generator=generator)
    fate = torch.rand(tokens.shape, generator=generator)
    hidden = (draw < share) & (tokens >= len(SPECIALS))
    other = torch.randint(len(SPECIALS), n_tokens, tokens.shape, generator=generator)
    shown = torch.where(hidden & (fate < 0.8), SPECIALS.index("<mask>"), tokens)
    shown = torch.where(hidden & (fate >= 0.9), other, shown)
    return shown, tokens.masked_fill(~hidden, -100)


def pretrain(config: RobertaConfig, out: Path | None = None, *, save_every: int = 500) -> Path:
    """Pre-train the demo RoBERTa and write it as an ordinary Hugging Face folder."""
    import transformers

    out = out or ENCODERS / "demo-roberta"
    texts = sentences(config.sentences, config.topical, config.seed)
    tokens = tokenizer(texts, config.vocabulary)
    ids = tokens(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]
    torch.manual_seed(config.seed)
    model = transformers.RobertaForMaskedLM(model_config(len(tokens))).train()

    def loss(step: int):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batch = ids[torch.randint(len(ids), (config.batch,), generator=generator)]
        batch = batch[:, : int((batch != 1).sum(1).max())]
        shown, target = hide(batch, config.mask_share, len(tokens), generator)
        frames = model.roberta(shown, attention_mask=(batch != 1).long()).last_hidden_state
        asked = target != -100
        logits = model.lm_head(frames[asked]).float()
        right = (logits.argmax(-1) == target[asked]).float().mean()
        return functional.cross_entropy(logits, target[asked]), {"hidden": right.item()}

    def save(step: int, seconds: float, value: float, shown: dict[str, float]) -> None:
        parameters = sum(p.numel() for p in model.roberta.parameters())
        loop.write(
            model, tokens, out, config, step, seconds,
            parameters=parameters, loss=round(value, 3), shown=loop.rounded(shown),
        )  # fmt: skip

    loop.train(model, loss, config, out.name, save, save_every=save_every)
    return out
