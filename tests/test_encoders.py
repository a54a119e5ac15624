from __future__ import annotations

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from encoder_toys import clips_of, company_error, offered, pad, states
from serlib.models.encoders import checkpoints, wav2vec2
from serlib.models.encoders.load import load_encoder

FAMILIES = ("wav2vec2", "hubert", "wavlm")  # Whisper and RoBERTa have files of their own
KINDS = [(f, norm, stable) for f in FAMILIES for norm in ("group", "layer") for stable in (0, 1)]
TOLERANCE = 1e-5


def config_of(family: str, norm: str = "group", stable: bool = False, **changes):
    from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

    kind = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "wavlm": WavLMConfig}[family]
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "conv_dim": [12] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "conv_bias": norm == "layer",
        "do_stable_layer_norm": bool(stable),
        "layerdrop": 0.5,
    }
    return kind(**settings | changes)


def make(folder, config, *, do_normalize: bool = True):
    """An ordinary Hugging Face folder with random weights; returns the stock model in it."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for module in model.modules():  # fresh norms are the identity and would hide mistakes
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders by kind, each made once."""
    made = {}

    def get(*kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("-".join(map(str, kind)))
            make(made[kind], config_of(*kind))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(9_000, 32_000, 400, 20_000), (5_000, 5_001), (16_000, 4_000)])
