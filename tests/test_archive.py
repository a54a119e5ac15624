"""An archive holds what claims need and nothing licensed; whatever else is put in is found."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

from claims_toys import HEARD, SAID, SMALL
from claims_toys import make as make_run
from serbook.archive import checking, forms, sums
from serbook.archive.checking import pack
from serbook.archive.forms import dump
from serbook.archive.make import make
from serbook.claims.judge import judge
from serbook.claims.ledger import read
from serbook.claims.rules import parse
from serbook.claims.runs import Finished, measure
from serlib import __main__ as cli
from serlib import records
from serlib.data import manifest
from serlib.experiments.runs import METRICS, Runs
from serlib.tasks import attributes
from serlib.training import evaluation

SPEAKERS = [f"iemocap-Ses0{i}{s}" for i in range(1, 6) for s in "FM"] + ["iemocap-Lone"]
SENTENCE = "EXCUSE ME WHERE IS THE LINE"
ROOT = "/data/licensed/IEMOCAP_full_release"
HELPS, WIDER = "cai2021.text.helps_a0_1", "zgorzynski2025.text.wider"


def answers(rng, n, classes, skill, ratings) -> pd.DataFrame:
    """Predictions as a multi-task model stores them, of invented people."""
    speaker = np.append(rng.choice(SPEAKERS[:-1], n - 1), SPEAKERS[-1])
    truth = rng.integers(0, classes, n)
    hit = rng.random(n) < skill
    table = pd.DataFrame(
        {"truth": truth, "prediction": np.where(hit, truth, rng.integers(0, classes, n))},
        index=pd.Index([f"iemocap-Ses01F_impro{i:04d}" for i in range(n)], name="key"),
    )
    for c in range(classes):
        table[f"p_{c}"] = np.where(table["prediction"] == c, 0.9, 0.1 / (classes - 1))
    if ratings:
        for name in manifest.ATTRIBUTES:
            table[f"{name}_truth"] = rng.uniform(1, 7, n).round(1)
            table[name] = table[f"{name}_truth"] * skill + rng.normal(2, 0.5, n)
    else:
        table["reference"], table["hypothesis"] = SENTENCE, "EXCUSE ME WERE IS LINE"
    return table.assign(speaker=speaker)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The path of an archive, and its home: two systems of Cai et al., two of Zgórzyński et al."""
    home = tmp_path_factory.mktemp("home")
    ledger = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERLIB_HOME", str(home))
        skills = {"cai.0": 0.5, "cai.0_1": 0.9, "zgo.mse": 0.5, "zgo.penalty": 0.9}
        for k, (system, skill) in enumerate(skills.items()):
            for seed in (0, 1):
                rng = np.random.default_rng([seed, k])
                recipe = ledger.recipe(system, "full", {"iemocap": ROOT, "msp-podcast": ROOT})
                recipe = recipe.change(seed=seed)
                config = records.plain({"recipe": recipe, "manifest": "0123456789ab"})
                run = records.Run.open(
                    home / "runs", config, key=f"{recipe.system}-{k}{seed}3456789abc"
                )
                scores = {}
                for role, n in (("dev", 60), ("test", 300)):
                    # The truth is that of the corpus: the same for all systems and seeds.
                    table = answers(np.random.default_rng(7), n, len(recipe.classes), skill,
                                    system.startswith("zgo"))  # fmt: skip
                    miss = rng.random(n) < 0.02
                    table.loc[miss, "prediction"] = 0
                    run.save_predictions(role, table)
                    scores[role] = evaluation.score(table, len(recipe.classes))
                run.log(epoch=1, loss=0.5, dev_wa=0.5, best=True, said=SENTENCE)
                with run.lock():
                    run.finish(scores | {"note": SENTENCE})
        file = home / "back.zip"
        made = make(file, "full", ["cai2021.text", "zgorzynski2025"])
        yield made, file, Runs, Finished


