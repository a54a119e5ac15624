"""Losses, targets, answers and scores of several tasks, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from serlib.data import text
from serlib.data.batching import Batch
from serlib.losses import classification
from serlib.losses.classification import IGNORE
from serlib.losses.ctc import ctc_loss
from serlib.metrics import recognition
from serlib.models.heads import RecurrentHead
from serlib.tasks.answers import task_answers, task_ratio, task_scores
from serlib.tasks.loss import LossConfig, gradient_cosine, task_losses, total_loss
from serlib.tasks.targets import speaker_names, task_targets

ALL = ("emotion", "gender", "speaker", "asr")

# ---- weights ------------------------------------------------------------------------------------


def test_weights_of_the_added_and_the_shared_total():
    added = LossConfig(alpha=0.2, alpha_speaker=0.5)
    assert added.task_weights(ALL) == {"emotion": 1, "gender": 0.2, "speaker": 0.5, "asr": 0.2}
    shared = LossConfig(alpha=0.2, total="shared").task_weights(ALL)
    assert shared == pytest.approx({"emotion": 0.4, "gender": 0.2, "speaker": 0.2, "asr": 0.2})
    assert LossConfig(alpha=0.2, alpha_speaker=0.0).task_weights(ALL)["speaker"] == 0
    assert LossConfig(alpha=0.9, total="shared").task_weights(("emotion",)) == {"emotion": 1}
    assert LossConfig(alpha=0.9).task_weights(("asr",)) == {"asr": 1}  # a task on its own


def test_three_shared_tasks_bound_alpha_by_a_third():
    assert LossConfig(alpha=0.333, total="shared").task_weights(ALL)["emotion"] > 0
    for alpha in (0.334, 0.5, 1.0):
        with pytest.raises(ValueError, match="below 1/3"):
            LossConfig(alpha=alpha, total="shared").task_weights(ALL)
    assert LossConfig(alpha=0.5).task_weights(ALL)["emotion"] == 1  # added: no bound


@pytest.mark.parametrize(
    "change",
    [{"alpha": -0.1}, {"alpha_speaker": -1.0}, {"weights": "sqrt"}, {"total": "x"}, {"ctc": "x"}],
)
def test_settings_that_cannot_be_meant_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        LossConfig(**change)


# ---- targets ------------------------------------------------------------------------------------


def table() -> pd.DataFrame:
    rows = [
        ("Ses01F_a", "train", "ann", "female", "all right"),
        ("Ses01M_a", "train", "bob", "male", "7 up"),
        ("Ses01F_b", "train", "bob", None, None),
        ("Ses01M_b", "train", None, "female", "[LAUGHTER]"),
        ("Ses02F_a", "dev", "ann", "male", "ok"),
        ("Ses02M_a", "test", "eve", "unknown", "so"),
    ]
    return pd.DataFrame(rows, columns=["utt_id", "role", "speaker", "gender", "text"])


def test_targets_by_hand():
    found, names = task_targets(table(), ALL)
    assert names == ["ann", "bob"]  # eve is only tested
    assert found["gender"].tolist() == [0, 1, IGNORE, 0, 1, IGNORE]
    assert found["speaker"].tolist() == [0, 1, 1, IGNORE, 0, IGNORE]
    assert found["n_tokens"].tolist() == [9, 0, 0, 0, 2, 2]
    assert text.decode(found["tokens"][0]) == "ALL RIGHT" and (found["tokens"][1] == 0).all()
    assert task_targets(table(), ("emotion",)) == ({}, [])
    assert set(task_targets(table(), ("emotion", "asr"))[0]) == {"tokens", "n_tokens"}


def test_prefixes_name_who_wore_the_markers():
    names = speaker_names(table(), "prefix").tolist()
    assert names == ["Ses01F", "Ses01M", "Ses01F", "Ses01M", "Ses02F", "Ses02M"]
    found, known = task_targets(table(), ("speaker",), "prefix")
    assert known == ["Ses01F", "Ses01M"]
    assert found["speaker"].tolist() == [0, 1, 0, 1, IGNORE, IGNORE]


def many() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    role = np.repeat(["train", "dev", "test"], [200, 50, 50])
    speaker = np.where(role == "train", rng.choice(list("abcd"), 300), rng.choice(list("xy"), 300))
    return pd.DataFrame({"utt_id": "u", "role": role, "speaker": speaker})


def test_shuffled_speakers_keep_each_parts_counts_and_say_nothing():
    df = many()
    shuffled = speaker_names(df, "shuffled", seed=1)
    assert list(shuffled.index) == list(df.index)
    for role, rows in df.groupby("role"):
        counts = shuffled[rows.index].value_counts()
        assert counts.to_dict() == rows["speaker"].value_counts().to_dict(), role
    same = (shuffled == df["speaker"])[df["role"] == "train"].mean()
    assert 0.1 < same < 0.4  # a quarter by chance
    true, names = task_targets(df, ("speaker",))
    control, control_names = task_targets(df, ("speaker",), "shuffled", 1)
    assert names == control_names == list("abcd")
    np.testing.assert_array_equal(
        np.bincount(true["speaker"][:200]), np.bincount(control["speaker"][:200])
    )


def test_shuffling_depends_on_the_seed_alone():
    df = many()
    first = speaker_names(df, "shuffled", seed=1)
    np.random.seed(5)
    assert first.equals(speaker_names(df, "shuffled", seed=1))
    assert not first.equals(speaker_names(df, "shuffled", seed=2))


def test_speaker_labels_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="speaker_labels='random'"):
        speaker_names(table(), "random")


# ---- losses -------------------------------------------------------------------------------------


class Linear(nn.Module):
    """One "encoder" layer and a head per task, on frames (B, T, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 4)
        sizes = {"emotion": 3, "gender": 2, "speaker": 5, "asr": 6}
        self.heads = nn.ModuleDict({task: nn.Linear(4, n) for task, n in sizes.items()})
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        frames = self.dropout(self.encoder(batch.inputs))
        outputs = {"asr": self.heads["asr"](frames), "asr_lengths": batch.lengths}
        for task in ALL[:3]:
            outputs[task] = self.heads[task](frames.mean(1))
        return outputs

    def encoder_parameters(self):
        return self.encoder.parameters()


