"""The demo tier: a synthetic corpus with planted answers, and tiny encoders pre-trained for it."""
