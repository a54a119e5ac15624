"""Figures: they say which tier made them, never tell by color alone, and survive odd input."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from serbook.figures import plots
from serbook.runner import notebooks
from serlib.metrics import intervals, measures

NAN = float("nan")


pytestmark = pytest.mark.usefixtures("look")


def interval(value=0.5, low=0.4, high=0.6):
    return intervals.Interval(value, low, high, 0.95)


def table(rows=3, columns=3):
    cells = np.arange(1.0, rows * columns + 1).reshape(rows, columns)
    return pd.DataFrame(cells, index=list("abcdefgh")[:rows], columns=list("xyzuvwst")[:columns])


def history(epochs):
    return pd.DataFrame({"epoch": range(epochs), "dev_ua": np.linspace(0.1, 0.5, epochs)})


HISTORIES = {"one": [history(3), history(3)], "two": [history(1)]}
P = np.array([[0.9, 0.1], [0.4, 0.6]])
RELIABILITY = pd.DataFrame(measures.reliability(P, np.array([0, 0])))
RNG = np.random.default_rng(0)
FIGURES = {
    "counts": lambda: plots.counts(table()),
    "waveform": lambda: plots.waveform(RNG.normal(0, 0.1, 8000).astype(np.float32))[0],
    "learning_curves": lambda: plots.learning_curves(HISTORIES, "dev_ua", ceiling=0.6),
    "intervals": lambda: plots.intervals({"a": interval(), "b": interval()}, zero=True),
    "confusion": lambda: plots.confusion(np.eye(3, dtype=int), list("abc")),
    "recalls": lambda: plots.recalls({"a": np.eye(3), "b": np.ones((3, 3))}, list("abc")),
    "reliability": lambda: plots.reliability({"a": RELIABILITY}),
    "dots": lambda: plots.dots(table(), log=True),
    "heat": lambda: plots.heat(table(), label="share"),
    "curves": lambda: plots.curves({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, log="xy"),
    "plane": lambda: plots.plane({"a": ([1, 2], [3, 4]), "b": ([5], [6])}),
    "stacked": lambda: plots.stacked(table()),
}


def passports(figure):
    return [t.get_text() for t in figure.texts if "tier:" in t.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_once_which_tier_made_it(name):
    figure = FIGURES[name]().figure
    figure.canvas.draw()
    (note,) = passports(figure)
    assert note.startswith("demo tier: synthetic speech")


@pytest.mark.parametrize(("profile", "speech"), [("smoke", "synthetic"), ("full", "human")])
def test_only_the_full_tier_claims_human_speech(profile, speech):
    plots.style(profile)
    assert passports(FIGURES["curves"]().figure) == [f"{profile} tier: {speech} speech"]


def test_a_readers_own_corpus_is_named():
    plots.style("demo", "/data/emodb/emodb.csv")
    assert passports(FIGURES["curves"]().figure) == ["demo tier: corpus emodb"]
    plots.style("full", "demo")
    assert passports(FIGURES["curves"]().figure) == ["full tier: synthetic speech"]
    plots.style("demo")
    assert passports(FIGURES["curves"]().figure) == ["demo tier: synthetic speech"]


@pytest.mark.parametrize("draw", [plots.curves, plots.dots])
def test_what_is_not_the_tiers_speech_is_not_called_human(draw):
    plots.style("full")
    data = table() if draw is plots.dots else {"a": ([0, 1], [0, 1])}
    assert passports(draw(data, source="published counts").figure) == [
        "full tier: published counts"
    ]


def test_every_figure_takes_the_same_keywords_and_keeps_what_nobody_names():
    said = dict(title="t", xlabel="x", ylabel="y")
    ax = plots.recalls({"a": np.eye(2)}, list("ab"), size=(3, 2), note="n", source="s", **said)
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == ("t", "x", "y")
    assert ax.figure.get_size_inches().tolist() == [3, 2]
    assert passports(ax.figure) == ["demo tier: s; n"]
    again = plots.recalls({"a": np.eye(2)}, list("ab"), ax=ax)
    assert again is ax and ax.get_title(loc="left") == "t" and ax.get_ylabel() == "recall"


def test_panels_share_one_passport_and_the_last_note_wins():
    left, right = plots.panels(2)
    plots.curves({"a": ([0, 1], [0, 1])}, ax=left, note="first")
    plots.curves({"a": ([0, 1], [0, 1])}, ax=right, note="second")
    assert passports(left.figure) == ["demo tier: synthetic speech; second"]


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (3, 1), (5, 2)])
def test_panels_gives_as_many_axes_as_asked(n, rows):
    axes = plots.panels(n, rows=rows)
    assert len(axes) == n == len(axes[0].figure.axes)


@pytest.mark.parametrize("draw", [plots.counts, plots.stacked])
def test_bars_differ_in_hatch_as_well_as_in_color(draw):
    ax = draw(table(rows=2, columns=4))
    looks = [{(to_hex(b.get_facecolor()), b.get_hatch() or "") for b in c} for c in ax.containers]
    assert all(len(look) == 1 for look in looks)  # one look per column
    colors, hatches = zip(*(look.pop() for look in looks), strict=True)
    assert len(set(colors)) == len(set(hatches)) == 4
    drawn = [h.get_hatch() or "" for h in ax.get_legend().get_patches()]
    assert tuple(drawn) == hatches  # the legend shows them too


@pytest.mark.parametrize("name", ["curves", "learning_curves", "dots", "plane"])
def test_series_differ_in_marks_or_dashes_as_well_as_in_color(name):
    ax = FIGURES[name]()
    if name == "plane":
        large = [c for c in ax.collections if c.get_sizes()[0] > 50]
        shapes = [c.get_paths()[0].vertices.tobytes() for c in large]
    else:
        shapes = [(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()]
    assert len({str(s) for s in shapes}) >= 2


def test_eight_stacked_columns_are_told_apart_without_color():
    ax = plots.stacked(table(rows=2, columns=8))
    looks = [(to_hex(c[0].get_facecolor()), c[0].get_hatch()) for c in ax.containers]
    assert len(set(looks)) == 8


def test_stacked_bars_lie_end_to_end():
    ax = plots.stacked(table())
    first_row = [c[0] for c in ax.containers]
    assert [b.get_x() for b in first_row] == [0, 1, 3]  # 1 + 2 + 3
    assert [b.get_width() for b in first_row] == [1, 2, 3]
    assert ax.get_xlim() == (0, 24)  # the longest row: 7 + 8 + 9


def test_dots_shows_the_numbers_and_leaves_out_what_has_no_place():
    numbers = pd.DataFrame({"x": [1.0, 0.0, NAN], "y": [10.0, 0.1, 2.0]}, index=list("abc"))
    log = plots.dots(numbers, log=True).get_lines()
    assert np.array_equal(log[0].get_xdata(), [1, NAN, NAN], equal_nan=True)
    assert list(log[1].get_xdata()) == [10, 0.1, 2]
    assert list(plots.dots(numbers).get_lines()[0].get_xdata())[:2] == [1, 0]
    apart = np.subtract(log[1].get_ydata(), log[0].get_ydata())
    assert (apart > 0).all() and (apart < 0.5).all()  # side by side, within the row


def test_curves_draws_what_it_is_given():
    ax = plots.curves({"a": ([1, 10], [2, 3])}, log="x", xlabel="n", ylabel="m", marks=False)
    assert ax.get_lines()[0].get_xydata().tolist() == [[1, 2], [10, 3]]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("n", "m")


def test_plane_marks_the_mean_and_names_it():
    ax = plots.plane({"a": ([1.0, 3.0], [2.0, 6.0])})
    assert ax.collections[1].get_offsets().tolist() == [[2.0, 4.0]]
    assert [t.get_text() for t in ax.texts] == ["a"]


def test_names_on_the_plane_keep_off_a_mark_close_by():
    clouds = {"left": ([0.0], [0.0]), "right": ([0.1], [0.0]), "far": ([9.0], [9.0])}
    sides = {t.get_text(): t.get_ha() for t in plots.plane(clouds).texts}
    assert sides == {"left": "right", "right": "left", "far": "left"}  # alignment: away from it


def test_heat_keeps_the_cells_and_names_every_row_and_column():
    ax = plots.heat(table(rows=2, columns=3), label="share")
    assert ax.collections[0].get_array().ravel().tolist() == [1, 2, 3, 4, 5, 6]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


ODD = {
    "a class without points": lambda: plots.plane({"a": ([], []), "b": ([1], [1])}),
    "no curves": lambda: plots.curves({}),
    "a curve of one point": lambda: plots.curves({"a": ([1], [1])}, log="xy"),
    "only zeros": lambda: plots.heat(table() * 0),
    "one cell": lambda: plots.heat(table(rows=1, columns=1)),
    "zeros on a logarithmic axis": lambda: plots.dots(table() * 0, log=True),
    "nine columns": lambda: plots.dots(pd.DataFrame(np.ones((2, 9)))),
    "bars of no length": lambda: plots.stacked(table(rows=1)),
    "an interval without bounds": lambda: plots.intervals({"a": interval(0.5, NAN, NAN)}),
    "a class that does not occur": lambda: plots.recalls({"a": np.diag([1, 0])}, list("ab")),
    "an empty confusion": lambda: plots.confusion(np.zeros((2, 2), int), list("ab")),
    "silence": lambda: plots.waveform(np.zeros(4000, np.float32))[0],
}


@pytest.mark.parametrize("case", ODD)
def test_odd_input_makes_a_figure(case):
    figure = ODD[case]().figure
    figure.canvas.draw()
    assert len(passports(figure)) == 1


def test_a_figure_for_the_notebook_is_small_and_looks_the_same():
    figure = plots.plane({k: RNG.normal(size=(2, 300)) for k in "abcd"}).figure
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    small = plots._png(figure)
    assert len(small) < len(full.getvalue()) / 2
    pictures = [Image.open(f).convert("RGB") for f in (full, io.BytesIO(small))]
    a, b = (np.asarray(p, float) for p in pictures)
    assert a.shape == b.shape
    assert np.abs(a - b).mean() < 2  # of 255


def cells_with_figures():
    for path in notebooks.chapters():
        for cell in notebooks.read(path).cells:
            calls = set(re.findall(r"plots\.(\w+)\(", cell.source)) & set(FIGURES)
            if cell.cell_type == "code" and calls:
                yield pytest.param(cell, id=f"{path.stem}-{sorted(calls)[0]}-{cell.id}")


@pytest.mark.parametrize("cell", list(cells_with_figures()))
def test_figures_of_the_book_have_alt_text_and_a_caption(cell):
    about = cell.metadata.get("mystnb", {})
    alt, figure = about.get("image", {}).get("alt", ""), about.get("figure", {})
    assert len(alt.split()) >= 5
    assert figure.get("caption", "").endswith(".")
    assert re.fullmatch(r"fig-\d\d-[a-z0-9-]+", figure.get("name", ""))


def test_names_of_figures_are_unique():
    cells = [c.values[0] for c in cells_with_figures()]
    names = [c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in cells]
    assert len(names) == len(set(names))
