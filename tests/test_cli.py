"""The command line: exit codes, one-line errors, and that each command reaches its function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from serbook.lesson import plain
from serbook.runner import chapters, notebooks
from serbook.site import publish
from serlib import __main__ as cli

CHAPTER = """
# %% [markdown]
# # A toy

# %% tags=["parameters"]
profile = "demo"
rate = 0.5
data_root = ""

# %%
print(profile, rate, data_root)
assert rate < 1
"""


@pytest.fixture
def toy(write_chapter, monkeypatch, steady):
    """A book of one chapter in the place of the real one."""
    source = write_chapter(CHAPTER)
    monkeypatch.setattr(notebooks.find, "__defaults__", (source.parent,))
    monkeypatch.setattr(publish.finished, "__defaults__", ("demo", source.parent, ()))
    monkeypatch.setattr(publish.pair, "__defaults__", (source.parent,))
    for function in (chapters.book,):
        monkeypatch.setitem(function.__kwdefaults__, "folder", source.parent)
    return source


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "serlib", *arguments], capture_output=True, text=True
    )


def test_installed_command_is_main():
    script = Path(sys.executable).with_name("serlib")
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("serlib ") and done.returncode == 0


def test_every_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in "run predict train book site pair machine demo manifest archive".split():
        assert f"\n    {command} " in text
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0 and len(capsys.readouterr().out) > 100


@pytest.mark.parametrize(
    "arguments",
    [[], ["rum"], ["run"], ["book", "--profile", "huge"], ["demo"], ["manifest", "check"],
     ["run", "01", "-q"], ["predict", "x"]],
)  # fmt: skip
def test_wrong_usage_is_two(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "77"], 2, ["no chapter '77'", "01_toy"]),
        (["run", "01", "-p", "rat=1"], 2, ["unknown parameter 'rat'", "rate=0.5"]),
        (["run", "01", "-p", "rate=x"], 2, ["rate", "'x'"]),
        (["run", "01", "-p", "rate=[1]"], 2, ["rate", "expected float"]),
        (["run", "01", "-p", "rate"], 2, ["name=value"]),
        (["run", "01", "-p", "profile=big"], 2, ["smoke, demo, open, full"]),
        (["pair", "01"], 1, ["01_toy", "serlib run 01 -p profile=demo"]),
        (["site", "--profile", "smoke"], 1, ["01_toy", "serlib run 01 -p profile=smoke"]),
        (["manifest", "check", "/no/such.csv"], 2, ["/no/such.csv"]),
    ],
)
def test_what_the_user_can_mend_is_one_line(toy, capsys, arguments, code, words):
    assert cli.main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("serlib: ")
    assert all(word in shown.err for word in words)


def test_a_fault_of_the_package_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(notebooks, "find", lambda chapter: {}[chapter])
    with pytest.raises(KeyError):
        cli.main(["run", "01"])


def test_interruption_is_130(monkeypatch, capsys):
    def interrupt(chapter):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "find", interrupt)
    assert cli.main(["run", "01"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_run_runs_skips_and_forces(toy, capsys, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "01", "-p", "profile=smoke", "-p", "rate=0.25", "-p", "data_root=data"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert "01_toy (smoke): done" in out[0]
    assert f"smoke 0.25 {tmp_path / 'data'}" in Path(out[1]).read_text()  # absolute
    assert cli.main(arguments) == 0
    assert "not run again" in capsys.readouterr().out
    assert cli.main([*arguments, "--force"]) == 0
    assert "done" in capsys.readouterr().out


def test_failed_chapter_is_one_and_shows_the_cell(toy, capsys):
    assert cli.main(["run", str(toy), "-p", "profile=smoke", "-p", "rate=2"]) == 1
    shown = capsys.readouterr()
    assert "FAILED" in shown.out and "assert rate < 1" in shown.err
    assert "AssertionError" in shown.err and "serlib/" not in shown.err
    assert "partial.ipynb" in shown.err


def test_book_pair_and_site(toy, capsys, monkeypatch, tmp_path):
    built = []

    def build(runs, out):
        built.append((list(runs), out))
        return out / "html" / "index.html"

    monkeypatch.setattr(publish, "build", build)
    assert cli.main(["book", "--no-site"]) == 0 and not built
    out = capsys.readouterr().out
    assert "minutes" in out and "01_toy                   ok" in out
    assert "all, added up" in out and "at a time" not in out
    assert cli.main(["book"]) == 0
    assert "index.html" in capsys.readouterr().out
    assert cli.main(["site"]) == 0
    assert [run.chapter for run in built[1][0]] == ["01_toy"] and built[0][1] == built[1][1]
    assert cli.main(["pair"]) == 0
    assert notebooks.compare(toy, plain.read(toy.with_suffix(".ipynb"))) == []

    toy.write_text(toy.read_text().replace("rate < 1", "rate > 1"))
    capsys.readouterr()
    assert cli.main(["book"]) == 1 and len(built) == 2
    shown = capsys.readouterr()
    assert "01_toy                   failed" in shown.out and "failed: 01_toy" in shown.err


def test_the_book_side_by_side_tells_both_times(monkeypatch, capsys, tmp_path):
    asked = []

    def book(profile, **options):
        asked.append((profile, options["jobs"]))
        about = [("00_a", "10:00", 480.0), ("01_b", "10:01", 600.0), ("02_c", "10:11", 12.0)]
        return [
            chapters.ChapterRun(name, profile, {}, "", tmp_path, "ok", seconds, 512.0,
                                began=f"2026-11-22T{time}:00+00:00")
            for name, time, seconds in about
        ]  # fmt: skip

    monkeypatch.setattr(chapters, "book", book)
    assert cli.main(["book", "--no-site", "--jobs", "2"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[2:] if line]
    assert table[-2:] == ["all, added up 18.2".split(), "all, 2 at a time 11.2".split()]
    assert cli.main(["book", "--no-site", "--profile", "smoke"]) == 0
    assert asked == [("demo", 2), ("smoke", None)]


@pytest.mark.parametrize("jobs", ["0", "-1", "1000"])
def test_more_chapters_at_a_time_than_cores_are_refused(jobs, toy, capsys):
    assert cli.main(["book", "--no-site", "--jobs", jobs]) == 2
    assert f"jobs={jobs}" in capsys.readouterr().err


def test_machine_tells_cores_memory_and_minutes(capsys):
    assert cli.main(["machine"]) == 0
    out = capsys.readouterr().out
    for word in ("device", "cpu_count", "memory", "GB", "torch 2.", "results in", "Minutes"):
        assert word in out


def test_demo_commands_reach_their_functions(monkeypatch, capsys, tmp_path):
    from data_manifests.making import __main__ as making
    from data_manifests.making import card, pretrain, roberta, whisper
    from serlib.corpora.demo import corpus

    calls = []
    monkeypatch.setattr(corpus, "make", lambda progress: calls.append(progress) or tmp_path)
    monkeypatch.setattr(pretrain, "pretrain", lambda config, out: calls.append((config, out)))
    monkeypatch.setattr(card, "write", lambda name: calls.append(name))
    assert cli.main(["demo", "corpus"]) == 0 and str(tmp_path) in capsys.readouterr().out
    making.main(["pretrain", "--architecture", "wav2vec2", "--steps", "7"])
    making.main(["card", "demo-wav2vec2"])
    assert calls[0] is True and calls[2] == "demo-wav2vec2"
    config, out = calls[1]
    assert (config.architecture, config.steps, out) == ("wav2vec2", 7, None)
    assert config.hours == pretrain.PretrainConfig().hours
    for module in (whisper, roberta):
        monkeypatch.setattr(module, "pretrain", lambda config, out: calls.append((config, out)))
    making.main(["pretrain", "--architecture", "whisper", "--hours", "0.5"])
    making.main(["pretrain", "--architecture", "roberta", "--out", "here"])
    assert calls[3] == (whisper.WhisperConfig(hours=0.5), None)
    assert calls[4] == (roberta.RobertaConfig(), Path("here"))


def test_manifest_check(tmp_path, capsys, monkeypatch):
    from serlib.data import manifest, tables

    table = pd.DataFrame({"key": ["a", "b"], "wav": ["a.wav", "b.wav"]})
    monkeypatch.setattr(tables, "read", lambda path: table)
    monkeypatch.setattr(manifest, "check", lambda df: [])
    (tmp_path / "a.wav").touch()
    assert cli.main(["manifest", "check", "m.csv"]) == 0
    assert "2 utterances, 0 problems" in capsys.readouterr().err
    assert cli.main(["manifest", "check", "m.csv", "--root", str(tmp_path)]) == 1
    assert "b.wav" in capsys.readouterr().out
    monkeypatch.setattr(manifest, "check", lambda df: ["row 2: odd"])
    assert cli.main(["manifest", "check", "m.csv"]) == 1
    assert capsys.readouterr().out == "row 2: odd\n"


def test_what_needs_the_book_says_so_where_it_is_not_installed():
    code = "import sys; sys.modules['jupytext'] = None; from serlib.__main__ import main; "
    code += "sys.exit(main(['run', '02']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "jupytext" in done.stderr and "pip install 'serlib[book]'" in done.stderr


def test_what_needs_a_cluster_is_not_sent_to_the_books_extra_alone(monkeypatch, capsys):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'distributed'", name="distributed")

    monkeypatch.setattr(cli, "_train", fail)
    assert cli.main(["train", "cai2021"]) == 1
    assert "distributed is not installed" in (said := capsys.readouterr().err)
    assert "'serlib[cluster]' for dask" in said and said.count("\n") == 1


def test_a_missing_module_of_our_own_is_a_fault(monkeypatch):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'serlib.nothing'", name="serlib.nothing")

    monkeypatch.setattr(cli, "_demo_corpus", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["demo", "corpus"])


def test_module_can_be_run():
    assert call("run", "no_such_chapter").returncode == 2
