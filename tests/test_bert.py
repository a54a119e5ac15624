"""BERT, which shares its code with RoBERTa: what is its own, on tiny folders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder_toys import SENTENCES, company_error, make_bert, pad, states
from serlib.models.encoders import checkpoints
from serlib.models.encoders.load import load_encoder

TEXTS = (*SENTENCES, "yes", "", "Seven.")
ODD = (
    *(" led by a space", "Ünïcödé 😀 \u200b\x00", "tab\tand\nline", "I'm I'M i'm", "漢字"),
    *("x" * 300, "[SEP]", "a [MASK] b", "[CLS][PAD]", "##ing"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    make_bert(path)
    return path


@pytest.mark.parametrize("cased", [False, True])
def test_tokens_are_those_of_the_stock_tokenizer(tmp_path, cased):
    from transformers import AutoTokenizer

    make_bert(tmp_path, cased=cased)
    encoder, stock = load_encoder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, *ODD, " ".join(SENTENCES)):
        ids = encoder.prepare(text).tolist()
        about = {"truncation": True, "max_length": 32, "split_special_tokens": True}
        assert ids == stock(text, **about).input_ids, text
        assert [ids[0], ids[-1]] == [stock.cls_token_id, stock.sep_token_id]
        assert not {encoder.begin, encoder.end, encoder.pad} & set(ids[1:-1]), text
    assert encoder.prepare(None).tolist() == encoder.prepare(" \n").tolist() == [ids[0], ids[-1]]
    assert (encoder.prepare("Seven").tolist() == encoder.prepare("seven").tolist()) is not cased
    assert len(encoder.prepare("a " * 500)) == encoder.max_tokens == 32
    encoder(*pad([encoder.prepare("a " * 500)]))  # all positions are used, none beyond


@pytest.mark.parametrize("side", ["right", "left"])
def test_frames_are_those_of_the_stock_model(tmp_path, side):
    """Also of a stock model that is padded on the left, its positions counted behind that."""
    stock = make_bert(tmp_path)
    encoder = load_encoder(tmp_path)
    items = [torch.from_numpy(encoder.prepare(text)) for text in TEXTS]
    ids, lengths = pad(items)
    with torch.no_grad():
        ours = encoder(ids, lengths)
    if side == "left":
        ids = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_side="left")
    place = torch.arange(ids.shape[1])
    first = (ids.shape[1] - lengths if side == "left" else torch.zeros_like(lengths))[:, None]
    mask = (place >= first) & (place < first + lengths[:, None])
    positions = (place - first).clamp(0)
    with torch.no_grad():
        theirs = stock(
            ids, attention_mask=mask.long(), position_ids=positions, output_hidden_states=True
        )
    assert len(ours.layers) == len(theirs.hidden_states) == 4
    valid = place < lengths[:, None]
    for mine, its in zip(ours.layers, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine[valid], its[mask], rtol=0, atol=1e-5)
        assert not mine[~valid].any()
    assert ours.frames is ours.layers[-1]
    alone = encoder(*pad(items[:1]))
    expected = stock(items[0][None]).last_hidden_state
    torch.testing.assert_close(alone.frames, expected, rtol=0, atol=1e-6)


def test_a_text_has_the_same_frames_alone_and_in_any_batch(folder):
    encoder = load_encoder(folder)
    assert company_error(encoder, TEXTS) <= 1e-5
    assert company_error(encoder.double(), TEXTS) <= 1e-12


def test_every_text_is_of_token_type_0(folder):
    encoder = load_encoder(folder)
    batch = pad([encoder.prepare(text) for text in TEXTS])
    before = states(encoder(*batch))
    with torch.no_grad():
        encoder.model.embeddings.token_type_embeddings.weight[1] += 5
    assert torch.equal(states(encoder(*batch)), before)
    with torch.no_grad():
        encoder.model.embeddings.token_type_embeddings.weight[0, 0] += 5
    assert not torch.equal(states(encoder(*batch)), before)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_with_heads_and_old_names(tmp_path, kind, old):
    """bert-base-uncased still calls the weights of its norms gamma and beta."""
    stock, file = make_bert(tmp_path, kind=kind), tmp_path / "model.safetensors"
    if old:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        weights = load_file(file)
        for new, name in names.items():
            weights = {key.replace(new, name): x for key, x in weights.items()}
        save_file(weights, file)
    encoder = load_encoder(tmp_path, n_layers=2)
    batch = pad([encoder.prepare(text) for text in TEXTS])
    ids, lengths = batch
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    theirs = getattr(stock, "bert", stock)(ids, attention_mask=mask, output_hidden_states=True)
    frames = encoder(*batch).frames
    torch.testing.assert_close(
        frames[mask.bool()], theirs.hidden_states[2][mask.bool()], rtol=0, atol=1e-5
    )
    assert not any("pooler" in name for name in encoder.state_dict())


def test_facts_and_what_is_refused(folder, tmp_path):
    facts = load_encoder(folder, freeze="all").facts
    assert (facts["family"], facts["modality"], facts["max_tokens"]) == ("bert", "text", 32)
    make_bert(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for change, match in (
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"is_decoder": True}, "is_decoder"),
        ({"vocab_size": 90}, "tokenizer.json has 112 tokens"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(tmp_path)
