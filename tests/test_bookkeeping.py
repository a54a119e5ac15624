"""What the loop notes and shows, and how it stops when numbers go wrong."""

from __future__ import annotations

import sys

import pytest
import torch

from serlib.data.batching import Batch
from serlib.training import meter
from serlib.training.loop import fit
from serlib.training.meter import Meter, NonFiniteError, is_watched
from training_toys import (
    Toy,
    assert_same_weights,
    cross_entropy,
    dev_scores,
    open_run,
    scripted,
    settings,
    state_epochs,
    toy_batch,
    toy_batches,
)

pytestmark = pytest.mark.usefixtures("on_cpu")


# ------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_not_finite_names_epoch_step_and_clips(tmp_path):
    def batches(epoch: int) -> list[Batch]:
        bad = toy_batches(epoch)
        if epoch == 2:
            bad[1].inputs[1] = torch.nan
        return bad

    run = open_run(tmp_path)
    keys = toy_batches(2)[1].keys
    with pytest.raises(NonFiniteError, match="loss is nan in epoch 2, step 2") as error:
        fit(Toy(), cross_entropy, batches, dev_scores, settings(), run, progress=False)
    assert error.value.keys == keys and all(key in str(error.value) for key in keys)
    assert state_epochs(run) == 1  # the poisoned weights were not stored
    assert run.history()["epoch"].tolist() == [1]


def test_a_gradient_that_is_not_finite_with_a_loss_that_is():
    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        return cross_entropy(outputs, batch) + (outputs["emotion"] * 0).sum().sqrt()

    with pytest.raises(NonFiniteError, match="gradient norm is nan in epoch 1, step 1"):
        fit(Toy(), loss, toy_batches, dev_scores, settings(), progress=False)


def test_a_long_epoch_is_looked_at_before_its_end(monkeypatch):
    monkeypatch.setattr(meter, "READ_EVERY", 2)
    steps = []

    def loss(outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        steps.append(batch.keys[0])
        return cross_entropy(outputs, batch) * (torch.inf if len(steps) == 3 else 1.0)

    with pytest.raises(NonFiniteError, match="step 3"):
        batches = [toy_batch(i, 1) for i in range(10)]
        fit(Toy(), loss, lambda epoch: batches, dev_scores, settings(), progress=False)
    assert len(steps) == 4


def test_many_utterances_are_counted_instead_of_listed():
    error = NonFiniteError("the loss is nan", [f"k{i}" for i in range(11)])
    assert "k7 and 3 more" in str(error) and "k8" not in str(error) and len(error.keys) == 11


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        fit(Toy(), cross_entropy, lambda epoch: [], dev_scores, settings(), progress=False)


def test_a_generator_trains_like_a_list():
    def generator(epoch: int):
        yield from toy_batches(epoch)

    models = Toy(), Toy()
    for model, batches in zip(models, (toy_batches, generator), strict=True):
        fit(model, cross_entropy, batches, dev_scores, settings(), progress=False)
    assert_same_weights(models[0].state_dict(), models[1].state_dict())


# ------------------------------------------------------------------ numbers and the screen


def test_amounts_of_audio_by_hand():
    meter = Meter(3)
    short = Batch(
        inputs=torch.zeros(2, 4, 3), lengths=torch.tensor([4, 2]), emotion=torch.tensor([0, 1]),
        keys=["a", "b"], index=torch.tensor([0, 1]), seconds=6.0,
    )  # fmt: skip
    meter.add(short, torch.tensor(1.0))  # 6 s in 8 s of input
    meter.add_norm(torch.tensor(0.5))
    meter.add(toy_batch(0, 4, seconds=3.0), torch.tensor(4.0))  # 12 s, no padding
    meter.add_norm(torch.tensor(1.5))
    row = meter.row(lambda part: [part] * 2)  # two processes with the same numbers
    assert row["epoch"] == 3 and row["steps"] == 2 and row["clips"] == 12
    assert row["loss"] == pytest.approx((2 * 1.0 + 4 * 4.0) / 6)
    assert row["gradient_norm"] == 1.0
    assert row["audio_seconds"] == 36.0
    assert row["padding"] == pytest.approx(2 / 20)
    assert row["audio_seconds_per_second"] == pytest.approx(36 / row["train_seconds"])


def test_one_line_per_epoch_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(meter, "is_watched", lambda: False)
    arguments = (Toy(), cross_entropy, toy_batches, scripted([0.25, 0.5, 0.25] * 4))
    fit(*arguments, settings(epochs=12))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[1].startswith("epoch  2/12: loss ") and "dev ua 0.500 (best)" in lines[1]
    assert "(best)" not in lines[2]
    fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    assert capsys.readouterr() == ("", "")


def test_one_bar_where_somebody_watches(capsys, monkeypatch):
    monkeypatch.setattr(meter, "is_watched", lambda: True)
    fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(epochs=2))
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err and "epoch 2/2" in err and err.count("\n") == 1


@pytest.mark.parametrize(("session", "watched"), [("book.ipynb", True), (None, False)])
def test_a_notebook_is_watched_only_if_a_server_opened_it(session, watched, monkeypatch):
    class Shell:
        kernel = object()

    fake = type(sys)("IPython")
    fake.get_ipython = Shell
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert is_watched() is watched


@pytest.mark.parametrize("terminal", [True, False])
def test_outside_notebooks_a_terminal_is_watched(terminal, monkeypatch):
    fake = type(sys)("IPython")
    fake.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert is_watched() is terminal
