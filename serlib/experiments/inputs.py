"""What a model is given: stored features of what is frozen in it, else what its encoders take.

What is frozen gives the same numbers in every epoch. If they fit they are computed once and kept
under $SERLIB_HOME/features. An encoder of speech reads the corpus's waves, one of text its
transcripts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from serlib import records
from serlib.data import audio, batching, features
from serlib.data.stores import TextStore
from serlib.data.text import sentence
from serlib.experiments.dataset import Data, load
from serlib.experiments.screen import bars, quiet
from serlib.models import fusion
from serlib.recipes.recipe import Recipe, RecipeError

STORE_GB = 4  # features of a frozen encoder are stored up to this size: 10 hours of CNN output
SPEECH_QUANTUM = audio.SAMPLE_RATE // 4  # padded lengths of waves are multiples of this
QUANTUM = 4  # and those of frames and token ids of this
ROLES = ("train", "dev", "test")
# A store of one encoder's inputs, what prepares each of them, and the quantum of their lengths.
Stored = tuple[Sequence, Callable | None, int]


def default_device() -> str:
    """Where experts run, and finished fusions: on a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def inputs(
    recipe: Recipe,
    data: Data,
    encoders: nn.Module | Mapping[str, nn.Module],
    targets: Mapping[str, np.ndarray] | None = None,
    *,
    texts: Sequence[str] | None = None,
    roles: Sequence[str] = ROLES,
) -> tuple[batching.Clips, int | dict[str, int]]:
    """Clips to batch, and the quantum that their lengths are padded to.

    What is frozen is computed once and stored, see `_of_encoder` and `_of_expert`.

    Args:
        recipe: What they are for.
        data: The utterances.
        encoders: The encoder of a fine-tuning; or the experts of a fusion by name, in order, from
            `fusion.load`: then each clip has a stream, and a quantum, for each of them.
        targets: See `task_targets`.
        texts: What experts of text read, one per row of the table; None: see `transcripts`.
        roles: Whose clips will be asked for; other texts are not encoded.
    """
    if isinstance(encoders, nn.Module):
        x, prepare, quantum = _of_encoder(recipe, data, encoders)
    else:
        texts = transcripts(recipe, data) if texts is None else texts
        asked = np.isin(data.table["role"].to_numpy(), roles)
        said = [text if a else None for text, a in zip(texts, asked, strict=True)]
        streams = {name: _of_expert(expert, data, said) for name, expert in encoders.items()}
        x, prepare, quantum = ({name: s[i] for name, s in streams.items()} for i in range(3))
    clips = batching.Clips(
        x, data.table["key"].tolist(), data.store.durations,
        emotion=data.table["label"].to_numpy(), extra=targets, prepare=prepare,
    )  # fmt: skip
    return clips, quantum


def _of_encoder(recipe: Recipe, data: Data, encoder: nn.Module) -> Stored:
    """Of one encoder the CNN's frames, the states of its lowest layers, or what heads take of all.

    If they fit they are stored, each clip alone. Otherwise the encoder gets waves. So does Whisper
    with frozen convolutions: what they make of 30 s is large, and cheap to make; and with frozen
    layers in the full context, where layers above them see more than the clip's own frames.
    """
    if encoder.modality != "speech":
        raise RecipeError(f"{recipe.model.encoder} reads texts: use it in system='fusion'")
    frames = data.store.durations.sum() * audio.SAMPLE_RATE / encoder.stride
    lower, layers, state = encoder.freeze_layers, recipe.model.layers, {}
    if averaged(recipe):
        kind = "output_mean" if layers == "last" else "layers_mean"
        means = features.cache(encoder, data.store, kind=kind, progress=bars())
        return means, functools.partial(_mean, layers=layers), 1
    states = (lower or encoder.n_layers) + 1
    kind, numbers, dtype = {
        "none": ("waves", np.inf, "float32"),
        "cnn": ("cnn", getattr(encoder, "cnn_width", np.inf), "float32"),
        "lower": ("lower", states * encoder.width, "float16"),
        "all": ("layers", states * encoder.width, "float16"),
    }["lower" if lower else recipe.model.freeze]
    if kind == "layers" and layers != "weighted":
        kind, state = ("frames", {}) if layers == "last" else (kind, {"layer": int(layers)})
        states, numbers = 1, encoder.width
    several = kind in ("lower", "layers", "frames")
    seen = several and not recipe.model.masked_encoder  # the padding must be
    whole = kind == "lower" and getattr(encoder, "context", "short") == "full"
    if seen or whole or frames * numbers * np.dtype(dtype).itemsize > STORE_GB * 1e9:
        return data.store, encoder.prepare, SPEECH_QUANTUM
    x = features.cache(encoder, data.store, kind=kind, dtype=dtype, progress=bars(), **state)
    return x, functools.partial(_states, n=states) if several else None, QUANTUM


