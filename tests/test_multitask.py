"""Several tasks in one model, on the tiny encoders of the single-task tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from model_toys import clips, tiny_folders
from serlib.data import text
from serlib.data.batching import Batch
from serlib.losses import classification
from serlib.models.recognizer import SER, ModelConfig
from serlib.tasks.loss import LossConfig, total_loss
from serlib.training import evaluation, loop

pytestmark = pytest.mark.usefixtures("on_cpu")
ALL = ("emotion", "gender", "speaker", "asr")
SAID = ("LA", "DO", "MI", "SO")  # clip i says SAID[i % 4]
WANG = dict(
    tasks=ALL, pooling="attentive", layers="weighted", head="mlp", hidden=16,
    co_attention="concat",
)  # fmt: skip
CONFIGS = {
    "linear": dict(tasks=ALL, pooling="mean"),
    "mlp": dict(tasks=ALL, pooling="attentive", layers="weighted", head="mlp", hidden=16),
    "concat": WANG,
    "sum": WANG | {"co_attention": "sum"},
    "without asr": WANG | {"tasks": ("emotion", "speaker", "gender")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folders(tmp_path_factory)


def make(path: str, name: str, seed: int = 0, **changes) -> SER:
    return SER(ModelConfig(path, **CONFIGS[name] | changes), n_speakers=3, seed=seed)


def labeled(model: SER, numbers, **options) -> Batch:
    """Clips with targets of all tasks; some are unknown."""
    batch = clips(model, numbers, **options)
    i = torch.tensor(list(numbers))
    tokens, n_tokens = map(torch.from_numpy, text.pad([SAID[n % 4] for n in numbers]))
    extra = {
        "gender": torch.where(i == 5, classification.IGNORE, i % 2),
        "speaker": torch.where(i == 6, classification.IGNORE, (i % 4).clamp(max=2)),
        "tokens": tokens,
        "n_tokens": n_tokens,
    }
    return replace(batch, extra=extra)


def per_clip(model: SER, batch: Batch) -> list[dict[str, torch.Tensor]]:
    """The outputs of each clip without its padding, in the order of the numbers."""
    outputs = model(batch)
    outputs.pop("layer_weights", None)
    frames = model.encoder.frame_lengths(batch.lengths).tolist()
    rows = []
    for row in batch.index.argsort().tolist():
        mine = {name: value[row] for name, value in outputs.items()}
        for name in {"asr", "frame_weights"} & set(mine):
            mine[name] = mine[name][: frames[row]]
        rows.append(mine)
    return rows


# ---- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_named_outputs_and_their_shapes(folder, name):
    model = make(folder(), name, n_classes=5)
    batch = clips(model, range(3))
    outputs = model(batch)
    frames = model.encoder.frame_lengths(batch.lengths)
    assert outputs["emotion"].shape == (3, 5) and outputs["gender"].shape == (3, 2)
    assert outputs["speaker"].shape == (3, 3)
    assert ("asr" in outputs) == ("asr_lengths" in outputs) == (name != "without asr")
    if "asr" in outputs:
        assert outputs["asr"].shape == (3, int(frames.max()), 32)
        assert torch.equal(outputs["asr_lengths"], frames)
    fused = model.config.co_attention != "none"
    assert ("task_weights" in outputs) == fused
    assert ("frame_weights" in outputs) == (fused and "asr" in outputs)
    if fused:
        assert outputs["task_weights"].shape == (3, len(model.config.tasks) - 1)
        torch.testing.assert_close(outputs["task_weights"].sum(1), torch.ones(3))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_clip_gets_the_same_outputs_in_any_company(folder, name, norm):
    model = make(folder("wavlm", norm), name).eval()
    with torch.no_grad():
        alone = [per_clip(model, clips(model, [i]))[0] for i in range(5)]
        for numbers, quantum in ((range(5), 1), (range(4, -1, -1), 4000)):
            batch = clips(model, numbers, quantum=quantum)
            batch.inputs[torch.arange(batch.inputs.shape[1]) >= batch.lengths[:, None]] = 9.0
            for one, found in zip(alone, per_clip(model, batch), strict=True):
                assert one.keys() == found.keys()
                for output, value in one.items():
                    torch.testing.assert_close(found[output], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])  # without and with a final LayerNorm
@pytest.mark.parametrize("name", ["linear", "concat"])
def test_stored_layers_give_the_outputs_of_waves(folder, norm, name):
    model = make(folder("wav2vec2", norm), name, freeze="all").eval()
    assert model.encoder.pre_norm == (norm == "layer")
    batch = clips(model, range(4), quantum=4000)
    with torch.no_grad():
        encoded = model.encoder(batch.inputs, batch.lengths)
        stored = torch.stack(encoded.layers, 2)
        again = replace(batch, inputs=stored, lengths=encoded.lengths)
        from_waves, from_layers = model(batch), model(again)
    assert from_waves.keys() == from_layers.keys()
    for output, value in from_waves.items():
        torch.testing.assert_close(from_layers[output], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks="),
        ({"tasks": ("emotion", "emotion")}, "tasks="),
        ({"tasks": ("emotion", "age")}, "tasks="),
        ({"co_attention": "concat", "tasks": ALL}, "needs head='mlp'"),
        ({"co_attention": "sum", "head": "mlp"}, "another task"),
        ({"co_attention": "sum", "head": "mlp", "tasks": ("asr", "gender")}, "first task"),
        ({"tasks": ("asr", "emotion")}, "comes first"),
        ({"co_attention": "product", "head": "mlp", "tasks": ALL}, "co_attention"),
        ({"layers": "weighted", "layer_start": "middle"}, "layer_start"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig("demo-wavlm", **change)


def test_a_speaker_head_needs_two_speakers(folder):
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"n_speakers={n}"):
            SER(ModelConfig(folder(), tasks=("emotion", "speaker")), n_speakers=n)


def test_each_parameter_belongs_to_one_part_and_all_are_trained(folder):
    model = make(folder("wavlm", "group"), "concat", n_classes=4)
    encoder = {id(p) for p in model.encoder_parameters()}
    head = {id(p) for p in model.head_parameters()}
    assert not encoder & head and encoder | head == {id(p) for p in model.parameters()}
    batch = labeled(model, range(4))
    loss = total_loss(LossConfig(alpha=0.2), ALL, np.ones(4))
    loss(model(batch), batch).backward()
    for name, parameter in model.named_parameters():
        if id(parameter) in head:
            assert parameter.grad is not None and (parameter.grad != 0).any(), name


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_four_small_batches_with_a_sum_are_one_large_with_a_mean(folder, norm):
    """Cai's step: 2 clips x 4 with CTC summed over clips, or 8 with its mean at twice the weight.

    The four shares n / N of the loop make 1/4 of each sum, and so 2/8 of each clip. That holds if
    every clip has a transcript that fits, and no clip's output depends on its batch.
    """
    wanted, steps = ("emotion", "asr"), []
    for config, parts in ((LossConfig(alpha=0.1, ctc="sum"), np.arange(8).reshape(4, 2)),
                          (LossConfig(alpha=0.2, ctc="clips"), [np.arange(8)])):  # fmt: skip
        model = make(folder("wav2vec2", norm), "linear", n_classes=4, tasks=wanted).eval()
        loss = total_loss(config, wanted, np.ones(4))
        for part in parts:
            batch = labeled(model, part.tolist())
            (loss(model(batch), batch) * len(part) / 8).backward()
        steps.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    small, large = steps
    assert set(small) == set(large) and len(small) > 20
    scale = max(g.abs().max() for g in large.values())
    for name, gradient in large.items():
        torch.testing.assert_close(small[name], gradient, rtol=0, atol=1e-5 * float(scale))


# ---- training -----------------------------------------------------------------------------------


def train(model: SER, config: LossConfig, numbers=range(6), **changes) -> dict:
    wanted = model.config.tasks
    batches = [labeled(model, numbers[:4]), labeled(model, numbers[4:])]
    settings = dict(epochs=3, lr_encoder=3e-3, lr_head=1e-2, warmup=0.1, select="last") | changes
    loss = total_loss(config, wanted, np.ones(4))

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluation.score(evaluation.predict(model, batches), 4)

    config = loop.TrainConfig(**settings)
    loop.fit(model, loss, lambda epoch: batches, evaluate, config, progress=False)
    return evaluate(model)


def test_tasks_of_weight_zero_change_not_a_bit_of_the_emotion(folder):
    path = folder("wav2vec2", "group")
    one = SER(ModelConfig(path, spec_augment=0.2, dropout=0.0), seed=3)
    many = SER(ModelConfig(path, tasks=ALL, spec_augment=0.2), n_speakers=3, seed=3)
    batch = labeled(one, range(4))
    with torch.no_grad():
        assert torch.equal(one.eval()(batch)["emotion"], many.eval()(batch)["emotion"])
    fresh = {name: value.clone() for name, value in many.state_dict().items()}
    train(one, LossConfig())
    train(many, LossConfig(alpha=0.0))
    moved = 0
    for name, value in many.state_dict().items():
        if name in one.state_dict():
            assert torch.equal(value, one.state_dict()[name]), name
            moved += not torch.equal(value, fresh[name])
        else:  # the other tasks' heads did not move
            assert torch.equal(value, fresh[name]), name
    assert moved > 20
    with torch.no_grad():
        assert torch.equal(one.eval()(batch)["emotion"], many.eval()(batch)["emotion"])


@pytest.mark.parametrize("name", ["linear", "concat"])
def test_eight_clips_with_four_tasks_are_learned_by_heart(folder, name):
    model = make(folder("wavlm", "group"), name, seed=1, encoder_dropout=0.0)
    scores = train(
        model, LossConfig(alpha=1.0), range(8), epochs=80, lr_head=2e-2
    )  # fmt: skip
    assert scores["wa"] == scores["gender"] == scores["speaker"] == 1.0 and scores["n"] == 8
    assert scores["wer"] == scores["cer"] == 0.0


def test_a_task_without_the_emotion(folder):
    model = SER(ModelConfig(folder("wavlm", "group"), tasks=("gender",)), seed=1)
    scores = train(model, LossConfig(alpha=0.3), range(8), epochs=40, select="gender")
    assert scores == {"gender": 1.0}
