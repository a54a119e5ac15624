"""Execute chapters with papermill, strictly.

Papermill alone calls the cells of a killed kernel completed and lets `sys.exit` pass. Here success
stands only in `run.json`, which is written last. While all that a chapter reads stays as it is, it
is not run again.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import joblib
import nbformat
from filelock import FileLock
from nbformat import NotebookNode

from serbook.runner import cores, evidence, kernels, names, notebooks
from serbook.runner.notebooks import BOOK, ChapterError, UsageError
from serlib import records

LEDGER = "08_claims"  # shows the runs of all others
CLOSED = {  # chapters that the corpora for everybody have nothing for
    "03_ctc_mtl": "all speakers say the same few sentences, so there is no speech to recognize",
    "07_fusion": "nothing is rated for valence, arousal or dominance, and the words say nothing",
}
TIMEOUT = {
    "smoke": 300,
    "demo": 1800,
    "open": 1800,
    "full": 1800,
}  # seconds in which a cell may do nothing


@dataclass(frozen=True)
class ChapterRun:
    """One execution of a chapter: what `run.json` holds, and where."""

    chapter: str
    profile: str
    parameters: dict
    key: str
    folder: Path
    status: str = "failed"  # or "ok"
    seconds: float = 0.0
    peak_mb: float = 0.0  # of the kernel and the processes that it starts
    cells: list[float] = field(default_factory=list)  # seconds of each executed cell
    error: str = ""
    environment: dict = field(default_factory=dict)
    began: str = ""  # date and time
    cores: int = 0  # that its kernel could use
    read: list[str] = field(default_factory=list)  # runs that it showed, see `evidence`
    cached: bool = False  # finished before this call

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return self.status == "ok"

    @property
    def notebook(self) -> Path:
        """The executed notebook; of a failed run, as far as it came."""
        return self.folder / f"{self.chapter}{'' if self.ok else '.partial'}.ipynb"


def execute(
    chapter: str | Path, profile: str = "", parameters: dict | None = None,
    out_root: Path | None = None, *, force: bool = False, timeout: float | None = None,
    stop: threading.Event | None = None,
) -> ChapterRun:  # fmt: skip
    """Execute one chapter, or return the run that is already there.

    A failing cell, a killed kernel, a timeout and `sys.exit` make a failed run.

    Args:
        chapter: Number, name or path of the source.
        profile: One of `PROFILES`, or "": the chapter's own.
        parameters: Values for the parameters cell; only those that differ from it are injected.
        out_root: Where runs are kept, never the book folder; default `records.home()/"chapters"`.
        force: Run again even if finished.
        timeout: Seconds in which a cell may do nothing at all; default by profile (`TIMEOUT`). How
            long it may work has no limit.
        stop: For a chapter that runs beside others in this process: set it to give it up.

    Raises:
        UsageError: If a parameter is unknown or of the wrong type, or the timeout is none.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError(f"timeout={timeout}: give seconds above 0")
    source = notebooks.find(chapter)
    run, changed = _plan(source, _asked(profile, parameters), out_root)
    if run.folder.is_relative_to(source.parent):
        raise ChapterError(f"{run.folder} is in the book folder; choose an output folder elsewhere")
    if not force and (done := _finished(run.folder)):
        return done  # nothing is written: the folder may be one that others share
    run.folder.mkdir(parents=True, exist_ok=True)
    given_up = stop.is_set if stop else lambda: False
    # A second process waits here, then finds the run finished.
    with FileLock(run.folder / ".lock").acquire(cancel_check=given_up):
        if not force and (done := _finished(run.folder)):
            return done
        for old in ("run.json", kernels.EVIDENCE):
            (run.folder / old).unlink(missing_ok=True)
        notebook, timeout = notebooks.read(source), timeout or TIMEOUT[run.profile]
        run = _execute(run, notebook, changed, timeout, stop)
        if run.ok or not given_up():  # to be given up is no failure, so nothing is recorded
            content = asdict(run) | {"environment": records.environment()}
            del content["folder"], content["cached"]
            records.write_json(run.folder / "run.json", content)
    return run


