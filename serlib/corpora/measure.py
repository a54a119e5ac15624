"""What only the audio files tell: hash, container, rate, channels, length, and whether they decode.

What was measured is kept under `records.home()` by path, size and time of change, so a build that
was interrupted, or is repeated after files were added, measures the rest only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from serlib import records
from serlib.data import decoding, manifest, stores, tables

SAVE_EVERY = 30.0  # seconds between two writings of what was measured
SILENT = 1e-4  # a peak below -80 dB relative to full scale: nothing was recorded
TOO_SHORT, TOO_LONG = 0.5, 60.0  # seconds; our choice: flags for the reader, not exclusions
MEASURED = 2  # which way of measuring: what was measured another way is not read
FACTS = ("sha256", "bytes", "container", "sample_rate", "channels", "num_frame", "peak", "error")


def measure(
    root: Path,
    wavs: Sequence[str],
    *,
    verify: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure files of a corpus, by their paths from `root`; repeated ones are measured once.

    Without `verify` files are neither hashed nor decoded, only their headers are read: `sha256` and
    `peak` stay missing. `workers` are threads; None takes one per core.

    Returns:
        One row per different path, the index, with columns `FACTS`: bytes of the file, rate in Hz,
        peak in 0..1 of full scale; `error` says why a file cannot be used, else it is None.
    """
    wavs = list(dict.fromkeys(wavs))
    memory = _memory(root, verify)
    try:  # wav -> size, times of change in ns, and `FACTS`
        known = dict(records.read_json(memory))
    except (OSError, ValueError, TypeError):  # it only saves time
        known = {}
    rows, fresh, saved = [], {}, time.monotonic()
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = pool.map(functools.partial(_one, root, known, verify), wavs)
        bar = tqdm(found, "measure", len(wavs), unit="file", disable=not progress)
        try:
            for wav, (stamp, row) in zip(wavs, bar, strict=True):
                rows.append(row)
                if stamp and known.get(wav) != [*stamp, *row]:
                    fresh[wav] = [*stamp, *row]
                if fresh and time.monotonic() - saved > SAVE_EVERY:
                    _keep(memory, known | fresh)
                    saved = time.monotonic()
        except BaseException:  # Ctrl-C: do not measure the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if fresh:
                _keep(memory, known | fresh)
    return pd.DataFrame(rows, columns=list(FACTS), index=pd.Index(wavs, name="wav"), dtype=object)


def _memory(root: Path, verify: bool) -> Path:
    name = hashlib.sha256(f"{root}\n{verify}\n{MEASURED}".encode()).hexdigest()[:16]
    return records.home() / "measured" / f"{name}.json"


def _keep(memory: Path, content: dict) -> None:
    """Save what was measured, if the home can be written; the measuring itself is not in vain."""
    try:
        records.atomic_write(memory, json.dumps(content))
    except OSError as error:
        warnings.warn(f"what was measured is not kept for the next time: {error}", stacklevel=3)


def _one(root: Path, known: dict, verify: bool, wav: str) -> tuple[list | None, list]:
    """The stamp and the facts of one file; without a stamp nothing is remembered."""
    try:
        path = manifest.resolve(root, wav)
    except tables.ManifestError as error:
        return None, _failed(str(error))
    if not (stamp := [*stores.stamp(path)]):
        return None, _failed("there is no such file")
    if wav in known and known[wav][:3] == stamp:
        return stamp, known[wav][3:]
    try:
        return stamp, _facts(path, verify)
    except decoding.ForeignError as error:
        where = shlex.join(["--root", str(root), "--to", f"{root}-sound"])
        return stamp, _failed(f"{error}: pull the sound out with serlib manifest extract {where}")
    except decoding.AudioError as error:
        return stamp, _failed(str(error))
    except OSError as error:  # a disk that fails today may work tomorrow
        return None, _failed(f"cannot be read ({error.strerror or error})")


def _failed(why: str) -> list:
    return [*[None] * (len(FACTS) - 1), why]


def _facts(path: Path, verify: bool) -> list:
    sha256, peak = None, None
    with path.open("rb", buffering=0) as raw:
        if verify:
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
        with decoding.opened(raw) as sound:
            file, frames = sound.file, sound.frames
            if verify or frames is None:
                wave = decoding.decode(sound)
                frames, peak = len(wave), float(np.abs(wave).max())
            size, rate = path.stat().st_size, file.samplerate
            return [sha256, size, sound.kind, rate, file.channels, frames, peak, None]


def compare(table: pd.DataFrame, root: Path, *, progress: bool = True) -> list[str]:
    """List the files of a manifest, below `root`, that cannot be used or are not those it is of.

    Each is measured, unless that was done and it has not changed since. Where the manifest has no
    sha256, sizes are compared.
    """
    rows = table.drop_duplicates("wav").set_index("wav")
    facts = measure(Path(root).resolve(), rows.index.tolist(), progress=progress)
    whys = [
        fact["error"] or stores.replaced(row, fact["bytes"], lambda sha=fact["sha256"]: sha)
        for row, fact in zip(rows.to_dict("records"), facts.to_dict("records"), strict=True)
    ]
    return [f"{wav} {why}" for wav, why in zip(rows.index, whys, strict=True) if why]


def flags(facts: pd.DataFrame, length: pd.Series) -> list[list[str]]:
    """The flags that the audio tells, per row of `facts` (index wav), with lengths in seconds."""
    aiff = [kind == "aiff" and wav.endswith(".wav") for wav, kind in facts["container"].items()]
    columns = zip(facts["peak"], facts["channels"], aiff, length, strict=True)
    return [
        ["no_audio"] * (peak is not None and peak < SILENT)
        + ["stereo"] * (channels > 1)
        + ["aiff_in_wav"] * disguised
        + ["too_short"] * (seconds < TOO_SHORT)
        + ["too_long"] * (seconds > TOO_LONG)
        for peak, channels, disguised, seconds in columns
    ]
