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
# # 00 Start here
#
# Someone says "Fine." You know at once whether it is fine. How? And can a machine know?
#
# **Speech emotion recognition** (SER) takes a recording of one utterance and returns an emotion: *anger*, *sadness*, *neutral* and so on.
# **Multi-task learning** trains the same network for a second job at the same time, such as writing down the words or naming the speaker, in the hope
# that the second job teaches it something useful for the first. Four recent systems claim that this works. This book runs them again and finds out.
#
# ```{admonition} What you will be able to do
# :class: tip
# - say what this book tests and what its four tiers can and cannot prove;
# - tell what your machine can run and how long each chapter takes;
# - look at an utterance as a waveform, a mel spectrogram and a pitch contour;
# - load a trained recognizer, let it judge an utterance, and find where it errs.
# ```
#
# **Before this chapter:** nothing but Python. Knowing PyTorch helps from chapter 02 on.
#
# **The claim under test**, in one sentence: *training a speech emotion recognizer with a second task makes it better at emotion.*

# %% tags=["parameters"]
profile = "demo"
corpus = ""
data_root = ""
own_file = ""

# %% tags=["hide-input"]
import inspect
import os
import platform

import numpy as np
import pandas as pd
import psutil
import torch
from IPython.display import HTML, display

from serbook.figures import plots
from serbook.lesson import cells
from serbook.runner import notebooks
from serlib.corpora.demo import oracle
from serlib.data import audio
from serlib.data.batching import Item, collate
from serlib.experiments import dataset, experiment
from serlib.experiments.sweep import sweep
from serlib.metrics import intervals, measures
from serlib.recipes import papers
from serlib.training import evaluation

planted = (corpus or papers.CORPORA.get(profile)) == "demo"
plots.style(profile, corpus)
cells.cost("00_start_here")

# %% [markdown]
# ## What a machine hears in people
#
# ![One score for each layer of an encoder, on two corpora: it rises to the middle layers and falls towards the last](_static/human.png)
#
# *Acted human speech, from chapter [09](09_human_speech): how well a linear layer reads the emotion from each state of a frozen encoder that was trained to write down words.*
#
# Nobody told this encoder about emotion, and yet its middle layers know it: 0.90 of seven emotions right on EmoDB (mean of the classes' recalls), where guessing has 0.14 and a classical system 0.71. Its last layer, which most systems read, knows much less. So a good recognizer is not far away, and the question of this book is a finer one: does a *second task* make it better still, and for which reason? For that one must know the true answer. On human speech nobody does; on the synthetic speech of the demo tier we do.

# %% [markdown]
# ## What the book tests
#
# | System | Second tasks | Main claim, as printed |
# |:--|:--|:--|
# | Cai et al. 2021 {cite}`cai2021` | transcription (CTC) | 78.15 % accuracy on IEMOCAP with the second task, 71.66 % without |
# | MTLSER 2025 {cite}`chen2025` | transcription, speaker | WA 82.63 %, UA 82.19 % on IEMOCAP |
# | Wang et al. 2025 {cite}`wang2025` | transcription, speaker, gender | macro-F1 35.49 % against 29.83 % for one task, on MSP-Podcast |
# | Zgórzyński et al. 2025 {cite}`zgorzynski2025` | valence, arousal, dominance | multi-task training beats separate training |
#
# The last two entered a public challenge, whose organizers gave a baseline {cite}`naini2025`. For each claim we ask four things that the papers leave open. Is the split honest: does the test set
# hold only speakers that training never heard? Does the gain survive several random seeds and an interval? Would the single-task system have done as well with the same care? And does the
# second task help *for the reason given*?
#
# ## Four tiers, one source
#
# IEMOCAP {cite}`busso2008` and MSP-Podcast {cite}`lotfian2019` may not be handed on, and the encoders are large. So each chapter runs in up to four tiers, chosen by its parameter `profile`:
#
# | `profile` | Speech | Encoder | For |
# |:--|:--|:--|:--|
# | `smoke` | a slice of the demo corpus | tiny, shipped | tests |
# | `demo` | **synthetic** speech, made on your machine in half a minute | tiny, shipped | everyone: no license, no download, no GPU |
# | `open` | **acted human** speech that anybody may fetch | Whisper base, frozen | everyone with a network, on a CPU; chapter 09 |
# | `full` | the licensed corpora, from your `data_root` | wav2vec 2.0, WavLM, Whisper, RoBERTa | reviewers with a GPU |
#
# In each tier `corpus` and `data_root` may name a corpus of your own (chapter 01 says how its table is made).
#
# The same cells run in all of them (03 and 07 have nothing to say at `open`). **A demo result is never evidence about human speech.** What the demo tier offers instead is rarer: its corpus has *planted answers*. We know how every utterance was made, so we
# know the best possible score, and a method can be caught being wrong.
#
# ## Your machine

