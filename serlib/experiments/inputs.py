"""What a model is given: stored features of what is frozen in it, else what its encoders take.

What is frozen gives the same numbers in every epoch. If they fit they are computed once and kept
under $SERLIB_HOME/features. An encoder of speech reads the corpus's waves, one of text its
transcripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from serlib.data import audio, batching, features
from serlib.data.stores import TextStore
from serlib.data.text import sentence
from serlib.experiments.dataset import Data, load
from serlib.models import fusion
from serlib.models.encoders import wav2vec2
from serlib.recipes.recipe import Recipe, RecipeError

SPEECH_QUANTUM = audio.SAMPLE_RATE // 4  # padded lengths of waves are multiples of this
QUANTUM = 4  # and those of frames and token ids of this


def default_device() -> str:
    """Where experts run, and finished fusions: on a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Picked(Sequence):
    """A store read through places: entry i is `store[places[i]]`."""

    def __init__(self, store: Sequence, places: Sequence[int]) -> None:
        """A place of -1 has no entry: asking for it is an IndexError."""
        self.store, self.places = store, list(places)

    def __len__(self) -> int:
        """Places."""
        return len(self.places)

    def __getitem__(self, i: int):
        """Entry i."""
        if self.places[i] < 0:
            raise IndexError(f"entry {i} was not asked for when the store was made")
        return self.store[self.places[i]]


def transcripts(recipe: Recipe, data: Data, heard: Mapping[str, str] | None = None) -> list[str]:
    """What experts of text read, one per row of the table; "" where there is no transcript.

    Args:
        recipe: Its `transcript` says what dev and test have; train has the manifest's.
        data: The utterances.
        heard: Hypotheses by key, for transcript="recognized"; written as sentences, since a
            recognizer has neither case nor punctuation.

    Raises:
        RecipeError: An utterance of dev or test was not recognized.
    """
    if "text" not in data.table:
        raise RecipeError("the manifest has no column 'text' for an expert of text to read")
    said = [text if isinstance(text, str) else "" for text in data.table["text"]]
    if recipe.transcript == "manifest":
        return said
    judged = (data.table["role"] != "train").to_numpy()
    if recipe.transcript == "none":
        return ["" if j else text for j, text in zip(judged, said, strict=True)]
    keys = data.table["key"].tolist()
    if missing := [k for k, j in zip(keys, judged, strict=True) if j and k not in heard]:
        raise RecipeError(
            f"{recipe.recognizer.name} has no hypothesis for {len(missing)} utterances, such as "
            f"{missing[0]}: give it the same corpus, protocol and fold"
        )
    rows = zip(keys, judged, said, strict=True)
    return [sentence(heard[key]) if j else t for key, j, t in rows]


def _frames(encoder: nn.Module, source: Sequence, progress: bool) -> features.FeatureStore:
    """A frozen expert's output for every clip, computed on a GPU if there is one."""
    encoder.to(default_device())
    try:
        return features.cache(encoder, source, kind="frames", dtype="float16", progress=progress)
    finally:
        encoder.to("cpu")  # the GPU's memory is for what is trained


@torch.no_grad()
def of_one(
    experts: Mapping[str, nn.Module], wave: np.ndarray, text: str | None = None
) -> dict[str, np.ndarray | torch.Tensor]:
    """What each expert gives or takes for one utterance, the input of a `batching.Item`.

    Args:
        experts: From `fusion.load`; of the frozen ones the frames are computed.
        wave: (N,) float32 at 16 kHz.
        text: The transcript; None where it is missing.
    """
    found = {}
    for name, encoder in experts.items():
        x = encoder.prepare(wave if encoder.modality == "speech" else text)
        if encoder.freeze == "all":
            x = encoder(torch.from_numpy(x)[None], torch.tensor([len(x)])).frames[0]
        found[name] = x
    return found


