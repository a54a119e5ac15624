"""Chapters keep their contract, notebooks agree with their sources, and the site is whole."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
from jupytext.config import load_jupytext_config

from serbook.lesson import check, plain
from serbook.plan import asked
from serbook.runner import chapters, notebooks
from serbook.runner.notebooks import BOOK, ChapterError
from serbook.site import course, publish
from serlib import records
from serlib.data import manifest, tables
from serlib.experiments import dataset, experiment
from serlib.recipes import papers

CHAPTERS = notebooks.chapters()
REQUIRED = {"00", "01", "02", "03", "04", "05", "06", "07", "08"}
HUMAN = "09_human_speech"  # shipped as it ran on human speech
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)

SITE_CHAPTER = """
# %% [markdown]
# # 01 A toy
#
# A figure in {numref}`fig-toy`, a citation {cite}`cai2021`, a {term}`UA` and $\\frac{1}{C}$.

# %% tags=["parameters"]
profile = "demo"

# %% mystnb={"image": {"alt": "A line rising"}, "figure": {"caption": "A line.", "name": "fig-toy"}}
import matplotlib.pyplot as plt
plt.plot([0, 1]);

# %%
from tqdm.auto import tqdm
for _ in tqdm([1]): pass
"""


def prose(path: Path) -> str:
    """The Markdown of a chapter without code blocks; what stands in directives is prose too."""
    kept, fences = [], []
    for cell in notebooks.read(path).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            fence = re.match(r"(`{3,}|:{3,})(.*)", line)
            if fence and fences and not fence[2] and len(fence[1]) >= len(fences[-1][0]):
                fences.pop()
            elif fence and fence[2]:
                fences.append((fence[1], fence[2].startswith("{")))
            if all(is_directive for _, is_directive in fences):
                kept.append(line)
        kept.append("")
    return "\n".join(kept)


def digest(folder: Path) -> str:
    """The names and contents of all files in a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


# ------------------------------------------------------------------------- contract of a chapter


def test_the_first_chapters_are_there():
    numbers = [path.stem.split("_")[0] for path in CHAPTERS]
    assert REQUIRED <= set(numbers) and len(numbers) == len(set(numbers))


@each_chapter
def test_headings(path):
    levels = [len(found) for found in re.findall(r"^(#+) ", prose(path), re.M)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), "a level is skipped"
    assert course.heading(notebooks.read(path))


@each_chapter
def test_parameters(path):
    notebook = notebooks.read(path)
    declared = notebooks.declared(notebook)
    assert declared["profile"] == ("open" if path.stem == HUMAN else "demo")
    for profile in notebooks.PROFILES:
        notebooks.check({"profile": profile}, declared)
    # Papermill's own reader (regular expressions) must see the same names.
    beside = path.with_suffix(".ipynb")
    assert set(papermill.inspect_notebook(str(beside))) == set(declared)


@each_chapter
def test_teaching_parts(path):
    text = prose(path)
    objectives = re.search(r"what you will be able to do\n(.*?)\n```", text, re.S | re.I)
    assert objectives and 3 <= len(re.findall(r"^[-*] ", objectives[1], re.M)) <= 6
    code = "\n".join(c.source for c in notebooks.read(path).cells if c.cell_type == "code")
    assert f'cells.cost("{path.stem}")' in code, "no box of time and memory"
    for part in ("before this chapter", "predict", "exercise", "solution", "recap"):
        assert part in text.lower(), f"no {part}"


@each_chapter
def test_no_path_of_a_machine(path):
    text = path.read_text()
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|mnt|opt)/|[A-Z]:\\\\", text)


@each_chapter
def test_header_names_the_kernel_and_saving_changes_nothing(path):
    notebook = jupytext.read(path)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    saved = jupytext.writes(notebook, "py:percent", config=load_jupytext_config(str(path)))
    assert saved == path.read_text(), f"run: jupytext --to py:percent book/{path.name}"


