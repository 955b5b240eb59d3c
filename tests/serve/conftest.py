"""Fixtures of small models and adapters."""

from tiny_runs import base, letters  # noqa: F401