# %%
gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
memory = psutil.virtual_memory().total / 2**30
pd.Series(
    {
        "processor cores": os.cpu_count(),
        "memory": f"{memory:.0f} GB",
        "GPU": gpu,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "tiers you can run": "smoke, demo" + (", full (given a corpus)" if gpu != "none" else ""),
    },
    name="this machine",
).to_frame()

# %% [markdown]
# What the chapters took when the notebooks of this book were made (the demo tier, on the number of cores given). The book runs several chapters at a time where cores and memory allow, so it takes less than their sum. A chapter whose models another one had trained before reads them, and takes less:

# %% tags=["hide-input"]
pd.DataFrame.from_dict(
    {
        name: {
            "minutes": round(took["seconds"] / 60, 1),
            "peak memory (GB)": round(took["peak_mb"] / 1024, 1),
            "cores": took["cores"],
        }
        for name, took in notebooks.measured().items()
        if took
    },
    orient="index",
)

# %% [markdown]
# ## A tour in five minutes
#
# ### Listen
#
# The table below is the corpus: one row per utterance, the **{term}`manifest`**. It says who speaks, what is said, which emotion the listeners agreed on, and on which side of the split the row lies.

# %% tags=["recipes"]
from serlib.models.recognizer import SER
from serlib.recipes import papers

recipe = papers.wang2025_baseline(profile, corpus, data_root)
asked = [recipe]

# %%
data = dataset.load(recipe)
table = data.table
table[["utt_id", "speaker", "gender", "emotion", "valence", "arousal", "text", "split"]].head()

# %% [markdown]
# Here is one talker in four moods. Close your eyes and guess before you read.


# %%
def play(row: pd.Series, wave: np.ndarray) -> HTML:
    """The sound of a row, with its transcript."""
    return cells.player(wave, f"{row['emotion']}: “{row['text']}” ({row['speaker']})")


moods = ("neutral", "happiness", "sadness", "anger")
per_talker = table[table["emotion"].isin(moods)].groupby("speaker")["emotion"].nunique()
talker = per_talker[per_talker == per_talker.max()].index[0]
chosen = [table.index[(table["speaker"] == talker) & (table["emotion"] == mood)] for mood in moods]
chosen = [int(places[0]) for places in chosen if len(places)]
others = [i for i in table.index[table["speaker"] == talker] if i not in chosen]
chosen += others[: max(0, 2 - len(chosen))]
if planted:  # licensed audio must not get into a notebook
    for i in chosen:
        display(play(table.loc[i], data.store[i]))

# %% [markdown]
# ### Look
#
# Three views of one utterance on the same time axis.
#
# - The **waveform** is air pressure against time, 16,000 numbers a second.
# - The **{term}`mel spectrogram`** cuts it into windows of 25 ms, a hundred a second, and shows the energy in 80 frequency bands. The bands are spaced like the ear's own scale, the mel scale
#   $m = 2595 \log_{10}(1 + f/700)$: fine at low frequencies, coarse at high ones. Dark stripes are silence; horizontal bars are the resonances that make vowels.
# - The **pitch** is how fast the vocal folds open and close, in hertz. It exists only where the voice is voiced; *s* and *f* have none.

# %% mystnb={"image": {"alt": "Waveform, mel spectrogram and pitch contour of a neutral utterance, on one time axis"}, "figure": {"caption": "A neutral utterance: waveform, log-mel spectrogram, pitch.", "name": "fig-00-neutral"}}
axes = plots.waveform(
    data.store[chosen[0]],
    title=f"{table.loc[chosen[0], 'emotion']}: {table.loc[chosen[0], 'text']}",
)

# %% mystnb={"image": {"alt": "Waveform, mel spectrogram and pitch contour of an emotional utterance by the same talker, on one time axis"}, "figure": {"caption": "The same talker in another mood. Compare level, tempo, and the height and width of the pitch contour.", "name": "fig-00-mood"}}
axes = plots.waveform(
    data.store[chosen[1]],
    title=f"{table.loc[chosen[1], 'emotion']}: {table.loc[chosen[1], 'text']}",
)

