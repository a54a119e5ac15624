# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,slideshow,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Layer-weight fusion
#
# A pre-trained encoder has many layers, and each says something else about the same second of speech. Most systems read the last one.
# Wang et al. {cite}`wang2025` read all of them, through a weighted sum whose weights are learned. Does that help? And what do the weights say?
#
# ![One score for each layer of an encoder, on two corpora: it rises to the middle layers and falls towards the last](_static/human.png)
#
# *On people, first: acted speech, chapter [09](09_human_speech).* With a really pre-trained encoder the layers differ, the middle knows most, and a learned sum beats the last state by 0.142 in {term}`UA` on EmoDB and 0.066 on RAVDESS, if the states are standardized; if they are not, it loses by 0.183 and 0.065. The demo encoder of this chapter has layers that hardly differ. So here one can see what a weighting does when there is nothing to gain, and how its weights move.
#
# ```{admonition} What you will be able to do
# :class: tip
# - write down the weighted sum over layers, and count the layers right in any library version;
# - measure what each layer knows, task by task, against a random encoder;
# - read learned layer weights without taking them for importances;
# - compute how far a weight *can* move under a given learning rate before you interpret how far it *did*;
# - split a gain of "learnable layers" into the part that averaging explains and the part that learning explains.
# ```
#
# **Before this chapter:** [02 Baseline](02_baseline) for probes, pooling and {term}`paired intervals <paired interval>`. Wang's four-task system is explained where it is used.
#
# **The claim under test.** Wang et al. {cite}`wang2025`, Table 4: features from a learnable weighted sum of {term}`WavLM`'s hidden layers beat those of the last hidden
# state. Macro-F1 rises from 33.82 to 35.49 % on MSP-Podcast {cite}`lotfian2019`, from 27.50 to 29.41 % on EmotiW2018, and from 19.75 to 21.93 % on MEIJU2025. The idea is older: ELMo
# {cite}`peters2018` weighs the layers of a language model, and SUPERB {cite}`yang2021` the layers of a frozen speech encoder, for each task anew.

# %% tags=["parameters"]
profile = "demo"
corpus = ""
data_root = ""
encoder = ""  # a name on the hub, or a folder as /data/NAME; "" takes the recipes' own
epochs = 0  # of each fine-tuning; 0 takes the recipes' own
workers = 0  # trainings at a time; 0 takes what this machine has room for
scheduler = ""  # of a Dask cluster, such as "tcp://node1:8786"; "" trains here
seeds = [0, 1, 2]
tuned_seeds = [0, 1, 2]
frozen_epochs = 2
probe_rows = 4000

# %% tags=["recipes", "hide-input"]
from serbook.plan import architectures
from serlib.recipes import papers
from serlib.recipes.recipe import Recipe

if profile == "smoke":
    seeds, tuned_seeds, frozen_epochs = seeds[:1], tuned_seeds[:1], 1
heard_by = {"encoder": encoder} if encoder else {}
trial = heard_by | ({"epochs": epochs} if epochs else {})
# Until the corpus is read: one that has all that this chapter asks for.
transcribed, dialogues, absent = profile != "open", "dialogue", set()

# %% tags=["hide-input"]
import functools
import inspect
import itertools
from importlib.metadata import version

import joblib
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from serbook.claims import pages
from serbook.claims.verdicts import bold, verdict
from serbook.figures import layerplots, plots
from serbook.lesson import cells
from serlib.data import features, splits
from serlib.data.stores import WaveStore
from serlib.experiments import dataset, floors
from serlib.experiments.runs import Runs
from serlib.experiments.sweep import sweep
from serlib.metrics import intervals, measures
from serlib.models import heads
from serlib.models.encoders import checkpoints, wav2vec2, whisper
from serlib.models.encoders.load import load_encoder
from serlib.training import loop

plots.style(profile)
planted = (corpus or papers.CORPORA.get(profile)) == "demo"  # the demo corpus: what is in it is known
# Small runs end before a second process has started, and a GPU is one.
one = profile == "smoke" or torch.cuda.is_available()
workers = workers or (1 if one else min(joblib.cpu_count(), 4))
sweep = functools.partial(sweep, scheduler=scheduler or None)
cells.cost("06_layer_weights")

# %% [markdown]
# ## The sum over layers
#
# Let $h_0$ be what enters the first transformer layer, and $h_l$ what leaves layer $l$. An encoder with $L$ layers gives $L + 1$ states of $T$ frames and $D$ numbers.
# The sum keeps frames and width, and mixes the states:
#
# $$
# h = \sum_{l=0}^{L} s_l\, h_l, \qquad s = \mathrm{softmax}(w), \qquad w \in \mathbb{R}^{L+1}.
# $$
#
# It costs $L + 1$ parameters: 25 for WavLM-large. With $w = 0$ it starts as the plain average. Here it is, as the package has it.
# Three of its arguments are experiments below: `softmax`, `layer_norm` and `start`. A fourth, `speed`, lets $w$ move faster or slower than the heads.

# %% tags=["hide-output"]
print(inspect.getsource(heads.LayerSum))

# %% [markdown]
# ### Count the layers
#
# "All hidden layers" is less clear than it sounds. Three traps:
#
# - **24 or 25?** Libraries count $h_0$ as a hidden state. It holds the CNN's features plus positions, and no attention yet.
# - **Before or after the norm?** Large WavLM and {term}`wav2vec 2.0` checkpoints are *pre-norm*: layers add to a running sum, and one last LayerNorm follows layer $L$. Some versions of transformers
#   give the last state with that norm, others without. Two programs can then both say "last hidden state" and mean different numbers.
# - **{term}`LayerDrop`.** Some checkpoints skip layers at random in training. A library that leaves skipped layers out of the list shifts all that follow by one place.
#
# The next cell asks the installed version, and shows that our sum refuses a shortened list.

# %% tags=["recipes"]
frozen = papers.wang2025_baseline(profile, corpus, data_root).change(
    freeze="all",
    n_layers=None,
    head="linear",
    pooling="mean",
    spec_augment=0.0,
    layer_speed=10.0,
    epochs=frozen_epochs,
    lr_head=1e-2,
    budget_seconds=24.0,
    warmup=0.1,
    schedule="linear",
    clip=1.0,
    max_clips=None,
    **heard_by,
)
n_states = architectures.config(frozen.model.encoder).num_hidden_layers + 1

# %%
data = dataset.load(frozen)
classes = list(dataset.taught(frozen).classes)
heard_in = {"freeze": "all", "context": frozen.model.context}
encoder = load_encoder(frozen.model.encoder, freeze="all")
wave = torch.from_numpy(encoder.prepare(data.store[0]))[None]
given = wave
if encoder.family == "whisper":  # the stock model takes the spectrogram of its whole context
    given = functional.pad(wave, (0, encoder.window_samples - wave.shape[1]))
    given = whisper.log_mel(given, encoder.filters, encoder.n_fft, encoder.hop)
with torch.inference_mode():
    ours = encoder(wave, torch.tensor([wave.shape[1]]))
    stock = encoder.model(given, output_hidden_states=True)
