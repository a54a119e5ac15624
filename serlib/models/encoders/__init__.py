"""Pre-trained encoders by name: wav2vec 2.0, HuBERT, WavLM, Whisper, RoBERTa and BERT."""