# %% [markdown]
# ### Recognize
#
# ```{admonition} Predict first
# :class: important
# Eight classes, so a fair die is right in one case out of eight. Two utterances out of five or more are neutral. What accuracy would impress you? Write it down.
# ```
#
# Now a recognizer. It is the single-task baseline of chapter 02: a pre-trained encoder turns the waveform into frames, attentive pooling turns the frames into one vector, a small network
# turns the vector into eight scores. The first call trains it, with a progress bar; each later call, in any chapter, reads the finished run.
# Where no bar is seen, another chapter came first and trained it.

# %%
runs = sweep(asked)
run = runs.runs[0]
pd.DataFrame(
    {
        "this recognizer": runs.summary().iloc[0],
        **(
            {"best possible": oracle.ceilings(20_000).loc["everything"].round(3)} if planted else {}
        ),
    }
).drop(index=["seeds", "speakers"])

# %% [markdown]
# **{term}`WA`** is plain accuracy. **{term}`UA`** is the mean over classes of the share found, so that rare classes count as much as frequent ones. **Macro-F1** is like UA but also charges for false alarms.
# The brackets are a 95 % interval: how far the number might move with other speakers. Chapters 01 and 02 explain all of them.
#
# What the recognizer does with a batch of utterances is one method, `SER.forward` in `serlib/models/recognizer.py`. Each chapter prints the function that is its subject in this way,
# and the page [The house](house.md) shows where all the others are.

# %% tags=["hide-output"]
print(inspect.getsource(SER.forward))

# %% [markdown]
# Let it judge the utterances that you heard:

# %%
model = experiment.trained(recipe)


def judge(waves: list[np.ndarray]) -> pd.DataFrame:
    """Probabilities (utterances, classes) of the trained recognizer."""
    prepared = [model.encoder.prepare(wave) for wave in waves]
    items = [Item(w, f"clip {i}", i, len(w) / audio.SAMPLE_RATE) for i, w in enumerate(prepared)]
    predictions = evaluation.predict(model, [collate(items)])
    return predictions[[f"p_{c}" for c in range(len(recipe.classes))]].set_axis(
        recipe.classes, axis=1
    )


judged = judge([data.store[i] for i in chosen])
judged.insert(0, "listeners said", table.loc[chosen, "emotion"].to_numpy())
judged.style.format(precision=2).background_gradient(  # light enough for black numbers
    axis=1, cmap="Blues", vmin=0, vmax=1.5, text_color_threshold=0
)

# %% [markdown]
# ### Where it errs
#
# One number hides which mistakes are made. The **{term}`confusion matrix`** shows them: a row for each true class, a column for each answer.

# %% mystnb={"image": {"alt": "Confusion matrix of the recognizer on the test set, eight classes, share of the true class in color and counts in print"}, "figure": {"caption": "Confusion on test. The diagonal is right; look for rows that end up in the neutral column.", "name": "fig-00-confusion"}}
ax = plots.confusion(runs.confusion(recipe.name), recipe.classes)

# %% [markdown]
# Which errors is it *surest* of? These are worth a listen: sometimes the machine is wrong, sometimes the five simulated listeners were. What was planted tells which. In the demo run it is the machine both times.

# %%
test = run.predictions("test")
test["confidence"] = test[[f"p_{c}" for c in range(len(recipe.classes))]].max(axis=1)
wrong = test[test["truth"] != test["prediction"]].sort_values("confidence", ascending=False).head(2)
where = table.set_index("key")
for key, row in wrong.iterrows():
    print(
        f"{key}: listeners said {recipe.classes[int(row['truth'])]}, the machine "
        f"{recipe.classes[int(row['prediction'])]} ({row['confidence']:.0%} sure)"
        + (f"; planted was {where.loc[key, 'intended']}" if planted else "")
    )
    if planted:
        display(play(where.loc[key], data.store[int(np.flatnonzero(table["key"] == key)[0])]))

# %% [markdown]
# ### Your own voice
#
# Choose an utterance of the test set, or bring a recording of yours: one sentence of some seconds, in any format that a browser records as WAV, FLAC, OGG or MP3. **The demo recognizer has heard nothing but a synthesizer**, so expect little: its answer about
# a human voice means nothing, and finding that out is part of the tour. (On this page the panel is still; it moves in JupyterLab.)

# %%
from serbook.lesson import panel

