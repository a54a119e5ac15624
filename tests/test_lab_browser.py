"""JupyterLab, driven as a reader drives it: double click on a chapter, run it to its end."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from serbook.runner import notebooks
from serbook.site import pdf
from site_toys import needs_browser

pytestmark = [needs_browser, pytest.mark.slow]

# The form of a chapter, small enough for a test: a bar, the panel of chapter 00, and a last cell.
CHAPTER = """
# %% [markdown]
# # 01 A toy

# %% tags=["parameters"]
profile = "demo"

# %%
from tqdm.auto import tqdm

for _ in tqdm(range(3), desc="listening"):
    pass

# %%
import numpy as np

from serbook.lesson import panel

tone = np.sin(np.arange(16_000) / 20).astype("float32")
waves = {"quiet: “Fine.”": lambda: 0.1 * tone, "loud: “No!”": lambda: tone}
panel.Panel(waves, lambda wave: {"anger": float(wave.max()) * 0.9, "neutral": 0.05})

# %%
print("the last", "cell of", profile)
"""
FIRST, LAST = "00_start_here.py", 'print("the last", "cell of", profile)'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def lab(tmp_path, write_chapter):
    """The address of a JupyterLab of its own, on a copy of the book with a chapter in it."""
    write_chapter(CHAPTER, folder=tmp_path / "book")
    real = (notebooks.BOOK / FIRST).read_text().replace('profile = "demo"', 'profile = "smoke"', 1)
    (tmp_path / "book" / FIRST).write_text(f"{real}\n# %%\n{LAST}\n")
    port, token = free_port(), "for-this-test"
    environment = os.environ | {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
                     "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    }  # fmt: skip
    environment["PYTHONPATH"] = str(notebooks.BOOK.parent)
    flags = [f"--port={port}", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--allow-root")
    log = open(tmp_path / "lab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", *flags],
        cwd=tmp_path / "book", env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
                time.sleep(0.1)
        yield f"{address}/lab?token={token}"
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def opened(page, lab: str, name: str):
    """Double click on a chapter; the notebook that opens."""
    page.goto(lab)
    page.locator(".jp-DirListing-item", has_text=name).dblclick()
    book = page.locator(".jp-NotebookPanel")
    book.locator(".jp-Cell").first.wait_for()
    return book


def run_all(page) -> None:
    page.wait_for_selector(".jp-NotebookPanel-toolbar [data-status='idle'], "
                           ".jp-Notebook-ExecutionIndicator[data-status='idle']")  # fmt: skip
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator("[data-command='runmenu:run-all']").click()


def test_the_first_chapter_runs_from_its_first_cell_to_its_last(lab):
    with pdf.browser() as chrome:
        page = chrome.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(60_000)
        book = opened(page, lab, FIRST)
        book.locator("h1", has_text="Start here").wait_for()
        run_all(page)
        # An error in any cell would stop the run before the last.
        book.get_by_text("the last cell of smoke").wait_for(timeout=400_000)


def test_double_click_opens_a_chapter_and_it_runs_to_its_end(lab, tmp_path):
    from playwright.sync_api import expect

    with pdf.browser() as chrome:
        page = chrome.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(60_000)
        crashes = []
        page.on("pageerror", lambda error: crashes.append(str(error)))
        book = opened(page, lab, "01_toy.py")
        book.locator("h1", has_text="01 A toy").wait_for()  # the text is set, not shown as code
        expect(book.locator(".jp-CodeCell")).to_have_count(4)

        run_all(page)
        book.get_by_text("the last cell of demo").wait_for()

        assert not book.locator("[data-mime-type='application/vnd.jupyter.error']").count()
        assert book.locator(".jp-OutputArea .widget-hprogress, .jp-OutputArea progress").count()
        expect(book).to_contain_text(re.compile(r"listening:\s*100\s*%"))
        assert not book.get_by_text("HBox(").count() and not book.get_by_text("VBox(").count()

        control = book.locator(".widget-dropdown select")
        control.wait_for()
        assert book.get_by_text("0.09").count()
        control.select_option("loud: “No!”")
        book.get_by_text("0.90").wait_for()
        (tmp_path / "mine.txt").write_text("no sound")
        with page.expect_file_chooser() as chooser:
            book.locator("button.jupyter-button", has_text="own file").click()
        chooser.value.set_files(tmp_path / "mine.txt")
        book.get_by_role("alert").wait_for()
        assert "mine.txt" in book.get_by_role("alert").inner_text()
        page.screenshot(path=tmp_path / "lab.png")
        assert not crashes
