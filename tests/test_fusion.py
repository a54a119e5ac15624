"""Fusion of experts: by hand, under padding, in another order, and what may be trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serlib.data.batching import Item, collate
from serlib.models import fusion
from serlib.models.fusion import Fusion, FusionConfig

WIDTHS = {"ear": 5, "voice": 3, "words": 4}
TINY = FusionConfig(
    experts=tuple(WIDTHS), n_classes=4, width=6, hidden=7, bottleneck=8, dropout=0.0
)  # fmt: skip


def config(**changes) -> FusionConfig:
    return FusionConfig(**{**TINY.__dict__, **changes})


def clip(i: int) -> Item:
    """Clip i has its own number of frames for each expert."""
    rng = np.random.default_rng(i)
    frames = {
        name: rng.normal(size=(2 + (i + 3 * k) % 5, d)).astype(np.float32)
        for k, (name, d) in enumerate(WIDTHS.items())
    }
    return Item(frames, f"clip{i}", i, 1.0, i % 4)


def model(**changes) -> Fusion:
    c = config(**changes)
    return Fusion(c, {name: WIDTHS[name] for name in c.experts}).eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(m: Fusion, frames: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (C,) and attributes (3,) of one clip, in NumPy and clip by clip."""
    w = {name: x.numpy().astype(np.float64) for name, x in m.state_dict().items()}
    h, c = np.zeros(7), np.zeros(7)
    for name in m.config.experts:
        x, at = frames[name].astype(np.float64), f"experts.{name}."
        hidden = np.tanh(x @ w[at + "pool.hidden.weight"].T + w[at + "pool.hidden.bias"])
        e = hidden @ w[at + "pool.score.weight"][0]
        a = np.exp(e) / np.exp(e).sum()
        mean = a @ x
        y = np.r_[mean, np.sqrt(np.maximum(a @ (x - mean) ** 2, 1e-5))]
        for k in (0, 4):  # Linear, LayerNorm, ReLU, Dropout; twice
            y = w[f"{at}layers.{k}.weight"] @ y + w[f"{at}layers.{k}.bias"]
            y = (y - y.mean()) / np.sqrt(y.var() + 1e-5)
            y = y * w[f"{at}layers.{k + 1}.weight"] + w[f"{at}layers.{k + 1}.bias"]
            y = np.maximum(y, 0)
        gates = w["fuse.lstm.weight_ih_l0"] @ y + w["fuse.lstm.bias_ih_l0"]
        gates += w["fuse.lstm.weight_hh_l0"] @ h + w["fuse.lstm.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    scores = w["output.weight"] @ h + w["output.bias"]
    return scores[:4], 1 + 6 * sigmoid(scores[4:])


def test_forward_by_hand():
    m, items = model(), [clip(i) for i in range(4)]
    outputs = m(collate(items))
    assert outputs["features"].shape == (4, 7) and outputs["embeddings"].shape == (4, 3, 6)
    for b, item in enumerate(items):
        emotion, attributes = by_hand(m, item.input)
        np.testing.assert_allclose(outputs["emotion"][b].detach(), emotion, atol=1e-5)
        np.testing.assert_allclose(outputs["attributes"][b].detach(), attributes, atol=1e-5)
    assert ((outputs["attributes"] > 1) & (outputs["attributes"] < 7)).all()


@pytest.mark.parametrize("kind", fusion.FUSIONS)
def test_neither_padding_nor_neighbors_change_a_clip(kind):
    m, items = model(fusion=kind), [clip(i) for i in range(6)]
    alone = torch.cat([m(collate([item]))["emotion"] for item in items])
    together = m(collate(items, quantum={"ear": 9, "voice": 4, "words": 1}))["emotion"]
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)
    for name in WIDTHS:  # whatever the padding of one stream holds
        batch = collate(items, quantum=8)
        x, lengths = batch.streams[name]
        for row, n in zip(x, lengths.tolist(), strict=True):
            row[n:] = torch.nan
        torch.testing.assert_close(m(batch)["emotion"], alone, atol=1e-6, rtol=1e-5)


def test_the_order_of_experts_matters_to_the_lstm_and_not_to_attention():
    batch, turned = collate([clip(i) for i in range(4)]), tuple(reversed(WIDTHS))
    for kind, alike in (("lstm", False), ("attention", True)):
        a, b = (model(fusion=kind, experts=e)(batch) for e in (tuple(WIDTHS), turned))
        torch.testing.assert_close(a["embeddings"], b["embeddings"].flip(1))
        same = torch.allclose(a["emotion"], b["emotion"], atol=1e-6)
        assert same == alike, kind


def test_an_expert_starts_alike_in_any_company_and_differs_from_the_others():
    batch = collate([clip(i) for i in range(3)])
    three = model()(batch)["embeddings"]
    for k, name in enumerate(WIDTHS):
        alone = model(experts=(name,), fusion="concat")(batch)["embeddings"]
        torch.testing.assert_close(alone[:, 0], three[:, k])
    same = Fusion(config(experts=("a", "b")), {"a": 3, "b": 3})
    assert not torch.equal(same.experts["a"].layers[0].weight, same.experts["b"].layers[0].weight)
    other = Fusion(TINY, WIDTHS, seed=1)
    assert not torch.equal(other.output.weight, model().output.weight)


