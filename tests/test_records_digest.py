from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serlib import records
from serlib.records import RecordError


@dataclasses.dataclass(frozen=True)
class Inner:
    rates: tuple = (0.1, 1e-5)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = "é"
    inner: Inner = dataclasses.field(default_factory=Inner)
    folder: Path = Path("a/b")


def test_digest_is_the_sha256_of_canonical_json():
    text = '{"a":[1,2.0,null,true],"b":"\\u00e9"}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert records.digest({"b": "é", "a": [1, 2.0, None, True]}, 64) == expected
    assert records.digest({"b": "é", "a": (1, 2.0, None, True)}) == expected[:12]


def test_digest_ignores_form_and_survives_json():
    plain = {"folder": "a/b", "inner": {"rates": [0.1, 1e-5]}, "name": "é"}
    assert records.digest(Outer()) == records.digest(plain)
    assert records.digest(Outer()) == records.digest(json.loads(json.dumps(plain)))
    assert records.digest([np.int64(3), np.float64(0.1)]) == records.digest([3, 0.1])


def test_digest_tells_values_apart():
    values = [1, 1.0, True, "1", None, "None", [], {}, [1], [[1]], {"a": 1}, {"a": "1"}, "", "a"]
    values += [0.1, 0.1 + 2**-56, ["a", "b"], ["ab"], ["b", "a"], {"a": None}]
    assert len({records.digest(value) for value in values}) == len(values)


def test_digest_is_the_same_in_other_processes():
    code = "from serlib import records; print(records.digest({'b': [1e-4, 'x'], 'a': {'z': 0}}))"
    path = str(Path(records.__file__).parents[1])
    seen = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        seen.add(subprocess.check_output(command, env=environment, text=True).strip())
    assert seen == {records.digest({"a": {"z": 0}, "b": [1e-4, "x"]})}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_digest_refuses_numbers_that_are_not_finite(value):
    with pytest.raises(RecordError, match=r"value\.a\[1\]\.b is (nan|inf)"):
        records.digest({"a": [0, {"b": value}]})


@pytest.mark.parametrize("value", [{1}, b"x", object(), np.zeros(2), 1j, Inner, len, range(3)])
def test_digest_refuses_types_without_a_form(value):
    with pytest.raises(TypeError, match=r"value\.lr is a"):
        records.digest({"lr": value})


def test_digest_refuses_keys_that_json_would_change():
    with pytest.raises(TypeError, match="key 1"):
        records.digest({1: "a"})


@pytest.fixture
def package(tmp_path):
    """A copy of the package's Python files."""
    source = Path(records.__file__).parents[1]
    shutil.copytree(source, tmp_path / "serlib", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "serlib"


def test_source_digest_follows_every_byte_of_the_chosen_folders(package):
    folders = ("data", "models/encoders")
    before = records.source_digest(folders, package=package)
    assert before == records.source_digest(reversed(folders), package=package)
    assert before == records.source_digest(folders)  # a copy elsewhere is the same source
    for name in ("data/manifest.py", "data/__init__.py", "models/encoders/wavlm.py"):
        path, data = package / name, (package / name).read_bytes()
        path.write_bytes(data[:-1] + b" ")
        assert records.source_digest(folders, package=package) != before
        path.write_bytes(data)
    assert records.source_digest(folders, package=package) == before


def test_source_digest_does_not_follow_other_files(package):
    before = records.source_digest(("losses", "data"), package=package)
    (package / "records.py").write_text("other")
    (package / "models" / "heads.py").write_text("other")
    (package / "data" / "weights.bin").write_bytes(b"0")
    (package / "data" / "__pycache__").mkdir(exist_ok=True)
    (package / "data" / "__pycache__" / "x.pyc").write_bytes(b"0")
    assert records.source_digest(("losses", "data"), package=package) == before
    (package / "data" / "new.py").write_text("")  # inside a chosen folder
    assert records.source_digest(("losses", "data"), package=package) != before


def test_source_digest_knows_contents_and_not_places(package):
    """A file may move: what it says is what counts."""
    before = records.source_digest(package=package)
    (package / "models" / "heads.py").rename(package / "training" / "other.py")
    assert records.source_digest(package=package) == before


def test_source_digest_cannot_be_fooled_by_moving_bytes_between_files(tmp_path):
    seen = set()
    for a, b in (("x", "yz"), ("xy", "z"), ("", "xyz"), ("xyz", "xyz")):
        (tmp_path / "a" / "b").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "b" / "a.py").write_text(a)
        (tmp_path / "a" / "b.py").write_text(b)
        seen.add(records.source_digest(("a",), package=tmp_path))
    assert len(seen) == 4


def test_source_digest_refuses_wrong_names(package):
    with pytest.raises(RecordError, match="model2 has no Python file"):
        records.source_digest(("model2",), package=package)
    with pytest.raises(TypeError, match=r"\('data',\)"):
        records.source_digest("data")


def test_environment_is_json_and_names_versions():
    facts = records.environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"]["numpy"] == np.__version__ and facts["cpu_count"] > 0


def test_json_round_trip_and_strictness(tmp_path):
    path = tmp_path / "x.json"
    records.write_json(path, {"ä": (1, 2.5), "nan": float("nan"), "n": np.float32(0.5)})
    assert records.read_json(path) == {"ä": [1, 2.5], "nan": None, "n": 0.5}
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity in the file
    path.write_text("{")
    with pytest.raises(RecordError, match=r"x\.json does not hold JSON"):
        records.read_json(path)
    with pytest.raises(FileNotFoundError):
        records.read_json(tmp_path / "none.json")
