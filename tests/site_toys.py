"""A browser for tests, a server for a folder, and what is asked of a page."""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serbook.site import pdf

REQUIRED = os.environ.get("SERLIB_BROWSER") == "required"
WANTED = ("playwright", "axe_playwright_python", "pypdf")
MISSING = ", ".join(
    [name for name in WANTED if importlib.util.find_spec(name) is None]
    + ["Chromium"] * (pdf.chromium() is None)
)
needs_browser = pytest.mark.skipif(
    bool(MISSING) and not REQUIRED,
    reason=f"not here: {MISSING}; apt install chromium, pip install -e '.[browser]'",
)
FLAGS = ("--autoplay-policy=no-user-gesture-required", "--mute-audio")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a port of its own."""
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def listen(page, allowed: str) -> list[str]:
    """A list that fills with what goes wrong on a page: messages, losses, requests elsewhere."""
    heard = []

    def message(m):
        if m.type == "error":
            heard.append(f"console: {m.text}")

    def request(r):
        if not r.url.startswith((allowed, "data:", "blob:")):
            heard.append(f"asks elsewhere: {r.url}")

    page.on("console", message)
    page.on("pageerror", lambda e: heard.append(f"script: {e}"))
    page.on("request", request)
    page.on("requestfailed", lambda r: heard.append(f"failed: {r.url} {r.failure}"))
    page.on("response", lambda r: r.status >= 400 and heard.append(f"{r.status}: {r.url}"))
    return heard
