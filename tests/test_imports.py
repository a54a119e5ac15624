"""The shape of the house: rooms and floors, third-party imports, sizes, what an import costs."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Rooms, lowest floor first: a room imports only from lower floors.
FLOORS = {
    "serlib": "settings records losses metrics | data | models corpora | tasks | training | "
    "recipes | experiments | __main__",
    "serbook": "runner figures | claims lesson plan | archive | site | cli",
}
FLOORS = {k: [floor.split() for floor in v.split("|")] for k, v in FLOORS.items()}
FOLDERS = {"serlib": ROOT / "serlib", "serbook": ROOT / "book" / "serbook"}
CORE = "losses metrics data models tasks training".split()
# Lines, docstrings and blanks too; and lines of code of the core. No package may grow: the aims are
# 12,000 and 5,000 lines, and 3,600 lines of code. What is above them reads files that others made:
# damaged sound, tables, lists, run folders (about 1,800 lines).
LIMITS, CORE_LIMIT = {"serlib": 14_780, "serbook": 6_240}, 4_435
# Which modules alone may import a library; a name that ends in "." stands for a room.
ONLY = {
    "transformers": {"serlib.models.encoders.", "serbook.plan.architectures"},
    "accelerate": {"serlib.training."},
    "peft": {"serlib.models.adapters"},
    "distributed": {"serlib.experiments.cluster"},
    "pooch": {"serlib.corpora.download"},
    "huggingface_hub": {"serlib.models.encoders.load"},
    "matplotlib": {"serbook.figures."},
    "seaborn": {"serbook.figures."},
    "papermill": {"serbook.runner.chapters"},
    "jupyter_client": {"serbook.runner.kernels"},
    "jupytext": {"serbook.runner.notebooks"},
    "playwright": {"serbook.site.pdf"},
    "pypdf": {"serbook.site.pdf"},
    "ipywidgets": {"serbook.lesson.panel"},
    "sphinx": set(),
    "wordfreq": set(),
    "tests": set(),
    "data_manifests": set(),
    "serbook": {"serbook."},
}
# Rooms and modules that do without a library.
NEVER = {
    "serlib.metrics.": {"torch", "pandas", "sklearn"},
    "serlib.losses.": {"pandas", "numpy", "sklearn"},
    "serlib.models.": {"pandas", "sklearn"},
    "serlib.data.audio": {"pandas", "sklearn"},
    "serlib.records.": {"transformers", "sklearn"},
    "serlib.training.": {"sklearn"},
    "serbook.lesson.check": {"torch", "pandas", "sklearn"},
}


def name_of(path: Path) -> str:
    package = "serlib" if path.is_relative_to(FOLDERS["serlib"]) else "serbook"
    parts = path.relative_to(FOLDERS[package]).with_suffix("").parts
    return ".".join([package, *parts]).removesuffix(".__init__")


MODULES = {name_of(path): path for f in FOLDERS.values() for path in sorted(f.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Dotted names of all that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the room that they reach into"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def siblings(source: str) -> set[str]:
    """The modules of both packages among the imports."""
    names = imports(source)
    # What is no module is a name inside one; a package is imported where its own names are.
    return {n if n in MODULES else n.rpartition(".")[0] for n in names} & set(MODULES)


def within(module: str, names: set[str]) -> bool:
    return any(f"{module}." == n or module == n or (n[-1] == "." and module.startswith(n))
               for n in names)  # fmt: skip


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    floors = FLOORS[module.split(".")[0]]
    for number, rooms in enumerate(floors):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} has no place yet: add its room to FLOORS")


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, comments, docstrings."""
    docs = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                docs |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENDMARKER)  # fmt: skip
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = [range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in nothing]
    return len({line for lines in held for line in lines} - docs)


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import serlib.data.audio\nfrom serlib.models import heads as h\n"
        "from serlib.metrics.measures import wa\ndef f():\n    from serlib import records\n"
        "    import os.path"
    )
    assert siblings(source) == {
        "serlib.data.audio", "serlib.models.heads", "serlib.metrics.measures", "serlib.records",
    }  # fmt: skip
    assert {"os.path"} <= imports(source)
    assert siblings("from serbook import claims") == {"serbook.claims"}


def test_lines_of_code_are_counted_without_words():
    source = '"""Doc."""\n\n# why\nx = """a\nb"""\n\n\ndef f():\n    """Doc."""\n    return (\n'
    source += "        1\n    )\n"
    assert code_lines(source) == 2 + 1 + 3


