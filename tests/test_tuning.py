"""LoRA, checkpointing and compiling of encoder layers."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
import safetensors.torch
import torch

from encoder_toys import clips_of, make_roberta, make_whisper, pad, states
from serlib.data.batching import Item, collate
from serlib.models import adapters
from serlib.models.encoders import checkpoints
from serlib.models.encoders.load import load_encoder
from serlib.models.recognizer import SER, ModelConfig
from serlib.training import loop
from test_encoders import FAMILIES, config_of, make

ALL = (*FAMILIES, "whisper", "roberta")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder per family, each made once."""
    made = {}

    def get(family):
        if family not in made:
            path = made[family] = tmp_path_factory.mktemp(family)
            builders = {"whisper": make_whisper, "roberta": make_roberta}
            if family in builders:
                builders[family](path)
            else:
                make(path, config_of(family, "layer", 1))
        return made[family]

    return get


def batch_of(encoder, sizes=(4_000, 2_500)):
    if encoder.modality == "text":
        return pad([encoder.prepare(text) for text in ("One or two.", "Never, never again!")])
    return pad([encoder.prepare(clip) for clip in clips_of(sizes)])


def awaken(encoder):
    """Adapters that do something: B is zero at first."""
    torch.manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return encoder


@pytest.mark.parametrize("family", ALL)
def test_only_adapters_learn_and_all_of_them_do(folder, family):
    encoder = load_encoder(folder(family), dropout=0.0)
    batch, before = batch_of(encoder), None
    before = states(encoder(*batch))
    adapters.add_lora(encoder, 3)
    assert (states(encoder(*batch)) - before).abs().max() < 1e-6  # B starts from zero
    learning = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in learning)
    assert len(learning) == 3 * 2 * 2  # layers, projections, A and B
    assert sum(p.numel() for p in learning.values()) == 3 * 4 * 3 * encoder.width
    assert encoder.facts["lora"] == 3
    awaken(encoder).train()(*batch).frames.square().mean().backward()
    assert all(bool(p.grad.any()) for p in learning.values())
    assert all(p.grad is None for n, p in encoder.named_parameters() if n not in learning)


@pytest.mark.parametrize("family", ALL)
def test_adapters_are_what_their_formula_says(folder, family):
    """W + 2 B A, put into an encoder without adapters by hand."""
    tuned, plain = (load_encoder(folder(family)) for _ in range(2))
    adapters.add_lora(tuned, 2)
    state = awaken(tuned).state_dict()
    by_hand = {}
    for name, value in state.items():
        if "lora_" in name:
            continue
        if name.endswith("base_layer.weight"):
            a, b = (state[name.replace("base_layer", f"lora_{x}.default")] for x in "AB")
            value = value + 2 * b @ a
        by_hand[name.replace("base_layer.", "")] = value
    plain.load_state_dict(by_hand)
    batch = batch_of(plain)
    found, expected = states(tuned(*batch)), states(plain(*batch))
    assert (found - expected).abs().max() < 1e-5
    assert tuned.digest() != load_encoder(folder(family)).digest()


def test_the_stock_attention_ignores_adapters(folder):
    """Why WavLM needs an attention of ours: here peft's own call changes and teaches nothing."""
    import peft

    encoder = load_encoder(folder("wavlm"), attention="stock", dropout=0.0)
    batch = batch_of(encoder, (4_000,))
    before = states(encoder(*batch))
    with pytest.raises(checkpoints.EncoderError, match="attention='fused'"):
        adapters.add_lora(encoder, 2)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    peft.inject_adapter_in_model(config, encoder.model)
    out = states(awaken(encoder)(*batch))
    assert torch.equal(out, before)
    encoder.train()
    with pytest.raises(RuntimeError, match="does not require grad"):
        encoder(*batch).frames.sum().backward()


def test_frozen_layers_get_no_adapters(folder):
    """Their states are stored, and are the same whether the layers above are adapted or not."""
    encoder = load_encoder(folder("wavlm"), freeze_layers=2)
    before = [encoder.digest(part) for part in ("cnn", "all")]
    adapters.add_lora(encoder, 2)
    assert [encoder.digest(part) for part in ("cnn", "all")] == before
    assert awaken(encoder).digest() != before[1]
    names = [n for n, p in encoder.named_parameters() if p.requires_grad]
    assert len(names) == 4 and all("layers.2." in name for name in names)


