"""The cards of the corpora: license, source, layout, label maps, protocols, expected counts.

A card is ``data_manifests/<name>.yaml``. It never holds a label or a transcript of one utterance.

    name: iemocap            title, license, citation, url, how_to_get, layout: texts
    dataset: iemocap         as in the manifest, if it is not the name
    labels: {ang: anger}     the corpus's own label -> a name in `tables.EMOTIONS`
    texts: {a01: ...}        what is read, where names of files tell which
    protocols: {session: five folds, ...}
    known_defects: [...]
    unusable: [train_splits/dia125_utt3]    files that no copy has whole: paths' ends, no suffix
    expected:                each a set of counts with its source, checked by `corpora.counts`
      - name: four classes
        status: verified     recounted from public files; or quoted: a document says so
        source: ...
        version: "1.12"      if it holds for one release only
        where: {emo: [ang, hap, exc, neu, sad]}     rows that are counted; absent: all
        total: 5531
        counts: {session: {Ses01: 1085}, "session emo": {Ses01: {neu: 384}}}
    downloads:               if anybody may fetch it, see `corpora.download`
      - {url: ..., file: ..., hash: "md5:...", unpack: true}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from serlib import DATA
from serlib.data.tables import EMOTIONS, ManifestError


@dataclass(frozen=True)
class Expected:
    """One set of counts; see the module's text."""

    name: str
    source: str
    status: str = "quoted"
    version: str = ""
    where: Mapping[str, list] = field(default_factory=dict)
    total: int | None = None
    counts: Mapping[str, Mapping] = field(default_factory=dict)


@dataclass(frozen=True)
class Download:
    """One file of a corpus that anybody may fetch; `hash` as "sha256:..." or "md5:..."."""

    url: str
    file: str
    hash: str
    unpack: bool = False


@dataclass(frozen=True)
class Card:
    """What is known of a corpus without a copy of it; see the module's text."""

    name: str
    title: str
    license: str
    how_to_get: str
    dataset: str = ""
    language: str = ""
    style: str = ""
    citation: str = ""
    url: str = ""
    layout: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    known_defects: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()
    downloads: tuple[Download, ...] = ()

    def __str__(self) -> str:
        """The card for a terminal."""
        return markdown(self, escape=False).strip()


def markdown(card: Card, *, escape: bool = True) -> str:
    """The card as a section of a page."""

    def plain(text: str) -> str:
        marks = (("<", "&lt;"), ("*", r"\*"), ("_", r"\_"), ("--", r"\-\-"))
        for mark, escaped in marks if escape else ():
            text = text.replace(mark, escaped)
        return text.strip()

    facts = {"License": card.license, "How to get it": card.how_to_get, "Cite": card.citation}
    lines = [f"## {plain(card.title)}", "", f"`serlib manifest list {card.name}`", ""]
    lines += [f"- **{name}:** {plain(value)}" for name, value in facts.items() if value]
    lines += [f"- **At:** <{card.url}>"] if card.url else []
    if card.layout:
        lines += ["", "```text", card.layout.rstrip(), "```"]
    if card.labels:
        pairs = (f"`{native}` {emotion or 'left out'}" for native, emotion in card.labels.items())
        lines += ["", f"**Labels:** {', '.join(pairs)}."]
    if card.protocols:
        lines += ["", "**Protocols**", ""]
        lines += [f"- `{name}`: {plain(what)}" for name, what in card.protocols.items()]
    if card.expected:
        lines += ["", "**Counts that a copy is compared with**", ""]
        for e in card.expected:
            total = "" if e.total is None else f", {e.total:,} utterances"
            lines.append(f"- {plain(e.name)}{total} ({e.status}: {plain(e.source)})")
    if card.known_defects:
        lines += ["", "**Known defects**", ""]
        lines += [f"- {plain(defect)}" for defect in card.known_defects]
    return "\n".join([*lines, ""])


def read(name: str, folder: Path = DATA) -> Card:
    """Read one card.

    Raises:
        ManifestError: If there is none, or it lacks what a card needs or names unknown emotions.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ManifestError(f"no card {path}: there are {', '.join(names(folder)) or 'none'}")
    try:
        return _card(yaml.safe_load(path.read_text(encoding="utf-8")), name)
    except (yaml.YAMLError, TypeError, AttributeError, ManifestError) as error:
        raise ManifestError(f"{path}: {error}") from error


def names(folder: Path = DATA) -> list[str]:
    """The names of all cards, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _card(content: dict, name: str) -> Card:
    known = {f.name for f in fields(Card)}
    given = {key: value for key, value in content.items() if key in known}
    if absent := {"name", "title", "license", "how_to_get"} - set(given):
        raise ManifestError(f"{', '.join(sorted(absent))} missing: a card needs them")
    if given["name"] != name:
        raise ManifestError(f"is named {given['name']!r}: name the file like the corpus")
    if unknown := set(given.get("labels", {}).values()) - {*EMOTIONS, None}:
        raise ManifestError(f"no emotion {sorted(unknown)[0]!r}: use {', '.join(EMOTIONS)}")
    for several in ("known_defects", "unusable"):
        given[several] = tuple(given.get(several, ()))
    # YAML reads 1.12 as a number; a version is a text.
    sets = [e | {"version": str(e.get("version", ""))} for e in given.get("expected", ())]
    given["expected"] = tuple(Expected(**e) for e in sets)
    given["downloads"] = tuple(Download(**d) for d in given.get("downloads", ()))
    return Card(**{"dataset": name} | given)
