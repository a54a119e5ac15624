"""`serlib train`: what a command line asks for, and what comes back."""

from __future__ import annotations

import dataclasses
import math
import os
import random
from types import SimpleNamespace

import pytest

from serlib import __main__ as cli
from serlib import records
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
        (["cai2021", "--seeds", "99999999999"], "'99999999999', expected a whole number"),
        (["cai2021", "--set", "seed=5"], "write --seeds, such as --seeds 5"),
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
    assert lines[0] == f"{papers.cai2021().name}, fold 1, seed 0: runs/x"
    assert lines[1:3] == ["  dev  ua 0.500", "  test ua 0.250"] and len(lines) == 6
    cli.main(["train", "cai2021", "--scheduler", "tcp://x"])
    assert called == [(), ("tcp://x",)]


WORDS = [
    "", "abc", "nan", "inf", "-inf", "-1", "0", "1", "1.5", "1e400", "9" * 500, "True", "None",
    "²", "[]", "()", "{}", "('anger',)", "['emotion']", "('a', 1)", "{[]: 1}", "(" * 300, "'0'",
    "lambda: 0", "demo", "x=y", "\n", "α", "../x", "__import__('os')", "smoke", "weighted", "0,1",
]  # fmt: skip


def names() -> list[str]:
    """Every setting of every recipe, and some that are none."""
    made = [papers.cai2021(), papers.zgorzynski2025()]
    parts = [part for recipe in made for part in (recipe, recipe.model, recipe.loss, recipe.train)]
    found = {field.name for part in parts for field in dataclasses.fields(part)}
    odd = {"phase", "system", "alpha_speaker", "aplha", "", "a b", "-"}  # codespell:ignore aplha
    return sorted(found | odd)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SERLIB_FUZZ", 12))))
def test_any_command_is_taken_as_it_is_meant_or_refused_in_one_line(capsys, seed):
    """With many random settings: no traceback, no message of several lines, nothing odd taken."""
    draw = random.Random(seed)
    for _ in range(40):
        line = ["train", draw.choice(cli.RECIPES)]
        given = [
            (draw.choice(names()), draw.choice(WORDS)) for _ in range(draw.choice([1, 1, 1, 2]))
        ]
        for name, word in given:
            line += ["--set", f"{name}={word}"]
        line += draw.choice([[], ["--seeds", draw.choice(WORDS)], ["--profile", "smoke"]])
        try:
            recipes = ask(*line[1:])
        except (ValueError, SystemExit) as error:
            assert getattr(error, "exit_code", getattr(error, "code", None)) == 2, (line, error)
            if not isinstance(error, SystemExit):
                assert cli.main(line) == 2
            assert capsys.readouterr().err.count("\n") == 1
            continue
        for recipe in recipes:
            fits(recipe)
            records.digest(recipe)
            for name, word in dict(given).items():  # of two, the last
                by_default = (name, word) == ("corpus", "")
                assert by_default or str(cli.value(word)) in meant(recipe, name), (line, name)


def meant(recipe: Recipe, name: str) -> list[str]:
    """What a recipe has under a name, wherever it has it, as a number and as it is written."""
    places = (recipe, recipe.model, recipe.loss, recipe.train)
    found = [getattr(part, name) for part in places if hasattr(part, name)]
    found += [recipe.model.tasks[0]] if name == "phase" else []
    whole = [int(x) for x in found if isinstance(x, float) and x.is_integer()]
    return [str(x) for x in (*found, *whole)]


def fits(recipe: Recipe) -> None:
    """What every recipe must be, whatever the annotations say."""
    train, model = recipe.train, recipe.model
    assert type(train.epochs) is int and train.epochs > 0 and recipe.seed in range(2**32)
    numbers = [x for part in (recipe, model, recipe.loss, train) for x in vars(part).values()
               if isinstance(x, (int, float))]  # fmt: skip
    assert all(math.isfinite(x) and x >= 0 for x in numbers)
    assert min(train.budget_seconds, recipe.max_seconds or 1, recipe.max_clips or 1) > 0
    assert model.n_classes == len(recipe.classes) >= 2 and len(set(model.tasks)) == len(model.tasks)
    if recipe.system in ("fine-tune", "fusion"):
        assert all(weight >= 0 for weight in recipe.loss.task_weights(model.tasks).values())
        assert recipe.loss.task_weights(model.tasks)[model.tasks[0]] > 0