same = [
    torch.allclose(a[:, : b.shape[1]], b, atol=1e-3)
    for a, b in zip(stock.hidden_states, ours.layers, strict=True)
]
print(
    f"transformers {version('transformers')}: {len(stock.hidden_states)} states of {encoder.n_layers} layers, pre-norm: {encoder.pre_norm}"
)
print(f"its states equal ours, layer by layer: {same}")
print(
    f"its output equals its last state: {torch.allclose(stock.last_hidden_state, stock.hidden_states[-1], atol=1e-3)}"
)
encoder = load_encoder(frozen.model.encoder, **heard_in)
try:
    heads.LayerSum(n_states)(ours.layers[:-1])
except ValueError as error:
    print(f"one layer dropped: {error}")

# %% [markdown]
# In a pre-norm encoder the two sides of Table 4 differ in more than the number of layers. The *last hidden state* has usually passed the final LayerNorm; the states in
# the sum have not. We run "last" with that norm, as the challenge's baseline does, and measure the raw last state beside it.
#
# ### Layers are not of one size
#
# In a pre-norm encoder each layer *adds* to what came before, so states grow with depth. A sum of vectors of unequal length is ruled by the long ones: what layer $l$ brings in is
# $s_l \lVert h_l \rVert$, not $s_l$. Look at the lengths before you look at any weight.

# %% mystnb={"image": {"alt": "Left: mean length of the frames of each layer, for the pre-trained and a random encoder. Right: cosine similarity between the layers of the pre-trained encoder as a heat map"}, "figure": {"caption": "Left: mean L2 norm of a frame, by layer. Right: mean cosine between the states of two layers at the same frame, for the pre-trained encoder.", "name": "fig-06-norms"}}
random_encoder = load_encoder(frozen.model.encoder, random_init=True, **heard_in)


def states(encoder: wav2vec2.Encoder, rows: np.ndarray) -> torch.Tensor:
    """All states of some clips, side by side: (L + 1, frames, D)."""
    found = []
    with torch.inference_mode():
        for row in rows:
            x = torch.from_numpy(encoder.prepare(data.store[int(row)]))[None]
            found.append(torch.cat(encoder(x, torch.tensor([x.shape[1]])).layers))
    return torch.cat(found, 1)


some = data.rows("train")
some = some[:: max(1, len(some) // 20)]
h = {"pre-trained": states(encoder, some), "random": states(random_encoder, some)}
norms = {name: x.norm(dim=-1).mean(1).numpy() for name, x in h.items()}
unit = torch.nn.functional.normalize(h["pre-trained"], dim=-1)
cosines = pd.DataFrame(torch.einsum("ltd,mtd->lm", unit, unit).numpy() / unit.shape[1])
axes = plots.panels(2, size=(10, 3.6))
plots.curves(
    {name: (range(n_states), y) for name, y in norms.items()},
    xlabel="layer",
    ylabel="mean norm of a frame",
    ax=axes[0],
)
ax = plots.heat(cosines, label="cosine", xlabel="layer", ylabel="layer", ax=axes[1])
ax.tick_params(axis="x", rotation=0)

# %% [markdown]
# Read the right panel as a warning too. Where neighbors are nearly parallel, the sum hardly changes when weight passes from one to the other. Then training has little reason to prefer
# either, and their weights are as good as undetermined.
#
# In the demo encoder the states grow from a length of 23 to 34 (those of the random copy stay at 7), and neighbors have cosines above 0.8. Only the first and the last are far apart.
#
# ## What single layers know
#
# ### What is known beforehand
#
# The encoder has a model card. It probed each layer when the encoder was made, with the mean and the deviation over time. These are its numbers for the pre-trained weights:

# %%
card = checkpoints.DEMO / "demo-wavlm" / "probes.csv"
known = (
    pd.read_csv(card).query("weights == 'pre-trained'").drop(columns="weights").set_index("layer")
)
known if planted else "The card is about the demo encoder and synthetic speech."

# %% [markdown]
# So on the demo tier we can say what to expect. For emotion the layers hardly differ. For talkers and phones the upper layers know a little more than the lower ones. Pitch and rate can be read off anywhere. An
# encoder of five layers that has heard a single synthesizer has not divided the labor as WavLM-large has, with 24 layers and 94,000 hours {cite}`chen2022`.
# **If no layer holds what another lacks, a sum over layers has nothing to gain.** On this tier the right answer to Table 4 should therefore be: next to no difference.
#
# ### Probes, layer by layer
#
# For each state of a frozen encoder: average over time, standardize, one linear layer. The same with random weights is the control; only the distance between the two was learned in
# pre-training. Penalties are chosen on dev. What we ask for:
#
# - **emotion** and **gender**, of talkers that the probe has never met;
# - **talker**, which needs talkers that it has met: here the *dialogues* are unseen. This split leaks talkers on purpose (`allow_leaks=True`), for this question only;
# - **pitch** and **speaking rate**, of unseen talkers: the values that were planted, on the {term}`demo corpus` only;
# - **characters**: no average over time, but a linear layer on every frame, trained with {term}`CTC`. For these there is no random control: it would cost as much as all the others together. The card has one for phones.
#
# On the demo tier the probes hear a random half of the utterances, in train, dev and test alike; the control hears the same half.
#
# Two rules, fixed before the runs. A layer *beats its random copy* if its interval lies wholly above that of the copy. The best layer, chosen on dev, is an *upper* one if it lies above the middle.
#
# ```{admonition} Predict first
# :class: important
# For each of the six: is the best layer at the bottom, in the middle or on top? For which of them will a random encoder do nearly as well?
# ```

# %%
# In the open tier all say the same few sentences, so there are no words to recognize.
transcribed = transcribed and data.table["text"].notna().any()
if not transcribed:
    absent.add("characters")
    print("No transcripts, or a few fixed sentences: nothing here about speech recognition.")
if not all((data.table["gender"] == gender).any() for gender in ("female", "male")):
    absent.add("gender")
    print("This corpus does not tell women from men: nothing here about gender.")

# %% tags=["recipes"]
letters_asked = range(n_states) if profile != "smoke" else [0, n_states - 1]
listener = frozen.change(tasks=("asr",), select="-cer", seed=seeds[0])
single = {k: listener.change(name=f"layer {k}", layers=str(k)) for k in letters_asked}
proposed = papers.wang2025(profile, corpus, data_root, **trial)
taken = {"asr": transcribed, "gender": "gender" not in absent}
proposed = proposed.change(tasks=tuple(t for t in proposed.model.tasks if taken.get(t, True)))
systems = {
    "last": proposed.change(layers="last"),
    "average": proposed.change(layer_speed=0.0),
    "learnable": proposed,
}
systems = [r.change(name=name, seed=s) for name, r in systems.items() for s in tuned_seeds]
if not transcribed:
    single = {}
asked = [*list(single.values())[:1], *systems, *list(single.values())[1:]]

# %%
_ = sweep(asked, workers=workers)

# %% [markdown]
# That was the long step of this chapter: the systems of the last section were fine-tuned, too, and are read there. Now the means:

# %%
dialogues = "dialogue" if data.table["dialogue"].notna().any() else "random"
shared = splits.protocol(data.table, dialogues, allow_leaks=True).to_numpy()
talkers = data.table["speaker"].to_numpy()
heard = np.ones(len(talkers), bool)
if profile == "demo":
    heard = np.random.default_rng(0).random(len(talkers)) < 0.5


def layer_means(encoder: wav2vec2.Encoder) -> np.ndarray:
    """Mean over time of every state of the clips that are heard, (U, L + 1, D)."""
    some = WaveStore(data.store.waves[i] for i in np.flatnonzero(heard))
    found = [x.numpy() for x in features.cache(encoder, some, kind="layers_mean")]
    means = np.full((len(heard), n_states, encoder.width), np.nan, np.float32)
    means[heard] = np.stack(found)
    return means


means = {"pre-trained": layer_means(encoder), "random": layer_means(random_encoder)}


# %%
def parts(role: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of train, dev and test that are heard and have a label; of train `probe_rows` at most."""
    rows = {r: np.flatnonzero((role == r) & known & heard) for r in ("train", "dev", "test")}
    rows["train"] = rows["train"][:: max(1, len(rows["train"]) // probe_rows)]
    return rows


def probe(x: np.ndarray, y: np.ndarray, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Answers of a linear probe for dev and test."""
    train, dev = ((x[rows[r]], y[rows[r]]) for r in ("train", "dev"))
    judged = np.r_[rows["dev"], rows["test"]]
    answers = floors.linear_probe(train, dev, x[judged], y.max() + 1)[0].argmax(1)
    return {"dev": answers[: len(rows["dev"])], "test": answers[len(rows["dev"]) :]}


def accuracy(y, answers, rows) -> intervals.Interval:
    right = y[rows] == answers
    return intervals.jackknife_ratio([(right.astype(int), np.ones(len(right), int))], talkers[rows])


def r_squared(x: np.ndarray, y: np.ndarray, rows: dict[str, np.ndarray]) -> intervals.Interval:
    """R² of a ridge regression, with its interval over talkers."""
    fit = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 6))).fit(
        x[rows["train"]], y[rows["train"]]
    )
    truth = y[rows["test"]]
    errors = (truth - fit.predict(x[rows["test"]])) ** 2, (truth - truth.mean()) ** 2
    return 1 - intervals.jackknife_ratio([errors], talkers[rows["test"]])


