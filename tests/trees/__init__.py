"""The demo corpus as other corpora lie on disk, flaws of real copies included."""
