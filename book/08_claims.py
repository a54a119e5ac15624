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
# # 08 The claims ledger
#
# Four papers, and everything in them that can be right or wrong: each number of their tables, each sentence that says *more* or *less*. This chapter puts them
# in one list, with the rule that decides each of them, fixed before any run, and with what the runs of this book found.
#
# ```{admonition} What you will be able to do
# :class: tip
# - write a rule for a verdict that could go against you, before you run anything;
# - tell a number that did not come out from one that nobody could tell from luck;
# - check a paper's text against its own tables, with rounding taken into account;
# - read a ledger of claims: which are decided, by what, and which cannot be;
# - decide one claim with the least work, and hand the result to somebody else.
# ```
#
# **Before this chapter:** [02 Baseline](02_baseline) for {term}`paired intervals <paired interval>`. The claims themselves are explained in chapters [03](03_ctc_mtl) to [07](07_fusion).
#
# **The claim under test.** All of them: Cai et al. {cite}`cai2021`, MTLSER {cite}`chen2025`, Wang et al. {cite}`wang2025` and Zgórzyński et al. {cite}`zgorzynski2025`.

# %% tags=["parameters"]
profile = "demo"
decided = "cai2021.text.helps_a0_1"
seeds = [0]

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Markdown, display

from serbook.claims import judge, pages, rules
from serbook.claims.decide import decide
from serbook.claims.judge import of_number
from serbook.claims.ledger import read
from serbook.figures import plots
from serbook.lesson import cells
from serlib.metrics.intervals import Interval

plots.style(profile)
pd.set_option("display.max_colwidth", None)
cells.cost("08_claims")

# %% [markdown]
# ## What a claim is
#
# The ledger is one file, `book/claims.yaml`. Each claim has an id that never changes, the place in the paper, the printed digits, what was scored there and what is scored here, and a rule. Here are two:

# %%
ledger = read()
pair = [ledger["cai2021.alpha.a0_1.wa"], ledger["cai2021.text.helps_a0_1"]]
shown = ("where", "says", "printed", "corpus", "protocol", "chapter", "rule", "planted")
pd.DataFrame({c.id: {name: getattr(c, name) for name in shown} for c in pair})

# %% [markdown]
# The first is a *number*. It was measured on human speech, so only runs of the full tier can decide it. The second is a *direction*. The {term}`demo corpus` can answer it too, for synthetic speech, and there the right answer
# was planted. The two are kept apart everywhere: a demo run never says anything about a number.
#
# What the ledger could not be made from, it says as well:

# %%
pd.DataFrame(ledger.papers).T[["title", "read"]].rename(columns={"read": "what was at hand"})

# %% [markdown]
# ## From an interval to a verdict
#
# There are six verdicts. A direction follows the one rule of all chapters: *yes* if the 95 % interval of the paired difference is on the side of the claim, *no* if on the other, else *cannot tell*. In the ledger's words:
# **reproduced**, **not reproduced**, **within seed noise**. A claim of several parts holds if all do, and fails if one does.
#
# A number $p$ is compared with the measured value $m$ and its interval $[l, h]$:
#
# | verdict | rule |
# |:--|:--|
# | reproduced | $\lvert m - p \rvert \le 0.01$, and the interval reaches at most 0.05 to either side |
# | reproduced better | else, if the interval lies wholly on the better side of $p$ |
# | not reproduced | else, if it lies wholly on the worse side |
# | within seed noise | else |
# | contradicted by the paper itself | no numbers that round to the printed ones can fulfill the statement; no run is needed |
# | not testable here | and why: hidden labels, another paper's system, no run yet, or too few speakers to tell ("cannot tell: 2 speakers") |
#
# ```{admonition} Predict first
# :class: important
# Cai et al. print 78.15 %. Give the verdict on each of these before you look: 0.780 [0.76, 0.80] · 0.780 [0.60, 0.95] · 0.740 [0.70, 0.79] · 0.700 [0.65, 0.75] · 0.850 [0.80, 0.90].
# ```

# %%
cases = [
    (0.78, 0.76, 0.8),
    (0.78, 0.6, 0.95),
    (0.74, 0.7, 0.79),
    (0.7, 0.65, 0.75),
    (0.85, 0.8, 0.9),
]
cases = [Interval(*case, 0.95) for case in cases]
pd.DataFrame(
    [(str(case), of_number(case, 0.7815)) for case in cases],
    columns=["measured", "verdict on 78.15 %"],
).style.hide(axis="index")

# %% [markdown]
# The rule for numbers is one function:

