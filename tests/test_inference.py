"""Trained runs at work: found by name, answering as in their evaluation, words laid over sound."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from serlib import __main__ as cli
from serlib import records
from serlib.corpora.demo import corpus
from serlib.data import audio, text
from serlib.experiments import dataset, experiment, inference
from serlib.experiments.inference import InferenceError
from serlib.recipes import papers

TINY = dict(epochs=1, n_layers=1, freeze_layers=0)


@pytest.fixture(scope="module")
def four(home):
    """A recipe with all four tasks, trained."""
    corpus.make(progress=False)
    recipe = papers.wang2025("smoke", lr_head=5e-3).change(**TINY, hidden=16)
    experiment.run(recipe, progress=False)
    return recipe


@pytest.fixture(scope="module")
def run(four):
    return experiment.record(four)


@pytest.fixture(scope="module")
def waves(four):
    data = dataset.load(four)
    return {data.table["key"][i]: data.store[int(i)] for i in data.rows("test")[:6]}


@pytest.fixture(scope="module")
def model(run):
    return experiment.restore(run)


# ----------------------------------------------------------------------------------------- find


@pytest.fixture
def folder(tmp_path, run):
    """Four runs: two finished ones, whose names begin alike, an unfinished one, and a floor."""
    for name in ("fine-tune-ab", "fine-tune-abc"):
        (tmp_path / name).symlink_to(run.path)
    records.Run.open(tmp_path, {}, key="started")
    records.Run.open(tmp_path, {}, key="svm-1").finish({})
    return tmp_path


def test_find_by_folder_and_by_the_beginning_of_a_name(folder, run):
    assert inference.find(run.path).path == run.path
    assert inference.find(str(run.path)).path == run.path
    assert inference.find("fine-tune-abc", folder).path.name == "fine-tune-abc"
    assert inference.find("fine-tune-ab", folder).path.name == "fine-tune-ab", "a whole name"
    assert inference.find(run.path.name[:-3]).path == run.path  # in $SERLIB_HOME/runs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fine", ["2 runs", "fine-tune-ab, fine-tune-abc"]),
        ("", ["4 runs"]),
        ("nothing", ["0 runs", "none"]),
        ("started", ["unfinished", "choose a finished run"]),
        ("svm", ["no fine-tuned model"]),
    ],
)
def test_what_cannot_answer_is_refused_in_one_line(folder, name, words):
    with pytest.raises(InferenceError) as error:
        inference.find(name, folder)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_the_folder_of_an_unfinished_run_says_so(folder):
    with pytest.raises(InferenceError, match="unfinished"):
        inference.find(folder / "started")
    with pytest.raises(InferenceError, match="0 runs"):
        inference.find("x", folder / "no" / "such")


# ----------------------------------------------------------------------------------- Recognizer


def test_the_recognizer_answers_as_the_evaluation_of_its_run(four, run, waves):
    recognizer, stored = inference.Recognizer(run), run.predictions("test")
    _, speakers = None, recognizer.about["speakers"]
    for key, wave in waves.items():
        answer, row = recognizer(wave), stored.loc[key]
        assert answer.emotion == four.classes[row["prediction"]]
        for c, name in enumerate(four.classes):
            assert answer.probabilities[name] == pytest.approx(row[f"p_{c}"], abs=1e-4)
        assert answer.gender == ("female", "male")[row["gender"]]
        assert answer.speaker == speakers[row["speaker_id"]]
        assert answer.transcript == row["hypothesis"]
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values())[::-1]


def test_a_single_task_has_single_answers(home):
    recipe = papers.cai2021("smoke").change(**TINY, tasks=("emotion",))
    recognizer = inference.Recognizer(experiment.run(recipe, progress=False))
    answer = recognizer(np.zeros(100, np.float32))  # shorter than the encoder's first frame
    assert answer.emotion in recipe.classes
    assert (answer.gender, answer.speaker, answer.transcript) == (None, None, None)
    with pytest.raises(InferenceError, match="no output .*asr.*there are .*emotion"):
        inference.respond(recognizer.model, [np.zeros(8000, np.float32)], ["asr"])
    with pytest.raises(InferenceError, match="task 'asr'"):
        inference.align(recognizer.model, np.zeros(8000, np.float32), "well")


def test_of_equal_classes_the_first_is_the_answer(run):
    recognizer = inference.Recognizer(run)
    last = recognizer.model.heads["emotion"][-1]
    with torch.no_grad():
        last.weight.zero_(), last.bias.zero_()
    answer = recognizer(np.ones(16000, np.float32))
    assert answer.emotion == recognizer.about["classes"][0]  # as evaluation.predict's argmax


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_none(run, waves, value):
    recognizer = inference.Recognizer(run)
    with torch.no_grad():
        [*recognizer.model.heads["emotion"].parameters()][-1].fill_(value)
    with pytest.raises(InferenceError, match="answers for emotion are not finite.*train again"):
        recognizer(next(iter(waves.values())))


def test_long_recordings_are_cut_as_in_training(run, waves, monkeypatch):
    wave = next(iter(waves.values()))
    recognizer = inference.Recognizer(run)
    assert recognizer.max_seconds is None
    recognizer.max_seconds = 1.0
    whole = np.concatenate([wave[:16000], np.ones(50000, np.float32)])
    assert recognizer(whole) == recognizer(wave[:16000])


# --------------------------------------------------------------------------- respond and outputs


def test_responses_are_cut_and_do_not_depend_on_the_batch(model, waves):
    names = ["emotion", "asr", "frame_weights", "task_weights", "layer_weights"]
    clips = [*waves.values(), next(iter(waves.values()))[:9000]]
    alone = inference.respond(model, clips, names, size=1)
    batched = inference.respond(model, clips, names, size=4)
    for name in names:
        assert len(alone[name]) == len(batched[name]) == len(clips)
        for a, b in zip(alone[name], batched[name], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)
    for wave, frames, weights in zip(clips, alone["asr"], alone["frame_weights"], strict=True):
        n = int(model.encoder.frame_lengths(len(wave)))
        assert frames.shape == (n, len(text.ALPHABET)) and weights.shape == (n,)
        assert weights.sum() == pytest.approx(1, abs=1e-4)
    assert alone["layer_weights"][0].shape == (2,)
    assert inference.respond(model, [], ["emotion"]) == {"emotion": []}
    assert not model.training


# ----------------------------------------------------------------------------------------- align


def hearing(monkeypatch, probabilities: np.ndarray):
    """A model whose speech head says these probabilities (T, V), at 25 frames a second."""
    logits = torch.tensor(probabilities, dtype=torch.float32).log()[None]
    out = {"asr": logits, "asr_lengths": torch.tensor([logits.shape[1]])}
    monkeypatch.setattr(inference, "_batch", lambda model, waves: waves)
    monkeypatch.setattr(inference, "_outputs", lambda model, batch: out)
    return SimpleNamespace(encoder=SimpleNamespace(stride=640))


def spelled(path: str, sure: float = 0.9) -> np.ndarray:
    """Probabilities of frames that say the characters of `path`, "-" for the blank."""
    p = np.full((len(path), len(text.ALPHABET)), (1 - sure) / (len(text.ALPHABET) - 1))
    for t, character in enumerate(path):
        p[t, 0 if character == "-" else text.ALPHABET.index(character)] = sure
    return p


def test_words_lie_where_the_head_says_them(monkeypatch):
    model = hearing(monkeypatch, spelled("-AALL-L-|-BE--"))
    words = inference.align(model, np.zeros(1), "all, be!")
    assert words["word"].tolist() == ["ALL", "BE"]
    np.testing.assert_allclose(words["start"], [1 * 0.04, 10 * 0.04])
    np.testing.assert_allclose(words["end"], [7 * 0.04, 12 * 0.04])  # the frame after the last one
    np.testing.assert_allclose(words["score"], 0.9, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all(monkeypatch, seed):
    """Against every one of the paths of five frames that collapse to "A BB"'s first two words."""
    symbols = [0, *text.encode("a b")]  # blank, A, |, B
    p = np.zeros((6, len(text.ALPHABET)))
    p[:, symbols] = np.random.default_rng(seed).dirichlet(np.ones(4), 6)
    target = text.encode("a b")
    paths = [q for q in itertools.product(symbols, repeat=6) if text.collapse(q) == target]
    best = np.array(max(paths, key=lambda q: np.prod(p[range(6), q])))
    words = inference.align(hearing(monkeypatch, p + 1e-30), np.zeros(1), "a b")
    for row, symbol in zip(words.itertuples(), (symbols[1], symbols[3]), strict=True):
        at = np.flatnonzero(best == symbol)
        assert row.start == pytest.approx(at[0] * 0.04)
        assert row.end == pytest.approx((at[-1] + 1) * 0.04)
        assert row.score == pytest.approx(p[at, symbol].mean(), rel=1e-4)


