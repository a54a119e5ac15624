"""Training: `loop` is the loop, read it first; around it what it measures, keeps and shares."""
