"""Terms and papers are linked where a chapter's text first has them, and nowhere else again.

A role is raw text to a reader in Jupyter, so there is one per term and chapter. Text is what stands
in paragraphs and lists: no headings, tables, boxes, code or equations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from serbook.runner import notebooks
from serbook.runner.notebooks import BOOK

CHAPTERS = notebooks.chapters()
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
# Words of the glossary that are also everyday words: nobody looks them up where they first stand.
EVERYDAY = frozenset(
    "run group frame fold profile expert recipe card head dev seed floor tier verdict protocol "
    "recall precision blank encoder ledger fusion SER IEMOCAP MSP-Podcast".split()
)
PAPERS = {
    "cai2021": r"Cai (?:et al\.|2021)", "chen2025": r"MTLSER|Chen et al\.",
    "wang2025": r"Wang (?:et al\.|2025)", "zgorzynski2025": r"Zgórzyński (?:et al\.|2025)",
    "busso2008": "IEMOCAP", "lotfian2019": "MSP-Podcast",
}  # fmt: skip
ROLE = r"\{(?:term|cite)\}`[^`]*`"
NESTED = re.compile(r"\[[^\[\]]*\{[\w:]+\}`[^`]*`[^\[\]]*\]\([^)]*\)")
LINK = r"(?<!!)\[[^\]]*\]\([^)]*\)"
CODE = re.compile(rf"({ROLE})|(`+)(?:.*?)\2|\$[^$]*\$|{LINK}|<[^>]*>")


def terms() -> list[str]:
    """The glossary's terms that chapters link."""
    text = (BOOK / "glossary.md").read_text()
    found = [t for block in re.findall(r"```\{glossary\}\n(.*?)```", text, re.S)
             for t in re.findall(r"^(\S.*)$", block, re.M)]  # fmt: skip
    return [term for term in found if term not in EVERYDAY]


def lines(source: str) -> Iterator[tuple[int, str]]:
    """The text of a chapter's Markdown cells, line by line, with what is no text blanked out."""
    markdown, fence, equation = False, "", False
    for number, line in enumerate(source.splitlines()):
        if line.startswith("# %%"):
            markdown, fence, equation = "[markdown]" in line, "", False
            continue
        text = line[2:] if line.startswith("# ") else ""
        if mark := re.match(r"`{3,}|:{3,}", text):
            opens = not fence
            fence = mark[0] if opens else "" if text.strip() == fence else fence
            continue
        if equations := text.count("$$"):
            equation = equation != (equations % 2 == 1)
            continue
        if markdown and not fence and not equation and not re.match(r"#|\||    ", text):
            yield number, CODE.sub(lambda m: m[1] or " " * len(m[0]), line)


def pattern(term: str) -> re.Pattern:
    """A term as it stands in a text, alone or as a role, also in the plural."""
    word = re.escape(term)
    flags = 0 if re.search("[A-Z]", term) else re.I
    word = word if flags == 0 else f"{word}s?"
    role = rf"\{{term\}}`(?:{word}|[^`<]*<{re.escape(term)}>)`"
    return re.compile(rf"{role}|(?<![\w`-]){word}(?![\w`-])", flags)


def first_names(source: str) -> Iterator[tuple[str, int, int, str]]:
    """Of each paper and corpus: where its first name ends, and what follows it."""
    text = list(lines(source))
    for key, name in PAPERS.items():
        for number, line in text:
            if found := re.search(rf"(?<![\w-])(?:{name})", line):
                yield key, number, found.end(), line[found.start() : found.end() + 60]
                break


def faults(source: str, term: str) -> list[str]:
    """What is wrong with the links of one term."""
    found = [(n, m[0]) for n, text in lines(source) for m in pattern(term).finditer(text)]
    roles = [n for n, match in found if match.startswith("{")]
    if found and (not roles or roles[0] != found[0][0]):
        return [f"line {found[0][0] + 1}: {term} is not linked where it first stands"]
    return [f"line {n + 1}: {term} is linked again" for n in roles[1:]]


@each_chapter
def test_terms_are_linked_where_they_first_stand(path):
    source = path.read_text()
    assert not [fault for term in terms() for fault in faults(source, term)]


@pytest.mark.parametrize("path", [*CHAPTERS, *BOOK.glob("*.md")], ids=lambda path: path.stem)
def test_no_link_has_a_role_in_its_text(path):
    """It would be a link in a link: a browser ends the outer one where the inner one begins."""
    assert not NESTED.findall(path.read_text())


def test_what_counts_as_a_role_in_a_link():
    for text in ("[03 {term}`CTC` b](03_b)", "[a\n# {cite}`x` b](y)", "[{ref}`b <c>`](d)"):
        assert NESTED.search(text), text
    for text in ("[02 a](02_a) for {term}`CTC` [b](c)", "[a] {term}`b` [c](d)", "[`{a}`](b)"):
        assert not NESTED.search(text), text


@each_chapter
def test_papers_are_cited_where_they_are_first_named(path):
    for key, number, _, near in first_names(path.read_text()):
        assert re.search(rf"\{{cite\}}`[^`]*{key}", near), f"line {number + 1}, {key}: {near!r}"


def test_what_counts_as_text():
    source = (
        "# %% [markdown]\n# # UA\n#\n# The `UA` and $UA$, [x](UA).\n# | UA |\n# ```{note} UA\n"
        "# UA\n# ```\n# $$\n# UA\n# $$\n# %%\n# UA\n# %% [markdown]\n# So {term}`UA` is UA.\n"
    )
    assert [n for n, text in lines(source) if pattern("UA").search(text)] == [14]
    assert faults(source, "UA") == []
    assert faults(source.replace("{term}`UA`", "UA"), "UA")
    assert faults(source + "# {term}`UA`", "UA") == ["line 16: UA is linked again"]
    assert faults(source, "WA") == []


def test_forms_of_a_term():
    for text in ("linear probe", "Linear probes", "{term}`Linear probes <linear probe>`"):
        assert pattern("linear probe").fullmatch(text)
    for text in ("CTCs", "ctc", "non-CTC", "CTC-loss", "`CTC`"):
        assert not pattern("CTC").search(text)
    assert len(terms()) > 50
