"""From a corpus on disk to batches: audio, transcripts, manifests, splits, stored features."""