def test_a_clip_has_the_same_frames_alone_and_in_any_batch(folder, kind, lengths):
    encoder = load_encoder(folder(*kind))
    assert company_error(encoder, clips_of(lengths)) <= TOLERANCE
    assert company_error(encoder.double(), clips_of(lengths)) <= 1e-12  # what was left was rounding


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_group_norm_depends_on_the_neighbors(folder, family):
    stock = load_encoder(folder(family, "group", 0), masked_group_norm=False)
    assert company_error(stock, clips_of((9_000, 32_000))) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_padding_matters_and_padded_frames_are_zero(folder, kind):
    encoder = load_encoder(folder(*kind))
    waves = [encoder.prepare(clip) for clip in clips_of((6_000, 16_000, 900))]
    clean = encoder(*pad(waves))
    dirty = encoder(*pad(waves, fill=float("nan")))
    assert torch.equal(states(clean), states(dirty))
    valid = torch.arange(clean.frames.shape[1]) < clean.lengths[:, None]
    assert not states(clean)[:, ~valid].any()
    features, lengths = encoder.extract(*pad(waves))
    assert not features[~valid].any()
    dirty = features.masked_fill(~valid[..., None], float("inf"))
    encoded = encoder(dirty, lengths)
    assert torch.equal(states(encoded), states(clean))
    encoded.frames.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_unpadded_input_gives_what_the_stock_model_gives(folder, kind):
    from transformers import AutoModel

    attention = "stock" if kind[0] == "wavlm" else "fused"  # the fused one is only close
    encoder = load_encoder(folder(*kind), attention=attention)
    stock = AutoModel.from_pretrained(folder(*kind)).eval()
    waves, lengths = pad([encoder.prepare(clip) for clip in clips_of((8_000, 8_000))])
    with torch.no_grad():
        ours, theirs = encoder(waves, lengths), stock(waves, output_hidden_states=True)
    assert len(ours.layers) == len(theirs.hidden_states) == encoder.n_layers + 1
    for mine, its in zip(ours.layers, theirs.hidden_states, strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(ours.frames, theirs.last_hidden_state)
    pre_norm = bool(kind[2])  # then the last layer and the output differ by a LayerNorm
    assert torch.equal(ours.frames, ours.layers[-1]) is not pre_norm
    assert torch.equal(ours.frames, stock.encoder.layer_norm(ours.layers[-1])) is pre_norm


@pytest.mark.parametrize("kind", KINDS)
def test_stock_switch_gives_what_the_stock_model_gives_with_padding(folder, kind):
    from transformers import AutoModel

    encoder = load_encoder(folder(*kind), masked_group_norm=False)
    stock = AutoModel.from_pretrained(folder(*kind)).eval()
    waves, lengths = pad([encoder.prepare(clip) for clip in clips_of((12_000, 5_000))])
    mask = torch.arange(waves.shape[1]) < lengths[:, None]
    with torch.no_grad():
        ours = encoder(waves, lengths)
        theirs = stock(waves, attention_mask=mask.long(), output_hidden_states=True)
    valid = torch.arange(ours.frames.shape[1]) < ours.lengths[:, None]
    both = zip(ours.layers, theirs.hidden_states, strict=True)
    worst = max(float((mine - its)[valid].abs().max()) for mine, its in both)
    assert worst <= TOLERANCE


def test_masked_group_norm_by_hand_and_by_loop():
    norm = nn.GroupNorm(1, 1, eps=0.0)
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.bias.fill_(10.0)
    x = torch.tensor([[[0.0, 2.0, 4.0, 99.0]]])  # mean 2, variance 8/3
    y = wav2vec2.masked_group_norm(x, torch.tensor([3]), norm)
    step = 2 * 2 / (8 / 3) ** 0.5
    assert y[0, 0].tolist() == pytest.approx([10 - step, 10, 10 + step, 0], abs=1e-6)

    torch.manual_seed(0)
    norm, x = nn.GroupNorm(2, 6), torch.randn(3, 6, 11)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    y = wav2vec2.masked_group_norm(x, torch.tensor([11, 4, 1]), norm).detach().numpy()
    for b, n in enumerate((11, 4, 1)):
        for group in (slice(0, 3), slice(3, 6)):
            values = x[b, group, :n].double().numpy()
            z = (values - values.mean()) / np.sqrt(values.var() + norm.eps)
            w, c = (p[group, None].detach().double().numpy() for p in (norm.weight, norm.bias))
            np.testing.assert_allclose(y[b, group, :n], z * w + c, atol=1e-5)
        assert not y[b, :, n:].any()


@pytest.mark.parametrize("stable", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_stored_hidden_states_give_what_the_waves_gave(folder, stable, dtype):
    encoder = load_encoder(folder("wav2vec2", "layer", stable))
    waves = [encoder.prepare(clip) for clip in clips_of((9_000, 4_000, 6_000))]
    expected = encoder(*pad(waves))
    stored = torch.stack(expected.layers, 2).to(dtype)  # (B, T, L + 1, D)
    padded = torch.arange(stored.shape[1]) >= expected.lengths[:, None]
    assert padded.any()
    stored[padded] = torch.nan
    found = encoder(stored, expected.lengths)
    assert torch.equal(found.lengths, expected.lengths) and found.frames.dtype == torch.float32
    assert len(found.layers) == encoder.n_layers + 1
    if dtype == torch.float32:
        assert torch.equal(states(found), states(expected))
    else:
        torch.testing.assert_close(states(found), states(expected), rtol=2e-3, atol=2e-3)
    assert (states(found)[:, padded] == 0).all()


def test_stored_hidden_states_need_fitting_lengths(folder):
    encoder = load_encoder(folder("wav2vec2", "group", 0))
    stored = torch.zeros(2, 5, 4, 24)
    for lengths in ([5, 6], [0, 5], [5]):
        with pytest.raises(ValueError, match="frames"):
            encoder(stored, torch.tensor(lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_compose_exactly(folder, family):
    encoder = load_encoder(folder(family, "group", 0))
    batch = pad([encoder.prepare(clip) for clip in clips_of((7_000, 3_000))])
    features, lengths = encoder.extract(*batch)
    assert features.shape == (2, 21, encoder.cnn_width)
    assert torch.equal(states(encoder(*batch)), states(encoder.contextualize(features, lengths)))
    assert torch.equal(states(encoder(*batch)), states(encoder(features, lengths)))
    wider = nn.functional.pad(features, (0, 0, 0, 5))  # frames padded to a quantum
    assert (states(encoder(wider, lengths))[:, :, :21] - states(encoder(*batch))).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_in_training_with_layerdrop_and_checkpointing(folder, family, checkpointing):
    """All L + 1 states, each with its gradient, although the checkpoint's config drops layers."""
    encoder = load_encoder(folder(family, "layer", 1), dropout=0.0)
    batch = pad([encoder.prepare(clip) for clip in clips_of((4_000, 2_000))])
    expected = states(encoder(*batch))
    if checkpointing:
        encoder.model.activation_checkpointing_enable()
    encoder.train()
    for _ in range(5):
        encoded = encoder(*batch)
        assert len(encoded.layers) == encoder.n_layers + 1
        assert torch.allclose(states(encoded), expected, atol=1e-6)
    weights = torch.arange(1.0, 5.0)
    sum(
        w * layer.square().sum() for w, layer in zip(weights, encoded.layers, strict=True)
    ).backward()
    found = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    assert all(bool(g.any()) for n, g in found.items() if "k_proj.bias" not in n)
    if checkpointing:  # the same gradients as without checkpointing
        plain = load_encoder(folder(family, "layer", 1), dropout=0.0).train()
        layers = plain(*batch).layers
        sum(w * layer.square().sum() for w, layer in zip(weights, layers, strict=True)).backward()
        for name, parameter in plain.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_a_changed_model_is_noticed(folder):
    encoder = load_encoder(folder("wavlm", "group", 0))
    del encoder.model.encoder.layers[1]
    with pytest.raises(RuntimeError, match="3 states from 3 layers"):
        encoder(torch.randn(1, 800), torch.tensor([800]))


def test_freezing(folder):
    path = folder("wav2vec2", "group", 0)
    trained = {
        freeze: {n.split(".")[1] for n, p in load_encoder(path, freeze=freeze).named_parameters()
                 if p.requires_grad}
        for freeze in ("none", "cnn", "all")
    }  # fmt: skip
    assert trained["all"] == set()
    assert "feature_extractor" in trained["none"]
    assert trained["cnn"] == trained["none"] - {"feature_extractor"}

    batch = pad(clips_of((2_000, 1_000)))
    for freeze in ("none", "cnn", "all"):
        encoder = load_encoder(path, freeze=freeze, dropout=0.5).train()
        encoded = encoder(*batch)
        assert encoder.extract(*batch)[0].requires_grad is (freeze == "none")
        assert encoded.frames.requires_grad is (freeze != "all")
        assert torch.equal(states(encoded), states(encoder(*batch))) is (freeze == "all")
    for parameter in trained["cnn"]:
        assert parameter in ("feature_projection", "encoder")  # nothing that gets no gradient
    with pytest.raises(checkpoints.EncoderError, match="cnn, all or none"):
        load_encoder(path, freeze="most")


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_lower_layers_can_be_stored(folder, kind):
    encoder = load_encoder(folder(*kind), freeze_layers=2, dropout=0.5).train()
    below = ("feature_", "encoder.pos_conv", "encoder.layers.0.", "encoder.layers.1.")
    below += () if encoder.pre_norm else ("encoder.layer_norm",)
    for name, parameter in encoder.model.named_parameters():
        assert parameter.requires_grad is not name.startswith((*below, "masked_spec_embed")), name

    clips = clips_of((2_000, 1_000, 3_100))
    inputs, lengths = pad(clips)
    first, again = encoder(inputs, lengths), encoder(inputs, lengths)
    for layer in range(3):  # no dropout below
        assert torch.equal(first.layers[layer], again.layers[layer])
    assert not torch.equal(first.frames, again.frames)

    encoder.eval()
    whole = encoder(inputs, lengths)
    known = torch.full((*whole.frames.shape[:2], 3, encoder.width), torch.nan)
    for i, clip in enumerate(clips):  # each stored alone; what pads them cannot matter
        alone = encoder(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
        known[i, : alone.frames.shape[1]] = torch.stack(alone.layers[:3], 2)[0].detach()
    found = encoder(known, whole.lengths)
    assert len(found.layers) == len(whole.layers) == encoder.n_layers + 1
    torch.testing.assert_close(states(found), states(whole), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(found.frames, whole.frames, rtol=0, atol=TOLERANCE)
    grads = []
    for encoded in (found, whole):
        encoder.zero_grad()
        encoded.frames.square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == sum(p.requires_grad for p in encoder.parameters())
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="2 stored states"):
        encoder(known[:, :, :2], whole.lengths)


def test_lower_layers_that_cannot_be_frozen(folder):
    path = folder("wav2vec2", "group", 0)
    for wrong in (-1, 3, 4):
        with pytest.raises(checkpoints.EncoderError, match="leave one"):
            load_encoder(path, freeze_layers=wrong)
    with pytest.raises(checkpoints.EncoderError, match="Set one of them to 0"):
        load_encoder(path, freeze_layers=1, spec_augment=0.1)
    assert load_encoder(path, freeze="all", freeze_layers=1).freeze_layers == 0
    with pytest.raises(checkpoints.EncoderError, match="for speech"):
        load_encoder("demo-roberta", freeze_layers=1)


def test_group_norm_gradients_with_padding(folder):
    encoder = load_encoder(folder("hubert", "group", 0), freeze="none", dropout=0.0).train()
    encoder(*pad(clips_of((3_000, 400)))).frames.sum().backward()
    grads = [p.grad for p in encoder.model.feature_extractor.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_prepare_is_the_checkpoints_own_preprocessing_of_one_clip(tmp_path, do_normalize):
    from transformers import AutoFeatureExtractor

    make(tmp_path, config_of("wav2vec2"), do_normalize=do_normalize)
    encoder = load_encoder(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    for scale in (0.3, 1e-4):  # nearly silent: the small constant in the variance shows
        wave = (scale * clips_of((3_000,))[0] + 0.01).astype(np.float32)
        theirs = extractor(wave, sampling_rate=16_000).input_values[0]
        np.testing.assert_allclose(encoder.prepare(wave), theirs, atol=1e-4 if do_normalize else 0)
    assert encoder.facts["do_normalize"] is do_normalize


def test_short_clips_are_padded_to_one_frame(folder):
    encoder = load_encoder(folder("wavlm", "group", 0))
    for n in (1, 2, 399, 400):
        wave = encoder.prepare(np.full(n, 0.1, np.float32) + np.arange(n, dtype=np.float32) / 999)
        assert wave.shape == (400,) and not wave[n:].any()
        encoded = encoder(*pad([wave]))
        assert encoded.frames.shape[1] == int(encoded.lengths[0]) == 1
        assert torch.isfinite(states(encoded)).all()
    silence = encoder.prepare(np.zeros(500, np.float32))
    assert torch.isfinite(states(encoder(*pad([silence])))).all()
    with pytest.raises(ValueError):
        encoder.prepare(np.zeros(0, np.float32))


def test_frame_lengths_count_what_the_cnn_makes(folder):
    encoder = load_encoder(folder("wav2vec2", "layer", 0))
    assert (encoder.stride, encoder.receptive_field) == (320, 400)
    for n in (400, 719, 720, 16_000, 16_079, 16_080, 31_999):
        made = encoder.extract(torch.zeros(1, n), torch.tensor([n]))[0].shape[1]
        assert made == int(encoder.frame_lengths(n)) == (n - 400) // 320 + 1
        assert made == int(encoder.model._get_feat_extract_output_lengths(n))
    assert encoder.frame_lengths(torch.tensor([1, 399, 16_000])).tolist() == [1, 1, 49]


def test_receptive_field_of_unusual_kernels(tmp_path):
    """Against the definition: the samples whose change is seen by frame 0, and by frame 1."""
    config = config_of("hubert", "layer", conv_dim=[8, 8], conv_kernel=[7, 4], conv_stride=[3, 2])
    make(tmp_path, config)
    encoder = load_encoder(tmp_path)
    wave = torch.randn(1, 60, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for frame in (0, 1):
        features, _ = encoder.extract(wave, torch.tensor([60]))
        seen = torch.autograd.grad(features[0, frame].sum(), wave)[0][0].nonzero().flatten()
        start = frame * encoder.stride
        assert seen.min() == start and seen.max() == start + encoder.receptive_field - 1
    assert (encoder.stride, encoder.receptive_field) == (6, 16)


def test_wrong_shapes_and_lengths_are_refused(folder):
    encoder = load_encoder(folder("wav2vec2", "group", 0))
    waves = torch.zeros(2, 1_000)
    for lengths in ([1_000, 399], [1_000, 1_001], [1_000], [[1_000, 1_000]]):
        with pytest.raises(ValueError, match="lengths"):
            encoder(waves, torch.tensor(lengths))
    with pytest.raises(ValueError):
        encoder.contextualize(torch.zeros(1, 3, 12), torch.tensor([0]))
    with pytest.raises(ValueError):
        encoder(torch.zeros(0, 1_000), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError):
        encoder.extract(torch.zeros(1, 3, 12), torch.tensor([3]))


def test_options_and_facts(folder):
    path = folder("wavlm", "group", 1)
    encoder = load_encoder(path, dropout=0.25, n_layers=2)
    assert (
        encoder.n_layers == 2 and len(encoder(torch.ones(1, 900), torch.tensor([900])).layers) == 3
    )
    rates = {m.p for m in encoder.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25} and encoder.model.config.layerdrop == 0
    facts = json.loads(json.dumps(encoder.facts))
    assert facts["norm"] == "group" and facts["masked_group_norm"] and facts["do_normalize"]
    assert (facts["n_layers"], facts["width"], facts["stride"]) == (2, 24, 320)
    assert facts["final"] == "LayerNorm of layer L" and facts["hidden_dropout"] == 0.25
    full = load_encoder(path)
    assert full.facts["hidden_dropout"] == 0.1  # the checkpoint's
    shared = zip(
        full(*pad(clips_of((900,)))).layers, encoder(*pad(clips_of((900,)))).layers, strict=False
    )
    assert all(torch.equal(a, b) for a, b in shared)
    for n in (0, 4):
        with pytest.raises(checkpoints.EncoderError, match="n_layers"):
            load_encoder(path, n_layers=n)


@pytest.mark.parametrize("family", FAMILIES)
def test_spec_augment_hides_frames_in_training_only(tmp_path, family):
    make(tmp_path, config_of(family, mask_time_length=2, apply_spec_augment=False))
    batch = pad(clips_of((16_000, 5_000)))
    plain = load_encoder(tmp_path, dropout=0.0)
    assert torch.equal(states(plain.train()(*batch)), states(plain.eval()(*batch)))
    assert not any("masked_spec_embed" in name for name, _ in plain.named_parameters())
    hiding = load_encoder(tmp_path, dropout=0.0, spec_augment=0.5)
    assert torch.equal(states(hiding(*batch)), states(plain(*batch)))
    np.random.seed(0)
    encoded = hiding.train()(*batch)
    assert (states(encoded) - states(plain(*batch))).abs().max() > 0.1
    valid = torch.arange(encoded.frames.shape[1]) < encoded.lengths[:, None]
    assert not states(encoded)[:, ~valid].any()
    hiding(*pad([np.ones(400, np.float32)]))  # shorter than a span: stays whole


def test_random_init_is_decided_by_the_seed_and_leaves_the_global_state_alone(folder):
    path = folder("wav2vec2", "group", 0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (load_encoder(path, random_init=True, seed=seed) for seed in (1, 1, 2))
    loaded = load_encoder(path)
    assert torch.equal(torch.rand(3), expected)
    assert a.digest() == b.digest() != c.digest()
    assert loaded.digest() not in (a.digest(), c.digest())


def test_digest_changes_with_what_decides_the_output(folder, tmp_path):
    encoder = load_encoder(folder("wavlm", "group", 0))
    whole, cnn = encoder.digest(), encoder.digest("cnn")
    moved = tmp_path / "elsewhere"
    model = make(moved, config_of("wavlm", "group", 0))
    same = load_encoder(moved, dropout=0.7, freeze="all")
    assert (same.digest(), same.digest("cnn")) == (whole, cnn)
    stock = load_encoder(moved, masked_group_norm=False)
    assert stock.digest() != whole and stock.digest("cnn") != cnn
    make(tmp_path / "raw", model.config, do_normalize=False)
    raw = load_encoder(tmp_path / "raw")
    assert raw.digest() != whole and raw.digest("cnn") != cnn
    fewer = load_encoder(moved, n_layers=2)
    assert fewer.digest() != whole and fewer.digest("cnn") == cnn
    make(tmp_path / "heads", config_of("wavlm", "group", 0, num_attention_heads=2))
    tuned = copy.deepcopy(encoder)
    with torch.no_grad():
        tuned.model.encoder.layers[2].feed_forward.output_dense.bias[0] += 1e-3
    assert tuned.digest() != whole and tuned.digest("cnn") == cnn
    with torch.no_grad():
        tuned.model.feature_extractor.conv_layers[3].conv.weight[0, 0, 0] += 1e-3
    assert tuned.digest("cnn") != cnn


@pytest.mark.parametrize("name", ["feed_forward.output_dense.bias", "attention.k_proj.weight"])
def test_digest_of_the_frozen_layers_is_blind_to_those_above(folder, name):
    path = folder("wavlm", "group", 0)
    encoder = load_encoder(path, freeze="cnn", freeze_layers=2)
    lower = encoder.digest("lower")
    for layer, changes in ((2, False), (1, True), (0, True)):
        tuned = copy.deepcopy(encoder)
        with torch.no_grad():
            tuned.model.encoder.layers[layer].get_parameter(name).flatten()[0] += 1e-3
        assert (tuned.digest("lower") != lower) is changes
        assert tuned.digest() != encoder.digest()
    other = load_encoder(path, freeze="cnn", freeze_layers=2, masked_group_norm=False)
    assert other.digest("lower") != lower
    fewer = load_encoder(path, freeze="cnn", freeze_layers=1)
    assert fewer.digest("lower") != lower
    bare = load_encoder(path, freeze="cnn")
    with pytest.raises(ValueError, match="part='lower' of wavlm: take all"):
        bare.digest("lower")


@pytest.mark.parametrize("old_names", [False, True])
def test_checkpoints_with_heads_half_precision_and_old_names(tmp_path, old_names):
    """What the hub has: saved from a CTC model, in half precision, or before transformers 4.31."""
    from safetensors.torch import load_file, save_file
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    torch.manual_seed(0)
    stock = Wav2Vec2ForCTC(config_of("wav2vec2", "layer", vocab_size=9)).half()
    stock.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    if old_names:
        file, old = (
            tmp_path / "model.safetensors",
            {"original0": "weight_g", "original1": "weight_v"},
        )
        weights = load_file(file)
        for key in [key for key in weights if "parametrizations" in key]:
            stem, _, last = key.rpartition(".")
            weights[stem.replace("parametrizations.weight", old[last])] = weights.pop(key)
        save_file(weights, file, metadata={"format": "pt"})
    encoder = load_encoder(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    for name, value in stock.wav2vec2.float().state_dict().items():
        if name != "masked_spec_embed":
            assert torch.equal(encoder.model.state_dict()[name], value), name


def test_sharded_checkpoints(tmp_path):
    stock = make(tmp_path / "one", config_of("hubert"))
    stock.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    (tmp_path / "one" / "preprocessor_config.json").rename(
        tmp_path / "many/preprocessor_config.json"
    )
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    batch = pad(clips_of((1_000,)))
    with torch.no_grad():
        expected = stock(batch[0]).last_hidden_state
    assert torch.equal(load_encoder(tmp_path / "many")(*batch).frames, expected)


def test_damaged_folders_name_the_fix(tmp_path):
    make(tmp_path, config_of("wav2vec2"))
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good, settings = weights.read_bytes(), json.loads(config.read_text())

    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(checkpoints.EncoderError, match="unreadable"):
        load_encoder(tmp_path)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(checkpoints.EncoderError, match="unreadable"):
        load_encoder(tmp_path)
    weights.write_bytes(good)

    config.write_text(json.dumps(settings | {"num_hidden_layers": 4}))  # no silent random layer
    with pytest.raises(checkpoints.EncoderError, match=r"no weights for \['encoder.layers.3"):
        load_encoder(tmp_path)
    config.write_text(json.dumps(settings | {"hidden_size": 48}))
    with pytest.raises(checkpoints.EncoderError, match="unreadable"):
        load_encoder(tmp_path)
    for changes, match in (
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": None}, "None"),
        ({"add_adapter": True}, "add_adapter"),
        ({"model_type": "hubert", "conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
    ):
        config.write_text(json.dumps(settings | changes))
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_encoder(tmp_path)
    config.write_text(json.dumps(settings))

    extractor = tmp_path / "preprocessor_config.json"
    extractor.write_text('{"sampling_rate": 8000}')
    with pytest.raises(checkpoints.EncoderError, match="8000 Hz"):
        load_encoder(tmp_path)
    extractor.unlink()
    with pytest.raises(checkpoints.EncoderError, match=r"lacks preprocessor_config\.json"):
        load_encoder(tmp_path)


def test_pickled_weights_are_refused_and_the_named_command_makes_a_whole_copy(tmp_path):
    folder = tmp_path / "it's $HOME"
    model = make(folder, config_of("wavlm"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    batch = pad(clips_of((1_000,)))
    with torch.no_grad():
        expected = model(batch[0]).last_hidden_state
    first = offered(folder)
    assert torch.equal(load_encoder(first)(*batch).frames, expected)
    assert offered(folder) != first  # not into what is there
    load_encoder(folder, random_init=True)  # needs no weights at all


def test_a_model_saved_with_its_processor_is_read_as_it_is(tmp_path):
    """As transformers 5 saves: the extractor's settings lie in processor_config.json."""
    import transformers
    from transformers import Wav2Vec2ForCTC

    vocab = tmp_path / "vocab.json"
    names = "<pad> <s> </s> <unk> | A".split()
    vocab.write_text(json.dumps({name: i for i, name in enumerate(names)}))
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config_of("wav2vec2", "layer", vocab_size=6)).eval()
    model.save_pretrained(tmp_path / "ctc")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocab))
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path / "ctc")
    assert not (tmp_path / "ctc" / "preprocessor_config.json").exists()
    encoder, batch = load_encoder(tmp_path / "ctc"), pad(clips_of((1_000,)))
    assert not encoder.do_normalize
    with torch.no_grad():
        assert torch.equal(encoder(*batch).frames, model.wav2vec2(batch[0]).last_hidden_state)
    (tmp_path / "ctc" / "processor_config.json").write_text('{"processor_class": "none"}')
    with pytest.raises(checkpoints.EncoderError, match=r"lacks preprocessor_config\.json\. Copy"):
        load_encoder(tmp_path / "ctc")


def test_a_missing_shard_and_weights_that_are_no_numbers_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    stock = make(tmp_path / "one", config_of("hubert"))
    file = tmp_path / "one" / "model.safetensors"
    weights = load_file(file)
    for value in (math.nan, -math.inf):
        weights["encoder.layer_norm.bias"][3] = value
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(checkpoints.EncoderError, match=r"encoder\.layer_norm\.bias holds NaN"):
            load_encoder(tmp_path / "one")
    file.unlink()
    stock.save_pretrained(tmp_path / "one", max_shard_size="20KB")
    gone = sorted((tmp_path / "one").glob("model-*"))[1]
    gone.unlink()
    with pytest.raises(checkpoints.EncoderError, match=rf"lacks {gone.name}\. Copy"):
        load_encoder(tmp_path / "one")


def test_unreachable_hub_names_the_folder_to_fill(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    with pytest.raises(checkpoints.EncoderError) as error:
        load_encoder("microsoft/wavlm-large")
    target = tmp_path / "encoders" / "microsoft" / "wavlm-large"
    for part in (
        target,
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "python -c",
    ):
        assert str(part) in str(error.value)
    make(target, config_of("wavlm"))  # as the message asks: now the name works, without the hub
    assert load_encoder("microsoft/wavlm-large").facts["family"] == "wavlm"


def test_hub_files_are_fetched_without_pickles(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def deliver(name, allow_patterns):
        asked[name] = allow_patterns
        return str(tmp_path)

    make(tmp_path, config_of("hubert"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", deliver)
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "empty"))
    load_encoder("some/hubert")
    files = [
        "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "model.safetensors", "model-*.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip
    assert asked == {"some/hubert": files}
    (tmp_path / "model.safetensors").unlink()  # as with many on the hub: only pytorch_model.bin
    with pytest.raises(checkpoints.EncoderError, match=r's, t = \["some/hubert"'):
        load_encoder("some/hubert")


def test_offline_hub(tmp_path, monkeypatch):
    """The real client, switched off and with an empty cache: one clear error."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    for name in ("nobody/nothing", "demo-nothing", "not a name", "a/b/c"):
        with pytest.raises(checkpoints.EncoderError, match="Fill"):
            load_encoder(name)


def test_import_is_light():
    code = "import sys, serlib.models.encoders.load; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


@pytest.mark.parametrize("option", [{"context": "short"}, {"context": "half"}])
def test_options_of_other_families_are_refused(folder, option):
    with pytest.raises(checkpoints.EncoderError, match="context"):
        load_encoder(folder("wavlm", "group", 0), **option)


def test_a_second_set_of_weights_beside_is_left_alone(folder, tmp_path):
    """As in whisper-large-v3: model.safetensors, and shards of model.fp32-*."""
    stock = make(tmp_path, config_of("hubert"))
    (tmp_path / "model.fp32-00001-of-00002.safetensors").write_text("never read")
    assert torch.equal(
        load_encoder(tmp_path).model.state_dict()["encoder.layer_norm.weight"],
        stock.state_dict()["encoder.layer_norm.weight"],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_runs_and_stays_close(folder, kind):
    encoder = load_encoder(folder(*kind), dropout=0.0).train()
    batch = pad([encoder.prepare(clip) for clip in clips_of((4_000, 3_000))])
    exact = states(encoder(*batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = encoder(*batch)
    encoded.frames.float().sum().backward()
    error = (states(encoded) - exact).norm() / exact.norm()
    assert error < 0.05


def test_shapes_of_the_full_size_base_architecture(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    Wav2Vec2Config().save_pretrained(tmp_path)  # its defaults are those of wav2vec2-base
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, random_init=True)
    with torch.no_grad():
        encoded = encoder(*pad([encoder.prepare(clip) for clip in clips_of((16_000, 8_000))]))
    assert [tuple(layer.shape) for layer in encoded.layers] == [(2, 49, 768)] * 13
    assert encoded.lengths.tolist() == [49, 24] and encoder.cnn_width == 512
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(94.4e6, rel=1e-3)
