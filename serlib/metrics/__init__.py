"""Scores (WA, UA, macro-F1, CCC, EER, WER) and their intervals over speakers and seeds."""
