"""A trained run at work: answers for new recordings, inner values for figures, words in time.

`find` a run by the beginning of its name, and let a `Recognizer` of it answer for waves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from serlib import records
from serlib.data import audio, manifest, text
from serlib.data.batching import Batch, Item, collate
from serlib.experiments import experiment
from serlib.experiments.inputs import of_one, unchanged
from serlib.models import fusion
from serlib.models.recognizer import SER, TASKS
from serlib.tasks.answers import task_answers
from serlib.tasks.targets import GENDERS
from serlib.training.precision import evaluating, to_float32


class InferenceError(ValueError):
    """A run that cannot answer as asked; the message names the fix."""


@dataclass(frozen=True)
class Answer:
    """What a model says about one clip; None for tasks that it was not trained on.

    Attributes:
        emotion: The most probable class.
        probabilities: Of every class, largest first.
        gender: "female" or "male".
        speaker: The most similar talker of the training set; a new voice gets one too.
        transcript: Greedily decoded.
        attributes: Valence, arousal and dominance, from 1 to 7.
    """

    emotion: str | None
    probabilities: dict[str, float]
    gender: str | None = None
    speaker: str | None = None
    transcript: str | None = None
    attributes: dict[str, float] | None = None


def find(name: str | Path, root: str | Path | None = None) -> records.Run:
    """A finished run, by its folder or by the beginning of its name in $SERLIB_HOME/runs.

    Raises:
        InferenceError: There is none, more than one, or it is not a finished fine-tuning.
    """
    folder = Path(name)
    if not any((folder / kept).is_file() for kept in ("config.json", "status.json")):
        root = Path(root or records.home() / "runs")
        found = sorted(p for p in root.glob("*") if p.is_dir() and p.name.startswith(str(name)))
        found = [p for p in found if p.name == str(name)] or found  # a whole name is meant so
        if len(found) != 1:
            some = ", ".join(p.name for p in found[:5]) or "none"
            raise InferenceError(f"{name}: {len(found)} runs in {root} begin so ({some}); name one")
        folder = found[0]
    run = records.Run(folder)
    if not run.done or "model.json" not in run.status["files"]:
        state = run.status["state"] if not run.done else "no fine-tuned model"
        raise InferenceError(f"{folder}: {state}; choose a finished run of a recognizer")
    return run


class Recognizer:
    """A run's model with the names of its classes and speakers."""

    def __init__(self, run: records.Run) -> None:
        """Load it from its folder; the corpus is not needed."""
        self.about = records.read_json(run.checked("model.json"))
        self.model, self.experts = experiment.restore(run), {}
        if isinstance(self.model, fusion.Fusion):
            config = self.model.config
            self.experts = fusion.load(config, names=config.frozen)
            unchanged(run, self.experts)
            self.experts |= {name: self.model.encoders[fusion.key(name)] for name in config.tuned}
        self.trained_on = self.about.get("trained_on", "unknown speech")  # in words
        self.max_seconds = run.config["recipe"]["max_seconds"]

    def __call__(self, wave: np.ndarray, said: str | None = None) -> Answer:
        """Answer for one utterance.

        Args:
            wave: (N,) float32 mono at 16 kHz, cut as in training.
            said: Its transcript, for a fusion with an expert of text; None where it is missing.
        """
        if self.max_seconds is not None:
            wave = wave[: round(self.max_seconds * audio.SAMPLE_RATE)]
        if self.experts:
            given = of_one(self.experts, wave, said)
            batch = collate([Item(given, "0", 0, len(wave) / audio.SAMPLE_RATE)])
        else:
            batch = _batch(self.model, [wave])
        outputs = _outputs(self.model, batch)
        emotion, probabilities = None, {}
        if "emotion" in outputs:
            p = outputs["emotion"][0].double().softmax(0).tolist()
            ranked = sorted(zip(self.about["classes"], p, strict=True), key=lambda x: -x[1])
            probabilities = dict(ranked)  # of equals the first class, as `evaluation.predict`
            emotion = next(iter(probabilities))
        found = {name: column[0] for name, column in task_answers(outputs, batch).items()}
        return Answer(
            emotion,
            probabilities,
            gender=GENDERS[found["gender"]] if "gender" in found else None,
            speaker=self.about["speakers"][found["speaker_id"]] if "speaker_id" in found else None,
            transcript=found.get("hypothesis"),
            attributes={a: found[a] for a in manifest.ATTRIBUTES if a in found} or None,
        )


