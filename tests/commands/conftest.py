"""Fixtures of small runs."""

from tiny_runs import adapter, base, letters, model_folders, models, text, tokenizer  # noqa: F401
