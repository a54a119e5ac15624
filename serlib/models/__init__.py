"""Models: encoders, pooling, heads, co-attention, the recognizer and the fusion of experts."""
