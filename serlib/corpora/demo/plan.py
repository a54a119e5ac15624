"""What is planted in the demo corpus: every strength, every cue word, every error rate.

The numbers below are our choice. They are set so that prosody with voice quality, and words, each
carry about as much, words somewhat more, and neither is enough alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from serlib.data.manifest import CLASSES_8

CLASSES = CLASSES_8

# Class shares: MSP-Podcast 1.12, training partition without X and O (counts as published).
MSP_COUNTS = dict(
    anger=10212, sadness=9745, happiness=24861, surprise=3506, fear=1175, disgust=1504,
    contempt=2816, neutral=36203,
)  # fmt: skip
PRIOR = np.array([MSP_COUNTS[c] for c in CLASSES], float) / sum(MSP_COUNTS.values())

# Prosody and voice quality: mean of each cue per class, in standard deviations of the cue within
# a class and a talker. Directions follow the textbook; sizes are ours.
CUES = ("pitch", "range", "rate", "loudness", "tilt", "tremor")
STRENGTH = 1.0
MEANS = STRENGTH * np.array([
    # pitch range  rate  loud  tilt  tremor
    [+0.5, +0.4, +0.6, +1.3, +1.3, -0.2],  # anger
    [-0.9, -0.9, -1.0, -1.0, -1.0, +0.4],  # sadness
    [+1.1, +1.0, +0.5, +0.4, +0.3, -0.3],  # happiness
    [+1.6, +1.5, -0.4, +0.5, -0.2, -0.2],  # surprise
    [+1.2, -0.8, +1.1, -0.6, -0.6, +1.7],  # fear
    [-0.6, +0.2, -1.0, +0.4, +0.8, +0.6],  # disgust
    [-0.9, -0.8, -0.3, -0.3, +0.9, -0.6],  # contempt
    [+0.0, +0.0, +0.0, +0.0, +0.0, +0.0],  # neutral
])  # fmt: skip

# Words: an interjection and an adjective, each from the class's own list with probability OWN,
# otherwise from all lists alike. The lists were picked from longer ones such that averages over a
# clip (of pitch, energy, MFCCs) are nearly alike for all classes and tell little of the words.
OWN = 0.65
_LISTS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
INTERJECTIONS = {c: tuple(_LISTS["interjections"][c]) for c in CLASSES}
ADJECTIVES = {c: tuple(_LISTS["adjectives"][c]) for c in CLASSES}

# Raters: five per utterance; each reports the intended class with probability ACCURACY, otherwise
# neutral (half of the errors) or any class alike. Consensus is the plurality; a tie is no
# agreement, which MSP-Podcast codes X.
RATERS = 5
ACCURACY = 0.55

# Attributes on 1-7: where a class lies, and how far talkers and raters scatter around it.
ATTRIBUTES = dict(  # valence, arousal, dominance; our choice after the usual circumplex
    anger=(2.4, 5.4, 5.3), sadness=(2.5, 2.8, 3.0), happiness=(5.6, 4.9, 4.7),
    surprise=(4.4, 5.3, 4.2), fear=(2.5, 5.2, 2.7), disgust=(2.6, 4.1, 4.4),
    contempt=(3.0, 3.9, 4.8), neutral=(4.0, 4.0, 4.0),
)  # fmt: skip
ATTRIBUTE_SCATTER, RATER_SCATTER = 0.5, 1.0
