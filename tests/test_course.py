"""The course's pages: their commands can be run, and their tables say what runs and ledger say."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import nbformat
import papermill.cli
import pytest
import yaml
from markdown_it import MarkdownIt
from pybtex.database import parse_file, parse_string

import serlib
from serbook.claims import judge
from serbook.claims.ledger import LEDGER, read
from serbook.plan import hours
from serbook.runner import notebooks
from serbook.runner.chapters import ChapterRun
from serbook.runner.notebooks import BOOK
from serbook.site import course, publish
from serlib import __main__ as cli
from serlib.corpora import cards

CHAPTERS = notebooks.chapters()
PAGES = ("teachers.md", "reviewers.md", "errata.md", "cite.md", "index.md")
MARKDOWN = MarkdownIt("commonmark").enable("table")


@functools.cache
def shipped() -> list[course.Chapter]:
    """The book's chapters, from its notebooks."""
    return [course.Chapter(run, read().claims) for run in publish.shipped()]


@pytest.fixture(scope="module")
def reviews() -> dict[str, str]:
    """The generated part of the reviewer's page, by chapter."""
    return {c.name: course.render("_reviews.md", chapters=[c]) for c in shipped()}


def commands(text: str) -> list[str]:
    """Lines of plain code blocks, joined where they go on, and inline code, that name a program."""
    lines, fence = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if mark := re.match(r"\s*(`{3,}|:{3,})(.*)", line):
            if fence is None:
                fence = mark[1], mark[2]
            elif mark[2] == "" and len(mark[1]) >= len(fence[0]):
                fence = None
        elif fence and fence[1] == "":
            lines.append(line.strip())
    lines += re.findall(r"`(serlib [a-z]+ [^`]+)`", text)
    programs = r"(\.venv/bin/)?(serlib|papermill) "
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(programs, line)]


@functools.cache
def declared(path: Path) -> dict:
    return notebooks.declared(notebooks.read(path))


