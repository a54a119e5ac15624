"""Fetching, from a server on loopback that can be asked to break."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from serlib import __main__ as cli
from serlib import records
from serlib.corpora import cards, download
from serlib.data.tables import ManifestError
from serlib.experiments import dataset
from serlib.recipes import papers
from serlib.recipes.recipe import RecipeError

DATA = bytes(range(256)) * 40


class Shelf(BaseHTTPRequestHandler):
    """Serves `files`; the first answers stop after `breaks` bytes; counts what it sent."""

    files: dict = {}
    breaks: list = []
    ranges = True
    sent = 0
    asked: list = []

    def do_GET(self):  # noqa: N802
        kind = type(self)
        kind.asked.append(self.headers.get("Range"))
        body = self.files.get(self.path)
        if body is None:
            return self.send_error(404)
        start = 0
        if kind.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        rest = rest[: kind.breaks.pop(0)] if kind.breaks else rest
        kind.sent += len(rest)
        self.wfile.write(rest)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PIECE", 100)
    shelf = type("OneShelf", (Shelf,), dict(files={"/a.bin": DATA}, breaks=[], asked=[], sent=0))
    with ThreadingHTTPServer(("127.0.0.1", 0), shelf) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        shelf.url = f"http://127.0.0.1:{serving.server_port}"
        yield shelf
        serving.shutdown()


def card(server, data: bytes = DATA, file: str = "a.bin", **more) -> cards.Card:
    known = "sha256:" + hashlib.sha256(data).hexdigest()
    one = cards.Download(f"{server.url}/{file}", file, 1, known, **more)
    return cards.Card("toy", "A toy", "CC-BY-4.0", "here", citation="Me 2020", downloads=(one,))


def test_get_fetches_once(server, tmp_path):
    (path,) = download.get(card(server), tmp_path / "new", progress=False)
    assert path == tmp_path / "new" / "a.bin" and path.read_bytes() == DATA
    download.get(card(server), tmp_path / "new", progress=False)
    assert server.sent == len(DATA)
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_broken_transfer_goes_on(server, tmp_path):
    server.breaks[:] = [1000, 2000]
    (path,) = download.get(card(server), tmp_path, progress=False)
    assert path.read_bytes() == DATA and server.sent == len(DATA)
    assert server.asked == [None, "bytes=1000-", "bytes=3000-"]


def test_the_next_call_goes_on_too(server, tmp_path):
    server.breaks[:] = [100] * download.ATTEMPTS
    with pytest.raises(OSError):
        download.get(card(server), tmp_path, progress=False)
    came = 100 * download.ATTEMPTS
    assert (tmp_path / ".a.bin.part").stat().st_size == came
    assert not (tmp_path / "a.bin").exists()
    (path,) = download.get(card(server), tmp_path, progress=False)
    assert path.read_bytes() == DATA and server.sent == len(DATA)
    assert server.asked[-1] == f"bytes={came}-"


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.ranges, server.breaks[:] = False, [1000]
    (path,) = download.get(card(server), tmp_path, progress=False)
    assert path.read_bytes() == DATA and server.sent == len(DATA) + 1000


def test_what_is_complete_is_not_fetched_and_what_does_not_fit_is_dropped(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(DATA)
    download.get(card(server), tmp_path, progress=False)
    assert server.sent == 0
    (tmp_path / "a.bin").unlink()
    (tmp_path / ".a.bin.part").write_bytes(DATA + b"more")
    (path,) = download.get(card(server), tmp_path, progress=False)
    assert path.read_bytes() == DATA and server.sent == len(DATA)


def test_another_file_than_the_published_one_is_refused(server, tmp_path):
    with pytest.raises(ManifestError, match="is not the published file"):
        download.get(card(server, b"other"), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_refusals_name_the_reason(server, tmp_path):
    with pytest.raises(OSError, match="404"):
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


def tarred(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 2
        archive.addfile(member, io.BytesIO(b"hi"))
    return buffer.getvalue()


@pytest.mark.parametrize("data", [zipped(**{"wav/a.wav": "hi"}), tarred("wav/a.wav")], ids="zt")
def test_archives_are_unpacked_once(server, tmp_path, data):
    server.files["/a.zip"] = data
    it = card(server, data, "a.zip", unpack=True)
    assert download.get(it, tmp_path, progress=False) == [tmp_path]
    inside = tmp_path / "wav" / "a.wav"
    assert inside.read_text() == "hi"
    inside.write_text("mine")
    download.get(it, tmp_path, progress=False)
    assert inside.read_text() == "mine"


@pytest.mark.parametrize(
    "data", [zipped(**{"../a.wav": "hi"}), tarred("../a.wav"), b"no archive"], ids="zt-"
)
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


def wave(seconds: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(int(16_000 * seconds), 0.1), 16_000, format="WAV")
    return buffer.getvalue()


def emodb(server, *recordings: bytes) -> cards.Card:
    """EmoDB's card with an archive of these recordings, of which no checksum is published."""
    names = [f"wav/03a01{emotion}a.wav" for emotion in "FNTWEAL"[: len(recordings)]]
    server.files["/e.zip"] = zipped(**dict(zip(names, recordings, strict=True)))
    one = cards.Download(f"{server.url}/e.zip", "e.zip", 41, unpack=True)
    sums = sorted(hashlib.sha256(wave(n)).hexdigest() + "\n" for n in (1, 2))
    content = hashlib.sha256("".join(sums).encode()).hexdigest()
    return replace(cards.read("emodb"), downloads=(one,), recordings=content)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))


def test_without_a_folder_a_corpus_goes_where_recipes_look(server, home, monkeypatch, capsys):
    it = emodb(server, wave(1), wave(2))
    monkeypatch.setattr(cards, "read", lambda name: it)
    assert cli.main(["manifest", "get", "emodb", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.index("41 MB") < said.index("CC0") < said.index("differs from the card")
    found, root = dataset.locate(papers.floor("svm", "open"))
    assert found["wav"].tolist() == ["wav/03a01Fa.wav", "wav/03a01Na.wav"]
    assert root == records.home() / "corpora" / "emodb" and (root / found["wav"][0]).exists()
    sent = server.sent
    assert cli.main(["manifest", "get", "emodb", "--quiet"]) == 0
    assert server.sent == sent and capsys.readouterr().out.split() == [f"{root}/emodb.csv"]


@pytest.mark.parametrize("found", [(1,), (1, 3), (1, 2, 2)], ids=["less", "other", "more"])
def test_other_recordings_than_the_published_ones_are_refused(
    server, home, monkeypatch, capsys, found
):
    it = emodb(server, *map(wave, found))
    monkeypatch.setattr(cards, "read", lambda name: it)
    assert cli.main(["manifest", "get", "emodb", "--quiet"]) == 1
    assert "are not the published ones" in capsys.readouterr().err
    assert not list((records.home() / "corpora" / "emodb").glob("*.csv"))


def test_every_archive_is_known_by_a_checksum_or_by_its_recordings():
    for it in map(cards.read, cards.names()):
        assert all(one.hash or it.recordings for one in it.downloads), it.name


def test_a_corpus_that_was_not_fetched_says_how(home):
    with pytest.raises(RecipeError, match="serlib manifest get emodb"):
        dataset.locate(papers.floor("svm", "open"))
