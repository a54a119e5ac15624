"""The strict runner, on chapters of a few cells written for these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import joblib
import nbformat
import pytest

import serlib
from serbook.lesson import plain
from serbook.runner import chapters, kernels, names, notebooks
from serbook.runner.notebooks import ChapterError, UsageError
from serbook.site import publish
from serlib import __main__ as cli
from serlib import records

TOY = """
# %% [markdown]
# # 01 A toy
#
# A figure in {numref}`fig-toy`, a citation {cite}`cai2021`, a {term}`UA` and $\\frac{1}{C}$.

# %% tags=["parameters"]
profile = "demo"
rate = 0.5
seeds = [0, 1]
flag = False
name = ""

# %%
from serbook.lesson import cells
cells.cost("01_toy")

# %%
print(profile, rate, seeds, flag, name)

# %% mystnb={"image": {"alt": "A line rising"}, "figure": {"caption": "A line.", "name": "fig-toy"}}
import matplotlib.pyplot as plt
plt.plot([0, 1]);
"""
PARAMETERS = """
# %% tags=["parameters"]
profile = "demo"
"""
KNOWN = {
    "profile": "demo", "rate": 0.5, "n": 3, "flag": False, "seeds": [0, 1], "rates": [0.1],
    "mixed": [1, "a"], "empty": [], "none": None, "table": {"a": 1}, "name": "",
}  # fmt: skip


def text(run) -> str:
    """All that the cells of an executed notebook printed."""
    cells = nbformat.read(run.notebook, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


# ---------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rate": 2}, {"rate": 2.0}),
        ({"n": 0, "flag": True}, {"n": 0, "flag": True}),
        ({"rates": [1, 0.5]}, {"rates": [1.0, 0.5]}),
        ({"seeds": (4, 5)}, {"seeds": [4, 5]}),
        ({"seeds": []}, {"seeds": []}),
        ({"mixed": ["x", None]}, {"mixed": ["x", None]}),
        ({"empty": ["x"], "none": 1}, {"empty": ["x"], "none": 1}),
    ],
)
def test_right_parameters_pass(given, expected):
    checked = notebooks.check(given, KNOWN)
    assert checked == expected
    assert [type(v) for v in checked.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    "given",
    [
        {"rates": 0.1},
        {"rates": ["0.1"]},
        {"rate": "0.5"},
        {"rate": True},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"n": 1.0},
        {"n": True},
        {"n": None},
        {"flag": 1},
        {"flag": "false"},
        {"seeds": [0, 1.5]},
        {"seeds": [[0]]},
        {"name": 1},
        {"table": []},
        {"profile": "large"},
        {"Rate": 0.5},
    ],
)
def test_wrong_parameters_are_refused(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        notebooks.check(given, KNOWN)


def test_paths_are_the_callers_and_names_stay(tmp_path, monkeypatch):
    """A kernel works in a folder of its own; a name on the hub is no path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    given = {
        "encoder": "./mine",
        "experts": ["./mine", "microsoft/wavlm-base"],
        "n": [1, 2],
        "scheduler": "tcp://node1:8786",
        "data_root": "mine",
        "empty_root": "",
        "corpus": "x",
    }
    here = str(tmp_path / "mine")
    found = notebooks.located(given)
    assert found == given | {"encoder": here, "data_root": here,
                             "experts": [here, "microsoft/wavlm-base"]}  # fmt: skip
    for wrong in ({"encoder": "./ours"}, {"experts": ["./mine", "/no/where"]}, {"x": "~/no-such"}):
        with pytest.raises(UsageError, match=f"parameter {next(iter(wrong))}: there is no /"):
            notebooks.located(wrong)


def test_refusal_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown parameter 'sed'.*rate=0.5.*seeds=\[0, 1\]"):
        notebooks.check({"sed": 1}, KNOWN)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rate=1e-4", 1e-4),
        ("rate=3", 3),
        ("n=-2", -2),
        ("flag=false", False),
        ("flag=True", True),
        ("seeds=[0, 2]", [0, 2]),
        ("mixed=['a', 1]", ["a", 1]),
        ("none=null", None),
        ("name=12e4567", "12e4567"),  # papermill makes this number infinite
        ("name=false", "false"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("unknown=1", "1"),
    ],
)
def test_command_line_values_are_read_by_declared_type(text, value):
    read = notebooks.parse([text], KNOWN)[text.split("=")[0]]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("texts", [["rate"], ["n=01"], ["flag=no"], ["n=1+1"], ["n=1", "n=2"]])