def assert_runs(command: str) -> str:
    """The chapter that a command runs, "" if none; it must be one that would be accepted."""
    program, *words = shlex.split(command)
    if program == "papermill":
        chapter, out, *rest = words
        path = BOOK.parent / chapter
        assert path.exists() and out.endswith(".ipynb") and rest[::3] == ["-p"] * (len(rest) // 3)
        known = declared(path.with_suffix(".py"))
        given = {
            n: papermill.cli._resolve_type(v) for n, v in zip(rest[1::3], rest[2::3], strict=True)
        }
    else:
        arguments = cli._parser().parse_args(words)
        if words[0] == "plan":
            return [*map(notebooks.find, arguments.chapters or ())] and ""
        if words[0] != "run":
            return ""
        path = notebooks.find(arguments.chapter)
        known = declared(path)
        given = notebooks.parse(arguments.parameters, known)
    assert notebooks.check(given, known) == given
    return path.stem


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page(page):
    found = commands((BOOK / page).read_text())
    assert found or page in ("cite.md",)
    for command in found:
        assert_runs(command)


def test_a_wrong_command_would_be_found():
    for wrong in ("serlib run 03 -p alpha=1", "serlib machin", "serlib plan --chapter 99"):
        with pytest.raises((SystemExit, notebooks.UsageError)):
            assert_runs(wrong)
    with pytest.raises(notebooks.UsageError):
        assert_runs("papermill book/03_ctc_mtl.ipynb out.ipynb -p fold one")
    text = (
        "```\nserlib a \\\n  -p x=1\n.venv/bin/serlib b\nmake c\n```\nor `serlib d e`, `serlib_x`"
    )
    assert commands(text) == ["serlib a    -p x=1", "serlib b", "serlib d e"]


def test_each_chapter_has_its_commands(reviews):
    for path in CHAPTERS:
        found = [c for c in commands(reviews[path.stem]) if not c.startswith("serlib plan")]
        assert [assert_runs(c) for c in found] == [path.stem] * len(found)
        assert all("profile" in c and "full" in c for c in found)
        takes = "corpus" in declared(path)
        for corpus in ("iemocap", "msp-podcast") if takes else ("",):
            assert [c.split()[0] for c in found if corpus in c] == ["papermill", "serlib"]


def test_which_claims_wait_for_runs(reviews):
    """Counted in the file itself: those with a rule that is neither none nor a proof."""
    raw = yaml.safe_load(LEDGER.read_text())
    seen = {name: re.findall(r"\| .* `(\S+)` \|", text) for name, text in reviews.items()}
    for name, found in seen.items():
        rules = {
            f"{group['id']}.{row['id']}": {**group, **row}.get("rule", "none")
            for group in raw["groups"]
            for row in group["claims"]
            if {**group, **row}["chapter"] == name[:2]
        }
        waiting = {id for id, rule in rules.items() if not rule.startswith(("none", "prove"))}
        assert set(found) == waiting and len(found) == len(waiting), name
    assert sum(map(len, seen.values())) > 100


def test_encoders_and_corpora_are_those_of_the_chapters():
    lines = course.render("_encoders.md", chapters=shipped()).splitlines()
    assert len(lines) == 2 + len(CHAPTERS)
    (third,) = [line for line in lines if "03_ctc_mtl" in line]
    assert "`iemocap`" in third and "`facebook/wav2vec2-base`" in third and "wavlm" not in third
    (seventh,) = [line for line in lines if "07_fusion" in line]
    for name in ("openai/whisper-large-v3", "microsoft/wavlm-large", "FacebookAI/roberta-large"):
        assert name in seventh


def test_the_columns_of_the_plan_are_told():
    page = (BOOK / "reviewers.md").read_text().split("## What it will cost")[1]
    told = re.findall(r"^\| `([^`]+)` \|", page.split("\n## ")[0], re.M)
    assert told == list(hours.make(["01"]).table.columns)


def test_costs_come_from_the_runs(tmp_path):
    texts = [
        "# 01 A toy",
        "**Check 1.** A.",
        "**Check 2.** B.",
        "No **Check 3.** here.",
        "**Find the bug.** C.",
    ]
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    cells.append(nbformat.v4.new_code_cell("**Explore.** no"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_toy.ipynb")
    run = ChapterRun("01_toy", "demo", {}, "k", tmp_path, "ok", seconds=90.0, peak_mb=2048.0)
    row = course.render("_costs.md", chapters=[course.Chapter(run)]).splitlines()[2]
    assert row == "| [01 · A toy](01_toy.ipynb) | 1.5 | 2.0 GB | 2 | 0 | 0 | 1 |"


def test_every_license_has_a_word_on_classes():
    known = [cards.read(name) for name in cards.names()]
    rows = course.render("_licenses.md", cards=known).splitlines()[2:]
    assert len(rows) == len(known) and not any("read the license first" in row for row in rows)
    said = dict(zip((card.name for card in known), rows, strict=True))
    for closed in ("iemocap", "msp-podcast", "emotiw2018", "meiju2025"):
        assert "| no: " in said[closed]
    for free in ("demo", "emodb"):
        assert "| yes |" in said[free]
    assert "without profit" in said["ravdess"] and "serlib manifest get ravdess" in said["ravdess"]
    odd = cards.Card(name="x", title="X", license="WTFPL", how_to_get="-")
    assert "read the license first" in course.render("_licenses.md", cards=[odd])


def test_errata_are_the_contradicted_claims():
    text = course.render("_errata.md", ledger=read())
    found = re.findall(r"\(`(\S+)`\)", text)
    judged = {f.claim.id for f in judge.findings("", "full") if f.verdict == judge.CONTRADICTED}
    assert set(found) == judged and len(found) == len(judged) >= 10
    # By hand: 36.75 - 33.84 = 2.91, and 41.42 - 38.75 = 2.67.
    assert "2.91, printed 3.22" in text and "2.67, printed 3.67" in text
    assert set(re.findall(r"\{cite\}`(\w+)`", text)) <= set(bibliography())


@pytest.mark.parametrize(
    "text", ["a|b", "a_b_c", "*x* `y`", "<b>", "--root", "[x](y)", "$x$", "~~x~~", "# x", "&lt;"]
)
def test_a_cell_shows_its_text_as_it_stands(text):
    html = MARKDOWN.render(f"| h |\n| :-- |\n| {course.cell(text)} |\n")
    shown = re.search(r"<td[^>]*>(.*?)</td>", html, re.S)[1]
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert shown == escaped


def test_tables_point_numbers_to_the_right():
    for page in ("_chapters.md", "_costs.md"):
        facts = course.overview(publish.shipped()) | dict(chapters=shipped())
        head, line, *rows = course.render(page, **facts).split("\n\n")[0].splitlines()
        words = head.strip("|").split("|")
        points = line.replace(" ", "").strip("|").split("|")
        assert len(words) == len(points) and {points[0], *points[1:]} == {":--", "--:"}
        assert points.count(":--") == 1 == len({row.count("|") for row in (head, *rows)})


# ----------------------------------------------------------------------------------- citation


def bibliography() -> list[str]:
    return list(parse_file(str(BOOK / "references.bib")).entries)


def test_citation_file_is_valid_and_of_this_version():
    book = yaml.safe_load((BOOK.parent / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(book)  # the schema's required ones
    known = {"abstract", "type", "version", "license", "keywords", "preferred-citation"}
    assert set(book) <= {"cff-version", "message", "title", "authors"} | known
    assert str(book["cff-version"]) == "1.2.0" and book["type"] in ("software", "dataset")
    inner = book["preferred-citation"]
    assert {"type", "title", "authors"} <= set(inner) and type(inner["year"]) is int
    assert book["version"] == inner["version"] == serlib.__version__
    assert book["authors"] == inner["authors"] == [{"name": "The authors of serlib"}]
    conf = (BOOK / "serbook/site/conf.py").read_text()
    assert f'project = "{book["title"]}"' in conf and f'copyright = "{inner["year"]}' in conf


def test_bibtex_can_be_read():
    text = course.render("_cite.md")
    (entry,) = parse_string(
        re.search(r"```bibtex\n(.*?)```", text, re.S)[1], "bibtex"
    ).entries.values()
    assert (
        entry.fields["title"] in text.split("\n")[0] and serlib.__version__ in entry.fields["note"]
    )
    assert [str(person) for person in entry.persons["author"]] == ["{The authors of serlib}"]


def test_everything_cited_is_listed_and_everything_listed_is_cited():
    texts = [p.read_text() for p in [*CHAPTERS, *BOOK.glob("*.md")]]
    roles = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(texts))
    cited = {key.strip() for role in roles for key in role.split(",")}
    assert cited == set(bibliography())


# ----------------------------------------------------------------------------------- notation


def test_letters_mean_what_docstrings_say():
    rows = re.findall(r"^\| (\$.*?) \| (.*?) \|", (BOOK / "notation.md").read_text(), re.M)
    meaning = {}
    for letters, what in rows:
        for letter in re.findall(r"\$(\w)\$", letters):
            meaning[letter] = what.lower()
    checked = 0
    for path in Path(serlib.__file__).parent.rglob("*.py"):
        sentence = re.search(r"Letters: (.*?)\.\s", path.read_text(), re.S)
        for part in re.split(r",\s", sentence[1]) if sentence else ():
            letter, *words = re.findall(r"\w+", part)
            if len(letter) == 1:
                known = re.findall(r"\w+", meaning[letter])
                said = {word.rstrip("s") for word in words if len(word) > 3}
                assert said & {word.rstrip("s") for word in known}, f"{path.name}: {part}"
                checked += 1
    assert checked > 20
