"""The loop on a toy model: what a step is, its learning rates, what accelerate may not do."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from serlib.data.batching import Batch
from serlib.training import evaluation, loop
from serlib.training.checkpoint import copy_weights
from serlib.training.loop import fit
from serlib.training.meter import Meter
from serlib.training.precision import autocast
from training_toys import (
    Toy,
    assert_same_weights,
    cross_entropy,
    dev_scores,
    settings,
    toy_batch,
    toy_batches,
)

pytestmark = pytest.mark.usefixtures("on_cpu")


# ------------------------------------------------------------------ what training does


def test_it_learns_and_reports_what_it_did():
    model = Toy()
    config = settings(epochs=20)
    history = fit(model, cross_entropy, toy_batches, dev_scores, config, progress=False)
    assert history["epoch"].tolist() == list(range(1, 21))
    assert history["loss"].iloc[-1] < 0.2 < history["loss"].iloc[0]
    assert history["dev_ua"].max() == 1.0
    assert (history["steps"] == 3).all() and (history["clips"] == 11).all()
    assert not model.training
    assert dev_scores(model)["ua"] == 1.0


def test_same_seed_same_predictions_other_seed_others():
    def predictions(seed: int) -> pd.DataFrame:
        model = Toy(dropout=0.5)
        fit(model, cross_entropy, toy_batches, dev_scores, settings(seed=seed), progress=False)
        return evaluation.predict(model, [toy_batch(20, 8)])

    first = predictions(1)
    torch.rand(7), np.random.rand(3), random.random()  # the state before a fit must not matter
    pd.testing.assert_frame_equal(first, predictions(1), check_exact=True)
    assert not np.allclose(first["p_0"], predictions(2)["p_0"])


def step_once(batches: list[Batch], accumulate: int) -> tuple[dict, dict]:
    """Weights after plain gradient steps of size 1 (so gradients, not Adam's, are seen)."""
    model = Toy()
    groups = [{"params": list(model.parameters()), "peak": 1.0, "name": "all"}]
    config = settings(epochs=1, accumulate=accumulate, clip=None, schedule="constant", warmup=0.0)
    with loop.isolated_accelerator() as accelerator:
        wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(groups, lr=1.0))
        steps, meter = loop.epoch_steps(1, batches, wrapped, config, accelerator), Meter(1)
        loop.train_epoch(wrapped, steps, cross_entropy, optimizer, config, meter)
        row = meter.row()
    return row, copy_weights(model)


def join(*batches: Batch) -> Batch:
    return Batch(
        inputs=torch.cat([b.inputs for b in batches]),
        lengths=torch.cat([b.lengths for b in batches]),
        emotion=torch.cat([b.emotion for b in batches]),
        keys=[key for b in batches for key in b.keys],
        index=torch.cat([b.index for b in batches]),
        seconds=sum(b.seconds for b in batches),
    )


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3), (2, 3, 3)])
def test_accumulating_equals_one_large_batch(sizes):
    # Exact for losses that are a mean over clips; a class-weighted mean divides by the weights of
    # each batch instead, and differs.
    starts = np.cumsum((0, *sizes))
    parts = [toy_batch(int(s), n) for s, n in zip(starts, sizes, strict=False)]
    row_parts, parts_weights = step_once(parts, accumulate=len(parts))
    row_whole, whole_weights = step_once([join(*parts)], accumulate=1)
    assert row_parts["steps"] == row_whole["steps"] == 1
    assert row_parts["gradient_norm"] == pytest.approx(row_whole["gradient_norm"], rel=1e-5)
    assert row_parts["loss"] == pytest.approx(row_whole["loss"], rel=1e-6)
    for name in whole_weights:
        torch.testing.assert_close(parts_weights[name], whole_weights[name], rtol=0, atol=1e-6)


def test_the_tail_of_an_epoch_makes_a_full_step():
    one, two, tail = toy_batch(0, 4), toy_batch(4, 4), toy_batch(8, 2)
    row, weights = step_once([one, two, tail], accumulate=2)
    assert row["steps"] == 2
    row_whole, expected = step_once([join(one, two), tail], accumulate=1)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    _, dropped = step_once([one, two], accumulate=2)
    assert not torch.allclose(weights["head.1.weight"], dropped["head.1.weight"], atol=1e-3)


