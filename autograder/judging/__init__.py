"""Verdicts that are decided outside the submission's process, for the assignments that say so.

The checks are the test cells of the assignment's source. `judge` runs them here, in the grader's process, where the
names that the answers define are stand-ins (`remote`): a call goes to the submission's process (`session`, `worker`) as
plain data (`wire`), and plain data comes back. `stage` holds what that process may see.
"""
