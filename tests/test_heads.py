"""Pooling, layer sum and classifiers: hand-computed values, padding, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from serlib.models import heads
from serlib.models.coattention import CoAttention
from serlib.models.encoders.checkpoints import frame_mask
from serlib.models.pooling import AttentiveStatistics, MeanPool, SumPool

WIDTH = 5
POOLS = {
    "sum": lambda: SumPool(),
    "mean": lambda: MeanPool(),
    "attentive": lambda: AttentiveStatistics(WIDTH, bottleneck=7),
}


def clips(seed: int = 0, lengths: tuple = (1, 4, 9, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), WIDTH), torch.tensor(lengths)


def pool(name: str) -> nn.Module:
    torch.manual_seed(1)
    return POOLS[name]()


# ---- masks and padding --------------------------------------------------------------------------


def test_frame_mask_by_hand():
    mask = frame_mask(torch.tensor([2, 0, 3]), 3)
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
    padding = ~frame_mask(lengths, frames.shape[1])
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
def test_a_batch_of_full_clips_equals_the_same_clips_padded(name):
    """Full batches take a way of their own, which makes no copy."""
    frames, lengths = clips(8, (6, 6, 6))
    padded = torch.cat([frames, torch.full((3, 2, WIDTH), math.nan)], dim=1)
    module = pool(name)
    results = []
    for x in (frames, padded):
        x.requires_grad_()
        out = module(x, lengths)
        gradients = torch.autograd.grad(out.pow(2).sum(), [x, *module.parameters()])
        results.append((out, gradients[0][:, :6], *gradients[1:]))
    for full, cut in zip(*results, strict=True):
        torch.testing.assert_close(full, cut)


@pytest.mark.parametrize("lengths", [(9, 9), (4, 9)])
@pytest.mark.parametrize("name", POOLS)
def test_pooling_leaves_its_input_as_it_was(name, lengths):
    frames, lengths = clips(9, lengths)
    before = frames.clone()
    pool(name)(frames, lengths)
    assert torch.equal(frames, before)


def test_the_gradient_of_attentive_statistics_against_finite_differences():
    frames, lengths = clips(10, (2, 5))
    module = pool("attentive").double()
    frames = frames.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, lengths), frames)


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
    assert SumPool()(frames, lengths).tolist() == [[4, 8], [9, 3]]
    assert MeanPool()(frames, lengths).tolist() == [[2, 4], [3, 1]]


def test_the_mean_ignores_duration_where_the_sum_grows_with_it():
    once, n = clips(3, (6,))
    twice = torch.cat([once, once], dim=1)
    torch.testing.assert_close(MeanPool()(twice, 2 * n), MeanPool()(once, n))
    torch.testing.assert_close(SumPool()(twice, 2 * n), 2 * SumPool()(once, n))


def test_attentive_statistics_against_a_loop_over_clips_frames_and_channels():
    frames, lengths = clips(4)
    module = pool("attentive")
    found = module(frames, lengths)
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


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(("start", "at"), [("last", -1), ("first", 0)])
def test_layer_sum_starts_at_a_layer_and_can_leave_it(softmax, start, at):
    module = heads.LayerSum(5, softmax=softmax, start=start)
    others = torch.ones(5, dtype=torch.bool)
    others[at] = False
    assert module.weights[at].item() == pytest.approx(0.9)
    torch.testing.assert_close(module.weights[others], torch.full((4,), 0.025))
    assert module.weights.sum().item() == pytest.approx(1)
    layers = torch.randn(5, 1, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    (module(layers) * layers[2]).sum().backward()
    assert (module.raw.grad != 0).all()


def test_layer_sum_of_one_layer_and_starts_that_do_not_exist():
    layer = torch.ones(1, 1, 2, WIDTH)
    for softmax in (True, False):
        for start in ("equal", "last", "first"):
            module = heads.LayerSum(1, softmax=softmax, start=start)
            torch.testing.assert_close(module(layer), layer[0])
    with pytest.raises(ValueError, match="start='middle'"):
        heads.LayerSum(3, start="middle")


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


# ---- branches for every frame, and the attention between branches -------------------------------


def test_the_two_layers_of_a_branch_compose_to_the_whole():
    frames, _ = clips(10)
    torch.manual_seed(0)
    for head, x in (
        (heads.MLPHead(WIDTH, 7, 3, input_dropout=0.4), frames[:, 0]),
        (heads.RecurrentHead(WIDTH, 7, 3), frames),
    ):
        head.eval()
        hidden = head.hidden(x)
        assert hidden.shape == (*x.shape[:-1], 7) and (hidden >= 0).all()
        assert torch.equal(head.output(hidden), head(x)) and head(x).shape == (*x.shape[:-1], 3)


def test_padding_behind_a_clip_does_not_reach_its_frames():
    frames, lengths = clips(11)
    torch.manual_seed(0)
    head = heads.RecurrentHead(WIDTH, 7, 3).eval()
    frames[~frame_mask(lengths, frames.shape[1])] = 1e3
    together = head(frames)
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(together[i, :n], head(frames[i : i + 1, :n])[0])


def test_frames_know_of_those_before_them_but_not_of_those_behind():
    frames, _ = clips(12, (9,))
    torch.manual_seed(0)
    head = heads.RecurrentHead(WIDTH, 7, 3).eval()
    changed = frames.clone()
    changed[0, 4] += 1
    moved = (head(changed) != head(frames))[0].any(dim=1)
    assert moved.tolist() == [False] * 4 + [True] * 5


def identities(tasks, combine: str = "concat", hidden: int = 2) -> CoAttention:
    module = CoAttention(hidden, tasks, combine=combine)
    for layer in (module.query, *module.keys.values()):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return module


def test_co_attention_by_hand():
    """Products with the query are √2 log 3 and 0, so that a softmax gives 3/4 and 1/4."""
    x = math.sqrt(2) * math.log(3)
    emotion = torch.tensor([[1.0, 0.0]])
    frames = torch.tensor([[[x, 4.0], [0.0, 8.0], [9.0, 9.0]]])  # the third is padding
    module = identities(["asr"])
    fused, weights, over_frames = module(emotion, {"asr": frames}, torch.tensor([2]))
    torch.testing.assert_close(over_frames, torch.tensor([[0.75, 0.25, 0.0]]))
    content = torch.tensor([[0.75 * x, 0.75 * 4 + 0.25 * 8]])
    torch.testing.assert_close(fused, torch.cat([emotion, content], 1))
    assert weights.tolist() == [[1.0]]

    others = {"gender": torch.tensor([[x, 1.0]]), "speaker": torch.tensor([[0.0, 5.0]])}
    module = identities(["speaker", "gender"], "sum")
    fused, weights, over_frames = module(emotion, others, torch.tensor([2]))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75]]))  # in the order of the tasks
    torch.testing.assert_close(fused, torch.tensor([[1 + 0.75 * x, 0.75 * 1 + 0.25 * 5]]))
    assert over_frames is None


def attending(combine: str = "concat") -> tuple[CoAttention, torch.Tensor, dict]:
    torch.manual_seed(13)
    others = {"asr": clips(14)[0], "gender": torch.randn(4, WIDTH)}
    module = CoAttention(WIDTH, ["gender", "asr"], combine=combine)
    return module, torch.randn(4, WIDTH), others


def test_co_attention_against_a_loop_over_clips():
    module, emotion, others = attending()
    lengths = clips()[1]
    fused, weights, over_frames = module(emotion, others, lengths)
    for i, n in enumerate(lengths.tolist()):
        query = module.query(emotion[i])
        heard = module.keys["asr"](others["asr"][i, :n])
        alpha = torch.softmax(heard @ query / math.sqrt(WIDTH), 0)
        torch.testing.assert_close(over_frames[i, :n], alpha)
        keys = torch.stack([module.keys["gender"](others["gender"][i]), alpha @ heard])
        a = torch.softmax(keys @ query / math.sqrt(WIDTH), 0)
        torch.testing.assert_close(weights[i], a)
        torch.testing.assert_close(fused[i], torch.cat([emotion[i], a @ keys]))
    torch.testing.assert_close(over_frames.sum(1), torch.ones(4))


def test_the_weights_of_each_clip_sum_to_one_and_one_task_takes_all():
    module, emotion, others = attending()
    _, weights, _ = module(emotion, others, clips()[1])
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    alone = CoAttention(WIDTH, ["gender"])
    fused, weights, _ = alone(emotion, others, clips()[1])
    assert (weights == 1).all()
    torch.testing.assert_close(fused[:, WIDTH:], alone.keys["gender"](others["gender"]))


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_padding_reaches_neither_the_fusion_nor_a_gradient(combine, garbage):
    module, emotion, others = attending(combine)
    lengths = clips()[1]
    padding = ~frame_mask(lengths, 9)
    results = []
    for value in (0.0, garbage):
        dirty = others["asr"].clone()
        dirty[padding] = value
        dirty.requires_grad_()
        outputs = module(emotion, others | {"asr": dirty}, lengths)
        total = sum(x.pow(2).sum() for x in outputs)
        results.append((*outputs, *torch.autograd.grad(total, [dirty, *module.parameters()])))
    for clean, dirtied in zip(*results, strict=True):
        assert torch.equal(clean, dirtied)
    assert (results[1][3][padding] == 0).all()


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_a_clips_fusion_does_not_depend_on_its_neighbors(combine):
    module, emotion, others = attending(combine)
    lengths = clips()[1]
    together = module(emotion, others, lengths)
    assert together[0].shape == (4, module.width)
    assert module.width == WIDTH * (2 if combine == "concat" else 1)
    for i, n in enumerate(lengths.tolist()):
        mine = {"asr": others["asr"][i : i + 1, :n], "gender": others["gender"][i : i + 1]}
        alone = module(emotion[i : i + 1], mine, lengths[i : i + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i, : one.shape[1]], one[0])


def test_co_attention_under_autocast_stays_close_and_finite():
    module, emotion, others = attending()
    expected = module(emotion, others, clips()[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(emotion, others, clips()[1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("tasks", "combine"), [([], "concat"), (["asr"], "product")])
def test_co_attention_that_cannot_be_meant_is_refused(tasks, combine):
    with pytest.raises(ValueError, match="at least one"):
        CoAttention(WIDTH, tasks, combine=combine)


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
