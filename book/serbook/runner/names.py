"""What a chapter reads beside its parameters, and so what its name depends on.

The code is found from the imports of its source, and of the modules that those lead to: a change
of a module that no import reaches renames no chapter. `DATA` says which modules read which files.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import serbook
import serlib
from serbook.runner.notebooks import BOOK
from serlib import records

ROOTS = {p.__name__: Path(p.__file__).resolve().parent for p in (serlib, serbook)}
# Files beside the code, by the module that reads them: whoever imports it, reads them.
DATA = {
    "serlib.models.encoders.checkpoints": (ROOTS["serlib"] / "corpora/demo/encoders", "*/*"),
    "serlib.corpora.demo.corpus": (serlib.DATA, "demo.csv"),
    "serlib.corpora.cards": (serlib.DATA, "*.yaml", "published_counts.csv"),
    "serbook.claims.ledger": (BOOK, "claims.yaml"),
    "serbook.claims.pages": (ROOTS["serbook"] / "claims", "*.css", "*.js", "*.jinja"),
    "serbook.plan.machine": (ROOTS["serbook"] / "plan", "machines.jsonl"),
}


def key(source: Path, parameters: Mapping) -> str:
    """Name of a chapter's run: whatever decides its result, but for other runs, changes it."""
    files = sorted((name, _sha256(path)) for name, path in reads(source, parameters).items())
    return records.digest([source.read_text(encoding="utf-8"), dict(parameters), files])


def reads(source: Path, parameters: Mapping | None = None) -> dict[str, Path]:
    """The files that a chapter reads, by names that say where they are from."""
    found = dict(_modules(source.read_text(encoding="utf-8")))
    for module, (folder, *patterns) in DATA.items():
        if module in found:
            files = [p for x in patterns for p in sorted(folder.glob(x)) if p.is_file()]
            found |= {f"{module}: {p.relative_to(folder).as_posix()}": p for p in files}
    return found | {f"corpus: {p.name}": p for p in _manifests(parameters or {})}


def _modules(text: str) -> Iterator[tuple[str, Path]]:
    """Names and files of the modules of both packages that a source's imports lead to."""
    todo, seen = list(_imports(text)), set()
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or name in seen:
            continue
        seen.add(name)
        yield name, path
        todo += _imported(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _imported(path: Path, stamp: int) -> tuple[str, ...]:
    return tuple(_imports(path.read_text(encoding="utf-8")))


def _imports(text: str) -> Iterator[str]:
    """Dotted names that a source may import, at its top or inside a function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:  # importing a module runs the packages that it is in
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _file(name: str) -> Path | None:
    """The source of a module of one of the packages."""
    first, *rest = name.split(".")
    if first not in ROOTS:
        return None
    path = ROOTS[first].joinpath(*rest)
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((p for p in found if p.is_file()), None)


def _manifests(parameters: Mapping) -> list[Path]:
    """The manifests of a corpus of the reader's own."""
    root, corpus = (str(parameters.get(name) or "") for name in ("data_root", "corpus"))
    folder = Path(root).expanduser()
    found = [p for kind in ("*.csv", "*.jsonl") for p in folder.glob(kind)] if root else []
    if corpus.endswith((".csv", ".jsonl")) and (path := Path(corpus).expanduser()).is_file():
        found.append(path)
    return sorted(found)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