# %% tags=["hide-output"]
print(inspect.getsource(of_number))

# %% [markdown]
# The second case is why width counts. An interval that holds nearly everything holds the printed number too, and that is no reproduction.
#
# ## What the papers contradict themselves
#
# Some claims need no run. A printed 2.91 is any number from 2.905 to 2.915, so a difference of two printed numbers is known to ±0.01. If the printed difference is farther off, no data can save it. The ledger computes this with intervals, so that rounding never counts as a contradiction:

# %%
printed = ledger.printed()
for said in ("2.91", "2.92", "2.93", "3.22"):
    terms = "[wang2025.t1.msp.proposed.wa] - [wang2025.t1.msp.baseline.wa]"
    found = rules.derive(terms, said, printed)
    print(f"{found.text:40s} {'can be' if found.possible else 'cannot be'}")

# %%
found = judge.findings(profile=profile, ledger=ledger)
contradicted = [f for f in found if f.verdict == judge.CONTRADICTED]
pages.table(contradicted, "Contradicted by the paper itself", ("claim", "printed", "why", "where"))

# %% [markdown]
# Three kinds are among them. *Sums that do not come out*: the text of Wang et al. has gains of 3.22 and 3.67 points where the table gives 2.91 and 2.67. *Ranges from the wrong rows*: 0.33 and 2.81 are steps of Table 2,
# but not those that remove {term}`co-attention`. *Numbers that say nothing*: F1-micro is accuracy, by definition, in all 22 rows.
#
# And 78.15 %: an accuracy over 5,531 utterances is $k/5531$ for a whole $k$. How telling is such a test? Of all percentages with two decimals, how many are attainable?


# %%
def attainable(n: int) -> float:
    """Share of all percentages with two decimals that are some k of n, rounded."""
    return len({round(10_000 * k / n) for k in range(n + 1)}) / 10_001


shares = {n: attainable(n) for n in (547, 5531)}
rows = [("78.15", 5531), ("82.63", 547), ("82.63", 5531)]
pd.DataFrame(
    [
        (f"{p} %", f"{n:,}", rules.derive(f"share([p], {n})", "", {"p": p}).text, shares[n])
        for p, n in rows
    ],
    columns=["printed", "n", "arithmetic", "share of all percentages that pass"],
).style.hide(axis="index").format(precision=3)

# %% [markdown]
# For 5,531 the test is weak: more than half of all numbers pass. So failing it means much, and passing it little. For 547 it is strong: MTLSER's 82.63 % passes as 452 of 547, and only one number in eighteen would. That fits the one random split in the released code.
# It is no proof, because 4,570 of all 5,531 gives the same digits. So the ledger does not call it a contradiction.
#
# ## The whole ledger
#
# Every chapter from 02 on ends with its slice of this table. Here is the whole. Choose a paper, a chapter, a kind, a verdict, or type a word. (Where scripts are off, all rows are shown and the menus are not.)

# %%
pages.page(found)

# %%
pages.counts(found).T

# %%
pages.counts(found, "tier").T

# %% mystnb={"image": {"alt": "One bar per paper, divided into the verdicts on its claims: most of the numbers are not testable at this profile"}, "figure": {"caption": "Verdicts on all claims, by paper. At smoke and demo every number on human speech is not testable; that is not a verdict on the paper.", "name": "fig-08-verdicts"}}
ax = plots.stacked(
    pages.counts(found)[list(judge.VERDICTS)].rename_axis(None), xlabel="claims in the ledger"
)
ax = plots.passport(ax, source="verdicts on the papers' claims")

# %% [markdown]
# ### Directions, beside what was planted
#
# The demo corpus has right answers: words carry emotion, a talker's identity does not, and the attributes know something that the class does not. Where the ledger says *open*, nothing was planted. A verdict against the planted answer is a fault of the
# experiment, or too little data; a verdict with it shows that the method can find such a thing.

# %%
directions = [f for f in found if f.claim.kind == "direction"]
columns = ("claim", "measured", "verdict", "planted", "why")
pages.table(directions, f"Directions at profile {profile}, and what was planted", columns)

# %%
agrees = {("reproduced", "yes"): "as planted", ("not reproduced", "no"): "as planted",
          ("reproduced", "no"): "against it", ("not reproduced", "yes"): "against it"}  # fmt: skip
known = [(f.verdict, f.planted) for f in directions if f.planted not in ("open", "")]
answer = [agrees.get(pair, pair[0]) for pair in known]
pd.Series(answer, dtype=str).value_counts().rename("directions with a planted answer").to_frame()

