"""Models: where weights come from (`pretrained`), and proof that they did not change (`fingerprint`)."""
