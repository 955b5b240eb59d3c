"""Notebooks run headless: `project` finds the chapters, `runner` starts a `worker` for each, `side_by_side` decides how
many run at a time, `record` keeps their numbers, `results` what came of them, and `check` says what a notebook in the
repository must be."""

from course_lib import schema_formats  # noqa: F401  # before any module that imports nbformat