def lookup(
    chapter: str | Path, profile: str = "", parameters: dict | None = None,
    out_root: Path | None = None,
) -> ChapterRun | None:  # fmt: skip
    """The finished run that `execute` would return, None if it would have to run."""
    run, _ = _plan(notebooks.find(chapter), _asked(profile, parameters), out_root)
    return _finished(run.folder)


def _asked(profile: str, parameters: dict | None) -> dict:
    return ({"profile": profile} if profile else {}) | (parameters or {})


def _plan(source: Path, parameters: dict, out_root: Path | None) -> tuple[ChapterRun, dict]:
    """The run as it will be, and the parameters that differ from the chapter's own cell."""
    known = notebooks.declared(notebooks.read(source))
    given = notebooks.located(notebooks.check(parameters, known))
    key = names.key(source, known | given)
    folder = Path(out_root or records.home() / "chapters").resolve() / source.stem / key
    changed = {name: value for name, value in given.items() if known[name] != value}
    asked = known | given
    return ChapterRun(source.stem, asked["profile"], asked, key, folder), changed


def _finished(folder: Path) -> ChapterRun | None:
    """The run that a folder's `run.json` vouches for; no such file, or a torn one, means none."""
    try:
        run = ChapterRun(**records.read_json(folder / "run.json"), folder=folder)
        kept = run.ok and run.notebook.exists() and evidence.unchanged(run.read)
    except (OSError, ValueError, TypeError):
        return None
    return replace(run, cached=True) if kept else None


def _execute(run: ChapterRun, notebook: NotebookNode, parameters, timeout, stop) -> ChapterRun:
    """Run the cells, and write the notebook of a run that came to its end."""
    total = len(_code(notebook)) + bool(parameters)
    watch = kernels.Watch(run.chapter, total, timeout, stop)
    began, start = datetime.now(UTC).isoformat(timespec="milliseconds"), time.perf_counter()
    try:
        executed = _papermill(run, notebook, parameters, watch)
        error = _unfinished(executed)
    except Exception as raised:  # whatever stops a chapter becomes a failed run
        frames = getattr(raised, "traceback", [])[-3:]
        error = "\n".join(frames) or f"{type(raised).__name__}: {raised}"
        if watch.is_idle:
            error = f"Timeout: this cell did nothing for {timeout:g} s; is it waiting for itself?"
        elif "DeadKernel" in error:
            error += " (killed from outside, often for lack of memory, or a crash in native code)"
    finally:
        watch.close()
    took = {
        "profile": run.profile,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mb": round(watch.peak_mb),
        "cores": joblib.cpu_count(),  # of this thread, and so of the kernel that it started
        "began": began,
    }
    partial, log, read = run.notebook, run.folder / kernels.LOG, run.folder / kernels.EVIDENCE
    run = replace(run, **took, cells=[round(s, 2) for s in watch.seconds])
    if error:
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        tail = kernels.last_words(said)
        cell = f"code cell {watch.begun} of {watch.total}:\n\n{watch.source}"
        told = re.sub(r"\x1b\[[0-9;]*m", "", f"{cell}\n\n{error}\n\n{tail}").rstrip()
        return replace(run, error=told)
    run = replace(run, status="ok", read=evidence.noted(read))
    own = not notebooks.ELSEWHERE & parameters.keys()
    executed.metadata["serlib"] = took | ({"parameters": parameters} if parameters and own else {})
    for output in (o for c in executed.cells for o in c.get("outputs", [])):
        if notebooks.COST in output.get("data", {}):  # shown by `cells.cost`, known only now
            output.data = NotebookNode(
                {"text/markdown": notebooks.cost(**took, parameters=parameters)}
            )
    records.atomic_write(run.notebook, nbformat.writes(notebooks.tidy(executed)) + "\n")
    for file in (partial, log, read):
        file.unlink(missing_ok=True)
    return run


