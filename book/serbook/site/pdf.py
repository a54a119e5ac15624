"""Print the site to one PDF, with the Chromium that is installed.

The browser sets the equations and the figures as it shows them; `book.css` says what paper leaves
out. Each page of the site is printed, then all are joined: bookmarks, page numbers that run
through, and links from chapter to chapter inside the file.
"""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serbook.runner.notebooks import ChapterError
from serlib import records

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class PrintError(ChapterError):
    """The site cannot be printed here; the message names what to install or to run."""


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome, None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser(*flags: str) -> Iterator:
    """A headless Chromium, driven by Playwright.

    Raises:
        PrintError: If the browser or the driver is not installed.
    """
    if (program := chromium()) is None:
        found = f"no browser found ({', '.join(BROWSERS)})"
        raise PrintError(f"{found}; on Debian and Ubuntu: apt install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        fix = "pip install -c constraints.txt -e '.[browser]'"
        raise PrintError(f"the PDF needs Playwright: {fix}") from error
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=program, args=[*flags]) as opened,
    ):
        yield opened


def write(index: Path, out: Path) -> Path:
    """Print a built site to `out`, from its first page on in the order of its table of contents.

    Raises:
        PrintError: If the site is not built, or what prints it is not installed.
    """
    if not index.is_file():
        raise PrintError(f"{index}: no such page; run: serlib site")
    with browser() as chrome:
        page = chrome.new_page(color_scheme="light")
        page.goto(index.resolve().as_uri())
        links = "nav.bd-links a.internal", "all => all.map(a => a.getAttribute('href'))"
        names = dict.fromkeys(page.eval_on_selector_all(*links))
        names = [name for name in names if name.endswith(".html")]
        book = _joined(page, [index.with_name(name) for name in [index.name, *names]])
    records.atomic_write(out, book)
    return out


def _joined(page, paths: list[Path]) -> bytes:
    """All pages of the site in one file, each from a new sheet."""
    from pypdf import PdfWriter

    writer, first = PdfWriter(), {}
    for path in paths:
        first[path.name] = len(writer.pages)
        title, content = _print(page, path, first[path.name])
        writer.append(io.BytesIO(content), outline_item=title, import_outline=False)
    for sheet in writer.pages:
        _keep_links_inside(sheet, first, writer)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def _print(page, path: Path, before: int) -> tuple[str, bytes]:
    """Title and PDF of one page of the site, once its equations are set; what folds is unfolded.

    `before` is the number of sheets before it: the numbers at the foot go on from there.
    """
    page.goto(path.resolve().as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.add_style_tag(content=f"html {{ counter-reset: page {before} }}")
    title = page.inner_text("h1").rstrip("#").strip()
    return title, page.pdf(prefer_css_page_size=True, print_background=True)


def _keep_links_inside(sheet, first: dict[str, int], writer) -> None:
    """Turn links to files of this machine into jumps to the page where that file begins."""
    from pypdf.generic import ArrayObject, NameObject

    kept = ArrayObject()
    for reference in sheet.get("/Annots", ()):
        link = reference.get_object()
        address = urlsplit(str(link.get("/A", {}).get("/URI", "")))
        if address.scheme == "file":
            name = unquote(address.path).rpartition("/")[2]
            if name not in first:
                continue
            del link["/A"]
            target = writer.pages[first[name]].indirect_reference
            link[NameObject("/Dest")] = ArrayObject([target, NameObject("/Fit")])
        kept.append(reference)
    if "/Annots" in sheet:
        sheet[NameObject("/Annots")] = kept
