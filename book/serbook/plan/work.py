"""What a training asks of a GPU, computed where nobody has measured: operations and memory.

One clip is trained on here, with one and with two transformer layers of full width and random
weights; both counts are linear in the number of layers. So

    seconds of a clip = operations / (peak of the card · SHARE)
    memory = 16 bytes per trained parameter (weight, gradient, AdamW's two moments), 4 per frozen
             one, and what forward keeps for backward, of a batch of the longest clips

`SHARE` is an assumption, so hours are estimates. At a share of 1 they are bounds.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch.utils import flop_counter

from serbook.plan import architectures
from serlib.data.audio import SAMPLE_RATE
from serlib.data.batching import Batch
from serlib.models.encoders import checkpoints, wav2vec2
from serlib.models.recognizer import SER, ModelConfig
from serlib.recipes.recipe import Recipe
from serlib.training import speed
from serlib.training.precision import autocast

SHARE = 0.4  # of the peak that a training reaches: what well-kept code does, not measured here
CLIP, LONG = 6.0, 12.0  # seconds of a clip: about the corpora's mean, and of the longest in a batch
TOKENS = 4  # a second of speech


@dataclass(frozen=True)
class Card:
    """A GPU: its name, dense bfloat16 TFLOP/s without sparsity, and GB, as the maker prints them."""

    name: str
    tflops: float
    gb: float


CARDS = {
    "h200": Card("H200", 989, 141), "a100": Card("A100 80 GB", 312, 80),
    "rtx4090": Card("RTX 4090", 165, 24),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Of one clip: operations of a step and of judging it, and bytes kept between the passes."""

    step: float
    judge: float
    kept: float
    shared: float  # bytes kept once, however many clips a batch has


def computable(recipe: Recipe) -> bool:
    """Whether `rate` knows a training's encoder: any of a fusion, else those that take waves."""
    if recipe.system == "fusion":
        return True
    return architectures.config(recipe.model.encoder).model_type in ("wav2vec2", "hubert", "wavlm")


def rate(recipe: Recipe, card: Card) -> dict[str, float]:
    """What `hours` takes of a training, as if it had been measured on a card.

    Of a fusion the heads cost nothing beside the experts, which are frozen in the book and stored.

    Returns:
        ``train``, ``evaluate``, and of a fusion ``encode``, in audio seconds per second;
        ``peak_gb``, of memory.
    """
    able = card.tflops * 1e12 * SHARE
    if recipe.system == "fusion":
        once = sum(map(encoding, recipe.model.frozen))
        most = 4 * max(map(architectures.n_parameters, recipe.model.frozen), default=0) / 1e9
        return {"train": math.inf, "evaluate": math.inf, "encode": able / once, "peak_gb": most}
    usual, long = (of_clip(recipe.model, seconds) for seconds in (CLIP, LONG))
    clips = recipe.max_clips or max(1, int(recipe.train.budget_seconds // LONG))
    return {
        "train": able * CLIP / usual.step,
        "evaluate": able * CLIP / usual.judge,
        "peak_gb": (weights(recipe.model) + long.shared + clips * long.kept) / 1e9,
    }


@functools.lru_cache(maxsize=64)
def of_clip(config: ModelConfig, seconds: float) -> Work:
    """The work of one clip of so many seconds, with all layers of an encoder of speech."""
    one, two = (_counted(config, n, seconds) for n in (1, 2))
    return Work(*(a + (_layers_of(config) - 1) * (b - a) for a, b in zip(one, two, strict=True)))


def _layers_of(config: ModelConfig) -> int:
    return config.n_layers or architectures.config(config.encoder).num_hidden_layers


def weights(config: ModelConfig) -> float:
    """Bytes of weights, and of what belongs to the trained ones: gradients and AdamW's moments."""
    model = _model(config, 1)
    layer = sum(p.numel() for p in model.encoder.stack.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rest = sum(p.numel() for p in model.parameters()) - trained
    n = _layers_of(config)
    fixed = min(config.freeze_layers, n) if config.freeze == "cnn" else n * (config.freeze == "all")
    per_layer = (16 * (n - fixed) + 4 * fixed) * layer
    return 16 * (trained - layer * (config.freeze != "all")) + 4 * rest + per_layer


def _counted(config: ModelConfig, n: int, seconds: float) -> tuple[float, float, float, float]:
    """`Work` with n layers."""
    model, samples = _model(config, n).train(), round(seconds * SAMPLE_RATE)

    def clips(many: int) -> Batch:
        whole, none = torch.full((many,), samples), torch.zeros(many, dtype=torch.int64)
        waves = torch.zeros(many, samples)
        return Batch(waves, whole, none, ["clip"] * many, none, many * seconds)

    one, two = (_kept(model, clips(many)) for many in (1, 2))
    step = speed.count(model, clips(1))
    model.eval()
    return step, _forward_operations(model, clips(1)), two - one, 2 * one - two


def _forward_operations(model: torch.nn.Module, given: object) -> int:
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=speed.FORMULAS)
    with torch.no_grad(), counter:
        model(given)
    return counter.get_total_flops()


def _kept(model: SER, batch: Batch) -> int:
    """Bytes that forward, in bfloat16, keeps for backward beside parameters."""
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with autocast("cpu", "bf16"), hooks:
        outputs = model(batch)  # which holds what was kept, so that no address comes twice
    del outputs
    return sum(kept.values())


@functools.cache
def encoding(name: str) -> float:
    """Operations of a frozen expert per second of audio, of clips of `CLIP` seconds."""
    made, found = architectures.config(name), []
    for n in (1, 2):
        model = architectures.model(architectures.config(name, layers=n)).eval()
        given = {
            "whisper": lambda: torch.zeros(1, made.num_mel_bins, 3000),  # 30 s, whatever the clip
            **dict.fromkeys(checkpoints.TEXT, lambda: torch.full((1, round(CLIP * TOKENS)), 5)),
        }.get(made.model_type, lambda: torch.zeros(1, round(CLIP * SAMPLE_RATE)))()
        found.append(_forward_operations(model, given))
    return (found[0] + (made.num_hidden_layers - 1) * (found[1] - found[0])) / CLIP


def _model(config: ModelConfig, n: int) -> SER:
    """The model with n layers of random weights, all of full width."""
    made = architectures.config(config.encoder, layers=n)
    # A GPU's kernel keeps no weights of attention for dropout, the CPU's does.
    made.update({"apply_spec_augment": False, "layerdrop": 0.0, "attention_dropout": 0.0})
    stock = wav2vec2.Encoder.stock(made)
    encoder = wav2vec2.Encoder(stock, True, masked_group_norm=True, freeze=config.freeze)
    layers = "0" if config.layers.isdigit() else config.layers
    config = replace(config, freeze_layers=0, n_layers=n, layers=layers)
    return SER(config, n_speakers=8, encoder=encoder)
