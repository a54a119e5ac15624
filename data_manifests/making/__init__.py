"""What made the demo encoders and the demo manifest; for their authors."""