def inside(file) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def one_run(files) -> str:
    return next(name for name in files if name.startswith("runs/"))


def altered(made, tmp_path, change) -> list[str]:
    """The faults of an archive whose files were changed, and whose sums were made to agree."""
    files = inside(made[1])
    change(files)
    path = tmp_path / "altered.zip"
    path.write_bytes(pack(files))
    return checking.faults(path)


def edit(files, name, change) -> None:
    content = json.loads(files[name])
    change(content)
    files[name] = dump(content)


# ------------------------------------------------------------------------------- what is in it


def test_nothing_licensed_is_inside(made):
    made, file, *_ = made
    assert made.runs == 8 and made.claims[HELPS] == "reproduced" and made.single == 1
    text = file.read_bytes() + b"".join(inside(file).values())
    for word in ("Ses0", "Lone", "impro", "EXCUSE", "licensed", "data_root", str(file.parent)):
        assert word.encode() not in text, word
    config = json.loads(inside(file)[one_run(inside(file))])["config"]["recipe"]
    assert config["corpus"] == "iemocap" and config["model"]["encoder"].startswith("facebook/")
    assert checking.faults(file) == []


def test_two_archives_have_no_mask_in_common(made, tmp_path, monkeypatch):
    _, file, *_ = made
    monkeypatch.setenv("SERLIB_HOME", str(file.parent))
    make(tmp_path / "again.zip", "full", ["cai2021.text"])
    masks = [
        {m for name, data in inside(f).items() if name.startswith("runs/")
         for m in json.loads(data)["sums"]["test"]["speakers"]}
        for f in (file, tmp_path / "again.zip")
    ]  # fmt: skip
    assert len(masks[0]) == len(masks[1]) == len(SPEAKERS) and not masks[0] & masks[1]


def test_scores_and_intervals_come_out_again(made, monkeypatch):
    """From the sums, and from the tables of predictions by the ledger's own way."""
    _, file, *_ = made
    monkeypatch.setenv("SERLIB_HOME", str(file.parent))
    ledger, told = read(), {r["id"]: r for r in json.loads(inside(file)["claims.json"])}
    for id in (HELPS, WIDER):
        found = judge(ledger, ledger[id], "full", Finished())
        assert found.verdict == told[id]["verdict"] and list(found.runs) == told[id]["runs"]
        for mine, theirs in zip(told[id]["measured"], found.measured, strict=True):
            assert mine["value"] == pytest.approx(theirs.interval.value, abs=1e-12)
            assert mine["low"] == pytest.approx(theirs.interval.low, abs=1e-12)
            assert mine["high"] == pytest.approx(theirs.interval.high, abs=1e-12)


def kept(recipe, run, masks) -> checking.Kept:
    """A run as an archive keeps it, as far as intervals need it."""
    told = sums.add_up(run.predictions("test"), len(recipe.classes), masks)
    config = {"recipe": forms.bare(records.plain(recipe))}
    return checking.Kept(run.path, {"config": config, "sums": {"test": told}})


@pytest.mark.parametrize("rule", ["value(b, wa)", "more(a, b, ua) and less(a, b, wer)"])
def test_pooled_folds_and_a_floor_without_seeds_come_out_again(place, rule):
    """Two folds and three seeds against a floor that ran once in each fold."""
    path, text = place / "claims.yaml", SMALL.replace(
        "a: {recipe: cai2021, with: {alpha: 0.0}}", "a: {recipe: floor, with: {system: svm}}"
    )  # fmt: skip
    path.write_text(text)
    ledger, found = read(path), []
    a, b = (ledger.recipe(name, "demo") for name in "ab")
    asked = [a.change(fold=k) for k in (1, 2)]
    asked += [b.change(fold=k, seed=s) for s in (0, 1, 2) for k in (1, 2)]
    for n, recipe in enumerate(asked):
        found.append((recipe, make_run(recipe, 0.4 + n / 20, words=(SAID, HEARD[n:] + HEARD[:n]))))
    masks = sums.Masks()
    archived = checking.Archived(kept(*pair, masks) for pair in found[::-1])
    for step in parse(rule):
        here, there = (measure(step, {"a": a, "b": b}, e) for e in (Finished(), archived))
        assert (here.seeds, here.folds) == (there.seeds, there.folds) == (3, 2)
        assert set(here.runs) == set(there.runs) and here.interval.bounded
        ends = [(m.interval.value, m.interval.low, m.interval.high) for m in (here, there)]
        np.testing.assert_allclose(*ends, atol=1e-12)