# %% [markdown]
# *Within seed noise* is not *no effect*. In chapter 04 speech recognition as the only second task was planted to raise {term}`WA`, and the difference is 0.037 [−0.003, 0.077]: we cannot tell. Its {term}`WER` is 1.00 [0.89, 1.12], so no transcript came of it that anybody could read.
#
# ### What an interval does not know
#
# It knows the talkers and the seeds that were drawn, and nothing of the recipe. With another batch or learning rate some of these verdicts may be others.
# Several directions compare with one system, the full one of Wang et al., so they are hardly several pieces of evidence: where it moves, all its claims move.
#
# ## Deciding one claim
#
# Most of the time a reader cares about one claim. `serlib claims run ID` finds out which systems its rule names, runs only those that are not there yet, and writes a page. In Python it is `decide`. At smoke and demo this cell decides one direction; if a chapter ran the
# same recipes before, their runs are read.

# %%
if profile != "full":
    workers = 1 if profile == "smoke" else None  # small runs end before a second process starts
    one = decide(decided, profile, seeds=seeds, progress=False, workers=workers, ledger=ledger)
else:
    one = judge.findings(decided, profile, ledger)[0]
display(Markdown(pages.report(one, ledger).replace("# ", "#### ", 1)))

# %% [markdown]
# Seeds that were run before count, too. With one seed the interval knows talkers, and nothing of luck in training; `--seeds 0 1 2` asks for more.
#
# ## What the papers did not say
#
# Every system here was rebuilt from a description with holes. This table has all of them: the choice, ours, and what another choice does, as a paired difference on test. Chapter numbers say where an effect is measured and discussed.

# %%
pages.unsaid(profile, ledger)

# %% [markdown]
# *Not run* means that the chapter did not run this pair at this profile. Compare the sizes with the gains that the papers claim. An unstated choice that moves a score as much as the claimed gain is a rival explanation of it.
#
# ### The full tier
#
# Numbers are decided where the corpora are. The ledger finds runs of the full tier by itself, so after a chapter has run there is nothing more to do than
#
# ```
# serlib claims --profile full
# serlib claims run wang2025.t1.meiju2025.proposed.wa --profile full --root msp-podcast=/data/MSP-Podcast --root meiju2025=/data/MEIJU2025
# ```
#
# The second command trains the system on MSP-Podcast {cite}`lotfian2019`, unless it is there, and scores it on MEIJU2025, which no chapter's run does by itself. `--json` gives the same to programs.

# %% [markdown]
# ## Exercises
#
# Answer first, then unfold the solution. Below many answers stands a check, which gives a hint if something is wrong. To work without solutions in sight, make a notebook that has none: `serlib exercises 08 --out FOLDER`.

# %% tags=["hide-input"]
from decimal import Decimal

from serbook.claims.judge import of_number
from serbook.lesson import check
from serlib.metrics.intervals import Interval

# %% [markdown]
# **Check 1.** Two printed accuracies are 36.75 and 33.84. Which printed differences, with two decimals, can be right? Give a set of texts, such as `{"1.00", "1.01"}`.
#
# ```{dropdown} Solution
# The accuracies are known to ±0.005, so the difference is between 2.90 and 2.92. Rounded to two decimals: 2.90, 2.91 or 2.92.
# ```

# %% tags=["solution", "hide-input"]
near = [f"2.{d}" for d in range(86, 97)]
can_be_right = {
    x for x in near if rules.derive("[a] - [b]", x, {"a": "36.75", "b": "33.84"}).possible
}
print(sorted(can_be_right))

# %% tags=["check", "hide-input"]
printed, unit = Decimal("36.75") - Decimal("33.84"), Decimal("0.01")
check.same(
    can_be_right,
    {str(printed + k * unit) for k in (-1, 0, 1)},
    {"The two accuracies are rounded themselves: each is known to ±0.005.": {str(printed)}},
    hint="How large and how small can the difference of the numbers before rounding be?",
)

# %% [markdown]
# **Check 2.** A paper prints 71.3 %. Of which of these sizes can its test set be: 87, 150, 200, 1,000 utterances? Give a set of numbers.
#
# ```{dropdown} Solution
# All but 200, where steps are 0.5 points: 71.0 and 71.5 are attainable, 71.3 is not. 62 of 87 are 71.26 %, 107 of 150 are 71.33 %, and 713 of 1,000 need no rounding.
# ```