def test_unreadable_command_line_values_are_refused(texts):
    with pytest.raises(UsageError):
        notebooks.parse(texts, KNOWN)


@pytest.mark.parametrize(
    "line",
    ["x = 1 + 1", "x = y = 1", "x, y = 1, 2", "import os", "x = [i for i in (1,)]", "x: int",
     "x = 1e999", "x = {1, 2}", "x = b'a'", "x.y = 1", "x += 1"],
)  # fmt: skip
def test_parameters_cell_holds_literals_only(write_chapter, line):
    source = write_chapter(PARAMETERS + line + "\n")
    with pytest.raises(ChapterError, match="line 2"):
        notebooks.declared(notebooks.read(source))


def test_parameters_cell_is_read_without_regular_expressions(write_chapter):
    source = write_chapter(PARAMETERS + 'x: int | None = None  # a = b\ny = "a=b=c"\nz = -1.5\n')
    declared = notebooks.declared(notebooks.read(source))
    assert declared == {"profile": "demo", "x": None, "y": "a=b=c", "z": -1.5}


@pytest.mark.parametrize("body", ["# %%\nx = 1", PARAMETERS + PARAMETERS])
def test_exactly_one_parameters_cell(write_chapter, body):
    with pytest.raises(ChapterError, match="tagged 'parameters'"):
        notebooks.declared(notebooks.read(write_chapter(body)))


# ----------------------------------------------------------------------------------- executing


def test_executes_once_and_publishes(write_chapter, tmp_path, steady, capfd):
    source = write_chapter(TOY)
    before = {p.name: p.read_bytes() for p in source.parent.iterdir()}
    run = chapters.execute(source, "smoke", {"rate": 2}, out_root=tmp_path / "out")
    assert run.ok and not run.cached, run.error
    assert text(run) == "smoke 2.0 [0, 1] False \n"
    assert run.parameters["rate"] == 2.0
    assert 10 < run.peak_mb < 4000 and 0 < run.seconds < 120 and len(run.cells) == 5
    shown = capfd.readouterr().err
    assert "01_toy   1/5" in shown and "TCP" not in shown

    assert {p.name: p.read_bytes() for p in source.parent.iterdir()} == before
    assert {p.name for p in run.folder.iterdir()} == {".lock", "01_toy.ipynb", "run.json"}

    again = chapters.execute(source, "smoke", {"rate": 2.0}, out_root=tmp_path / "out")
    assert again.cached and again.seconds == run.seconds
    assert capfd.readouterr().err == ""
    assert chapters.lookup(source, "smoke", {"rate": 2}, tmp_path / "out") == again
    assert chapters.lookup(source, "demo", out_root=tmp_path / "out") is None


def test_published_notebook_is_clean_and_the_same_each_time(write_chapter, tmp_path):
    source = write_chapter(TOY)
    first = chapters.execute(source, out_root=tmp_path)
    one = nbformat.read(first.notebook, as_version=4)
    nbformat.validate(one)
    two = nbformat.read(
        chapters.execute(source, out_root=tmp_path, force=True).notebook, as_version=4
    )
    assert [c.id for c in one.cells] == [c.id for c in two.cells]
    assert set(one.metadata) == {"kernelspec", "language_info", "serlib"}
    assert one.metadata.kernelspec.name == "python3"
    assert one.metadata.kernelspec.language == one.metadata.language_info.name == "python"
    assert not {"papermill", "execution"} & {key for c in one.cells for key in c.metadata}
    assert "input_path" not in first.notebook.read_text()
    # nothing differs from the default, so nothing is injected and the pair can agree
    assert notebooks.compare(source, first.notebook) == []
    shown = one.cells[2].outputs[0].data
    assert set(shown) == {"text/markdown"} and "profile `demo`" in shown["text/markdown"]
    assert f"{first.seconds / 60:.1f} minutes" in shown["text/markdown"]


def test_a_name_depends_on_source_and_parameters(write_chapter):
    source = write_chapter(PARAMETERS + "x = 1")
    first = names.key(source, {"x": 1})
    assert first == names.key(source, {"x": 1}) != names.key(source, {"x": 2})
    source.write_text(source.read_text() + "# more\n")
    assert names.key(source, {"x": 1}) != first


