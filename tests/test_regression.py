"""Losses of numbers on a scale against formulas written out, and what unknown targets do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from serlib.losses import regression
from serlib.metrics import measures

NAN = torch.nan
LOSSES = {
    "mse": regression.mse,
    "gaussian": lambda x, y: regression.gaussian_mse(x, y, sigma=1.3),
    "detached": lambda x, y: regression.gaussian_mse(x, y, sigma=1.3, detach=True),
    "ccc": regression.ccc_loss,
}


def batch(seed=0, size=9):
    generator = torch.Generator().manual_seed(seed)
    predicted = 1 + 6 * torch.rand(size, 3, generator=generator, dtype=torch.float64)
    target = 1 + 6 * torch.rand(size, 3, generator=generator, dtype=torch.float64)
    target[1, 0] = target[4, 0] = target[2, 2] = NAN
    return predicted, target


def per_attribute(predicted, target):
    """Pairs of known values, attribute by attribute, as lists of floats."""
    for a in range(target.shape[1]):
        pairs = zip(predicted[:, a].tolist(), target[:, a].tolist(), strict=True)
        yield [(x, y) for x, y in pairs if not math.isnan(y)]


def oracle(name, predicted, target):
    found = []
    for pairs in per_attribute(predicted, target):
        if name == "ccc":
            x, y = np.array(pairs).T
            both = np.cov(x, y, bias=True)
            found.append(1 - 2 * both[0, 1] / (np.trace(both) + (x.mean() - y.mean()) ** 2))
        else:
            weigh = {"mse": lambda x: 1.0}.get(
                name, lambda x: math.exp(-((x - 4) ** 2) / (2 * 1.69))
            )
            found.append(sum(weigh(x) * (y - x) ** 2 for x, y in pairs) / len(pairs))
    return sum(found) / len(found)


@pytest.mark.parametrize("name", LOSSES)
def test_against_a_loop_over_utterances_and_attributes(name):
    for seed in range(3):
        predicted, target = batch(seed)
        found = LOSSES[name](predicted, target)
        assert float(found) == pytest.approx(oracle(name, predicted, target), rel=1e-9)
        single = LOSSES[name](predicted.float(), target.float())
        assert single.dtype == torch.float32 and float(single) == pytest.approx(
            float(found), rel=1e-4
        )
        half = LOSSES[name](predicted.bfloat16(), target.bfloat16())
        assert half.dtype == torch.float32


@pytest.mark.parametrize("name", ["mse", "gaussian", "ccc"])
def test_gradients_are_those_of_finite_differences(name):
    predicted, target = batch(7, size=5)
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target), (predicted,))


def test_a_detached_weight_keeps_the_value_and_loses_one_part_of_the_gradient():
    values, gradients = [], []
    for detach in (False, True):
        predicted = torch.tensor([[6.0]], requires_grad=True)
        value = regression.gaussian_mse(predicted, torch.tensor([[3.0]]), sigma=2.0, detach=detach)
        value.backward()
        values.append(value.item())
        gradients.append(predicted.grad.item())
    w, error, off = math.exp(-4 / 8), 3.0, 2.0
    assert values[0] == values[1] == pytest.approx(w * error**2)
    assert gradients[1] == pytest.approx(2 * w * error)
    assert gradients[0] == pytest.approx(w * (2 * error - off * error**2 / 4))


def test_a_wrong_extreme_is_cheaper_than_a_near_miss():
    """Sigma 1, y = 4: 9 exp(-4.5) = 0.100 for the prediction 7, exp(-0.5) = 0.607 for 3."""
    cost = {
        y: float(regression.gaussian_mse(torch.tensor([[y]]), torch.tensor([[4.0]]), sigma=1.0))
        for y in (3.0, 7.0)
    }
    assert cost[7.0] == pytest.approx(9 * math.exp(-4.5)) == pytest.approx(0.100, abs=5e-4)
    assert cost[3.0] == pytest.approx(math.exp(-0.5)) == pytest.approx(0.607, abs=5e-4)
    predicted = torch.tensor([[7.0]], requires_grad=True)
    regression.gaussian_mse(predicted, torch.tensor([[4.0]]), sigma=1.0).backward()
    assert predicted.grad.item() < 0  # a step down the gradient leads away from the truth


def test_a_wide_gaussian_is_mse():
    predicted, target = batch()
    wide = regression.gaussian_mse(predicted, target, sigma=1e6)
    torch.testing.assert_close(wide, regression.mse(predicted, target))


# ---- concordance --------------------------------------------------------------------------------


def ccc(predicted, target):
    """ρ of each attribute, (A,), from the loss 1 - ρ of each alone."""
    columns = ([x[:, [a]] for x in (predicted, target)] for a in range(target.shape[1]))
    return torch.stack([1 - regression.ccc_loss(*pair) for pair in columns])


def test_ccc_by_hand():
    """Means 1 and 2/3, cov 1/3, variances 2/3 and 2/9: (2/3) / (8/9 + 1/9) = 2/3."""
    truth, predicted = torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.0], [1], [1]])
    assert ccc(predicted, truth).tolist() == pytest.approx([2 / 3], abs=1e-6)


def test_ccc_is_the_score_of_the_tables():
    predicted, target = batch(2)
    expected = [measures.ccc(*np.array(pairs).T) for pairs in per_attribute(predicted, target)]
    np.testing.assert_allclose(ccc(predicted, target), expected, rtol=1e-9)
    assert float(regression.ccc_loss(target.nan_to_num(3), target)) == pytest.approx(0, abs=1e-9)


def test_ccc_of_shifted_and_scaled_predictions():
    y = torch.linspace(1, 7, 20, dtype=torch.float64)[:, None]
    v = y.var(correction=0)
    shifted, halved = ccc(y + 1, y), ccc(4 + (y - 4) / 2, y)
    assert float(shifted) == pytest.approx(float(2 * v / (2 * v + 1)))
    assert float(halved) == pytest.approx(2 * 0.5 / (1 + 0.25))
    assert float(ccc(8 - y, y)) == pytest.approx(-1)


CONSTANT = {  # predicted, target, ccc, whether the loss has a gradient
    "constant target": ([[1.0], [2.0], [3.0]], [[4.0], [4.0], [4.0]], 0.0, False),
    "constant prediction": ([[3.3], [3.3], [3.3]], [[1.0], [4.0], [6.0]], 0.0, True),
    "both constant": ([[3.3], [3.3], [3.3]], [[4.1], [4.1], [4.1]], 0.0, False),
    "the same constant": ([[3.3], [3.3], [3.3]], [[3.3], [3.3], [3.3]], NAN, False),
    "one utterance": ([[3.0]], [[5.0]], 0.0, False),
    "one known": ([[3.0], [6.0]], [[5.0], [NAN]], 0.0, False),
    "none known": ([[3.0], [6.0]], [[NAN], [NAN]], NAN, False),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_degenerate_concordance(name):
    predicted, target, value, pulls = CONSTANT[name]
    predicted, target = torch.tensor(predicted, requires_grad=True), torch.tensor(target)
    loss = regression.ccc_loss(predicted, target)
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if math.isnan(value) else 1 - value, abs=1e-6)
    gradient = predicted.grad.abs().max()
    assert gradient > 1e-2 if pulls else gradient < 1e-6


def test_an_undefined_attribute_leaves_the_others_as_they_are():
    predicted, target = batch(1)
    base = regression.ccc_loss(predicted[:, 1:], target[:, 1:])
    target[:, 0] = NAN
    torch.testing.assert_close(regression.ccc_loss(predicted, target), base)


# ---- unknown targets ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_targets_change_neither_value_nor_gradient(name):
    predicted, target = batch(3)
    base = predicted[:, :1][~target[:, 0].isnan()].clone().requires_grad_()
    LOSSES[name](base, target[:, :1][~target[:, 0].isnan()]).backward()
    column = predicted[:, :1].clone()
    column[target[:, 0].isnan()] = NAN  # not even a broken prediction
    column.requires_grad_()
    LOSSES[name](column, target[:, :1]).backward()
    assert (column.grad[target[:, 0].isnan()] == 0).all()
    torch.testing.assert_close(column.grad[~target[:, 0].isnan()], base.grad)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0, 1, 4])
def test_without_any_target_the_loss_is_zero_and_trains_nothing(name, size):
    predicted = torch.full((size, 3), 5.0, requires_grad=True)
    value = LOSSES[name](predicted, torch.full((size, 3), NAN))
    value.backward()
    assert value.item() == 0 and (predicted.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_each_attribute_weighs_alike_however_often_it_is_known(name):
    predicted, target = batch(5)
    each = [LOSSES[name](predicted[:, [a]], target[:, [a]]) for a in range(3)]
    torch.testing.assert_close(LOSSES[name](predicted, target), torch.stack(each).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_would_broadcast_are_refused(name):
    for predicted, target in ((torch.ones(3, 1), torch.ones(3, 3)), (torch.ones(3), torch.ones(3))):
        with pytest.raises(ValueError, match=r"both need \(B, A\)"):
            LOSSES[name](predicted, target)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_a_width_that_is_not_positive_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        regression.gaussian_mse(torch.ones(1, 1), torch.ones(1, 1), sigma=sigma)
