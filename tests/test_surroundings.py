"""Homes, disks and terminals that are not as usual: finished work is read, all else is one line."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from serlib import __main__ as cli
from serlib import records
from serlib.experiments import experiment, sweep
from serlib.recipes import papers

FLOOR = ["train", "floor", "--set", "system=majority", "--profile", "smoke"]


def refuse(number: int):
    """A system call that is refused."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def test_finished_runs_are_read_without_a_write_or_a_lock(own_home, monkeypatch, capsys):
    """As in a course, whose results are there for all to read."""
    recipe = papers.floor("majority", "smoke")
    run = experiment.run(recipe, progress=False)
    for owner, name in ((records, "atomic_write"), (filelock, "FileLock"), (Path, "mkdir"),
                        (Path, "unlink"), (os, "replace"), (os, "rmdir")):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse(errno.EROFS))
    assert (
        experiment.run(recipe, progress=False).predictions("test").equals(run.predictions("test"))
    )
    assert len(sweep.sweep([recipe], progress=False).summary()) == 1
    assert cli.main(FLOOR) == 0
    capsys.readouterr()
    assert cli.main([*FLOOR, "--seeds", "7"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("serlib: ")


@pytest.mark.parametrize(
    ("owner", "name", "number", "words"),
    [
        (os, "fsync", errno.ENOSPC, "make room there, or set SERLIB_HOME to"),
        (os, "fsync", errno.EDQUOT, "make room there, or set SERLIB_HOME to"),
        (os, "replace", errno.EACCES, "set SERLIB_HOME to a folder that can be written"),
        (Path, "mkdir", errno.EROFS, ""),
        (
            fcntl,
            "flock",
            errno.EOPNOTSUPP,
            "cannot be locked there; set SERLIB_HOME to a folder on",
        ),
        (fcntl, "flock", errno.ENOLCK, "cannot be locked there; set SERLIB_HOME to a folder on"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    own_home, monkeypatch, capsys, owner, name, number, words
):
    monkeypatch.setattr(owner, name, refuse(number))
    assert cli.main(FLOOR) == 1
    told = capsys.readouterr().err
    assert os.strerror(number) in told and words in told and told.count("\n") == 1
    if name != "mkdir":
        assert str(own_home / "runs") in told
    monkeypatch.undo()
    os.environ["SERLIB_HOME"], before = str(own_home), os.environ["SERLIB_HOME"]
    assert cli.main(FLOOR) == 0  # nothing that it left is in the way
    os.environ["SERLIB_HOME"] = before


@pytest.mark.parametrize("place", ["file", "file/below", "dangling"])
def test_a_home_that_is_no_folder(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / place))
    assert cli.main(FLOOR) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / place) in told and told.count("\n") == 1 and "SERLIB_HOME" in told


def test_what_killed_processes_left_is_swept(own_home):
    recipe = papers.floor("majority", "smoke")
    run = experiment.record(recipe)
    litter = [run.path / f".{name}.1-ab.tmp" for name in ("config.json", "status.json", "x.csv")]
    for file in litter:
        file.write_text("half")
    half = [own_home / "features" / f"cnn-{i}.partial" for i in (0, 1)]
    for file, age in zip(half, (0, 7200), strict=True):
        records.atomic_write(file, "half")
        os.utime(file, times=(time.time() - age,) * 2)
    experiment.run(recipe, progress=False)
    assert not any(file.exists() for file in litter)
    assert [file.exists() for file in half] == [True, False]  # one may be written at this time
    (run.path / "checkpoint").mkdir()  # of one that was killed just after it had finished
    (run.path / "checkpoint" / "state.pt").write_bytes(b"x" * 1000)
    before = (run.path / "status.json").read_bytes()
    assert experiment.run(recipe, progress=False).done
    assert not (run.path / "checkpoint").exists()
    assert (run.path / "status.json").read_bytes() == before


def test_a_config_that_is_swept_while_it_is_written_is_there_all_the_same(tmp_path, monkeypatch):
    """Who opens a run writes its config without the lock, which somebody else may hold."""
    config, replace = {"a": 1}, os.replace

    def swept(temporary, path):
        monkeypatch.setattr(os, "replace", replace)
        other = records.Run.open(tmp_path, config, key="k")
        with other.lock():
            assert not Path(temporary).exists()
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", swept)
    assert records.Run.open(tmp_path, config, key="k").config == config


def test_a_name_that_is_no_text_is_told(tmp_path, monkeypatch, capsys):
    odd = os.fsdecode(b"m\xff.csv")
    (tmp_path / odd).write_text("key\n")
    assert cli.main(["predict", "no-such-run", str(tmp_path / odd)]) == 1
    with pytest.raises(records.RecordError, match=r"cannot hold '\\udcff'"):
        records.write_json(tmp_path / "x.json", {"corpus": odd})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_greek_letters_does_not_end_the_work(tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0",
                   "SERLIB_HOME": str(tmp_path), "LC_ALL": "C"}  # fmt: skip
    for command in (["claims", "--of", "03"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "serlib", *command], env=environment, capture_output=True
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    code = "from serlib import __main__ as m; m._demo_corpus = lambda a: print('\\u03b1'); "
    code += "raise SystemExit(m.main(['demo', 'corpus']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"\\u03b1\n"), done.stderr.decode()