role = data.table["role"].to_numpy()
labels = {
    "emotion": (data.table["label"].to_numpy(), role),
    "gender": (pd.Categorical(data.table["gender"], ["female", "male"]).codes.astype(int), role),
    "talker": (pd.Categorical(data.table["speaker"]).codes.astype(int), shared),
}
if "gender" in absent:
    del labels["gender"]
rows_of = {name: parts(roles, y >= 0) for name, (y, roles) in labels.items()}
jobs = [(n, w, k) for n in labels for w in means for k in range(n_states)]
with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
    fits = joblib.Parallel()(
        joblib.delayed(probe)(means[w][:, k], labels[n][0], rows_of[n]) for n, w, k in jobs
    )
answers, scores = {}, {name: {w: [] for w in means} for name in labels}
for (name, weights, _), fit in zip(jobs, fits, strict=True):
    answers.setdefault((name, weights), []).append(fit)
for name, (y, _) in labels.items():
    rows = rows_of[name]
    for weights in means:
        for found in answers[name, weights]:
            scores[name][weights].append(
                intervals.jackknife(
                    measures.ua,
                    y[rows["test"]],
                    found["test"],
                    talkers[rows["test"]],
                    n_classes=len(classes),
                )
                if name == "emotion"
                else accuracy(y, found["test"], rows["test"])
            )
if planted:
    for name, column in {"pitch": "pitch_hz", "rate": "rate_wpm"}.items():
        y = data.table[column].to_numpy(float)
        rows = parts(role, np.isfinite(y))
        scores[name] = {
            w: [r_squared(x[:, k], y, rows) for k in range(n_states)] for w, x in means.items()
        }

# %% [markdown]
# For characters the package trains one linear layer on one frozen state (`layers="0"`, `"1"`, ...). A linear layer with no language model writes few whole words right, so the epoch is chosen by the character error rate
# ({term}`CER`), and the word error rate ({term}`WER`) stands beside it.


# %%
def right(name: str) -> intervals.Interval:
    """1 - CER, so that up is better as in the other panels."""
    cer = letters.interval(name, "cer")
    return 1 - cer


letters = sweep(single.values(), workers=workers)
nothing = intervals.Interval(np.nan, np.nan, np.nan, 0.95)
if transcribed:
    scores["characters"] = {
        "pre-trained": [right(single[k].name) if k in single else nothing for k in range(n_states)]
    }
letters.summary(("cer", "wer")) if transcribed else None

# %% mystnb={"image": {"alt": "Six panels, one per question, with the test score of a linear probe on each layer of the pre-trained and of the random encoder, with 95 percent intervals over talkers"}, "figure": {"caption": "What a linear layer reads off each state: pre-trained (dots) against random weights (squares), 95 % intervals over talkers. Note the different scales.", "name": "fig-06-probes"}}
units = {
    "emotion": ("UA", 1 / len(classes)),
    "gender": ("accuracy", 0.5),
    "talker": ("accuracy", 1 / data.table["speaker"].nunique()),
    "pitch": ("R²", 0.0),
    "rate": ("R²", 0.0),
    "characters": ("1 − CER", None),
}
axes = plots.panels(len(scores), rows=2, size=(11.5, 6.2))
for ax, (name, lines) in zip(axes, scores.items(), strict=True):
    layerplots.by_layer(lines, ylabel=units[name][0], floor=units[name][1], ax=ax, title=name)
axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
ax = axes[0]

# %% [markdown]
# Compare within a panel, not across. Intervals of neighboring layers share their talkers, so overlap says little; the pairs below say more. The best layer of each task is chosen on dev, then compared with the last one on test.
#
# Emotion, gender, pitch and rate are flat: every layer knows them, and of gender each knows next to all. Talkers and characters rise a little towards the top. Pre-training shows everywhere, but for emotion in the last layer, whose interval overlaps that of its random copy. What a random encoder passes on best, beside gender, is the speaking rate, which is length of the clip above all. Of talkers it knows next to nothing, and by
# the card next to nothing of phones: 0.13 of the frames right, where the pre-trained layers have 0.68 to 0.71.

# %%
last, best, verdicts = n_states - 1, {}, {}
for name, (y, _) in labels.items():
    rows = rows_of[name]
    truth, who = y[rows["test"]], talkers[rows["test"]]
    found = answers[name, "pre-trained"]
    if name == "emotion":
        on_dev = [
            measures.ua(measures.confusion(y[rows["dev"]], a["dev"], len(classes))) for a in found
        ]
        best[name] = int(np.argmax(on_dev))
        pair = found[last]["test"], found[best[name]]["test"]
        difference = intervals.paired_jackknife(
            measures.ua, truth, *pair, who, n_classes=len(classes)
        )
    else:
        best[name] = int(np.argmax([np.mean(y[rows["dev"]] == a["dev"]) for a in found]))
        pair = [
            ((truth == found[k]["test"]).astype(int), np.ones(len(truth), int))
            for k in (last, best[name])
        ]
        difference = intervals.jackknife_ratio(pair, who)
    verdicts[name] = difference
if transcribed:
    best["characters"] = min(
        single, key=lambda k: letters.named(single[k].name).runs[0].summary["dev"]["cer"]
    )
    d = letters.difference(single[last].name, single[best["characters"]].name, "cer")
    verdicts["characters"] = 0 - d
pd.DataFrame({"best layer on dev": best, f"its gain over layer {last} on test": verdicts})

