"""Train and judge with every kind of recipe on a pretended GPU, and note what each waited for.

Full recipes with two narrow layers of their own encoders, on a few utterances of the demo corpus:
`python -m tests.gpu.steps OUT [NAME ...]`, with the runtime of `pretend.build` preloaded, adds a
line of JSON to a file for each.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from unittest import mock

from serlib.experiments import experiment
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe
from serlib.training import speed
from serlib.training.checkpoint import Checkpoint
from tests.bench.rehearse import Stage

STAGE = Stage(steps=1, utterances=60, device="cuda", layers=2, width=32)
FUSION, SAVE = papers.zgorzynski2025, Checkpoint.save
EXPERTS = ("openai/whisper-large-v3", "microsoft/wavlm-large", "FacebookAI/roberta-large")


def recipes() -> dict[str, Recipe]:
    """What is tried, by name."""
    cai, wang, base = papers.cai2021, papers.wang2025, papers.wang2025_baseline
    full = {
        "cai2021": cai("full", alpha=0.1),
        "cai2021, nothing masked": cai("full", alpha=0.1, masked_encoder=False,
                                       masked_pooling=False),
        "mtlser2025": papers.mtlser2025("full"),
        "wang2025, baseline": base("full"),
        "wang2025": wang("full"),
        "wang2025, SWFC": wang("full", swfc=0.1),
        "wang2025, no SpecAugment": wang("full", spec_augment=0.0),
        "wang2025, LoRA": wang("full", lora=4),
        "wang2025, checkpointing": wang("full", checkpoint_layers=True),
        "wang2025, lower layers frozen": wang("full", freeze_layers=1, spec_augment=0.0),
        "wang2025, frozen, layers weighted": base("full", freeze="all", layers="weighted"),
        "challenge baseline": papers.challenge_baseline("full"),
        "focal, weighted": base("full", gamma=2.0, weights="effective_number"),
        "attributes": base("full", tasks=("emotion", "attributes"), attributes="gaussian"),
        "zgorzynski2025": FUSION("full"),
        "zgorzynski2025, attributes": FUSION("full", phase="attributes"),
        "zgorzynski2025, WavLM tuned": FUSION("full", tuned=EXPERTS[1:2]),
        "zgorzynski2025, all tuned": FUSION("full", tuned=EXPERTS, max_clips=4),
        "zgorzynski2025, joined": FUSION("full", fusion="concat"),
        "zgorzynski2025, attention": FUSION("full", fusion="attention"),
        "zgorzynski2025, CCC": FUSION("full", attributes="ccc"),
        "probe": papers.floor("probe", "full"),
        "cai2021 in float32": cai("full", alpha=0.1, precision="fp32"),
        "wang2025 in float32": wang("full", swfc=0.1, precision="fp32"),
    }  # fmt: skip
    return {name: _small(recipe) for name, recipe in full.items()}


def _small(recipe: Recipe) -> Recipe:
    """The recipe with narrow encoders and little data, one epoch long."""
    if recipe.start is not None:
        recipe = recipe.change(start=_small(recipe.start))
    select = {} if recipe.system == "probe" else {"select": "last"}
    return STAGE.localized(recipe).change(epochs=1, **select)


def main(out: str, *names: str) -> None:
    """Try each, or those named, and add a line to a file for each."""
    from tests.gpu import pretend

    mode = pretend.install()
    speed.MATRIX["cuda"] = 64  # the peak of no device
    for name, recipe in recipes().items():
        if names and name not in names:
            continue
        mode.waits, began, error = Counter(), time.perf_counter(), ""
        try:
            with mock.patch.object(Checkpoint, "save", autospec=True, side_effect=SAVE) as saved:
                done = experiment.run(recipe, progress=False)
            history = done.history()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        found = {"name": name, "error": error, "seconds": time.perf_counter() - began}
        if not error and len(history):
            found |= {"steps": int(history["steps"].sum()), "loss": float(history["loss"].iloc[-1])}
        found["epochs"] = saved.call_count  # of what it starts from, too
        found["waits"] = [[*place, n] for place, n in mode.waits.most_common()]
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