def batch_of(**changes) -> Batch:
    generator = torch.Generator().manual_seed(1)
    extra = {
        "gender": torch.tensor([0, 1, 1, IGNORE]),
        "speaker": torch.tensor([4, IGNORE, 0, 2]),
        "tokens": torch.tensor([[1, 2, 2], [3, 0, 0], [0, 0, 0], [5, 4, 0]]),
        "n_tokens": torch.tensor([3, 1, 0, 2]),
    }
    return Batch(
        inputs=torch.randn(4, 6, 3, generator=generator),
        lengths=torch.tensor([6, 4, 5, 6]),
        emotion=torch.tensor([0, 2, 1, 2]),
        keys=list("abcd"),
        index=torch.arange(4),
        seconds=4.0,
        extra=extra | changes,
    )


COUNTS = np.array([6, 3, 1])


def by_hand(outputs, batch) -> dict[str, torch.Tensor]:
    found = {"emotion": nn.functional.cross_entropy(outputs["emotion"], batch.emotion)}
    for task in ("gender", "speaker"):
        found[task] = nn.functional.cross_entropy(outputs[task], batch.extra[task])
    found["asr"] = ctc_loss(
        outputs["asr"], batch.lengths, batch.extra["tokens"], batch.extra["n_tokens"]
    )
    return found


def test_the_total_by_hand():
    model, batch = Linear().eval(), batch_of()
    outputs = model(batch)
    each = by_hand(outputs, batch)
    added = total_loss(LossConfig(alpha=0.2, alpha_speaker=0.5), ALL, COUNTS)
    expected = each["emotion"] + 0.2 * (each["gender"] + each["asr"]) + 0.5 * each["speaker"]
    torch.testing.assert_close(added(outputs, batch), expected)
    shared = total_loss(LossConfig(alpha=0.3, total="shared"), ALL, COUNTS)
    rest = each["gender"] + each["asr"] + each["speaker"]
    torch.testing.assert_close(shared(outputs, batch), 0.1 * each["emotion"] + 0.3 * rest)
    alone = total_loss(LossConfig(), ("speaker",), COUNTS)
    torch.testing.assert_close(alone(outputs, batch), each["speaker"])


def test_settings_of_the_emotion_and_of_ctc_reach_their_losses():
    batch = batch_of()
    outputs = Linear().eval()(batch)
    logits, target = outputs["emotion"], batch.emotion
    weight = classification.inverse_frequency_weights(COUNTS)
    balanced = classification.class_balanced_weights(COUNTS, 0.9)
    for change, expected in (
        ({"gamma": 2.0}, classification.focal(logits, target, gamma=2.0)),
        (
            {"weights": "inverse_frequency"},
            classification.cross_entropy(logits, target, weight=weight),
        ),
        (
            {"weights": "effective_number", "beta": 0.9, "gamma": 1.0},
            classification.focal(logits, target, gamma=1.0, weight=balanced),
        ),
    ):
        terms = task_losses(LossConfig(**change), ALL, COUNTS)
        torch.testing.assert_close(terms["emotion"](outputs, batch), expected)
    values = [
        task_losses(LossConfig(ctc=ctc), ALL, COUNTS)["asr"](outputs, batch).item()
        for ctc in ("clips", "sum")
    ]
    assert values[1] == pytest.approx(3 * values[0])  # three clips have a transcript


