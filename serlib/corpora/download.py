"""Fetch corpora that anybody may fetch, as their cards say: whole, as published, and only once.

pooch downloads and compares the checksum; of a transfer that breaks nothing is left.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pooch
import requests

from serlib.corpora.cards import Card, Download
from serlib.data.tables import ManifestError

PATIENCE = (10, 60)  # seconds to connect, and between two pieces
PIECE = 1 << 16  # bytes


def get(card: Card, to: str | os.PathLike, *, progress: bool = True) -> list[Path]:
    """Fetch all files of a corpus into the folder `to`, which is created, and unpack its archives.

    What is there already with the right checksum stays.

    Returns:
        The files, and for an archive the folder that it was unpacked to, which is `to`.

    Raises:
        ManifestError: If the corpus is not for everybody, the server refuses, the connection
            breaks, or a file is not the published one.
    """
    if not card.downloads:
        raise ManifestError(f"{card.name} is not for everybody to fetch: {card.how_to_get}")
    to = Path(to).expanduser().absolute()
    found = []
    for one in card.downloads:
        path = _fetch(one, to, progress)
        found.append(unpack(path, to) if one.unpack else path)
    return list(dict.fromkeys(found))


def _fetch(one: Download, to: Path, progress: bool) -> Path:
    if Path(one.file).name != one.file:
        raise ManifestError(f"{one.file!r} is no plain file name: mend the card")
    downloader = pooch.HTTPDownloader(progress, PIECE, timeout=PATIENCE)
    try:
        return Path(pooch.retrieve(one.url, one.hash, one.file, to, downloader=downloader))
    except requests.RequestException as error:
        raise ManifestError(f"{one.url} did not come whole ({error}): try again") from error
    except ValueError as error:  # pooch's word for a wrong checksum
        raise ManifestError(f"{one.url} is not the published file ({error})") from error


def unpack(archive: Path, to: Path) -> Path:
    """Unpack a ZIP archive into a folder, once.

    Raises:
        ManifestError: If it is no such archive, or holds paths that lead out of `to`.
    """
    done = archive.with_name(f".{archive.name}.unpacked")
    if done.exists() and done.stat().st_mtime >= archive.stat().st_mtime:
        return to
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if not (to / name).resolve().is_relative_to(to.resolve()):
                    raise ManifestError(f"{archive} holds {name!r}, which leads out of {to}")
            content.extractall(to)
    except zipfile.BadZipFile as error:
        why = f"{archive} cannot be unpacked ({error}): delete it, get it again"
        raise ManifestError(why) from error
    done.touch()
    return to
