"""Losses, each one readable function with its formula: classes, contrast, CTC, numbers."""
