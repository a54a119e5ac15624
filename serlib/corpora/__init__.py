"""Corpora: one file per corpus turns its tree, as released, into a manifest."""
