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
