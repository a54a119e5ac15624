"""Whatever was done to a finished run: its results are read as they were, or one line says why not.

`SERLIB_FUZZ=500` tries so many changes at random in the place of 60.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from model_toys import tiny_folders, tone
from serbook.archive.make import ArchiveError, make
from serbook.runner import evidence
from serlib import __main__ as cli
from serlib import records
from serlib.experiments import inference
from serlib.models.recognizer import SER
from serlib.recipes import papers

MANY = int(os.environ.get("SERLIB_FUZZ", 60))
VALUES = ["null", "[]", "{}", "3", '"done"', '{"state": "done"}', "[" * 100_000, "NaN", "", "{",
          '{"state": "done", "summary": {}, "files": {}, "seal": ""}']  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs of a tiny model, in a home of their own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERLIB_HOME", str(home))
        encoder = tiny_folders(tmp_path_factory)("wavlm", "layer")
        for seed in (0, 1):
            recipe = papers.wang2025_baseline("full").change(encoder=encoder, hidden=8, seed=seed)
            model = SER(recipe.model, n_speakers=0, seed=seed)
            config = {"recipe": records.plain(recipe), "manifest": "0" * 12}
            run = records.Run.open(home / "runs", config, key=f"fine-tune-{seed}")
            with run.lock():
                about = {"model": dataclasses.asdict(recipe.model), "classes": recipe.classes}
                records.write_json(run.path / "model.json", about | {"speakers": []})
                weights = safetensors.torch.save(model.state_dict())
                records.atomic_write(run.path / "model.safetensors", weights)
                run.log(epoch=1, loss=0.5)
                run.log(epoch=2, loss=0.25)
                for role, n in (("dev", 8), ("test", 16)):
                    rng = np.random.default_rng(seed)
                    table = pd.DataFrame(
                        {"truth": np.arange(n) % 8, "speaker": list("abcd") * (n // 4)}
                    )
                    table.insert(1, "prediction", rng.integers(0, 8, n))
                    run.save_predictions(
                        role, table.set_index(pd.Index(map(str, range(n)), name="key"))
                    )
                run.finish({"test": {"wa": 0.5}, "dev": {"wa": 0.25}})
        yield home


@pytest.fixture
def home(finished, tmp_path, monkeypatch) -> Path:
    """A copy of both runs."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "copy"))
    return shutil.copytree(finished, tmp_path / "copy")


def read(run: records.Run) -> dict:
    """All that is ever read of a run."""
    answer = inference.Recognizer(inference.find(str(run.path)))(tone(1, 0.3))
    tables = {role: run.predictions(role).to_json() for role in ("dev", "test")}
    about = {"summary": run.summary, "config": run.config, "history": run.history().to_json()}
    return tables | about | {"answer": answer}


def test_a_run_is_read_as_it_was_finished(home):
    run = records.Run(home / "runs" / "fine-tune-0")
    assert read(run)["summary"]["test"] == {"wa": 0.5} and run.done
    run.checked()
    assert evidence.look()[1] == []
    before = (run.path / "status.json").read_bytes()
    with run.lock():
        assert run.done
    assert (run.path / "status.json").read_bytes() == before


def test_predictions_of_another_corpus_are_sealed_when_they_come(home):
    run = records.Run(home / "runs" / "fine-tune-0")
    run.save_predictions("meld", run.predictions("test"))
    assert read(run)["test"] == run.predictions("meld").to_json()
    shutil.copy(run.path / "predictions_test.csv", run.path / "predictions_emotiw.csv")
    shutil.copy(
        run.path / "predictions_test.types.json", run.path / "predictions_emotiw.types.json"
    )
    with pytest.raises(records.DamagedError, match="predictions_emotiw.csv is not as when"):
        run.predictions("emotiw")


