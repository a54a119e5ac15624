"""What a chapter reads beside its parameters, and so what its name depends on.

The code is found from the imports of its source, and of the modules that those lead to; `DATA` says
which of them read which files. Two things that a chapter shows are not in its name: runs of others,
see `evidence`, and the minutes that the shipped notebooks took, which are no result.
"""

import ast
import functools
import hashlib
from collections.abc import Mapping
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
    "serlib.corpora.demo.plan": (ROOTS["serlib"] / "corpora/demo", "words.yaml"),
    "serlib.corpora.cards": (serlib.DATA, "*.yaml", "published_counts.csv"),
    # All that names runs: a slice of the ledger leaves out those that have older names.
    "serlib.experiments.experiment": (ROOTS["serlib"], *(f"{d}/**/*.py" for d in records.DECIDING)),
    "serbook.claims.ledger": (BOOK, "claims.yaml"),
    "serbook.claims.pages": (ROOTS["serbook"] / "claims", "*.css", "*.js", "*.jinja"),
    "serbook.plan.machine": (ROOTS["serbook"] / "plan", "machines.jsonl"),
}


def key(source: Path, parameters: Mapping) -> str:
    """Name of a chapter's run: whatever decides its result, but for other runs, changes it."""
    found = sorted(reads(source, parameters).items())
    files = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in found]
    return records.digest([source.read_text(encoding="utf-8"), dict(parameters), files])


def reads(source: Path, parameters: Mapping | None = None) -> dict[str, Path]:
    """The files that a chapter reads, by names that say where they are from."""
    todo, seen = [source], {}
    for path in todo:  # which grows by the modules that each leads to
        new = set(_imports(path.read_text(encoding="utf-8"))) - seen.keys()
        seen |= {name: _file(name) for name in new}
        todo += filter(None, map(seen.get, new))
    found = {name: path for name, path in seen.items() if path}
    for module, (folder, *patterns) in DATA.items():
        if module in found:
            files = [p for x in patterns for p in folder.glob(x) if p.is_file()]
            found |= {f"{module}: {p.relative_to(folder).as_posix()}": p for p in files}
    return found | _manifests(parameters or {})


@functools.lru_cache(maxsize=1024)
def _imports(text: str) -> tuple[str, ...]:
    """Dotted names of our packages that a source may import, at its top or inside a function."""
    try:
        nodes = [*ast.walk(ast.parse(text))]
    except SyntaxError:  # broken, or with a command of IPython: it may import anything
        files = [(name, p.relative_to(root)) for name, root in ROOTS.items()
                 for p in root.rglob("*.py")]  # fmt: skip
        return tuple(".".join([name, *p.with_suffix("").parts]) for name, p in files)
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = [parts for name in names if (parts := name.split("."))[0] in ROOTS]
    # Importing a module runs the packages that it is in.
    return tuple({".".join(parts[: i + 1]) for parts in ours for i in range(len(parts))})


def _file(name: str) -> Path | None:
    """The source of a module of one of the packages."""
    first, *rest = name.split(".")
    path = ROOTS[first].joinpath(*rest)
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((p for p in found if p.is_file()), None)


def _manifests(parameters: Mapping) -> dict[str, Path]:
    """The manifests of corpora of the reader's own, which lie in a root or are named themselves."""
    given = {n: Path(v).expanduser() for n, v in parameters.items() if isinstance(v, str) and v}
    found = [(n, p) for n, root in given.items() if n.endswith("_root") for p in root.glob("*.csv")]
    found += [(n, p) for n, p in given.items() if p.suffix in (".csv", ".jsonl")]
    return {f"{name}: {path.name}": path for name, path in found if path.is_file()}
