"""`python -m tests.bench lora`: what is compared, and the tables that are made of finished runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serlib.experiments.runs import Runs
from tests.bench import __main__ as bench
from tests.bench import lora

CLIPS = 60  # of six talkers and three classes


class Done:
    """A finished run whose first clips are right, for so many seconds in two epochs."""

    def __init__(self, right: int, seconds: float) -> None:
        self.right, self.seconds = right, seconds

    def history(self) -> pd.DataFrame:
        return pd.DataFrame({"train_seconds": [self.seconds / 2] * 2})

    def predictions(self, role: str) -> pd.DataFrame:
        place = np.arange(CLIPS)
        truth = place % 3
        guess = np.where(place < self.right + (role == "dev"), truth, (truth + 1) % 3)
        talker = [f"talker-{i % 6}" for i in place]
        table = {"truth": truth, "prediction": guess, "speaker": talker}
        return pd.DataFrame(table, index=[f"clip-{i}" for i in place])


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Full tuning with 30 and 36 of 60 right, all others with 36 and 42 in half the time."""
    asked = lora.asked("smoke", 2)
    done = []
    for recipe in asked:
        full = recipe.name == lora.FULL
        right = 30 + 6 * recipe.seed + (0 if full else 6)
        done.append(Done(right, (8.0 if full else 4.0) + 2 * recipe.seed))
    return Runs(tuple(asked), tuple(done))


def test_only_the_adapters_and_their_rate_differ_from_full_tuning():
    full, *adapted, shipped = lora.variants("demo")
    assert (full.model.lora, full.model.freeze, full.model.freeze_layers) == (0, "cnn", 0)
    assert full.model.n_layers == shipped.model.n_layers == 3 and shipped.model.freeze_layers == 2
    found = [(r.model.lora, round(r.train.lr_encoder / full.train.lr_encoder, 6)) for r in adapted]
    assert found == [(4, 1), (4, 3), (16, 1), (16, 3)]
    rate = full.train.lr_encoder
    for recipe in adapted:
        assert recipe.change(name=full.name, lora=0, lr_encoder=rate) == full
    assert shipped.change(name=full.name, freeze_layers=0) == full
    assert [r.train.epochs for r in lora.variants("demo", epochs=7)] == [7] * 6


def test_every_variant_has_every_seed():
    asked = lora.asked("smoke", 2)
    assert [r.seed for r in asked] == [0, 1] * 6 and len({r.name for r in asked}) == 6
    with pytest.raises(ValueError, match="seeds=0"):
        lora.asked("smoke", 0)


def test_costs_by_hand(runs):
    table = lora.costs(runs)
    width, layers = 144, 3
    four = table.loc["LoRA of rank 4, rate x 3"]
    trained = 4 * width * 4 * layers  # A and B, of the query and of the value
    assert four["trained in the encoder"] == f"{trained:,d}" and four["runs"] == 2
    heads = 1e6 * four["MB to keep"] / 4 - trained
    full = table.loc[lora.FULL]
    assert 1e6 * full["MB to keep"] / 4 - heads == int(
        full["trained in the encoder"].replace(",", "")
    )
    whole, _, _ = lora.trained_parameters(runs.recipes[0])
    assert four["share"] == f"{trained / whole:.1%}"
    assert 0.5 < float(full["share"].rstrip("%")) / 100 < 1  # the CNN is frozen
    assert full["training s"] == "9.00 [8.00, 10.00]" and full["time"] == "1.00 x"
    assert four["time"] == f"{5 / 9:.2f} x"


def test_scores_and_their_differences_to_full_tuning(runs):
    table = lora.scores(runs)
    assert list(table.columns[:3]) == ["WA", "UA", "macro-F1"]
    full, shipped = table.loc[lora.FULL], table.loc[lora.SHIPPED]
    assert full["WA"].startswith("0.550 [") and shipped["WA"].startswith("0.650 [")
    assert (
        shipped["WA, difference"] == "0.100 (cannot tell: no spread)"
        and full["WA, difference"] == "–"
    )
    assert lora.scores(runs, "dev").loc[lora.FULL, "WA"].startswith("0.567 [")  # one more is right


@pytest.mark.slow
def test_the_command_trains_and_prints(capsys, own_home, on_cpu):
    arguments = ["lora", "--profile", "smoke", "--seeds", "1", "--workers", "1"]
    bench.main([*arguments, "--markdown"])
    shown = capsys.readouterr().out
    for words in ("| all layers | 1 |", "LoRA of rank 16", ": dev**", ": test**", "date"):
        assert words in shown
    assert len(list((own_home / "runs").glob("fine-tune-*/status.json"))) == 6
