"""What a recipe is: one frozen dataclass with everything that decides a result.

`papers` has those of the papers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Literal

from serlib import PROFILES, settings
from serlib.data.splits import PROTOCOLS
from serlib.data.tables import EMOTIONS
from serlib.models.fusion import FusionConfig
from serlib.models.recognizer import ModelConfig
from serlib.settings import Count, Positive, Seed, SettingError, Whole
from serlib.tasks.answers import SCORES
from serlib.tasks.loss import LossConfig
from serlib.tasks.targets import SPEAKER_LABELS
from serlib.training.loop import TrainConfig

GUESSERS = ("majority", "prior", "uniform")
TRAINED = ("fine-tune", "fusion")
SYSTEMS = (*TRAINED, "probe", "svm", *GUESSERS)
# What a run shares with the one that it starts from, beside the model's settings.
SHARED = frozenset(
    "profile corpus data_root protocol fold allow_leaks classes merge max_seconds seed".split()
)


class RecipeError(SettingError):
    """An experiment that cannot be run as asked; the message names the fix."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a result; its digest names the run.

    Attributes:
        name: What figures and tables call it; it decides nothing.
        profile: smoke, demo, open or full.
        corpus: "demo", or the manifest (.csv or .jsonl) of a corpus; a bare name means
            `data_root`/<name>.csv.
        data_root: Folder that the manifest's paths start from; "" where `serlib manifest get` put
            the corpus.
        protocol: How speakers are divided, see `serlib.data.splits.protocol`.
        fold: Which fold of it, from 1; 0 is all of them, which `sweep` runs and pools.
        allow_leaks: Permit a protocol that leaks on purpose.
        classes: Classes in the order of the labels; utterances of others are left out.
        merge: Pairs (from, to) of classes counted as one.
        max_seconds: Longer utterances are cut to their beginning; None cuts nothing.
        system: "fine-tune" of one encoder, "fusion" of several, or one of the floors ("probe",
            "svm", "majority", "prior", "uniform").
        model: Of "fine-tune" and "probe"; of "fusion" a `FusionConfig`.
        loss: Of "fine-tune" and "fusion".
        train: Of the same; `train.seed` is set from `seed`.
        start: The recipe whose trained weights this one starts from; it is run first. None starts
            from the encoders' own weights and fresh heads.
        transcript: What an expert of text reads of dev and test: the "manifest"'s transcripts, what
            a "recognizer" heard ("recognized"), or "none". Training, and the choice of the epoch,
            have the manifest's in any case: the other two take the trained model of "manifest" and
            only predict anew.
        recognizer: Recipe with the task "asr" whose hypotheses are read; it is run first.
        speaker_labels: What the task "speaker" is taught, see `serlib.tasks.targets.speaker_names`.
        diagnose: After each epoch, also measure the angles between the tasks' gradients.
        max_clips: Utterances per batch, at most; None: as many as `train.budget_seconds` holds.
        seed: Of initialization, batches, dropout and guesses.
    """

    name: str
    profile: Literal[PROFILES]
    corpus: str
    data_root: str
    protocol: Literal[tuple(PROTOCOLS)]
    classes: tuple[Literal[EMOTIONS], ...]
    model: ModelConfig | FusionConfig
    train: TrainConfig
    system: Literal[SYSTEMS] = "fine-tune"
    loss: LossConfig = field(default_factory=LossConfig)
    fold: Whole = 1
    allow_leaks: bool = False
    merge: tuple[tuple[Literal[EMOTIONS], Literal[EMOTIONS]], ...] = ()
    max_seconds: Positive | None = None
    speaker_labels: Literal[SPEAKER_LABELS] = "true"
    diagnose: bool = False
    max_clips: Count | None = None
    seed: Seed = 0
    start: Recipe | None = None
    transcript: Literal["manifest", "recognized", "none"] = "manifest"
    recognizer: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, see `settings`, and parts that do not go together."""
        settings.settle(self)
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise RecipeError(f"classes={self.classes!r}: two or more, each once")
        if len(self.classes) != self.model.n_classes:
            raise RecipeError(f"{len(self.classes)} classes, but n_classes={self.model.n_classes}")
        if isinstance(self.model, FusionConfig) != (self.system == "fusion"):
            raise RecipeError(f"system={self.system!r} with a {type(self.model).__name__}")
        if self.transcript != "manifest" and self.system != "fusion":
            raise RecipeError(f"transcript={self.transcript!r} needs system='fusion'")
        if (self.transcript == "recognized") != (self.recognizer is not None):
            raise RecipeError("transcript='recognized' and a recognizer come together")
        if self.start is not None and self.start.system != self.system:
            raise RecipeError(f"a {self.system} cannot start from a {self.start.system}")
        if self.system in TRAINED:
            self.loss.task_weights(self.model.tasks)
        self._check_select()

    def _check_select(self) -> None:
        """Refuse a dev score that the tasks do not give."""
        tasks, name = self.model.tasks, self.train.select
        known = [score for task in tasks for score in SCORES[task]] + ["last"]
        known += ["both"] if {"emotion", "attributes"} <= set(tasks) else []
        if self.system not in TRAINED:
            known = list(SCORES["emotion"][:3])
        if name not in known and (name[:1] != "-" or name[1:] not in known[:-1]):
            who = f"the tasks {', '.join(tasks)}" if self.system in TRAINED else self.system
            raise RecipeError(f"select={name!r} is no score of {who}: choose {', '.join(known)}")

    @property
    def trained(self) -> bool:
        """Whether luck has a part in its weights, so that another seed gives another model."""
        drawn = self.system == "probe" and self.model.random_init
        return self.system in TRAINED or drawn

    def change(self, **changes) -> Recipe:
        """A copy with other values; names of `model`, `loss` and `train` reach inside them.

        The model has as many classes as the labels. What a recipe shares with
        its `start` is changed there as well: the data, the seed, and the model's settings but for
        its tasks and for what is fine-tuned.

        >>> from serlib.recipes.papers import cai2021
        >>> cai2021("demo").change(pooling="sum", epochs=2).model.pooling
        'sum'
        """
        parts = {k: {f.name for f in fields(getattr(self, k))} for k in ("model", "loss", "train")}
        new: dict = {}
        if isinstance(named := changes.get("classes"), (list, tuple)) and len(named) > 1:
            changes = {"n_classes": len(named)} | changes
        for name, value in changes.items():
            inside = [p for p, names in parts.items() if name in names]
            if name in {f.name for f in fields(self)}:
                new[name] = value
            elif inside:
                part = new.get(inside[0], getattr(self, inside[0]))
                if is_dataclass(part):  # else it is refused below
                    new[inside[0]] = replace(part, **{name: value})
            else:
                raise RecipeError(f"a recipe has no {name!r}")
        if self.start is not None and "start" not in changes:
            shared = SHARED | (parts["model"] - {"tasks", "tuned", "freeze"})
            same = {name: value for name, value in changes.items() if name in shared}
            new["start"] = self.start.change(**same)
        return replace(self, **new)

    def nameless(self) -> Recipe:
        """Without names, its own and those of what it builds on: recipes equal then are one run."""
        parts = {k: r.nameless() for k in ("start", "recognizer") if (r := getattr(self, k))}
        return replace(self, name="", **parts)

    def vary(self, **grid: Sequence) -> list[Recipe]:
        """One recipe per combination, the last name varying fastest.

        >>> from serlib.recipes.papers import cai2021
        >>> [r.seed for r in cai2021("demo").vary(seed=[0, 1])]
        [0, 1]
        """
        if odd := [name for name, values in grid.items() if isinstance(values, str)]:
            raise RecipeError(
                f"{odd[0]}={grid[odd[0]]!r} is a text, expected a list such as [0, 1]"
            )
        combinations = itertools.product(*grid.values())
        return [self.change(**dict(zip(grid, values, strict=True))) for values in combinations]
