from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serlib import records
from serlib.records import RecordError, Run


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    """Start a real second process that runs `code`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    path = str(Path(records.__file__).parents[2])
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, **options
    )


def new(root: Path, **config) -> Run:
    return Run.open(root, config, key=f"run-{records.digest(config)}")


# home, files


def test_home_is_chosen_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "x"))
    assert records.home() == tmp_path / "x" and not records.home().exists()
    monkeypatch.setenv("SERLIB_HOME", "~/y")
    assert records.home() == Path.home() / "y"
    monkeypatch.setenv("SERLIB_HOME", "")  # set but empty counts as not set
    assert records.home().is_absolute() and records.home().name == "serlib"


def test_atomic_write_keeps_bytes_and_line_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    records.atomic_write(path, "é\r\n\n")
    assert path.read_bytes() == "é\r\n\n".encode()
    records.atomic_write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(path.parent) == ["file"]


def test_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.atomic_write(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        records.atomic_write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_writer_killed_mid_write_leaves_the_old_content(tmp_path, moment):
    run = new(tmp_path, a=1)
    path = run.path / "model.safetensors"
    records.atomic_write(path, b"old")
    code = """
        import os, signal, sys
        from serlib import records
        setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        records.atomic_write(sys.argv[1], b"new" * 1000)
    """
    assert python(code, path, moment).wait(60) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(run.path.glob(".*.tmp"))) == 1  # it did begin to write
    with run.lock():
        assert not list(run.path.glob(".*.tmp")) and path.read_bytes() == b"old"


def test_writer_killed_at_any_time_leaves_one_whole_version(tmp_path):
    path = tmp_path / "file"
    code = """
        import sys
        from serlib import records
        for i in range(10**9):
            records.atomic_write(sys.argv[1], bytes([i % 256]) * 3_000_000)
            if i == 0:
                print(flush=True)
    """
    for delay in (0.011, 0.047):
        writer = python(code, path, stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        data = path.read_bytes()
        assert len(data) == 3_000_000 and data == data[:1] * 3_000_000


# runs


@dataclasses.dataclass(frozen=True)
class Outer:
    folder: Path = Path("a/b")
    rates: tuple = (0.1, 1e-5)


def test_open_makes_the_folder_once_and_compares_configs(tmp_path):
    run = Run.open(tmp_path, {"lr": 0.1, "layers": (1, 2), "x": float("nan")}, key="a")
    assert run.path == tmp_path / "a"
    assert run.config == {"lr": 0.1, "layers": [1, 2], "x": None}
    assert Run.open(tmp_path, {"lr": 0.1, "layers": [1, 2], "x": None}, key="a") == run
    with pytest.raises(RecordError, match="another config"):
        Run.open(tmp_path, {"lr": 0.2}, key="a")
    assert Run.open(tmp_path, Outer(), key="b").config == {"folder": "a/b", "rates": [0.1, 1e-05]}


def test_key_defaults_to_config_and_source(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "source_digest", lambda: "1")
    first = Run.open(tmp_path, {"lr": 0.1}).path
    assert Run.open(tmp_path, {"lr": 0.1}).path == first != Run.open(tmp_path, {"lr": 0.2}).path
    monkeypatch.setattr(records, "source_digest", lambda: "2")
    assert Run.open(tmp_path, {"lr": 0.1}).path != first


@pytest.mark.parametrize("key", ["", "..", ".x", "a/b", "/x", "a\\b", "-x", "x\n", "é", "a" * 201])
def test_key_stays_in_the_folder_of_runs(tmp_path, key):
    with pytest.raises(RecordError, match="no file name"):
        Run.open(tmp_path, {}, key=key)
    assert not list(tmp_path.iterdir())


def test_life_of_a_run(tmp_path):
    run = new(tmp_path, a=1)
    assert run.status == {"state": "unfinished"} and not run.done
    with pytest.raises(RecordError, match="unfinished: run its recipe again"):
        _ = run.summary
    with run.lock():
        assert records.read_json(run.path / "environment.json") == records.environment()
        assert not (run.path / "status.json").exists()
        run.finish({"ua": np.float64(0.5), "n": np.int64(3), "none": float("nan")})
    assert run.done and run.summary == {"ua": 0.5, "n": 3, "none": None}
    with run.lock():  # reading a finished run does not touch it
        assert run.done


def test_status_is_written_last_and_whole(tmp_path, monkeypatch):
    run = new(tmp_path, a=1)
    order = []
    write = records.atomic_write

    def spy(path, data):
        order.append(path.name)
        write(path, data)

    monkeypatch.setattr(records, "atomic_write", spy)
    with run.lock():
        run.save_predictions(
            "test", pd.DataFrame({"truth": [0]}, index=pd.Index(["a"], name="key"))
        )
        run.log(epoch=1)
        run.finish({})
    assert order[-1] == "status.json" and "predictions_test.csv" in order


def test_status_that_is_damaged_means_unfinished(tmp_path):
    run = new(tmp_path, a=1)
    for damage in ("", "{", '{"state": "do'):
        (run.path / "status.json").write_text(damage)
        assert not run.done and run.status["state"] == "unfinished"
    with run.lock():
        run.finish({})
    assert run.done


def test_failed_run_tells_why_and_can_be_trained_again(tmp_path):
    run = new(tmp_path, a=1)
    with pytest.raises(ZeroDivisionError), run.lock():
        run.log(epoch=1)
        raise ZeroDivisionError("lr = 0")
    assert run.status["state"] == "failed" and not run.done
    with pytest.raises(RecordError, match="failed ZeroDivisionError: lr = 0: run its recipe"):
        _ = run.summary
    assert len(run.history()) == 1  # what it did stays readable
    with run.lock():
        assert run.status == {"state": "unfinished"}
        run.finish({"ok": 1})
    assert run.summary == {"ok": 1}


def test_interrupt_is_no_failure_and_an_error_after_finish_neither(tmp_path):
    run = new(tmp_path, a=1)
    with pytest.raises(KeyboardInterrupt), run.lock():
        raise KeyboardInterrupt
    assert run.status == {"state": "unfinished"}
    with pytest.raises(OSError), run.lock():
        run.finish({})
        raise OSError
    assert run.done


WORKER = """
    import logging, sys, time
    from serlib import records
    from serlib.records import Run
    records.environment = dict  # spares the import of torch
    logging.basicConfig(format="%(message)s")
    run = Run.open(sys.argv[1], {"a": 1}, key="shared")
    with run.lock():
        if run.done:
            print("read", run.summary["who"])
        else:
            print("work", flush=True)
            with open(run.path / "work.txt", "a") as file:
                file.write(sys.argv[2])
            time.sleep(float(sys.argv[3]))
            run.log(who=sys.argv[2])
            run.finish({"who": sys.argv[2]})