@each_chapter
def test_notebook_agrees_with_source(path):
    beside = path.with_suffix(".ipynb")
    assert notebooks.compare(path, plain.read(beside)) == [], "run: make notebooks"
    notebook = nbformat.read(beside, as_version=4)
    nbformat.validate(notebook)
    assert [c.id for c in notebook.cells] == [c.id for c in notebooks.read(path).cells]
    assert notebook.metadata["serlib"]["profile"] == ("open" if path.stem == HUMAN else "demo")
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert beside.stat().st_size < 500_000, "GitHub shows no large notebooks"


def test_no_notebook_without_source():
    assert {p.stem for p in BOOK.glob("*.ipynb")} == {p.stem for p in CHAPTERS}


# -------------------------------------------------------------------------------------- running


@pytest.fixture(scope="module", autouse=True)
def solutions_must_pass():
    """In the chapters that are executed here, a solution that fails its check is an error."""
    os.environ[check.REQUIRE] = "require"
    yield
    del os.environ[check.REQUIRE]


@pytest.fixture(scope="session")
def corpus(home):
    from serlib.corpora.demo import corpus

    return corpus.make(progress=False)


@pytest.fixture(scope="session")
def smoke(corpus):
    """A function that executes a chapter at smoke once, and returns the run.

    Its `made` has the folders of the experiments that a chapter was the first to run.
    """
    runs, folder = {}, records.home() / "runs"

    def run(path: Path):
        if path not in runs:
            before = {*folder.glob("*")}
            runs[path] = chapters.execute(path, "smoke")
            run.made[path] = {p.name for p in {*folder.glob("*")} - before}
        return runs[path]

    run.made = {}
    return run


@pytest.mark.slow
@each_chapter
def test_runs_at_smoke(path, smoke):
    before = digest(BOOK)
    run = smoke(path)
    assert run.ok, run.error
    assert run.seconds < 240, "a smoke run takes less than 30 s on two idle cores, warm"
    assert digest(BOOK) == before


@pytest.mark.slow
@each_chapter
def test_a_dry_run_asks_for_what_is_trained(path, smoke):
    """What the plan counts. One that results choose may be another, or one that ran before."""
    assert smoke(path).ok
    wanted, chosen, recipes = set(), 0, asked.of(path, profile="smoke").recipes
    for run in map(experiment.record, recipes):
        wanted.add(run.path.name)
        chosen += not run.done
    assert chosen <= len(recipes) / 2
    assert len(smoke.made[path] - wanted) <= chosen
    assert len(smoke.made[path]) <= len(recipes)


