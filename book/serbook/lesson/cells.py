"""What cells of a chapter show: an audio player, and what executing the chapter takes."""

import base64
import html
import io

import numpy as np
import soundfile
from IPython.display import HTML

from serbook.runner import notebooks
from serbook.runner.notebooks import measured
from serlib.data import audio


def player(wave: np.ndarray, caption: str) -> HTML:
    """An audio player for a chapter: 16 kHz samples as MP3, small enough for a notebook."""
    sound = io.BytesIO()
    soundfile.write(sound, wave, audio.SAMPLE_RATE, format="MP3")
    content, said = base64.b64encode(sound.getvalue()).decode(), html.escape(caption)
    return HTML(
        f'<figure><audio controls aria-label="{said}" src="data:audio/mpeg;base64,{content}">'
        f"</audio><figcaption>{said}</figcaption></figure>"
    )


class Cost:
    """Shows in a chapter what executing it takes; our runner fills in what it measured."""

    def __init__(self, chapter: str) -> None:
        """Look up what the notebook beside the chapter's source says of its own making."""
        self.took = measured().get(chapter)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        unknown = "**Time and memory**: not measured yet."
        text = notebooks.cost(**self.took) if self.took else unknown
        return {"text/markdown": text, "text/plain": text, notebooks.COST: self.took or {}}


cost = Cost  # as the last line of a cell
