"""Work counted against hand-made numbers, the peak's cache, and what a training's rows tell."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from serlib.data.batching import Batch, Item, collate
from serlib.models.recognizer import SER
from serlib.recipes import papers
from serlib.training import meter, speed
from serlib.training.checkpoint import copy_weights
from serlib.training.loop import fit
from serlib.training.precision import autocast
from training_toys import Toy, cross_entropy, dev_scores, open_run, settings, toy_batch, toy_batches

pytestmark = pytest.mark.usefixtures("on_cpu")
CPU = torch.device("cpu")


class Net(nn.Module):
    """One layer, whatever its kind, on frames (B, T, D)."""

    def __init__(self, layer: nn.Module, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = batch.inputs if self.before is None else self.before(batch.inputs)
        if isinstance(self.layer, nn.Conv1d):
            x = self.layer(x.transpose(1, 2))
        elif isinstance(self.layer, nn.LSTM):
            x = self.layer(x)[0]
        else:
            x = self.layer(x)
        return {"out": x, "number": torch.zeros(())}


def frames(b: int, t: int, d: int) -> Batch:
    return collate([Item(torch.randn(t, d), f"k{i}", i, t / 50) for i in range(b)])


# ------------------------------------------------------------------ work


def test_what_is_compiled_is_counted_and_compiled_all_the_same():
    """Under a counter torch.compile would leave a function alone from then on."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain, net, batch = Net(nn.Linear(4, 6)), Net(nn.Linear(4, 6)), frames(2, 5, 4)
    net.compile(backend=backend)
    assert speed.count(net, batch) == speed.count(plain, batch) > 0
    assert not graphs
    net(batch)
    torch._dynamo.reset()
    assert len(graphs) == 1