def averaged(recipe: Recipe) -> bool:
    """Whether a model can be given each clip's mean over time in place of its frames.

    A mean over time commutes with a sum over layers and with `pooling.Standardize`; so where all of
    the encoder is frozen, and what follows it is a masked mean, a clip is one frame: L + 1 numbers
    a dimension in place of thousands. CTC asks for frames, and LayerNorm of a frame is not linear.
    """
    m = recipe.model
    plain = m.masked_encoder and m.masked_pooling and not (m.layers == "weighted" and m.layer_norm)
    mean = m.freeze == "all" and m.pooling == "mean" and "asr" not in m.tasks
    return mean and plain


def _mean(row: Tensor, layers: str) -> Tensor:
    """Means of states (K, D) as a clip of one frame, (1, K, D) of all or (1, 1, D) of one."""
    return row[None] if layers in ("weighted", "last") else row[None, int(layers), None]


def _states(row: Tensor, n: int) -> Tensor:
    """K states that lie side by side, (T, K D), one after the other, (T, K, D)."""
    return row.view(len(row), n, -1)


def _of_expert(expert: nn.Module, data: Data, texts: Sequence[str | None]) -> Stored:
    """Of a frozen expert its output, stored; of one that is tuned what it takes.

    Each text (None: not asked for) is encoded once; with no transcripts they are all alike.
    """
    speech = expert.modality == "speech"
    different = sorted({text for text in texts if text is not None})
    source = data.store if speech else TextStore(different)
    prepare, quantum = expert.prepare, SPEECH_QUANTUM if speech else QUANTUM
    if expert.freeze == "all":
        prepare, quantum = None, QUANTUM
        about = {"kind": "frames", "dtype": "float16", "progress": bars()}
        source = features.cache(expert, source, **about)
    if not speech:
        place = {text: i for i, text in enumerate(different)}
        source = Picked(source, [place.get(text, -1) for text in texts])
    return source, prepare, quantum


def store_frames(recipe: Recipe, name: str) -> None:
    """Store one frozen expert's frames; `sweep.encode` does several, a training what it lacks."""
    expert = fusion.load(recipe.model, seed=recipe.seed, names=[name])
    with quiet():
        inputs(recipe, load(recipe), expert)


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


def frozen(encoders: Mapping[str, nn.Module]) -> dict[str, str]:
    """The digests of those of some encoders that are frozen as a whole: no run stores them."""
    return {name: x.digest() for name, x in encoders.items() if x.freeze == "all"}


def unchanged(run: records.Run, encoders: Mapping[str, nn.Module]) -> None:
    """Refuse frozen encoders that are others than a run was trained with: a DamagedError."""
    known = records.read_json(run.checked("model.json")).get("frozen", {})
    for name, now in frozen(encoders).items():
        if name in known and now != known[name]:
            raise records.DamagedError(
                f"{run.path} was trained with another {name} than the one that is there now: bring "
                "that back, or train again"
            )


@torch.no_grad()
def of_one(
    experts: Mapping[str, nn.Module], wave: np.ndarray, text: str | None = None
) -> dict[str, np.ndarray | Tensor]:
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
