"""Chapters as notebooks: find them, read them, and check the parameters that they declare.

A chapter is a py:percent file, `book/NN_name.py`. Papermill alone goes on with a misspelt parameter
and takes `-p flag=false` for a (true) string; here the chapter's own parameters cell decides.
"""

import ast
import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from serlib import PROFILES

BOOK = Path(__file__).resolve().parents[2]
COST = "application/vnd.serlib.cost+json"  # marks the output that the runner fills in
ELSEWHERE = {"profile", "corpus", "corpora", "data_root", "encoder"}  # whose change changes results
INJECTED = "injected-parameters"  # papermill's tag
WIDGET = "application/vnd.jupyter.widget-view+json"
# With what the notebooks beside the sources were executed, where a reader's run takes less.
SHIPPED = {"09_human_speech": {"tuned_seeds": [0, 1, 2], "full_context": True}}
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


class ChapterError(RuntimeError):
    """A chapter is missing, breaks its contract, or was not executed."""


class UsageError(ChapterError):
    """No such chapter or parameter, or a value of the wrong type: refused before running."""

    exit_code = 2


def chapters(folder: Path = BOOK) -> list[Path]:
    """The chapters of a book folder in order: `NN_name.py`."""
    return sorted(Path(folder).glob("[0-9][0-9]_*.py"))


def find(chapter: str | Path, folder: Path = BOOK) -> Path:
    """A chapter's source from number, name or path; UsageError if there is none, or several."""
    path = Path(chapter)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    known = chapters(folder)
    found = [p for p in known if str(chapter) in (p.stem, p.name, p.stem.split("_")[0])]
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.stem for p in known) or f"none in {folder}"
    raise UsageError(f"no chapter {str(chapter)!r}; the chapters are: {names}")


def measured(folder: Path = BOOK) -> dict[str, dict]:
    """What each chapter's notebook says of its making: profile, seconds, memory, cores, date."""
    beside = {path.stem: path.with_suffix(".ipynb") for path in chapters(folder)}
    read = {
        name: json.loads(p.read_text(encoding="utf-8")) for name, p in beside.items() if p.exists()
    }
    return {name: read.get(name, {}).get("metadata", {}).get("serlib", {}) for name in beside}


def read(path: Path) -> NotebookNode:
    """A py:percent source as a notebook that papermill accepts, the same each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat on the missing ids that tidy adds
        notebook = jupytext.read(path, fmt="py:percent")
    return tidy(notebook)


def declared(notebook: NotebookNode) -> dict:
    """Names and default values in the cell tagged "parameters".

    Raises:
        ChapterError: If there is not exactly one such cell, or it holds anything but assignments
            of literals: what is computed in it would not follow the values injected after it.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ChapterError(f"{len(cells)} cells are tagged 'parameters'; a chapter has one")
    known = {}
    for node in ast.parse(cells[0].source).body:
        try:
            (target,) = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            value = ast.literal_eval(node.value)
            known[target.id] = json.loads(json.dumps(value, allow_nan=False))
        except (ValueError, TypeError, AttributeError) as error:
            what = "write name = literal number, string, list or dict; compute in the next cell"
            raise ChapterError(f"parameters cell, line {node.lineno}: {what}") from error
    return known


def check(given: dict, known: dict) -> dict:
    """Refuse unknown names and wrong types by a UsageError; make floats of ints where declared."""
    listing = ", ".join(f"{name}={value!r}" for name, value in known.items())
    checked = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"unknown parameter {name!r}; known are: {listing}")
        try:
            checked[name] = _cast(value, known[name])
        except TypeError as error:
            raise UsageError(f"parameter {name}: {error}; known are: {listing}") from error
    if (profile := checked.get("profile", "demo")) not in PROFILES:
        raise UsageError(f"profile is {profile!r}; it is one of {', '.join(PROFILES)}")
    return checked


def _cast(value, default):
    """The value in the default's type, or TypeError; a default of None takes anything."""
    if isinstance(value, tuple):
        value = list(value)
    if type(default) is float and type(value) is int:
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value!r} is not a finite number")
    if default is not None and type(value) is not type(default):
        wanted, got = type(default).__name__, type(value).__name__
        raise TypeError(f"expected {wanted} like {default!r}, got {got} {value!r}")
    if isinstance(default, list) and default and len({type(d) for d in default}) == 1:
        return [_cast(item, default[0]) for item in value]
    return value