def test_a_linear_layer_by_hand():
    b, t, d, e = 3, 10, 4, 6
    forward = 2 * b * t * d * e
    net = Net(nn.Linear(d, e))
    assert speed.count(net, frames(b, t, d)) == 2 * forward  # the input needs no gradient
    two = Net(nn.Linear(e, 2), nn.Linear(d, e))
    second = 2 * b * t * e * 2
    assert speed.count(two, frames(b, t, d)) == 2 * forward + 3 * second
    two.before.requires_grad_(False)
    assert speed.count(two, frames(b, t, d)) == forward + 2 * second
    assert two.layer.weight.grad is None
    mine = two.layer.weight.grad = torch.ones_like(two.layer.weight)
    speed.count(two, frames(b, t, d))
    assert two.layer.weight.grad is mine and (mine == 1).all()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_convolution_counts_each_gradient_once(groups):
    b, t, d, e, k = 2, 16, 8, 12, 3
    net = Net(nn.Conv1d(d, e, k, padding=1, groups=groups), nn.Linear(d, d))
    forward = 2 * b * t * e * (d // groups) * k
    linear = 2 * b * t * d * d
    assert speed.count(net, frames(b, t, d)) == 3 * forward + 2 * linear


def test_attention_and_lstm_are_counted():
    b, t, d, h = 2, 8, 16, 4

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.reshape(b, t, h, d // h).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(heads, heads, heads)

    attention = Net(Attention(), nn.Linear(d, d))
    forward = 2 * 2 * b * t * t * d  # q k' and p v
    counted = speed.count(attention, frames(b, t, d)) - 2 * 2 * b * t * d * d
    # Fused kernels compute q k' once more on the way back.
    assert counted == forward + 5 * forward // 2
    lstm = Net(nn.LSTM(d, h, batch_first=True, bidirectional=True), nn.Linear(d, d))
    forward = 2 * b * t * 2 * 4 * h * (d + h)
    assert speed.count(lstm, frames(b, t, d)) - 2 * 2 * b * t * d * d == 3 * forward


def test_the_parabola_is_exact_for_a_transformer():
    d = 8
    net = Net(nn.TransformerEncoderLayer(d, 2, 16, batch_first=True), nn.Linear(d, d))
    cost = speed.cost(net, frames(2, 40, d))
    assert cost.widths == (10, 20, 40)
    net.train()
    for b, t in ((1, 10), (3, 33), (2, 120)):
        batch = frames(b, t, d)
        assert cost(batch) == pytest.approx(speed.count(net, batch), rel=1e-9)


def test_a_recognizer_counts_like_the_formula():
    """Against operations added up by hand from the layers' sizes, CNN frozen."""
    model = SER(papers.cai2021("smoke").change(n_layers=2, freeze_layers=0).model)
    config, n = model.encoder.model.config, 16_000
    t, frozen, d = n, 0, 1
    for width, k, stride in zip(
        config.conv_dim, config.conv_kernel, config.conv_stride, strict=True
    ):
        t = (t - k) // stride + 1
        frozen += 2 * t * d * k * width
        d = width
    h, f = config.hidden_size, config.intermediate_size
    layers = 2 * (2 * t * (4 * h * h + 2 * h * f) + 4 * t * t * h)
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    padded = t + 1 - kernel % 2  # an even kernel makes one frame more, which is cut off
    position = 2 * padded * h * (h // groups) * kernel
    trained = 3 * (layers + position) + 2 * 2 * t * d * h  # no gradient to the frozen CNN
    wave = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    batch = collate([Item(wave, "a", 0, 1.0)])
    assert speed.count(model.train(), batch) == pytest.approx(frozen + trained, rel=0.02)


def test_counting_leaves_nothing_behind():
    model = Toy(dropout=0.5).eval()
    before, weights = torch.get_rng_state(), copy_weights(model)
    draws = random.getstate(), np.random.get_state()[1].copy()
    speed.cost(model, toy_batch(0, 4))
    assert torch.equal(torch.get_rng_state(), before) and not model.training
    assert random.getstate() == draws[0] and (np.random.get_state()[1] == draws[1]).all()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_cannot_be_counted_is_said_and_trains():
    class Odd(Toy):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            if len(batch.keys) == 1:
                raise RuntimeError("needs two clips")
            return super().forward(batch)

    with pytest.warns(UserWarning, match=r"no TFLOP/s.*needs two clips"):
        history = fit(Odd(), cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    assert history["tflops"].isna().all() and history["peak_share"].isna().all()
    assert (history["audio_seconds_per_second"] > 0).all()


# ------------------------------------------------------------------ the machine


def test_the_peak_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    calls = []

    def measure(device, dtype):
        calls.append(dtype)
        return 0.5 if dtype == torch.float32 else 2.0

    monkeypatch.setattr(speed, "measure_peak", measure)
    assert [speed.peak("cpu"), speed.peak("cpu", "bf16")] == [0.5, 2.0]
    assert [speed.peak("cpu"), speed.peak("cpu", "bf16")] == [0.5, 2.0]
    assert calls == [torch.float32, torch.bfloat16]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)  # another machine, so to say
    speed.peak("cpu")
    assert len(calls) == 3
    files = [json.loads(f.read_text()) for f in (tmp_path / "peaks").glob("*.json")]
    assert sorted(f["threads"] for f in files)[-1] == 77 and len(files) == 3


def test_a_peak_is_a_plausible_number_and_leaves_random_states():
    before = torch.get_rng_state()
    assert 0 < speed.measure_peak(CPU, torch.float32, n=64) < 1e3
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ in the loop


def test_rows_and_lines_of_a_training_tell_its_speed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(meter, "is_watched", lambda: False)
    model, run = Toy(), open_run(tmp_path)
    history = fit(model, cross_entropy, toy_batches, dev_scores, settings(), run)
    model.train()
    work = sum(speed.count(model, batch) for batch in toy_batches(1))
    found = history["tflops"] * history["train_seconds"] * 1e12
    np.testing.assert_allclose(found, work)
    share = history["tflops"] / speed.peak("cpu")
    np.testing.assert_allclose(history["peak_share"], share)
    assert (history["peak_memory_gb"] > 0.05).all()
    logged = run.history()
    for column in ("tflops", "peak_share", "peak_memory_gb", "padding"):
        np.testing.assert_allclose(logged[column], history[column])
    line = capsys.readouterr().out.splitlines()[0]
    assert "TFLOP/s, 0% of peak)" in line and " GB, " in line


def test_a_summary_by_hand():
    rows = pd.DataFrame(
        {
            "audio_seconds_per_second": [1.0, 9.0, 3.0], "tflops": [1.0, 2.0, 3.0],
            "peak_share": [0.1, 0.2, 0.3], "peak_memory_gb": [1.0, 4.0, 2.0],
            "audio_seconds": [6.0, 6.0, 8.0], "padding": [0.25, 0.25, 0.0],
            "train_seconds": [1.0, 1.0, 2.0],
        }
    )  # fmt: skip
    assert speed.summary(rows) == pytest.approx(
        {
            "audio_seconds_per_second": 3.0, "tflops": 2.0, "peak_share": 0.2,
            "peak_memory_gb": 4.0, "padding": 1 - 20 / 24, "train_seconds": 4.0,
        }
    )  # fmt: skip


def test_shares_over_several_processes():
    gauge = speed.Gauge(Toy(), toy_batch(0, 4), CPU, "fp32")
    gauge.peak = 2.0
    row = gauge.row(1.0, lambda part: [part, (6.0, 1e6)])
    assert row == {"peak_share": 1 / 8, "peak_memory_gb": 1e6}
    assert math.isnan(gauge.row(math.nan)["peak_share"])


def test_a_cpu_is_not_slowed_by_bf16():
    assert not autocast("cpu", "auto")._enabled
