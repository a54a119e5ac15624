from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from encoder_toys import SENTENCES, company_error, make_roberta, offered, pad, states
from serlib.data import features
from serlib.data.batching import Clips
from serlib.data.stores import TextStore
from serlib.models.encoders import checkpoints
from serlib.models.encoders.load import load_encoder

TEXTS = (*SENTENCES, "yes", "", "Seven.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("roberta")
    make_roberta(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_tokens_are_those_of_the_stock_tokenizer(folder, tokenizer):
    encoder = load_encoder(folder)
    for text in (
        *TEXTS,
        " led by a space",
        "Ünïcödé 😀 \u200b\x00",
        "tab\tand\nline",
        "I'm I'M i'm",
    ):
        ids = encoder.prepare(text)
        assert ids.dtype == np.int64 and len(ids) <= 32
        assert ids.tolist() == tokenizer(text, truncation=True, max_length=32).input_ids, text
    assert encoder.prepare("I'm").tolist() != encoder.prepare("I'M").tolist()  # cased


def test_a_missing_transcript_is_the_two_special_tokens(folder):
    encoder = load_encoder(folder)
    for text in (None, "", "  \n"):
        assert encoder.prepare(text).tolist() == [0, 2]
    encoded = encoder(*pad([encoder.prepare(None)]))
    assert encoded.lengths.tolist() == [2] and encoded.frames.isfinite().all()
    for wrong in (float("nan"), np.zeros(4), 7, ["a", "list"], b"bytes"):
        with pytest.raises(TypeError, match="None where it is missing"):
            encoder.prepare(wrong)


def test_a_long_text_loses_its_end(folder, tokenizer):
    encoder = load_encoder(folder)
    text = " ".join(SENTENCES)
    ids = encoder.prepare(text)
    assert len(ids) == encoder.max_tokens == 32 == encoder.facts["max_tokens"]
    stock = tokenizer(text, truncation=True, max_length=32).input_ids
    assert ids.tolist() == stock and ids[-1] == 2
    assert encoder.prepare("a" * 100_000)[-1] == 2
    encoder(*pad([ids]))  # all positions of the model are used, none beyond
    assert encoder.prepare("yes").tolist() == tokenizer("yes").input_ids  # no cut stays behind


def test_special_tokens_in_a_transcript_are_plain_characters(folder, tokenizer):
    encoder = load_encoder(folder)
    for text in ("</s>", "<s><pad>", "a <mask> b", "<unk>"):
        ids = encoder.prepare(text).tolist()
        assert ids == tokenizer(text, split_special_tokens=True).input_ids
        assert min(ids[1:-1]) > 4


@pytest.mark.parametrize("padding_id", [1, 4])
def test_frames_are_those_of_the_stock_model(tmp_path, padding_id):
    """Alone and padded; also where the padding's id, which positions start from, is another."""
    stock = make_roberta(tmp_path, max_position_embeddings=40)
    encoder = load_encoder(tmp_path)
    if padding_id != 1:
        encoder.pad = padding_id
        stock.embeddings.padding_idx = padding_id
    items = [encoder.prepare(text) for text in TEXTS]
    ids, lengths = pad(items, fill=padding_id)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        ours = encoder(ids, lengths)
        theirs = stock(ids, attention_mask=mask, output_hidden_states=True)
    assert len(ours.layers) == len(theirs.hidden_states) == encoder.n_layers + 1 == 4
    for mine, its in zip(ours.layers, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine[mask.bool()], its[mask.bool()], rtol=0, atol=1e-5)
        assert not mine[~mask.bool()].any()
    assert ours.frames is ours.layers[-1] and ours.lengths.tolist() == lengths.tolist()
    alone = encoder(*pad(items[:1]))
    expected = stock(torch.from_numpy(items[0])[None]).last_hidden_state
    torch.testing.assert_close(alone.frames, expected, rtol=0, atol=1e-6)


def test_a_text_has_the_same_frames_alone_and_in_any_batch(folder):
    encoder = load_encoder(folder)
    assert company_error(encoder, TEXTS) <= 1e-5
    assert company_error(encoder.double(), TEXTS) <= 1e-12


def test_nothing_in_the_padding_matters_and_padded_frames_are_zero(folder):
    encoder = load_encoder(folder, freeze="none", dropout=0.0)
    items = [encoder.prepare(text) for text in TEXTS]
    clean = encoder(*pad(items))
    valid = torch.arange(clean.frames.shape[1]) < clean.lengths[:, None]
    assert not states(clean)[:, ~valid].any()
    for fill in (1, 2, 299, -100, 10**9):  # no token of this model, either
        assert torch.equal(states(encoder(*pad(items, fill=fill))), states(clean))
    ids, lengths = pad(items, fill=-1)
    wider = encoder(nn.functional.pad(ids, (0, 60), value=-7), lengths)  # wider than the model
    n = clean.frames.shape[1]
    torch.testing.assert_close(states(wider)[:, :, :n], states(clean), rtol=0, atol=1e-6)
    assert not states(wider)[:, :, n:].any()
    clean.frames.square().sum().backward()
    grads = {name: p.grad for name, p in encoder.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values())
    assert grads["model.embeddings.word_embeddings.weight"].any()


def test_a_token_that_is_also_the_paddings_counts_where_it_is_valid(folder):
    """Positions are counted by lengths, not by looking for padding, as the stock model does."""
    encoder = load_encoder(folder)
    ids = torch.tensor([[0, 1, 9, 2]])
    seen = []
    embeddings = encoder.model.embeddings
    hook = embeddings.position_embeddings.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].tolist())
    )
    encoder(ids, torch.tensor([4]))
    encoder(ids, torch.tensor([3]))
    hook.remove()
    assert seen == [[[2, 3, 4, 5]], [[2, 3, 4, 1]]]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_freezing_dropout_and_checkpointing(folder, checkpointing):
    items = [load_encoder(folder).prepare(text) for text in TEXTS[:3]]
    for freeze in ("none", "cnn") if checkpointing else ("none", "cnn", "all"):
        encoder = load_encoder(folder, freeze=freeze, dropout=0.5)
        if checkpointing:
            encoder.model.activation_checkpointing_enable()
        encoder.train()
        assert encoder.freeze == ("all" if freeze == "all" else "none")  # a text has no CNN
        assert all(p.requires_grad is (freeze != "all") for p in encoder.parameters())
        one, two = encoder(*pad(items)), encoder(*pad(items))
        assert torch.equal(states(one), states(two)) is (freeze == "all")
        assert one.frames.requires_grad is (freeze != "all")
        if freeze != "all":
            sum(layer.square().sum() for layer in one.layers).backward()
            assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["RobertaForMaskedLM", "RobertaForSequenceClassification"])
