"""Real servers in processes of their own, on a port that the system chooses."""

import contextlib
from pathlib import Path

from course_lib.benchmarks.server_process import ServerProcess

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def served(*words, program=("course_lib.cli", "serve", "--port", "0"), cwd=None, **environment):
    """A server started by a module of Python and these words. It is stopped by SIGTERM at the end."""
    module, *first = program
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with ServerProcess([*first, *map(str, words)], module, cwd, settings | environment) as running:
        yield running
