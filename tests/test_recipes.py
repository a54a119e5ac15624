"""Recipes: what they say, how they change, and what they refuse."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from serlib import records, settings
from serlib.corpora.demo import corpus
from serlib.data import manifest, splits, tables
from serlib.experiments import dataset, experiment
from serlib.recipes import papers
from serlib.recipes.recipe import PROFILES, RecipeError


def test_the_papers_values():
    cai = papers.cai2021("full", data_root="/data")
    assert (cai.model.encoder, cai.model.pooling, cai.model.head) == (
        "facebook/wav2vec2-base", "mean", "linear",
    )  # fmt: skip
    assert (cai.train.epochs, cai.train.lr_encoder, cai.train.warmup) == (100, 1e-5, 0.1)
    assert cai.max_clips * cai.train.accumulate == 8 and cai.protocol == "usual"
    wang = papers.wang2025_baseline("full", data_root="/data")
    assert wang.model.encoder == "microsoft/wavlm-large" and wang.model.pooling == "attentive"
    assert (wang.max_clips, wang.train.epochs, wang.train.lr_encoder) == (16, 60, 1e-5)
    base = papers.challenge_baseline("full", data_root="/data")
    assert base.max_clips * base.train.accumulate == 32 and base.train.epochs == 20
    assert (base.max_seconds, base.loss.weights, base.model.dropout, base.model.hidden) == (
        12.0, "inverse_frequency", 0.5, 1024,
    )  # fmt: skip


def test_the_papers_multi_task_values():
    at = dict(data_root="/data")
    assert papers.cai2021("full", **at).train.lr_encoder == 1e-5  # the paper's, for α = 0
    cai = papers.cai2021("full", alpha=0.1, **at)
    assert (cai.train.lr_encoder, cai.train.lr_head) == (5e-5, 5e-5)
    assert (cai.model.tasks, cai.loss.alpha) == (("emotion", "asr"), 0.1)
    assert (cai.loss.total, cai.loss.ctc) == ("added", "sum")
    chen = papers.mtlser2025("full", alpha_speaker=0.3, **at)
    assert chen.model.tasks == ("emotion", "asr", "speaker")
    assert chen.loss.task_weights(chen.model.tasks) == {"emotion": 1, "asr": 0.1, "speaker": 0.3}
    assert (chen.train.warmup, chen.train.lr_encoder, chen.train.epochs) == (0, 5e-5, 100)
    assert chen.max_clips * chen.train.accumulate == 8
    wang, base = papers.wang2025("full", **at), papers.wang2025_baseline("full", **at)
    weights = wang.loss.task_weights(wang.model.tasks)
    assert weights == pytest.approx({"emotion": 0.7, "gender": 0.1, "speaker": 0.1, "asr": 0.1})
    assert (wang.model.co_attention, wang.model.layers, wang.loss.ctc) == (
        "concat", "weighted", "characters",
    )  # fmt: skip
    assert wang.train == base.train and wang.model.hidden == base.model.hidden


@pytest.mark.parametrize(
    "make",
    [
        papers.cai2021, papers.mtlser2025, papers.wang2025_baseline, papers.wang2025,
        papers.challenge_baseline,
    ],
)  # fmt: skip
def test_a_profile_changes_data_encoder_and_scale_only(make):
    full, demo, smoke = (make(p, data_root="/d" * (p == "full")) for p in ("full", "demo", "smoke"))
    parts = "tasks pooling layers head co_attention masked_pooling masked_encoder".split()
    for part in parts:
        assert getattr(full.model, part) == getattr(demo.model, part)
    assert replace(full.loss, ctc=demo.loss.ctc) == demo.loss == smoke.loss
    assert asdict(smoke) == asdict(demo.change(profile="smoke", epochs=1))


def test_changes_reach_inside_and_leave_the_original():
    recipe = papers.cai2021("demo")
    changed = recipe.change(pooling="sum", lr_head=1e-4, gamma=2.0, seed=3, name="x")
    assert (changed.model.pooling, changed.train.lr_head, changed.loss.gamma) == ("sum", 1e-4, 2.0)
    assert (changed.seed, recipe.model.pooling) == (3, "mean")
    with pytest.raises(RecipeError, match="a recipe has no 'learning_rate'"):
        recipe.change(learning_rate=1)


def test_vary_is_the_whole_grid():
    grid = papers.cai2021("demo").vary(pooling=["mean", "sum"], seed=[0, 1, 2])
    assert [(r.model.pooling, r.seed) for r in grid] == [
        (p, s) for p in ("mean", "sum") for s in (0, 1, 2)
    ]


NAN = float("nan")
IMPOSSIBLE = {  # what each may not be, by hand
    "profile": ["fast", None, 1], "system": ["svmm", "forest"], "weights": ["sqrt"],
    "protocol": ["talkers"], "speaker_labels": ["faces"], "tasks": [("emotoin",), "emotion", ()],
    "classes": [("anger",), "anger", ("angr", "joy"), 5, ("anger", "anger")], "merge": [("a", "b")],
    "alpha": ["abc", -1, NAN, float("inf"), 10**400, True, None], "gamma": [-1.0], "tau": [0],
    "epochs": [0, -3, 1.5, "three", True], "lr_head": ["x", -1, NAN], "warmup": [1.0, -0.1],
    "clip": [0, NAN], "precision": ["fp17"], "schedule": ["none"], "budget_seconds": [0, NAN],
    "max_clips": [0, 2.5], "max_seconds": [0, -1.0], "fold": [-1, 0.5],
    "seed": [-1, 2**32, "[", 0.0],
    "pooling": ["meen"], "layers": [0, "²", "all"], "head": ["lstm"], "dropout": [1.0, -0.1],
    "hidden": [0], "freeze": ["half"], "n_layers": [0], "lora": [-1], "n_classes": [1, 9, 4.0],
    "select": ["f1", "both", "ccc", "wre", 1], "name": [7], "data_root": [1], "model": ["x"],
    "patience": [0], "start": ["x"], "transcript": ["heard"], "diagnose": ["no", 1],
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_meant_is_refused_where_a_recipe_is_made(name):
    for value in IMPOSSIBLE[name]:
        with pytest.raises(settings.SettingError) as caught:
            papers.wang2025_baseline(**{name: value})
        told = str(caught.value)
        assert name in told and "\n" not in told and caught.value.exit_code == 2, told
        assert re.search("expected|choose|with a|each once|n_classes", told), told


def test_a_word_that_is_not_known_is_told_with_those_that_are():
    with pytest.raises(settings.SettingError, match="pooling='meen', expected one of mean, sum, a"):
        papers.cai2021(pooling="meen")
    with pytest.raises(settings.SettingError, match="expected a tuple such as .'emotion', 'gender"):
        papers.cai2021(tasks="emotion")
    with pytest.raises(settings.SettingError, match="wa, ua, macro_f1, ece, wer, cer, last"):
        papers.cai2021(select="f1")


def test_a_number_has_the_type_of_its_field():
    """So that 1 and 1.0, of Python or of NumPy, name one run."""
    odd = papers.cai2021(alpha=np.int64(1), epochs=np.int32(2), classes=["anger", "fear"])
    same = papers.cai2021(alpha=1.0, epochs=2, classes=("anger", "fear"))
    assert records.digest(odd) == records.digest(same)
    assert (type(odd.loss.alpha), type(odd.train.epochs), type(odd.classes)) == (float, int, tuple)


@pytest.mark.parametrize("alpha", [1 / 3, 0.5])
def test_shares_that_leave_nothing_to_the_emotion_are_refused_at_once(alpha):
    with pytest.raises(settings.SettingError, match="alpha must be below 1/3"):
        papers.wang2025(alpha=alpha)


def test_a_grid_is_no_text():
    """Stock papermill hands on `-p seeds "[0]"` as a text."""
    with pytest.raises(RecipeError, match=r"seed='\[0\]' is a text, expected a list such as"):
        papers.cai2021().vary(seed="[0]")


def test_floors_share_the_data_of_the_recipes():
    floor, wang = papers.floor("svm"), papers.wang2025_baseline("demo")
    assert (floor.classes, floor.protocol, floor.corpus) == (wang.classes, wang.protocol, "demo")


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_mtlser_has_its_own_rate_at_every_alpha(alpha):
    recipe = papers.mtlser2025("full", data_root="/data", alpha=alpha)
    train = recipe.train
    assert (train.lr_encoder, train.lr_head, train.warmup) == (5e-5, 5e-5, 0.0)  # the script's


def test_the_fusion_papers_values():
    at = dict(data_root="/data")
    one = papers.zgorzynski2025("full", **at)
    assert one.model.experts == (
        "openai/whisper-large-v3", "microsoft/wavlm-large", "FacebookAI/roberta-large",
    )  # fmt: skip
    assert one.model.tasks == ("emotion", "attributes") and one.model.fusion == "lstm"
    assert (one.loss.weights, one.loss.attributes, one.start) == ("inverse_frequency", "mse", None)
    assert one.loss.task_weights(one.model.tasks) == {"emotion": 1.0, "attributes": 1.0}
    two = papers.zgorzynski2025("full", phase="emotion", **at)
    assert two.start == one and two.model == replace(one.model, tasks=("emotion",))
    assert (two.loss.weights, two.loss.gamma, two.train.select) == ("none", 0.0, "macro_f1")
    three = papers.zgorzynski2025("full", phase="attributes", **at)
    assert three.start == one and three.model.tasks == ("attributes",)
    assert (three.loss.attributes, three.loss.sigma, three.train.select) == ("gaussian", 1.0, "ccc")
    assert three.loss.task_weights(three.model.tasks) == {"attributes": 1.0}
    with pytest.raises(RecipeError, match="'second' is not one of multitask"):
        papers.zgorzynski2025(phase="second")


@pytest.mark.parametrize("phase", papers.PHASES)
def test_a_profile_of_the_fusion_changes_data_encoders_and_scale_only(phase):
    full = papers.zgorzynski2025("full", data_root="/d", phase=phase)
    demo, smoke = (papers.zgorzynski2025(p, phase=phase) for p in ("demo", "smoke"))
    for part in "tasks fusion bidirectional dense dropout tuned freeze".split():
        assert getattr(full.model, part) == getattr(demo.model, part)
    assert full.loss == demo.loss == smoke.loss and full.train.select == demo.train.select
    same = demo.change(profile="smoke", epochs=1)
    if same.start is not None:
        same = replace(same, start=same.start.change(epochs=1))
    assert asdict(smoke) == asdict(same)


def test_what_two_phases_share_is_changed_in_both():
    two = papers.zgorzynski2025(phase="attributes")
    new = two.change(seed=3, experts=("demo-wavlm",), fusion="concat", fold=2)
    for recipe in (new, new.start):
        assert (recipe.seed, recipe.fold) == (3, 2)
        assert (recipe.model.experts, recipe.model.fusion) == (("demo-wavlm",), "concat")
    own = two.change(
        epochs=9, sigma=2.0, lr_head=0.1, name="x", tasks=("emotion",), select="macro_f1"
    )
    assert own.start == two.start == papers.zgorzynski2025()
    tuned = two.change(tuned=("demo-wavlm",), freeze="none")
    assert tuned.start == two.start
    assert two.change(start=None, seed=1).start is None
    assert [r.start.seed for r in two.vary(seed=[0, 4])] == [0, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(system="fine-tune"), "with a FusionConfig"),
        (dict(transcript="guessed"), "transcript='guessed', expected one of manifest"),
        (dict(transcript="recognized"), "come together"),
        (dict(recognizer=papers.cai2021()), "come together"),
        (dict(start=papers.cai2021()), "a fusion cannot start from a fine-tune"),
    ],
)
def test_parts_of_a_fusion_that_do_not_go_together_are_refused(wrong, message):
    with pytest.raises(settings.SettingError, match=message):
        replace(papers.zgorzynski2025(), **wrong)
    with pytest.raises(RecipeError, match="needs system='fusion'"):
        papers.cai2021().change(transcript="none")
    with pytest.raises(RecipeError, match="with a ModelConfig"):
        papers.cai2021().change(system="fusion")


# ------------------------------------------------------------------- a corpus of the reader's own


@pytest.fixture
def own(tmp_path):
    """A function that writes some rows as a reader's manifest and returns a recipe's arguments."""

    def write(df, name="own"):
        tables.write(df[::2].reset_index(drop=True), tmp_path / f"{name}.csv")
        return dict(corpus=name, data_root=str(tmp_path))

    return write


def renamed(df, **emotions):
    return df.assign(emotion=df["emotion"].replace(emotions))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_corpus_is_taken_in_every_profile(profile, own):
    at = own(corpus.load())
    for make in (papers.cai2021, papers.wang2025, papers.challenge_baseline,
                 papers.mtlser2025, papers.zgorzynski2025):  # fmt: skip
        recipe = make(profile, **at)
        assert (recipe.corpus, recipe.protocol) == ("own", "usual")
        assert recipe.model.n_classes == len(recipe.classes)
        assert dataset.locate(recipe)[1] == dataset.locate(make("full", **at))[1]
    assert papers.cai2021(profile, **at).classes == manifest.CLASSES_4
    assert papers.cai2021(profile, **at).merge == papers.IEMOCAP_MERGE
    assert papers.wang2025(profile, **at).classes == manifest.CLASSES_8
    assert papers.floor("svm", profile, **at).classes == manifest.CLASSES_8
    path = str(own(corpus.load(), "other")["data_root"]) + "/other.csv"
    assert papers.cai2021(profile, path, at["data_root"]).corpus == path


def test_the_demo_corpus_by_name_is_the_demo_corpus():
    for make in (papers.cai2021, papers.wang2025_baseline, papers.zgorzynski2025):
        assert make("demo", "demo") == make("demo") and make("demo").protocol == "official"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_class_that_cannot_be_learned_is_left_out_and_named_once(profile, own, capsys):
    at = own(renamed(corpus.load(), contempt="frustration"), f"without-{profile}")
    asked = papers.wang2025_baseline(profile, **at)
    assert asked.classes == manifest.CLASSES_8 and capsys.readouterr().out == ""
    recipe = dataset.taught(asked)
    seven = tuple(c for c in manifest.CLASSES_8 if c != "contempt")
    assert recipe.classes == seven and recipe.model.n_classes == 7
    assert recipe == asked.change(classes=seven) == dataset.taught(recipe)
    assert dataset.taught(papers.wang2025(profile, **at).change(seed=1)).classes == seven
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"without-{profile}: no contempt to train on; the classes are {', '.join(seven)}",
        f"without-{profile}: no_agreement 138, frustration 46 of 1600 utterances left out: not "
        f"among the classes {', '.join(seven)} (a recipe's `classes` names others)",
    ]
    table = dataset.assign(dataset.in_folds(recipe)[0], dataset.locate(recipe)[0])
    assert set(table["label"]) == set(range(7)) or profile == "smoke"  # its slice is small
    with_it = papers.wang2025_baseline(profile, **own(corpus.load(), "with"))
    assert dataset.taught(with_it) == with_it and with_it.classes == manifest.CLASSES_8


def test_what_a_recipe_builds_on_learns_the_same_classes(own):
    at = own(renamed(corpus.load(), contempt="frustration"), "without")
    seven = tuple(c for c in manifest.CLASSES_8 if c != "contempt")
    second = dataset.taught(papers.zgorzynski2025("demo", phase="emotion", **at))
    assert second.classes == second.start.classes == seven
    assert second.model.n_classes == second.start.model.n_classes == 7
    heard = papers.zgorzynski2025("demo", **at).change(
        transcript="recognized", recognizer=papers.wang2025("demo", **at)
    )
    heard = dataset.taught(heard)
    assert heard.classes == heard.recognizer.classes == seven


def test_the_name_of_a_run_is_that_of_the_classes_that_are_taught(own):
    recipe = papers.floor("svm", "demo", **own(renamed(corpus.load(), contempt="other"), "without"))
    assert experiment.identity(recipe) == experiment.identity(dataset.taught(recipe))
    assert "contempt" not in experiment.identity(recipe)[1]["recipe"]["classes"]


def test_a_recipe_reads_no_file(monkeypatch):
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr(tables, "read", None)
    for make in (papers.cai2021, papers.mtlser2025, papers.wang2025_baseline, papers.wang2025,
                 papers.challenge_baseline, papers.zgorzynski2025):  # fmt: skip
        for profile in PROFILES:
            make(profile, "nowhere", "/no/such/folder").change(seed=1)


def test_a_class_of_test_alone_is_none_to_learn(own):
    df = corpus.load()
    only_test = df["emotion"].mask((df["emotion"] == "fear") & (df["split"] != "test"))
    asked = papers.wang2025_baseline("demo", **own(df.assign(emotion=only_test), "fearless"))
    recipe = dataset.taught(asked)
    assert "fear" not in recipe.classes and len(recipe.classes) == 7
    # Folds of the corpus's own train on each utterance once: a rare class is one in all of them.
    folds = df.assign(emotion=only_test, split=None)
    asked = papers.wang2025_baseline("demo", **own(folds, "folds"))
    assert "fear" in dataset.taught(asked).classes


def test_a_corpus_without_two_classes_is_refused(own):
    df = corpus.load().assign(emotion="anger")
    with pytest.raises(RecipeError, match="has anger to train on, of .*two classes"):
        dataset.taught(papers.wang2025_baseline("smoke", **own(df, "angry")))
    with pytest.raises(RecipeError, match="its emotions are boredom"):
        dataset.load(
            papers.wang2025_baseline("smoke", **own(df.assign(emotion="boredom"), "bored"))
        )


def test_the_model_follows_the_classes():
    recipe = papers.wang2025_baseline("demo").change(classes=manifest.CLASSES_4)
    assert recipe.model.n_classes == 4
    fused = papers.zgorzynski2025(phase="emotion").change(classes=manifest.CLASSES_4)
    assert fused.model.n_classes == fused.start.model.n_classes == 4
    with pytest.raises(RecipeError, match="8 classes, but n_classes=9"):
        recipe.change(classes=manifest.CLASSES_8, n_classes=9)


@pytest.mark.parametrize("name", sorted(splits.PROTOCOLS))
def test_a_slice_has_all_roles_with_every_protocol(name):
    df = corpus.load()
    if name == "prefix":
        df = df.assign(utt_id=df["utt_id"].str.replace("-", "_"))
    if name == "speaker":  # the demo corpus's groups are pairs of speakers
        df = df.assign(group=df["speaker"])
    recipe = papers.wang2025_baseline("smoke").change(
        protocol=name, allow_leaks=name in splits.LEAKY
    )
    counts = dataset.assign(recipe, df)["role"].value_counts()
    assert all(20 <= counts[role] <= n for role, n in dataset.SMOKE.items()), counts