def disturb(path: Path, other: Path, draw: random.Random) -> str:
    """Do something to one file of a run folder; returns what."""
    files = sorted(p for p in path.iterdir() if p.name != ".lock")
    file = draw.choice(files)
    kinds = ["delete", "empty", "cut", "flip", "of another run", "folder", "dangling link", "digit"]
    how = draw.choice(kinds + ["value"] * 2 * (file.suffix == ".json"))
    data = file.read_bytes()
    place = draw.randrange(len(data))
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if how in ("delete", "folder", "dangling link"):
        file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "dangling link":
        file.symlink_to(path / "nowhere")
    elif how == "of another run":
        shutil.copy(other / file.name, file)
    elif how != "delete":
        at = draw.choice(digits) if digits else place
        digit = data[:at] + bytes([48 + (data[at] + 1) % 10]) + data[at + 1 :]
        flip = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        file.write_bytes({"empty": b"", "cut": data[:place], "digit": digit, "flip": flip,
                          "value": draw.choice(VALUES).encode()}[how])  # fmt: skip
    return f"{file.name}: {how}"


@pytest.mark.parametrize("seed", range(MANY))
def test_no_change_is_taken_for_a_result(home, seed, capsys):
    run, other = (records.Run(home / "runs" / f"fine-tune-{i}") for i in (0, 1))
    before = read(run)
    what = disturb(run.path, other.path, random.Random(seed))
    for name in before:  # each alone: what is not touched may still be read
        try:
            found = read(run)[name]
        except (records.RecordError, inference.InferenceError) as error:
            assert str(run.path) in str(error) and "\n" not in str(error), what
        else:
            assert found == before[name], what
    found, odd = evidence.look()
    names = [r.path.name for entries in found.values() for _, r, _ in entries]
    assert other.path.name in names, "one run ends the look at all others"
    weights = what.startswith("model.safetensors")  # read, and so checked, where they are used
    if run.path.name in names:
        assert weights or not odd, what
    else:
        assert any(str(run.path) in told for told in odd), what
    assert cli.main(["predict", str(run.path), "x.wav"]) in (0, 1)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_status_is_trained_again_and_a_changed_one_is_not(home):
    run = records.Run(home / "runs" / "fine-tune-0")
    whole = (run.path / "status.json").read_text()
    for damage in VALUES[:-1]:
        (run.path / "status.json").write_text(damage)
        assert not run.done and "status.json" in run.status["error"]
        with pytest.raises(records.RecordError, match=r"unfinished its status\.json"):
            _ = run.summary
    changed = json.loads(whole)
    changed["summary"]["test"]["wa"] = 0.999
    (run.path / "status.json").write_text(json.dumps(changed))
    with pytest.raises(records.DamagedError, match="delete the folder, run its recipe again"):
        _ = run.done
    with pytest.raises(records.DamagedError), run.lock():
        pass


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_in_a_runs_place_is_named(home, kind):
    path = home / "runs" / "fine-tune-2"
    path.write_text("x") if kind == "file" else path.symlink_to(home / "nowhere")
    with pytest.raises(records.RecordError, match="fine-tune-2 is no folder: move it away"):
        records.Run.open(home / "runs", {}, key="fine-tune-2")
    assert [str(path) in told for told in evidence.look()[1]] == [True]


def test_claims_go_on_without_a_damaged_run_and_tell_at_the_end(home, capsys):
    (home / "runs" / "fine-tune-0" / "predictions_test.csv").write_text("key,truth\n")
    (home / "runs" / "fine-tune-1" / "status.json").write_text("null")
    assert cli.main(["claims", "--of", "02"]) == 0
    shown = capsys.readouterr()
    assert "not testable here" in shown.out
    lines = shown.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("serlib: left out: ") for line in lines)
    assert "predictions_test.csv is not as when the run finished: delete the folder" in lines[0]
    with pytest.raises(ArchiveError, match="fine-tune-0: predictions_test.csv is not as when"):
        make(home / "back.zip", "full")


def test_weights_that_give_no_numbers_give_no_answer(home, capsys):
    run = records.Run(home / "runs" / "fine-tune-0")
    weights = safetensors.torch.load_file(run.path / "model.safetensors")
    weights = {k: torch.full_like(x, torch.nan) for k, x in weights.items()}
    records.atomic_write(run.path / "model.safetensors", safetensors.torch.save(weights))
    run.finish(run.summary)  # sealed as they are
    with pytest.raises(inference.InferenceError, match="the answers for emotion are not finite"):
        inference.Recognizer(run)(tone(1, 0.3))