"""


def test_of_processes_that_ask_for_the_same_run_one_works_and_the_others_wait(tmp_path):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = [python(WORKER, tmp_path, i, 1.5, **pipes) for i in range(3)]
    said = [worker.communicate(timeout=100) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], said
    run = Run(tmp_path / "shared")
    who = run.summary["who"]
    assert sorted(out for out, _ in said) == [f"read {who}\n"] * 2 + ["work\n"]
    assert (run.path / "work.txt").read_text() == who and len(run.history()) == 1
    assert any("waiting" in error for _, error in said)


def test_a_page_does_not_say_that_it_waited_for_another(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the runner of the chapters has it
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = [python(WORKER, tmp_path, i, 1.0, **pipes) for i in range(2)]
    said = [worker.communicate(timeout=100) for worker in workers]
    assert sorted(out[:4] for out, _ in said) == ["read", "work"]
    assert [error for _, error in said] == ["", ""]


def test_lock_of_a_killed_process_is_free(tmp_path):
    worker = python(WORKER, tmp_path, "first", 1000, stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "work\n"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    heir = python(WORKER, tmp_path, "second", 0, **pipes)
    assert "waiting" in heir.stderr.readline()
    worker.kill()
    worker.communicate()
    assert heir.communicate(timeout=100)[0] == "work\n"
    assert Run(tmp_path / "shared").summary == {"who": "second"}


def test_lock_can_be_taken_again_by_its_thread_but_not_by_another(tmp_path):
    run, seen = new(tmp_path, a=1), []

    def enter():
        with run.lock():
            seen.append("in")

    other = threading.Thread(target=enter)
    with run.lock():
        with Run(run.path).lock():  # another object, same folder
            pass
        other.start()
        other.join(0.5)
        assert not seen
    other.join(30)
    assert seen == ["in"]


# metrics


def test_history_returns_rows_in_order(tmp_path):
    run = new(tmp_path, a=1)
    assert run.history().empty
    run.log(epoch=1, loss=np.float32(0.5), note="line\u2028sep \x85 \n")
    run.log(epoch=2, loss=float("nan"), extra=1, never=np.float32("inf"))
    history = run.history()
    assert history["never"].isna().all() and history["never"].dtype == float
    assert history["epoch"].tolist() == [1, 2] and history["loss"][0] == 0.5
    assert np.isnan(history["loss"][1]) and history["note"][0] == "line\u2028sep \x85 \n"
    with pytest.raises(TypeError, match="loss is a ndarray"):
        run.log(loss=np.zeros(2))
    assert len(run.history()) == 2


@pytest.mark.parametrize("cut", range(1, 30))
def test_line_that_was_cut_is_not_read_and_overwritten(tmp_path, cut):
    run = new(tmp_path, a=1)
    run.log(epoch=1, loss=0.5)
    run.log(epoch=2, loss=0.25, é="é")
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert run.history()["epoch"].tolist() == [1]
    run.log(epoch=2, loss=0.25, é="é")
    assert path.read_bytes() == whole


def test_logger_killed_at_any_time_leaves_readable_rows(tmp_path):
    run = new(tmp_path, a=1)
    code = """
        import sys
        from pathlib import Path
        from serlib.records import Run
        run = Run(Path(sys.argv[1]))
        while True:
            run.log(n=len(run.history()), text="x" * 100_000)
            print(flush=True)
    """
    for _ in range(2):
        writer = python(code, run.path, stdout=subprocess.PIPE)
        for _ in range(4):
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
    assert run.history()["n"].tolist() == list(range(len(run.history()))) and len(run.history()) > 7


def test_a_log_is_made_to_hold_what_a_checkpoint_knows(tmp_path):
    run = new(tmp_path, a=1)
    for epoch in range(4):
        run.log(epoch=epoch)
    run.relog([{"epoch": 0}, {"epoch": 1}])
    assert run.history()["epoch"].tolist() == [0, 1]
    run.log(epoch=9)
    assert run.history()["epoch"].tolist() == [0, 1, 9]
    run.relog([{"epoch": 0}, {"epoch": 1}, {"epoch": 9}, {"epoch": 10}])  # more than there are
    assert run.history()["epoch"].tolist() == [0, 1, 9, 10]
    run.relog([])
    assert run.history().empty
