"""Trackers see every epoch, by way of accelerate, and change nothing."""

from __future__ import annotations

import json

import pytest
from accelerate.tracking import GeneralTracker, on_main_process

from serlib import records
from serlib.training import trackers
from serlib.training.loop import fit
from training_toys import (
    Toy,
    assert_same_weights,
    cross_entropy,
    dev_scores,
    open_run,
    settings,
    toy_batches,
)

pytestmark = pytest.mark.usefixtures("on_cpu")
SEEN: list[tuple] = []


class Notebook(GeneralTracker):
    """A tracker of one's own."""

    name = "notebook"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, run_name: str) -> None:
        super().__init__()
        SEEN.append(("init", run_name))

    @property
    def tracker(self) -> list:
        return SEEN

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        SEEN.append(("config", values))

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_) -> None:
        SEEN.append(("log", step, values))

    @on_main_process
    def finish(self) -> None:
        SEEN.append(("finish",))


def test_off_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("SERLIB_TRACKER", raising=False)
    assert trackers.arguments(open_run(tmp_path)) == {}


def test_a_tracker_sees_the_rows_of_the_log_and_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("SERLIB_TRACKER", raising=False)
    plain, tracked = Toy(dropout=0.3), Toy(dropout=0.3)
    config = settings(epochs=2, patience=None)
    fit(plain, cross_entropy, toy_batches, dev_scores, config, progress=False)
    SEEN.clear()
    module = "tracker_of_the_test"
    monkeypatch.setitem(__import__("sys").modules, module, __import__("types").SimpleNamespace(
        Notebook=Notebook))  # fmt: skip
    monkeypatch.setenv("SERLIB_TRACKER", f"{module}:Notebook")
    run = open_run(tmp_path)
    fit(tracked, cross_entropy, toy_batches, dev_scores, config, run, progress=False)
    assert_same_weights(plain.state_dict(), tracked.state_dict())
    kinds = [entry[0] for entry in SEEN]
    assert kinds == ["init", "config", "log", "log", "finish"]
    assert SEEN[0][1] == "run" and SEEN[1][1]["lr_head"] == config.lr_head
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(entry[1], entry[2]) for entry in SEEN[2:4]] == [(row["epoch"], row) for row in rows]


def test_names_that_cannot_be_used_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SERLIB_TRACKER", "tensorbord")
    with pytest.raises(trackers.TrackerError, match="'tensorbord': it is none of .*tensorboard"):
        fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(), progress=False)
    monkeypatch.setenv("SERLIB_TRACKER", "wandb")
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with pytest.raises(trackers.TrackerError, match="install it .pip install wandb"):
        trackers.arguments(open_run(tmp_path))


def test_tensorboard_writes_beside_the_runs(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("SERLIB_TRACKER", "tensorboard")
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    run = open_run(tmp_path / "runs")
    fit(Toy(), cross_entropy, toy_batches, dev_scores, settings(epochs=1), run, progress=False)
    folder = records.home() / "trackers" / "run"
    assert [*folder.rglob("events.out.tfevents.*")]
