"""Which trainings a chapter asks for, found without running any of them.

A dry run goes through the chapter's own cells, statement by statement, so no list has to be kept in
step with the book. Recipes are real; `sweep` and `experiments` note what they are asked for; all
else, every result first of all, is `UNKNOWN`. What a chapter makes of its results stays unknown,
and what it asks for afterwards is counted all the same: a weight that it chooses on dev is one
value, whichever it is. A cell that asks for more only if a result is such and such is taken to do
so. A test holds the answer to what the chapters train in truth.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serbook.plan import architectures
from serbook.runner import notebooks
from serlib.experiments import experiment
from serlib.recipes.recipe import Recipe

# Modules that chapters build recipes with; they are imported as they are.
KNOWN = frozenset("collections dataclasses functools itertools math textwrap".split())
OURS = frozenset(
    "serlib.data.manifest serlib.experiments.floors serlib.recipes.papers "
    "serlib.recipes.recipe".split()
)


class Unknown:
    """A value that only a real run has. Whatever one does with it is as unknown.

    It is true, like anything that it is compared to, holds nothing when looked through, and leaves
    a function that it decorates alone.
    """

    def __getattr__(self, name: str):
        """Itself; python's own protocols are those of the class."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **named):
        """Itself, or the function that it decorates."""
        alone = len(args) == 1 and not named and hasattr(args[0], "__code__")
        return args[0] if alone else self

    def __iter__(self) -> Iterator:
        """Nothing."""
        return iter(())

    def __len__(self) -> int:
        """None are known."""
        return 0

    def __bool__(self) -> bool:
        """Take the first branch."""
        return True

    def __float__(self) -> float:
        """Some number."""
        return 1.0

    def __int__(self) -> int:
        """Some number."""
        return 1

    def __format__(self, how: str) -> str:
        """Some digit, so that it can be the number of a layer."""
        return "0"

    def __repr__(self) -> str:
        """The same everywhere."""
        return "0"

    def __eq__(self, other) -> bool:
        """Like anything."""
        return True

    __hash__ = object.__hash__

    def __contains__(self, item) -> bool:
        """Take it to be there, such as a column of the corpus."""
        return True

    def __setitem__(self, key, value) -> None:
        """It stays unknown."""

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *error) -> None:
        """Let errors pass."""


def _itself(self, *_):
    return self


def _true(self, other) -> bool:
    return True


for _name in (
    "add sub mul matmul truediv floordiv mod pow and or xor radd rsub rmul rmatmul rtruediv "
    "rfloordiv rmod rpow rand ror rxor neg pos invert abs round getitem"
).split():
    setattr(Unknown, f"__{_name}__", _itself)
for _name in "lt le gt ge".split():
    setattr(Unknown, f"__{_name}__", _true)
UNKNOWN = Unknown()  # one for all, so that equal recipes stay equal


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
    """Go through a chapter without running anything.

    Args:
        chapter: Its number, name or path.
        **parameters: Values for its parameters cell, such as `profile="full"`.

    Raises:
        UsageError: If there is no such chapter or parameter.
    """
    path = notebooks.find(chapter)
    notebook = notebooks.read(path)
    known = notebooks.declared(notebook)
    values = known | notebooks.check(parameters, known)
    noted: list[Recipe] = []
    names = {"__name__": "dry_run", "print": UNKNOWN, "display": UNKNOWN, "open": UNKNOWN}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", []):
            names |= values
            continue
        for statement in ast.parse(cell.source).body:
            _step(statement, names, noted)
    return Asked(path.stem, tuple(_each_once(noted)))


