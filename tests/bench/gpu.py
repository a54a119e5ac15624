"""What only a GPU can tell, in one run of a few minutes: `python -m tests.bench gpu`.

Which kernel the attention takes, how far bfloat16 moves the losses, then the tables of `train`:
this loop against the Trainer, and each switch off, with the share of the peak and memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend

from serlib.data.batching import DurationBatchSampler
from serlib.models.encoders import wavlm
from serlib.models.recognizer import SER
from tests.bench import contenders, train


def kernels(setup: train.Setup) -> Counter[str]:
    """How often a forward pass in training takes which kernel of torch's attention."""
    (_, config), found = setup.recipe(), Counter()
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, attn_mask=None, dropout_p=0.0, **rest):
        chosen = torch._fused_sdp_choice(q, k, v, attn_mask, dropout_p, False)
        found[SDPBackend(chosen).name.lower()] += 1
        return attend(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, **rest)

    model = setup.make().to(setup.device).train()
    with mock.patch.object(wavlm.functional, "scaled_dot_product_attention", noted):
        next(losses(model, setup, config.precision))
    return found


def losses(model: SER, setup: train.Setup, precision: str) -> Iterator[float]:
    """The loss of each batch of the setup's clips, one after the other, without a step."""
    clips = setup.clips(model.encoder.prepare)
    sampler = DurationBatchSampler(clips.durations, budget_seconds=setup.budget, seed=0)
    for batch in clips.batches(sampler.epoch(0), contenders.QUANTUM):
        with torch.no_grad(), contenders.autocast(setup.device, precision):
            outputs = model(batch.to(setup.device))
        logits = contenders.to_float32(outputs)["emotion"]
        yield float(torch.nn.functional.cross_entropy(logits, batch.emotion.to(logits.device)))


def precisions(setup: train.Setup) -> pd.DataFrame:
    """Losses of the same batches, without dropout, in float32 and in bfloat16."""
    model = setup.make().to(setup.device).eval()
    found = {name: np.array([*losses(model, setup, name)]) for name in ("fp32", "bf16")}
    off = np.abs(found["bf16"] - found["fp32"])
    row = {"batches": len(off), "mean loss": found["fp32"].mean(), "largest difference": off.max()}
    return pd.DataFrame(row, index=["bf16 against fp32"])


def run(setup: train.Setup) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables, each as soon as it is there."""
    found = pd.DataFrame(kernels(setup), index=["calls"]).T
    yield "Kernels of the attention", found.rename_axis("kernel")
    yield "Precision", precisions(replace(setup, seconds=min(setup.seconds, 400.0)))
    yield "This loop and others", train.compare(setup)
    yield "Switches", train.ablate(setup)
