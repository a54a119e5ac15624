"""Pins exist once: pyproject.toml has ranges, constraints.txt versions, environment.yml neither."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in LINES if not line.startswith("#"))
ASKED = [
    *map(Requirement, PROJECT["dependencies"]),
    *(Requirement(r) for extra in PROJECT["optional-dependencies"].values() for r in extra),
]
# Needed on other Python versions than the one that resolved the file.
OTHER_PYTHONS = {"aiohappyeyeballs", "aiohttp", "aiosignal", "frozenlist", "multidict", "overrides",
                 "propcache", "yarl"}  # fmt: skip


PRETRAIN = [Requirement(r) for r in PROJECT["optional-dependencies"]["pretrain"]]
HAS_PRETRAIN = importlib.util.find_spec("wordfreq") is not None  # make setup leaves it out


def closure(asked: Iterable[Requirement]) -> set[str]:
    """Names of all installed distributions that some requirements need here, directly or not."""
    todo, seen = list(asked), set()
    while todo:
        wanted = todo.pop()
        if (state := (canonicalize_name(wanted.name), frozenset(wanted.extras))) in seen:
            continue
        seen.add(state)
        for text in importlib.metadata.distribution(wanted.name).requires or []:
            need, extras = Requirement(text), wanted.extras or {""}
            if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras):
                todo.append(need)
    return {name for name, _ in seen}


def test_constraints_are_plain_exact_sorted_pins():
    assert all(re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][a-z0-9.]*", line) for line in LINES), LINES
    pins = [line for line in LINES if not line.startswith("#")]
    assert pins == sorted(pins) and len(pins) == len(PINS) > 150


def test_every_dependency_is_pinned_within_its_range():
    for wanted in ASKED:
        pin = PINS[canonicalize_name(wanted.name)]
        assert wanted.specifier, f"{wanted.name} needs a lower bound"
        assert Version(pin) in wanted.specifier, f"{wanted} against {pin}"


def test_nothing_that_gets_installed_is_unpinned_nor_pinned_in_vain():
    needed = closure(r for r in ASKED if HAS_PRETRAIN or r not in PRETRAIN)
    assert needed - set(PINS) == set()
    if HAS_PRETRAIN:
        assert set(PINS) - needed <= OTHER_PYTHONS


def test_this_environment_is_the_pinned_one():
    # Of the environment alone: setuptools, once imported, adds copies of its own to the path.
    installed = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    found = {canonicalize_name(d.metadata["Name"]): d.version for d in installed}
    assert len(set(found) & set(PINS)) > 100
    off = {n: (found[n], pin) for n, pin in PINS.items() if found.get(n, pin) != pin}
    assert not off, f"installed, pinned: {off}; run make setup"


def test_the_lines_that_must_not_drift():
    lines = "torch==2.11. torchaudio==2.11. transformers==5. numpy==2. papermill==2.7."
    for line in f"{lines} jupytext==1.19. jupyterlab==4. sphinx==9.0.".split():
        name, start = line.split("==")
        assert PINS[name].startswith(start), name
    assert PINS["torch"] == PINS["torchaudio"]
    core = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert not {name for name in core if "sphinx" in name or name == "myst-nb"}


def test_conda_takes_only_python_and_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert [re.match(r"[a-z]+", line)[0] for line in conda] == ["python", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[book,dev]"]}
    python = Requirement(conda[0]).specifier
    assert "3.11" in python and "3.13" in python and "3.10" not in python
    assert set(environment["channels"]) == {"conda-forge", "nodefaults"}


@pytest.mark.parametrize("file", ["Makefile", ".ci/run", "environment.yml", "README.md"])
def test_no_version_is_pinned_elsewhere(file):
    assert not re.findall(r"\b[A-Za-z][\w-]+==\d", (ROOT / file).read_text())


def test_make_and_conda_install_the_same():
    recipe = (ROOT / "Makefile").read_text()
    assert "-c constraints.txt -e '.[book,dev]'" in recipe
    assert "$(STAMP): pyproject.toml constraints.txt" in recipe


def test_ci_stops_at_the_first_failure():
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert script.stat().st_mode & 0o111 and "set -euo pipefail" in text
    assert "make test" in text and "make book PROFILE=smoke" in text
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_ci_takes_the_browsers_that_the_book_takes():
    from serbook.site import pdf

    text = (ROOT / ".ci" / "run").read_text()
    assert all(f"command -v {name}" in text for name in pdf.BROWSERS)
    assert "export SERLIB_BROWSER=required" in text and "install" in text


def test_ci_goes_on_without_a_browser(tmp_path):
    """Its function alone, on a machine with nothing: one line, and no tests are required."""
    text = (ROOT / ".ci" / "run").read_text()
    function = text[text.index("browser() {") : text.index("step browser")]
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    bash = shutil.which("bash")
    script = f"set -euo pipefail\n{function}\nbrowser; echo required=${{SERLIB_BROWSER:-no}}"
    environment = {"PATH": str(tmp_path)}
    run = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "required=no" and "skipped" in run.stdout
    (tmp_path / "chromium").write_text("")
    (tmp_path / "chromium").chmod(0o755)
    run = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment)
    assert run.stdout.splitlines() == [f"browser: {tmp_path}/chromium", "required=required"]


def test_the_browser_extra_is_part_of_dev():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["browser"]) < set(extras["dev"])


def test_a_devcontainer_installs_what_make_installs():
    """No version of its own: the image has a Python, `make setup` has the pins."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"
    python = container["image"].rpartition("-")[0].rpartition(":")[2].removeprefix("1-")
    assert Version(python) in Requirement(f"python{PROJECT['requires-python']}").specifier
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/bin/python"
    assert "VENV := .venv" in (ROOT / "Makefile").read_text()
    assert not re.findall(r"==\d", (ROOT / ".devcontainer" / "devcontainer.json").read_text())


