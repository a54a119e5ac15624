"""The contrastive loss against a loop over pairs, and what the printed form does instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from serlib.losses import contrastive
from serlib.losses.classification import IGNORE

WEIGHT = torch.tensor([0.5, 0.2, 0.3, 0.0], dtype=torch.float64)
FORMS = ("original", "printed")


def batch(seed=0, size=11, width=5):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (size,), generator=generator)
    return features, target


def oracle(features, target, weight, gamma, tau, form):
    """Pair by pair with Python's floats, the denominator from its own sum."""
    z = [v / math.sqrt(sum(x * x for x in v)) for v in features.numpy()]
    rows = [i for i, y in enumerate(target.tolist()) if y != IGNORE]
    total = 0.0
    for i in rows:
        others = [j for j in rows if j != i]
        raised = {j: math.exp(float(np.dot(z[i], z[j])) / tau) for j in others}
        inner, n = 0.0, 0
        for j in others:
            p = raised[j] / sum(raised.values())
            if form == "printed":
                inner, n = inner + p * (1 - p) ** gamma, 1
            elif target[j] == target[i]:
                inner, n = inner + (1 - p) ** gamma * math.log(p), n + 1
        total -= float(weight[target[i]]) * inner / max(n, 1)
    return total / max(len(rows), 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("gamma", "tau"), [(0.0, 1.0), (0.5, 0.3), (1.0, 0.8), (2.4, 0.8)])
def test_both_forms_against_a_loop_over_pairs(form, gamma, tau):
    for seed in range(3):
        features, target = batch(seed)
        target[2] = IGNORE
        settings = dict(gamma=gamma, tau=tau, form=form)
        found = contrastive.swfc(features, target, WEIGHT, **settings)
        expected = oracle(features, target, WEIGHT, gamma, tau, form)
        assert float(found) == pytest.approx(expected, rel=1e-10)
        single = contrastive.swfc(features.float(), target, WEIGHT.float(), **settings)
        assert single.dtype == torch.float32 and float(single) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.4])
def test_gradients_are_those_of_finite_differences(form, gamma):
    features, target = batch(3, size=6, width=3)
    target[:2], target[5] = 1, IGNORE
    features.requires_grad_()

    def loss(x):
        return contrastive.swfc(x, target, WEIGHT, gamma=gamma, tau=0.6, form=form)

    assert torch.autograd.gradcheck(loss, (features,))


def test_the_value_by_hand():
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 0.5]])  # lengths do not matter
    target, weight = torch.tensor([0, 0, 1]), torch.tensor([1.0, 9.0])
    p = math.e / (math.e + 1)  # cosines 1 and 0; the third has no positive and stays in N = 3
    expected = -2 / 3 * (1 - p) ** 2 * math.log(p)
    found = contrastive.swfc(features, target, weight, gamma=2.0, tau=1.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    printed = contrastive.swfc(features, target, weight, gamma=2.0, tau=1.0, form="printed")
    first = p * (1 - p) ** 2 + (1 - p) * p**2
    third = 2 * 0.5 * 0.5**2
    assert float(printed) == pytest.approx(-(2 * first + 9 * third) / 3, rel=1e-5)


def test_gamma_zero_is_the_supervised_contrastive_loss_of_a_library_formula():
    """Khosla et al. 2020, eq. 2: mean over the positives of the log-softmax, by scatter."""
    features, target = batch(1, size=16)
    z = torch.nn.functional.normalize(features, dim=1)
    s = (z @ z.T / 0.8).fill_diagonal_(-torch.inf)
    log_p = s - s.logsumexp(1, keepdim=True)
    values = []
    for i, y in enumerate(target):
        same = torch.nonzero((target == y) & (torch.arange(16) != i))[:, 0]
        values.append(-log_p[i, same].mean() if len(same) else torch.tensor(0.0))
    found = contrastive.swfc(features, target, torch.ones(4), gamma=0.0, tau=0.8)
    assert float(found) == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_order_scale_and_rotation_of_the_features_do_not_matter(form):
    features, target = batch(5)
    base = contrastive.swfc(features, target, WEIGHT, form=form)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double())[
        0
    ]
    sizes = torch.arange(1.0, 12.0, dtype=torch.float64)[:, None]
    for x, y in (
        (features[order], target[order]),
        (features * sizes, target),
        (features @ turn, target),
    ):
        torch.testing.assert_close(contrastive.swfc(x, y, WEIGHT, form=form), base)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", [0.0, 1e6, torch.nan, torch.inf])
def test_an_utterance_without_a_label_might_as_well_not_be_there(form, garbage):
    features, target = batch(6)
    without = features[:-1].clone().requires_grad_()
    base = contrastive.swfc(without, target[:-1], WEIGHT, form=form)
    base.backward()
    target[-1] = IGNORE
    features[-1] = garbage
    features.requires_grad_()
    value = contrastive.swfc(features, target, WEIGHT, form=form)
    value.backward()
    torch.testing.assert_close(value, base)
    torch.testing.assert_close(features.grad[:-1], without.grad)
    assert (features.grad[-1] == 0).all()


NONE = {
    "no positives": torch.tensor([0, 1, 2]),
    "one labeled": torch.tensor([1, IGNORE, IGNORE]),
    "none labeled": torch.tensor([IGNORE, IGNORE, IGNORE]),
}