# %% [markdown]
# ## Learned weights, task by task
#
# Now let training choose. The encoder stays frozen; a weighted sum of its states feeds one linear head; one task at a time: emotion, gender, speaker, and speech recognition. The speaker's model
# is trained and tested on shared talkers, as its probe was. Everything runs with several seeds, because a weight that another seed does not find again is not a finding.
#
# ```{admonition} Predict first
# :class: important
# In which task will the weights differ most from equal? Will the layer with the largest weight be the layer whose probe is best?
# ```

# %% tags=["recipes"]
questions = {  # task: the probe that asks the same, the dev score that chooses the epoch, the score on test
    "emotion": ("emotion", "ua", "ua"),
    "gender": ("gender", "gender", "gender"),
    "speaker": ("talker", "speaker", "speaker"),
    "asr": ("characters", "-cer", "cer"),
}
if profile == "smoke":
    del questions["speaker"]  # its split is another slice of the corpus, to be encoded anew
questions = {task: asks for task, asks in questions.items() if asks[0] not in absent}


def one_task(task: str, name: str, **changes) -> Recipe:
    """The frozen encoder with a weighted sum of its states and one linear head."""
    leaks = {"protocol": dialogues, "allow_leaks": True} if task == "speaker" else {}
    return frozen.change(
        name=name, tasks=(task,), layers="weighted", select=questions[task][1], **leaks
    ).change(**changes)


asked = [r for task in questions for r in one_task(task, task).vary(seed=seeds)]
for name, changes in {"last": {"layers": "last"}, "average": {"layer_speed": 0.0}}.items():
    asked += one_task("emotion", name, **changes).vary(seed=seeds)

# %%
learned = sweep(asked, workers=workers)


def weights_of(runs: Runs, name: str) -> np.ndarray:
    """Layer weights of the epoch that was chosen, (seeds, L + 1)."""
    chosen = [h[h["best"]].iloc[-1] for h in runs.histories(name)]
    columns = [c for c in chosen[0].index if c.startswith("dev_layer_")]
    return np.array([row[columns].to_numpy(float) for row in chosen])


weights = {task: weights_of(learned, task) for task in questions}
pd.DataFrame(
    {
        task: {
            "test score": f"{questions[task][2]} {np.mean([r.summary['test'][questions[task][2]] for r in learned.named(task).runs]):.3f}",
            "largest weight, per seed": ", ".join(f"layer {k}" for k in w.argmax(1)),
            "largest": f"{w.max():.3f}",
            "smallest": f"{w.min():.3f}",
        }
        for task, w in weights.items()
    }
).T

# %% mystnb={"image": {"alt": "Two rows of four panels. Top: learned weight of each layer for emotion, gender, speaker and speech recognition, with seeds as small dots, and the weight times the norm of the layer. Bottom: score of a probe on each layer alone"}, "figure": {"caption": "Top: learned weights, mean and range over seeds, and each layer's share of the sum's length (weight times norm). Bottom: what a probe on that layer alone scores on test.", "name": "fig-06-weights"}}
size = norms["pre-trained"]
axes = plots.panels(2 * len(weights), rows=2, size=(3.3 * len(weights), 6.2))
for top, bottom, (task, w) in zip(
    axes[: len(weights)], axes[len(weights) :], weights.items(), strict=True
):
    share = w * size / (w * size).sum(1, keepdims=True)
    layerplots.layer_weights(
        {"weight": w, "weight × norm": share},
        ax=top,
        title=task,
        ylabel="share" if top is axes[0] else "",
    )
    question = questions[task][0]
    layerplots.by_layer(
        {"pre-trained": scores[question]["pre-trained"]},
        ylabel=f"{question}, {units[question][0]}",
        ax=bottom,
    )
ax = axes[0]

# %% [markdown]
# ### Do the weights fall where the knowledge is?
#
# A rule, fixed before the runs: rank the layers by weight and by the score of their probe. If Spearman's rank correlation $\rho$ is positive with $p < 0.05$, the answer is *yes*; if negative with
# $p < 0.05$, *the opposite*; otherwise *cannot tell*. With six states only $|\rho| > 0.88$ passes; 25 states would need about 0.4. If all layers score alike there is no order to agree with.


# %%
def agreement(w: np.ndarray, score: np.ndarray) -> str:
    seen = np.isfinite(score)
    if seen.sum() < 4 or np.ptp(score[seen]) == 0:
        return "no order to compare"
    rho, p = spearmanr(w[seen], score[seen])
    return (
        f"{'cannot tell' if p >= 0.05 else 'yes' if rho > 0 else 'the opposite'} (ρ = {rho:+.2f})"
    )


follow = {}
for task, w in weights.items():
    alone = np.array([s.value for s in scores[questions[task][0]]["pre-trained"]])
    follow[task] = {
        "weight": agreement(w.mean(0), alone),
        "weight × norm": agreement(w.mean(0) * size, alone),
        "largest weight": f"layer {w.mean(0).argmax()}",
        "best probe on test": f"layer {np.nanargmax(alone)}",
        "largest weight in every seed": "same layer"
        if len(set(w.argmax(1))) == 1 and len(w) > 1
        else "not the same"
        if len(w) > 1
        else "one seed",
    }
pd.DataFrame(follow).T

# %% [markdown]
# **A weight is not an importance**, for four reasons. Layers differ in length, so the same weight brings in more of a long one. Neighbors are nearly parallel, so weight can pass between them at no cost. A layer that is poor alone
# may hold the one thing that the others lack, or serve to *subtract* what they share. And where every layer suffices, as perhaps for gender, the loss is near zero before the weights have moved at all: the weights
# then say where training started.
#
# For emotion and the speaker the largest weight is on the same layer in every seed, so these weights are findings about *something*; for gender and speech recognition it is not. Whether they follow the probes one cannot tell by the rule, for any task. Speech recognition leans on layer 2, though layer 4 alone writes best. Emotion all but drops layers 3 and 4,
# though layer 4 has the best probe on test. For the speaker the last layer takes four fifths, and for gender about half, though any layer would do.
#
# ### Does learning the weights pay?
#
# For emotion, with the frozen encoder: the last state, the plain average of all states (weights held at $1/(L+1)$), and the learned weights.

# %%
steps = [("last", "average"), ("average", "emotion"), ("last", "emotion")]
named = {"last": "last", "average": "average", "emotion": "learned"}
gained = pd.DataFrame(
    {
        f"{named[b]} − {named[a]}": {
            m: learned.difference(a, b, m) for m in ("wa", "ua", "macro_f1")
        }
        for a, b in steps
    }
).T
bold(gained, "Frozen encoder, emotion: paired differences on test; bold where zero is outside")

# %% [markdown]
# ### Other ways to weigh
#
# Is the result a property of the encoder, or of how we asked? Change one thing at a time:
#
# - **start:** 0.9 of the weight on the last or on the first state, the rest shared. If training finds an answer, it finds it from anywhere;
# - **layer norm:** each frame of each state is first brought to zero mean and unit variance, so that equal weights mean equal shares;
# - **free weights:** no softmax. Weights may be negative, and the sum may grow. (They move at the heads' speed: ten times that would be a tenth per step, on weights of a sixth.)
#
# A rule, fixed before the runs: two ends are *the same place* if their total variation distance, $\tfrac12 \sum_l |s_l - s'_l|$, is below 0.1. At the start, "last" and "first" are 0.88 apart with six states.