def located(given: dict) -> dict:
    """The same with absolute paths of files and folders: a kernel works in a folder of its own.

    Paths are texts named `..._root` or `..._file`, those that name a manifest, and those that begin
    as paths do, with "~", "/" or "./"; in lists, too.

    Raises:
        UsageError: Nothing is there.
    """
    return {
        name: [_located(name, x) for x in value] if type(value) is list else _located(name, value)
        for name, value in given.items()
    }


def _located(name: str, value):
    is_path = isinstance(value, str) and (
        value.endswith((".csv", ".jsonl"))
        or name.endswith(("_root", "_file"))
        or value.startswith(("~", "/", "./", "../"))
    )
    if not is_path or not value:
        return value
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"parameter {name}: there is no {path}")
    return str(path)


def parse(assignments: Iterable[str], known: dict) -> dict:
    """`name=value` texts as values: a declared string is taken as it stands, all else as a literal.

    Raises:
        UsageError: On a text without "=", a name given twice, or a value that is no literal.
    """
    given = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or name in given:
            raise UsageError(f"{text!r}: write name=value" + ", once per name" * bool(equals))
        given[name] = value if isinstance(known.get(name, ""), str) else _literal(name, value)
    return given


def _literal(name: str, text: str):
    for reader in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            return reader(text)
    raise UsageError(f"parameter {name}: cannot read {text!r} as a number, list or true/false")


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Leave in a notebook what a reader needs, in place, and return it.

    Widgets (progress bars) are blank without a kernel: they go, or leave the HTML that they brought
    to show instead. An id is a hash of the cell and its place, the same each time.
    """
    kept = {k: v for k, v in notebook.metadata.items() if k == "serlib"}
    about = dict(kernelspec=KERNELSPEC, language_info={"name": "python"})
    notebook.metadata = NotebookNode(about | kept)
    for index, cell in enumerate(notebook.cells):
        for key in [
            k for k, v in cell.metadata.items() if k in ("papermill", "execution") or not v
        ]:
            del cell.metadata[key]
        if cell.cell_type == "code":
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output.data.pop(WIDGET, None)
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        text = f"{index}:{cell.cell_type}:{cell.source}"
        cell["id"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first minor version with cell ids
    return notebook


def on_cores(counts: Iterable[int | None]) -> str:
    """How many cores chapters had, in words."""
    known = sorted(set(counts) - {0, None}) or ["?"]
    said = " to ".join(str(n) for n in dict.fromkeys([known[0], known[-1]]))
    return f"{said} CPU core{'' if said == '1' else 's'}"


def cost(
    profile: str, seconds: float, peak_mb: float, cores: int | None,
    parameters: dict | None = None, **_: str,
) -> str:  # fmt: skip
    """What executing a chapter took, and what differs if parameters were given, in Markdown."""
    took = (
        f"**Time and memory**, measured at profile `{profile}` on {on_cores([cores])}: "
        f"{seconds / 60:.1f} minutes, {peak_mb / 1024:.1f} GB at the peak."
    )
    if not parameters:
        return took
    if ELSEWHERE & parameters.keys():
        return f"{took} The text tells of the run that the book ships; outputs are of this run."
    given = ", ".join(f"`{name} = {value}`" for name, value in parameters.items())
    return f"{took} What you see was made with {given}; as it stands the chapter takes less."


def without_injected(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the cell of parameters that papermill put in, changed in place."""
    tags = (cell.metadata.get("tags", []) for cell in notebook.cells)
    notebook.cells = [c for c, t in zip(notebook.cells, tags, strict=True) if INJECTED not in t]
    return tidy(notebook)


def compare(source: Path, notebook: Path | NotebookNode) -> list[str]:
    """How a chapter's notebook differs from its source, in lines; outputs do not count."""
    if isinstance(notebook, Path):
        notebook = nbformat.read(notebook, as_version=4)
    ours, theirs = read(source).cells, tidy(notebook).cells
    counts = f"{source.name} has {len(ours)} cells, its notebook has {len(theirs)}"
    return [counts] * (len(ours) != len(theirs)) + [
        f"cell {number}: {part} differs: {a[part]!r} against {b[part]!r}"
        for number, (a, b) in enumerate(zip(ours, theirs, strict=False), 1)
        for part in ("cell_type", "source", "metadata")
        if a[part] != b[part]
    ]
