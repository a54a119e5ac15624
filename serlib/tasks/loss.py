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

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from serlib import settings
from serlib.data.batching import Batch
from serlib.losses import classification, contrastive, regression
from serlib.losses.ctc import ctc_loss
from serlib.settings import Positive, SettingError, Share, Weight

Loss = Callable[[Mapping[str, Tensor], Batch], Tensor]  # of a model's outputs and the batch


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
        ctc: What ``ctc_loss`` reduces by: "sum", "clips" or "characters".
        attributes: Loss of the task "attributes", see ``regression``: "mse", "gaussian" or "ccc".
        sigma: σ of "gaussian", in units of the scale.
        detach: Whether "gaussian" treats its weight as a constant.
        alpha_attributes: α of "attributes"; None takes ``alpha``.
        swfc: β of ``contrastive.swfc``, of a model with the emotion.
        swfc_on: The output that it acts on: "features", which the emotion's last linear layer
            takes, or the pooled "embedding".
        swfc_form: "original", or "printed" as in Wang 2025.
        swfc_gamma: Its γ; MultiEMO's for IEMOCAP, as the next two.
        tau: Its temperature τ.
        swfc_power: The power a of its class weights.
    """

    gamma: Weight = 0.0
    weights: Literal["none", "inverse_frequency", "effective_number"] = "none"
    beta: Share = 0.999
    alpha: Weight = 0.0
    alpha_speaker: Weight | None = None
    total: Literal["added", "shared"] = "added"
    ctc: Literal["sum", "clips", "characters"] = "clips"
    attributes: Literal["mse", "gaussian", "ccc"] = "mse"
    sigma: Positive = 1.0
    detach: bool = False
    alpha_attributes: Weight | None = None
    swfc: Weight = 0.0
    swfc_on: Literal["features", "embedding"] = "features"
    swfc_form: Literal["original", "printed"] = "original"
    swfc_gamma: Weight = 2.4
    tau: Positive = 0.8
    swfc_power: Weight = 1.1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, see `settings`."""
        settings.settle(self)

    def task_weights(self, tasks: tuple[str, ...]) -> dict[str, float]:
        """The weight of each task's loss, and of "swfc" if it has one.

        Raises:
            SettingError: There is no emotion for "swfc", or the shares leave nothing to the emotion
                (Wang's three tasks bound α by 1/3).

        >>> LossConfig(alpha=0.1, total="shared").task_weights(("emotion", "gender", "asr"))
        {'emotion': 0.8, 'gender': 0.1, 'asr': 0.1}
        """
        own = {"speaker": self.alpha_speaker, "attributes": self.alpha_attributes}
        weights = {
            task: self.alpha if own.get(task) is None else own[task]
            for task in tasks
            if task != "emotion"
        }
        if self.swfc and "emotion" not in tasks:
            raise SettingError(f"swfc={self.swfc} needs the emotion among the tasks {tasks}")
        if "emotion" not in tasks:  # an auxiliary task on its own, for comparison
            return dict.fromkeys(tasks, 1.0)
        rest = 1 - sum(weights.values()) if self.total == "shared" else 1.0
        if rest <= 0:
            raise SettingError(
                f"shares {weights} leave {rest:.3g} to the emotion: with {len(weights)} tasks of "
                f"one alpha, alpha must be below 1/{len(weights)}"
            )
        return {"emotion": rest, **weights} | ({"swfc": self.swfc} if self.swfc else {})


def task_losses(config: LossConfig, tasks: tuple[str, ...], counts: np.ndarray) -> dict[str, Loss]:
    """Each task's loss, a function of a model's outputs and the batch.

    Args:
        config: The settings.
        tasks: Which ones; "swfc" comes with the emotion if it has a weight.
        counts: (C,) training utterances per emotion, for class weights.
    """
    class_weight, swfc_weight = None, None
    if config.weights == "inverse_frequency":
        class_weight = classification.inverse_frequency_weights(counts)
    elif config.weights == "effective_number":
        class_weight = classification.class_balanced_weights(counts, config.beta)
    contrasted = config.swfc and "emotion" in tasks
    if contrasted:
        swfc_weight = contrastive.swfc_weights(counts, config.swfc_power)
    class_weight, swfc_weight = placed(class_weight), placed(swfc_weight)

    def emotion(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        pair = outputs["emotion"], batch.emotion
        weight = class_weight(pair[0].device)
        if config.gamma:
            return classification.focal(*pair, gamma=config.gamma, weight=weight)
        return classification.cross_entropy(*pair, weight=weight)

    def label(task: str) -> Loss:
        return lambda outputs, batch: classification.cross_entropy(outputs[task], batch.extra[task])

    def asr(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        tokens, n_tokens = batch.extra["tokens"], batch.extra["n_tokens"]
        lengths = outputs["asr_lengths"]
        return ctc_loss(outputs["asr"], lengths, tokens, n_tokens, reduction=config.ctc)

    def scales(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        pair = outputs["attributes"], batch.extra["attributes"]
        if config.attributes == "gaussian":
            return regression.gaussian_mse(*pair, sigma=config.sigma, detach=config.detach)
        return {"mse": regression.mse, "ccc": regression.ccc_loss}[config.attributes](*pair)

    def contrast(outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        settings = dict(gamma=config.swfc_gamma, tau=config.tau, form=config.swfc_form)
        features = outputs[config.swfc_on]
        weight = swfc_weight(features.device)
        return contrastive.swfc(features, batch.emotion, weight, **settings)

    known = {"emotion": emotion, "gender": label("gender"), "speaker": label("speaker"), "asr": asr}
    known |= {"attributes": scales, "swfc": contrast}
    return {task: known[task] for task in (*tasks, *(["swfc"] if contrasted else []))}


def placed(weight: Tensor | None) -> Callable[[torch.device], Tensor | None]:
    """The weight on the device that is asked for, moved there once: no step waits for it."""
    return functools.cache(
        lambda device: None if weight is None else weight.to(device, non_blocking=True)
    )


def total_loss(config: LossConfig, tasks: tuple[str, ...], counts: np.ndarray) -> Loss:
    """The loss of a batch: L = Σ_k w_k L_k over its tasks, see ``LossConfig``.

    A task of weight 0 is not computed, and trains nothing.
    """
    weights = config.task_weights(tasks)
    terms = task_losses(config, tuple(task for task in tasks if weights[task]), counts)
    return lambda outputs, batch: sum(
        weights[task] * term(outputs, batch) for task, term in terms.items()
    )


def gradient_cosine(
    model: torch.nn.Module, terms: Mapping[str, Loss], batches: Iterable[Batch]
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
