"""The loops that losses are timed against give the same numbers; nothing is asserted about time."""

from __future__ import annotations

import pytest
import torch

from serlib.losses import contrastive
from serlib.losses.ctc import ctc_loss
from tests.bench import losses

SMALL = {"n_frames": 24, "width": 12}


@pytest.mark.parametrize("n_clips", [2, 7, 20])
@pytest.mark.parametrize("name", ["SWFC", "CTC", "statistics pooling"])
def test_loops_give_what_the_batched_versions_give(name, n_clips):
    x, *versions = losses.cases(n_clips, **SMALL)[name]
    found = []
    for version in versions:
        x.grad = None
        value = version()
        value.backward()
        found.append((value.detach(), x.grad.clone()))
    (value, gradient), (other, its) = found
    torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, its, rtol=1e-4, atol=1e-5)
    assert gradient.any() or (name, n_clips) == ("SWFC", 2)  # two classes: no positives


def test_loops_decide_the_degenerate_cases_alike():
    """No positives, no labels, no transcript that fits: 0, with a zero gradient."""
    z = torch.randn(3, 4, requires_grad=True)
    for target in ([0, 1, 2], [-100] * 3, [0, 0, -100]):
        arguments = z, torch.tensor(target), torch.ones(3)
        torch.testing.assert_close(losses.swfc_by_sample(*arguments), contrastive.swfc(*arguments))
    x, lengths = torch.randn(3, 5, 4), torch.tensor([5, 3, 4])
    tokens = torch.tensor([[1, 1, 2], [1, 2, 3], [3, 3, 3]])
    for n_tokens in ([3, 3, 3], [0, 3, 0], [0, 0, 0], [1, 0, 3]):
        arguments = x, lengths, tokens, torch.tensor(n_tokens)
        torch.testing.assert_close(losses.ctc_by_clip(*arguments), ctc_loss(*arguments))


def test_the_table():
    table = losses.run(repeats=1, sizes=(2, 3), **SMALL)
    assert list(table.columns) == ["clips", "batched ms", "loop ms", "ratio"]
    assert len(table) == 6 and (table > 0).all(axis=None)
    assert (table["ratio"] - table["loop ms"] / table["batched ms"]).abs().max() < 1e-9
    with pytest.raises(ValueError, match="at least once"):
        losses.run(repeats=0)
