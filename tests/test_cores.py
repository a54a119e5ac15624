"""Chapters side by side: each on its own cores, and the same as one after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import filelock
import joblib
import nbformat
import psutil
import pytest
import torch

from serbook.runner import chapters, cores, notebooks
from serbook.runner.chapters import ChapterRun
from serbook.runner.notebooks import UsageError

PARAMETERS = """
# %% tags=["parameters"]
profile = "demo"

# %%
"""
several = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or joblib.cpu_count() < 2, reason="needs two cores to give"
)


def lines(run: ChapterRun) -> list[str]:
    """What the cells of an executed notebook printed."""
    cells = nbformat.read(run.notebook, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", [])).splitlines()


# ------------------------------------------------------------------------------ dividing the cores


def test_cores_are_divided_and_each_is_in_one_share(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {9, 1, 7, 3, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 5)
    assert cores.shares(1) == [[]]
    assert cores.shares(2) == [[1, 5, 9], [3, 7]]
    assert cores.shares(5) == [[1], [3], [5], [7], [9]]
    for jobs in (6, 0, -1):
        with pytest.raises(UsageError, match=f"jobs={jobs}: take 1 to 5"):
            cores.shares(jobs)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)  # a container that may use two at a time
    assert cores.shares(2) == [[1], [3]]
    monkeypatch.delattr(os, "sched_setaffinity")
    assert cores.shares(1) == [[]]
    with pytest.raises(UsageError, match="only Linux"):
        cores.shares(2)


@pytest.mark.parametrize(
    ("count", "gigabytes", "limit", "gpu", "linux", "expected"),
    [
        (2, 21.0, None, False, True, 2),
        (1, 21.0, None, False, True, 1),
        (64, 500.0, "max\n", False, True, 4),
        (8, 11.9, "max\n", False, True, 2),
        (8, 500.0, f"{13 * 2**30}\n", False, True, 3),
        (8, 11.9, f"{13 * 2**30}\n", False, True, 2),
        (8, 3.0, None, False, True, 1),
        (8, 0.0, None, False, True, 1),
        (8, 500.0, None, True, True, 1),
        (8, 500.0, None, False, False, 1),
    ],
)
def test_how_many_at_a_time(count, gigabytes, limit, gpu, linux, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN", tmp_path / "cgroup")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(joblib, "cpu_count", lambda: count)
    memory = SimpleNamespace(available=gigabytes * 2**30, total=10**15)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    if not linux:
        monkeypatch.delattr(os, "sched_setaffinity")
    assert cores.at_a_time() == expected


@pytest.mark.parametrize(
    ("own", "files", "found"),
    [
        ("0::/\n", {"memory.max": "max\n"}, []),
        ("0::/slurm/job7/step\n", {"slurm/memory.max": "9", "slurm/job7/memory.max": "5",
                                   "slurm/job7/step/memory.max": "max"}, [5, 9]),
        ("0::/a:b/run-1.scope\n", {"a:b/run-1.scope/memory.max": "4"}, [4]),
        ("4:cpu,cpuacct:/x\n3:memory:/docker/ab\n1:name=systemd:/y\n",
         {"memory/docker/ab/memory.limit_in_bytes": "3", "memory/x/memory.limit_in_bytes": "1",
          "x/memory.max": "1"}, [3]),
        ("5:devices,memory:/job\n", {"memory/job/memory.limit_in_bytes": "6"}, [6]),
        # A container that is told its name outside, and sees its own cgroup as the root.
        ("0::/docker/cd\n", {"memory.max": "8"}, [8]),
        ("3:memory:/docker/cd\n", {"memory/memory.limit_in_bytes": "7"}, [7]),
        (None, {"memory.max": "2"}, [2]),
        (None, {}, []),
    ],
)  # fmt: skip
def test_every_memory_limit_above_this_process_is_seen(own, files, found, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(cores, "OWN", tmp_path / "own")
    if own is not None:
        cores.OWN.write_text(own)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert sorted(set(cores.limits())) == found


@several
def test_work_keeps_to_its_share_and_this_thread_keeps_all():
    before, met, seen = os.sched_getaffinity(0), threading.Barrier(2, timeout=30), []

    def work(item: int, stop: threading.Event) -> tuple:
        met.wait()  # so that neither thread can do both
        child = "import os; print(*os.sched_getaffinity(0))"
        told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout
        return item, os.sched_getaffinity(0), set(map(int, told.split())), joblib.cpu_count()

    shares = cores.shares(2)
    cores.side_by_side(work, [0, 1], shares, seen.append)
    assert sorted(item for item, *_ in seen) == [0, 1]
    assert all(own == inherited and count == len(own) for _, own, inherited, count in seen)
    assert sorted(sorted(own) for _, own, *_ in seen) == sorted(shares)
    assert os.sched_getaffinity(0) == before


@several
def test_an_error_lets_the_others_give_up_and_begins_no_more():
    begun = []

    def work(item: int, stop: threading.Event) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("disk full")
        assert stop.wait(30)
        return item

    with pytest.raises(ValueError, match="disk full"):
        cores.side_by_side(work, range(20), cores.shares(2), begun.append)
    assert len(begun) < 5


# ------------------------------------------------------------------------------------- chapters


@several
def test_side_by_side_is_as_one_after_another(write_chapter, tmp_path, steady, capfd):
    """One fails, one is killed, and the last finds what all others left."""
    mark = f"open({str(tmp_path)!r} + '/' + name, 'a').write('x')"
    bodies = {
        "00_slow": "name = 'slow'\nimport time; time.sleep(3)\nprint(profile)\n" + mark,
        "01_bad": "1 / 0",
        "02_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "03_quick": "name = 'quick'\nprint(6 * 7)\n" + mark,
        "08_claims": f"import os\nprint(sorted(set(os.listdir({str(tmp_path)!r})) & "
                   "{'slow', 'quick'}))",
    }  # fmt: skip
    for name, body in bodies.items():
        folder = write_chapter(PARAMETERS + body, name).parent
    found, seen = {}, {1: [], 2: []}
    for jobs in (1, 2):
        options = dict(out_root=tmp_path / f"out{jobs}", report=seen[jobs].append, jobs=jobs)
        found[jobs] = chapters.book("smoke", folder=folder, **options)
    shown = capfd.readouterr().err
    one, two = found[1], found[2]
    assert [run.chapter for run in one] == [run.chapter for run in two] == list(bodies)
    assert seen[1] == one and {r.chapter for r in seen[2]} == set(bodies)
    assert seen[2][-1] == two[-1] and seen[2][0] != two[0]  # as they ended
    assert [run.ok for run in one] == [run.ok for run in two] == [True, False, False, True, True]
    for a, b in zip(one, two, strict=True):
        assert a.key == b.key and a.parameters == b.parameters
        assert a.ok is False or a.notebook.name == b.notebook.name and lines(a) == lines(b)
    assert lines(two[0]) == ["smoke"] and lines(two[-1]) == ["['quick', 'slow']"]
    assert "ZeroDivisionError" in two[1].error and "died" in two[2].error
    assert "\r" not in shown and "03_quick   3/3" in shown
    assert (tmp_path / "slow").read_text() == "xx"
    again = chapters.book("smoke", folder=folder, out_root=tmp_path / "out2", jobs=2)
    assert [run.cached for run in again] == [run.ok for run in two]
    assert (tmp_path / "slow").read_text() == "xx"


@several
def test_kernels_have_cores_of_their_own_and_say_how_many(write_chapter, tmp_path, steady):
    met = tmp_path / "met"
    meet = f"""
