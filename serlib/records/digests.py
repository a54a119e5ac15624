"""What goes into a record, in plain values: settings, digests of them and of files, a machine."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np

PACKAGES = tuple(
    "serlib numpy scipy pandas scikit-learn soundfile torch torchaudio transformers accelerate "
    "peft safetensors".split()
)


class RecordError(ValueError):
    """A run folder, or what was to be written into it, is not as it must be."""


def plain(obj: Any, *, exact: bool = False, where: str = "value") -> Any:
    """Turn dataclasses, mappings, sequences, paths and NumPy scalars into what JSON can hold.

    NaN and infinities, which JSON has not, become None, or a `RecordError` if `exact`. Any other
    type is a TypeError; messages call the place `where`.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        obj = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    if isinstance(obj, np.generic):
        obj = obj.item()
    if isinstance(obj, float) and not math.isfinite(obj):
        if exact:
            raise RecordError(f"{where} is {obj}: only finite numbers can name a run")
        return None
    if obj is None or isinstance(obj, (bool, int, float, str)):
        return obj
    if isinstance(obj, PurePath):
        return obj.as_posix()
    if isinstance(obj, (list, tuple)):
        return [plain(v, exact=exact, where=f"{where}[{i}]") for i, v in enumerate(obj)]
    if not isinstance(obj, Mapping):
        raise TypeError(f"{where} is a {type(obj).__name__}, not JSON: use .tolist() or str()")
    if odd := [key for key in obj if not isinstance(key, str)]:
        raise TypeError(f"{where} has the key {odd[0]!r}: use strings as keys")
    return {k: plain(v, exact=exact, where=f"{where}.{k}") for k, v in obj.items()}


def digest(obj: Any, n: int = 12) -> str:
    """Hash a value so that equal settings get equal names, in any process and on any machine.

    The order of keys does not count, nor whether a sequence is a list or a tuple, a path a
    string, or a mapping a dataclass: a configuration read back from JSON keeps its digest.
    The types of numbers do count: 1, 1.0 and True differ. NaN, infinities and types that `plain`
    does not know are refused. Of the SHA-256, `n` hexadecimal digits are kept: with 12, a
    collision becomes likely after 10^7 runs.

    >>> digest({"lr": 1e-4, "seed": 0}) == digest({"seed": 0, "lr": 0.0001})
    True
    >>> digest([1, 2]), digest([2, 1])
    ('49a64717d5d4', 'af1a1fc110b6')
    """
    text = json.dumps(plain(obj, exact=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:n]


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file; one that did not change is read once per process."""
    about = os.stat(path)
    return _sha256(os.fspath(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@functools.lru_cache(maxsize=2**14)
def _sha256(path: str, *stamp: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, Any]:
    """What a reader needs to explain a different number: versions, platform, device."""
    import torch  # here, so that importing records stays quick

    installed = {name: _version(name) for name in PACKAGES}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": installed,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": ", ".join(gpus) or "CPU",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
