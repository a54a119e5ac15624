"""What can be computed of a paper's formulas without any data: the proofs of the claims ledger.

Each function returns whether the paper's statement holds, and the numbers that show it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable

import numpy as np
import torch

from serlib.losses import contrastive, regression
from serlib.metrics import measures
from serlib.models.encoders.checkpoints import DEMO

Proof = tuple[bool, str]


def micro_f1_differs() -> Proof:
    """Whether F1-micro can differ from accuracy with one label and one decision per utterance."""
    rng, far = np.random.default_rng(0), 0.0
    for _ in range(100):
        cm = rng.integers(0, 50, (8, 8))
        right, wrong = np.trace(cm), cm.sum() - np.trace(cm)
        # Every error is a false positive of one class and a false negative of another.
        far = max(far, abs(2 * right / (2 * right + wrong + wrong) - measures.wa(cm)))
    return far > 1e-12, f"largest difference on 100 random confusion matrices: {far:.1g}"


def swfc_uses_pairs() -> Proof:
    """Whether SWFC as printed tells positive pairs from negative ones (equal class weights)."""
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    label = torch.arange(16) % 4
    changed = {}
    for form in ("printed", "original"):
        # Two partitions of the utterances into four classes of four.
        values = [
            contrastive.swfc(features, y, torch.ones(4), form=form)
            for y in (label, label.sort()[0])
        ]
        changed[form] = abs(float(values[0] - values[1]))
    text = ", ".join(f"{form} form {value:.2g}" for form, value in changed.items())
    return changed["printed"] > 1e-6, f"change of the loss when the labels are dealt anew: {text}"


def swfc_focuses() -> Proof:
    """Whether SWFC as printed pulls at a pair the harder, the farther apart it is (γ = 2.4).

    A positive pair's term is -(1 - p)^γ log p in the cited form, -p (1 - p)^γ in the printed one.
    """
    p = torch.tensor([0.001, 0.1], dtype=torch.float64, requires_grad=True)
    terms = {"printed": -p * (1 - p) ** 2.4, "cited": -((1 - p) ** 2.4) * p.log()}
    # d/ds of a softmax: dp/ds = p (1 - p), so a pair at p pulls with |dL/dp| p (1 - p).
    pull = {
        k: (torch.autograd.grad(v.sum(), p)[0] * p * (1 - p)).abs().tolist()
        for k, v in terms.items()
    }
    text = ", ".join(f"{k} {a:.3f} and {b:.3f}" for k, (a, b) in pull.items())
    return pull["printed"][0] > pull["printed"][1], f"pull of a pair at p = 0.001 and 0.1: {text}"


def cnn_upsamples() -> Proof:
    """Whether WavLM's convolutional encoder gives more frames than there are samples."""
    strides = json.loads((DEMO / "demo-wavlm" / "config.json").read_text(encoding="utf-8"))[
        "conv_stride"
    ]
    step = math.prod(strides)
    published = math.prod((5, 2, 2, 2, 2, 2, 2))  # of every WavLM, Chen et al. 2022
    text = f"one frame for {published} samples, and for {step} in the demo's WavLM"
    return min(step, published) < 1, text


def penalty_falls_off() -> Proof:
    """Whether the Gaussian (σ = 1) weighs a given error most where the prediction is the mean."""

    def cost(predicted: float, truth: float) -> float:
        return float(regression.gaussian_mse(torch.tensor([[predicted]]), torch.tensor([[truth]])))

    costs = [cost(y, y + 2) for y in (4.0, 5.0, 2.0)]
    text = ", ".join(
        f"{c:.2f} at a prediction of {y}" for c, y in zip(costs, (4, 5, 2), strict=True)
    )
    far = f"{cost(3.0, 4.0):.2f} at a prediction of 3 and {cost(7.0, 4.0):.2f} at 7"
    return costs[0] == max(costs), f"an error of 2 costs {text}; but a truth of 4 costs {far}"


_KNOWN = (micro_f1_differs, swfc_uses_pairs, swfc_focuses, cnn_upsamples, penalty_falls_off)
PROOFS: dict[str, Callable[[], Proof]] = {f.__name__: functools.cache(f) for f in _KNOWN}
# Proofs from the paper's own formulas: where they fail, the paper contradicts itself.
OF_THE_PAPER = frozenset(PROOFS) - {"cnn_upsamples"}
