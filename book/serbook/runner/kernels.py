"""A chapter's kernel: started in the folder of its run, and watched while it works."""

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
from nbformat import NotebookNode

from serbook.runner import evidence, names
from serlib import records

EVIDENCE = "evidence.txt"  # what the kernel notes of the runs that it looks for
LOG = "kernel.log"  # what the kernel says, in the folder of its run
# What a reader set for other work, and what would change or stop a chapter: no name of a run holds
# it. Jupyter's own kernels know by the last one that somebody watches.
LEFT_OUT = frozenset(
    "COLUMNS LINES MATPLOTLIBRC PYTHONINSPECT PYTHONOPTIMIZE PYTHONSTARTUP PYTHONWARNINGS "
    "JPY_SESSION_NAME".split()
)


def last_words(log: str, size: int = 6000) -> str:
    """The end of a kernel's log, with the line that names a crash: its stacks may be longer."""
    log = re.sub(r".*TCP without encryption.*\n?", "", log)  # ipykernel says so each time
    crash = re.findall("^Fatal Python error.*", log, re.MULTILINE)
    end = log[-size:]
    return f"{crash[-1]}\n...\n{end}" if crash and crash[-1] not in end else end


class Watch(threading.Thread):
    """Shows one line per cell while a chapter runs, and keeps the kernel's peak memory.

    It kills a kernel that works on nothing: a slow machine is no fault, a deadlock is. Who sleeps,
    or waits for a lock of its own process, takes less than `IDLE` of a core, 0.0002 as measured; who
    waits for another process at a file lock takes 0.004.
    """

    IDLE = 0.001

    def __init__(
        self, label: str, total: int, patience: float, stop: threading.Event | None = None
    ) -> None:
        """Begin to watch `total` cells.

        The kernel and all of its own are killed after `patience` seconds in which they did nothing,
        and once `stop` is set.
        """
        super().__init__(daemon=True)
        self.stop, self.live = stop, stop is None and sys.stderr.isatty()
        self.patience, self.is_idle, self._worked = patience, False, (time.monotonic(), 0.0)
        self.label, self.total, self.begun, self.source = label, total, 0, ""
        self.pid, self.peak_mb, self.seconds = None, 0.0, []
        self._line, self._began, self._closed = "", 0.0, threading.Event()
        self.start()

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        """Papermill's call before a cell."""
        self.begun, self.source, self._began = self.begun + 1, cell.source, time.perf_counter()
        self._worked = time.monotonic(), self._worked[1]
        code = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
        self._line = f"{self.label} {self.begun:3d}/{self.total}  {(code or [''])[0][:60]:60s}"
        self._show()

    def end(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        """Papermill's call after a cell."""
        self.seconds.append(time.perf_counter() - self._began)
        self._show(f"{self.seconds[-1]:7.1f} s\n")
        self._sample()

    def run(self) -> None:
        """Sample, show and kill, until closed."""
        while not self._closed.wait(0.5):
            self._sample()
            given_up = self.stop is not None and self.stop.is_set()
            if self.pid is not None and (given_up or self.is_idle):
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)  # it leads a group of its own
            if self.live and self.begun > len(self.seconds):
                self._show(f"{time.perf_counter() - self._began:7.1f} s")

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self.join()
        if self.begun > len(self.seconds):
            self._show("stopped\n")

    def _show(self, text: str = "") -> None:
        if self.live or text:  # in a log, or beside others, a line appears when its cell is done
            start = "\r" if self.live else ""
            print(f"{start}{self._line} {text}", end="", flush=True, file=sys.stderr)

    def _sample(self) -> None:
        if self.pid is None:
            return
        with suppress(OSError, TypeError, psutil.Error):  # gone, or going
            kernel = psutil.Process(self.pid)
            family = [kernel, *kernel.children(recursive=True)]
            self._clock(sum(sum(process.cpu_times()[:4]) for process in family))
            peak = sum(process.memory_info().rss for process in family)
            if sys.platform == "linux":  # keeps the kernel's high-water mark, between samples too
                status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
                peak = max(peak, int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024)
            self.peak_mb = max(self.peak_mb, peak / 2**20)

    def _clock(self, cpu: float) -> None:
        """Note seconds of CPU time that the kernel took; its own, and of its children."""
        (then, before), now = self._worked, time.monotonic()
        if abs(cpu - before) > self.IDLE * (now - then) + 0.02:  # the system counts in 0.01 s
            self._worked = now, cpu
        elif self.begun > len(self.seconds) and now - then > self.patience:
            self.is_idle = True


def manager(folder: Path, watch: Watch) -> type:
    """A kernel manager that starts this interpreter in the run folder and tells its process id."""
    from jupyter_client import AsyncKernelManager

    # A kernel imports the packages that its runner did.
    path = [*(str(root.parent) for root in names.ROOTS.values()), os.environ.get("PYTHONPATH")]
    home = records.home().resolve()
    env = {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUTF8": "1",  # a locale may not have all that a chapter prints
        "SERLIB_HOME": str(home),
        # A worker that joblib renews for its memory loses nothing, and is no news to a reader.
        "PYTHONWARNINGS": "ignore:A worker stopped while:UserWarning",
        "TQDM_DISABLE": "1",  # each refresh would be a line in the page; `tidy` drops widgets
        # Figures go into the notebook, with no settings file of the user's, nor start-up code.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(home / "jupyter" / "matplotlib"),
        "IPYTHONDIR": str(home / "jupyter" / "ipython"),
        evidence.NOTES: str(folder / EVIDENCE),
    }

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **kwargs) -> None:
            self.kernel_spec.argv[0] = sys.executable  # never another Python's "python3" kernel
            with open(folder / LOG, "w", encoding="utf-8") as log:
                await super().start_kernel(**kwargs | dict(cwd=folder, env=env, stderr=log))
            watch.pid = self.provisioner.pid

    return Kernel