def test_attention_is_a_weighted_mean():
    m, batch = model(fusion="attention"), collate([clip(i) for i in range(4)])
    outputs = m(batch)
    weights = outputs["expert_weights"]
    assert weights.shape == (4, 3) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    mean = torch.einsum("bk,bkd->bd", weights, outputs["embeddings"])
    torch.testing.assert_close(outputs["features"], mean)
    assert torch.equal(model(fusion="attention", experts=("ear",))(batch)["expert_weights"],
                       torch.ones(4, 1))  # fmt: skip


def test_both_directions_read_the_sequence_from_both_ends():
    m, batch = model(bidirectional=True), collate([clip(i) for i in range(3)])
    outputs = m(batch)
    every, _ = m.fuse.lstm(outputs["embeddings"])  # (B, K, 2 H)
    torch.testing.assert_close(
        outputs["features"], torch.cat([every[:, -1, :7], every[:, 0, 7:]], 1)
    )


@pytest.mark.parametrize("experts", [("ear",), ("ear", "voice"), tuple(WIDTHS)])
def test_concatenation_has_about_the_parameters_of_the_lstm(experts):
    sizes = {}
    for kind in ("lstm", "concat"):
        m = model(fusion=kind, experts=experts, width=32, hidden=32)
        sizes[kind] = sum(p.numel() for p in m.fuse.parameters())
    assert sizes["concat"] == pytest.approx(sizes["lstm"], rel=0.02)


@pytest.mark.parametrize("kind", fusion.FUSIONS)
def test_the_gradient_reaches_every_expert(kind):
    m = model(fusion=kind).train()
    outputs = m(collate([clip(i) for i in range(6)]))
    (outputs["emotion"].logsumexp(1).sum() + outputs["attributes"].square().sum()).backward()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_tasks_choose_the_answers_and_not_the_weights():
    batch, both = collate([clip(1), clip(2)]), model()
    for task in fusion.TASKS:
        one = model(tasks=(task,))
        outputs = one(batch)
        assert task in outputs and not set(outputs) & (set(fusion.TASKS) - {task})
        torch.testing.assert_close(outputs[task], both(batch)[task])
        assert one.state_dict().keys() == both.state_dict().keys()


class Inner(torch.nn.Module):
    """Stands for a fine-tuned expert of one parameter that trains and one that does not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(1, 3), torch.nn.Linear(1, 1)
        self.b.requires_grad_(False)

    def forward(self, x, lengths):
        from serlib.models.encoders.checkpoints import Encoded

        return Encoded(self.a(x[..., None]), lengths // 2, ())  # sees twice the lengths


def test_fine_tuned_experts_live_in_the_model_and_frozen_ones_do_not():
    m = Fusion(config(tuned=("voice",)), WIDTHS, tuned={"voice": Inner()})
    inside, outside = list(m.encoder_parameters()), list(m.head_parameters())
    assert len(inside) == 4 and sum(p.requires_grad for p in inside) == 2
    assert {id(p) for p in [*inside, *outside]} == {id(p) for p in m.parameters()}
    assert len(inside) + len(outside) == len(list(m.parameters()))
    assert not list(model().encoder_parameters())
    assert m.config.frozen == ("ear", "words")
    items = []
    for i in range(3):
        wave = np.random.default_rng(i).normal(size=8 + 2 * i).astype(np.float32)
        items.append(clip(i)._replace(input={**clip(i).input, "voice": wave}))
    outputs = m(collate(items))
    outputs["emotion"].sum().backward()
    assert m.encoders["voice"].a.weight.grad.abs().sum() > 0
    assert m.encoders["voice"].b.weight.grad is None
    frames = m.encoders["voice"].a(torch.from_numpy(items[0].input["voice"])[None, :, None])
    expected = m.experts["voice"](
        frames, torch.tensor([4])
    )  # the encoder's lengths, not the waves'
    torch.testing.assert_close(outputs["embeddings"][0, 1], expected[0], atol=1e-5, rtol=1e-4)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    model()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_names_with_dots_and_slashes_are_fine():
    name = "./folder.v2/large-v3"
    m = Fusion(config(experts=(name,)), {name: 3})
    item = Item({name: np.ones((4, 3), np.float16)}, "a", 0, 1.0)  # as stored
    assert m(collate([item]))["emotion"].shape == (1, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(experts=()), "at least one"),
        (dict(experts=("ear", "ear")), "each once"),
        (dict(experts=("a.b", "a_b")), "each once"),
        (dict(tuned=("nose",)), r"tuned=\['nose'\]: not among"),
        (dict(tasks=("gender",)), "tasks="),
        (dict(tasks=("attributes", "emotion")), "the emotion comes first"),
        (dict(fusion="sum"), "one of"),
        (dict(freeze="all"), "one of cnn, none"),
        (dict(fusion="concat", bidirectional=True), "needs fusion='lstm'"),
        (dict(width=0), "1 or more"),
        (dict(dropout=1.0), "dropout"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        config(**wrong)


def test_wrong_streams_and_widths_are_named():
    with pytest.raises(ValueError, match="the experts are"):
        Fusion(TINY, {"ear": 5, "voice": 3})
    with pytest.raises(ValueError, match="fine-tuned"):
        Fusion(config(tuned=("ear",)), WIDTHS)
    m, item = model(), clip(0)
    with pytest.raises(ValueError, match="no stream 'words' in a batch of"):
        m(collate([item._replace(input={k: item.input[k] for k in ("ear", "voice")})]))
    with pytest.raises(ValueError, match=r"stream 'words' is .*needs its frames \(B, T, 4\)"):
        m(collate([item._replace(input={**item.input, "words": np.arange(5)})]))
