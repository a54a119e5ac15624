"""`serlib train`: what a command line asks for, and what comes back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from serlib import __main__ as cli
from serlib.experiments import experiment, sweep
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe


def ask(*arguments: str) -> list[Recipe]:
    return cli.asked(cli._parser().parse_args(["train", *arguments]))


def test_a_command_line_is_the_recipe_of_python(tmp_path):
    found = ask("cai2021", "--set", "alpha=0.1", "--set", "epochs=2", "--seeds", "3,5")
    expected = papers.cai2021("demo", alpha=0.1).change(epochs=2).vary(seed=[3, 5])
    assert found == expected
    (full,) = ask("wang2025", "--profile", "full", "--corpus", "mine", "--data-root", str(tmp_path),
                  "--set", "encoder=microsoft/wavlm-base", "--set", "clip=None")  # fmt: skip
    assert full == papers.wang2025("full", "mine", str(tmp_path)).change(
        encoder="microsoft/wavlm-base", clip=None
    )
    (floor,) = ask("floor", "--set", "system=majority", "--profile", "smoke")
    assert floor == papers.floor("majority", "smoke")
    listed = ask("cai2021", "--set", "classes=['anger', 'fear']")[0].classes
    assert listed == ("anger", "fear")


def test_every_recipe_of_the_book_can_be_named():
    made = {
        name for name in dir(papers)
        if not name.startswith("_") and getattr(getattr(papers, name), "__module__", "") ==
        "serlib.recipes.papers" and callable(getattr(papers, name))
    }  # fmt: skip
    assert made <= set(cli.RECIPES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cai2021", "--set", "alpha"], "expected NAME=VALUE"),
        (["cai2021", "--set", "apha=1"], "a recipe has no 'apha'"),
        (["cai2021", "--seeds", "a"], "expected numbers"),
        (["cai2021", "--seeds", "²"], "expected numbers"),
        (["cai2021", "--seeds", "99999999999"], "--seeds 99999999999"),
        (["cai2021", "--set", "seed=5"], "--set seed=5: write --seeds 5"),
        (["cai2021", "--set", "alpha=abc"], "alpha='abc', expected a number, 0 or more"),
        (["mtlser2025", "--set", "alpha_speaker=-1"], "alpha_speaker=-1, expected a number"),
        (["wang2025", "--set", "alpha=0.5"], "alpha must be below 1/3"),
        (["cai2021", "--set", "classes=('anger',)"], "two or more"),
        (["cai2021", "--scheduler", "nonsense"], "such as tcp://head:8786"),
        (["floor", "--set", "system=svmm"], "system='svmm', expected one of probe, svm"),
        (["floor"], "floor needs --set system="),
    ],
)
def test_what_cannot_be_asked_is_one_line(capsys, arguments, words):
    assert cli.main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_scores_are_printed(monkeypatch, capsys):
    run = SimpleNamespace(path="runs/x", summary={"dev": {"ua": 0.5, "n": 3}, "test": {"ua": 0.25}})
    called = []

    def pretend(asked, *scheduler):
        called.append(scheduler)
        return SimpleNamespace(runs=[run] * len(asked))

    monkeypatch.setattr(sweep, "sweep", pretend)
    monkeypatch.setattr(experiment, "run", pretend)
    assert cli.main(["train", "cai2021", "--seeds", "0,1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{papers.cai2021().name}, seed 0: runs/x"
    assert lines[1:3] == ["  dev  ua 0.500", "  test ua 0.250"] and len(lines) == 6
    cli.main(["train", "cai2021", "--scheduler", "tcp://x"])
    assert called == [(), ("tcp://x",)]
