"""Fetch corpora that anybody may fetch, as their cards say: whole, as published, and only once.

pooch compares the checksum. A transfer that breaks goes on where it stopped, now or with the next
call, if the server can do that.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from serlib import records
from serlib.corpora import builder, cards
from serlib.corpora.cards import Card, Download
from serlib.data import tables
from serlib.data.tables import ManifestError

ATTEMPTS = 5  # in one call
PATIENCE = (10, 60)  # seconds to connect, and between two pieces
BROKEN = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
PIECE = 1 << 16  # bytes; as much is lost when a connection breaks


def corpus(name: str, *, progress: bool = True) -> Path:
    """The manifest of a corpus in $SERLIB_HOME/corpora, fetched and built if it is not there."""
    card, folder = cards.read(name), records.home() / "corpora" / name
    manifest = folder / f"{name}.csv"
    if not manifest.exists():
        size = sum(one.megabytes for one in card.downloads)
        print(f"{card.title}: {size} MB to {folder}, {card.license}; whoever goes on accepts "
              f"the license.\n{' '.join(card.citation.split())}", flush=True)  # fmt: skip
        get(card, folder, progress=progress)
        df, report = builder.build(name, folder, progress=progress)
        print(report)
        tables.write(df, manifest)
    return manifest


def get(card: Card, to: str | os.PathLike, *, progress: bool = True) -> list[Path]:
    """Fetch all files of a corpus into the folder `to`, which is created, and unpack its archives.

    What is there already with the right checksum stays.

    Returns:
        The files, and for an archive the folder that it was unpacked to, which is `to`.

    Raises:
        ManifestError: If the corpus is not for everybody, or a file is not the published one.
        requests.RequestException: If the server refuses, or the connection breaks `ATTEMPTS` times;
            what came is kept for the next call.
    """
    if not card.downloads:
        raise ManifestError(f"{card.name} is not for everybody to fetch: {card.how_to_get}")
    to = Path(to).expanduser().absolute()
    found = []
    for one in card.downloads:
        path = _fetch(one, to, progress)
        found.append(unpack(path, to) if one.unpack else path)
    if card.recordings and (content := _content(to)) != card.recordings:
        told = f"the recordings below {to} are not the published ones (sha256 {content})"
        raise ManifestError(f"{told}: delete the folder and get them again")
    return list(dict.fromkeys(found))


def _content(folder: Path) -> str:
    """SHA-256 of the sorted hexadecimal SHA-256 of all WAV files, a line each."""
    sums = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.wav"))
    return hashlib.sha256("".join(f"{one}\n" for one in sums).encode()).hexdigest()


def _fetch(one: Download, to: Path, progress: bool) -> Path:
    if Path(one.file).name != one.file:
        raise ManifestError(f"{one.file!r} is no plain file name: mend the card")
    part = to / f".{one.file}.part"

    def downloader(url: str, output_file: str, _: object) -> None:
        for left in reversed(range(ATTEMPTS)):
            try:
                _transfer(url, part, progress)
                break
            except BROKEN:
                if not left:
                    raise
        os.replace(part, output_file)

    try:
        path = pooch.retrieve(one.url, one.hash, one.file, to, downloader=downloader)
    except ValueError as error:  # pooch's word for a wrong checksum
        raise ManifestError(f"{one.url} is not the published file ({error})") from error
    return Path(path)


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Fetch a file, going on where `part` ends; a server that cannot do that starts anew."""
    done = part.stat().st_size if part.exists() else 0
    asked = {"Range": f"bytes={done}-"} if done else {}
    # Not compressed on the way: a range counts the bytes of the file.
    asked["Accept-Encoding"] = "identity"
    with requests.get(url, headers=asked, stream=True, timeout=PATIENCE) as answer:
        if answer.status_code == 416:  # nothing after `done`: complete, or not this file
            if answer.headers.get("Content-Range") == f"bytes */{done}":
                return
            part.unlink()
            raise requests.ConnectionError(f"{url}: what came before does not fit, starting anew")
        answer.raise_for_status()
        if answer.status_code != 206:
            done = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink()
            raise requests.ConnectionError(f"{url}: the server sent another part than asked for")
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        bar = dict(initial=done, total=total, unit="B", unit_scale=True, disable=not progress)
        with part.open("r+b" if done else "wb") as file, tqdm(desc=part.name[1:-5], **bar) as shown:
            file.seek(done)
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                shown.update(len(piece))
                done += len(piece)
    if total is not None and done < total:
        raise requests.ConnectionError(f"{url}: the connection ended at {done} of {total} bytes")


def unpack(archive: Path, to: Path) -> Path:
    """Unpack a ZIP or tar archive into a folder, once; members that would leave it are refused.

    Raises:
        ManifestError: If it is no such archive, or holds paths that lead out of `to`.
    """
    done = archive.with_name(f".{archive.name}.unpacked")
    if done.exists() and done.stat().st_mtime >= archive.stat().st_mtime:
        return to
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                for name in content.namelist():
                    if not (to / name).resolve().is_relative_to(to.resolve()):
                        raise ManifestError(f"{archive} holds {name!r}, which leads out of {to}")
                content.extractall(to)
        else:
            with tarfile.open(archive) as content:
                content.extractall(to, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        why = f"{archive} cannot be unpacked ({error}): delete it, get it again"
        raise ManifestError(why) from error
    done.touch()
    return to
