"""The site of the book's own notebooks in a real browser: what a reader sees, hears and clicks."""

from __future__ import annotations

import importlib.resources
import re
import subprocess
import sys

import pytest

from serbook.runner import notebooks
from serbook.site import course, pdf, publish
from site_toys import FLAGS, listen, needs_browser, served

pytestmark = [needs_browser, pytest.mark.slow]
CHAPTERS = [path.stem for path in notebooks.chapters()]

# What looks the same is looked at once: a chapter has seven thousand words of code, the ledger two
# thousand cells. Tables with colors of their own keep all their rows.
THIN = """() => {
  const seen = new Set();
  document.querySelectorAll('pre').forEach(pre => {
    const kind = pre.closest('.cell_output') ? 'out' : 'in';
    pre.querySelectorAll('span:not(:has(*))').forEach(span => {
      if (seen.has(kind + span.className)) span.replaceWith(span.textContent);
      seen.add(kind + span.className);
    });
  });
  document.querySelectorAll('table.dataframe, table.ledger, article table.table').forEach(
    table => [...table.rows].slice(5).forEach(row => row.remove()));
  [...document.querySelectorAll('mjx-container')].slice(4).forEach(e => e.remove());
}"""
NIGHTLY = ["color-contrast", "link-in-text-block", "scrollable-region-focusable"]
AXE = """async only => {
  const options = {resultTypes: ['violations'], preload: false};
  if (only) options.runOnly = only;
  const found = await axe.run(document, options);
  return found.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => `${v.id} (${v.impact}) ${v.nodes.length}: ${v.nodes[0].html.slice(0, 200)}`
      + ` ${v.nodes[0].any[0]?.message ?? ''}`);
}"""
FACTS = r"""() => {
  const prose = [], walk = document.createTreeWalker(
    document.querySelector('article'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode())
    if (!walk.currentNode.parentElement.closest('pre, code, script, style, mjx-container'))
      prose.push(walk.currentNode.textContent);
  const within = (e, what) => e.closest('figure')?.querySelector(what)?.textContent.trim();
  return {
    title: document.querySelector('h1')?.textContent,
    raw: prose.join('\n').match(/\$[^$\n]+\$|\\\(|\\\[|\\frac/g) ?? [],
    equations: document.querySelectorAll('mjx-container > svg').length,
    math: document.querySelectorAll('.math').length,
    alts: [...document.querySelectorAll('article img')].map(i => i.alt),
    bare: [...document.querySelectorAll('.cell_output img')]
      .filter(i => !within(i, 'figcaption')).map(i => i.src),
    players: document.querySelectorAll('audio').length,
    mute: [...document.querySelectorAll('audio')].filter(a => !within(a, 'figcaption')).length,
    folded: document.querySelectorAll('details.hide').length,
    told: [...document.querySelectorAll(':is(.tag_solution, .tag_check) .cell_output')]
      .filter(o => !o.closest('details:not([open])')).map(o => o.textContent),
    cut: [...document.querySelectorAll('.cell_input pre')].filter(p => {
      p.closest('details')?.setAttribute('open', '');
      const columns = Math.max(...p.textContent.split('\n').map(line => line.length));
      return columns <= 100 && p.scrollWidth > p.clientWidth;
    }).map(p => p.textContent),
    widgets: document.querySelectorAll('[type*="jupyter.widget"], .jupyter-widgets').length,
  };
}"""

