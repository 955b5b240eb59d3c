"""Notebooks run headless: `project` finds the chapters, `runner` starts a `worker` for each, `record` keeps their
numbers, `check` says what a notebook in the repository must be."""
