"""A trained system scored on another corpus, for the ledger's claims about those."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import soundfile
import torch

from model_toys import RATE, tiny_folders, tone
from serbook.claims.decide import elsewhere
from serlib import records
from serlib.data import manifest, tables
from serlib.experiments.runs import Runs
from serlib.models.recognizer import SER
from serlib.recipes import papers
from serlib.recipes.recipe import RecipeError

CONTEMPT = manifest.CLASSES_8.index("contempt")


@pytest.fixture
def trained(tmp_path, tmp_path_factory, monkeypatch):
    """A recipe and a finished run of it, whose model answers "contempt" wherever it may."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))
    encoder = tiny_folders(tmp_path_factory)("wavlm", "layer")
    recipe = papers.wang2025_baseline("full").change(encoder=encoder, hidden=8)
    model = SER(recipe.model, n_speakers=0, seed=0)
    with torch.no_grad():
        [*model.heads["emotion"].parameters()][-1][CONTEMPT] += 100  # the bias of the last layer
    run = records.Run.open(records.home() / "runs", {"recipe": records.plain(recipe)}, key="r")
    about = {"model": dataclasses.asdict(recipe.model), "classes": recipe.classes, "speakers": []}
    records.write_json(run.path / "model.json", about)
    safetensors.torch.save_file(model.state_dict(), run.path / "model.safetensors")
    return recipe, run


def corpus(root, emotions, speakers):
    """A corpus of tones at `root` with its manifest, other.csv."""
    root.mkdir()
    rows = []
    for i, (emotion, speaker) in enumerate(zip(emotions, speakers, strict=True)):
        soundfile.write(root / f"{i}.wav", tone(i, 0.3), RATE)
        rows.append(
            {"key": f"other-{i}", "dataset": "other", "utt_id": str(i), "wav": f"{i}.wav",
             "length": 0.3, "emotion": emotion, "speaker": speaker, "group": f"g{i}"}
        )  # fmt: skip
    tables.write(pd.DataFrame(rows), root / "other.csv")
    return str(root)


def test_another_corpus_with_fewer_classes(trained, tmp_path):
    recipe, run = trained
    emotions = ["anger", "sadness", "boredom", "anger", "neutral", "no_agreement"]
    root = corpus(tmp_path / "other", emotions, ["a", None, "a", "b", None, "b"])
    elsewhere(recipe, run, "other", root, progress=False)
    table = run.predictions("other")
    assert table.index.tolist() == ["other-0", "other-1", "other-3", "other-4"]
    names = [manifest.CLASSES_8[i] for i in table["truth"]]
    assert names == ["anger", "sadness", "anger", "neutral"]
    present = {manifest.CLASSES_8.index(n) for n in names}
    assert set(table["prediction"]) <= present  # though the model would say contempt
    assert (table[[f"p_{c}" for c in range(8)]].to_numpy().argmax(1) == CONTEMPT).all()
    assert table["speaker"].tolist() == ["a", "other-1", "b", "other-4"]
    interval = Runs((recipe,), (run,)).interval(recipe.name, "wa", "other")
    assert interval.value == np.mean(table["truth"] == table["prediction"])

    before = (run.path / "predictions_other.csv").read_bytes()
    elsewhere(recipe, run, "other", "/nowhere", progress=False)  # it is there
    assert (run.path / "predictions_other.csv").read_bytes() == before


def test_a_corpus_without_any_of_the_classes(trained, tmp_path):
    recipe, run = trained
    root = corpus(tmp_path / "other", ["boredom"], ["a"])
    with pytest.raises(RecipeError, match="no utterance of the classes"):
        elsewhere(recipe, run, "other", root, progress=False)
    with pytest.raises(RecipeError, match="no manifest"):
        elsewhere(recipe, run, "third", root, progress=False)