def test_checkpoints_with_heads_and_half_precision(tmp_path, kind):
    stock = make_roberta(tmp_path, kind=kind)
    stock.half().save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    found, expected = encoder.model.state_dict(), stock.roberta.float().state_dict()
    assert found.keys() == expected.keys() and "pooler.dense.weight" not in found
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_damaged_folders_name_the_fix(tmp_path):
    make_roberta(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    about = tmp_path / "tokenizer.json"
    settings, good = json.loads(config.read_text()), about.read_text()
    for changes, match in (
        ({"num_hidden_layers": 4}, r"no weights for \['encoder.layer.3"),
        ({"hidden_size": 48}, "unreadable"),
        ({"is_decoder": True}, "is_decoder"),
        ({"vocab_size": 200}, "has 300 tokens, padding 1; the model 200 and 1"),
        ({"pad_token_id": 0}, "padding 1; the model 300 and 0"),
        ({"hidden_size": "wide"}, r"config\.json unusable"),
        ({"model_type": "xlm-roberta"}, "'xlm-roberta' is not supported"),
    ):
        config.write_text(json.dumps(settings | changes))
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(tmp_path)
    config.write_text("[]")
    with pytest.raises(checkpoints.EncoderError, match="None is not supported"):
        load_encoder(tmp_path, random_init=True)
    config.write_text(json.dumps(settings))
    for content in (good[:-9], "{}", "[1]", "version https://git-lfs.github.com/spec/v1"):
        about.write_text(content)
        with pytest.raises(checkpoints.EncoderError, match=r"tokenizer\.json unusable"):
            load_encoder(tmp_path)
    about.write_text(good)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    with pytest.raises(checkpoints.EncoderError, match="unreadable"):
        load_encoder(tmp_path)
    weights.unlink()
    with pytest.raises(checkpoints.EncoderError, match=r"lacks model\.safetensors"):
        load_encoder(tmp_path)
    load_encoder(tmp_path, random_init=True)
    about.unlink()
    with pytest.raises(checkpoints.EncoderError, match=r"lacks tokenizer\.json"):
        load_encoder(tmp_path, random_init=True)


def test_the_named_command_makes_what_is_missing(tmp_path):
    """As on the hub before fast tokenizers: vocab.json, merges.txt and a pickle."""
    old = tmp_path / "old"
    stock = make_roberta(old)
    expected = load_encoder(old).prepare(SENTENCES[0]).tolist()
    about = json.loads((old / "tokenizer.json").read_text())["model"]
    (old / "vocab.json").write_text(json.dumps(about["vocab"]))
    (old / "merges.txt").write_text("\n".join(" ".join(pair) for pair in about["merges"]))
    for file in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (old / file).unlink()
    torch.save(stock.state_dict(), old / "pytorch_model.bin")
    encoder = load_encoder(offered(old))
    assert encoder.prepare(SENTENCES[0]).tolist() == expected
    ids = torch.tensor([expected])
    with torch.no_grad():
        frames = encoder(ids, torch.tensor([ids.shape[1]])).frames
        torch.testing.assert_close(frames, stock(ids).last_hidden_state)


def test_wrong_inputs_and_options_are_refused(folder):
    encoder = load_encoder(folder)
    ids = torch.zeros(2, 40, dtype=torch.int64)
    for lengths in ([40, 0], [41, 3], [3]):
        with pytest.raises(ValueError, match="tokens"):
            encoder(ids, torch.tensor(lengths))
    with pytest.raises(ValueError, match="at most 32 token ids"):
        encoder(ids, torch.tensor([33, 3]))
    with pytest.raises(ValueError, match="token ids.*float32"):
        encoder(ids.float(), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="dimensions"):
        encoder(torch.zeros(1, 3, 24), torch.tensor([3]))
    for option, match in (
        ({"masked_group_norm": False}, "masked_group_norm=False is for"),
        ({"context": "short"}, "context='short' is for Whisper"),
        ({"spec_augment": 0.1}, "spec_augment=0.1 is for speech"),
        ({"n_layers": 0}, "n_layers=0"),
    ):
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(folder, **option)


def test_options_and_facts(folder):
    encoder = load_encoder(folder, dropout=0.25, n_layers=2)
    facts = json.loads(json.dumps(encoder.facts))
    assert (facts["family"], facts["modality"], facts["n_layers"]) == ("roberta", "text", 2)
    assert (encoder.width, encoder.modality) == (24, "text")
    batch = pad([encoder.prepare(SENTENCES[0])])
    fewer, whole = encoder(*batch).layers, load_encoder(folder)(*batch).layers
    assert len(fewer) == 3 and all(map(torch.equal, fewer, whole))
    assert {m.p for m in encoder.modules() if isinstance(m, nn.Dropout)} == {0.25}
    a, b, c = (load_encoder(folder, random_init=True, seed=seed).digest() for seed in (1, 1, 2))
    assert a == b != c
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert copied.prepare("a </s>").tolist() == encoder.prepare("a </s>").tolist()


def test_digest_changes_with_what_decides_the_output(folder, tmp_path):
    encoder = load_encoder(folder)
    before = encoder.digest()
    encoder.prepare(" ".join(SENTENCES))
    assert encoder.digest() == before  # use changes nothing
    assert load_encoder(folder, freeze="all", dropout=0.3).digest() == before
    tuned = copy.deepcopy(encoder)
    with torch.no_grad():
        tuned.model.embeddings.word_embeddings.weight[7, 0] += 1e-3
    found = {before, tuned.digest(), load_encoder(folder, n_layers=2).digest()}
    make_roberta(tmp_path)
    assert load_encoder(tmp_path).digest() == before
    about = tmp_path / "tokenizer.json"
    content = json.loads(about.read_text())
    content["model"]["merges"].pop()
    about.write_text(json.dumps(content))
    found.add(load_encoder(tmp_path).digest())
    make_roberta(tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    for change in ({"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}, {"num_attention_heads": 2}):
        config.write_text(json.dumps(settings | change))
        found.add(load_encoder(tmp_path).digest())
    assert len(found) == 7
    with pytest.raises(ValueError, match="take all"):
        encoder.digest("cnn")


def test_stored_frames_of_texts(folder, tmp_path):
    encoder = load_encoder(folder, freeze="all")
    options = {"root": tmp_path, "progress": False}
    store = TextStore([*TEXTS, None])
    stored = features.cache(encoder, store, kind="frames", **options)
    expected = encoder(*pad([encoder.prepare(text) for text in store]))
    assert len(stored) == 7 and stored[6].shape == (2, 24)
    for i, n in enumerate(expected.lengths.tolist()):
        torch.testing.assert_close(stored[i], expected.frames[i, :n], rtol=0, atol=1e-5)
    half = features.cache(encoder, store, kind="frames", dtype="float16", **options)
    torch.testing.assert_close(half[0].float(), stored[0], rtol=1e-3, atol=1e-3)
    layers = features.cache(encoder, store, kind="layers", **options)
    batch, lengths = pad([layers[i].view(len(layers[i]), 4, 24) for i in range(7)], torch.nan)
    torch.testing.assert_close(states(encoder(batch, lengths)), states(expected), rtol=0, atol=1e-5)
    means = features.cache(encoder, store, kind="output_mean", **options)
    torch.testing.assert_close(means[1][0], stored[1].mean(0))
    features.cache(encoder, TextStore(["", *TEXTS]), kind="frames", **options)
    assert len(list(tmp_path.glob("frames-*.bin"))) == 3
    for changes, match in (({"kind": "cnn"}, "no CNN"), ({"dtype": "int8"}, "dtype")):
        with pytest.raises(ValueError, match=match):
            features.cache(encoder, store, **options | changes)
    with pytest.raises(ValueError, match="changes in training"):
        features.cache(load_encoder(folder), store, kind="frames", **options)


def test_a_batch_of_texts(folder):
    encoder = load_encoder(folder)
    clips = Clips(TextStore(TEXTS), list("abcdef"), [1.0] * 6, prepare=encoder.prepare)
    (batch,) = clips.batches([[4, 0, 3]], quantum=8)
    assert batch.inputs.dtype == torch.int64 and batch.inputs.shape[1] % 8 == 0
    encoded = encoder(batch.inputs, batch.lengths)
    assert encoded.lengths.tolist() == [len(encoder.prepare(TEXTS[i])) for i in (4, 0, 3)]


def test_bf16_autocast_runs_and_stays_close(folder):
    encoder = load_encoder(folder, dropout=0.0).train()
    batch = pad([encoder.prepare(text) for text in TEXTS])
    exact = states(encoder(*batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = encoder(*batch)
    encoded.frames.float().sum().backward()
    assert (states(encoded) - exact).norm() / exact.norm() < 0.05


def test_shapes_of_the_full_size_architecture(folder, tmp_path):
    """roberta-base: width 768, 514 rows of positions for 512 tokens; with fewer words."""
    make_roberta(
        tmp_path, hidden_size=768, num_attention_heads=12, intermediate_size=3_072,
        num_hidden_layers=1, max_position_embeddings=514,
    )  # fmt: skip
    encoder = load_encoder(tmp_path)
    assert encoder.max_tokens == 512
    with torch.no_grad():
        encoded = encoder(*pad([encoder.prepare("morning " * 900), encoder.prepare("yes")]))
    assert [tuple(layer.shape) for layer in encoded.layers] == [(2, 512, 768)] * 2
    assert int(encoded.lengths[0]) == 512
