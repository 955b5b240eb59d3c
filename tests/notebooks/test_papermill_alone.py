"""A chapter runs by papermill itself, without `course run`: the lightest one makes the point."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.weights
def test_papermill_by_itself(tmp_path):
    notebook = ROOT / "notebooks" / "01_datasets.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "-p", "profile", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Passed unknown parameter" not in done.stderr
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert {cell.metadata.papermill.status for cell in executed.cells} == {"completed"}
    assert json.loads((tmp_path / "outputs/01_datasets/record.json").read_text())["own_answers_pass"] == 1
