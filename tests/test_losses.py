"""Losses against torch, scikit-learn and formulas written out per utterance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from serlib.losses import classification
from serlib.losses.classification import IGNORE
from serlib.losses.ctc import ctc_loss

LOSSES = {
    "cross_entropy": classification.cross_entropy,
    "focal": classification.focal,
    "focal_half": lambda x, y, **k: classification.focal(x, y, gamma=0.5, **k),
}
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 4.0])


def batch(seed: int = 0, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 4, generator=generator) * 2
    target = torch.randint(4, (size,), generator=generator)
    target[3] = IGNORE
    return logits.requires_grad_(), target


# ---- class weights ------------------------------------------------------------------------------


def test_inverse_frequency_is_scikit_learns_balanced():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = classification.inverse_frequency_weights([60, 30, 10])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_a_class_that_never_occurs_gets_no_weight_and_changes_no_other():
    for function in (
        classification.inverse_frequency_weights,
        lambda n: classification.class_balanced_weights(n, 0.99),
    ):
        with_gap, without = function([60, 0, 10]), function([60, 10])
        assert with_gap[1] == 0
        assert torch.equal(with_gap[[0, 2]], without)


def test_effective_number_is_the_geometric_sum():
    for beta in (0.0, 0.5, 0.9, 0.999):
        expected = [sum(beta**i for i in range(n)) for n in (0, 1, 2, 37)]
        found = classification.effective_number([0, 1, 2, 37], beta)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert classification.effective_number([10**7], 0.999)[0] == pytest.approx(1_000)  # saturated
    np.testing.assert_allclose(
        classification.effective_number([5, 500], 1 - 1e-9), [5, 500], rtol=1e-5
    )


def test_class_balanced_weights_run_from_none_to_inverse_frequency():
    counts = [50, 20, 5]
    np.testing.assert_allclose(classification.class_balanced_weights(counts, 0.0), 1)
    inverse = 1 / np.array(counts)
    found = classification.class_balanced_weights(counts, 1 - 1e-9)
    np.testing.assert_allclose(found, 3 * inverse / inverse.sum(), rtol=1e-4)
    for beta in (0.9, 0.999):
        assert float(classification.class_balanced_weights(counts, beta).sum()) == pytest.approx(3)
    # 1 / (1 + 1/2 + 1/4) and 1: weights 4/7 and 1, scaled to sum 2
    found = classification.class_balanced_weights([3, 1], 0.5)
    np.testing.assert_allclose(found, [2 * 4 / 11, 2 * 7 / 11], rtol=1e-6)


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [1.0, math.nan], [[1, 2]]])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        classification.inverse_frequency_weights(counts)
    with pytest.raises(ValueError, match="counts"):
        classification.class_balanced_weights(counts, 0.9)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, math.nan])
def test_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ValueError, match="beta"):
        classification.effective_number([3, 1], beta)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_is_torchs(weight):
    logits, target = batch()
    expected = nn.CrossEntropyLoss(weight)(logits, target)
    found = classification.cross_entropy(logits, target, weight=weight)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def by_hand(logits, target, weight, gamma=0.0):
    """Σ w (1 - p)^γ (-log p) / Σ w, utterance by utterance."""
    total = scale = 0.0
    for row, y in zip(logits.detach().double().numpy(), target.tolist(), strict=True):
        if y == IGNORE:
            continue
        p = math.exp(row[y]) / sum(math.exp(x) for x in row)
        total -= weight[y] * (1 - p) ** gamma * math.log(p)
        scale += weight[y]
    return total / scale


def test_weighted_losses_by_hand():
    logits, target = batch(1)
    ones, weight = [1.0] * 4, WEIGHT.tolist()
    cross_entropy, focal = classification.cross_entropy, classification.focal
    assert cross_entropy(logits, target).item() == pytest.approx(by_hand(logits, target, ones))
    assert cross_entropy(logits, target, weight=WEIGHT).item() == pytest.approx(
        by_hand(logits, target, weight)
    )
    for gamma in (0.0, 0.5, 2.0, 5.0):
        assert focal(logits, target, gamma=gamma).item() == pytest.approx(
            by_hand(logits, target, ones, gamma), rel=1e-5
        )
        assert focal(logits, target, gamma=gamma, weight=WEIGHT).item() == pytest.approx(
            by_hand(logits, target, weight, gamma), rel=1e-5
        )
    counts, beta = [50, 20, 5, 1], 0.9
    balanced = [(1 - beta) / (1 - beta**n) for n in counts]  # any scale: the mean divides it out
    found = cross_entropy(
        logits, target, weight=classification.class_balanced_weights(counts, beta)
    )
    assert found.item() == pytest.approx(by_hand(logits, target, balanced))


def test_focal_with_gamma_zero_is_cross_entropy_and_easy_utterances_fade():
    logits, target = batch(2)
    torch.testing.assert_close(
        classification.focal(logits, target, gamma=0.0, weight=WEIGHT),
        classification.cross_entropy(logits, target, weight=WEIGHT),
    )
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    y = torch.tensor([0])
    plain = classification.cross_entropy(easy, y) / classification.cross_entropy(hard, y)
    assert classification.focal(easy, y) / classification.focal(hard, y) < plain / 1_000


def test_the_scale_of_the_weights_does_not_matter():
    logits, target = batch(3)
    torch.testing.assert_close(
        classification.cross_entropy(logits, target, weight=7 * WEIGHT),
        classification.cross_entropy(logits, target, weight=WEIGHT),
    )


def test_a_batch_of_one_class_is_not_weighted():
    logits, target = batch(4)[0], torch.full((12,), 2)
    torch.testing.assert_close(
        classification.cross_entropy(logits, target, weight=WEIGHT),
        classification.cross_entropy(logits, target),
    )


# ---- degenerate batches -------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_utterances_change_nothing(name):
    logits, target = batch(5)
    kept = target != IGNORE
    loss = LOSSES[name](logits, target)
    torch.testing.assert_close(loss, LOSSES[name](logits[kept], target[kept]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[~kept] == 0).all() and (gradient[kept] != 0).any(dim=1).all()


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_targets_gives_zero_and_a_zero_gradient(name, size):
    logits = torch.randn(size, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((size,), IGNORE))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.shape == (size, 4) and (gradient == 0).all()


@pytest.mark.parametrize("function", [classification.cross_entropy, classification.focal])
def test_a_batch_of_classes_without_weight_gives_zero(function):
    logits, _ = batch(6)
    loss = function(logits, torch.full((12,), 1), weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and (gradient == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_certain_answers_right_or_wrong_keep_everything_finite(name):
    logits = torch.tensor([[300.0, -300.0, 0.0, 0.0]] * 2, requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    right_only = LOSSES[name](logits[:1], torch.tensor([0]))
    (gradient,) = torch.autograd.grad(right_only, logits)
    assert torch.isfinite(right_only) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_judged_in_float32(name, dtype):
    logits, target = batch(7)
    low = logits.detach().to(dtype).requires_grad_()
    loss = LOSSES[name](low, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](low.float(), target))
    loss.backward()
    assert low.grad.dtype == dtype


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradient_against_finite_differences(gamma):
    logits, target = batch(8)
    loss = classification.focal(logits, target, gamma=gamma, weight=WEIGHT)
    (gradient,) = torch.autograd.grad(loss, logits)
    base, step = logits.detach().double().numpy(), 1e-5
    for i, c in ((0, 0), (1, 2), (5, 3)):
        up, down = base.copy(), base.copy()
        up[i, c] += step
        down[i, c] -= step
        rise = [by_hand(torch.tensor(x), target, WEIGHT.tolist(), gamma) for x in (up, down)]
        slope = (rise[0] - rise[1]) / (2 * step)
        assert gradient[i, c].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        classification.focal(*batch(), gamma=-1.0)


# ---- CTC ----------------------------------------------------------------------------------------


def speech(seed: int = 0, dtype=torch.float32) -> tuple:
    """Logits (5, 9, 6) with lengths, and transcripts that fit, of 1 to 4 characters."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(5, 9, 6, generator=generator)
    tokens = torch.tensor([[1, 2, 3, 3], [5, 0, 0, 0], [4, 4, 0, 0], [2, 1, 2, 0], [3, 0, 0, 0]])
    lengths, n_tokens = torch.tensor([9, 4, 6, 8, 1]), torch.tensor([4, 1, 2, 3, 1])
    return logits.to(dtype).requires_grad_(), lengths, tokens, n_tokens


