"""Binder's files, run: what postBuild makes, and a session as a reader has it: server, chapter, assignment, 2 GB."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab_server import jupyter_lab

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 2e9


@pytest.fixture(scope="module")
def image(published, tmp_path_factory):
    """The repository after postBuild, and the environment's variables. What is installed is what runs this test:
    `python3` only writes down what it was asked for. tests/setup/test_torch_build.py covers it."""
    folder = tmp_path_factory.mktemp("binder")
    clone = folder / "course"
    shutil.copytree(published, clone, symlinks=True)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\necho "$@" >> {folder}/installed\n')
    (programs / "course").write_text(f'#!/bin/sh\nexec {sys.executable} -m course_lib.cli "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PYTHONPATH": str(clone)}
    built = subprocess.run(
        ["binder/postBuild"], cwd=clone, env=os.environ | environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert (folder / "installed").read_text() == "course_lib/setup/hosted.py torch,data,book,grading,serve\n"
    return clone, environment


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


@pytest.mark.slow
@pytest.mark.weights
def test_a_session_opens_a_chapter_and_an_assignment_within_binders_memory(image, tmp_path):
    folder, environment = image
    with jupyter_lab(folder, "binder/start", log=tmp_path / "server.log", **environment) as server:
        ready = {entry["name"] for entry in server.get("api/contents/assignments")["content"]}
        assert ready == {f"{path.parent.name}.ipynb" for path in (ROOT / "autograder/source").glob("*/*.ipynb")}

        chapter = code_cells(folder / "notebooks/03_lora.ipynb")
        kernel = server.open("notebooks/03_lora.ipynb")
        kernel.run(chapter["parameters"])
        assert kernel.run(chapter["setup"]).startswith("profile binder")
        # What no chapter does without: the real model, from the weights that postBuild has converted.
        kernel.run("from course_lib.models.pretrained import load; model, tokenizer = load()")
        settings = kernel.run("import os; print(os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])")
        assert settings == "1 1\n"

        assignment = code_cells(folder / "assignments/lora.ipynb")
        kernel = server.open("assignments/lora.ipynb")
        kernel.run(assignment["setup"])
        with pytest.raises(AssertionError, match="this part is not written yet"):
            kernel.run("\n".join(text for name, text in assignment.items() if name != "setup"))
        assert server.peak_bytes < LIMIT_BYTES
