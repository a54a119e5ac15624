"""The fused WavLM attention against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from encoder_toys import clips_of, pad, states
from serlib.models.encoders import checkpoints, wavlm
from serlib.models.encoders.load import load_encoder
from test_encoders import config_of, make

TOLERANCE = 1e-5


def stock_attention(has_bias: bool = True, **changes):
    """A stock module whose gates and biases differ enough to be missed."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    settings = {"embed_dim": 24, "num_heads": 4, "num_buckets": 32, "max_distance": 50}
    stock = WavLMAttention(**settings | changes, has_relative_position_bias=has_bias)
    for name, parameter in stock.named_parameters():
        nn.init.normal_(parameter, 0, 1.0 if "rel" in name else 0.3)
    return stock


def valid_of(lengths: list[int], n_frames: int) -> torch.Tensor:
    return torch.arange(n_frames) < torch.tensor(lengths)[:, None]


def pair(folder, config, **options):
    """The same checkpoint with both attentions, without dropout, in training mode."""
    make(folder, config)
    fused, stock = (
        load_encoder(folder, attention=kind, dropout=0.0, freeze="none", **options)
        for kind in ("fused", "stock")
    )
    with torch.no_grad():  # fresh ones are too alike for a mistake to show
        for (name, a), b in zip(fused.named_parameters(), stock.parameters(), strict=True):
            if "rel_" in name:
                torch.manual_seed(len(name))
                a.copy_(torch.randn_like(a))
                b.copy_(a)
    return fused.train(), stock.train()


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("n_frames", [1, 2, 13, 64, 131])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_one_attention_is_the_stock_one(n_frames, padded, dtype, tolerance):
    """Output, gradients of every parameter and of the input; distances far beyond the table."""
    torch.manual_seed(n_frames)
    stock = stock_attention().to(dtype)
    ours = wavlm.GatedAttention(copy.deepcopy(stock))
    x = torch.randn(3, n_frames, 24, dtype=dtype)
    valid = valid_of([n_frames, max(1, n_frames // 2), 1], n_frames)
    mask, weigh = (valid, valid[..., None]) if padded else (None, 1)
    found = []
    for module in (stock, ours):
        inputs = x.clone().requires_grad_()
        out, _, bias = module(inputs, attention_mask=mask)
        (out * weigh).square().mean().backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        found.append((out * weigh, inputs.grad, gradients, bias))
    (out_a, x_a, grad_a, bias_a), (out_b, x_b, grad_b, bias_b) = found
    assert (out_a - out_b).abs().max() < tolerance
    assert torch.equal(bias_a, bias_b.repeat(3, 1, 1))
    assert (x_a - x_b).abs().max() < tolerance
    assert grad_a.keys() == grad_b.keys()
    for name, gradient in grad_a.items():
        assert (gradient - grad_b[name]).abs().max() < tolerance, name


@pytest.mark.parametrize(("n", "far"), [(320, 800), (32, 50), (8, 9)])
def test_buckets_are_the_stock_ones_at_every_distance(n, far):
    stock = stock_attention(num_buckets=n, max_distance=far)
    distances = torch.arange(-3_000, 3_001)
    expected = stock._relative_positions_bucket(distances)
    assert torch.equal(wavlm.buckets(distances, n, far), expected)


def test_the_formula_in_loops():
    """One head and one query at a time, from the paper's equations."""
    torch.manual_seed(0)
    ours = wavlm.GatedAttention(stock_attention())
    x, n_clips, n_frames = torch.randn(2, 5, 24), 2, 5
    valid = valid_of([5, 3], n_frames)
    out, _, bias = ours(x, attention_mask=valid)
    heads = torch.empty(n_clips, n_frames, 24)
    for b in range(n_clips):
        for h in range(4):
            share = slice(6 * h, 6 * h + 6)
            q, k, v = (p(x[b])[:, share] for p in (ours.q_proj, ours.k_proj, ours.v_proj))
            for t in range(n_frames):
                u = ours.gru_rel_pos_linear(x[b, t, share])
                update, reset = torch.sigmoid(u[:4].sum()), torch.sigmoid(u[4:].sum())
                scale = reset * ours.gru_rel_pos_const[0, h, 0, 0]
                gate = 1 + update * scale + (1 - update)
                rows = wavlm.buckets(torch.arange(n_frames) - t, 32, 50)
                distance = ours.rel_attn_embed.weight[rows, h]
                scores = k @ q[t] / 6**0.5 + gate * distance
                share_of = torch.softmax(scores[valid[b]], 0)
                heads[b, t, share] = share_of @ v[valid[b]]
    assert (ours.out_proj(heads) - out).abs().max() < TOLERANCE
    assert torch.equal(bias, wavlm.position_bias([nn.ModuleDict({"attention": ours})], n_frames))


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stable", [0, 1])
@pytest.mark.parametrize("samples", [(4_000,), (4_080, 2_500, 500)])
def test_whole_encoder_is_the_stock_one(tmp_path, norm, stable, samples):
    """Several layers that share one bias: all states, and the gradients of all parameters."""
    fused, stock = pair(tmp_path, config_of("wavlm", norm, stable))
    batch = pad([fused.prepare(clip) for clip in clips_of(samples)])
    results = [encoder(*batch) for encoder in (fused, stock)]
    assert (states(results[0]) - states(results[1])).abs().max() < TOLERANCE
    for result in results:
        torch.stack(result.layers).square().mean().backward()
    for (name, a), b in zip(fused.named_parameters(), stock.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=TOLERANCE, msg=name)
        else:
            assert a.grad is None
    table = fused.model.encoder.layers[0].attention.rel_attn_embed.weight.grad
    assert bool(table.any())


def test_state_keeps_the_checkpoints_names_and_order(tmp_path):
    fused, stock = pair(tmp_path, config_of("wavlm"))
    names = [[name for name, _ in e.named_parameters()] for e in (fused, stock)]
    assert names[0] == names[1] and fused.state_dict().keys() == stock.state_dict().keys()
    assert fused.digest() == stock.digest()
    stock.load_state_dict(fused.state_dict())
    assert fused.facts["attention"] == "fused" and stock.facts["attention"] == "stock"


@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_layers_can_be_entered_anywhere(tmp_path):
    """From the states of layer 1 on, with the bias of `position_bias`, the others give the same."""
    for encoder in pair(tmp_path, config_of("wavlm", "layer", 1)):
        batch = pad([encoder.prepare(clip) for clip in clips_of((4_000, 2_500))])
        encoded, layers = encoder(*batch), encoder.model.encoder.layers
        x, n_frames = encoded.layers[1], encoded.frames.shape[1]
        valid = valid_of(encoded.lengths.tolist(), n_frames)
        bias = wavlm.position_bias(layers, n_frames, len(x))
        assert bias.shape[-3:] in ((4, n_frames, n_frames), (8, n_frames, n_frames))
        for layer in layers[1:]:
            x, same = layer(x, attention_mask=valid, position_bias=bias)
            assert same is bias
        difference = (x - encoded.layers[-1]) * valid[..., None]
        assert difference.abs().max() < TOLERANCE


def test_the_stock_model_runs_on_the_fused_layers(tmp_path):
    """transformers' own forward, which passes no bias to the first layer."""
    stock = make(tmp_path, config_of("wavlm", "layer"))
    encoder = load_encoder(tmp_path)
    waves, lengths = pad(clips_of((4_000, 2_500)))
    mask = valid_of(lengths.tolist(), 4_000).long()
    with torch.no_grad(), pytest.warns(UserWarning, match="mismatched"):
        expected = stock(waves, attention_mask=mask).last_hidden_state
    found = encoder.model(waves, attention_mask=mask).last_hidden_state
    assert (found - expected)[0].abs().max() < TOLERANCE


def test_a_loaded_encoder_is_in_evaluation_mode_throughout(tmp_path):
    make(tmp_path, config_of("wavlm", attention_dropout=0.5))
    encoder = load_encoder(tmp_path)
    assert not any(module.training for module in encoder.modules())
    batch = pad(clips_of((4_000, 2_500)))
    assert torch.equal(states(encoder(*batch)), states(encoder(*batch)))
    assert all(module.training for module in encoder.train().modules())
    assert not torch.equal(states(encoder(*batch)), states(encoder(*batch)))


def test_dropout_acts_on_the_attention_in_training_only():
    torch.manual_seed(0)
    ours = wavlm.GatedAttention(stock_attention(dropout=0.5))
    x = torch.randn(1, 7, 24)
    once, again = ours(x)[0], ours(x)[0]
    assert not torch.allclose(once, again)
    mean = torch.stack([ours(x)[0] for _ in range(3_000)]).mean(0)
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])
    assert (mean - ours(x)[0]).abs().max() < 0.1


def test_padding_holds_nothing():
    """NaN-free gradients with one valid frame, and no influence of what padding holds."""
    torch.manual_seed(0)
    ours = wavlm.GatedAttention(stock_attention())
    x, valid = torch.randn(2, 9, 24, requires_grad=True), valid_of([9, 1], 9)
    out = ours(x, attention_mask=valid)[0]
    out[valid].sum().backward()
    assert bool(x.grad.isfinite().all()) and not x.grad[1, 1:].any()
    other = torch.where(valid[..., None], x.detach(), 1e3)
    assert torch.equal(ours(other, attention_mask=valid)[0][valid], out[valid])


def test_copies_are_independent():
    ours = wavlm.GatedAttention(stock_attention())
    other = copy.deepcopy(ours)
    x = torch.randn(1, 4, 24)
    before = ours(x)[0]
    nn.init.zeros_(other.rel_attn_embed.weight)
    assert torch.equal(ours(x)[0], before) and not other.compute_bias(3).any()


def test_options_are_checked(tmp_path):
    make(tmp_path / "a", config_of("wavlm"))
    make(tmp_path / "b", config_of("hubert"))
    with pytest.raises(checkpoints.EncoderError, match="choose fused or stock"):
        load_encoder(tmp_path / "a", attention="flash")
    with pytest.raises(checkpoints.EncoderError, match="for WavLM, and .* is hubert"):
        load_encoder(tmp_path / "b", attention="stock")
