"""A panel for a notebook: choose an utterance or bring an own recording, hear it, see the answer.

Without a kernel, as in the site, what is shown is the panel's last answer: no widget, no script.
"""

import html
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import ipywidgets
import numpy as np

from serbook.lesson import cells
from serlib.data import audio

LONGEST = 30.0  # seconds: more is a conversation, and no model of this book hears it whole
SHORTEST = 0.1  # less holds no syllable
SUFFIXES = ".wav,.flac,.ogg,.mp3,audio/*"
TOO_BIG = 30 * 2**20  # bytes: 30 s of stereo at 96 kHz in 32 bits take 23 MB

Answerer = Callable[[np.ndarray], Mapping[str, float]]


class PanelError(ValueError):
    """A recording that cannot be judged; the message names what was wrong and the fix."""


def decode(name: str, content: bytes) -> np.ndarray:
    """The wave (N,) of an uploaded file, float32 mono at 16 kHz.

    Raises:
        PanelError: If it is empty, no audio, silent, too short, too long or too big.
    """
    if not content:
        raise PanelError(f"{name} is empty. Record again, or choose another file.")
    if len(content) > TOO_BIG:
        raise PanelError(f"{name} has {len(content) / 2**20:.0f} MB. Cut out one utterance.")
    with tempfile.NamedTemporaryFile() as file:  # audio.load goes by content, never by suffix
        Path(file.name).write_bytes(content)
        try:
            wave = audio.load(file.name)
        except audio.AudioError as error:
            reason = str(error).replace(file.name, name)
            raise PanelError(f"{reason} Or choose another file.") from error
    seconds = len(wave) / audio.SAMPLE_RATE
    if not SHORTEST <= seconds <= LONGEST:
        raise PanelError(
            f"{name} lasts {seconds:.2f} s. Give one utterance of {SHORTEST} to {LONGEST:.0f} s."
        )
    if not wave.any():
        raise PanelError(f"{name} is silent. Check the microphone and record again.")
    return wave


def bars(probabilities: Mapping[str, float]) -> str:
    """Probabilities (else a PanelError) as an HTML table of bars, largest first, that can be read."""
    named = dict(probabilities)  # of a pandas Series too
    if not named or not all(0 <= p <= 1 for p in named.values()):
        raise PanelError(f"no probabilities: {named}")
    rows = []
    for name, p in sorted(named.items(), key=lambda item: -item[1]):
        bar = f"background: #0072b2; height: 0.8em; width: {12 * p:.2f}em"
        rows.append(
            f'<tr><th scope="row" style="text-align: right">{html.escape(name)}</th>'
            f'<td style="min-width: 12em; text-align: left"><div style="{bar}"></div></td>'
            f"<td>{p:.2f}</td></tr>"
        )
    return f"<table><caption>probability of each emotion</caption>{''.join(rows)}</table>"


def shown(wave: np.ndarray, caption: str, answer: Answerer) -> str:
    """HTML: a player with its transcript, and the answer as bars."""
    return cells.player(wave, caption).data + bars(answer(wave))


class Panel:
    """Judges what the reader chooses or brings."""

    def __init__(self, utterances: Mapping[str, Callable[[], np.ndarray]], answer: Answerer):
        """Build it; the first utterance is judged at once.

        Args:
            utterances: Captions (with the transcript) and functions that give their waves, read
                when chosen; may be empty, where audio must not get into a notebook.
            answer: Probabilities by name for a wave.
        """
        self.utterances, self.answer = dict(utterances), answer
        self.choice = ipywidgets.Dropdown(
            options=[*self.utterances], description="utterance", layout={"width": "auto"}
        )
        self.upload = ipywidgets.FileUpload(
            accept=SUFFIXES, description="or your own file", layout={"width": "max-content"}
        )
        self.output = ipywidgets.HTML(value="<p>Bring a recording of your own.</p>")
        self.choice.observe(self._chosen, "value")
        self.upload.observe(self._brought, "value")
        controls = [self.choice, self.upload] if self.utterances else [self.upload]
        self.box = ipywidgets.VBox([*controls, self.output])
        if self.utterances:
            self._chosen()

    def _chosen(self, change=None) -> None:
        caption = self.choice.value
        self.output.value = shown(self.utterances[caption](), caption, self.answer)

    def _brought(self, change=None) -> None:
        for file in self.upload.value:
            try:
                wave = decode(file["name"], bytes(file["content"]))
                self.output.value = shown(wave, f"your file: {file['name']}", self.answer)
            except PanelError as error:
                self.output.value = f'<p role="alert">{html.escape(str(error))}</p>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The widget where a kernel answers; elsewhere its last answer."""
        note = "<p>In a running notebook you choose the utterance here, or bring your own.</p>"
        still = self.output.value + (note if self.utterances else "")
        return self.box._repr_mimebundle_() | {"text/html": still}