# Of each figure: its width, the width at which it was drawn, and whether its box is on the page.
FIGURES = """() => [...document.querySelectorAll('article img')].map(i => [
  i.getBoundingClientRect().width, i.naturalWidth,
  i.parentElement.getBoundingClientRect().right <= innerWidth,
])"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return publish.build(publish.shipped(), tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def base(html):
    with served(html) as address:
        yield address


@pytest.fixture(scope="module")
def chrome():
    with pdf.browser(*FLAGS) as browser:
        yield browser


@pytest.fixture(scope="module")
def axe():
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()


@pytest.fixture
def page(chrome, base):
    page = chrome.new_page(base_url=base)
    yield page
    page.close()


@pytest.fixture(scope="module")
def tour(chrome, base, html, axe):
    """Every page by day on a wide screen, then by night on a phone: what was heard, facts, axe.

    By day axe-core applies all its rules; by night those that colors and narrowness can break.
    """
    day, night = {}, {}
    context = chrome.new_context(color_scheme="light")
    for path in sorted(html.glob("*.html")):
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": 900})
        heard = listen(page, base)
        page.goto(base + path.name)
        page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
        facts = page.evaluate(FACTS) if path.name != "search.html" else {}
        page.set_viewport_size({"width": 390, "height": 844})
        width = page.evaluate("document.documentElement.scrollWidth")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate(THIN)
        page.evaluate(axe)
        day[path.name] = facts | {"axe": page.evaluate(AXE, None), "heard": heard}
        page.set_viewport_size({"width": 390, "height": 844})
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        page.wait_for_timeout(400)  # the theme makes what scrolls focusable a while after resizing
        figures = page.evaluate(FIGURES)
        night[path.name] = {"axe": page.evaluate(AXE, NIGHTLY), "width": width, "figures": figures}
        page.close()
    context.close()
    return day, night


@pytest.fixture(scope="module")
def light(tour):
    return tour[0]


@pytest.fixture(scope="module")
def dark(tour):
    return tour[1]


@pytest.fixture(scope="module", autouse=True)
def printing(html, tmp_path_factory):
    """The command that prints the book, at work while the pages are looked at."""
    out = tmp_path_factory.mktemp("pdf") / "book.pdf"
    code = (
        "import sys; from pathlib import Path; from serbook.site import pdf; "
        "pdf.write(*map(Path, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, html / "index.html", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process, out


def bad(tour: dict, key: str) -> dict:
    return {name: facts[key] for name, facts in tour.items() if facts.get(key)}


def test_every_page_opens_whole_and_asks_no_other_host(light, dark):
    assert {f"{name}.html" for name in CHAPTERS} <= set(light) == set(dark)
    assert not bad(light, "heard")


def test_no_serious_accessibility_violation_by_day(light):
    assert not bad(light, "axe")


def test_nor_by_night_on_a_phone(dark):
    assert not bad(dark, "axe")


def test_no_page_scrolls_sideways_on_a_phone(dark):
    assert not {name: facts["width"] for name, facts in dark.items() if facts["width"] > 390}


def test_figures_keep_their_size_on_a_phone_and_scroll_in_their_own_box(dark):
    for name in CHAPTERS:
        figures = dark[f"{name}.html"]["figures"]
        assert all(width >= 0.79 * drawn and inside for width, drawn, inside in figures), name
    assert any(dark[f"{name}.html"]["figures"] for name in CHAPTERS)


def test_figures_fit_the_paper(page):
    page.set_viewport_size({"width": 673, "height": 900})  # that of A4 within its margins
    page.emulate_media(media="print")
    for name in CHAPTERS[:4]:
        page.goto(f"{name}.html")
        assert all(width <= 673 and inside for width, _, inside in page.evaluate(FIGURES)), name


def test_code_of_the_books_line_length_fits_a_small_laptop(light):
    assert not bad(light, "cut")


def test_what_solutions_and_checks_say_is_folded(light):
    assert not bad(light, "told")


def test_equations_are_set(light):
    assert not bad(light, "raw")
    for name in CHAPTERS[1:7]:
        facts = light[f"{name}.html"]
        assert facts["equations"] >= facts["math"] > 0, name


def test_figures_have_alt_text_and_a_caption_and_players_a_transcript(light):
    assert not bad(light, "bare") and not bad(light, "mute") and not bad(light, "widgets")
    for name, facts in light.items():
        assert all(len(alt.split()) >= 3 for alt in facts.get("alts", [])), name
    assert light[f"{CHAPTERS[0]}.html"]["players"] >= 4


def test_search_finds_a_glossary_term(page):
    page.goto("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("leakage")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results a[href*='glossary.html']").count()


def test_a_player_plays(page):
    page.goto(f"{CHAPTERS[0]}.html")
    player = page.locator("audio").first
    player.evaluate("a => { a.muted = true; return a.play() }")
    page.wait_for_function("document.querySelector('audio').currentTime > 0.05")
    assert 0.3 < player.evaluate("a => a.duration") < 20


def test_a_solution_unfolds_by_click_and_by_key(page):
    page.goto(f"{CHAPTERS[0]}.html")
    box = page.locator("details.sd-dropdown", has_text="Solution").first
    inside = box.locator("p").last
    assert not inside.is_visible()
    box.locator("summary").click()
    assert inside.is_visible()
    box.locator("summary").focus()
    page.keyboard.press("Enter")
    assert not inside.is_visible()
    page.keyboard.press("Space")
    assert inside.is_visible()


def test_code_folds(page, light):
    assert all(light[f"{name}.html"]["folded"] for name in CHAPTERS)
    page.goto(f"{CHAPTERS[0]}.html")
    cell = page.locator("details.hide").first
    assert not cell.locator("pre").is_visible()
    cell.locator("summary").click()
    assert cell.locator("pre").is_visible()


def test_the_button_turns_day_to_night(page):
    page.emulate_media(color_scheme="light")
    page.goto(f"{CHAPTERS[1]}.html")
    colors = "() => ['body', 'td', 'p'].map(e => getComputedStyle(document.querySelector(e)).color)"
    ground = "() => getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("dark", "light"):
        page.locator(".theme-switch-button:visible").first.click()
        page.locator(f".theme-change-button[data-mode={theme}]:visible").first.click()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        seen[theme] = page.evaluate(colors), page.evaluate(ground)
        if theme == "dark":
            image = page.locator(".cell_output img").first
            white = image.evaluate("i => getComputedStyle(i).backgroundColor")
            assert white == "rgb(255, 255, 255)", "figures are drawn on white"
    assert seen["light"][1] != seen["dark"][1]
    assert all(a != b for a, b in zip(seen["light"][0], seen["dark"][0], strict=True))


def test_it_opens_without_a_server_too(chrome, html):
    page = chrome.new_page()
    heard = listen(page, "file://")
    page.goto((html / f"{CHAPTERS[1]}.html").as_uri())
    page.wait_for_selector("mjx-container svg")
    assert heard == []
    # Found pages are listed; a browser does not let a file read others for excerpts, and says so.
    page.goto((html / "search.html").as_uri() + "?q=leakage")
    page.wait_for_selector("#search-results a[href*='glossary.html']")
    page.close()


def test_the_book_as_one_pdf(printing):
    import pypdf

    process, out = printing
    assert process.wait(300) == 0, process.stderr.read()
    reader = pypdf.PdfReader(out)
    texts = [page.extract_text() for page in reader.pages]
    squeezed = [re.sub(r"\s", "", text) for text in texts]
    assert len(texts) > 30
    for name in CHAPTERS:
        title = course.heading(notebooks.read(notebooks.find(name)))
        assert any(re.sub(r"\s", "", title) in text for text in squeezed), title
    for number, text in enumerate(squeezed, 1):  # page numbers run through
        assert text.startswith(str(number)), f"page {number} begins {text[:20]!r}"
    assert len(reader.outline) >= len(CHAPTERS) + 1
    assert b"file://" not in out.read_bytes()
    links = [a.get_object() for p in reader.pages for a in p.get("/Annots", ())]
    assert any("/Dest" in link for link in links)
    assert not [a for a in links if str(a.get("/A", {}).get("/URI", "")).startswith("file:")]
    whole = "".join(squeezed)
    assert "Theshareofthatclassintest." in whole, "solutions are unfolded on paper"
