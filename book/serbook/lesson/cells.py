"""What cells of a chapter show: an audio player, and what executing the chapter takes."""

import base64
import html
import io

import nbformat
import numpy as np
import soundfile
from IPython.display import HTML, Markdown, display

from serbook.runner import notebooks
from serbook.runner.notebooks import measured
from serlib.data import audio

SHIPPED = "As shipped with the book, not computed here:"
OWN = "Computed here, by the same cell, on this run's own corpus:"


def player(wave: np.ndarray, caption: str) -> HTML:
    """An audio player for a chapter: 16 kHz samples as MP3, small enough for a notebook."""
    sound = io.BytesIO()
    soundfile.write(sound, wave, audio.SAMPLE_RATE, format="MP3")
    content, said = base64.b64encode(sound.getvalue()).decode(), html.escape(caption)
    return HTML(
        f'<figure><audio controls aria-label="{said}" src="data:audio/mpeg;base64,{content}">'
        f"</audio><figcaption>{said}</figcaption></figure>"
    )


def shipped(chapter: str, tag: str) -> None:
    """Show the outputs of a tagged cell as the book was shipped with them, and say so.

    For readers whose machine lacks what a chapter is about, such as a corpus.
    """
    path = notebooks.find(chapter).with_suffix(".ipynb")
    there = nbformat.read(path, as_version=4).cells if path.exists() else []
    found = [cell for cell in there if tag in cell.metadata.get("tags", [])]
    display(Markdown(f"*{SHIPPED if found else 'No notebook was shipped with this chapter.'}*"))
    for output in (output for cell in found for output in cell.outputs):
        if output.output_type == "stream":
            print(output.text)
        else:
            display(dict(output.data), raw=True)
    display(Markdown(f"*{OWN}*"))


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