@pytest.mark.slow
@each_chapter
def test_outputs_can_be_published(path, smoke):
    notebook = nbformat.read(smoke(path).notebook, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert output.get("name") != "stderr", f"{output.get('text')} from {cell.source}"
            if {"image/png", "image/svg+xml"} & set(data):
                figure = cell.metadata.get("mystnb", {})
                assert len(figure.get("image", {}).get("alt", "").split()) >= 5, cell.source
                assert figure.get("figure", {}).get("caption"), cell.source
            text = str(output.get("text", "")) + str(data.get("text/plain", ""))
            text += str(data.get("text/html", "")) + str(data.get("text/markdown", ""))
            for private in (str(Path.home()), str(BOOK.parent), "site-packages"):
                assert private not in text, cell.source


LAYOUTS = (
    "msp-podcast",
    "iemocap",
)  # chapters take turns: 02 and 04 on the first, 01 and 03 on the other


@pytest.fixture(scope="session")
def trees(corpus, tmp_path_factory):
    """A function that lays the demo corpus out as another one, with a manifest; gives its root."""
    from serlib import __main__ as cli
    from tests.trees import __main__ as shaped

    roots = {}

    def make(layout: str) -> Path:
        if layout not in roots:
            root = tmp_path_factory.mktemp("trees") / layout
            shaped.main([layout, "--to", str(root), "--utterances", "420"])
            build = ["manifest", "build", layout, "--root", str(root), "--quiet"]
            assert cli.main([*build, "--out", str(root / f"{layout}.csv")]) == 0
            roots[layout] = root
        return roots[layout]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_system_gets_its_data_from_a_readers_tree(layout, trees):
    """From a raw tree to a scored run, as in the full profile but for the encoders."""
    at = dict(profile="smoke", corpus=layout, data_root=str(trees(layout)))
    eight = tuple(c for c in manifest.CLASSES_8 if c != "contempt" or layout == "msp-podcast")
    wanted = {
        papers.cai2021: manifest.CLASSES_4, papers.mtlser2025: manifest.CLASSES_4,
        papers.wang2025: eight, papers.zgorzynski2025: eight,
    }  # fmt: skip
    for make, classes in wanted.items():
        recipe = dataset.taught(make(**at))
        assert recipe.classes == classes and recipe.model.n_classes == len(classes)
        data = dataset.load(recipe)
        assert len(data.store) == len(data.table) and set(data.table["role"]) == {
            "train", "dev", "test"
        }  # fmt: skip
        assert len(data.counts) == len(classes) and data.counts.sum() == len(data.rows("train"))
    run = experiment.run(papers.floor("prior", **at), progress=False)
    assert run.done and run.summary["test"]["n"] == len(data.rows("test"))


@pytest.mark.slow
@each_chapter
def test_stock_papermill_and_a_readers_tree(path, corpus, trees, tmp_path):
    """Papermill itself runs the notebooks; all but the first on a corpus in another's layout."""
    before, number = digest(BOOK), int(path.stem[:2])
    parameters = ["-p", "profile", "smoke"]
    if number:
        layout = LAYOUTS[number % 2]
        parameters += ["-p", "corpus", layout, "-p", "data_root", str(trees(layout))]
    command = [sys.executable, "-m", "papermill", f"book/{path.stem}.ipynb", tmp_path / "out.ipynb"]
    done = subprocess.run(
        [*command, *parameters, "--no-progress-bar"],
        cwd=BOOK.parent, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    injected = [c for c in cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'profile = "smoke"' in injected[0].source
    assert all(c.execution_count for c in cells if c.cell_type == "code")
    assert digest(BOOK) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", ["05", "06", "07"])
def test_a_corpus_of_classes_alone(number, trees, own_home, tmp_path):
    """No ratings, transcripts or genders: what needs them is left out, and the chapter says so."""
    root = trees("emodb")
    tables.write(
        tables.read(root / "emodb.csv").assign(text=None, gender=None), tmp_path / "my.csv"
    )
    given = {"corpus": str(tmp_path / "my.csv"), "data_root": str(root)}
    done = chapters.execute(number, "smoke", given, out_root=tmp_path / "out")
    assert done.ok, done.error
    shown = ""
    for cell in nbformat.read(done.notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            shown += str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
    assert "Empty DataFrame" not in shown and "nan [nan, nan]" not in shown
    said = {
        "05": ["no ratings of the three attributes", "known of the demo corpus only"],
        "06": ["No transcripts", "does not tell women from men"],
        "07": ["has no transcripts: the expert that reads is left out", "has no ratings of val"],
    }
    assert all(words in shown for words in said[number])
    configs = [records.read_json(f)["recipe"] for f in own_home.glob("runs/*/config.json")]
    tasks = {task for c in configs for task in c["model"]["tasks"]}
    assert tasks == ({"emotion", "speaker"} if number == "06" else {"emotion"})
    if number == "07":
        experts = {name for c in configs for name in c["model"].get("experts", [])}
        assert experts == {"demo-whisper", "demo-wavlm"}


# ------------------------------------------------------------------------------------- the site


class Page(HTMLParser):
    """What a page loads, where it links to, and its images' descriptions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads, self.links, self.alts, self.lang = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "html":
            self.lang = attributes.get("lang")
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        if tag == "img":
            self.alts.append(attributes.get("alt", ""))
        if tag in ("script", "img", "iframe", "audio", "video", "source", "embed"):
            self.loads.append(attributes.get("src") or "")
        if tag == "link":
            self.loads.append(attributes.get("href") or "")


def assert_site_is_whole(html: Path) -> None:
    pages = {path.name: Page(path.read_text()) for path in html.glob("*.html")}
    assert {"index.html", "glossary.html", "references.html", "search.html"} <= set(pages)
    for name, page in pages.items():
        outside = [url for url in page.loads if re.match(r"(https?:)?//", url)]
        assert not outside, f"{name} loads {outside}"
        assert page.lang == "en"
        assert not [alt for alt in page.alts if re.search(r"_images|\.(png|svg)$", alt)]
        for link in page.links:
            target = link.split("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (html / target).exists(), f"{name} links to {target}"
    for sheet in [*html.rglob("*.css")]:
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text()), sheet
    index = (html / "index.html").read_text()
    assert "MIT license" in index and "CC BY 4.0" in index and "Peak memory" in index
    assert (html / "_static" / "mathjax" / "LICENSE").exists()


@pytest.fixture(scope="module")
def toy_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    source = folder / "book" / "01_toy.py"
    source.parent.mkdir()
    source.write_text(SITE_CHAPTER.strip() + "\n")
    broken = source.with_name("02_broken.py")
    broken.write_text(source.read_text().replace("{term}`UA`", "{term}`no such term`"))
    return [chapters.execute(path, "smoke", out_root=folder / "out") for path in (source, broken)]


def test_site_is_built_from_executed_chapters(toy_runs, tmp_path):
    before = digest(BOOK)
    index = publish.build(toy_runs[:1], tmp_path)
    assert index == tmp_path / "html" / "index.html"
    assert_site_is_whole(index.parent)
    assert digest(BOOK) == before
    page = (index.parent / "01_toy.html").read_text()
    assert re.search(r'src="_static/mathjax/tex-svg-full.js(\?v=\w+)?"', page)
    assert "Fig. 1" in page and 'alt="A line rising"' in page and "widget" not in page
    assert '<a class="reference internal" href="01_toy.html">' in index.read_text()
    assert "01 · A toy" in index.read_text() and "profile <code" in index.read_text()
    assert not list(index.parent.rglob("*.ipynb")) and not list(index.parent.rglob("*.py"))


def test_a_dangling_reference_stops_the_site(toy_runs, tmp_path):
    with pytest.raises(ChapterError, match="no such term"):
        publish.build(toy_runs[1:], tmp_path)


def test_an_old_page_does_not_stay(toy_runs, tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "old.html").touch()
    publish.build(toy_runs[:1], tmp_path)
    assert not (tmp_path / "html" / "old.html").exists()
    with pytest.raises(ChapterError, match="no chapter"):
        publish.build([], tmp_path)


@pytest.mark.slow
def test_real_site(smoke, tmp_path):
    runs = [smoke(path) for path in CHAPTERS]
    index = publish.build(runs, tmp_path)
    assert_site_is_whole(index.parent)
    assert {f"{path.stem}.html" for path in CHAPTERS} <= {p.name for p in index.parent.iterdir()}


# ---------------------------------------------------------------------- what stands beside chapters


def test_references_are_complete():
    from pybtex.database import parse_file

    entries = parse_file(str(BOOK / "references.bib")).entries
    assert {"cai2021", "chen2025", "wang2025", "zgorzynski2025"} <= set(entries)
    for key, entry in entries.items():
        year = "" if key == "espeakng" else entry.fields["year"]
        assert key.endswith(year) and entry.fields["title"] and entry.persons["author"]


def test_glossary_terms_are_defined_once():
    terms = re.findall(r"^(?=\S)(?!#|`|Letters)(.+)$", (BOOK / "glossary.md").read_text(), re.M)
    assert len(terms) == len({term.lower() for term in terms}) >= 35
    wanted = (
        "SER WA UA macro-F1 CTC WER MTL SSL WavLM HuBERT SWFC ECE F0 MFCC CCC EER leakage group"
    )
    assert set(wanted.split()) <= set(terms)


def test_landing_page_names_the_profiles():
    rows = re.findall(r"^\| `(\w+)` \|", (BOOK / "index.md").read_text(), re.M)
    assert tuple(rows) == notebooks.PROFILES
