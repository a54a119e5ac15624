"""Execute chapters with papermill, strictly.

Papermill alone calls the cells of a killed kernel completed, lets `sys.exit` pass for success, and
starts from the top each time. Here whether a run succeeded stands only in its `run.json`, which is
written last, and while a chapter's source, parameters, package and data stay as they are, it is not
run again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import nbformat
import psutil
from filelock import FileLock
from nbformat import NotebookNode

from serlib import notebooks, records
from serlib.notebooks import BOOK, ChapterError

PACKAGE = Path(__file__).resolve().parent
MANIFEST = PACKAGE.parent / "data_manifests" / "demo.csv"
TIMEOUT = {"smoke": 300, "demo": 1800, "full": None}  # seconds for one cell


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
    cached: bool = False  # finished before this call

    @property
    def ok(self) -> bool:
        """Whether every cell ran to its end."""
        return self.status == "ok"

    @property
    def notebook(self) -> Path:
        """The executed notebook; of a failed run, as far as it came."""
        return self.folder / f"{self.chapter}{'' if self.ok else '.partial'}.ipynb"


# ------------------------------------------------------------------------- sources and parameters


def state_digest() -> str:
    """Hash of what every chapter depends on: the package with its weights, and the demo data."""
    state = hashlib.sha256(MANIFEST.read_bytes() if MANIFEST.exists() else b"")
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".json", ".safetensors"):
            state.update(f"\0{path.relative_to(PACKAGE).as_posix()}\0".encode())
            state.update(path.read_bytes())
    return state.hexdigest()


def run_key(source: Path, parameters: dict) -> str:
    """Name of a run's folder: whatever decides its result changes it."""
    return records.digest([source.read_text(), parameters, state_digest()])


def execute(
    chapter: str | Path,
    profile: str = "demo",
    parameters: dict | None = None,
    out_root: Path | None = None,
    *,
    force: bool = False,
    timeout: float | None = None,
) -> ChapterRun:
    """Execute one chapter, or return the run that is already there.

    Args:
        chapter: Number, name or path of the source.
        profile: "smoke", "demo" or "full".
        parameters: Values for the parameters cell; only those that differ from it are injected.
        out_root: Where runs are kept, never the book folder; default `records.home()/"chapters"`.
        force: Run again even if finished.
        timeout: Seconds that one cell may take; default by profile (`TIMEOUT`).

    Returns:
        The run. A failing cell, a killed kernel, a timeout and `sys.exit` make a failed one.

    Raises:
        UsageError: If a parameter is unknown or of the wrong type.
    """
    source = notebooks.find(chapter)
    run, changed = _plan(source, {"profile": profile, **(parameters or {})}, out_root)
    if run.folder.is_relative_to(source.parent):
        raise ChapterError(f"{run.folder} is in the book folder; choose an output folder elsewhere")
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".lock"):  # a second process waits, then finds the run finished
        if not force and (done := _finished(run.folder)):
            return done
        (run.folder / "run.json").unlink(missing_ok=True)
        run = _execute(run, notebooks.read(source), changed, timeout or TIMEOUT[run.profile])
        run = replace(run, environment=records.environment())
        content = asdict(run)
        del content["folder"], content["cached"]
        records.write_json(run.folder / "run.json", content)
    return run


def lookup(
    chapter: str | Path,
    profile: str = "demo",
    parameters: dict | None = None,
    out_root: Path | None = None,
) -> ChapterRun | None:
    """The finished run that `execute` would return, None if it would have to run."""
    run, _ = _plan(notebooks.find(chapter), {"profile": profile, **(parameters or {})}, out_root)
    return _finished(run.folder)