@pytest.mark.parametrize("name", NONE)
def test_without_a_positive_the_loss_is_zero_and_trains_nothing(name):
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = contrastive.swfc(features, NONE[name], torch.ones(3))
    value.backward()
    assert value.item() == 0 and (features.grad == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.4])
def test_degenerate_batches_have_finite_gradients(form, gamma):
    cases = {
        "one": (torch.randn(1, 4), [0]),
        "a pair, p = 1": (torch.randn(2, 4), [0, 0]),
        "one class": (torch.randn(5, 4), [2] * 5),
        "all the same vector": (torch.ones(4, 3), [0, 0, 1, 1]),
        "zero vectors": (torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]]), [0, 0, 0, 1]),
        "huge": (1e15 * torch.randn(4, 3), [0, 0, 1, 1]),
        "tiny": (1e-9 * torch.randn(4, 3), [0, 0, 1, 1]),
    }
    for name, (features, target) in cases.items():
        features.requires_grad_()
        value = contrastive.swfc(
            features, torch.tensor(target), torch.ones(3), gamma=gamma, tau=0.05, form=form
        )
        value.backward()
        assert value.isfinite() and features.grad.isfinite().all(), name
        if name == "zero vectors":
            assert (features.grad[:2] == 0).all()


def test_no_utterance_at_all():
    features = torch.zeros(0, 3, requires_grad=True)
    value = contrastive.swfc(features, torch.zeros(0, dtype=torch.long), torch.ones(2))
    value.backward()
    assert value.item() == 0


def test_one_class_is_least_when_its_pairs_share_the_probability():
    target, even = torch.zeros(4, dtype=torch.long), torch.ones(4, 2)
    uneven = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    same, spread = (contrastive.swfc(x, target, torch.ones(1), gamma=0.0) for x in (even, uneven))
    assert float(same) == pytest.approx(math.log(3)) and same < spread


@pytest.mark.parametrize(
    "change", [{"gamma": -1.0}, {"gamma": math.nan}, {"tau": 0.0}, {"tau": -1.0}, {"form": "cited"}]
)
def test_settings_that_cannot_be_meant_are_refused(change):
    features, target = batch()
    with pytest.raises(ValueError, match=next(iter(change))):
        contrastive.swfc(features, target, WEIGHT, **change)


# ---- class weights ------------------------------------------------------------------------------


def test_weights_are_the_normalized_inverse_frequencies_of_the_released_code():
    counts = [30, 5, 65]
    for power in (0.0, 0.5, 1.1, 2.0):
        raw = [(sum(counts) / n) ** power for n in counts]
        expected = [w / sum(raw) for w in raw]
        np.testing.assert_allclose(contrastive.swfc_weights(counts, power), expected, rtol=1e-6)


def test_a_class_that_does_not_occur_has_no_weight_and_changes_no_other():
    found = contrastive.swfc_weights([30, 0, 65], 1.1)
    assert found[1] == 0 and torch.equal(found[[0, 2]], contrastive.swfc_weights([30, 65], 1.1))
    assert torch.isfinite(contrastive.swfc_weights([1, 10**9], 60.0)).all()


@pytest.mark.parametrize(
    ("counts", "power"), [([0, 0], 1.0), ([1, -1], 1.0), ([1, 2], -0.1), ([1, 2], math.inf)]
)
def test_weights_that_cannot_be_meant_are_refused(counts, power):
    with pytest.raises(ValueError):
        contrastive.swfc_weights(counts, power)


# ---- the printed form is another loss -----------------------------------------------------------


def test_the_printed_form_at_gamma_zero_is_a_constant():
    features, target = batch(2)
    features.requires_grad_()
    value = contrastive.swfc(features, target, WEIGHT, gamma=0.0, form="printed")
    value.backward()
    assert value.item() == pytest.approx(-float(WEIGHT[target].mean()))
    assert features.grad.abs().max() < 1e-15


def test_the_printed_form_does_not_know_who_belongs_together():
    features, _ = batch(4, size=8)
    weight, sorted_, mixed = torch.ones(2), torch.arange(8) // 4, torch.arange(8) % 2
    printed, original = (
        [contrastive.swfc(features, y, weight, form=form) for y in (sorted_, mixed)]
        for form in ("printed", "original")
    )
    torch.testing.assert_close(*printed)
    assert abs(original[0] - original[1]) > 1e-3


def cosines(form: str) -> tuple[float, float]:
    """Mean cosine within and between six separable classes, after training a linear map."""
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(6, 16, generator=generator)
    target = torch.arange(6).repeat(8)
    x = centers[target] + torch.randn(48, 16, generator=generator)
    layer = nn.Linear(16, 8)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 16, generator=generator) / 4)
        layer.bias.zero_()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        contrastive.swfc(
            layer(x), target, torch.ones(6) / 6, gamma=2.4, tau=0.8, form=form
        ).backward()
        optimizer.step()
    z = nn.functional.normalize(layer(x).detach(), dim=1)
    s, same = z @ z.T, target == target[:, None]
    return float(s[same & ~torch.eye(48, dtype=bool)].mean()), float(s[~same].mean())


def test_the_printed_form_collapses_where_the_original_separates():
    within, between = cosines("printed")
    assert within > 0.9 and within - between < 0.05
    within, between = cosines("original")
    assert within > 0.5 and between < 0.1