at = np.flatnonzero((table["split"] == "test").to_numpy())[:8] if planted else []
choices = {
    f"{table.loc[i, 'emotion']}: “{table.loc[i, 'text']}” ({table.loc[i, 'speaker']})": (
        lambda i=i: data.store[i]
    )
    for i in at
}
panel.Panel(choices, lambda wave: judge([wave]).iloc[0])

# %% [markdown]
# Without a mouse, as in a run by {term}`papermill`, set the parameter `own_file` to a recording instead.

# %%
if own_file:
    display(judge([audio.load(own_file)]).style.format(precision=2))
else:
    print("own_file is empty: no recording given")

# %% [markdown]
# ## What the papers did not say
#
# Already this tour needed choices that some papers leave open: whether silence is cut, how loudness is normalized, what is done with an utterance on which listeners disagree. Ours: nothing is cut; loudness is normalized only where
# the encoder was pre-trained that way; utterances without agreement are left out, as in MSP-Podcast's class X. How many is that?

# %%
everything, _ = dataset.locate(recipe)
side = everything["split"].fillna("no official part")
share = (everything["emotion"] == "no_agreement").groupby(side).mean()
share.round(3).rename("share without agreement").to_frame()

# %% [markdown]
# ## This chapter's claims
#
# The book keeps a ledger: every printed claim with a verdict. This chapter decides none. It fixes the rules. Numbers on human speech are judged by `full` runs only; `demo` runs answer questions of direction, marked as demo, next
# to the planted right answer; a claim that no one can test (hidden labels, missing data) is called *not testable here*.

# %% [markdown]
# ## Exercises
#
# Answer first, then unfold the solution. Below many answers stands a check, which gives a hint if something is wrong. To work without solutions in sight, make a notebook that has none: `serlib exercises 00 --out FOLDER`.

# %% tags=["hide-input"]
import numpy as np

from serbook.lesson import check

# %% [markdown]
# **Check 1.** What would the recognizer's WA be if it always answered with the most frequent class of test?
#
# ```{dropdown} Solution
# The share of that class in test.
# ```

# %% tags=["solution", "hide-input"]
counts = np.bincount(test["truth"])
wa_of_one_answer = counts.max() / counts.sum()
print(f"{recipe.classes[counts.argmax()]}: {wa_of_one_answer:.3f}")

# %% tags=["check", "hide-input"]
check.number(
    wa_of_one_answer,
    (test["truth"] == test["truth"].mode()[0]).mean(),
    {
        "That is the UA of such a recognizer: one class is found, the others are not.": 1
        / len(recipe.classes),
        "That is the recognizer's own WA. Replace its answers by one class.": (
            test["truth"] == test["prediction"]
        ).mean(),
        "That is the share in the whole corpus. Only test counts.": table["emotion"]
        .value_counts(normalize=True)
        .max(),
    },
    within=0.002,
    hint="Count how often each value of `test['truth']` occurs.",
)

# %% [markdown]
# **Check 2.** How many mel lie between 100 and 200 Hz? And between 4,000 and 4,100 Hz? Use the formula of the section *Look*.
#
# ```{dropdown} Solution
# $m(200) - m(100) = 132.7$ and $m(4100) - m(4000) = 23.7$. The same hundred hertz count more than five times as much at the bottom of the scale.
# ```

# %% tags=["solution", "hide-input"]
low_step, high_step = (
    2595 * (np.log10(1 + (f + 100) / 700) - np.log10(1 + f / 700)) for f in (100, 4000)
)
print(f"{low_step:.1f} and {high_step:.1f} mel")

# %% tags=["check", "hide-input"]
check.number(
    [low_step, high_step],
    [2595 * np.log10(900 / 800), 2595 * np.log10(4800 / 4700)],
    {
        "That is with the natural logarithm. The formula has the one to base 10.": [
            2595 * np.log(900 / 800),
            2595 * np.log(4800 / 4700),
        ],
        "Those are the mel of 200 and 4,100 Hz. Take off those of the lower ends.": [
            2595 * np.log10(900 / 700),
            2595 * np.log10(4800 / 700),
        ],
    },
    within=0.1,
)

# %% [markdown]
# **Explore.** Is the recognizer better on women or on men? Give both WAs with intervals, and say whether you believe the difference.
#
# ```{dropdown} Solution
# Score the two halves separately, with intervals over speakers. With so few test speakers of each gender the intervals are wide; where they overlap by much, the honest answer is that we cannot tell.
# ```