def test_sums_by_hand():
    table = pd.DataFrame(
        {"truth": [0, 0, 1, -100], "prediction": [0, 1, 1, 1], "speaker": ["b", "b", "a", "a"],
         "reference": ["ONE TWO", "ONE", "ONE", ""], "hypothesis": ["ONE", "ONE", "TWO", "X"]},
        index=pd.Index(list("wxyz"), name="key"),
    )  # fmt: skip
    masks = sums.Masks()
    found = sums.add_up(table, 2, masks)
    assert set(found["speakers"]) == {masks.of("a"), masks.of("b")}
    assert found["speakers"] == sorted(found["speakers"])
    a, b = (found["speakers"].index(masks.of(name)) for name in "ab")
    parts = found["parts"]
    assert (parts["confusion"][a], parts["confusion"][b]) == ([[0, 0], [0, 1]], [[1, 1], [0, 0]])
    assert (parts["wer"][a], parts["wer"][b]) == ([1, 1], [1, 3])
    assert sums.score(found, "wa", 2) == 2 / 3 and sums.score(found, "ua", 2) == 0.75
    assert sums.score(found, "wer", 2) == 0.5 and sums.single(found) == 1
    with pytest.raises(ValueError, match="no sums for ccc"):
        sums.unpack(found, "ccc", 2)


