"""Every recipe on a pretended GPU: no tensor in the wrong place, and no wait inside a step.

`tests/gpu` has the GPU. Where it cannot be built (no gcc, torch without CUDA) all is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.gpu import pretend, steps

ROOT = Path(__file__).resolve().parents[1]
NAMES = list(steps.recipes())
# Where else the host may wait, and why; of a place the innermost functions.
ALLOWED = {
    "training.loop.measured": "the model goes to the device, once a run",
    "training.checkpoint.load_weights": "the best weights come back, once a run",
    "training.checkpoint.on_host": "an epoch's weights, and optimizer, are fetched with one wait",
    "training.meter.read": "losses are read every 50 steps, and at the end of an epoch",
    "data.features._each": "a frozen encoder goes to the device and back, once a corpus",
    "data.features._batch": "its features are fetched, once a batch",
    "models.encoders.whisper._spectrograms": "the mel filters go to the device, once",
    "models.encoders.whisper.settings": "and come back for the encoder's digest",
    "training.evaluation.<genexpr>": "logits of dev or test are fetched, once for all batches",
    "tasks.answers.task_answers": "answers of a batch of dev or test are fetched, once per task",
    "tasks.attributes.answers": "and so are ratings",
    "experiments.experiment.judge": "co-attention's weights are fetched with the predictions",
    "tasks.loss.gradient_cosine": "angles between gradients are read, where a recipe asks for them",
}


@pytest.fixture(scope="session")
def runtime(tmp_path_factory) -> str:
    try:
        return pretend.build(tmp_path_factory.mktemp("runtime"))
    except RuntimeError as error:
        pytest.skip(f"no pretended GPU: {error}")


@pytest.fixture(scope="session")
def play(runtime, home):
    """A function that runs Python with the pretended runtime."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "book")))
    env = os.environ | {"LD_PRELOAD": runtime, "PYTHONPATH": path, "TQDM_DISABLE": "1",
                        "OMP_NUM_THREADS": "1"}  # fmt: skip
    env.pop("ACCELERATE_USE_CPU", None)

    def run(*command: object) -> str:
        done = subprocess.run([sys.executable, *map(str, command)], env=env, cwd=ROOT,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def found(play, with_corpus, tmp_path_factory) -> dict[str, dict]:
    """What was noted of each recipe."""
    out = tmp_path_factory.mktemp("steps") / "steps.jsonl"
    play("-m", "tests.gpu.steps", out)
    rows = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    return {row["name"]: row for row in rows}


def in_a_step(place: str) -> bool:
    return place == "backward" or "training.loop.train_epoch" in place.split(" < ")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_and_is_judged_and_no_step_waits(found, name):
    row = found[name]
    assert not row["error"]
    assert name == "probe" or (row["steps"] >= 1 and row["loss"] > 0)
    assert [wait for wait in row["waits"] if in_a_step(wait[1])] == []


def test_every_other_wait_has_its_reason(found):
    places = {place for row in found.values() for _, place, _ in row["waits"]}
    innermost = {re.split(" < ", re.sub(r"<(list|dict)comp> < ", "", place))[0] for place in places}
    assert innermost - set(ALLOWED) == set()
    assert len(ALLOWED) < 20  # they fit on one screen


def test_an_epoch_is_stored_with_two_waits(found):
    for name, row in found.items():
        many = sum(n for kind, _, n in row["waits"] if kind == "all work is awaited")
        assert many == 2 * row["epochs"] and (row["epochs"] > 0) == (name != "probe"), name


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("in float32")])
def test_losses_are_those_of_the_cpu(found, name, on_cpu, own_home):
    from serlib.experiments import experiment

    plain = experiment.run(steps.recipes()[name], progress=False).history()
    assert found[name]["loss"] == pytest.approx(plain["loss"].iloc[-1], rel=2e-3)


def test_the_pretended_gpu_refuses_and_notes_what_a_true_one_would(play):
    code = """
    import torch
    from tests.gpu import pretend

    gpu = pretend.install()
    x = torch.arange(6.0, device="cuda").requires_grad_()
    assert x.is_cuda and (2 * x).sum().backward() is None and not gpu.waits
    for mixed in (lambda: x + torch.ones(6), lambda: torch.cat([x.detach(), torch.ones(6)])):
        try:
            mixed()
        except RuntimeError as error:
            assert "of the CPU" in str(error)
        else:
            raise AssertionError("a tensor of the CPU beside one of the GPU")
    large = torch.ones(2**20)
    for work, waits in (
        (lambda: x.sum().item(), 1), (lambda: x[x > 2], 1), (lambda: x.cpu(), 1),
        (lambda: x.tolist(), 1), (lambda: torch.ones(3).to("cuda"), 1),
        (lambda: torch.ones(3).to("cuda", non_blocking=True), 0),
        (lambda: large.to("cuda", non_blocking=True), 1),
        (lambda: large.pin_memory().to("cuda", non_blocking=True), 0),
        (lambda: torch.cuda.synchronize(), 1), (lambda: x.exp().mean() + 1, 0),
        (lambda: x[torch.tensor([0, 2])], 1), (lambda: torch.where(x > 2, x, 0), 0),
    ):
        gpu.waits.clear()
        work()
        assert sum(gpu.waits.values()) == waits, (gpu.waits, waits)
    """
    play("-c", textwrap.dedent(code))


def test_wavlms_bias_suits_the_fused_kernel(play):
    """Rows of keys side by side, at multiples of 16 bytes; before, torch took plain products."""
    code = """
    from unittest import mock
    import torch
    from serlib.models.encoders import wavlm
    from serlib.models.encoders.load import load_encoder
    from tests.gpu import pretend

    gpu = pretend.install()

    def chosen(mask):
        gpu.__exit__(None, None, None)
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        q = torch.empty(*mask.shape[:3], 64, dtype=torch.bfloat16, device="cuda")
        mask = torch.empty_strided(mask.shape, mask.stride(), dtype=q.dtype, device="cuda")
        kernel = torch._fused_sdp_choice(q, q, q, mask, 0.0, False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        gpu.__enter__()
        return kernel

    plain, efficient = 0, 2  # of torch.nn.attention.SDPBackend
    turned = torch.empty(2, 46, 46, 4, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
    assert chosen(turned) == plain
    encoder, masks = load_encoder("demo-wavlm", freeze="none").cuda(), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(*qkv, attn_mask, **rest):
        masks.extend([attn_mask] * attn_mask.is_cuda)
        return attend(*qkv, attn_mask=attn_mask, **rest)

    with mock.patch.object(wavlm.functional, "scaled_dot_product_attention", noted):
        for lengths in ([30_000, 21_000], [30_000, 30_000], [25_600, 25_600]):
            waves = torch.randn(2, max(lengths)).cuda()
            out = encoder(waves, torch.tensor(lengths)).frames
            with torch.no_grad():
                below = load_encoder("demo-wavlm")(waves.cpu(), torch.tensor(lengths)).frames
            assert torch.allclose(out.detach().cpu(), below, atol=1e-4)
    assert len({m.shape[-1] for m in masks}) == 2 and any(m.shape[-1] % 8 for m in masks)
    for mask in masks:
        assert mask.stride(-1) == 1 and all(s % wavlm.ALIGNED == 0 for s in mask.stride()[:-1])
        assert chosen(mask) == efficient
    """
    play("-c", textwrap.dedent(code))
