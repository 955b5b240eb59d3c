"""Models: where weights come from (`pretrained`)."""