def test_sums_that_cannot_be():
    fine = {"speakers": ["0" * 12, "1" * 12],
            "parts": {"confusion": [[[0, 2], [0, 0]], [[0, 0], [0, 1]]]}}  # fmt: skip
    assert sums.score(fine, "wa", 2) == 1 / 3
    for speakers in (["1" * 12, "0" * 12], ["0" * 12] * 2, [], ["0" * 12]):
        with pytest.raises(ValueError):
            sums.score(fine | {"speakers": speakers}, "wa", 2)
    for part, values in (
        ("confusion", []), ("confusion", [[[0, 1], [1, -1]]] * 2),
        ("confusion", [[[1] * 3] * 3] * 2),
        ("confusion", [[[0, 1], [1]], [[0, 0], [0, 1]]]), ("wer", [[1, 2]]), ("wer", [[1], [1]]),
        ("wer", [[-1, 2], [0, 1]]), ("wer", fine["parts"]["confusion"]), ("ccc", [[1, 2]] * 2),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            metric = "wa" if part == "confusion" else part
            sums.score(fine | {"parts": {part.replace("ccc", "moments"): values}}, metric, 2)


def test_machine_and_folders_are_told_in_general_terms():
    facts = {
        "python": "3.12.1+", "packages": {"numpy": "2.1.0", "torch": None}, "cpu_count": None,
        "platform": "Linux-6.1.0-anna-laptop-x86_64-with-glibc2.36", "threads": 4,
        "device": "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3",
    }  # fmt: skip
    told = forms.environment(facts)
    assert told["platform"] == "Linux-x86_64" and told["device"] == facts["device"]
    assert told["packages"] == {"numpy": "2.1.0"} and told["python"] == "3.12.1"
    forms.ENVIRONMENT.model_validate_json(dump(told))
    odd = forms.environment(facts | {"device": "anna's GPU", "platform": "Plan9"})
    assert (odd["device"], odd["platform"]) == ("other", "other")
    recipe = records.plain(read().recipe("cai.0", "full"))
    recipe["model"]["encoder"], recipe["corpus"] = "/home/anna/wav2vec2", "/home/anna/My.csv"
    bare = forms.bare(recipe)
    assert bare["model"]["encoder"] == "wav2vec2" and bare["corpus"] == "my"
    assert forms.form(x=forms.Bare).model_validate_json(dump({"x": bare})).x.corpus == "my"


# ------------------------------------------------------------------------------ what does not pass


def smuggle_text(record):
    record["config"]["recipe"]["name"] = SENTENCE


def smuggle_root(record):
    record["config"]["recipe"]["data_root"] = ROOT


def smuggle_into_a_number(record):
    record["config"]["recipe"]["model"]["hidden"] = SENTENCE


def smuggle_into_a_known_text(record):
    record["config"]["recipe"]["model"]["pooling"] = "ANGRY"


def smuggle_an_encoder(record):
    record["config"]["recipe"]["model"]["encoder"] = ROOT


def smuggle_a_talker(record):
    record["sums"]["test"]["speakers"][0] = SPEAKERS[0]


def smuggle_labels(record):
    record["sums"]["test"]["truth"] = [0, 1, 2]


def smuggle_a_curve(record):
    record["epochs"][0]["Ses01F_impro01_F000"] = 3


def smuggle_a_device(record):
    record["environment"]["device"] = SENTENCE.lower()


SMUGGLED = [
    smuggle_text, smuggle_root, smuggle_into_a_number, smuggle_into_a_known_text,
    smuggle_an_encoder, smuggle_a_talker, smuggle_labels, smuggle_a_curve, smuggle_a_device,
]  # fmt: skip


@pytest.mark.parametrize("how", SMUGGLED, ids=lambda how: how.__name__)
def test_what_is_not_allowed_is_found(made, tmp_path, how):
    found = altered(made, tmp_path, lambda files: edit(files, one_run(files), how))
    assert found and all("runs/" in fault for fault in found), found


def test_a_changed_digit(made, tmp_path):
    def counts(record):
        record["sums"]["test"]["parts"]["confusion"][0][0][1] += 1

    def score(record):
        record["scores"]["test"]["wa"] += 1e-4

    for change in (counts, score):
        found = altered(made, tmp_path, lambda files, c=change: edit(files, one_run(files), c))
        assert any("wa is" in fault and "from the sums" in fault for fault in found), found
    found = altered(made, tmp_path, lambda files: edit(
        files, "claims.json", lambda rows: rows[0].update(verdict="not reproduced")))  # fmt: skip
    assert any("verdict is 'not reproduced'" in fault for fault in found), found
    data = bytearray(made[1].read_bytes())  # in the file itself
    data[data.find(b'"lr_head":') + 10] ^= 1
    (tmp_path / "digit.zip").write_bytes(data)
    assert any("Bad CRC-32" in fault for fault in checking.faults(tmp_path / "digit.zip"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("../../outside.json", "does not belong"), ("/etc/passwd", "does not belong"),
     ("runs/../x.json", "does not belong"), ("predictions_test.csv", "does not belong"),
     ("runs/", "does not belong")],
)  # fmt: skip
def test_other_files(made, tmp_path, name, words):
    found = altered(made, tmp_path, lambda files: files.update({name: b"x"}))
    assert any(words in fault for fault in found), found


def test_what_is_missing(made, tmp_path):
    found = altered(made, tmp_path, lambda files: files.pop("claims.json"))
    assert found == ["altered.zip: claims.json is missing"]
    found = altered(made, tmp_path, lambda files: files.pop(one_run(files)))
    assert any("no run" in fault for fault in found), found


@pytest.mark.parametrize("json_", [b"{", b"[]", b"null", b"NaN", b"[" * 100_000, b'{"format": 1}'])
def test_hostile_json(made, tmp_path, json_):
    for name in ("archive.json", "claims.json", "runs"):
        assert altered(
            made, tmp_path, lambda f, n=name: f.update({one_run(f) if n == "runs" else n: json_})
        ) or (name, json_) == ("claims.json", b"[]")


def test_many_faults_are_counted(made, tmp_path):
    def keys(about):
        about |= dict.fromkeys(map(str, range(2000)), 1)

    found = altered(made, tmp_path, lambda files: edit(files, "archive.json", keys))
    assert found == ["archive.json: 2,000 faults"]


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"true", b'"1"'])
def test_numbers_are_finite(made, tmp_path, value):
    def change(files):
        name = one_run(files)
        assert b'"lr_head":' in files[name]
        files[name] = re.sub(rb'(?<="lr_head":)[0-9.e-]+', value, files[name], count=1)

    assert altered(made, tmp_path, change)


