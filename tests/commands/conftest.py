"""Fixtures of small runs."""

from tiny_runs import models, text, tokenizer  # noqa: F401
