"""Fixtures of small models."""

from tiny_runs import model_folders, tokenizer  # noqa: F401