@pytest.mark.parametrize("transcript", ["", "[NOISE]", "route 66", None])
def test_a_transcript_without_letters_is_refused(monkeypatch, transcript):
    with pytest.raises(InferenceError, match="a transcript with letters"):
        inference.align(hearing(monkeypatch, spelled("A-")), np.zeros(1), transcript)


def test_a_transcript_that_does_not_fit_is_refused(monkeypatch):
    model = hearing(monkeypatch, spelled("ALL"))
    with pytest.raises(InferenceError, match="3 characters do not fit into 3 frames"):
        inference.align(model, np.zeros(1), "all")  # double L: one more for the blank
    assert len(inference.align(model, np.zeros(1), "al")) == 1


def test_alignment_of_a_trained_model_stays_in_the_clip(model, waves):
    df = corpus.load().set_index("key")
    for key, wave in list(waves.items())[:3]:
        words = inference.align(model, wave, df.loc[key, "text"])
        assert words["word"].tolist() == text.normalize(df.loc[key, "text"]).split()
        assert (words["start"] < words["end"]).all() and words["start"].is_monotonic_increasing
        assert words["end"].iloc[-1] <= len(wave) / audio.SAMPLE_RATE + 0.04
        assert words["score"].between(0, 1).all()


# --------------------------------------------------------------------------------------- command