def _papermill(run: ChapterRun, notebook, parameters, watch) -> NotebookNode:
    import papermill

    path = str(run.notebook).replace("{", "{{").replace("}", "}}")  # papermill formats its paths
    return papermill.execute_notebook(
        notebook, path, parameters, progress_bar=False, autosave_cell_every=60,
        execution_timeout=None, start_timeout=120, iopub_timeout=60, coalesce_streams=True,
        kernel_manager_class=kernels.manager(run.folder, watch), shutdown_kernel="immediate",
        on_cell_execute=watch.begin, on_cell_executed=watch.end,
    )  # fmt: skip


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def _unfinished(notebook: NotebookNode) -> str:
    """Why an executed notebook is no finished one: papermill lets `sys.exit(0)` pass."""
    for cell in _code(notebook):
        if raised := [o for o in cell.outputs if o.output_type == "error"]:
            return f"{raised[0].ename}: {raised[0].evalue}"
        if cell.execution_count is None:
            return f"this cell never ran: {cell.source}"
    return ""


def book(
    profile: str = "demo", *, folder: Path = BOOK, out_root: Path | None = None,
    force: bool = False, report: Callable[[ChapterRun], None] = lambda run: None,
    jobs: int | None = None,
) -> list[ChapterRun]:  # fmt: skip
    """Execute all chapters, going on after a failed one.

    With one at a time all go in order, on all cores. With several, each has its share of the cores.
    The first half begins in order, because the rest read some of their runs; of the rest the
    longest goes first, so that a short one ends last; the ledger waits for all.
    A chapter that showed runs too early, since another one made them later, is executed once more.

    Of two chapters that need the same, one makes it, and the other waits at a file lock. They never
    wait in a circle. Who holds a run asks only for runs that it is built on, which its recipe
    contains, so they cannot contain it (`experiment.needs`); who holds features, a corpus or a
    measured peak asks for nothing.

    Args:
        profile: As in `execute`, like `out_root` and `force`; of "open" without `CLOSED`.
        folder: The book.
        out_root: Where runs are kept.
        force: Run finished chapters again.
        report: Called with each run as it ends; returned are all, in the order of the book.
        jobs: Chapters at a time; None takes as many as cores and memory allow, and one with a GPU,
            in full, or where cores cannot be given to a process (other systems than Linux).

    Raises:
        ChapterError: Before anything runs, if there is no chapter or one breaks its contract.
        UsageError: If there are fewer cores than jobs.
    """
    sources = notebooks.chapters(folder)
    sources = [s for s in sources if profile != "open" or s.stem not in CLOSED]
    if not sources:
        raise ChapterError(f"no chapters (NN_name.py) in {folder}; work in a checkout of the book")
    for source in sources:
        try:
            notebooks.check({"profile": profile}, notebooks.declared(notebooks.read(source)))
        except ChapterError as error:
            raise type(error)(f"{source.name}: {error}") from error
    runs, run = {}, partial(execute, profile=profile, out_root=out_root, force=force)

    def done(ended: ChapterRun) -> None:
        runs[ended.chapter] = ended
        report(ended)

    if jobs is None:
        jobs = 1 if profile == "full" else cores.at_a_time()
    ledger = [s for s in sources if s.stem == LEDGER]
    shares, others = cores.shares(jobs), [s for s in sources if jobs > 1 and s not in ledger]
    half, took = len(others) // 2, notebooks.measured(folder)
    rest = sorted(others[half:], key=lambda source: -took[source.stem].get("seconds", 0))
    cores.side_by_side(run, others[:half] + rest, shares, done)
    for source in [*[s for s in sources if s not in [*others, *ledger]], *ledger, *sources]:
        before = runs.get(source.stem)
        if before is None or (before.ok and not evidence.unchanged(before.read)):
            done(run(source))
    return [runs[source.stem] for source in sources]


def elapsed(runs: Sequence[ChapterRun]) -> tuple[float, int]:
    """Seconds in which at least one of the runs was at work, and how many were at a time, at most.

    A run that does not say when it began counts as one that was alone.
    """
    total = sum(run.seconds for run in runs if not run.began)
    most, at_work = 1, []  # ends of runs
    for run in sorted((run for run in runs if run.began), key=lambda run: run.began):
        began = datetime.fromisoformat(run.began)
        end = began + timedelta(seconds=run.seconds)
        until = max([began, *at_work])
        total += max(0.0, (end - until).total_seconds())
        # Of two runs in a row, clock and rounding may make the first end after the second began.
        at_work = [e for e in at_work if e > began + timedelta(seconds=1)] + [end]
        most = max(most, len(at_work))
    return total, most