import os, time, joblib
open({str(met)!r}, "a").write("x")
while len(open({str(met)!r}).read()) < 2: time.sleep(0.05)
"""  # both are at work at once, or neither ends
    tell = """
many = joblib.Parallel(2)(joblib.delayed(os.sched_getaffinity)(0) for _ in range(2))
print(*os.sched_getaffinity(0))
print(joblib.cpu_count(), many == [os.sched_getaffinity(0)] * 2)
"""
    write_chapter(PARAMETERS + meet + tell, "00_a")
    write_chapter(PARAMETERS + meet + tell, "01_b")
    folder = write_chapter(PARAMETERS + "import os, joblib" + tell, "08_claims").parent
    runs = chapters.book("demo", folder=folder, out_root=tmp_path / "out", jobs=2)
    assert all(run.ok for run in runs), [run.error for run in runs]
    own = [set(map(int, lines(run)[0].split())) for run in runs]
    assert not own[0] & own[1] and own[0] | own[1] <= own[2] == os.sched_getaffinity(0)
    assert [lines(run)[1] for run in runs] == [f"{run.cores} True" for run in runs]
    assert [run.cores for run in runs] == [len(own[0]), len(own[1]), joblib.cpu_count()]
    kept = json.loads((runs[0].folder / "run.json").read_text())
    shown = nbformat.read(runs[0].notebook, as_version=4).metadata.serlib
    assert kept["cores"] == shown.cores == len(own[0]) and kept["began"] == shown.began
    assert chapters.elapsed(runs)[1] == 2
    assert chapters.elapsed(runs)[0] < sum(run.seconds for run in runs)


def test_half_in_order_then_the_longest_and_the_last_waits(write_chapter, tmp_path, monkeypatch):
    for name in ("00_a", "01_b", "02_new", "03_c", "08_claims"):
        folder = write_chapter(PARAMETERS, name).parent
    took = {"00_a": 10.0, "01_b": 60.0, "03_c": 20.0, "08_claims": 99.0}
    monkeypatch.setattr(
        notebooks, "measured",
        lambda folder: {p.stem: {"seconds": took[p.stem]} if p.stem in took else {}
                        for p in notebooks.chapters(folder)},
    )  # fmt: skip
    ended = []

    def execute(source: Path, profile: str, **options) -> ChapterRun:
        ended.append((source.stem, "stop" in options))
        return ChapterRun(source.stem, profile, {}, "", tmp_path)

    def one_by_one(work, items, shares, done):
        for item in items:
            done(work(item, stop=None))

    monkeypatch.setattr(chapters, "execute", execute)
    monkeypatch.setattr(cores, "side_by_side", one_by_one)
    monkeypatch.setattr(cores, "shares", lambda jobs: [[]] * jobs)
    runs = chapters.book("smoke", folder=folder, jobs=2)
    assert [name for name, _ in ended] == ["00_a", "01_b", "03_c", "02_new", "08_claims"]
    assert [stop for _, stop in ended] == [True] * 4 + [False]
    assert [run.chapter for run in runs] == ["00_a", "01_b", "02_new", "03_c", "08_claims"]
    ended.clear()
    monkeypatch.setattr(cores, "at_a_time", lambda: 4)
    chapters.book("full", folder=folder)  # one GPU, or days of one CPU: in order, on all cores
    assert ended == [(run.chapter, False) for run in runs]


def test_waiting_for_a_chapter_of_another_process_can_be_given_up(write_chapter, tmp_path):
    source, stop = write_chapter(PARAMETERS), threading.Event()
    folder = chapters._plan(source, {"profile": "smoke"}, tmp_path)[0].folder
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, filelock.FileLock(folder / ".lock"):
        waiting = pool.submit(chapters.execute, source, "smoke", out_root=tmp_path, stop=stop)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        stop.set()
        with pytest.raises(filelock.Timeout):
            waiting.result(timeout=30)


@several
def test_interruption_leaves_nothing_running(write_chapter, tmp_path):
    """Ctrl-C at two chapters at work, with processes of their own, and one yet to begin."""
    body = f"""