def _batch(model: SER, waves: Sequence[np.ndarray]) -> Batch:
    if isinstance(model, fusion.Fusion):
        raise InferenceError("a fusion takes streams; use Recognizer, or inputs.inputs")
    items = [
        Item(model.encoder.prepare(wave), str(i), i, len(wave) / audio.SAMPLE_RATE)
        for i, wave in enumerate(waves)
    ]
    return collate(items)


def _outputs(model: SER, batch: Batch) -> dict[str, torch.Tensor]:
    """Outputs of a batch, on the CPU in float32; an answer that is no number is an error."""
    with evaluating(model):
        outputs = model(batch.to(next(model.parameters()).device))
    found = {name: x.cpu() for name, x in to_float32(outputs).items()}
    if odd := [task for task in TASKS if task in found and not found[task].isfinite().all()]:
        raise InferenceError(
            f"the answers for {', '.join(odd)} are not finite: the recording has samples that are "
            "too large, or the weights are damaged; try another recording, or train again"
        )
    return found


def respond(
    model: SER, waves: Sequence[np.ndarray], names: Sequence[str], *, size: int = 16
) -> dict[str, list[np.ndarray]]:
    """Named outputs of a model for waves (N,), float32 mono at 16 kHz.

    Args:
        model: From `experiment.trained` or `experiment.restore`.
        waves: Any number.
        names: Which of the outputs of `recognizer.SER`, such as "emotion" or "frame_weights".
        size: Waves per batch.

    Returns:
        For each name one array per wave; per-frame outputs are cut to the wave's own frames.
    """
    batches = (_batch(model, waves[at : at + size]) for at in range(0, len(waves), size))
    return collect(model, batches, names)


def collect(
    model: SER, batches: Iterable[Batch], names: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """As `respond`, of batches, such as those of stored features (`inputs.inputs`)."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in batches:
        out = _outputs(model, batch)
        if missing := set(names) - set(out):
            raise InferenceError(f"no output {sorted(missing)}; there are {', '.join(sorted(out))}")
        for name in names:
            each = out[name].numpy()
            if name in ("asr", "frame_weights"):
                each = [x[:n] for x, n in zip(each, out["asr_lengths"].tolist(), strict=True)]
            elif name == "layer_weights":  # one for all clips
                each = [each] * len(out["embedding"])
            found[name] += list(each)
    return found


def align(model: SER, wave: np.ndarray, transcript: str) -> pd.DataFrame:
    """When each word of a known transcript was said, by the model's own CTC output.

    The most probable of all ways to write the transcript into the frames (`torchaudio`'s
    forced_align, Viterbi).

    Args:
        model: Trained with the task "asr".
        wave: (N,) float32.
        transcript: As said; see `text.normalize`.

    Returns:
        One row per word: ``word``, ``start`` and ``end`` in seconds, and ``score``, the mean
        probability of its characters.

    Raises:
        InferenceError: No speech recognition, no usable transcript, or it does not fit the clip.
    """
    from torchaudio.functional import forced_align, merge_tokens

    numbers = text.encode(transcript)
    out = _outputs(model, _batch(model, [wave]))
    if "asr" not in out or not numbers:
        raise InferenceError("needs a model with the task 'asr', and a transcript with letters")
    n_frames = int(out["asr_lengths"][0])
    if text.frames_needed(numbers) > n_frames:
        raise InferenceError(f"{len(numbers)} characters do not fit into {n_frames} frames")
    log_p = out["asr"][:, :n_frames].log_softmax(-1)
    path, scores = forced_align(log_p, torch.tensor([numbers]), blank=text.BLANK)
    spans = merge_tokens(path[0], scores[0].exp(), blank=text.BLANK)
    seconds = model.encoder.stride / audio.SAMPLE_RATE
    parts = itertools.groupby(spans, lambda span: span.token == text.SPACE)
    words = [list(letters) for space, letters in parts if not space]
    return pd.DataFrame(
        {
            "word": ["".join(text.ALPHABET[letter.token] for letter in word) for word in words],
            "start": [word[0].start * seconds for word in words],
            "end": [word[-1].end * seconds for word in words],
            "score": [float(np.mean([letter.score for letter in word])) for word in words],
        }
    )
