"""The panel of chapter 00: what it takes, what it refuses, and what stays without a kernel."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile

from serbook.lesson import panel
from serbook.runner import notebooks
from serlib.data import audio

RATE = 16_000
TONE = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)


def encoded(wave: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


def upload(name: str, content: bytes) -> tuple[dict, ...]:
    """What ipywidgets hands over."""
    entry = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
    return (entry | {"last_modified": datetime.now(UTC)},)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_format_of_a_browser_is_read(kind):
    wave = panel.decode(f"me.{kind}", encoded(TONE, kind=kind))
    assert wave.dtype == np.float32 and abs(len(wave) - RATE) < 2000
    assert 0.15 < np.sqrt((wave[2000:-2000] ** 2).mean()) < 0.25  # 0.3 / sqrt 2


def test_the_suffix_does_not_count_and_stereo_at_another_rate_does_not_matter():
    both = np.column_stack([TONE, TONE]).repeat(3, axis=0)[:48_000]
    assert len(panel.decode("holiday.txt", encoded(both, rate=48_000))) == RATE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "me.wav is empty"),
        (b"<html>no sound</html>", "me.wav"),
        (encoded(TONE)[:30], "me.wav"),
        (encoded(TONE[:0]), "me.wav"),
        (encoded(TONE[:800]), r"lasts 0.05 s. Give one utterance of 0.1 to 30 s"),
        (encoded(np.tile(TONE, 31)), r"lasts 31.00 s"),
        (encoded(np.zeros(RATE)), "is silent"),
        (bytes(panel.TOO_BIG + 1), "has 30 MB"),
    ],
    ids="empty html cut no-samples short long silent big".split(),
)
def test_what_is_no_utterance_is_refused_by_name(content, said):
    with pytest.raises(panel.PanelError, match=said) as refused:
        panel.decode("me.wav", content)
    assert "/tmp" not in str(refused.value)


def test_bars_are_as_long_as_the_probabilities_and_can_be_read_aloud():
    text = panel.bars({"anger": 0.25, "joy <3": 0.75})
    assert text == panel.bars(pd.Series({"anger": 0.25, "joy <3": 0.75}))
    assert re.findall(r"width: ([\d.]+)em\"", text) == ["9.00", "3.00"]  # of 12
    assert re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', text) == ["joy &lt;3", "anger"]
    assert re.findall(r"<td>([\d.]+)</td>", text) == ["0.75", "0.25"]


@pytest.mark.parametrize("values", [{}, {"a": 1.2}, {"a": float("nan")}, {"a": -0.1}])
def test_bars_refuse_what_is_no_probability(values):
    with pytest.raises(panel.PanelError, match="no probabilities"):
        panel.bars(values)


@pytest.fixture
def loud():
    """A panel of two utterances; louder ones are called anger."""
    quiet = (0.1 * TONE).astype(np.float32)

    def answer(wave):
        p = float(min(1, np.abs(wave).max() * 3))
        return {"anger": p, "neutral": 1 - p}

    waves = {"neutral: “Fine.” (A)": quiet, "anger: “No & no!” (B)": TONE.astype(np.float32)}
    return panel.Panel({k: lambda v=v: v for k, v in waves.items()}, answer)


def test_choosing_and_bringing_change_the_answer(loud):
    first = loud.output.value
    assert "<td>0.91</td>" in first and "“Fine.” (A)</figcaption>" in first
    loud.choice.value = "anger: “No & no!” (B)"
    assert "<td>0.90</td>" in loud.output.value and "No &amp; no!" in loud.output.value
    loud.upload.value = upload("me.wav", encoded(0.1 * TONE))
    assert "your file: me.wav" in loud.output.value and "<td>0.91</td>" in loud.output.value
    loud.upload.value = upload("<b>.wav", b"")
    assert 'role="alert"' in loud.output.value and "&lt;b&gt;.wav is empty" in loud.output.value
    loud.choice.value = "neutral: “Fine.” (A)"
    assert loud.output.value == first


def test_without_utterances_it_still_takes_a_file():
    asked = []
    own = panel.Panel({}, lambda wave: asked.append(wave) or {"x": 1.0})
    assert not asked and "Bring a recording" in own.output.value
    own.upload.value = upload("me.wav", encoded(TONE))
    assert len(asked) == 1 and len(asked[0]) == audio.SAMPLE_RATE


def test_a_notebook_keeps_the_answer_and_drops_the_widget(loud):
    bundle = loud._repr_mimebundle_()
    assert notebooks.WIDGET in bundle
    bar = {notebooks.WIDGET: {"model_id": "x"}, "text/plain": "HBox()"}  # as of a progress bar
    outputs = [nbformat.v4.new_output("display_data", data) for data in (bundle, bar)]
    cell = nbformat.v4.new_code_cell("panel", outputs=outputs)
    (kept,) = notebooks.tidy(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert notebooks.WIDGET not in kept.data and "<td>0.91</td>" in kept.data["text/html"]