# %% tags=["solution", "hide-input"]
gender = where.loc[test.index, "gender"]
if gender.isna().all():
    print("Skipped: nobody's gender is known in this corpus.")
for g in sorted(gender.dropna().unique()):
    half = test[(gender == g).to_numpy()]
    interval = intervals.jackknife(
        measures.wa,
        half["truth"].to_numpy(),
        half["prediction"].to_numpy(),
        half["speaker"].to_numpy(),
        n_classes=len(recipe.classes),
    )
    print(f"{g:>7}: WA {interval}, {half['speaker'].nunique()} speakers")

# %% [markdown]
# **Find the bug.** A colleague measures the level of recordings in decibels and averages over a corpus of two. One has twice the amplitude of the other, so one is 6 dB louder. His function says that the corpus is as loud as if both were the loud one, nearly.


# %% tags=["bug"]
def colleagues_level(waves):
    """Mean level of recordings in dB; 0 dB is a mean square of 1."""
    together = np.concatenate(waves)
    return float(10 * np.log10((together**2).mean()))


# %%
short, long = np.full(1_000, 0.25), np.full(9_000, 0.5)
for name, waves in {
    "short one": [short],
    "long one": [long],
    "both": [short, long],
    "short one, ten times": [short] * 10,
}.items():
    print(f"{name:>21}: {colleagues_level(waves):6.2f} dB")

# %% [markdown]
# ```{dropdown} Solution
# He puts the samples together before he averages, so a recording weighs by its length, and loud samples weigh more than quiet ones. The mean *over recordings* takes one level per recording first. The same mistake comes back in each chapter in another dress: an average needs to say over *what*.
# ```


# %% tags=["solution", "hide-input"]
def repaired_level(waves):
    """Mean level of recordings in dB, each recording counted once."""
    ### BEGIN SOLUTION
    return float(np.mean([10 * np.log10((wave**2).mean()) for wave in waves]))
    ### END SOLUTION


# %% tags=["check", "hide-input"]
def level_by_hand(waves):
    return sum(20 * np.log10(np.sqrt(np.mean(np.square(w)))) for w in waves) / len(waves)


check.function(
    repaired_level,
    level_by_hand,
    [([short, long],), ([long],), ([np.array([0.1, -0.1]), np.array([1.0, 1.0, -1.0])],)],
    {
        "Recordings still weigh by their length: the samples are put together before the mean.": (
            colleagues_level
        ),
        "You average the mean squares of the recordings. The question is about their levels in dB.": (
            lambda waves: 10 * np.log10(np.mean([(w**2).mean() for w in waves]))
        ),
    },
    within=1e-4,
)

# %% [markdown]
# **Research.** Change one number of an utterance's recipe, its pitch, say, and speak it again (`serlib.corpora.demo.corpus.render` takes a manifest row). At which pitch, if at any, does the recognizer change its mind?
#
# ```{dropdown} Solution
# Sweep the pitch of one neutral utterance and watch the probabilities. In the demo run they move, but the answer stays: at 1.4 times the pitch *neutral* is still ahead with 0.46, after 0.76 at the utterance's own, while *happiness* has come from 0.04 to 0.26. The same can be done for tempo, tilt and single words: this is how you find out *what* a model listens to, and only a synthetic corpus lets you do it with all else equal.
# ```

# %% tags=["solution", "hide-input"]
if planted:
    from serlib.corpora.demo import corpus as demo_corpus

    row = table.loc[chosen[0]].to_dict()
    factors = (0.7, 0.85, 1.0, 1.2, 1.4)
    spoken = [
        demo_corpus.render({**row, "pitch_hz": round(row["pitch_hz"] * f)})[0] for f in factors
    ]
    answers = judge([audio.from_int16(wave) for wave in spoken])
    answers.index = [f"pitch × {f}" for f in factors]
    display(
        answers.style.format(precision=2).background_gradient(
            axis=1, cmap="Blues", vmin=0, vmax=1.5, text_color_threshold=0
        )
    )

# %% [markdown]
# ## Recap
#
# - The book tests one claim: a second task makes emotion recognition better.
# - The tiers run the same cells; `open` speaks about acted human speech, only `full` about the papers' corpora.
# - The {term}`demo corpus` is synthetic and has planted answers, so the best possible score is known.
# - One utterance is a waveform, a spectrogram, a pitch contour, and a row of the manifest.
#
# Next: [01 Data imbalance](01_data_imbalance), where a guesser beats what looks like a good system.