def test_binder_reads_the_environment_of_conda():
    """Its own folder or another of its files would shadow environment.yml, and its pins."""
    assert (ROOT / "environment.yml").is_file()
    shadows = "binder .binder requirements.txt setup.py Pipfile Dockerfile apt.txt runtime.txt"
    assert not [name for name in shadows.split() if (ROOT / name).exists()]


def test_setup_refuses_an_old_python(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.1'\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.8.1" in done.stderr and not (tmp_path / "venv").exists()


def test_setup_does_nothing_the_second_time(tmp_path):
    stamp = tmp_path / "venv" / ".serlib-setup"
    stamp.parent.mkdir()
    stamp.touch()
    command = ["make", "setup", f"VENV={tmp_path}/venv", "PYTHON=/no/such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout


def test_wheel_holds_the_package_and_its_data(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 12_000_000
    for folder in (ROOT / "serlib", ROOT / "book" / "serbook"):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".json", ".jsonl", ".safetensors"):
                assert path.relative_to(folder.parent).as_posix() in names
    for path in filter(Path.is_file, (ROOT / "data_manifests").iterdir()):  # one copy here
        assert f"serlib/data_manifests/{path.name}" in names
    roots = {name.split("/")[0] for name in names}
    assert all(root.startswith(("serlib", "serbook")) for root in roots), roots
    assert not [name for name in names if "making" in name or "conf" in name.split("/")[:1]]
    assert any(name.endswith("LICENSE-prose") for name in names)


@pytest.mark.slow
def test_the_wheel_trains_where_the_book_is_not_installed(tmp_path):
    """In an environment that has serlib's own requirements, and nothing of the extra "book"."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # Downloading torch again would take minutes: what serlib needs is linked from here.
    needed = closure(map(Requirement, PROJECT["dependencies"]))
    for distribution in importlib.metadata.distributions():
        if canonicalize_name(distribution.metadata["Name"]) not in needed:
            continue
        for path in {distribution.locate_file(f.parts[0]) for f in distribution.files or []}:
            link = site / path.name
            if path.name not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(path)
    python = tmp_path / "venv" / "bin" / "python"

    def call(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [python, *command], cwd=tmp_path, capture_output=True, text=True,
            env={"PATH": "/usr/bin:/bin", "SERLIB_HOME": str(tmp_path / "home"),
                 "HOME": str(tmp_path)},
        )  # fmt: skip

    without = "jupytext papermill matplotlib seaborn sphinx IPython ipywidgets nbformat".split()
    absent = f"import importlib.util as u; print([n for n in {without} if u.find_spec(n)])"
    assert call("-c", absent).stdout.strip() == "[]"
    done = call("-c", "import serlib; print(serlib.__file__)")
    assert done.stdout.startswith(str(tmp_path)), done.stderr
    done = call("-m", "serlib", "train", "cai2021", "--profile", "smoke", "--set", "alpha=0.1")
    assert done.returncode == 0, done.stderr
    run = done.stdout.split("seed 0: ")[1].splitlines()[0]
    wav = next((tmp_path / "home").rglob("wav/*/*.wav"))
    done = call("-m", "serlib", "predict", run, str(wav))
    assert done.returncode == 0 and "emotion" in done.stdout, done.stderr
    done = call("-m", "serlib", "manifest", "list")
    assert done.returncode == 0 and "iemocap" in done.stdout, done.stderr
    done = call("-m", "serlib", "run", "02")
    assert done.returncode == 1 and "pip install 'serlib[book]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_package_has_its_cards_and_its_demo_corpus(tmp_path):
    """What a wheel is unpacked to, away from the checkout."""
    shutil.copytree(ROOT / "serlib", tmp_path / "serlib", ignore=lambda *_: ["weights"])
    shutil.copytree(ROOT / "data_manifests", tmp_path / "serlib" / "data_manifests")
    code = (
        "from serlib.corpora import cards; from serlib.corpora.demo import corpus; import serlib; "
    )
    code += "print(serlib.__file__); print(cards.read('emodb').title); print(len(corpus.load()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    where, title, utterances = run.stdout.splitlines()
    assert where == str(tmp_path / "serlib" / "__init__.py")
    assert (title, utterances) == ("EmoDB, Berlin Database of Emotional Speech", "3200")


def test_double_click_opens_a_chapter_as_notebook():
    """What JupyterLab will read in this environment, found the way its server finds it."""
    from jupyter_server.services.config.manager import ConfigManager

    overrides = ConfigManager(config_dir_name="labconfig").get("default_setting_overrides")
    viewers = overrides["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers["python"] == "Jupytext Notebook"
    shipped = json.loads((ROOT / "book" / "jupyterlab.json").read_text())
    assert shipped.items() <= overrides.items()


def test_licenses_name_what_they_cover():
    code, prose = ((ROOT / name).read_text() for name in ("LICENSE", "LICENSE-prose"))
    assert code.startswith("MIT License")
    for word in ("CC BY 4.0", "creativecommons.org/licenses/by/4.0", "GPL-3.0-or-later", "MathJax"):
        assert word in prose
    mathjax = ROOT / "book" / "_static" / "mathjax"
    assert "Apache License" in (mathjax / "LICENSE").read_text()
    assert 2_000_000 < (mathjax / "tex-svg-full.js").stat().st_size < 2_500_000


def test_version_is_in_one_place():
    import serlib

    assert serlib.__version__ == importlib.metadata.version("serlib")
    assert f"## {serlib.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" in PROJECT["dynamic"]
