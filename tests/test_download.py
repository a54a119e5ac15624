"""Fetching, from a server on loopback that can be asked to break."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serlib import __main__ as cli
from serlib.corpora import cards, download
from serlib.data.tables import ManifestError

DATA = bytes(range(256)) * 40


class Shelf(BaseHTTPRequestHandler):
    """Serves `files`; the first answers stop after `breaks` bytes; counts what it sent."""

    files: dict = {}
    breaks: list = []
    sent = 0

    def do_GET(self):  # noqa: N802
        kind = type(self)
        body = self.files.get(self.path)
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        rest = body[: kind.breaks.pop(0)] if kind.breaks else body
        kind.sent += len(rest)
        self.wfile.write(rest)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    shelf = type("OneShelf", (Shelf,), dict(files={"/a.bin": DATA}, breaks=[], sent=0))
    with ThreadingHTTPServer(("127.0.0.1", 0), shelf) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        shelf.url = f"http://127.0.0.1:{serving.server_port}"
        yield shelf
        serving.shutdown()


def card(server, data: bytes = DATA, file: str = "a.bin", **more) -> cards.Card:
    one = cards.Download(
        f"{server.url}/{file}", file, "sha256:" + hashlib.sha256(data).hexdigest(), **more
    )
    return cards.Card("toy", "A toy", "CC-BY-4.0", "here", citation="Me 2020", downloads=(one,))


def test_get_fetches_once(server, tmp_path):
    (path,) = download.get(card(server), tmp_path / "new", progress=False)
    assert path == tmp_path / "new" / "a.bin" and path.read_bytes() == DATA
    download.get(card(server), tmp_path / "new", progress=False)
    assert server.sent == len(DATA)
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("cut", [0, 1000, len(DATA) - 1])
def test_of_a_broken_transfer_nothing_is_left_and_the_next_call_fetches_it(server, tmp_path, cut):
    server.breaks[:] = [cut]
    with pytest.raises(ManifestError, match=r"a\.bin did not come whole .*: try again"):
        download.get(card(server), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    (path,) = download.get(card(server), tmp_path, progress=False)
    assert path.read_bytes() == DATA and server.sent == cut + len(DATA)


def test_another_file_than_the_published_one_is_refused(server, tmp_path):
    with pytest.raises(ManifestError, match="is not the published file"):
        download.get(card(server, b"other"), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_refusals_name_the_reason(server, tmp_path):
    with pytest.raises(ManifestError, match="404"):
        download.get(card(server, file="b.bin"), tmp_path, progress=False)
    with pytest.raises(ManifestError, match="no plain file name"):
        download.get(card(server, file="../a.bin"), tmp_path, progress=False)
    with pytest.raises(ManifestError, match="not for everybody to fetch: sign"):
        download.get(cards.read("iemocap"), tmp_path)


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_archives_are_unpacked_once(server, tmp_path):
    server.files["/a.zip"] = data = zipped(**{"wav/a.wav": "hi"})
    it = card(server, data, "a.zip", unpack=True)
    assert download.get(it, tmp_path, progress=False) == [tmp_path]
    inside = tmp_path / "wav" / "a.wav"
    assert inside.read_text() == "hi"
    inside.write_text("mine")
    download.get(it, tmp_path, progress=False)
    assert inside.read_text() == "mine"


@pytest.mark.parametrize("data", [zipped(**{"../a.wav": "hi"}), b"no archive"], ids="z-")
def test_archives_that_lead_out_or_are_none_are_refused(server, tmp_path, data):
    server.files["/a.zip"] = data
    with pytest.raises(ManifestError):
        download.get(card(server, data, "a.zip", unpack=True), tmp_path / "to", progress=False)
    assert not (tmp_path / "a.wav").exists()


def test_the_command_says_the_license_first(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cards, "read", lambda name: card(server))
    assert cli.main(["manifest", "get", "toy", "--to", str(tmp_path), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.index("CC-BY-4.0") < out.index("a.bin") and "Me 2020" in out
