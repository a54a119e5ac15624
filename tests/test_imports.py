"""The shape of the package: levels, third-party imports, sizes, and what `import serlib` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "serlib"
# Lowest first. A module imports only from lines above its own; a name that ends in "." stands for
# the modules of a subpackage.
TIERS = (
    {"intervals", "pooling", "regression", "check", "demo", "bench"},
    {"audio", "metrics", "losses", "heads", "records", "tables", "text", "notebooks"},
    {"splits", "cores", "kernels"},
    {"manifest", "floors", "features", "checkpoints"},
    {"stores", "wavlm", "corpora.files", "corpora.cards", "corpora.measure"},
    {"demo.plan", "demo.speech", "demo.loop", "wav2vec2", "whisper", "roberta"},
    {"demo.oracle", "corpora.counts"},
    {"corpora.", "batching", "encoders", "tuning", "demo.corpus"},
    {"demo.treekit"},
    {"demo.lab_trees", "demo.acted_trees", "demo.clip_trees"},
    {"demo.trees"},
    {"model", "fusion", "attributes"},
    {"tasks"},
    {"processes"},
    {"evaluation", "sharding", "selection"},
    {"bookkeeping"},
    {"throughput", "trackers"},
    {"training"},
    {"recipe"},
    {"data"},
    {"recipes"},
    {"streams", "baselines"},
    {"experiments"},
    {"cluster"},
    {"sweep", "inference"},
    {
        "plots",
        "chapters",
        "exercises",
        "demo.pretrain",
        "verdicts",
        "claims.rules",
        "claims.proofs",
    },
    {"claims.dynamics"},
    {"claims.ledger", "claims.runs"},
    {"claims"},
    {"claims.pages", "archive.sums", "archive.forms"},
    {"archive.kept"},
    {"archive.checking"},
    {"archive"},
    {
        "demo.card",
        "demo.whisper",
        "demo.roberta",
        "manifest_cli",
        "claims_cli",
        "archive_cli",
        "train_cli",
        "exercises_cli",
    },
    {"taskplots", "layerplots", "lossplots"},
    {"fusionplots"},
    {"bench.architectures", "bench.machine", "bench.speech"},
    {"bench.asked", "bench.contenders"},
    {"bench.train", "bench.cpu", "bench.rehearse", "bench.losses", "bench.lora"},
    {"plan"},
    {"course"},
    {"publish"},
    {"panel", "pdf"},
    {"bench_cli"},
    {"cli"},
)
# Who alone may import a library.
ONLY = {
    "transformers": {
        "checkpoints",
        "wav2vec2",
        "whisper",
        "roberta",
        "demo.pretrain",
        "demo.whisper",
        "demo.roberta",
        "bench.architectures",
        "bench.contenders",
    },
    "accelerate": {"training", "evaluation", "processes", "trackers"},
    "peft": {"tuning"},
    "matplotlib": {"plots", "taskplots", "layerplots", "lossplots", "fusionplots"},
    "seaborn": {"plots", "taskplots"},
    "papermill": {"chapters"},
    "jupyter_client": {"kernels"},
    "jupytext": {"notebooks"},
    "sphinx": set(),
    "playwright": {"pdf"},
    "pypdf": {"pdf"},
    "ipywidgets": {"panel"},
    "huggingface_hub": {"checkpoints"},
    "distributed": {"cluster"},
    "pooch": {"corpora.download"},
    "wordfreq": {"demo.pretrain"},
}
# Modules that stay small, and the libraries that they do without.
NEVER = {
    "metrics": {"torch", "pandas", "sklearn", "scipy"},
    "audio": {"pandas", "sklearn"},
    "losses": {"pandas", "numpy", "sklearn"},
    "regression": {"pandas", "numpy", "sklearn"},
    "check": {"torch", "pandas", "sklearn"},
    "intervals": {"torch", "pandas", "sklearn", "scipy"},
    "pooling": {"pandas", "sklearn"},
    "heads": {"pandas", "sklearn"},
    "records": {"transformers", "sklearn"},
    "training": {"transformers"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def tier(module: str) -> int:
    for number, names in enumerate(TIERS):
        if module in names or f"{module.split('.')[0]}." in names:
            return number
    raise AssertionError(f"serlib/{module} has no place yet: add it to TIERS")


def imports(source: str, module: str = "") -> set[str]:
    """Dotted names of all that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["serlib", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def siblings(source: str, module: str = "") -> set[str]:
    """The modules of this package among the imports."""
    names = {name.removeprefix("serlib.") for name in imports(source, module)}
    # What is no module is a name inside one; a subpackage is imported where its own names are.
    return {n if n in MODULES else n.rpartition(".")[0] for n in names} & set(MODULES)


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import serlib.audio\nfrom serlib import heads as h\nfrom serlib.demo import corpus\n"
        "from serlib.metrics import wa\ndef f():\n    from .records import home\n    import os.path"
    )
    assert siblings(source, "model") == {"audio", "heads", "demo.corpus", "metrics", "records"}
    assert {"os.path"} <= imports(source, "model")
    assert siblings("from serlib.claims import pages", "cli") == {"claims.pages"}
    assert siblings("from serlib.claims import pages, of", "cli") == {"claims", "claims.pages"}
    assert siblings("from . import plan\nfrom .. import audio", "demo.corpus") == {
        "demo.plan",
        "audio",
    }


@pytest.mark.parametrize("module", MODULES)
def test_levels(module):
    for other in siblings(MODULES[module].read_text(), module):
        assert tier(other) < tier(module), f"{module} imports {other}, which is not below it"


@pytest.mark.parametrize("module", MODULES)
def test_third_party(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module].read_text(), module)}
    for library in roots & set(ONLY):
        assert module in ONLY[library], f"{module} imports {library}; only {ONLY[library]} may"
    assert not roots & NEVER.get(module, set())


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module):
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= 350, f"{module}: split the file"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
            length = node.end_lineno - first.lineno + 1  # without signature and docstring
            assert length <= 50, f"{module}.{node.name} has {length} lines of code"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return done.stdout


def test_import_is_light():
    loaded = set(run("import sys, serlib; print(*sys.modules)").split())
    assert "serlib" in loaded
    assert not loaded & {"numpy", "torch", "pandas", "transformers", "matplotlib", "papermill"}
    seconds = float(run("import time; t = time.perf_counter(); import serlib; "
                        "print(time.perf_counter() - t)"))  # fmt: skip
    assert seconds < 0.5


def test_help_is_quick():
    code = (
        "import sys; from serlib import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    )
    loaded = set(run(code + "print(*sys.modules)").split())
    assert not loaded & {"numpy", "torch", "pandas", "jupytext", "papermill"}
    start = time.perf_counter()
    run(code)
    assert time.perf_counter() - start < 2


def test_records_stay_importable_without_torch():
    """Commands that only read results must not wait for torch."""
    assert "torch" not in run("import sys; from serlib import records; print(*sys.modules)").split()
