"""Recognizers on tiny encoders with random weights, saved as the folders that checkpoints are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model_toys import clips, tiny_folders
from serlib.data.batching import Batch
from serlib.losses import classification
from serlib.models.encoders.load import load_encoder
from serlib.models.recognizer import SER, ModelConfig
from serlib.training import evaluation, loop

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folders(tmp_path_factory)


def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    return classification.cross_entropy(outputs["emotion"], batch.emotion)


EVERY = [
    {"pooling": "mean", "layers": "last", "head": "linear"},
    {"pooling": "sum", "layers": "weighted", "head": "linear"},
    {"pooling": "attentive", "layers": "weighted", "head": "mlp", "hidden": 16},
]


# ------------------------------------------------------------------ outputs


@pytest.mark.parametrize("options", EVERY)
def test_named_outputs_and_their_shapes(folder, options):
    model = SER(ModelConfig(folder(), n_classes=5, **options))
    outputs = model(clips(model, range(3)))
    width = 48 if options["pooling"] == "attentive" else 24
    assert outputs["emotion"].shape == (3, 5)
    assert outputs["embedding"].shape == (3, width)
    assert ("layer_weights" in outputs) == (options["layers"] == "weighted")
    if "layer_weights" in outputs:
        torch.testing.assert_close(outputs["layer_weights"], torch.full((3,), 1 / 3))


def test_mean_of_the_last_layer_by_hand(folder):
    model = SER(ModelConfig(folder("wavlm", "group")))
    batch = clips(model, [2, 3])
    encoded = model.encoder(batch.inputs, batch.lengths)
    linear = model.heads["emotion"][1]
    outputs = model(batch)
    for row, (frames, n) in enumerate(zip(encoded.frames, encoded.lengths, strict=True)):
        mean = frames[:n].mean(dim=0)
        torch.testing.assert_close(outputs["embedding"][row], mean)
        torch.testing.assert_close(outputs["emotion"][row], linear.weight @ mean + linear.bias)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "hubert"])
@pytest.mark.parametrize("options", EVERY)
def test_a_clip_gets_the_same_logits_in_any_company(folder, family, norm, options):
    model = SER(ModelConfig(folder(family, norm), **options)).eval()
    with torch.no_grad():
        alone = torch.cat([model(clips(model, [i]))["emotion"] for i in range(8)])
        limit = 1e-5 * max(1.0, float(alone.abs().max()))  # sums over time reach 60
        for numbers, quantum in ((range(8), 1), (range(7, -1, -1), 1), (range(8), 4000)):
            batch = clips(model, numbers, quantum=quantum)
            together = model(batch)["emotion"][batch.index.argsort()]
            assert float((together - alone).abs().max()) <= limit
            batch.inputs[torch.arange(batch.inputs.shape[1]) >= batch.lengths[:, None]] = 9.0
            garbage = model(batch)["emotion"][batch.index.argsort()]
            assert float((garbage - alone).abs().max()) <= limit


@pytest.mark.parametrize("switch", ["masked_encoder", "masked_pooling"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_each_unmasked_switch_lets_the_padding_in(folder, switch, norm):
    model = SER(ModelConfig(folder("wav2vec2", norm), **{switch: False})).eval()
    with torch.no_grad():
        alone = model(clips(model, [0]))["emotion"][0]
        padded = model(clips(model, [0, 3]))["emotion"][0]
    assert float((alone - padded).abs().max()) > 1e-4


def test_both_switches_off_equal_the_stock_model_without_attention_mask(folder):
    from transformers import AutoModel

    path = folder("wav2vec2", "group")
    model = SER(ModelConfig(path, masked_encoder=False, masked_pooling=False)).eval()
    batch = clips(model, [0, 3, 5])
    with torch.no_grad():
        states = AutoModel.from_pretrained(path)(batch.inputs).last_hidden_state
        torch.testing.assert_close(
            model(batch)["embedding"], states.mean(dim=1), rtol=1e-4, atol=1e-5
        )


def test_stored_features_give_the_logits_of_waves(folder):
    for norm in ("group", "layer"):
        model = SER(ModelConfig(folder("wavlm", norm), layers="weighted")).eval()
        with torch.no_grad():
            waves = model(clips(model, range(4)))["emotion"]
            stored = clips(model, range(4), features=True)
            assert stored.inputs.ndim == 3
            torch.testing.assert_close(model(stored)["emotion"], waves, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ initialization


def test_the_seed_decides_the_heads_and_nothing_else_does(folder):
    config = ModelConfig(folder(), pooling="attentive", layers="weighted", head="mlp", hidden=8)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = SER(config, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    second, third = SER(config, seed=1), SER(config, seed=2)
    differ = set()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        if not torch.equal(value, third.state_dict()[name]):
            differ.add(name.split(".")[0])
    assert differ == {"pool", "heads"}


def test_options_reach_the_encoder(folder):
    config = ModelConfig(folder(), n_layers=1, encoder_dropout=0.3, random_init=True)
    model = SER(config, seed=1)
    assert model.encoder.n_layers == 1
    dropouts = {module.p for module in model.encoder.modules() if isinstance(module, nn.Dropout)}
    assert dropouts == {0.3}
    pretrained = SER(ModelConfig(folder()))
    name = "model.encoder.layers.0.attention.q_proj.weight"
    ours, theirs = (dict(m.encoder.named_parameters())[name] for m in (model, pretrained))
    assert not torch.equal(ours, theirs)


def test_an_encoder_can_be_handed_in(folder):
    encoder = load_encoder(folder(), freeze="all")
    assert SER(ModelConfig("not there"), encoder=encoder).encoder is encoder


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "max"}, {"layers": "first"}, {"head": "deep"}, {"n_classes": 1},
        {"input_dropout": 0.5},
    ],
)  # fmt: skip
def test_settings_that_do_not_exist_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelConfig("demo-wavlm", **change)


def test_dropout_is_where_the_settings_say(folder):
    config = ModelConfig(folder(), head="mlp", hidden=8, dropout=0.2, input_dropout=0.4)
    rates = [m.p for m in SER(config).heads.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.4, 0.2]
    linear = SER(ModelConfig(folder(), dropout=0.3)).heads["emotion"]
    assert isinstance(linear[0], nn.Dropout) and linear[0].p == 0.3


# ------------------------------------------------------------------ training


def test_each_parameter_belongs_to_one_part(folder):
    model = SER(ModelConfig(folder(), pooling="attentive", layers="weighted", head="mlp"))
    encoder = {id(p) for p in model.encoder_parameters()}
    head = {id(p) for p in model.head_parameters()}
    assert not encoder & head
    assert encoder | head == {id(p) for p in model.parameters()}
    assert id(model.layer_sum.raw) in head


@pytest.mark.parametrize("freeze", ["cnn", "all", "none"])
def test_freezing_really_freezes(folder, freeze):
    model = SER(ModelConfig(folder("wavlm", "group"), freeze=freeze, layers="weighted"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = clips(model, range(4))
    config = loop.TrainConfig(
        epochs=2, lr_encoder=0.01, lr_head=0.01, warmup=0.0, select="last", weight_decay=0.1
    )
    loop.fit(model, loss, lambda epoch: [batch], lambda model: {}, config, progress=False)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    parts = {
        "cnn": any(".feature_extractor." in name for name in changed),
        "transformer": any(".layers." in name for name in changed),
        "head": any(name.startswith("heads.") for name in changed),
    }
    moves = {"cnn": freeze == "none", "transformer": freeze != "all", "head": True}
    assert parts == moves


def test_a_frozen_encoder_has_no_dropout_in_training(folder):
    model = SER(ModelConfig(folder(), freeze="all", encoder_dropout=0.5)).train()
    batch = clips(model, range(2))
    assert model.heads.training and not model.encoder.training
    assert torch.equal(model(batch)["embedding"], model(batch)["embedding"])
    other = SER(ModelConfig(folder(), freeze="cnn", encoder_dropout=0.5)).train()
    assert not torch.equal(other(batch)["embedding"], other(batch)["embedding"])


def test_one_layer_alone_is_that_hidden_state(folder):
    models = {layer: SER(ModelConfig(folder(), layers=layer)).eval() for layer in ("0", "1")}
    for layer, model in models.items():
        batch = clips(model, range(2))
        frames, _ = model.frames(batch)
        encoded = model.encoder(batch.inputs, batch.lengths)
        torch.testing.assert_close(frames, encoded.layers[int(layer)])
    with pytest.raises(ValueError, match="the last is"):
        SER(ModelConfig(folder(), layers="99"))
    with pytest.raises(ValueError, match="expected one of"):
        ModelConfig("any", layers="first")


@pytest.mark.parametrize("freeze", ["cnn", "all"])
def test_layer_weights_get_gradients(folder, freeze):
    model = SER(ModelConfig(folder(), layers="weighted", freeze=freeze))
    batch = clips(model, range(4))
    loss(model(batch), batch).backward()
    gradient = model.layer_sum.raw.grad
    assert gradient.isfinite().all() and (gradient != 0).all()


@pytest.mark.parametrize("options", EVERY)
def test_eight_clips_are_learned_by_heart(folder, options):
    model = SER(ModelConfig(folder("wavlm", "group"), **options), seed=1)
    batches = [clips(model, range(5)), clips(model, range(5, 8))]
    config = loop.TrainConfig(
        epochs=60, lr_encoder=3e-3, lr_head=1e-2, warmup=0.1, select="wa", patience=60
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluation.score(evaluation.predict(model, batches), 4)

    loop.fit(model, loss, lambda epoch: batches, evaluate, config, progress=False)
    scores = evaluate(model)
    assert scores["wa"] == 1.0 and scores["n"] == 8
