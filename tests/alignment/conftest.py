"""Small models and texts for the tests of alignment."""

from tiny_runs import model_folders, models, text, tokenizer  # noqa: F401