def test_blanks_and_double_keys_hide_nothing(made, tmp_path):
    def blanks(files):
        files["archive.json"] = files["archive.json"].rstrip() + b" " * 9 + b"\n"

    def twice(files):
        files["archive.json"] = (
            b'{"format":"' + SENTENCE.encode() + b'",' + files["archive.json"][1:]
        )

    for change in (blanks, twice):
        found = altered(made, tmp_path, change)
        assert any("not written as" in fault for fault in found), found


def test_bytes_beside_the_files(made, tmp_path):
    data, path = made[1].read_bytes(), tmp_path / "x.zip"
    extra = SENTENCE.encode()
    for changed in (extra + data, data + extra, data[:-30], data[: len(data) // 2], b""):
        path.write_bytes(changed)
        assert checking.faults(path)
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as whole:
        whole.comment = SENTENCE.encode()
    assert any("bytes belong to no file" in fault for fault in checking.faults(path))
    with zipfile.ZipFile(path, "w") as whole:  # in the fields beside a file's name
        for name, content in sorted(inside(made[1]).items()):
            entry = zipfile.ZipInfo(name)
            entry.comment = extra if name == "claims.json" else b""
            whole.writestr(entry, content)
    assert any("bytes belong to no file" in fault for fault in checking.faults(path))


def test_a_bomb_is_not_unpacked(made, tmp_path):
    files = inside(made[1]) | {"claims.json": b"0" * 10_000_000}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    assert any("compressed" in fault for fault in checking.faults(tmp_path / "bomb.zip"))
    data = bytearray(made[1].read_bytes())  # a file that says to be larger than the archive
    size = len(inside(made[1])["claims.json"]).to_bytes(4, "little")
    for at in (data.find(size), data.rfind(size)):
        data[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "lies.zip").write_bytes(data)
    assert any("larger than itself" in fault for fault in checking.faults(tmp_path / "lies.zip"))


def test_a_link_is_no_file(made, tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as new:
        for name, data in sorted(inside(made[1]).items()):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o120777 << 16
            new.writestr(entry, data)
    assert any("belong to no file" in fault for fault in checking.faults(tmp_path / "link.zip"))


def test_commands(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SERLIB_HOME", str(made[1].parent))
    out = tmp_path / "mine.zip"
    assert cli.main(["archive", "make", "--out", str(out), "--of", HELPS]) == 0
    assert "4 runs, 1 claims" in capsys.readouterr().out
    assert cli.main(["archive", "check", str(out)]) == 0
    out.write_bytes(out.read_bytes()[:-1])
    assert cli.main(["archive", "check", str(out)]) == 1
    assert "no whole zip" in capsys.readouterr().err
    assert cli.main(["archive", "make", "--out", str(out), "--profile", "smoke"]) == 1
    assert "no claim is decided by finished runs at profile smoke" in capsys.readouterr().err


def test_metrics_of_sums_are_those_of_the_ledger():
    from serbook.claims import rules

    assert rules.METRICS - {"micro_f1"} <= set(METRICS) | set(sums.RATIOS) | set(
        attributes.MEASURES
    )