# %% tags=["recipes"]
ways = {"start last": {"layer_start": "last"}, "start first": {"layer_start": "first"}}
began = [task for task in ("emotion", "asr") if task in questions]
grid = {(task, name): c for task in began for name, c in ways.items()}
grid |= {
    ("emotion", "layer norm"): {"layer_norm": True},
    ("emotion", "free weights"): {"layer_softmax": False, "layer_speed": 1.0},
    ("emotion", "weights as fast as heads"): {"layer_speed": 1.0},
    ("emotion", "last, no final norm"): {"layers": str(n_states - 1)},
}
if profile == "smoke":
    grid = dict(list(grid.items())[:2] + list(grid.items())[5:6])
asked = [one_task(task, f"{task}, {name}", **c, seed=seeds[0]) for (task, name), c in grid.items()]
asked += [one_task(task, f"{task}, as above", seed=seeds[0]) for task in began]
asked.append(one_task("emotion", "emotion, last", layers="last", seed=seeds[0]))

# %%
other = sweep(asked, workers=workers)
ends = {r.name: weights_of(other, r.name)[0] for r in other.recipes if r.model.layers == "weighted"}


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation distance."""
    return float(np.abs(a - b).sum() / 2)


starts = {}
for task in began:
    names = [n for n in ("as above", "start last", "start first") if f"{task}, {n}" in ends]
    for a, b in itertools.combinations(names, 2):
        value = apart(ends[f"{task}, {a}"], ends[f"{task}, {b}"])
        starts[f"{task}: {a} / {b}".replace("as above", "start equal")] = {
            "distance at the end": round(value, 3),
            "same place": "yes" if value < 0.1 else "no",
        }
pd.DataFrame(starts).T

# %% mystnb={"image": {"alt": "Three panels with final layer weights: emotion from three starting points, speech recognition from three starting points, and emotion with softmax, with layer norm, and with free weights"}, "figure": {"caption": "Where the weights end, by where they start (left, middle) and by how layers are weighed (right); one seed each.", "name": "fig-06-ways"}}
panels_ = {
    "emotion, by start": {
        "equal": "emotion, as above",
        "last": "emotion, start last",
        "first": "emotion, start first",
    },
    "asr, by start": {
        "equal": "asr, as above",
        "last": "asr, start last",
        "first": "asr, start first",
    },
    "emotion, by kind": {
        "softmax": "emotion, as above",
        "layer norm": "emotion, layer norm",
        "free": "emotion, free weights",
    },
}
panels_ = {t: {k: ends[v] for k, v in x.items() if v in ends} for t, x in panels_.items()}
panels_ = {title: lines for title, lines in panels_.items() if lines}
axes = plots.panels(len(panels_), size=(13, 3.8))
for ax, (title, lines) in zip(axes, panels_.items(), strict=True):
    layerplots.layer_weights(lines, ax=ax, title=title)

# %% [markdown]
# Of six pairs of ends only one is the same place by the rule, and the scores hardly differ, by 0.005 at most in UA or CER: the loss does not single out one set of weights. Layer norm does not take weight from the long last layer. On the contrary, it gets more: 59 % in place of 39 %.
#
# ## How far can a weight move?
#
# The paper trains everything with Adam {cite}`kingma2015` at a learning rate of $\eta = 10^{-5}$. Adam divides each step by the size of recent gradients, so a parameter moves by about $\eta$ per step, however large its gradient
# (at most $\eta(1-\beta_1)/\sqrt{1-\beta_2} \approx 3.2\,\eta$, and that only where gradients are almost always zero). This bounds what $n$ steps can do to a weight *before any data is seen*. With 66,992 training utterances, batches of 16 and 60 epochs:

# %%
per_epoch = 66_992 // 16
n_wang, rate = 25, 1e-5


def largest_share(reach: np.ndarray, n: int) -> np.ndarray:
    """Softmax weight of one of n equal logits that rose by `reach` while all others fell by it."""
    return 1 / (1 + (n - 1) * np.exp(-2 * reach))


table = []
for epochs in (1, 5, 10, 20, 60):
    n = per_epoch * epochs
    walk = rate * np.sqrt(n)
    table.append(
        (epochs, n, rate * n, largest_share(rate * n, n_wang), walk, largest_share(walk, n_wang))
    )
reach_table = pd.DataFrame(
    table,
    columns=[
        "epochs",
        "steps",
        "reach: η × steps",
        "largest share possible",
        "random walk: η × √steps",
        "share after it",
    ],
).set_index("epochs")
reach_table.style.format(
    {
        "steps": "{:,}",
        "reach: η × steps": "{:.3f}",
        "largest share possible": "{:.1%}",
        "random walk: η × √steps": "{:.4f}",
        "share after it": "{:.2%}",
    }
)

# %% [markdown]
# All 25 weights start at 4 %. In one epoch the largest can reach 4.3 %, and only if every step pushes it up and all others down. Gradients of single batches disagree; if their signs were a coin toss, sixty epochs would
# take it to 4.04 %. The truth lies between. The paper does not say which epoch it kept, nor print one learned weight. If it kept an early one, as is usual when a large encoder is fine-tuned on 67,000 utterances, the
# "learnable" sum was, in effect, **the plain average of 25 layers**. Then Table 4 compares the last state with an average, and says nothing about learning.
#
# A larger learning rate for these 25 numbers alone would remove the doubt.

# %% mystnb={"image": {"alt": "Largest possible softmax weight of one of 25 layers against the epoch, for learning rates of 1e-5, 1e-4 and 1e-3, on a logarithmic time axis"}, "figure": {"caption": "Upper bound on the largest of 25 layer weights after so many epochs of Wang's training, if every step pushed the same way. The dotted curve, flat at 4 %, is a random walk at the paper's rate.", "name": "fig-06-reach"}}
epochs = np.geomspace(0.1, 60, 60)
lines = {
    f"η = {r:g}": (epochs, largest_share(r * per_epoch * epochs, n_wang))
    for r in (1e-5, 1e-4, 1e-3)
}
lines["η = 1e-05, random walk"] = (
    epochs,
    largest_share(rate * np.sqrt(per_epoch * epochs), n_wang),
)
ax = plots.curves(
    lines,
    xlabel="epoch",
    ylabel="largest share possible",
    log="x",
    marks=False,
    source="arithmetic, no speech",
)
ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
_ = ax.set(xticks=[0.1, 1, 10, 60], xticklabels=["0.1", "1", "10", "60"])

# %% [markdown]
# So every comparison of "last" with "learnable" needs a third system: **the average, not learned**. And every figure of learned weights should say how far they could have moved. Ours do, in the next section.
#
# ## The last state against learnable weights, fine-tuned
#
# Now Wang's proposed system itself: four tasks, {term}`co-attention`, the encoder fine-tuned. It ran three times per seed: with the last state, with the average of all states (weights held), and with learnable weights at the rate of the
# heads. On the demo tier "fine-tuned" means less than in the paper. The encoder keeps three of its five layers, so there are four states, and only the third layer is trained.
#
# ```{admonition} Predict first
# :class: important
# The probes say what single layers of the *frozen* encoder know. Fine-tuning can move knowledge to any layer that the loss looks at. Does that make a sum over layers more useful, or less?
# ```

# %%
tuned = sweep(systems, workers=workers)
tuned.summary()

# %% mystnb={"image": {"alt": "Three panels with paired differences in WA, UA and macro-F1: average minus last, learnable minus average, and learnable minus last, with 95 percent intervals and a line at zero"}, "figure": {"caption": "Fine-tuned four-task system: what averaging adds to the last state, what learning adds to averaging, and the two together, which is Table 4's comparison. Paired differences on test, 95 % intervals over talkers and seeds.", "name": "fig-06-table4"}}
pairs = {
    "average − last": ("last", "average"),
    "learnable − average": ("average", "learnable"),
    "learnable − last": ("last", "learnable"),
}
METRICS = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}
effects = {m: {name: tuned.difference(a, b, m) for name, (a, b) in pairs.items()} for m in METRICS}
axes = plots.panels(3, size=(12, 2.8), sharey=True)
for ax, (metric, rows) in zip(axes, effects.items(), strict=True):
    plots.intervals(rows, xlabel=f"difference in {METRICS[metric]}", ax=ax, zero=True)


# %% [markdown]
# The first two rows add up to the third. Read them in this order. If *average − last* carries the gain, more layers help but learning does not. If *learnable − average* carries it, the weights matter.
# Three seeds tell little about luck in training, and the interval is wide for it.
#
# **None of the three can be told apart.** In {term}`macro-F1` *average − last* is 0.026 [−0.020, 0.072] and *learnable − average* −0.020 [−0.065, 0.025]. {term}`WA` and UA point the same way, with zero inside all their intervals. Table 4's comparison, *learnable − last*, is 0.006 [−0.011, 0.022]:
# one cannot tell it from nothing. The frozen encoder above shows no gain of the average either, −0.003, as the card led us to expect.
#
# The next figure shows how little the weights did: all stay between 23 and 27 %, and the average has 25. Two sums so alike are nearly the same system.
#
# ### How the weights moved

# %% mystnb={"image": {"alt": "Three panels with the weight of each layer after each epoch: frozen encoder for emotion, frozen encoder for speech recognition, and the fine-tuned four-task system"}, "figure": {"caption": "Layer weights after each epoch; dark lines are upper layers, thin lines seeds. Left and middle: frozen encoder, weights ten times as fast as the heads. Right: the fine-tuned system, same speed for both. Note the different scales.", "name": "fig-06-paths"}}
shown = {
    "frozen, emotion": learned.histories("emotion"),
    "frozen, asr": learned.histories("asr") if transcribed else [],
    "fine-tuned, four tasks": tuned.histories("learnable"),
}
shown = {title: found for title, found in shown.items() if found}
axes = plots.panels(len(shown), size=(13, 3.8))
for ax, (title, found) in zip(axes, shown.items(), strict=True):
    n = found[0].columns.str.startswith("dev_layer_").sum()
    layerplots.weight_paths(found, start=[1 / n] * n, ax=ax, title=title)

# %% [markdown]
# And how far could they have moved? The reach is the sum of all learning rates of the training times `layer_speed`. What was used of it is half the distance between the logits that rose and fell most.


# %%
def reach(recipe: Recipe, history: pd.DataFrame) -> float:
    """About how far Adam could carry one logit in a whole training."""
    n = int(history["steps"].sum())
    scale = sum(loop.learning_rate_scale((k + 0.5) / n, recipe.train) for k in range(n))
    return recipe.model.layer_speed * recipe.train.lr_head * scale


moved = {}
for name, runs, key in (
    ("frozen, emotion", learned, "emotion"),
    ("frozen, asr", learned, "asr"),
    ("fine-tuned, four tasks", tuned, "learnable"),
):
    if key not in runs.names():
        continue
    group = runs.named(key)
    history, w = group.histories(key)[0], weights_of(runs, key)[0]
    far = reach(group.recipes[0], history)
    moved[name] = {
        "steps": int(history["steps"].sum()),
        "reach (logits)": far,
        "used": np.ptp(np.log(w)) / 2,
        "largest share possible": largest_share(far, len(w)),
        "largest share": w.max(),
        "equal share": 1 / len(w),
    }
moved = pd.DataFrame(moved).T
moved.style.format(
    {"steps": "{:.0f}", "reach (logits)": "{:.2f}", "used": "{:.2f}"}
    | dict.fromkeys(["largest share possible", "largest share", "equal share"], "{:.1%}")
)

# %% [markdown]
# Where *used* is close to the reach, the budget decided the weights, not the data. Where it stays far below, the weights stopped because they had no reason to go on.
#
# ## Against what was expected
#
# The rules were given above, before the runs; here they are applied. *Expected* follows from the card and holds for the demo tier only; *open* is what the card cannot say: whether weights follow where layers do differ, and whether
# the loss holds them to one place although neighbors are nearly parallel.

# %%
marks = []
for name in labels:
    weaker = [
        k
        for k in range(n_states)
        if not scores[name]["pre-trained"][k].low > scores[name]["random"][k].high
    ]
    marks.append(
        (
            f"{name}: every pre-trained layer beats its random copy, intervals apart",
            "yes",
            "yes" if not weaker else f"not layers {weaker}",
        )
    )
marks.append(
    (
        "emotion: the best layer beats the last one",
        "cannot tell",
        f"{verdict(verdicts['emotion'])}: {verdicts['emotion']}",
    )
)
for name in [n for n in ("talker", "characters") if n in best]:
    marks.append(
        (
            f"{name}: an upper layer (above the middle) is best on dev",
            "yes",
            "yes" if best[name] > last / 2 else f"no, layer {best[name]}",
        )
    )
for task in questions:
    sure = "cannot tell" if task in ("emotion", "gender") else "open"
    marks.append((f"{task}: learned weights follow the probes", sure, follow[task]["weight"]))
for name, row in starts.items():
    marks.append(
        (f"{name}: same end", "open", f"{row['same place']}: {row['distance at the end']} apart")
    )
for name, d in effects["macro_f1"].items():
    marks.append(
        (f"fine-tuned, {name} in macro-F1 is above zero", "cannot tell", f"{verdict(d)}: {d}")
    )
marks = pd.DataFrame(marks, columns=["question", "expected", "found"])
if not planted:
    marks["expected"] = "open"
marks.style.hide(axis="index")

# %% [markdown]
# Found as planted: talkers and characters are read best above the middle, for emotion one cannot tell the best layer from the last, nor, fine-tuned, the last state, the average and learned weights from each other. One answer was not expected: for emotion the last layer does not beat its random copy by the rule. All others do.
#
# "Cannot tell" is a sensible expectation where the card shows layers that hardly differ: an effect smaller than the interval is what we predict, and it looks the same as none. A demo tier that finds little gain does not refute the paper: a gain
# needs layers that differ, and whether WavLM-large has them is a question for the full tier.
#
# ## What the paper did not say
#
# Each row changes one choice that the text leaves open, on the frozen encoder, for one seed: paired difference on test to the choice of the recipe. With one seed an interval knows about talkers and not about luck in training.

# %%
base = {"last, no final norm": "emotion, last"}
open_rows = {}
for task, name in grid:
    a, b = base.get(name, f"{task}, as above"), f"{task}, {name}"
    wanted = ("ua", "macro_f1") if task == "emotion" else ("cer",)
    open_rows[f"{task}: {name}, against {'last' if name in base else 'the recipe'}"] = {
        m: other.difference(a, b, m) for m in wanted
    }
bold(pd.DataFrame(open_rows).T)

# %% [markdown]
# For CER, below zero is better. Two rows have an interval below zero in UA: layer norm (−0.018) and free weights (−0.021). None is above; the plain softmax of the recipe is no worse in UA than anything else tried. Where speech recognition starts moves its CER by 0.005 to either side. All that with one seed.
#
# Also open: whether $h_0$ is among "all hidden layers"; whether one weighting serves all four tasks, as the paper's figure suggests and as we run it, or each has its own; and whether the *last hidden
# state* has passed the final LayerNorm.
#
# ## This chapter's claims
#
# The ledger's slice for this chapter, from the runs above ([chapter 08](08_claims) has the rules):

# %%
pages.chapter("06", profile, corpus, data_root)

# %% [markdown]
# Learnable weights against the last state: both directions stay within seed noise, as the card made us expect. So do learned weights against a fixed average. The gains that the text prints, 1.67, 1.91 and 2.18 points, do follow from the cells of Table 4. *Training assigns the weights* has a limit that needs no run: the reach, computed above, bounds what any training can assign. No weight is printed.
#
# One more thing can be said of Table 4's first row without any data. On MSP-Podcast accuracy rises by 0.75 points: 24 of 3,200 utterances. Let $b$ be the utterances that only the new system gets right and $c$ those that only
# the old one does. Then $b - c = 24$, and the sign test asks whether $(b-c)/\sqrt{b+c}$ exceeds 1.96. It does only if $b + c < (24/1.96)^2 \approx 150$: if the two systems differ in correctness on fewer than 4.7 % of the utterances. Two seeds of *one*
# recipe may well differ on more than that; the next cell counts it on our test set. And this test is generous, for it takes utterances of one talker as independent.

# %%
disagree = {}
for name in tuned.names():
    truth, predictions, _ = tuned.stacked(name)
    hits = predictions == truth
    for i, j in itertools.combinations(range(len(hits)), 2):
        disagree[f"{name}, seeds {tuned_seeds[i]} and {tuned_seeds[j]}"] = (
            f"{np.mean(hits[i] != hits[j]):.1%}"
        )
truth, a, _ = tuned.stacked("last")
b = tuned.stacked("learnable")[1]
disagree["last and learnable, same seed"] = f"{np.mean((a == truth) != (b == truth)):.1%}"
pd.Series(disagree, name="exactly one of the two is right").to_frame()

# %% [markdown]
# ### The full tier
#
# With the licensed corpus and a GPU the same cells probe WavLM-large's 25 states and fine-tune it nine times; probes use at most `probe_rows` training utterances:
#
# ```
# serlib run 06 -p profile=full -p data_root=/data/MSP-Podcast
# ```
#
# The full tier keeps the paper's learning rate for the weights. Its test of Table 4 is therefore also a test of the arithmetic above.

# %% [markdown]
# ## Exercises
#
# Answer first, then unfold the solution. Below many answers stands a check, which gives a hint if something is wrong. To work without solutions in sight, make a notebook that has none: `serlib exercises 06 --out FOLDER`.

# %% tags=["hide-input"]
import numpy as np
import torch

from serbook.lesson import check

# %% [markdown]
# **Check 1.** Six states with equal weights. One logit rises by 1, the others stay. What is its weight? And if the other five also fall by 1?
#
# ```{dropdown} Solution
# $e/(e+5) = 0.352$, and $e^2/(e^2+5) = 0.596$: a softmax feels differences only, so falling rivals count like rising.
# ```

# %% tags=["solution", "hide-input"]
rising_alone, with_falling_rivals = np.e / (np.e + 5), largest_share(1.0, 6)
print(f"{rising_alone:.3f}, {with_falling_rivals:.3f}")

# %% tags=["check", "hide-input"]
logits = torch.tensor([[1.0, 0, 0, 0, 0, 0], [1, -1, -1, -1, -1, -1]])
check.number(
    [rising_alone, with_falling_rivals],
    logits.softmax(dim=1)[:, 0],
    {
        "Those are e / 6 and e² / 6. The denominator grows with the logit, too.": [
            np.e / 6,
            np.e**2 / 6,
        ],
        "Falling rivals count: a softmax feels differences.": [np.e / (np.e + 5)] * 2,
    },
    within=0.001,
)

# %% [markdown]
# **Check 2.** In Wang's setting, after how many whole epochs *can* one layer hold a tenth of the weight? And half of it?
#
# ```{dropdown} Solution
# Solve $1/(1 + 24\,e^{-2r}) = p$ for the reach $r = \tfrac12 \ln\bigl(24\,p/(1-p)\bigr)$, and divide by the reach of one epoch, 0.042: 12 epochs for a tenth, 38 for a half, with every single step in the same direction.
# ```

# %% tags=["solution", "hide-input"]
epochs_to = {p: 0.5 * np.log(24 * p / (1 - p)) / (rate * per_epoch) for p in (0.1, 0.5)}
for p, needed in epochs_to.items():
    print(f"share {p}: {needed:.1f} epochs")
for_a_tenth, for_a_half = (int(np.ceil(needed)) for needed in epochs_to.values())

# %% tags=["check", "hide-input"]
shares_after = largest_share(1e-5 * (66_992 // 16) * np.arange(200), 25)
check.number(
    [for_a_tenth, for_a_half],
    [int((shares_after < p).sum()) for p in (0.1, 0.5)],
    {
        "The rivals fall while one rises: the difference grows by twice the reach.": [
            2 * int((shares_after < p).sum()) for p in (0.1, 0.5)
        ]
    },
    within=0.5,
    hint="One epoch has 4,187 steps of 1e-5. Try numbers of epochs in `largest_share`.",
)

# %% [markdown]
# **Explore.** A sum keeps the width; a *concatenation* of all states keeps everything. Probe emotion on the concatenated means. Is there more in all layers together than in the best one?
#
# ```{dropdown} Solution
# The cell fits both by least squares, which is solved exactly also where there are more numbers than utterances; the penalty is chosen by leaving out one utterance of train after the other. If the concatenation is no better than the best single layer, the layers repeat each other as far as a linear probe can see, and no weighting of them can help it much.
# ```

# %% tags=["solution", "hide-input"]
y = labels["emotion"][0]
rows = rows_of["emotion"]
layers_ = means["pre-trained"].reshape(len(y), -1), means["pre-trained"][:, best["emotion"]]
together, alone = (
    make_pipeline(
        StandardScaler(), RidgeClassifierCV(np.logspace(0, 5, 6), class_weight="balanced")
    )
    .fit(x[rows["train"]], y[rows["train"]])
    .predict(x[rows["test"]])
    for x in layers_
)
pair = intervals.paired_jackknife(
    measures.ua, y[rows["test"]], alone, together, talkers[rows["test"]], n_classes=len(classes)
)
print(f"all layers − layer {best['emotion']} in UA: {pair}")

# %% [markdown]
# **Find the bug 1.** A colleague wants to know which layer matters, reads free weights off a trained sum, and is proud of a clear ranking. Both sums below are the same function. What is wrong?


# %% tags=["bug"]
def colleagues_importance(weights, states):
    """Share of each layer in a sum: weights (L,) and states (L, T, D) to (L,), which sum to 1."""
    return weights.abs() / weights.abs().sum()


# %%
w = torch.tensor(ends.get("emotion, free weights", ends["emotion, as above"]))
as_they_are = h["pre-trained"][:, :200]
w = w.to(as_they_are.dtype)
length = as_they_are.norm(dim=-1).mean(1)
rescaled = as_they_are / length[:, None, None]
agree = torch.allclose(
    torch.einsum("l,ltd->td", w, as_they_are),
    torch.einsum("l,ltd->td", w * length, rescaled),
    atol=1e-3,
)
print(f"the same output: {agree}")
pd.DataFrame(
    {
        "layers as they are": colleagues_importance(w, as_they_are),
        "each layer at mean length 1": colleagues_importance(w * length, rescaled),
    }
).round(3)

# %% [markdown]
# ```{dropdown} Solution
# The "importance" depends on the unit that each layer is measured in. Divide a layer by its length and multiply its weight by it: the function stays, the ranking may not. Only $\lvert s_l \rvert \lVert h_l \rVert$ is free of that choice, and
# even that ignores that layers overlap. To learn what a layer contributes, take it away and measure (`layers="0"` and so on), or probe it.
# ```


# %% tags=["solution", "hide-input"]
def repaired_importance(weights, states):
    """Share of each layer by the mean length over frames of what it adds to the sum."""
    ### BEGIN SOLUTION
    size_of = weights.abs() * states.norm(dim=-1).mean(dim=1)
    return size_of / size_of.sum()
    ### END SOLUTION


# %% tags=["check", "hide-input"]
def shares_of_length(weights, states):
    lengths = [
        np.mean([np.sqrt(sum(float(v) ** 2 for v in frame)) for frame in w * layer])
        for w, layer in zip(weights, states, strict=True)
    ]
    return np.array(lengths) / sum(lengths)


toy = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
check.function(
    repaired_importance,
    shares_of_length,
    [
        (torch.tensor([0.5, 0.3, -0.2]), toy * torch.tensor([1.0, 4.0, 9.0])[:, None, None]),
        (torch.tensor([1.0, 1.0, 1.0]), toy),
    ],
    {
        "The states do not enter: measure a layer in another unit, and the ranking changes.": (
            colleagues_importance
        ),
        "A negative weight counts by its size, as a positive one does.": (
            lambda w, h: (w * h.norm(dim=-1).mean(1)) / (w * h.norm(dim=-1).mean(1)).sum()
        ),
        "You take the length of the mean frame. Frames that point apart cancel in it: average the lengths.": (
            lambda w, h: (
                (w.abs() * h.mean(1).norm(dim=-1)) / (w.abs() * h.mean(1).norm(dim=-1)).sum()
            )
        ),
    },
    within=1e-5,
)

# %% [markdown]
# **Find the bug 2.** Another colleague gives the rarest class more room: she adds all its utterances to the training rows once more. Look at the recalls.


# %% tags=["bug"]
def colleagues_rows(role, label):
    """Rows to train on: those of train, then those of the class that is rarest in train again."""
    train = np.flatnonzero(role == "train")
    rarest = min(set(label[train].tolist()), key=label[train].tolist().count)
    return np.r_[train, np.flatnonzero(label == rarest)]


# %%
y, rows = labels["emotion"][0], dict(rows_of["emotion"])
known = np.isin(np.arange(len(y)), np.concatenate([*rows.values()]))
rows["train"] = colleagues_rows(np.where(known, role, "unheard"), np.where(known, y, -1))
fair, hers = (
    measures.recalls(measures.confusion(y[rows["test"]], said["test"], len(classes)))
    for said in (
        answers["emotion", "pre-trained"][last],
        probe(means["pre-trained"][:, last], y, rows),
    )
)
pd.DataFrame({"recall of the probe": fair, "of hers": hers}, index=list(classes)).round(2)

# %% [markdown]
# ```{dropdown} Solution
# The recall of one class leaps: that of the rarest in train. (The others move too, as they do whenever the training rows change.) Its utterances are taken from the *whole* corpus, test included, so the probe has seen the answers. It is a leak that no check of the three roles finds, because the roles are right: the rows that are trained on are not those of train. The split must be made before anything is weighted, drawn or fitted.
# ```


# %% tags=["solution", "hide-input"]
def repaired_rows(role, label):
    """Rows to train on: those of train, then those of its rarest class again, from train only."""
    ### BEGIN SOLUTION
    train = np.flatnonzero(role == "train")
    kinds, counts = np.unique(label[train], return_counts=True)
    return np.r_[train, train[label[train] == kinds[counts.argmin()]]]
    ### END SOLUTION


# %% tags=["check", "hide-input"]
def rows_one_by_one(role, label):
    train = [i for i, r in enumerate(role) if r == "train"]
    heard_classes = [int(label[i]) for i in train]
    least = min(heard_classes.count(c) for c in heard_classes)
    rare = min(c for c in heard_classes if heard_classes.count(c) == least)
    return [*train, *(i for i in train if label[i] == rare)]


some_roles = np.array(["train", "test", "train", "dev", "train", "test", "train"])
check.function(
    repaired_rows,
    rows_one_by_one,
    [
        (some_roles, np.array([0, 1, 0, 1, 1, 1, 0])),
        (some_roles, np.array([2, 0, 2, 0, 0, 2, 0])[::-1].copy()),
        (some_roles, np.array([1, 2, 1, 0, 0, 0, 2])),
    ],
    {
        "Rows of dev and test are still among them.": colleagues_rows,
        "Nothing is added. The rarest class of train comes twice.": (
            lambda role, label: np.flatnonzero(role == "train")
        ),
        "The rarest class of the whole corpus is not always that of train; test has no say in it.": (
            lambda role, label: [
                *np.flatnonzero(role == "train"),
                *np.flatnonzero((role == "train") & (label == np.bincount(label).argmin())),
            ]
        ),
    },
)

# %% [markdown]
# **Research.** Wang's system has one weighting for four tasks. SUPERB has one per task. How much do the tasks disagree? Compare the weights that single tasks found with each other, and design the experiment that would decide
# whether a weighting per task pays.
#
# ```{dropdown} Solution
# The table gives total variation distances between the mean weights of the four tasks; compare them with the distances between seeds of one task, on the diagonal. If tasks are no further apart than seeds, one weighting serves them all. The experiment: one `LayerSum` per branch,
# the same heads, paired seeds, and a reach large enough that the weights could separate.
# ```

# %% tags=["solution", "hide-input"]
distance = pd.DataFrame(
    {
        a: {b: apart(wa.mean(0), wb.mean(0)) for b, wb in weights.items()}
        for a, wa in weights.items()
    }
)
for task, found in weights.items():
    between = [apart(p, q) for p, q in itertools.combinations(found, 2)]
    distance.loc[task, task] = np.mean(between) if between else np.nan
distance.round(3)

# %% [markdown]
# ## Recap
#
# - An encoder of $L$ layers has $L + 1$ states. Ask the library what they are, and where the last norm went.
# - Probe single layers first: they say what a weighting could gain at most. The random encoder is the control.
# - A learned weight is not an importance. Look at norms, seeds and starting points before reading it.
# - Adam moves a weight by about the learning rate per step. Multiply before you interpret.
# - "Learnable beats last" needs a third system, the plain average, or it says nothing about learning.
#
# Next: chapter 07 fuses several encoders instead of several layers. What the losses contribute is chapter 05's subject.