@pytest.mark.parametrize("off", ["gender", "speaker", "asr"])
def test_a_task_of_weight_zero_trains_nothing_even_if_its_loss_is_nan(off):
    class Broken(LossConfig):
        def task_weights(self, names):
            return super().task_weights(names) | {off: 0.0}

    batch = batch_of()
    gradients = []
    for spoiled in (False, True):
        model = Linear().eval()
        if spoiled:
            nn.init.constant_(model.heads[off].weight, math.nan)
        total_loss(Broken(alpha=0.5), ALL, COUNTS)(model(batch), batch).backward()
        assert all(p.grad is None for p in model.heads[off].parameters())
        gradients.append([p.grad for n, p in model.named_parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


MISSING = {
    "gender": {"gender": torch.full((4,), IGNORE)},
    "speaker": {"speaker": torch.full((4,), IGNORE)},
    "asr": {"n_tokens": torch.zeros(4, dtype=torch.long)},
}


@pytest.mark.parametrize("task", MISSING)
def test_a_batch_that_lacks_all_labels_of_a_task_leaves_the_others_as_they_are(task):
    results = []
    for batch in (batch_of(), batch_of(**MISSING[task])):
        model = Linear().eval()
        outputs = model(batch)
        terms = task_losses(LossConfig(), ALL, COUNTS)
        rows = {}
        for name, term in terms.items():
            value = term(outputs, batch)
            parameters = [*model.encoder.parameters(), *model.heads[name].parameters()]
            rows[name] = value, *torch.autograd.grad(value, parameters, retain_graph=True)
        results.append(rows)
    for name in ALL:
        full, lacking = results[0][name], results[1][name]
        assert all(x.isfinite().all() for x in lacking)
        if name == task:
            assert full[0] > 0 and all((x == 0).all() for x in lacking)
        else:
            assert all(torch.equal(x, y) for x, y in zip(full, lacking, strict=True))


def test_a_clip_without_a_label_counts_for_its_other_tasks():
    """The speaker of clip 1 and the gender of clip 3 are unknown."""
    outputs = Linear().eval()(batch_of())
    terms = task_losses(LossConfig(), ALL, COUNTS)
    for task, kept in (("gender", [0, 1, 2]), ("speaker", [0, 2, 3])):
        expected = nn.functional.cross_entropy(outputs[task][kept], batch_of().extra[task][kept])
        torch.testing.assert_close(terms[task](outputs, batch_of()), expected)


# ---- answers and scores -------------------------------------------------------------------------


def test_answers_by_hand():
    o = text.ALPHABET.index("O")
    heard = [[7, 7, 0, 24, 24], [o, o, o, 7, 7]]  # of the second clip, two frames are padding
    outputs = {
        "emotion": torch.zeros(2, 3),
        "gender": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "speaker": torch.tensor([[0.0, 1.0, 5.0], [3.0, 1.0, 2.0]]),
        "asr": nn.functional.one_hot(torch.tensor(heard), 32).float(),
        "asr_lengths": torch.tensor([5, 3]),
    }
    extra = {
        "gender": torch.tensor([0, IGNORE]),
        "speaker": torch.tensor([2, 1]),
        "tokens": torch.tensor([[7, 24], [10**6, -1]]),  # the second clip's are padding
        "n_tokens": torch.tensor([2, 0]),
    }
    batch = Batch(torch.zeros(2, 5), torch.tensor([5, 3]), torch.zeros(2), list("ab"),
                  torch.arange(2), 1.0, extra)  # fmt: skip
    assert task_answers(outputs, batch) == {
        "gender": [0, 1], "gender_truth": [0, IGNORE],
        "speaker_id": [2, 0], "speaker_id_truth": [2, 1],
        "hypothesis": ["AB", "O"], "reference": ["AB", ""],
    }  # fmt: skip
    unlabeled = Batch(*(getattr(batch, n) for n in "inputs lengths emotion keys index".split()), 1)
    assert set(task_answers(outputs, unlabeled)) == {"gender", "speaker_id", "hypothesis"}
    assert task_answers({"emotion": torch.zeros(2, 3)}, batch) == {}


def answered() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "gender": [0, 1, 1, 0], "gender_truth": [0, 0, IGNORE, 0],
            "speaker_id": [3, 3, 3, 3], "speaker_id_truth": [IGNORE] * 4,
            "reference": ["A BEE SEES", "", "SO", "NULL"],
            "hypothesis": ["A SEA", "NOISE", "SO SO", "NULL"],
        }
    )  # fmt: skip


