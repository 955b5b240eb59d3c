"""Fixtures of small runs."""

from fake_hub import hub, hub_cache, workspace  # noqa: F401
from tiny_runs import adapter, base, letters, model_folders, models, text, tokenizer  # noqa: F401
