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
      - {url: ..., file: ..., hash: "md5:...", megabytes: 41, unpack: true}
    recordings: sha256       of all recordings, where none of the archive is published
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import yaml

from serlib import DATA
from serlib.data.tables import ManifestError


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
    megabytes: int
    hash: str | None = None
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
    recordings: str = ""

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


def read(name: str) -> Card:
    """Read one card; keys of it that are no fields are for people.

    Raises:
        ManifestError: If there is none.
    """
    path = DATA / f"{name}.yaml"
    if not path.is_file():
        raise ManifestError(f"no card {path}: there are {', '.join(names())}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = {f.name: content[f.name] for f in fields(Card) if f.name in content}
    for several, kind in dict(expected=Expected, downloads=Download).items():
        given[several] = tuple(kind(**one) for one in given.get(several, ()))
    for several in ("known_defects", "unusable"):
        given[several] = tuple(given.get(several, ()))
    return Card(**{"dataset": name} | given)


def names() -> list[str]:
    """The names of all cards, sorted."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))