def failed(write_chapter, tmp_path, code: str, **options):
    source = write_chapter(PARAMETERS + "\n# %%\nprint('before')\n\n# %%\n" + code
                           + "\n\n# %%\nprint('after')\n")  # fmt: skip
    run = chapters.execute(source, "smoke", out_root=tmp_path, **options)
    assert run.status == "failed" and not run.ok
    assert json.loads((run.folder / "run.json").read_text())["status"] == "failed"
    assert chapters.lookup(source, "smoke", out_root=tmp_path) is None
    assert "before" in run.notebook.read_text()
    assert "cell 4 of 5" in run.error and code.splitlines()[0] in run.error
    assert "\x1b" not in run.error
    return run


def test_failing_cell_is_shown(write_chapter, tmp_path):
    run = failed(write_chapter, tmp_path, "x = {}\nx['missing']")
    assert "KeyError: 'missing'" in run.error


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(0)", "import sys; sys.exit()", "import os; os._exit(0)"]
)
def test_leaving_early_is_a_failure(write_chapter, tmp_path, code):
    failed(write_chapter, tmp_path, code)


def test_killed_kernel_is_a_failure(write_chapter, tmp_path):
    run = failed(write_chapter, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "died" in run.error and run.peak_mb > 10
    status = [c.metadata.papermill.status for c in nbformat.read(run.notebook, as_version=4).cells]
    assert set(status) == {"completed"}  # what papermill says, and why nobody asks it


def test_crash_shows_what_the_kernel_said_last(write_chapter, tmp_path):
    code = "import faulthandler, ctypes; faulthandler.enable(); ctypes.string_at(0)"
    run = failed(write_chapter, tmp_path, code)
    assert "Segmentation fault" in run.error


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(write_chapter, tmp_path, timeout):
    with pytest.raises(UsageError, match="seconds above 0"):
        chapters.execute(write_chapter(PARAMETERS), out_root=tmp_path / "out", timeout=timeout)


def test_a_slow_cell_is_given_its_time(write_chapter, tmp_path):
    """One that works is never given up, nor is one whose child works, or that waits at a lock."""
    work = "import time; t = time.time()\nwhile time.time() - t < 14: sum(range(1000))"
    held = tmp_path / "held.lock"
    code = f"""
# %%
{work}

# %%
import subprocess, sys
subprocess.run([sys.executable, "-c", {work!r}], check=True)

# %%
import filelock
try:
    filelock.FileLock({str(held)!r}).acquire(timeout=14)
except filelock.Timeout:
    print("through")
"""
    with filelock.FileLock(held):
        run = chapters.execute(write_chapter(PARAMETERS + code), "smoke", out_root=tmp_path / "out",
                               timeout=8)  # fmt: skip
    assert run.ok, run.error
    assert "through" in text(run)


def test_the_line_that_names_a_crash_is_kept():
    log = "hello\nFatal Python error: Aborted\n" + "frame " * 9
    assert kernels.last_words(log, size=12) == "Fatal Python error: Aborted\n...\nframe frame "


def test_timeout_is_a_failure_and_leaves_no_process(write_chapter, tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    run = failed(write_chapter, tmp_path, code, timeout=10)
    assert "Timeout" in run.error
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_failure_is_tried_again_and_can_heal(write_chapter, tmp_path):
    marker = tmp_path / "marker"
    source = write_chapter(PARAMETERS + f"\n# %%\nassert open({str(marker)!r}).read()\n")
    assert not chapters.execute(source, "smoke", out_root=tmp_path / "out").ok
    marker.write_text("x")
    run = chapters.execute(source, "smoke", out_root=tmp_path / "out")
    assert run.ok and not run.cached
    assert not list(run.folder.glob("*partial*"))


@pytest.mark.parametrize("damage", ["", "{", '{"status": "ok"}', "[]"])
def test_torn_status_file_means_not_done(write_chapter, tmp_path, damage):
    source = write_chapter(PARAMETERS)
    run = chapters.execute(source, "smoke", out_root=tmp_path)
    (run.folder / "run.json").write_text(damage)
    assert chapters.lookup(source, "smoke", out_root=tmp_path) is None
    assert not chapters.execute(source, "smoke", out_root=tmp_path).cached


def test_two_processes_run_a_chapter_once(write_chapter, tmp_path):
    count = tmp_path / "count"
    source = write_chapter(
        PARAMETERS + f"\n# %%\nimport time; open({str(count)!r}, 'a').write('x'); time.sleep(2)\n"
    )
    runs = []
    threads = [
        threading.Thread(
            target=lambda: runs.append(
                subprocess.run(
                    [sys.executable, "-c", "import sys; from serbook.runner import names; "
                     "from serbook.runner import chapters as c; "
                     "names.reads = lambda source, parameters: {}; "
                     "r = c.execute(sys.argv[1], 'smoke', out_root=sys.argv[2]); "
                     "print(r.ok, r.cached)", source, tmp_path / "out"],
                    capture_output=True, text=True,
                ).stdout.strip()
            )
        )
        for _ in range(2)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "x"
    assert sorted(runs) == ["True False", "True True"]


def test_nothing_is_written_into_the_book(write_chapter, tmp_path):
    source = write_chapter(PARAMETERS + "\n# %%\nopen('stray.txt', 'w').write('x')\n")
    with pytest.raises(ChapterError, match="outside|elsewhere"):
        chapters.execute(source, "smoke", out_root=source.parent / "out")
    run = chapters.execute(source, "smoke", out_root=tmp_path / "out")
    assert run.ok and (run.folder / "stray.txt").exists()
    assert [p.name for p in source.parent.iterdir()] == [source.name]


def test_paths_with_braces_and_blanks_work(write_chapter, tmp_path):
    run = chapters.execute(write_chapter(PARAMETERS), "smoke", out_root=tmp_path / "a {b} c")
    assert run.ok, run.error


def test_kernel_is_this_python_with_this_package_and_home(write_chapter, tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "somebody watches")
    monkeypatch.setenv("SERLIB_HOME", os.path.relpath(tmp_path / "home"))
    code = """
# %%
import os, sys, serlib
from serlib import records
from tqdm.auto import tqdm
print(sys.executable, serlib.__file__, records.home(), "JPY_SESSION_NAME" in os.environ, sep="\\n")
for _ in tqdm([1]): pass
"""
    run = chapters.execute(write_chapter(PARAMETERS + code), "smoke", out_root=tmp_path / "out")
    executable, package, home, watched = text(run).splitlines()
    assert executable == sys.executable and watched == "False"
    assert Path(package) == Path(serlib.__file__) and Path(home) == tmp_path / "home"
    assert "widget" not in run.notebook.read_text() and "1/1" not in run.notebook.read_text()


def test_peak_memory_counts_processes_that_a_chapter_starts(write_chapter, tmp_path):
    child = "import time; x = bytearray(b'x') * 400_000_000; time.sleep(3)"
    code = f"\n# %%\nimport subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])\n"
    run = chapters.execute(write_chapter(PARAMETERS + code), "smoke", out_root=tmp_path)
    assert 400 < run.peak_mb < 700


def test_peak_memory_is_the_kernels_own(write_chapter, tmp_path):
    hold = bytearray(600_000_000)  # a child inherits its parent's ru_maxrss, but not its VmHWM
    for i in range(0, len(hold), 4096):
        hold[i] = 1
    small = chapters.execute(write_chapter(PARAMETERS), "smoke", out_root=tmp_path)
    del hold
    code = "\n# %%\nx = bytearray(300_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\ndel x\n"
    large = chapters.execute(write_chapter(PARAMETERS + code), "smoke", out_root=tmp_path)
    assert small.peak_mb < 250
    assert 270 < large.peak_mb - small.peak_mb < 330


# ------------------------------------------------------------------------- the book as a whole


def test_book_goes_on_after_a_failure(write_chapter, tmp_path):
    write_chapter(PARAMETERS + "\n# %%\n1 / 0\n", "00_bad")
    folder = write_chapter(PARAMETERS, "01_good").parent
    (folder / "helper.py").write_text("raise SystemExit")
    seen = []
    options = dict(out_root=tmp_path / "out", report=seen.append, jobs=1)
    runs = chapters.book("smoke", folder=folder, **options)
    assert [(r.chapter, r.ok) for r in runs] == [("00_bad", False), ("01_good", True)]
    assert seen == runs


def test_book_refuses_a_broken_chapter_before_running_any(write_chapter, tmp_path):
    write_chapter(PARAMETERS, "00_good")
    folder = write_chapter("# %% tags=['parameters']\nrate = 1.0", "01_no_profile").parent
    with pytest.raises(ChapterError, match="01_no_profile.*profile"):
        chapters.book("smoke", folder=folder, out_root=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ChapterError, match="no chapters"):
        chapters.book("smoke", folder=tmp_path / "nowhere")


def test_chapters_are_found_by_number_name_and_path(write_chapter):
    path = write_chapter(PARAMETERS, "02_baseline")
    write_chapter(PARAMETERS, "03_ctc")
    for name in ("02", "02_baseline", "02_baseline.py", str(path)):
        assert notebooks.find(name, path.parent) == path
    for name in ("2", "04", "baseline", ""):
        with pytest.raises(ChapterError, match="02_baseline, 03_ctc"):
            notebooks.find(name, path.parent)


def test_pair_is_written_and_compared(write_chapter, tmp_path, steady):
    source = write_chapter(TOY)
    run = chapters.execute(source, out_root=tmp_path / "out")
    beside = publish.pair(run, source.parent)
    assert beside == source.with_suffix(".ipynb")
    assert notebooks.compare(source, plain.read(beside)) == []
    first = beside.read_bytes()
    assert "**Fig. 1.** A line." in first.decode() and "{term}" not in first.decode()
    assert publish.pair(run, source.parent).read_bytes() == first
    took = notebooks.measured(source.parent)
    assert took == {"01_toy": {"profile": "demo", "seconds": run.seconds, "peak_mb": run.peak_mb,
                               "cores": joblib.cpu_count(), "began": run.began}}  # fmt: skip

    for old, new, part in (("A figure", "Figures", "source"), ("rising", "falling", "metadata")):
        text = source.read_text()
        source.write_text(text.replace(old, new))
        differing = notebooks.compare(source, plain.read(beside))
        assert any(f"{part} differs" in line for line in differing)
        source.write_text(text)
    with open(source, "a") as file:
        file.write("\n# %%\nmore = 1\n")
    assert "cells" in notebooks.compare(source, plain.read(beside))[0]
    with pytest.raises(ChapterError, match="not that of its source"):
        publish.pair(run, source.parent)


def test_a_shipped_notebook_says_with_what_more_it_was_made(write_chapter, tmp_path, monkeypatch):
    """It has the chapter's own parameters, for whoever runs it, and outputs of more."""
    source, more = write_chapter(TOY), {"seeds": [0, 1, 2], "rate": 2.0}
    monkeypatch.setitem(notebooks.SHIPPED, "01_toy", more)
    with pytest.raises(ChapterError, match="run: serlib run 01 --shipped"):
        publish.finished(folder=source.parent)
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    assert cli.main(["run", str(source), "--shipped"]) == 0
    (run,) = publish.finished(folder=source.parent)
    beside = publish.pair(run, source.parent)
    assert notebooks.compare(source, plain.read(beside)) == []
    cells = nbformat.read(beside, as_version=4).cells
    assert "demo 2.0 [0, 1, 2]" in cells[3].outputs[0].text
    said = cells[2].outputs[0].data["text/markdown"]
    assert "made with `seeds = [0, 1, 2]`, `rate = 2.0`; as it stands" in said
    (shown,) = publish.shipped(source.parent)
    assert shown.parameters == more and shown.profile == "demo"
    other = chapters.execute(source, "smoke", out_root=tmp_path / "out")
    elsewhere = nbformat.read(other.notebook, as_version=4)
    said = elsewhere.cells[3].outputs[0].data["text/markdown"]
    assert said.endswith("The text tells of the run that the book ships; outputs are of this run.")
    assert "parameters" not in elsewhere.metadata.serlib  # paths of the reader's may be among them
    other = chapters.execute(source, parameters={"rate": 2.0}, out_root=tmp_path / "out")
    with pytest.raises(ChapterError, match="not that of its source"):
        publish.pair(other, source.parent)


def test_nothing_of_the_readers_surroundings_changes_a_chapter(
    write_chapter, tmp_path, monkeypatch
):
    """Back ends, settings files, start-up code and flags that no name of a run holds."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    source = write_chapter(PARAMETERS + """
# %%
import sys, matplotlib.pyplot as plt, pandas as pd
from serbook.figures import plots
plots.style(profile)
print(sys.flags.optimize, __debug__, sys.warnoptions, "surprise" in globals(), "é α")
print(pd.DataFrame({f"column {i}": [1.0] for i in range(12)}))

# %%
plt.subplots(figsize=(1, 1))[1].set_title("title");
""")  # fmt: skip
    plain = chapters.execute(source, out_root=tmp_path / "out")
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\nfigure.dpi: 300\nbackend: pdf\naxes.facecolor: red\n")
    start = tmp_path / "ipython" / "profile_default" / "startup"
    start.mkdir(parents=True)
    (start / "00.py").write_text("import pandas\nsurprise = pandas.options.display.precision = 1\n")
    for name, value in {
        "MPLBACKEND": "Agg", "MATPLOTLIBRC": settings, "MPLCONFIGDIR": tmp_path, "COLUMNS": "40",
        "IPYTHONDIR": tmp_path / "ipython", "PYTHONSTARTUP": start / "00.py", "LC_ALL": "C",
        "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    odd = chapters.execute(source, out_root=tmp_path / "out", force=True)
    assert odd.ok, odd.error
    only = "['ignore:A worker stopped while:UserWarning']"  # no "error", and no other filter
    assert text(odd) == text(plain) and f"0 True {only} False é α" in text(odd)
    assert images(odd) == images(plain) and len(images(odd)) == 1


def images(run) -> list[str]:
    cells = nbformat.read(run.notebook, as_version=4).cells
    data = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    return [d["image/png"] for d in data if "image/png" in d]


def test_figures_are_shown_by_stock_papermill_too(write_chapter, tmp_path):
    source = write_chapter(PARAMETERS + """
# %%
import matplotlib.pyplot as plt
from serbook.figures import plots
plots.style(profile)

# %%
plt.subplots(figsize=(1, 1));
""")  # fmt: skip
    nbformat.write(notebooks.read(source), tmp_path / "in.ipynb")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    env = os.environ | {"MPLBACKEND": "svg", "MATPLOTLIBRC": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb"], cwd=tmp_path,
                   env=env, check=True, capture_output=True)  # fmt: skip
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert any("image/png" in o.get("data", {}) for o in cells[-1].outputs)


def test_paths_are_those_of_the_caller_and_missing_ones_are_refused(
    write_chapter, tmp_path, monkeypatch
):
    source = write_chapter("""
# %% tags=["parameters"]
profile = "demo"
corpus = ""
data_root = ""
encoder = ""

# %%
print(corpus, data_root, encoder, sep="\\n")
""")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("key\n")
    given = {"corpus": "data/mine.csv", "data_root": "~/data", "encoder": "openai/whisper-base"}
    run = chapters.execute(source, parameters=given, out_root=tmp_path / "out")
    assert text(run).split() == [f"{tmp_path}/data/mine.csv", f"{tmp_path}/data", given["encoder"]]
    for name, value in {"corpus": "mine.csv", "data_root": "dta", "encoder": "~/none"}.items():
        with pytest.raises(UsageError, match=f"parameter {name}: there is no {tmp_path}/"):
            chapters.execute(source, parameters={name: value}, out_root=tmp_path / "out")
    assert chapters.execute(source, parameters={"corpus": "demo"}, out_root=tmp_path / "out").ok


def test_a_finished_chapter_needs_no_write(write_chapter, tmp_path, monkeypatch):
    source = write_chapter(PARAMETERS)
    first = chapters.execute(source, out_root=tmp_path / "out")

    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(chapters.FileLock, "acquire", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert chapters.execute(source, out_root=tmp_path / "out").key == first.key


def test_pair_refuses_other_parameters_and_failures(write_chapter, tmp_path):
    source = write_chapter(TOY)
    run = chapters.execute(source, "smoke", out_root=tmp_path / "out")
    with pytest.raises(ChapterError, match="not that of its source"):
        publish.pair(run, source.parent)
    bad = chapters.execute(write_chapter(PARAMETERS + "\n# %%\n1 / 0\n", "02_bad"), "smoke",
                           out_root=tmp_path / "out")  # fmt: skip
    with pytest.raises(ChapterError, match="failed"):
        publish.pair(bad, source.parent)
    bad.notebook.unlink()  # killed before it had written anything
    with pytest.raises(ChapterError, match="failed"):
        publish.pair(bad, source.parent)
    with pytest.raises(ChapterError, match="02_bad"):
        publish.build([run, bad], tmp_path / "site")
    assert not source.with_suffix(".ipynb").exists()


def test_environment_is_recorded(write_chapter, tmp_path):
    run = chapters.execute(write_chapter(PARAMETERS), "smoke", out_root=tmp_path)
    recorded = records.read_json(run.folder / "run.json")
    assert recorded["environment"]["packages"]["torch"].startswith("2.")
    assert recorded["parameters"] == {"profile": "smoke"} and recorded["key"] == run.folder.name
