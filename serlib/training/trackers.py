"""Epochs shown in TensorBoard, Weights & Biases or MLflow, by way of accelerate; off by default.

    SERLIB_TRACKER=tensorboard serlib train cai2021 ...
    tensorboard --logdir ~/.cache/serlib/trackers

`$SERLIB_TRACKER` is a comma-separated list of "tensorboard", "wandb", "mlflow" and other names that
accelerate knows, or "package.module:Class" of a `GeneralTracker` of your own, which is made with
the run's name. A tracker sees what the run's own log gets and decides nothing: it is not in the
run's hash.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from serlib import records

PROJECT = "serlib"


class TrackerError(ValueError):
    """A tracker that cannot be used; the message names the fix."""


def asked() -> list[str]:
    """The names in `$SERLIB_TRACKER`."""
    return os.environ.get("SERLIB_TRACKER", "").replace(",", " ").split()


def name_of(run: records.Run | None) -> str:
    """What trackers call a run: as its folder."""
    return run.path.name if run else "unnamed"


def arguments(run: records.Run | None) -> dict[str, Any]:
    """What an Accelerator is given so that it tracks: nothing unless somebody asked.

    Raises:
        TrackerError: A name that nobody knows, or whose package is not installed.
    """
    if not (names := asked()):
        return {}
    folder = records.home() / "trackers" / name_of(run)
    return {"log_with": [_tracker(name, run) for name in names], "project_dir": folder}


def _tracker(name: str, run: records.Run | None) -> str | GeneralTracker:
    if ":" in name:
        module, _, own = name.partition(":")
        return getattr(importlib.import_module(module), own)(name_of(run))
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))
        raise TrackerError(f"SERLIB_TRACKER={name!r}: it is none of {known}")
    if name not in get_available_trackers():  # accelerate would pass it over in silence
        raise TrackerError(f"SERLIB_TRACKER={name!r}: install it (pip install {name})")
    return name


def start(
    accelerator: Accelerator, run: records.Run | None, setup: dict
) -> Callable[[dict[str, float]], None]:
    """Begin; returns what takes each epoch's row, which does nothing unless somebody asked."""
    if not accelerator.log_with:
        return lambda row: None
    name = name_of(run)
    called = {"wandb": {"name": name, "resume": "allow", "id": name}, "mlflow": {"run_name": name}}
    accelerator.init_trackers(PROJECT, config=records.plain(setup), init_kwargs=called)
    return lambda row: accelerator.log(records.plain(row), step=row["epoch"])


def finish(accelerator: Accelerator) -> None:
    """End what `start` began; `Accelerator.end_training` would part the processes too."""
    if accelerator.log_with and accelerator.is_main_process:
        for tracker in accelerator.trackers:
            tracker.finish()