def gradient_of(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def test_ctc_reductions_from_torchs_losses_per_clip():
    logits, lengths, tokens, n_tokens = speech()
    each = []
    for row, n, target, s in zip(logits, lengths, tokens, n_tokens, strict=True):
        log_p = row[:n].log_softmax(-1)[:, None]
        each.append(nn.functional.ctc_loss(log_p, target[None, :s], [n], [s], reduction="sum"))
    each = torch.stack(each)
    expected = {"sum": each.sum(), "clips": each.mean(), "characters": (each / n_tokens).mean()}
    for reduction, value in expected.items():
        found = ctc_loss(logits, lengths, tokens, n_tokens, reduction=reduction)
        torch.testing.assert_close(found, value)
        torch.testing.assert_close(gradient_of(found, logits), gradient_of(value, logits))
    torch.testing.assert_close(ctc_loss(logits, lengths, tokens, n_tokens), expected["clips"])
    with pytest.raises(ValueError, match="reduction"):
        ctc_loss(logits, lengths, tokens, n_tokens, reduction="mean")


@pytest.mark.parametrize("target", [[1], [1, 2], [2, 2], [1, 1, 2], [1, 2, 1]])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 4])
def test_ctc_against_the_sum_over_all_paths(target, n_frames):
    logits = torch.randn(1, n_frames, 3, generator=torch.Generator().manual_seed(n_frames))
    p = logits[0].double().softmax(-1).tolist()
    total = 0.0
    for path in itertools.product(range(3), repeat=n_frames):
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in merged if symbol] == target:
            total += math.prod(p[t][symbol] for t, symbol in enumerate(path))
    found = ctc_loss(
        logits, torch.tensor([n_frames]), torch.tensor([target]), torch.tensor([len(target)])
    )
    assert found.item() == pytest.approx(-math.log(total) if total else 0.0, rel=1e-5)