def test_ratios_and_scores_by_hand():
    df = answered()
    expected = {
        "gender": ([1, 0, 0, 1], [1, 1, 0, 1]),
        "speaker": ([0, 0, 0, 0], [0, 0, 0, 0]),
        "wer": ([2, 0, 1, 0], [3, 0, 1, 1]),  # BEE -> SEA, SEES gone; one SO too many
    }
    for metric, parts in expected.items():
        assert [x.tolist() for x in task_ratio(df, metric)] == [*parts], metric
    wrong, units = task_ratio(df, "cer")
    known = df[df["reference"] != ""]
    assert units.tolist() == [10, 0, 2, 4]
    scores = task_scores(df)
    assert scores.keys() == {"wer", "cer", "gender"}  # no speaker is known
    assert scores["gender"] == pytest.approx(2 / 3) and scores["wer"] == pytest.approx(3 / 5)
    cer = recognition.cer(known["reference"].tolist(), known["hypothesis"].tolist())
    assert scores["cer"] == pytest.approx(cer) == pytest.approx(wrong.sum() / 16)
    assert task_scores(df[["gender"]]) == {}


@pytest.mark.parametrize("metric", ["wer", "cer", "gender", "speaker", "ua", "nonsense"])
def test_a_ratio_needs_its_columns(metric):
    with pytest.raises(ValueError, match=f"no answers for '{metric}'"):
        task_ratio(pd.DataFrame({"truth": [0], "prediction": [0]}), metric)


# ---- gradients of the tasks ---------------------------------------------------------------------


class Directions(nn.Module):
    """Two encoder weights w; the gradient of task k's loss is the vector that it is given."""

    def __init__(self, gradients: dict) -> None:
        super().__init__()
        self.encoder = nn.Parameter(torch.tensor([0.3, -0.7]))
        self.head = nn.Parameter(torch.ones(()))
        self.gradients = {task: torch.tensor(g) for task, g in gradients.items()}
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        assert not self.training
        scale = batch.inputs.sum()
        return {t: scale * (g @ self.encoder) * self.head for t, g in self.gradients.items()}

    def encoder_parameters(self):
        return [self.encoder]


def test_cosines_of_known_gradients():
    model = Directions(
        {"emotion": [1.0, 2.0], "gender": [2.0, 4.0], "speaker": [2.0, -1.0], "asr": [-0.5, -1.0]}
    ).train()
    terms = {task: (lambda outputs, batch, task=task: outputs[task]) for task in ALL}
    found = gradient_cosine(model, terms, [batch_of(), batch_of()])
    assert found == pytest.approx(
        {
            "cosine_gender": 1, "cosine_speaker": 0, "cosine_asr": -1,
            "gender_ratio": 2, "speaker_ratio": 1, "asr_ratio": 0.5,
        }, abs=1e-6,
    )  # fmt: skip


def test_gradients_are_summed_over_the_batches_before_the_angle():
    model = Linear()
    terms = task_losses(LossConfig(), ALL, COUNTS)
    one, two = batch_of(), batch_of(**MISSING["gender"])
    total = {task: torch.zeros(16) for task in ALL}
    model.eval()
    for batch in (one, two):
        for task, term in terms.items():
            parts = torch.autograd.grad(term(model(batch), batch), list(model.encoder_parameters()))
            total[task] += torch.cat([g.flatten() for g in parts])
    found = gradient_cosine(model, terms, [one, two])
    for task in ALL[1:]:
        a, b = total["emotion"].double(), total[task].double()
        cosine = float(a @ b / a.norm() / b.norm())
        assert found[f"cosine_{task}"] == pytest.approx(cosine, abs=1e-5)
        assert found[f"{task}_ratio"] == pytest.approx(float(b.norm() / a.norm()), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_looking_at_gradients_leaves_the_model_as_it_was(training):
    model, batch = Linear().train(training), batch_of()
    model.heads["gender"].eval()  # a part that stays in eval mode while others train
    modes = [module.training for module in model.modules()]
    model.encoder.bias.grad = torch.full((4,), 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    terms = task_losses(LossConfig(), ALL, COUNTS)
    with torch.no_grad():  # as during an evaluation
        first = gradient_cosine(model, terms, [batch])
        assert first == gradient_cosine(model, terms, [batch])  # without dropout
    assert [module.training for module in model.modules()] == modes
    assert (model.encoder.bias.grad == 7).all()
    assert all(p.grad is None for n, p in model.named_parameters() if n != "encoder.bias")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_frozen_encoder_has_no_gradients_to_compare():
    model = Linear()
    model.encoder.requires_grad_(False)
    assert gradient_cosine(model, task_losses(LossConfig(), ALL, COUNTS), []) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_through_a_recurrent_head_on_a_gpu():
    model, batch = Linear(), batch_of()
    model.heads["asr"] = RecurrentHead(4, 4, 6)
    terms = task_losses(LossConfig(), ALL, COUNTS)
    expected = gradient_cosine(model, terms, [batch])
    assert gradient_cosine(model.cuda(), terms, [batch]) == pytest.approx(expected, abs=1e-3)