def test_clipping_limits_the_step_but_not_the_norm_that_is_reported(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = settings(epochs=1, clip=0.05)
    history = fit(Toy(), cross_entropy, toy_batches, dev_scores, config, progress=False)
    assert max(norms) <= 0.05 * 1.001
    assert history["gradient_norm"][0] > 0.06


def test_gradients_left_on_the_model_do_not_count():
    fresh, used = Toy(), Toy()
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    for model in (fresh, used):
        fit(model, cross_entropy, toy_batches, dev_scores, settings(epochs=1), progress=False)
    assert_same_weights(fresh.state_dict(), used.state_dict())


# ------------------------------------------------------------------ optimizer and schedule


def test_learning_rates_by_hand():
    config = settings(epochs=2, warmup=0.25, schedule="linear")
    scale = loop.learning_rate_scale
    assert scale(0.125, config) == 0.5
    assert scale(0.25, config) == 1.0
    assert scale(0.625, config) == 0.5
    assert scale(1.0, config) == 0.0
    cosine = settings(schedule="cosine", warmup=0.0)
    assert scale(1 / 3, cosine) == pytest.approx(0.75)  # (1 + cos 60°) / 2
    constant = settings(schedule="constant", warmup=0.5)
    assert [scale(done, constant) for done in (0.25, 0.5, 0.9)] == [0.5, 1.0, 1.0]


def test_learning_rates_in_the_loop():
    # 2 epochs of 3 steps, linear from the first: middle of the last step of epoch 1 is 2.5 / 6.
    config = settings(epochs=2, warmup=0.0, schedule="linear", lr_encoder=0.6, lr_head=1.2)
    history = fit(Toy(), cross_entropy, toy_batches, dev_scores, config, progress=False)
    np.testing.assert_allclose(history["lr_encoder"], [0.6 * 3.5 / 6, 0.6 * 0.5 / 6])
    np.testing.assert_allclose(history["lr_head"], [1.2 * 3.5 / 6, 1.2 * 0.5 / 6])


def test_groups_of_the_optimizer():
    model = Toy()
    optimizer = loop.make_optimizer(model, settings(weight_decay=0.1))
    found = {
        (group["name"], group["weight_decay"], group["peak"]): {id(p) for p in group["params"]}
        for group in optimizer.param_groups
    }
    encoder, head = model.encoder[0], model.head[1]
    assert found == {
        ("encoder", 0.1, 0.01): {id(encoder.weight)},
        ("encoder", 0.0, 0.01): {id(encoder.bias)},
        ("head", 0.1, 0.02): {id(head.weight)},
        ("head", 0.0, 0.02): {id(head.bias), id(model.norm.weight), id(model.norm.bias)},
    }


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_parameter_is_trained_once_whatever_the_decay(decay):
    model = Toy()
    optimizer = loop.make_optimizer(model, settings(weight_decay=decay))
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())


def test_parameters_that_are_in_no_part_or_frozen_altogether_are_refused():
    lost = Toy()
    lost.more = nn.Linear(2, 2)
    frozen = Toy().requires_grad_(False)
    doubled = Toy()
    doubled.head_parameters = doubled.parameters
    for model in (lost, frozen, doubled):
        with pytest.raises(ValueError, match="each must be in one"):
            fit(model, cross_entropy, toy_batches, dev_scores, settings(), progress=False)


def test_frozen_parameters_stay():
    model = Toy()
    model.encoder.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    history = fit(model, cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    after = model.state_dict()
    assert torch.equal(before["encoder.0.weight"], after["encoder.0.weight"])
    assert not torch.equal(before["head.1.weight"], after["head.1.weight"])
    assert "lr_encoder" not in history


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"lr_head": -1.0}, {"lr_encoder": math.nan}, {"warmup": 1.0}, {"clip": 0.0},
        {"schedule": "triangle"}, {"accumulate": 0}, {"precision": "fp16"}, {"patience": 0},
        {"patience": 2, "select": "last"}, {"seed": -1}, {"budget_seconds": 0.0},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        settings(**change)


# ------------------------------------------------------------------ precision and accelerate


def test_fits_of_different_precision_in_one_process_do_not_meet():
    owners = (PartialState, AcceleratorState, GradientState)
    before = [dict(owner._shared_state) for owner in owners]
    seen = []

    class Spy(Toy):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            outputs = super().forward(batch)
            seen.append(outputs["emotion"].dtype)
            return outputs

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        assert outputs["emotion"].dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return cross_entropy(outputs, batch)

    alone = Toy()
    fit(alone, cross_entropy, toy_batches, lambda m: {}, settings(select="last"), progress=False)
    for precision in ("bf16", "fp32", "auto"):
        seen.clear()
        model = Spy()
        config = settings(precision=precision, accumulate=2, select="last")
        fit(model, loss, toy_batches, lambda m: {}, config, progress=False)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert "forward" not in vars(model)
        assert [dict(owner._shared_state) for owner in owners] == before
    after = Toy()
    fit(after, cross_entropy, toy_batches, lambda m: {}, settings(select="last"), progress=False)
    assert_same_weights(alone.state_dict(), after.state_dict())


def test_bf16_needs_a_processor_that_has_it(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match="this CPU does not compute in bfloat16; take fp32"):
        autocast("cpu", "bf16")
    assert not autocast("cpu", "auto")._enabled and not autocast("cpu", "fp32")._enabled


def test_an_accelerator_of_the_caller_survives_even_a_failure():
    mine = Accelerator(gradient_accumulation_steps=7, cpu=True)
    try:
        with pytest.raises(ValueError, match="at least 1"):
            fit(Toy(), cross_entropy, lambda epoch: [], dev_scores, settings(), progress=False)
        assert mine.gradient_accumulation_steps == 7
        assert AcceleratorState().mixed_precision == "no" and mine.device.type == "cpu"
    finally:
        for owner in (PartialState, AcceleratorState, GradientState):
            owner._shared_state.clear()


class CountReads(TorchDispatchMode):
    """Counts what makes a host wait for a GPU: turning a computed value into a Python number.

    Lengths, the only integers read, are on the CPU by contract.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device(monkeypatch):
    # AdamW on a CPU reads its own step counters, which on a GPU it does not (fused).
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    counts = []
    for n_batches in (2, 12):
        batches = [toy_batch(4 * i, 4) for i in range(n_batches)]
        with CountReads() as counter:
            config = settings(epochs=1, select="last")
            fit(Toy(), cross_entropy, lambda e, b=batches: b, lambda m: {}, config, progress=False)
        counts.append(counter.reads)
    assert counts[0] == counts[1]
    with CountReads() as counter:
        torch.ones(()).item()
    assert counter.reads == 1  # the counter does count
