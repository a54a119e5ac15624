"""The papers' recipes as functions, each of a `Recipe`.

Every value says where it comes from: the paper, its released code, or "our choice" where both are
silent. A profile changes the data, the encoder and the scale, never the method:

- full: the paper's own values, on a corpus the reader holds a license for;
- open: a corpus and an encoder that anybody may fetch, for a CPU: EmoDB through a frozen Whisper
  base without its padding to 30 s, of each clip the mean over time, in all folds;
- demo: the demo corpus and encoders, learning rates and epochs fit for a million parameters;
- smoke: as demo, on a slice of the corpus and for one epoch.

In every profile `corpus` and `data_root` name a corpus of the reader's own, see `Recipe`; what
else a function is given goes to `Recipe.change`. A recipe reads no file: which of its classes a
corpus can teach is settled before it runs, by `experiments.dataset.taught`.
"""

from __future__ import annotations

from dataclasses import replace

from serlib.data import manifest
from serlib.models.fusion import FusionConfig
from serlib.models.recognizer import ModelConfig
from serlib.recipes.recipe import SYSTEMS, Recipe, RecipeError
from serlib.tasks.loss import LossConfig
from serlib.training.loop import TrainConfig

DEMO_LAYERS = 3  # of the demo encoders' five: the lower layers know as much (see their cards)
DEMO_FROZEN = 2  # of these; their states are stored, which makes a training four times as fast
OPEN = dict(encoder="openai/whisper-base", freeze="all", context="short", standardize=True,
            layer_speed=30.0)  # fmt: skip
CORPORA = {"smoke": "demo", "demo": "demo", "open": "emodb"}  # unless another is named
ACTED = ("emodb", "ravdess", "cremad")  # corpora that anybody may fetch
CLASSES = (*manifest.CLASSES_8, "boredom", "calm")  # of these
PHASES = ("multitask", "emotion", "attributes")  # of Zgórzyński 2025
IEMOCAP_MERGE = (("excitement", "happiness"),)  # the usual four classes, e.g. Cai 2021


def _data(
    profile: str, corpus: str, data_root: str, papers: str, classes: tuple[str, ...], merge=()
) -> dict:
    """What a recipe learns from, as arguments of `Recipe`; `papers` is the paper's own corpus."""
    corpus = CORPORA.get(profile, papers) if corpus == "" else corpus
    if profile == "open" and corpus in ACTED:
        classes, merge = CLASSES, ()
    protocol = "official" if corpus == "demo" else "usual"  # "usual" on IEMOCAP: one session
    return dict(profile=profile, corpus=corpus, data_root=data_root, protocol=protocol,
                fold=0 if profile == "open" else 1, classes=classes, merge=merge)  # fmt: skip


def _encoder(profile: str, published: str, shipped: str, freeze: str) -> dict:
    """What a fine-tuned model listens with, as arguments of `ModelConfig`.

    In full the published encoder; SpecAugment is the library's default, which released code leaves
    on. Else a demo encoder, frozen so far that what is frozen can be stored.
    """
    if profile == "full":
        return dict(encoder=published, freeze=freeze, spec_augment=0.05)
    if profile == "open":
        return OPEN
    return dict(encoder=shipped, freeze="cnn", spec_augment=0.0, n_layers=DEMO_LAYERS,
                freeze_layers=DEMO_FROZEN)  # fmt: skip


def _scale(profile: str, full: TrainConfig, **demo) -> TrainConfig:
    """The paper's training, or one fit for a demo encoder (our choice, tuned on dev)."""
    if profile == "full":
        return full
    small = TrainConfig(
        epochs=4, lr_encoder=3e-3, lr_head=3e-3, warmup=0.1, schedule="linear", clip=1.0,
        budget_seconds=48.0, weight_decay=0.01, select=full.select,
    )  # fmt: skip
    if profile == "smoke":
        demo["epochs"] = 1
    if profile == "open":
        demo |= dict(epochs=20, lr_head=5e-3, budget_seconds=200.0)  # chosen on RAVDESS's dev
    return replace(small, **demo)


def cai2021(
    profile: str = "demo", corpus: str = "", data_root: str = "", *, alpha: float = 0.0, **changes
) -> Recipe:
    """Cai et al. 2021: wav2vec 2.0, mean pooling and one linear layer, CTC beside it.

    L = L_CE + α L_CTC. Settings of the paper's Table 1, in full a learning rate of 5e-5, but 1e-5
    for α = 0; pooling is the mean of the released code (the paper prints a sum), and so is CTC's
    sum over the 2 clips of a batch. A mean over clips, as in the demo with its larger batches, has
    half that size at the same α. What differs from paper and code: folds follow sessions, so no
    test talker is trained on; the epoch is chosen by accuracy on dev, the paper's metric; padding
    is kept out of the mean.
    """
    full = profile == "full"
    loss = LossConfig(alpha=alpha, ctc="sum" if full else "clips")
    rate = 1e-5 if loss.alpha == 0 else 5e-5
    if full or corpus not in ("", "demo"):  # the paper's four; the demo corpus has eight to show
        about = _data(profile, corpus, data_root, "iemocap", manifest.CLASSES_4, IEMOCAP_MERGE)
    else:
        about = _data(profile, corpus, data_root, "iemocap", manifest.CLASSES_8)
    train = TrainConfig(
        epochs=100, lr_encoder=rate, lr_head=rate, warmup=0.1, accumulate=4, schedule="linear",
        weight_decay=0.0, clip=1.0, select="wa",
    )  # fmt: skip
    recipe = Recipe(
        name=f"Cai 2021, α = {loss.alpha:g}",
        **about,
        max_clips=2 if full else None,  # code: 2 clips x 4 steps; paper: 8 in all
        loss=loss,
        model=ModelConfig(
            **_encoder(profile, "facebook/wav2vec2-base", "demo-wav2vec2", "none"),
            n_classes=len(about["classes"]),
            tasks=("emotion", "asr"),
            pooling="mean",
            layers="last",
            head="linear",
        ),
        train=_scale(profile, train),
    )
    return recipe.change(**changes)


