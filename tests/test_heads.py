"""Pooling, layer sum and classifiers: hand-computed values, padding, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from serlib import heads

WIDTH = 5
POOLS = {
    "sum": lambda: heads.SumPool(),
    "mean": lambda: heads.MeanPool(),
    "attentive": lambda: heads.AttentiveStatistics(WIDTH, bottleneck=7),
}


def clips(seed: int = 0, lengths: tuple = (1, 4, 9, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), WIDTH), torch.tensor(lengths)


def pool(name: str) -> nn.Module:
    torch.manual_seed(1)
    return POOLS[name]()


# ---- masks and padding --------------------------------------------------------------------------


def test_frame_mask_by_hand():
    mask = heads.frame_mask(torch.tensor([2, 0, 3]), 3)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("name", POOLS)
def test_a_clip_alone_equals_the_clip_in_a_batch(name):
    frames, lengths = clips()
    module = pool(name)
    together = module(frames, lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = module(frames[i : i + 1, :n], lengths[i : i + 1])
        torch.testing.assert_close(together[i], alone[0])


@pytest.mark.parametrize("garbage", [1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", POOLS)
def test_nothing_in_the_padding_reaches_the_result_or_a_gradient(name, garbage):
    frames, lengths = clips()
    module = pool(name)
    padding = ~heads.frame_mask(lengths, frames.shape[1])
    results = []
    for value in (0.0, garbage):
        dirty = frames.clone()
        dirty[padding] = value
        dirty.requires_grad_()
        out = module(dirty, lengths)
        gradients = torch.autograd.grad(out.pow(2).sum(), [dirty, *module.parameters()])
        results.append((out, *gradients))
    for clean, dirtied in zip(*results, strict=True):
        assert torch.equal(clean, dirtied)
    assert (results[1][1][padding] == 0).all()


@pytest.mark.parametrize("name", POOLS)
def test_the_order_of_frames_does_not_matter(name):
    frames, _ = clips(2, (9, 9))
    lengths = torch.tensor([9, 9])
    module = pool(name)
    torch.testing.assert_close(module(frames.flip(1), lengths), module(frames, lengths))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    "lengths", [[0, 3, 9, 6], [1, 4, 10, 6], [-1, 1, 1, 1], [16_000] * 4, [3, 3], [[1, 4, 9, 6]]]
)
def test_impossible_lengths_are_refused(name, lengths):
    with pytest.raises(ValueError, match="lengths"):
        pool(name)(clips()[0], torch.tensor(lengths))


@pytest.mark.parametrize("name", POOLS)
def test_pooling_is_float32_for_half_precision_frames_and_under_autocast(name):
    frames, lengths = clips()
    module = pool(name)
    low = frames.bfloat16()
    expected = module(low.float(), lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(low, lengths)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


# ---- values -------------------------------------------------------------------------------------


def test_sum_and_mean_by_hand():
    frames = torch.tensor(
        [[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 0.0]]]
    )
    lengths = torch.tensor([2, 3])
    assert heads.SumPool()(frames, lengths).tolist() == [[4, 8], [9, 3]]
    assert heads.MeanPool()(frames, lengths).tolist() == [[2, 4], [3, 1]]


def test_the_mean_ignores_duration_where_the_sum_grows_with_it():
    once, n = clips(3, (6,))
    twice = torch.cat([once, once], dim=1)
    torch.testing.assert_close(heads.MeanPool()(twice, 2 * n), heads.MeanPool()(once, n))
    torch.testing.assert_close(heads.SumPool()(twice, 2 * n), 2 * heads.SumPool()(once, n))


def test_attentive_statistics_against_a_loop_over_clips_frames_and_channels():
    frames, lengths = clips(4)
    module = pool("attentive")
    found, attention = module(frames, lengths), module.attention(frames, lengths)
    w, b = module.hidden.weight.tolist(), module.hidden.bias.tolist()
    v = module.score.weight[0].tolist()
    for i, n in enumerate(lengths.tolist()):
        h = frames[i, :n].tolist()
        scores = []
        for t in range(n):
            hidden = [
                math.tanh(sum(w[k][d] * h[t][d] for d in range(WIDTH)) + b[k]) for k in range(7)
            ]
            scores.append(sum(v[k] * hidden[k] for k in range(7)))
        total = sum(math.exp(s) for s in scores)
        alpha = [math.exp(s) / total for s in scores]
        assert attention[i, :n].tolist() == pytest.approx(alpha, rel=1e-5)
        assert (attention[i, n:] == 0).all()
        for d in range(WIDTH):
            mean = sum(alpha[t] * h[t][d] for t in range(n))
            square = sum(alpha[t] * h[t][d] ** 2 for t in range(n))  # E[x²] - E[x]²
            deviation = math.sqrt(max(square - mean**2, 1e-5))
            assert found[i, d].item() == pytest.approx(mean, abs=1e-5)
            assert found[i, WIDTH + d].item() == pytest.approx(deviation, abs=1e-4)


def test_equal_attention_gives_the_plain_mean_and_population_deviation():
    frames, lengths = clips(5, (8, 8))
    module = pool("attentive")
    nn.init.zeros_(module.score.weight)
    expected = torch.cat([frames.mean(1), frames.std(1, unbiased=False)], dim=1)
    torch.testing.assert_close(module(frames, lengths), expected)
    torch.testing.assert_close(module.attention(frames, lengths), torch.full((2, 8), 1 / 8))


@pytest.mark.parametrize("name", POOLS)
def test_gradients_are_finite_for_one_frame_and_for_constant_clips(name):
    module = pool(name)
    one_frame = torch.randn(1, 1, WIDTH)
    constant = torch.full((1, 6, WIDTH), 0.37)
    silent = torch.zeros(1, 6, WIDTH)
    for frames in (one_frame, constant, silent):
        frames.requires_grad_()
        out = module(frames, torch.tensor([frames.shape[1]]))
        gradients = torch.autograd.grad(out.sum(), [frames, *module.parameters()])
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_small_deviation_around_a_large_mean_keeps_its_digits():
    """E[x²] - E[x]² would lose all of them here."""
    module = pool("attentive")
    nn.init.zeros_(module.score.weight)
    frames = 10_000 + 0.5 * torch.tensor([1.0, -1.0]).repeat(25)[None, :, None].expand(1, 50, WIDTH)
    deviation = module(frames, torch.tensor([50]))[0, WIDTH:]
    torch.testing.assert_close(deviation, torch.full((WIDTH,), 0.5), rtol=1e-2, atol=0)


# ---- layer sum ----------------------------------------------------------------------------------


def test_layer_sum_starts_as_the_average_and_by_hand():
    layers = torch.tensor([1.0, 2.0, 6.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 1)
    for softmax in (True, False):
        module = heads.LayerSum(3, softmax=softmax)
        torch.testing.assert_close(module(layers), torch.full((1, 2, 1), 3.0))
        torch.testing.assert_close(module.weights, torch.full((3,), 1 / 3))
    module = heads.LayerSum(3)
    module.raw.data = torch.tensor([1.0, 2.0, 5.0]).log()  # softmax: 1/8, 2/8, 5/8
    assert module(layers)[0, 0, 0].item() == pytest.approx((1 + 2 * 2 + 5 * 6) / 8)
    module = heads.LayerSum(3, softmax=False)
    module.raw.data = torch.tensor([1.0, -1.0, 2.0])
    assert module(layers)[0, 0, 0].item() == pytest.approx(1 - 2 + 12)


def test_layer_sum_against_einsum_for_lists_and_tensors():
    torch.manual_seed(6)
    layers = torch.randn(4, 2, 3, WIDTH)
    module = heads.LayerSum(4)
    nn.init.normal_(module.raw)
    expected = torch.einsum("l,lbtd->btd", module.raw.softmax(0), layers)
    torch.testing.assert_close(module(layers), expected)
    torch.testing.assert_close(module(tuple(layers)), expected)
    module(list(layers)).pow(2).sum().backward()
    assert (module.raw.grad != 0).all()


def test_layer_norm_makes_layers_of_any_size_equal():
    torch.manual_seed(7)
    layers = torch.randn(2, 2, 3, 64)
    scaled = layers * torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1) + 5
    normed = heads.LayerSum(2, layer_norm=True)
    torch.testing.assert_close(normed(scaled), normed(layers), atol=1e-3, rtol=1e-3)
    by_hand = (layers - layers.mean(-1, keepdim=True)) / layers.std(
        -1, keepdim=True, unbiased=False
    )
    torch.testing.assert_close(normed(layers), by_hand.mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("softmax", [True, False])
def test_speed_scales_every_move_of_the_layer_weights_and_zero_holds_them(softmax):
    def after_one_step(speed):
        module = heads.LayerSum(3, softmax=softmax, start="last", speed=speed)
        before = module.weights.detach().clone()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        module(torch.arange(3.0).reshape(3, 1, 1, 1)).sum().backward()
        optimizer.step()
        move = module.weights.log() if softmax else module.weights
        start = before.log() if softmax else before
        return before, (move - start).detach()

    (start, one), (same, ten), (_, none) = (after_one_step(speed) for speed in (1, 10, 0))
    torch.testing.assert_close(start, same)
    centered = [x - x.mean() if softmax else x for x in (one, ten)]
    torch.testing.assert_close(10 * centered[0], centered[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(none, torch.zeros(3))


def test_layer_sum_adds_half_precision_layers_in_float32():
    layers = torch.full((8, 1, 1, 1), 257.0).bfloat16()  # 256 in bfloat16; sums stay exact
    layers[0] = 1.0
    module = heads.LayerSum(8, softmax=False)
    module.raw.data.fill_(1.0)
    found = module(layers)
    assert found.dtype == torch.float32
    assert found.item() == 7 * layers[1].item() + 1  # bfloat16 would round the 1 away


@pytest.mark.parametrize("given", [2, 4])
def test_a_shortened_list_of_layers_is_refused_with_the_cause(given):
    with pytest.raises(ValueError, match="layerdrop=0"):
        heads.LayerSum(3)(torch.zeros(given, 1, 2, WIDTH))


# ---- classifiers --------------------------------------------------------------------------------


def test_heads_by_hand():
    linear = heads.LinearHead(2, 3)
    linear.weight.data, linear.bias.data = torch.eye(3)[:, :2] * 2, torch.tensor([0.0, 1.0, 5.0])
    assert linear(torch.tensor([[1.0, 3.0]])).tolist() == [[2, 7, 5]]

    mlp = heads.MLPHead(2, 2, 1, dropout=0.9).eval()
    _, first, norm, _, _, last = mlp
    first.weight.data, first.bias.data = torch.eye(2), torch.zeros(2)
    norm.bias.data = torch.tensor([0.5, 0.5])
    last.weight.data, last.bias.data = torch.tensor([[10.0, 1.0]]), torch.tensor([0.25])
    # (1, 5) -> normalized (-1, 1) -> + 0.5 -> ReLU (0, 1.5) -> 1.5 + 0.25
    assert mlp(torch.tensor([[1.0, 5.0]])).item() == pytest.approx(1.75, abs=1e-4)


def test_dropout_acts_in_training_only():
    torch.manual_seed(8)
    mlp, x = heads.MLPHead(WIDTH, 64, 4, dropout=0.5), torch.randn(3, WIDTH)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x)) and mlp(x).shape == (3, 4)


@pytest.mark.parametrize("name", POOLS)
def test_eight_clips_are_learned_by_heart(name):
    torch.manual_seed(9)
    frames = torch.randn(8, 6, WIDTH)
    lengths = torch.tensor([6, 5, 4, 3, 2, 6, 5, 4])
    target = torch.arange(8) % 4
    module = pool(name)
    head = heads.MLPHead(module(frames, lengths).shape[1], 32, 4, dropout=0.0)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(module(frames, lengths)), target).backward()
        optimizer.step()
    assert (head(module(frames, lengths)).argmax(1) == target).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", POOLS)
def test_lengths_may_stay_on_the_cpu(name):
    frames, lengths = clips()
    module = pool(name)
    expected = module(frames, lengths)
    torch.testing.assert_close(module.cuda()(frames.cuda(), lengths).cpu(), expected)