@pytest.fixture
def files(tmp_path, waves):
    paths = [tmp_path / "one.wav", tmp_path / "two.wav"]
    for path, wave in zip(paths, waves.values(), strict=False):
        audio.save(path, wave)
    return paths


def test_predict_prints_every_task(run, four, files, waves, capsys):
    assert cli.main(["predict", str(run.path), *map(str, files)]) == 0
    shown = capsys.readouterr()
    lines, table = shown.out.splitlines(), dataset.load(four).table
    table = table[table["role"] == "train"]
    count = f"{len(table)} utterances of {table['speaker'].nunique()} speakers"
    assert shown.err == f"trained on demo, eng, acted, {count}\n"
    assert [line for line in lines if not line.startswith("  ")] == [str(f) for f in files]
    answer = inference.Recognizer(run)(next(iter(waves.values())))
    shown = [line.split(maxsplit=1) for line in lines[1:5]]
    assert [name for name, *_ in shown] == ["emotion", "gender", "speaker", "transcript"]
    top = answer.probabilities[answer.emotion]
    assert shown[0][1].startswith(f"{answer.emotion}  ({answer.emotion} {top:.2f}, ")
    assert [shown[1][1], shown[2][1]] == [answer.gender, answer.speaker]
    assert " ".join(shown[3][1:]) == answer.transcript


def test_predict_as_json(run, files, capsys):
    assert cli.main(["predict", run.path.name, *map(str, files), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f["file"] for f in found] == [str(f) for f in files]
    assert set(found[0]) == {
        "file", "emotion", "probabilities", "gender", "speaker", "transcript", "attributes",
        "trained_on",
    }  # fmt: skip
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)
    assert next(iter(found[0]["probabilities"])) == found[0]["emotion"]


def test_predict_errors_are_one_line(run, files, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "loud.wav", [0.0, 3e38] * 8_000, 16_000, subtype="FLOAT")
    whole = files[0].read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "slow.wav").write_bytes(whole[:24] + bytes([25, 0, 0, 0]) + whole[28:])
    for arguments, word in (
        (["no-such-run", str(files[0])], "no-such-run"),
        ([str(run.path), str(tmp_path / "missing.wav")], "no such file"),
        ([str(run.path), str(tmp_path / "text.wav")], "text.wav"),
        ([str(run.path), str(tmp_path / "loud.wav")], "loud.wav: has a peak of 3e+38"),
        ([str(run.path), str(tmp_path / "cut.wav")], "cut.wav: is cut short"),
        ([str(run.path), str(tmp_path / "slow.wav")], "slow.wav: has a sample rate of 25 Hz"),
    ):
        assert cli.main(["predict", *arguments]) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        assert shown.err.startswith("serlib: ") and word in shown.err
