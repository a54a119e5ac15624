"""Chapters as notebooks, executed strictly, side by side, and only when something changed."""