def test_the_seed_decides_and_the_global_state_is_left_alone(folder):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(9)
        encoder = load_encoder(folder("hubert"))
        adapters.add_lora(encoder, 2, seed=seed)
        found.append(torch.cat([p.flatten() for n, p in encoder.named_parameters() if "_A" in n]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    adapters.add_lora(load_encoder(folder("hubert")), 2)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_adapted_is_refused(folder):
    frozen = load_encoder(folder("wavlm"), freeze="all")
    with pytest.raises(checkpoints.EncoderError, match="freeze='all'"):
        adapters.add_lora(frozen, 2)
    encoder = load_encoder(folder("wavlm"))
    for rank in (0, -1):
        with pytest.raises(checkpoints.EncoderError, match="of rank"):
            adapters.add_lora(encoder, rank)
    adapters.add_lora(encoder, 2)
    with pytest.raises(checkpoints.EncoderError, match="there already"):
        adapters.add_lora(encoder, 2)
    for wrong, words in (
        ({"lora": -1}, "lora=-1, expected a whole number, 0 or more"),
        ({"lora": 2, "freeze": "all"}, "a rank needs 'cnn'"),
        ({"lora": 2, "freeze": "none"}, "a rank needs 'cnn'"),
    ):
        with pytest.raises(ValueError, match=words):
            ModelConfig("demo-wavlm", **wrong)


def recognizer(folder, family, **settings):
    return SER(ModelConfig(str(folder(family)), **settings), seed=3)


def test_a_recognizer_learns_with_adapters_and_is_restored(folder, tmp_path):
    """Through the files of a run: weights as safetensors, settings as JSON."""
    model = recognizer(folder, "wavlm", lora=2, encoder_dropout=0.0)
    plain = recognizer(folder, "wavlm", encoder_dropout=0.0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.head_parameters(), plain.head_parameters(), strict=True)
    )  # heads start as without adapters
    config = loop.TrainConfig(lr_encoder=1e-2, lr_head=1e-2)
    optimizer = loop.make_optimizer(model, config)
    waves = [model.encoder.prepare(clip) for clip in clips_of((4_000, 2_500))]
    batch = collate([Item(wave, str(i), i, 0.2) for i, wave in enumerate(waves)])
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    losses = []
    for _ in range(8):
        out = model.train()(batch)["emotion"]
        loss = torch.nn.functional.cross_entropy(out, torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(bool(now[n].any()) for n in now if "lora_B" in n)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    about = json.loads(json.dumps(asdict(model.config)))
    again = SER(ModelConfig(**about | {"tasks": tuple(about["tasks"])}))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    expected = model.eval()(batch)["emotion"]
    assert torch.allclose(again.eval()(batch)["emotion"], expected, atol=1e-6)


def gradients(encoder, batch, seed=5):
    """Of all parameters, in training, with dropout drawn from a seed."""
    encoder.zero_grad()
    torch.manual_seed(seed)
    encoded = encoder.train()(*batch)
    torch.stack(encoded.layers).square().mean().backward()
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("family", ALL)
def test_checkpointing_changes_no_gradient_with_dropout(folder, family, lora):
    plain, thrifty = (load_encoder(folder(family), dropout=0.2) for _ in range(2))
    for encoder in (plain, thrifty):
        if lora:
            adapters.add_lora(encoder, lora)
            awaken(encoder)
    adapters.checkpoint_layers(thrifty)
    batch = batch_of(plain)
    expected, found = gradients(plain, batch), gradients(thrifty, batch)
    other = gradients(plain, batch, seed=6)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-6, name
    assert any((other[n] - g).abs().max() > 1e-6 for n, g in expected.items())  # dropout was on


def kept(encoder, batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    found = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in weights:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        encoder.train()(*batch)
    return sum(found.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_keeps_less_of_each_layer(folder, family):
    """What two more layers cost; the inputs, which checkpointing holds itself, do not show."""
    one, three = (load_encoder(folder(family), n_layers=n) for n in (1, 3))
    batch = batch_of(one, (16_000, 9_000))
    before = kept(three, batch) - kept(one, batch)
    adapters.checkpoint_layers(one)
    adapters.checkpoint_layers(three)
    assert kept(three, batch) - kept(one, batch) < before / 4


@pytest.mark.parametrize("family", FAMILIES)
def test_new_sizes_compile_nothing_new(folder, family):
    """One graph per layer code and mode, whatever B and T are, with the state's names as before."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    encoder, plain = (load_encoder(folder(family), dropout=0.0) for _ in range(2))
    adapters.compile_layers(encoder, backend=backend)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    rng = torch.Generator().manual_seed(0)
    seen = []
    for n_clips in (2, 3, 5, 4, 7):
        sizes = [6_400, *torch.randint(1_000, 9_000, (n_clips - 1,), generator=rng).tolist()]
        batch = batch_of(encoder, sizes)
        difference = states(encoder(*batch)) - states(plain(*batch))
        assert difference.abs().max() < 1e-5
        seen.append(len(graphs))
    torch._dynamo.reset()
    assert seen[-1] == seen[1] <= 4


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_compiled_layers_give_the_same(folder):
    torch._dynamo.reset()
    plain = recognizer(folder, "wavlm", encoder_dropout=0.0, n_layers=1).encoder
    fast = recognizer(folder, "wavlm", encoder_dropout=0.0, n_layers=1, compile=True).encoder
    batch = batch_of(plain)
    expected, found = gradients(plain, batch), gradients(fast, batch)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-5, name
    torch._dynamo.reset()