def stream_inputs(
    experts: Mapping[str, nn.Module],
    data: Data,
    texts: Sequence[str],
    *,
    targets: Mapping[str, np.ndarray] | None = None,
    roles: Sequence[str] = ("train", "dev", "test"),
    progress: bool = True,
) -> tuple[batching.Clips, dict[str, int]]:
    """Clips with a stream per expert, and the quantum that each is padded to.

    Args:
        experts: From `fusion.load`, in order.
        data: The utterances.
        texts: See `transcripts`.
        targets: See `task_targets`.
        roles: Whose clips will be asked for; other texts are not encoded.
        progress: Show bars.
    """
    asked = np.isin(data.table["role"].to_numpy(), roles)
    stores, prepare, quantum = {}, {}, {}
    for name, encoder in experts.items():
        speech = encoder.modality == "speech"
        source = data.store if speech else None
        if not speech:  # each text once: with no transcripts they are all alike
            different = sorted({text for text, a in zip(texts, asked, strict=True) if a})
            place = {text: i for i, text in enumerate(different)}
            places = [place[t] if a else -1 for t, a in zip(texts, asked, strict=True)]
            source = TextStore(different)
        if encoder.freeze == "all":
            source = _frames(encoder, source, progress)
            quantum[name] = QUANTUM
        else:
            prepare[name] = encoder.prepare
            quantum[name] = SPEECH_QUANTUM if speech else QUANTUM
        stores[name] = source if speech else Picked(source, places)
    clips = batching.Clips(
        stores,
        data.table["key"].tolist(),
        data.store.durations,
        emotion=data.table["label"].to_numpy(),
        extra=targets,
        prepare=prepare,
    )
    return clips, quantum


STORE_GB = 4  # features of a frozen encoder are stored up to this size: 10 hours of CNN output


def store_frames(recipe: Recipe, name: str) -> None:
    """Store one frozen expert's frames; `sweep.encode` does several, a training what it lacks."""
    data = load(recipe, progress=False)
    expert = fusion.load(recipe.model, seed=recipe.seed, names=[name])
    stream_inputs(expert, data, transcripts(recipe, data), progress=False)


def encoder_inputs(
    recipe: Recipe,
    data: Data,
    encoder: wav2vec2.Encoder,
    targets: dict[str, np.ndarray] | None = None,
    progress: bool = True,
) -> tuple[batching.Clips, int]:
    """Clips to batch, and the quantum their lengths are padded to.

    What is frozen gives the same numbers in every epoch: the CNN's frames, the states of the lowest
    layers, or with a wholly frozen encoder all its hidden states. If they fit they are computed
    once, each clip alone, and stored. Otherwise the encoder gets waves. So does Whisper unless it
    is frozen as a whole: what its convolutions make of 30 s is large, and cheap to make.
    """
    if encoder.modality != "speech":
        raise ValueError(f"{recipe.model.encoder} reads texts: use it in system='fusion'.")
    label, keys = data.table["label"].to_numpy(), data.table["key"].tolist()
    frames = data.store.durations.sum() * audio.SAMPLE_RATE / encoder.stride
    lower = encoder.freeze_layers
    states = (lower or encoder.n_layers) + 1
    kind, numbers, dtype = {
        "none": ("waves", np.inf, "float32"),
        "cnn": ("cnn", getattr(encoder, "cnn_width", np.inf), "float32"),
        "lower": ("lower", states * encoder.width, "float16"),
        "all": ("layers", states * encoder.width, "float16"),
    }["lower" if lower else recipe.model.freeze]
    seen = kind in ("lower", "layers") and not recipe.model.masked_encoder  # the padding must be
    x, prepare, quantum = data.store, encoder.prepare, audio.SAMPLE_RATE // 4
    if not seen and frames * numbers * np.dtype(dtype).itemsize <= STORE_GB * 1e9:
        x = features.cache(encoder, data.store, kind=kind, dtype=dtype, progress=progress)
        prepare, quantum = None, 4
        if kind in ("lower", "layers"):
            prepare = lambda row: row.view(len(row), states, -1)  # noqa: E731 (T, K, D)
    clips = batching.Clips(
        x, keys, data.store.durations, emotion=label, extra=targets, prepare=prepare
    )
    return clips, quantum
