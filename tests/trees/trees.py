"""The demo corpus written out as other corpora are laid out on disk.

So the way from a raw tree to a result runs without any licensed file, and with a right answer: a
manifest that is built from such a tree gives back the labels, talkers and splits of the demo
corpus. The trees have the flaws that real copies have.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tests.trees import acted_trees, clip_trees, lab_trees
from tests.trees.treekit import TreeError

LAYOUTS = {
    "iemocap": lab_trees.iemocap,
    "msp-podcast": lab_trees.msp_podcast,
    "emotiw2018": clip_trees.emotiw2018,
    "meiju2025": clip_trees.meiju2025,
    "ravdess": acted_trees.ravdess,
    "cremad": acted_trees.cremad,
    "emodb": acted_trees.emodb,
    "meld": clip_trees.meld,
}


def write(
    layout: str, root: Path, *, utterances: int = 48, flaws: bool = True, version: str = ""
) -> pd.DataFrame:
    """Write a tree and return its answers.

    Args:
        layout: One of `LAYOUTS`.
        root: The folder to fill; it need not exist.
        utterances: How many to take of the demo corpus, spread over talkers and classes; a layout
            takes only those that it has a class for.
        flaws: Put in what is wrong or odd in real copies; each layout's function lists it.
        version: The release, of "msp-podcast" only: one of `lab_trees.MSP_VERSIONS`.

    Returns:
        One row per utterance that is labeled in the tree (or, in an unlabeled part, lies there)
        with the cells that its manifest must have, as far as the demo corpus knows them: `utt_id`,
        `wav`, `emo`, `emotion`, `speaker`, `group`, `split` and so on, named and scaled as in a
        manifest. Also `present` (its file is there and decodes) and `source` (its `utt_id` in the
        demo corpus).

    Raises:
        TreeError: If there is no such layout or release, or the folder holds files already.
    """
    if layout not in LAYOUTS:
        raise TreeError(f"no layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if version and layout != "msp-podcast":
        raise TreeError(f"{layout} has one layout only: leave version out")
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise TreeError(f"{root} is not empty: name a new folder")
    release = {"version": version} if version else {}
    return LAYOUTS[layout](root, utterances, flaws, **release)