def mtlser2025(
    profile: str = "demo",
    corpus: str = "",
    data_root: str = "",
    *,
    alpha: float = 0.1,
    alpha_speaker: float = 0.1,
    **changes,
) -> Recipe:
    """MTLSER (Chen et al. 2025): Cai's model with a third linear head that names the speaker.

    L = L_CE + α L_CTC + β L_speaker, here β is `alpha_speaker`. Learning rate 5e-5, 2 clips x 4
    steps, 100 epochs and no warm-up are the released script's. Its weights are 0.1 and 0, which
    switches the speaker off; the model's own defaults are 0.1 and 0.1, and ours. Its speaker labels
    are the prefixes of file names; ours are the talkers (`speaker_labels="prefix"` has theirs).
    """
    recipe = cai2021(profile, corpus, data_root, alpha=alpha)
    if profile == "full":
        recipe = recipe.change(warmup=0.0, lr_encoder=5e-5, lr_head=5e-5)  # at α = 0 too
    recipe = recipe.change(tasks=("emotion", "asr", "speaker"), alpha_speaker=alpha_speaker)
    weights = recipe.loss.task_weights(recipe.model.tasks)
    name = f"MTLSER 2025, α = {weights['asr']:g}, β = {weights['speaker']:g}"
    return recipe.change(name=name).change(**changes)


def wang2025_baseline(
    profile: str = "demo", corpus: str = "", data_root: str = "", **changes
) -> Recipe:
    """Wang et al. 2025, the single-task baseline of Table 1: WavLM, attentive statistics pooling.

    The paper gives WavLM-large, Adam at 1e-5, batches of 16 and 60 epochs. Its head is not
    described; we take the two-layer branch of the paper's multi-task model (Linear, LayerNorm,
    ReLU, Dropout, Linear). Class weights, dropout and schedule are unstated: none, 0.1 and constant
    here. The epoch is chosen by macro-F1 on dev, the challenge's metric.
    """
    full = profile == "full"
    about = _data(profile, corpus, data_root, "msp-podcast", manifest.CLASSES_8)
    train = TrainConfig(
        epochs=60, lr_encoder=1e-5, lr_head=1e-5, warmup=0.0, schedule="constant",
        weight_decay=0.0, clip=None, select="macro_f1", budget_seconds=200.0,
    )  # fmt: skip
    recipe = Recipe(
        name="Wang 2025, baseline",
        **about,
        max_clips=16 if full else None,
        model=ModelConfig(
            **_encoder(profile, "microsoft/wavlm-large", "demo-wavlm", "cnn"),
            n_classes=len(about["classes"]),
            pooling="mean" if profile == "open" else "attentive",
            layers="last",
            head="mlp",
            hidden=1024 if full else 144,
            dropout=0.1,
        ),
        train=_scale(profile, train),
    )
    return recipe.change(**changes)


def wang2025(
    profile: str = "demo", corpus: str = "", data_root: str = "", *, alpha: float = 0.1, **changes
) -> Recipe:
    """Wang et al. 2025, the proposed system: four tasks, co-attention, weighted layers.

    L = (1 - 3α) L_emotion + α (L_gender + L_speaker + L_ASR) + β L_SWFC, their eq. 1. α is nowhere
    in the paper; it must be below 1/3, and 0.1 is our choice. Nor is β (`swfc`): 0 here, in every
    profile, and chapter 05 sweeps it. The term acts on the "global representation" of the SSL
    model, for us the pooled embedding. γ, τ and the power of the class weights are unstated; where
    β is set they are MultiEMO's, and so is the form, see `contrastive.swfc`.
    CTC is divided by the characters, which is torch's default; the paper does not say. One
    attentive pooling and one weighting of layers serve all tasks. All else as in
    `wang2025_baseline`. In open there is no ASR, since all say the same few sentences.
    """
    recognized = () if profile == "open" else ("asr",)
    recipe = wang2025_baseline(profile, corpus, data_root).change(
        name="Wang 2025, proposed",
        tasks=("emotion", "gender", "speaker", *recognized),
        layers="weighted",
        co_attention="concat",
        alpha=alpha,
        total="shared",
        ctc="characters",
        swfc_on="embedding",
    )
    return recipe.change(**changes)