# %% tags=["solution", "hide-input"]
asked_sizes = (87, 150, 200, 1000)
for n in asked_sizes:
    print(rules.derive(f"share([p], {n})", "", {"p": "71.3"}).text)
possible_sizes = {
    n for n in asked_sizes if rules.derive(f"share([p], {n})", "", {"p": "71.3"}).possible
}

# %% tags=["check", "hide-input"]
check.same(
    possible_sizes,
    {n for n in (87, 150, 200, 1000) if any(f"{k / n:.1%}" == "71.3%" for k in range(n + 1))},
    {
        "71.3 % is rounded. It need not be a whole number of utterances exactly.": {1000},
        "Steps of half a point do not meet 71.3 %.": {87, 150, 200, 1000},
    },
)

# %% [markdown]
# **Explore.** All directions here are judged at 95 %. If none of them had any effect, how many would look decided by chance, in either direction? And how many are decided?
#
# ```{dropdown} Solution
# One in twenty of the comparisons. They are not independent, since many share a system and some stand in two claims, so the number scatters more than a binomial would. A single *reproduced* among many directions is weak evidence; the ledger shows them all so that nobody can pick.
# ```

# %% tags=["solution", "hide-input"]
compared = [m for f in directions for m in f.measured if m.interval is not None and not m.lacks]
decided_ones = sum(m.interval.decides for m in compared)
print(
    f"{len(compared)} comparisons, {0.05 * len(compared):.1f} by chance, {decided_ones} exclude zero"
)

# %% [markdown]
# **Find the bug.** A colleague judges a number by whether the printed value lies in the measured interval, and calls that *reproduced*. His weakest system, with two talkers in test, reproduces the most papers. Why?


# %% tags=["bug"]
def his_rule(value, low, high, printed):
    """Whether a measured value with its interval reproduces a printed one."""
    return low <= printed <= high


# %%
his = [Interval(0.5, 0.05, 0.95, 0.95), Interval(0.775, 0.772, 0.778, 0.95)]
for measured in his:
    for printed_value in (0.3, 0.7815):
        found = his_rule(measured.value, measured.low, measured.high, printed_value)
        print(f"{measured} reproduces {printed_value}: {found}")

# %% [markdown]
# ```{dropdown} Solution
# His rule rewards ignorance: the wider the interval, the more printed numbers lie in it. The second system is within a point of the paper, with little doubt, and fails. A rule for *the same* needs a tolerance and a limit on the width; a rule for *different* needs the interval.
# ```


# %% tags=["solution", "hide-input"]
def repaired_rule(value, low, high, printed):
    """The rule of this chapter for *reproduced*: at most 0.01 away, and 0.05 to either side."""
    ### BEGIN SOLUTION
    return abs(value - printed) <= 0.01 and max(value - low, high - value) <= 0.05
    ### END SOLUTION


# %% tags=["check", "hide-input"]
check.function(
    repaired_rule,
    lambda value, low, high, printed: (
        of_number(Interval(value, low, high, 0.95), printed) == "reproduced"
    ),
    [
        (0.775, 0.772, 0.778, 0.7815),
        (0.5, 0.05, 0.95, 0.5),
        (0.78, 0.76, 0.8, 0.765),
        (0.78, 0.74, 0.82, 0.785),
        (0.78, 0.77, 0.84, 0.78),
    ],
    {
        "The wider the interval, the more it still reproduces.": his_rule,
        "The distance is limited, the doubt is not: a guess that happens to fit passes.": (
            lambda value, low, high, printed: abs(value - printed) <= 0.01
        ),
        "The interval is narrow enough, but the value may be anywhere in it.": (
            lambda value, low, high, printed: (
                low <= printed <= high and max(value - low, high - value) <= 0.05
            )
        ),
    },
)

# %% [markdown]
# **Research.** Take a paper on emotion recognition that you know. Write down ten claims of it in the form of this ledger, with rules, before you run or look up anything. How many can be tested with what the authors released? How many contradict each other?
#
# ```{dropdown} Solution
# There is no single solution. Good ledgers have rules that name a metric, two systems and an interval; they say which claims rest on hidden labels; and they keep the claims that came out against the author of the ledger.
# ```

# %% [markdown]
# ## Recap
#
# - A rule made after the result is a description. Fix it before.
# - *Not reproduced*, *cannot tell* and *not testable* are three different things.
# - An interval over talkers and seeds says nothing of another recipe.
# - Check text against tables first: it costs nothing, and it decides some claims for good.
# - A number on human speech needs human speech.
# - What a paper leaves open is part of its result.
