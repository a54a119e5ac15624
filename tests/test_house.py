"""The map of the house, on its page and in the README, is true."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from test_imports import FLOORS, FOLDERS, ROOT

PAGE = (ROOT / "book" / "house.md").read_text()
STEPS = re.findall(r"^\| \d+ \| .* \| `(ser[\w.]+)` \|$", PAGE, re.M)


def about(package: str, room: str) -> str:
    """The first line of a room's docstring."""
    path = FOLDERS[package] / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_is_on_its_floor_and_says_what_it_says_itself(package):
    section = PAGE.split(f"## The rooms of {package}")[1].split("\n## ")[0]
    shown = re.findall(r"^\| (\d+) \| `(\w+)(?:/|\.py)` \| (.*) \|$", section, re.M)
    true = [
        (str(number), room, about(package, room))
        for number, rooms in enumerate(FLOORS[package])
        for room in rooms
    ]
    assert shown == true


def test_the_way_of_an_utterance_leads_through_things_that_are_there():
    assert len(STEPS) == 12
    for step in STEPS:
        module, name = step.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), name)), step
    rooms = [step.split(".")[1] for step in STEPS]
    for room in ("data", "experiments", "models", "tasks", "training", "metrics", "claims"):
        assert room in rooms


def test_the_page_names_the_rooms_that_decide_a_result():
    from serlib import records

    told = re.search(r"rooms that decide a result: ([\w, ]+)\.", PAGE)[1]
    assert re.split(r", | and ", told) == list(records.DECIDING)


def test_the_readme_has_the_rooms_in_short():
    readme = (ROOT / "README.md").read_text()
    told = readme.split("## What is where")[1].split("\n## ")[0]
    for package in FLOORS:
        for room in (name for rooms in FLOORS[package] for name in rooms):
            assert f"`{room}`" in told, room


SUBJECTS = {
    "00": ["SER.forward"],
    "01": ["classification.inverse_frequency_weights", "classification.effective_number"],
    "02": ["train_epoch", "AttentiveStatistics"],
    "03": ["ctc_loss"],
    "04": ["CoAttention"],
    "05": ["contrastive.swfc"],
    "06": ["heads.LayerSum"],
    "07": ["fusion.Fusion.forward"],
    "08": ["of_number"],
}


@pytest.mark.parametrize("number", SUBJECTS)
def test_a_chapter_prints_the_function_that_is_its_subject(number):
    (source,) = (ROOT / "book").glob(f"{number}_*.py")
    text = source.read_text()
    for subject in SUBJECTS[number]:
        assert f"print(inspect.getsource({subject}))" in text


def test_chapter_02_walks_through_the_loop_that_it_prints():
    import inspect

    from serlib.training.loop import train_epoch

    (source,) = (ROOT / "book").glob("02_*.py")
    walk = source.read_text().split("getsource(train_epoch))")[1].split("# %%\ntuned")[0]
    assert "value * share" in walk and "value * share" in inspect.getsource(train_epoch)
    for word in ("accumulate", "learning rate", "bfloat16", "AdamW", "meter", "checkpoint"):
        assert word in walk or word.capitalize() in walk or word.replace("l", "L", 1) in walk
    assert len(inspect.signature(train_epoch).parameters) <= 6


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[n:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


WORDS = [
    *(ROOT / "book").glob("*.md"),
    *(ROOT / "book").glob("[0-9]*.py"),
    *(ROOT / "data_manifests").glob("*.*"),
    *FOLDERS["serlib"].rglob("*.py"),
    *FOLDERS["serbook"].rglob("*.py"),
    ROOT / "book" / "claims.yaml",
    ROOT / "README.md",
]


@pytest.mark.parametrize("path", WORDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_that_are_named_are_there(path):
    text = path.read_text(errors="replace") if path.suffix != ".csv" else ""
    text = re.sub(r"(metadata|\w/)\.?(serlib|serbook)[\w./]*", "", text)  # files and notebooks' own
    named = set(re.findall(r"(?<![\w./-])((?:serlib|serbook)(?:\.[A-Za-z_]\w*)+)", text))
    named |= {
        f"{m}.{n}" for m, n in re.findall(r"from ((?:serlib|serbook)[\w.]*) import (\w+)", text)
    }
    others = {"serlib.commands", "serlib.csv"}
    missing = sorted(name for name in named - others if not resolves(name))
    assert not missing, f"{path.name} names {', '.join(missing)}"