def challenge_baseline(
    profile: str = "demo", corpus: str = "", data_root: str = "", **changes
) -> Recipe:
    """The Interspeech 2025 challenge's own baseline (Naini et al. 2025), categories.

    WavLM-large with a frozen CNN, attentive statistics, 1,024 hidden units with dropout 0.5,
    cross-entropy weighted N / (C n_c), AdamW at 1e-5, 4 steps of 8 clips, 20 epochs, 12 s at most
    (released code). The released code chooses its epoch on one utterance of dev; here it is
    macro-F1 on all of dev.
    """
    full = profile == "full"
    recipe = wang2025_baseline(profile, corpus, data_root)
    train = replace(
        recipe.train, epochs=20, accumulate=4, weight_decay=0.01
    ) if full else recipe.train  # fmt: skip
    return recipe.change(
        name="challenge baseline", train=train, weights="inverse_frequency", max_seconds=12.0,
        max_clips=8 if full else None, dropout=0.5 if full else 0.2,
        input_dropout=0.5 if full else 0.0, **changes,
    )  # fmt: skip


def floor(
    system: str, profile: str = "demo", corpus: str = "", data_root: str = "", **changes
) -> Recipe:
    """A floor of `experiments.floors` on the data of the recipes above (our choice throughout)."""
    if not isinstance(system, str) or system not in SYSTEMS[2:]:
        raise RecipeError(f"system={system!r}, expected one of {', '.join(SYSTEMS[2:])}")
    names = {"svm": "functionals + SVM", "probe": "linear probe", "majority": "majority guesser",
             "prior": "guesser by class shares", "uniform": "uniform guesser"}  # fmt: skip
    recipe = wang2025_baseline(profile, corpus, data_root)
    return recipe.change(name=names[system], system=system, freeze="all").change(**changes)


def zgorzynski2025(
    profile: str = "demo",
    corpus: str = "",
    data_root: str = "",
    *,
    phase: str = "multitask",
    **changes,
) -> Recipe:
    """Zgórzyński et al. 2025: Whisper's encoder, WavLM and RoBERTa, an LSTM over the three.

    Phase "multitask": L = weighted cross-entropy + α MSE of valence, arousal and dominance. Phases
    "emotion" and "attributes" start from its weights and train one task: plain cross-entropy, and
    the MSE with a Gaussian penalty around μ = 4. So far the paper. Separate training, its ablation,
    is a phase with `start=None` and as many epochs as both phases have.

    Unstated, and our choice in full: the encoders' sizes (Whisper large-v3, WavLM large, RoBERTa
    large), that they are frozen, their order, all widths (256), one LSTM layer that runs forward,
    α = 1, class weights N / (C n_c), σ = 1, AdamW at 1e-3 and a quarter of it in the second phase,
    linear decay after 10 % warm-up, 20 and 10 epochs, batches of 32 clips, dropout 0.2, clips of
    30 s at most (Whisper's context). The epoch is chosen on dev: by the mean of macro-F1 and CCC in
    the first phase, then by macro-F1 or by CCC, the challenge's metrics. What both phases share is
    changed in both.
    """
    if phase not in PHASES:
        raise RecipeError(f"phase={phase!r} is not one of {', '.join(PHASES)}")
    full = profile == "full"
    shipped = ("demo-whisper", "demo-wavlm", "demo-roberta")
    published = ("openai/whisper-large-v3", "microsoft/wavlm-large", "FacebookAI/roberta-large")
    width = 256 if full else 64
    train = TrainConfig(
        epochs=20, lr_head=1e-3, lr_encoder=1e-5, weight_decay=0.01, select="both",
        budget_seconds=400.0,
    )  # fmt: skip
    about = _data(profile, corpus, data_root, "msp-podcast", manifest.CLASSES_8)
    recipe = Recipe(
        name="Zgórzyński 2025, phase 1",
        **about,
        max_clips=32 if full else None,
        max_seconds=30.0 if full else None,
        system="fusion",
        model=FusionConfig(
            experts=published if full else shipped,
            n_classes=len(about["classes"]),
            width=width,
            hidden=width,
            bottleneck=128 if full else 32,
            dropout=0.2,
            n_layers=None if full else DEMO_LAYERS,
        ),
        loss=LossConfig(weights="inverse_frequency", alpha_attributes=1.0),
        train=_scale(profile, train, epochs=5, lr_head=3e-3, budget_seconds=60.0),
    )
    if phase != "multitask":
        recipe = replace(recipe, start=recipe).change(
            name=f"Zgórzyński 2025, phase 2, {phase}",
            lr_head=recipe.train.lr_head / 4,
            epochs=max(1, recipe.train.epochs // 2),
            select={"emotion": "macro_f1", "attributes": "ccc"}[phase],
        )
        loss = LossConfig(attributes="gaussian" if phase == "attributes" else "mse", sigma=1.0)
        recipe = replace(recipe, loss=loss).change(tasks=(phase,))
    return recipe.change(**changes)
