"""Many runs: which are picked, and where they are run."""

from __future__ import annotations

import pytest

from serlib import recipes, records
from serlib.sweep import Runs

ONE = recipes.cai2021("demo").change(name="one")


def pretend(folder, *asked: recipes.Recipe) -> Runs:
    """Runs of these recipes with nothing in their folders."""
    return Runs(
        asked, tuple(records.Run.open(folder, {"at": i}, key=str(i)) for i in range(len(asked)))
    )


def test_runs_of_several_names_with_the_seeds_that_all_have(tmp_path):
    two, three = ONE.change(name="two"), ONE.change(name="three")
    asked = (
        *(ONE.change(seed=s) for s in (0, 1, 2)),
        *(two.change(seed=s) for s in (2, 0)),
        three.change(seed=5),
    )
    runs = pretend(tmp_path, *asked)
    found = runs.together("two", "one")
    assert [(r.name, r.seed) for r in found.recipes] == [
        ("two", 2), ("two", 0), ("one", 0), ("one", 2),
    ]  # fmt: skip
    places = [3, 4, 0, 2]
    assert found.runs == tuple(runs.runs[i] for i in places)  # each still has its own folder
    assert runs.together("one", "one").runs == runs.named("one").runs  # no run twice
    assert runs.together("three").recipes == (asked[-1],)


def test_runs_that_cannot_be_put_together(tmp_path):
    runs = pretend(tmp_path, ONE, ONE.change(name="two", seed=1))
    with pytest.raises(ValueError, match=r"no seed that all names have: one: \[0\]; two: \[1\]"):
        runs.together("one", "two")
    with pytest.raises(KeyError, match="no run is named 'four'; there are one, two"):
        runs.together("one", "four")
    with pytest.raises(ValueError, match="no names were given"):
        runs.together()