def test_padding_and_neighbors_do_not_change_a_clips_ctc():
    logits, lengths, tokens, n_tokens = speech(1)
    alone = [
        ctc_loss(logits[i : i + 1, : lengths[i]], lengths[i : i + 1], tokens[i : i + 1, :s],
                   n_tokens[i : i + 1])
        for i, s in enumerate(n_tokens.tolist())
    ]  # fmt: skip
    expected = gradient_of(sum(alone), logits)
    long = torch.cat([logits.detach(), torch.full((5, 3, 6), 50.0)], 1)
    long[torch.arange(12) >= lengths[:, None]] = 50.0
    long.requires_grad_()
    together = ctc_loss(long, lengths, tokens, n_tokens, reduction="sum")
    torch.testing.assert_close(together, sum(alone))
    gradient = gradient_of(together, long)
    torch.testing.assert_close(gradient[:, :9], expected)
    assert (gradient[torch.arange(12) >= lengths[:, None]] == 0).all()


@pytest.mark.parametrize("garbage", [-1, -100, 3, 10**6])
def test_whatever_pads_a_transcript_is_not_looked_at(garbage):
    logits, lengths, tokens, n_tokens = speech(2)
    padding = torch.arange(6) >= n_tokens[:, None]
    dirty = nn.functional.pad(tokens, (0, 2)).masked_fill(padding, garbage)
    for reduction in ("sum", "clips", "characters"):
        clean, found = (
            ctc_loss(logits, lengths, t, n_tokens, reduction=reduction) for t in (tokens, dirty)
        )
        assert torch.equal(clean, found)
        assert torch.equal(gradient_of(clean, logits), gradient_of(found, logits))


def test_double_letters_need_a_blank_between_them():
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    tokens, n_tokens = torch.tensor([[1, 1, 1]]), torch.tensor([3])
    p = logits[0].softmax(-1)
    exact = ctc_loss(logits, torch.tensor([5]), tokens, n_tokens)  # one path: 1 0 1 0 1
    expected = -sum(p[t, symbol].log() for t, symbol in enumerate([1, 0, 1, 0, 1]))
    torch.testing.assert_close(exact, expected)
    short = ctc_loss(logits, torch.tensor([4]), tokens, n_tokens)
    assert short.item() == 0 and (gradient_of(short, logits) == 0).all()


@pytest.mark.parametrize("reduction", ["sum", "clips", "characters"])
def test_clips_without_a_usable_transcript_are_as_if_they_were_not_there(reduction):
    logits, lengths, tokens, n_tokens = speech(4)
    lengths = torch.tensor([9, 4, 2, 8, 1])  # clip 2 says "44" in 2 frames
    n_tokens = torch.tensor([4, 0, 2, 3, 1])  # and clip 1 nothing
    found = ctc_loss(logits, lengths, tokens, n_tokens, reduction=reduction)
    kept = torch.tensor([0, 3, 4])
    rest = (x[kept] for x in (logits, lengths, tokens, n_tokens))
    torch.testing.assert_close(found, ctc_loss(*rest, reduction=reduction))
    gradient = gradient_of(found, logits)
    assert gradient.isfinite().all() and (gradient[[1, 2]] == 0).all()
    assert (gradient[kept] != 0).any(dim=(1, 2)).all()


@pytest.mark.parametrize("reduction", ["sum", "clips", "characters"])
@pytest.mark.parametrize(("n_tokens", "length"), [([0, 0], 4), ([4, 4], 3), ([0, 4], 1)])
def test_a_batch_without_a_usable_transcript_gives_zero_and_a_zero_gradient(
    reduction, n_tokens, length
):
    logits = torch.randn(2, 4, 6, requires_grad=True)
    tokens, lengths = torch.tensor([[1, 2, 3, 4]] * 2), torch.full((2,), length)
    loss = ctc_loss(logits, lengths, tokens, torch.tensor(n_tokens), reduction=reduction)
    assert loss.item() == 0 and (gradient_of(loss, logits) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_ctc_is_computed_in_float32(dtype):
    logits, *rest = speech(5, dtype)
    loss = ctc_loss(logits, *rest)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ctc_loss(logits.float(), *rest))
    assert gradient_of(loss, logits).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_ctc_is_the_same_on_a_gpu_with_targets_on_either_side():
    logits, lengths, tokens, n_tokens = speech(6)
    expected = ctc_loss(logits, lengths, tokens, n_tokens)
    found = ctc_loss(logits.cuda(), lengths, tokens.cuda(), n_tokens.cuda())
    torch.testing.assert_close(found.cpu(), expected)
