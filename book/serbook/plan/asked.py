"""Which trainings a chapter asks for, found without running any of them.

A chapter builds what it trains in cells tagged "recipes", from its parameters alone, and leaves what
a sweep is asked for as the list `asked`. Here these cells are executed in order, and nothing else.
Where the corpus or a result decides a value (a weight chosen on dev), the list has as many recipes
with a stand-in, so that counts are right. A test holds the answer to what the chapters train.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serbook.runner import notebooks
from serlib.experiments import experiment
from serlib.recipes.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """What a chapter asks for, each run once, with those that must have run before it."""

    chapter: str
    recipes: tuple[Recipe, ...]

    def trained(self) -> tuple[Recipe, ...]:
        """Those that are trained, without floors and without readings of other transcripts."""
        kinds = ("fine-tune", "fusion")
        return tuple(r for r in self.recipes if r.system in kinds and r.transcript == "manifest")


def of(chapter: str | Path, **parameters) -> Asked:
    """Execute a chapter's cells of recipes, with values for its parameters cell.

    Raises:
        UsageError: If there is no such chapter or parameter.
    """
    path = notebooks.find(chapter)
    notebook = notebooks.read(path)
    known = notebooks.declared(notebook)
    names = known | notebooks.check(parameters, known)
    found: dict[Recipe, Recipe] = {}
    for cell in notebook.cells:
        if "recipes" in cell.metadata.get("tags", []):
            exec(compile(cell.source, path.name, "exec"), names)  # noqa: S102
            for recipe in _needed(names.pop("asked", ())):
                found.setdefault(recipe.nameless(), recipe)
    return Asked(path.stem, tuple(found.values()))


def _needed(recipes: Iterable[Recipe]) -> Iterator[Recipe]:
    """Recipes and, before each, those that it needs."""
    for recipe in recipes:
        yield from _needed(experiment.needs(recipe))
        yield recipe


def kind(recipe: Recipe) -> str:
    """What a training's speed depends on, in words: encoders, what is trained, how batches are cut."""
    m, most = recipe.model, recipe.max_clips
    size = f"{most} clips" if most else f"{recipe.train.budget_seconds:g} s"
    if recipe.system == "fusion":
        names = [f"{name} (tuned)" if name in m.tuned else name for name in m.experts]
        return f"{' + '.join(names)}, {size}"
    frozen = {"none": "nothing frozen", "cnn": "CNN frozen", "all": "encoder frozen"}[m.freeze]
    lower = f" and {m.freeze_layers} layers" if m.freeze_layers else ""
    kept = f", {m.n_layers} layers" if m.n_layers else ""
    return f"{m.encoder}{kept}, {frozen}{lower}, {size}"