def test_the_house_has_few_rooms_and_floors():
    for package, folder in FOLDERS.items():
        there = {
            p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
        }
        rooms = [name for floor in FLOORS[package] for name in floor]
        assert sorted(rooms) == sorted(there - {"__init__"})
    assert len(sum(FLOORS["serlib"], [])) <= 12 and len(FLOORS["serlib"]) <= 8
    assert len(sum(FLOORS["serbook"], [])) <= 8 and len(FLOORS["serbook"]) <= 5


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_from_lower_floors_only(module):
    package = module.split(".")[0]
    for other in siblings(MODULES[module].read_text()):
        if not other.startswith(package) or room(other) in ("", room(module)):
            continue  # the other package, or the same room
        assert floor(other) < floor(module), f"{module} imports {other}, which is not below it"


def test_no_import_goes_in_a_circle():
    """Inside a room too."""
    below = {m: siblings(p.read_text()) - {m} for m, p in MODULES.items()}
    while free := {m for m, others in below.items() if not others & set(below)}:
        below = {m: others for m, others in below.items() if m not in free}
    assert not below, f"these import each other: {', '.join(below)}"


@pytest.mark.parametrize("module", MODULES)
def test_third_party(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module].read_text())}
    for library in roots & set(ONLY):
        assert within(module, ONLY[library]), f"{module} imports {library}"
    for place, libraries in NEVER.items():
        if within(module, {place}):
            assert not roots & libraries


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module):
    """Code counts, words do not: a good docstring never splits a file."""
    source = MODULES[module].read_text()
    assert code_lines(source) <= 220, f"{module}: split the file"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
            length = node.end_lineno - first.lineno + 1  # without signature and docstring
            assert length <= 50, f"{module}.{node.name} has {length} lines of code"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_only_hands_on_what_others_define(module):
    source = MODULES[module].read_text()
    made = [n for n in ast.parse(source).body if not isinstance(n, (ast.Import, ast.ImportFrom))]
    only_words = all(isinstance(n, ast.Expr) for n in made)
    assert not only_words or not imports(source), f"{module} defines nothing of its own"
    assert "noqa: F401" not in source, f"{module} imports names for others to take"


def test_serlib_is_thin():
    sources = {m: p.read_text() for m, p in MODULES.items()}
    for package, most in LIMITS.items():
        lines = sum(len(s.splitlines()) for m, s in sources.items() if m.startswith(package))
        assert lines <= most, f"{package} has {lines} lines"
    core = sum(code_lines(s) for m, s in sources.items()
               if m.startswith("serlib") and room(m) in CORE)  # fmt: skip
    assert core <= CORE_LIMIT, f"{', '.join(CORE)} have {core} lines of code"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def texts_without_encoding(source: str) -> list[str]:
    """Calls that read or write text in whatever encoding the reader's locale has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(k.arg == "encoding" for k in node.keywords):
            is_open = getattr(node.func, "id", "") == "open"
            binary = is_open and len(node.args) > 1 and "b" in ast.unparse(node.args[1])
            if getattr(node.func, "attr", "") in ("read_text", "write_text") or is_open > binary:
                found.append(ast.unparse(node))
    return found


def test_texts_are_utf8_whatever_the_locale_is():
    for name, path in MODULES.items():
        bare = texts_without_encoding(path.read_text(encoding="utf-8"))
        assert not bare, f'{name}: {bare}: say encoding="utf-8"'
    assert texts_without_encoding("open(p, 'w'), p.read_text(), open(p, 'rb')") == [
        "open(p, 'w')", "p.read_text()"
    ]  # fmt: skip


def test_import_is_light():
    loaded = set(run("import sys, serlib; print(*sys.modules)").split())
    assert "serlib" in loaded
    assert not loaded & {"numpy", "torch", "pandas", "transformers", "matplotlib", "papermill"}


def test_serlib_needs_nothing_of_the_book():
    """All of it imported: no Jupyter, no Sphinx, no papermill, no matplotlib."""
    names = [m for m in MODULES if m.startswith("serlib") and m != "serlib.experiments.cluster"]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
    loaded = {name.split(".")[0] for name in run(code + "print(*sys.modules)").split()}
    assert not loaded & {"IPython", "ipywidgets", "jupytext", "matplotlib", "nbformat",
                         "papermill", "seaborn", "serbook", "sphinx"}  # fmt: skip


def test_help_is_light():
    code = (
        "import sys; from serlib import __main__\n"
        "try: __main__.main(['--help'])\nexcept SystemExit: pass\n"
    )
    loaded = set(run(code + "print(*sys.modules)").split())
    assert "serbook.cli" in loaded
    assert not loaded & {"numpy", "torch", "pandas", "jupytext", "papermill"}


def test_records_stay_importable_without_torch():
    """Commands that only read results must not wait for torch."""
    assert "torch" not in run("import sys; from serlib import records; print(*sys.modules)").split()