def _plan(source: Path, parameters: dict, out_root: Path | None) -> tuple[ChapterRun, dict]:
    """The run as it will be, and the parameters that differ from the chapter's own cell."""
    known = notebooks.declared(notebooks.read(source))
    given = notebooks.check(parameters, known)
    key = run_key(source, known | given)
    folder = Path(out_root or records.home() / "chapters").resolve() / source.stem / key
    changed = {name: value for name, value in given.items() if known[name] != value}
    return ChapterRun(source.stem, given["profile"], known | given, key, folder), changed


def _execute(run: ChapterRun, notebook, parameters: dict, timeout: float | None) -> ChapterRun:
    import papermill

    partial = run.folder / f"{run.chapter}.partial.ipynb"
    cells = sum(bool(c.cell_type == "code" and c.source.strip()) for c in notebook.cells)
    watch = _Watch(run.chapter, cells + bool(parameters))
    start = time.perf_counter()
    try:
        executed = papermill.execute_notebook(
            notebook,
            str(partial).replace("{", "{{").replace("}", "}}"),  # papermill formats its paths
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            start_timeout=120,
            autosave_cell_every=60,
            iopub_timeout=60,
            coalesce_streams=True,
            shutdown_kernel="immediate",
            kernel_manager_class=_kernel(run.folder, watch),
            on_cell_execute=watch.begin,
            on_cell_executed=watch.end,
        )
        error = _unfinished(executed)
    except Exception as raised:  # whatever stops a chapter becomes a failed run
        frames = getattr(raised, "traceback", [])[-3:]
        error = "\n".join(frames) or f"{type(raised).__name__}: {raised}"
        if "DeadKernel" in error:
            error += " (killed from outside, often for lack of memory, or a crash in native code)"
    finally:
        watch.close()
    measured = {"seconds": round(time.perf_counter() - start, 2), "peak_mb": round(watch.peak_mb)}
    run = replace(run, **measured, cells=[round(s, 2) for s in watch.seconds])
    log = run.folder / "kernel.log"
    if error:
        tail = _last_words(log.read_text(errors="replace")) if log.exists() else ""
        tail = re.sub(r".*TCP without encryption.*\n?", "", tail)  # ipykernel says so each time
        text = f"code cell {watch.begun} of {watch.total}:\n\n{watch.source}\n\n{error}\n\n{tail}"
        return replace(run, error=re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip())
    run = replace(run, status="ok")
    measured = {"profile": run.profile, **measured, "cores": os.cpu_count()}
    executed.metadata["serlib"] = measured
    for output in (o for c in executed.cells for o in c.get("outputs", [])):
        if notebooks.COST in output.get("data", {}):  # shown by `publish.cost`, known only now
            output.data = NotebookNode({"text/markdown": notebooks.cost(**measured)})
    records.atomic_write(run.notebook, nbformat.writes(notebooks.tidy(executed)) + "\n")
    partial.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    return run


def _unfinished(notebook: NotebookNode) -> str:
    """Why an executed notebook is no finished one: papermill lets `sys.exit(0)` pass."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{output.ename}: {output.evalue}"
        if cell.execution_count is None:
            return f"this cell never ran: {cell.source}"
    return ""


def _finished(folder: Path) -> ChapterRun | None:
    """The run that a folder's `run.json` vouches for; no such file, or a torn one, means none."""
    try:
        run = ChapterRun(**records.read_json(folder / "run.json"), folder=folder)
    except (OSError, ValueError, TypeError):
        return None
    return replace(run, cached=True) if run.ok and run.notebook.exists() else None


def _kernel(folder: Path, watch: _Watch) -> type:
    """A kernel manager that starts this interpreter in the run folder and tells its process id.

    Progress bars for a terminal are off: each refresh would be a line in the page. (Bars made of
    widgets do not heed that variable; `tidy` drops them.)
    """
    from jupyter_client import AsyncKernelManager

    path = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "SERLIB_HOME": str(records.home().resolve()),
        "TQDM_DISABLE": "1",
    }
    env.pop("JPY_SESSION_NAME", None)  # by this, Jupyter's own kernels know that somebody watches

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **kwargs) -> None:
            self.kernel_spec.argv[0] = sys.executable  # never another Python's "python3" kernel
            with open(folder / "kernel.log", "w") as log:
                await super().start_kernel(**kwargs | dict(cwd=folder, env=env, stderr=log))
            watch.pid = self.provisioner.pid

    return Kernel