def _step(statement: ast.stmt, names: dict, noted: list[Recipe]) -> None:
    """Execute one statement; what it would have defined is unknown if that cannot be done."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        names |= _imported(statement, noted)
        return
    try:
        exec(compile(ast.Module([statement], []), "<dry run>", "exec"), names)  # noqa: S102
    except Exception:  # an unknown value where a real one is needed
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, UNKNOWN)


def _imported(statement: ast.Import | ast.ImportFrom, noted: list[Recipe]) -> dict:
    """What an import defines in a dry run."""
    found = {}
    module = getattr(statement, "module", None) or ""
    for alias in statement.names:
        name, short = alias.name, alias.asname or alias.name.split(".")[0]
        if (module or name).split(".")[0] in KNOWN:
            whole = importlib.import_module(module or name)
            found[short] = getattr(whole, name) if module else whole
        elif f"{module}.{name}" in OURS:
            found[short] = importlib.import_module(f"{module}.{name}")
        elif module in OURS:
            found[short] = getattr(importlib.import_module(module), name)
        else:
            note = STAND_INS.get(f"{module}.{name}")
            found[short] = note(noted) if note else UNKNOWN
    return found


class _Sweep(Unknown):
    """In the place of `serlib.experiments.sweep.sweep`."""

    def __init__(self, noted: list[Recipe]) -> None:
        self.noted = noted

    def __call__(self, asked: Iterable[Recipe] = (), **_) -> Unknown:
        self.noted += [recipe for recipe in asked if isinstance(recipe, Recipe)]
        return UNKNOWN


class _Experiments(Unknown):
    """In the place of `serlib.experiments.experiment`: `run` and `trained` train what is missing."""

    def __init__(self, noted: list[Recipe]) -> None:
        self.noted = noted

    def run(self, recipe: Recipe, **_) -> Unknown:
        self.noted += [recipe] if isinstance(recipe, Recipe) else []
        return UNKNOWN

    trained = run


class _Dataset(Unknown):
    """In the place of `serlib.experiments.dataset`, where no corpus is read."""

    def __init__(self, noted: list[Recipe]) -> None:
        pass

    def taught(self, recipe: Recipe) -> Recipe:
        return recipe


def _load_encoder(noted: list[Recipe]):
    """In the place of `load_encoder`: of an encoder only the number of layers is known."""

    def load(name: str, *, n_layers: int | None = None, **_) -> Unknown:
        encoder = Unknown()
        if layers := n_layers or architectures.n_layers(name):
            encoder.n_layers = layers
        return encoder

    return load


STAND_INS = {
    "serlib.experiments.sweep.sweep": _Sweep,
    "serlib.experiments.experiment": _Experiments,
    "serlib.experiments.dataset": _Dataset,
    "serlib.models.encoders.load_encoder": _load_encoder,
}


def _each_once(recipes: Iterable[Recipe]) -> list[Recipe]:
    """Recipes and, before each, those that it needs."""
    found: dict[Recipe, Recipe] = {}

    def add(recipe: Recipe) -> None:
        for before in experiment.needs(recipe):
            add(before)
        found.setdefault(recipe.nameless(), recipe)

    for recipe in recipes:
        add(recipe)
    return list(found.values())


def kind(recipe: Recipe) -> str:
    """What a training's speed depends on, in words: encoders, what is trained, how batches are cut.

    >>> from serlib.recipes.papers import cai2021
    >>> kind(cai2021("full"))
    'facebook/wav2vec2-base, nothing frozen, 2 clips'
    """
    m, most = recipe.model, recipe.max_clips
    size = f"{most} clips" if most else f"{recipe.train.budget_seconds:g} s"
    if recipe.system == "fusion":
        names = [f"{name} (tuned)" if name in m.tuned else name for name in m.experts]
        return f"{' + '.join(names)}, {size}"
    frozen = {"none": "nothing frozen", "cnn": "CNN frozen", "all": "encoder frozen"}[m.freeze]
    lower = f" and {m.freeze_layers} layers" if m.freeze_layers else ""
    kept = f", {m.n_layers} layers" if m.n_layers else ""
    return f"{m.encoder}{kept}, {frozen}{lower}, {size}"
