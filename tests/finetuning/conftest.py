"""Fixtures of small runs."""

from tiny_runs import model_folders, models, text, tokenizer  # noqa: F401
