"""Small models for the comparisons with TRL."""

from tiny_runs import model_folders, tokenizer  # noqa: F401
