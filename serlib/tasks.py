"""The five tasks: what each asks of an utterance, how it is trained, how its answers are scored.

==========  ==================  ==========================  =====================================
task        target              loss                        answers
==========  ==================  ==========================  =====================================
emotion     class number        cross-entropy or focal      class, probabilities
gender      0 female, 1 male    cross-entropy               ``gender``
speaker     talker of training  cross-entropy               ``speaker_id``
asr         characters          CTC                         ``hypothesis``, a text
attributes  3 numbers, 1 to 7   MSE, Gaussian or 1 - CCC    ``valence``, ``arousal``, ``dominance``
==========  ==================  ==========================  =====================================

A target that is unknown, for one task, leaves that task without this utterance and the others as
they are. Beside the tasks' losses the contrastive term "swfc" can act on the emotion's features.
Letters: B batch, C classes, S characters, U utterances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from serlib import attributes, losses, regression, text
from serlib.attributes import ATTRIBUTES  # noqa: F401 (part of this module for whoever reads answers)
from serlib.batching import Batch
from serlib.losses import IGNORE

GENDERS = ("female", "male")
WEIGHTS = ("none", "inverse_frequency", "effective_number")
SPEAKER_LABELS = ("true", "prefix", "shuffled")


@dataclass(frozen=True)
class LossConfig:
    """The total loss; terms of weight 0 are not computed.

        added:   L = L_emotion + Σ_k α_k L_k + β L_SWFC                    (Cai 2021, MTLSER 2025)
        shared:  L = (1 - Σ_k α_k) L_emotion + Σ_k α_k L_k + β L_SWFC      (Wang 2025, eq. 1)

    Attributes:
        gamma: Focusing parameter of the emotion's loss; 0 is cross-entropy.
        weights: Class weights from the training counts: "none", "inverse_frequency" N / (C n_c),
            or "effective_number" (Cui et al., 2019).
        beta: Of the effective number.
        alpha: α of every task but the emotion.
        alpha_speaker: α of "speaker"; None takes ``alpha``.
        total: "added" or "shared".
        ctc: What ``losses.ctc`` reduces by: "sum", "clips" or "characters".
        attributes: Loss of the task "attributes", see ``regression``: "mse", "gaussian" or "ccc".
        sigma: σ of "gaussian", in units of the scale.
        detach: Whether "gaussian" treats its weight as a constant.
        alpha_attributes: α of "attributes"; None takes ``alpha``.
        swfc: β of ``losses.swfc``, of a model with the emotion.
        swfc_on: The output that it acts on: "features", which the emotion's last linear layer
            takes, or the pooled "embedding".
        swfc_form: "original", or "printed" as in Wang 2025.
        swfc_gamma: Its γ; MultiEMO's for IEMOCAP, as the next two.
        tau: Its temperature τ.
        swfc_power: The power a of its class weights.
    """

    gamma: float = 0.0
    weights: str = "none"
    beta: float = 0.999
    alpha: float = 0.0
    alpha_speaker: float | None = None
    total: str = "added"
    ctc: str = "clips"
    attributes: str = "mse"
    sigma: float = 1.0
    detach: bool = False
    alpha_attributes: float | None = None
    swfc: float = 0.0
    swfc_on: str = "features"
    swfc_form: str = "original"
    swfc_gamma: float = 2.4
    tau: float = 0.8
    swfc_power: float = 1.1

    def __post_init__(self) -> None:
        """Refuse names that do not exist and negative weights."""
        for name, known in (
            ("weights", WEIGHTS), ("total", ("added", "shared")),
            ("ctc", ("sum", "clips", "characters")), ("attributes", ("mse", "gaussian", "ccc")),
            ("swfc_form", ("original", "printed")), ("swfc_on", ("features", "embedding")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}, expected one of {known}.")
        weights = (self.alpha, self.alpha_speaker, self.alpha_attributes, self.swfc)
        if min(weight or 0 for weight in weights) < 0:
            raise ValueError(
                f"{self.alpha=}, {self.alpha_speaker=}, {self.alpha_attributes=}, {self.swfc=}: "
                "weights are not negative."
            )
        if not (self.sigma > 0 and self.tau > 0 and self.swfc_gamma >= 0 and self.swfc_power >= 0):
            raise ValueError(
                f"{self.sigma=} and {self.tau=} must be positive, {self.swfc_gamma=} and "
                f"{self.swfc_power=} not negative."
            )

    def task_weights(self, tasks: tuple[str, ...]) -> dict[str, float]:
        """The weight of each task's loss, and of "swfc" if it has one.

        Raises:
            ValueError: There is no emotion for "swfc", or the shares leave nothing to the emotion
                (Wang's three tasks bound α by 1/3).

        >>> LossConfig(alpha=0.1, total="shared").task_weights(("emotion", "gender", "asr"))
        {'emotion': 0.8, 'gender': 0.1, 'asr': 0.1}
        """
        weights = {task: self.alpha for task in tasks if task != "emotion"}
        if "speaker" in weights and self.alpha_speaker is not None:
            weights["speaker"] = self.alpha_speaker
        if "attributes" in weights and self.alpha_attributes is not None:
            weights["attributes"] = self.alpha_attributes
        if self.swfc and "emotion" not in tasks:
            raise ValueError(f"{self.swfc=} needs the emotion among the tasks {tasks}.")
        if "emotion" not in tasks:  # an auxiliary task on its own, for comparison
            return dict.fromkeys(tasks, 1.0)
        rest = 1 - sum(weights.values()) if self.total == "shared" else 1.0
        if rest <= 0:
            raise ValueError(
                f"shares {weights} leave {rest:.3g} to the emotion: with {len(weights)} tasks of "
                f"one alpha, alpha must be below 1/{len(weights)}"
            )
        return {"emotion": rest, **weights} | ({"swfc": self.swfc} if self.swfc else {})


def speaker_names(table: pd.DataFrame, labels: str, seed: int = 0) -> pd.Series:
    """What counts as the speaker of each row; None where unknown.

    Args:
        table: A manifest; for "shuffled" with a column ``role``.
        labels: "true": the talker. "prefix": the first part of the utterance's name, as in MTLSER's
            code; on IEMOCAP it says who wore the markers. "shuffled": the talkers of each role,
            dealt to its rows at random: a control with the same counts and no information.
        seed: Of the shuffling.
    """
    if labels not in SPEAKER_LABELS:
        raise ValueError(f"speaker_labels={labels!r}, expected one of {SPEAKER_LABELS}.")
    if labels == "prefix":
        return table["utt_id"].str.split("_").str[0]
    names = table["speaker"].astype(object).where(table["speaker"].notna(), None)
    if labels == "shuffled":
        rng = np.random.default_rng(seed)
        names = names.groupby(table["role"].to_numpy()).transform(rng.permutation)
    return names


def targets(
    table: pd.DataFrame, tasks: tuple[str, ...], speaker_labels: str = "true", seed: int = 0
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Targets of all tasks but the emotion, one per row, and the names of the known speakers.

    Args:
        table: A manifest with a column ``role``; speakers get their numbers from its train rows.
        tasks: See ``model.TASKS``.
        speaker_labels: See ``speaker_names``.
        seed: Of the shuffled ones.

    Returns:
        ``gender`` (U,), ``speaker`` (U,), both IGNORE where unknown; ``tokens`` (U, S) and
        ``n_tokens`` (U,), 0 where there is no usable transcript; ``attributes`` (U, 3), NaN where
        unknown. Speakers who are not trained on are unknown.
    """
    found, names = {}, []
    if "gender" in tasks:
        number = {name: i for i, name in enumerate(GENDERS)}
        found["gender"] = np.array([number.get(g, IGNORE) for g in table["gender"]])
    if "speaker" in tasks:
        speaker = speaker_names(table, speaker_labels, seed)
        names = sorted(speaker[table["role"] == "train"].dropna().unique())
        number = {name: i for i, name in enumerate(names)}
        found["speaker"] = np.array([number.get(s, IGNORE) for s in speaker])
    if "asr" in tasks:
        found["tokens"], found["n_tokens"] = text.pad(table["text"].tolist())
    if "attributes" in tasks:
        found["attributes"] = attributes.targets(table)
    return found, names


def task_losses(
    config: LossConfig, tasks: tuple[str, ...], counts: np.ndarray
) -> dict[str, Callable[[Mapping[str, Tensor], Batch], Tensor]]:
    """Each task's loss, a function of a model's outputs and the batch.

    Args:
        config: The settings.
        tasks: Which ones; "swfc" comes with the emotion if it has a weight.
        counts: (C,) training utterances per emotion, for class weights.
    """
    class_weight = {
        "none": lambda: None,
        "inverse_frequency": lambda: losses.inverse_frequency_weights(counts),
        "effective_number": lambda: losses.class_balanced_weights(counts, config.beta),
    }[config.weights]()

    def emotion(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        logits = outputs["emotion"]
        weight = None if class_weight is None else class_weight.to(logits.device)
        if config.gamma:
            return losses.focal(logits, batch.emotion, gamma=config.gamma, weight=weight)
        return losses.cross_entropy(logits, batch.emotion, weight=weight)

    def label(task: str):
        return lambda outputs, batch: losses.cross_entropy(outputs[task], batch.extra[task])

    def asr(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        tokens, n_tokens = batch.extra["tokens"], batch.extra["n_tokens"]
        lengths = outputs["asr_lengths"]
        return losses.ctc(outputs["asr"], lengths, tokens, n_tokens, reduction=config.ctc)

    def scales(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        pair = outputs["attributes"], batch.extra["attributes"]
        if config.attributes == "gaussian":
            return regression.gaussian_mse(*pair, sigma=config.sigma, detach=config.detach)
        return {"mse": regression.mse, "ccc": regression.ccc_loss}[config.attributes](*pair)

    known = {"emotion": emotion, "gender": label("gender"), "speaker": label("speaker"), "asr": asr}
    known |= {"attributes": scales}
    found = {task: known[task] for task in tasks}
    return found | (
        {"swfc": contrast(config, counts)} if config.swfc and "emotion" in tasks else {}
    )


def contrast(config: LossConfig, counts: np.ndarray) -> Callable[..., Tensor]:
    """The contrastive term, a function of a model's outputs and the batch."""
    class_weight = losses.swfc_weights(counts, config.swfc_power)

    def swfc(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        features = outputs[config.swfc_on]
        weight = class_weight.to(features.device)
        settings = dict(gamma=config.swfc_gamma, tau=config.tau, form=config.swfc_form)
        return losses.swfc(features, batch.emotion, weight, **settings)

    return swfc


def total_loss(config: LossConfig, tasks: tuple[str, ...], counts: np.ndarray):
    """The loss of a batch: ``losses.weighted_sum`` of its tasks' losses, see ``LossConfig``."""
    weights = config.task_weights(tasks)
    terms = task_losses(config, tuple(task for task in tasks if weights[task]), counts)

    def loss(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return losses.weighted_sum({k: term(outputs, batch) for k, term in terms.items()}, weights)

    return loss


def answers(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, list]:
    """Columns of the prediction table for the tasks beside the emotion, one value per clip."""
    columns = {}
    for task, column in (("gender", "gender"), ("speaker", "speaker_id")):
        if task in outputs:
            columns[column] = outputs[task].argmax(-1).tolist()
            if task in batch.extra:
                columns[f"{column}_truth"] = batch.extra[task].tolist()
    if "asr" in outputs:
        best, lengths = outputs["asr"].argmax(-1).cpu().numpy(), outputs["asr_lengths"].tolist()
        heard = (text.collapse(row[:n]) for row, n in zip(best, lengths, strict=True))
        columns["hypothesis"] = [text.decode(numbers) for numbers in heard]
        if "tokens" in batch.extra:
            tokens, n_tokens = batch.extra["tokens"].tolist(), batch.extra["n_tokens"].tolist()
            said = (row[:n] for row, n in zip(tokens, n_tokens, strict=True))
            columns["reference"] = [text.decode(numbers) for numbers in said]
    if "attributes" in outputs:
        columns |= attributes.answers(outputs, batch)
    return columns


def ratio(table: pd.DataFrame, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators (U,) whose sums give a metric; (0, 0) where nothing is known.

    Args:
        table: Predictions with the columns of ``answers``.
        metric: "gender" and "speaker": right answers over known ones. "wer" and "cer": edits over
            words and over characters of the reference.

    Raises:
        ValueError: The table lacks the columns.
    """
    if metric in ("wer", "cer") and "reference" in table:
        unit = "words" if metric == "wer" else "characters"
        pairs = zip(table["reference"], table["hypothesis"], strict=True)
        counts = np.array([text.edits(unit, *pair) if pair[0] else (0, 0) for pair in pairs])
        return counts[:, 0], counts[:, 1]
    column = {"gender": "gender", "speaker": "speaker_id"}.get(metric)
    if f"{column}_truth" not in table:
        raise ValueError(f"no answers for {metric!r} in columns {', '.join(table.columns)}")
    known = table[f"{column}_truth"] != IGNORE
    right = known & (table[column] == table[f"{column}_truth"])
    return right.to_numpy(int), known.to_numpy(int)


def scores(table: pd.DataFrame) -> dict[str, float]:
    """Every metric of ``ratio``, and of ``attributes``, that a table of predictions allows."""
    needs = dict.fromkeys(("wer", "cer"), "reference")
    needs |= {"gender": "gender_truth", "speaker": "speaker_id_truth"}
    sums = {m: np.sum(ratio(table, m), 1) for m, column in needs.items() if column in table}
    found = {m: float(right / known) for m, (right, known) in sums.items() if known}
    return found | (attributes.scores(table) if "valence_truth" in table else {})


def gradient_cosine(
    model: torch.nn.Module,
    terms: Mapping[str, Callable[[Mapping[str, Tensor], Batch], Tensor]],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Cosine between the gradients of the emotion's loss and of each other task's.

    g_k is the gradient of L_k with respect to the encoder, summed over the batches, without
    dropout. Near +1 the tasks pull the encoder the same way, near 0 they do not meet, below 0 a
    step for one undoes the other. ``<task>_ratio`` is |g_k| / |g_emotion|, before any weight.
    Empty without the emotion, or if the encoder is frozen.
    """
    shared = [p for p in model.encoder_parameters() if p.requires_grad]
    if not shared or "emotion" not in terms:
        return {}
    gradients = {task: [torch.zeros_like(p) for p in shared] for task in terms}
    training = [module for module in model.modules() if module.training]
    model.eval()
    device = next(model.parameters()).device
    # cuDNN's LSTM has no gradient in eval mode; torch's own has.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for batch in batches:
            batch = batch.to(device)
            for task, term in terms.items():
                value = term(model(batch), batch)
                parts = torch.autograd.grad(value, shared, allow_unused=True)
                for total, part in zip(gradients[task], parts, strict=True):
                    total += 0 if part is None else part
    for module in training:
        module.training = True
    flat = {task: torch.cat([g.flatten() for g in parts]) for task, parts in gradients.items()}
    base, found = flat.pop("emotion"), {}
    for task, g in flat.items():
        found[f"cosine_{task}"] = float(torch.nn.functional.cosine_similarity(base, g, dim=0))
        found[f"{task}_ratio"] = float(g.norm() / base.norm())
    return found
