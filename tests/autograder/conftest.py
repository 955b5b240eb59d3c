"""What the autograder's tests share: releases that are made once, and one graded class."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for in_process and submissions: tests are collected without packages


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder that all of this run's workers share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "autograder-shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def private_cache(shared_folder):
    """Releases are cached for this run alone: nbgrader makes each once, from the source as it is now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(shared_folder))
        yield
