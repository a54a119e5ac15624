"""Run folders: what a run was asked to do, what it did, and whether it finished.

A run is a folder named by a hash of everything that decides its result. Each file appears whole
or not at all and ``status.json`` comes last, so a folder left by a killed process is never taken
for a finished run, and asking for the same run again either reads it or completes it.

    <key>/config.json  environment.json  metrics.jsonl  predictions_<split>.csv
          checkpoint/  model.safetensors  status.json

A finished run's ``status.json`` is its seal: the SHA-256 of each other file, and of what it says
itself. Whoever reads a result checks it, so that no file that was changed, or put there, is taken
for a result.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import platformdirs

from serlib.records.digests import RecordError, digest, environment, plain, sha256

# The folders that decide a result: their source is in the name of every run, comments too. That is
# the price of never reading a result that today's code would not give. What makes manifests and
# weights (`corpora`) is not among them: those have digests of their own.
DECIDING = tuple("losses metrics data models tasks training recipes experiments".split())
CHANGED = "is not as when the run finished: delete the folder, run its recipe again"
PATIENCE = 60  # seconds that a page of the book waits for another process without a word
log = logging.getLogger(__name__)


class DamagedError(RecordError):
    """A finished run's files are not those that it was finished with."""


def home() -> Path:
    """The folder of all that is made on this machine: ``$SERLIB_HOME``, else the user's cache."""
    if chosen := os.environ.get("SERLIB_HOME"):
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("serlib", appauthor=False))


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file so that a reader, at any time, sees the old content or the new, never a part.

    The bytes reach the disk under another name in the same folder, which is created, before the
    rename. A process killed in between leaves that hidden file, which `Run.lock` sweeps. An OSError
    names the path, whatever refused the write.
    """
    path = Path(path)
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError as error:
            odd = ascii(data[error.start])
            raise RecordError(f"{path} cannot hold {odd}: rename what has it") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, and a result folder is often shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def source_digest(folders: Iterable[str] = DECIDING, *, package: Path | None = None) -> str:
    """Hash the source files that decide a result: change one byte and every run is a new run.

    All Python files below the folders count, by content: a file that is moved or renamed, with no
    byte of any file changed, leaves the digest as it is.

    Args:
        folders: Below the package, such as "data" or "models/encoders".
        package: The package's folder; None takes this one.

    Raises:
        RecordError: A folder has no Python file.
    """
    if isinstance(folders, str):
        raise TypeError(f"folders is a string: pass a tuple, ({folders!r},)")
    found = {}
    for folder in folders:
        there = Path(package or Path(__file__).parents[1], folder)
        files = {
            path: hashlib.sha256(path.read_bytes()).hexdigest() for path in there.rglob("*.py")
        }
        if not files:
            raise RecordError(f"{there} has no Python file: correct the name of the folder")
        found |= files
    return hashlib.sha256("".join(sorted(found.values())).encode()).hexdigest()[:12]


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write strict JSON atomically; see `plain`."""
    atomic_write(path, json.dumps(plain(obj), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; a `RecordError` names it if it holds something else."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} does not hold JSON ({error}): delete it") from error


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder, `path`.

    Ask, work and finish like this; a second process that asks for the same run meanwhile waits
    at `lock` and then finds it done::

        run = Run.open(root, config)
        with run.lock():
            if not run.done:
                run.finish(train(config))
        return run.summary
    """

    path: Path

    @classmethod
    def open(cls, root: str | os.PathLike, config: Any, *, key: str | None = None) -> Run:
        """Find or create the folder of a run.

        Args:
            root: The folder of all runs.
            config: What the run is to do, kept for readers; see `plain`.
            key: Name of the folder, made of all that decides the result. None takes the digest of
                `config` and of the package's source.
        """
        key = digest([config, source_digest()]) if key is None else key
        if not re.fullmatch(r"\w[\w.=+-]{0,199}", key, re.ASCII):
            raise RecordError(f"the key {key!r} is no file name: letters, digits and _.=+- only")
        run, config = cls(Path(root) / key), plain(config)
        if os.path.lexists(run.path) and not run.path.is_dir():
            raise RecordError(f"{run.path} is no folder: move it away, run the recipe again")
        if not (run.path / "config.json").exists() and not run.done:
            with suppress(FileNotFoundError):  # who holds the lock took it for a killed writer's
                write_json(run.path / "config.json", config)
        if run.config != config:
            raise RecordError(
                f"{run.path} has another config.json: delete the folder, run its recipe again"
            )
        return run

    @property
    def config(self) -> Any:
        """What the run was asked to do."""
        return read_json(self.checked("config.json"))

    @property
    def status(self) -> dict[str, Any]:
        """Under "state": "done", "failed", or "unfinished" (not started, at work, or killed).

        What is no such status, as a disk that lost power may leave it, counts as unfinished, with
        the reason under "error".

        Raises:
            DamagedError: A finished run's status was changed, so that it does not fit its seal.
        """
        path = self.path / "status.json"
        if not os.path.lexists(path):
            return {"state": "unfinished"}
        try:
            status = read_json(path)
        except (RecordError, FileNotFoundError, IsADirectoryError):
            status = None
        state = status.get("state") if isinstance(status, dict) else None
        if state == "done" and "seal" in status:
            if status["seal"] != _seal(status):
                raise DamagedError(f"{self.path}: status.json {CHANGED}")
        elif state != "failed":
            return {"state": "unfinished", "error": "its status.json is no finished run's"}
        return status

    def checked(self, *names: str) -> Path:
        """The path of the last of these files, which are, of a finished run, as it was sealed with.

        No names are all files but the weights, which are checked where they are used.

        Raises:
            DamagedError: A file is missing, another one, or came later; the message says which.
        """
        files = (status := self.status).get("files", {"config.json": ""})
        names = names or tuple(name for name in files if not name.endswith(".safetensors"))
        for name in names if status["state"] == "done" else ():
            path = self.path / name
            if (sha256(path) if path.is_file() else None) != files.get(name):
                raise DamagedError(f"{self.path}: {name} {CHANGED}")
        return self.path / names[-1]

    @property
    def done(self) -> bool:
        """Whether the run finished."""
        return self.status["state"] == "done"

    @property
    def summary(self) -> dict[str, Any]:
        """What `finish` was given, None for NaN; a `RecordError` tells why there is none."""
        status = self.status
        if status["state"] != "done":
            why = f"{status['state']} {status.get('error', '')}".strip()
            raise RecordError(f"{self.path} is {why}: run its recipe again")
        return status["summary"]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process, waiting while another holds it (not if that is killed).

        On entry, what killed writers left is swept and a failed run becomes unfinished. An error
        inside is recorded as the reason of the failure, and raised; Ctrl-C is no failure.
        """
        guard = self._acquire()
        try:
            for leftover in self.path.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            if not self.done:
                (self.path / "status.json").unlink(missing_ok=True)
                write_json(self.path / "environment.json", environment())
            yield
        except Exception as error:
            if not self.done:
                self._end("failed", {"error": f"{type(error).__name__}: {error}"[:2000]})
            raise
        finally:
            guard.release()

    def _acquire(self) -> filelock.BaseFileLock:
        # A singleton, so that nested use in one thread does not wait for itself forever.
        guard = filelock.FileLock(self.path / ".lock", is_singleton=True)
        try:  # that it waited a little, a page of the book need not say
            guard.acquire(timeout=PATIENCE if os.environ.get("TQDM_DISABLE") else 0)
        except filelock.Timeout:
            log.warning("%s: another process is working on this run, waiting for it", self.path)
            guard.acquire()
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        return guard

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as done, the last thing that is written; `summary` is read back as is.

        The run is sealed: its status holds the SHA-256 of each file in its folder.
        """
        kept = (p.name for p in self.path.iterdir() if p.is_file() and p.name[0] != ".")
        self._end("done", {"summary": plain(summary)}, {*kept} - {"status.json"})

    def _end(self, state: str, status: dict[str, Any], files: Iterable[str] = ()) -> None:
        status = {"state": state, "ended": datetime.now(UTC).isoformat(), **status}
        if files:
            sums = {name: sha256(self.path / name) for name in files}
            status["files"] = status.get("files", {}) | sums
            status["seal"] = _seal(status)
        write_json(self.path / "status.json", status)

    def _lines(self) -> list[bytes]:
        """The complete lines of metrics.jsonl; a killed writer's last line has no newline."""
        path = self.path / "metrics.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def log(self, **row: Any) -> None:
        """Append a row to metrics.jsonl and see it to the disk, over a half-written last line."""
        with open(self.path / "metrics.jsonl", "ab") as file:
            file.truncate(sum(len(kept) + 1 for kept in self._lines()))
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def relog(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Let metrics.jsonl hold these rows: those up to the checkpoint that is continued."""
        atomic_write(self.path / "metrics.jsonl", b"".join(map(_line, rows)))

    def history(self) -> pd.DataFrame:
        """The rows that were logged, in order; numbers that were not finite are NaN."""
        self.checked("metrics.jsonl")
        try:
            rows = [dict(json.loads(line)) for line in self._lines()]
        except (ValueError, TypeError) as error:
            raise RecordError(f"{self.path}: metrics.jsonl is damaged ({error})") from error
        return pd.DataFrame([{k: math.nan if v is None else v for k, v in r.items()} for r in rows])

    def save_predictions(self, split: str, df: pd.DataFrame) -> None:
        """Write predictions_<split>.csv, which `predictions` reads back exactly.

        The index `key` holds unique strings, the columns numbers, booleans or strings. Floats come
        back as float64, which holds every narrower one exactly. A finished run is sealed anew.
        """
        kinds = {name: _kind(f"column {name!r}", df[name]) for name in df.columns}
        if df.index.name != "key" or not df.index.is_unique or _kind("key", df.index) != "str":
            raise RecordError("predictions need an index named 'key' of unique strings")
        # All strings in quotes: otherwise a carriage return inside one would end the row.
        style = {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n", "na_rep": "nan"}
        write_json(self.path / f"predictions_{split}.types.json", kinds)
        atomic_write(self.path / f"predictions_{split}.csv", df.astype(kinds).to_csv(**style))
        if (status := self.status)["state"] == "done":
            names = (f"predictions_{split}.types.json", f"predictions_{split}.csv")
            self._end("done", status, names)

    def predictions(self, split: str) -> pd.DataFrame:
        """Read what `save_predictions` wrote."""
        path = self.path / f"predictions_{split}.csv"
        self.checked(path.name, path.with_suffix(".types.json").name)
        if not path.exists():
            raise RecordError(f"{path} is not there: the run has no predictions for {split!r}")
        kinds = read_json(path.with_suffix(".types.json"))
        # Floats by way of text: Python reads back exactly what it printed, pandas 2 may not.
        as_read = {name: "str" if kind == "float64" else kind for name, kind in kinds.items()}
        df = pd.read_csv(path, dtype={"key": "str", **as_read}, keep_default_na=False)
        return df.set_index("key").astype(kinds)


def _seal(status: Mapping[str, Any]) -> str:
    """The SHA-256 of what else a status says."""
    said = {name: value for name, value in status.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(row), ensure_ascii=False).encode() + b"\n"


def _kind(name: str, cells: pd.Series | pd.Index) -> str:
    kind = {"i": "int64", "u": "int64", "f": "float64", "b": "bool"}.get(cells.dtype.kind, "str")
    strings = kind != "str" or all(isinstance(cell, str) for cell in cells)
    if not strings or (kind != "float64" and cells.isna().any()):
        raise RecordError(f"{name} has cells that are missing or no number, boolean or string")
    return kind
