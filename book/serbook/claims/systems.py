"""The systems that rules of the ledger call by name: recipes of the papers, with changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serlib.recipes import papers
from serlib.recipes.recipe import PROFILES, Recipe


def cai2021_other_rate(profile: str, corpus: str = "", data_root: str = "") -> Recipe:
    """Cai et al. without the second task at another learning rate: full at that of α > 0.

    The demo, which has one for all, takes a fifth. So chapter 03 has it.
    """
    recipe, factor = papers.cai2021(profile, corpus, data_root), 5 if profile == "full" else 1 / 5
    rates = {k: factor * getattr(recipe.train, k) for k in ("lr_encoder", "lr_head")}
    return recipe.change(**rates)


def zgorzynski2025_alone(
    profile: str, corpus: str = "", data_root: str = "", *, phase: str, **changes
) -> Recipe:
    """One phase of Zgórzyński et al. from fresh weights, with as many epochs as both phases have.

    What their ablation compares, at equal budgets, as in chapter 07.
    """
    make = papers.zgorzynski2025
    first, second = make(profile).train, make(profile, phase="emotion").train
    budget = {"epochs": first.epochs + second.epochs, "lr_head": first.lr_head}
    return make(profile, corpus, data_root, phase=phase, **changes).change(start=None, **budget)


RECIPES = {
    f.__name__: f
    for f in (
        papers.cai2021, papers.mtlser2025, papers.wang2025_baseline, papers.wang2025,
        papers.challenge_baseline, papers.zgorzynski2025, papers.floor, zgorzynski2025_alone,
        cai2021_other_rate,
    )
}  # fmt: skip


class Strict(BaseModel):
    """Known keys only, values of the right type only, and no value that is changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class System(Strict):
    """A recipe with changes, some `at` one profile only."""

    recipe: Literal[tuple(RECIPES)]
    changes: Annotated[dict[str, Any], Field(alias="with")] = {}
    at: dict[Literal[PROFILES], dict[str, Any]] = {}

    def build(self, profile: str, given: Mapping[str, Any]) -> Recipe:
        """The recipe at a profile, with further changes."""
        given = {**self.changes, **self.at.get(profile, {}), **given}
        changes = {key: _tuples(value) for key, value in given.items()}
        return RECIPES[self.recipe](profile=profile, **changes)


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down, as recipes have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
