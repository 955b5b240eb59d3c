"""Fine-tuning: one run from its settings to its folder (`course train` is the command around it)."""