def _last_words(log: str, size: int = 6000) -> str:
    r"""The end of a kernel's log, with the line that names a crash: its stacks may be longer.

    >>> _last_words("hello\nFatal Python error: Aborted\n" + "frame " * 9, size=12)
    'Fatal Python error: Aborted\n...\nframe frame '
    """
    crash = re.findall("^Fatal Python error.*", log, re.MULTILINE)
    end = log[-size:]
    return f"{crash[-1]}\n...\n{end}" if crash and crash[-1] not in end else end


class _Watch(threading.Thread):
    """Shows one line per cell while a chapter runs, and keeps the kernel's peak memory."""

    def __init__(self, label: str, total: int) -> None:
        super().__init__(daemon=True)
        self.label, self.total, self.begun, self.source = label, total, 0, ""
        self.pid, self.peak_mb, self.seconds = None, 0.0, []
        self._line, self._began, self._closed = "", 0.0, threading.Event()
        self.start()

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        self.begun, self.source, self._began = self.begun + 1, cell.source, time.perf_counter()
        code = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
        self._line = f"{self.label} {self.begun:3d}/{self.total}  {(code or [''])[0][:60]:60s}"
        self._show()

    def end(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self._show(f"{self.seconds[-1]:7.1f} s\n")
        self._sample()

    def run(self) -> None:
        while not self._closed.wait(0.5):
            self._sample()
            if sys.stderr.isatty() and self.begun > len(self.seconds):
                self._show(f"{time.perf_counter() - self._began:7.1f} s")

    def close(self) -> None:
        self._closed.set()
        self.join()
        if self.begun > len(self.seconds):
            self._show("stopped\n")

    def _show(self, text: str = "") -> None:
        if sys.stderr.isatty():
            print(f"\r{self._line} {text}", end="", flush=True, file=sys.stderr)
        elif text:  # in a log, a line appears when its cell is done
            print(f"{self._line} {text}", end="", flush=True, file=sys.stderr)

    def _sample(self) -> None:
        if self.pid is None:
            return
        try:
            kernel = psutil.Process(self.pid)
            family = [kernel, *kernel.children(recursive=True)]
            peak = sum(process.memory_info().rss for process in family)
            if sys.platform == "linux":  # keeps the kernel's high-water mark, between samples too
                status = Path(f"/proc/{self.pid}/status").read_text()
                peak = max(peak, int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024)
        except (OSError, TypeError, psutil.Error):
            return  # gone, or going
        self.peak_mb = max(self.peak_mb, peak / 2**20)


def book(
    profile: str = "demo",
    *,
    folder: Path = BOOK,
    out_root: Path | None = None,
    force: bool = False,
    report: Callable[[ChapterRun], None] = lambda run: None,
) -> list[ChapterRun]:
    """Execute all chapters in order, going on after a failed one.

    Args:
        profile: "smoke", "demo" or "full".
        folder: The book.
        out_root: As in `execute`.
        force: Run finished chapters again.
        report: Called with each run as it ends.

    Raises:
        ChapterError: Before anything runs, if there is no chapter or one breaks its contract.
    """
    sources = notebooks.chapters(folder)
    if not sources:
        raise ChapterError(f"no chapters (NN_name.py) in {folder}; work in a checkout of the book")
    for source in sources:
        try:
            notebooks.check({"profile": profile}, notebooks.declared(notebooks.read(source)))
        except ChapterError as error:
            raise type(error)(f"{source.name}: {error}") from error
    runs = []
    for source in sources:
        runs.append(execute(source, profile, out_root=out_root, force=force))
        report(runs[-1])
    return runs