import os, subprocess, sys, time
from joblib import Parallel, delayed
Parallel(2)(delayed(time.sleep)(0) for _ in range(4))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
import psutil
pids = [os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))]
with open({str(tmp_path)!r} + f"/partial{{os.getpid()}}", "w") as file: print(*pids, file=file)
os.rename(file.name, file.name.replace("partial", "pids"))
time.sleep(600)
"""
    for name in ("00_a", "01_b", "02_c", "03_last"):
        folder = write_chapter(PARAMETERS + body, name).parent
    code = (
        "import sys; from pathlib import Path; from serbook.runner import chapters\n"
        "from serlib import __main__ as cli\n"
        f"chapters.book.__kwdefaults__['folder'] = Path({str(folder)!r})\n"
        "sys.exit(cli.main(['book', '--profile', 'smoke', '--jobs', '2']))"
    )
    book = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"SERLIB_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    patience = time.monotonic() + 120
    while len(told := list(tmp_path.glob("pids*"))) < 2 and time.monotonic() < patience:
        assert book.poll() is None, book.stderr.read()
        time.sleep(0.1)
    running = [int(pid) for path in told for pid in path.read_text().split()]
    assert len(running) >= 6 and all(map(psutil.pid_exists, running))
    book.send_signal(signal.SIGINT)
    _, said = book.communicate(timeout=120)
    assert book.returncode == 130 and "interrupted" in said and "Traceback" not in said
    psutil.wait_procs([psutil.Process(p) for p in running if psutil.pid_exists(p)], timeout=20)
    left = [p for p in running if psutil.pid_exists(p)]
    assert not [p for p in left if psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
    assert len(list(tmp_path.glob("pids*"))) == 2
    assert not list((tmp_path / "home").rglob("run.json"))  # to be interrupted is no failure


# ---------------------------------------------------------------------------------- time in all


def run(began: str, seconds: float) -> ChapterRun:
    """A run that began at a time of one day."""
    began = began and f"2026-11-22T{began}+00:00"
    return ChapterRun("01_toy", "demo", {}, "", Path(), seconds=seconds, began=began)


@pytest.mark.parametrize(
    ("runs", "seconds", "at_a_time"),
    [
        ([], 0.0, 1),
        ([("", 5.0), ("", 7.0)], 12.0, 1),
        ([("10:00:00", 60.0)], 60.0, 1),
        ([("10:00:00", 60.0), ("10:01:00", 30.0)], 90.0, 1),
        ([("10:00:00", 60.004), ("10:01:00", 30.0)], 90.0, 1),  # clock and rounding
        ([("10:00:00", 60.0), ("15:00:00", 30.0)], 90.0, 1),  # the pause does not count
        ([("10:00:30", 60.0), ("10:00:00", 60.0)], 90.0, 2),
        ([("10:00:00", 100.0), ("10:00:10", 20.0), ("10:00:40", 20.0)], 100.0, 2),
        ([("10:00:00", 100.0), ("10:00:10", 50.0), ("10:00:40", 90.0)], 130.0, 3),
        ([("10:00:00", 60.0), ("10:00:00", 60.0), ("", 5.0)], 65.0, 2),
    ],
)
def test_time_of_runs_that_overlap(runs, seconds, at_a_time):
    found = chapters.elapsed([run(*about) for about in runs])
    assert found[0] == pytest.approx(seconds, abs=0.01) and found[1] == at_a_time
