"""Every notebook in the repository is clean, and the check that says so sees each fault."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.execution.notebooks import check as notebook_check
from course_lib.execution.notebooks.project import Chapter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("autograder/source/*/*.ipynb")])

GOOD = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A chapter, and/or [a link](../book)"},
        {
            "cell_type": "code",
            "id": "parameters",
            "metadata": {"tags": ["parameters"]},
            "execution_count": None,
            "outputs": [],
            "source": ['profile = "cpu"\n', "seed = 0\n", 'output_dir = "outputs/03_lora"'],
        },
    ],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_clean(path):
    assert notebook_check.check_notebook(path) == []


def test_a_chapter_that_reads_another_ones_results_says_that_it_needs_it():
    """`course run` starts it after the other, and again when the other changed."""
    reads = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        code = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
        reads[path.stem] = set(re.findall(r'"(\d\d_\w+)"', code)) - {path.stem}
        assert reads[path.stem] == set(Chapter(path).needs())
    assert reads["08_kv_cache"] == {"03_lora"}


def test_there_are_notebooks_to_check():
    assert NOTEBOOKS


def problems(tmp_path: Path, change=lambda notebook: None, folder: str = "notebooks") -> list[str]:
    """What the check says about the good notebook after a change."""
    notebook = copy.deepcopy(GOOD)
    change(notebook)
    path = tmp_path / folder / "03_lora.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return notebook_check.check_notebook(path)


def set_code(**values):
    return lambda notebook: notebook["cells"][1].update(values)


FAULTS = {
    "outputs": (set_code(outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}]), "cell 2 has outputs"),
    "count": (set_code(execution_count=3), "cell 2 has an execution count"),
    "attachment": (lambda nb: nb["cells"][0].update(attachments={"a.png": {}}), "cell 1 carries an attachment"),
    "format": (lambda nb: nb.update(nbformat_minor=4), "format 4.4"),
    "no id": (lambda nb: nb["cells"][0].pop("id"), "cell 1 has no valid id"),
    "bad id": (set_code(id="two words"), "cell 2 has no valid id"),
    "same id": (set_code(id="title"), "'title' is used 2 times"),
    "no parameters": (set_code(metadata={}), "0 cells tagged `parameters`"),
    "two parameters": (lambda nb: nb["cells"].append({**nb["cells"][1], "id": "again"}), "2 cells tagged"),
    "no seed": (set_code(source='profile = "cpu"\noutput_dir = "x"'), "does not set seed"),
    "path in code": (lambda nb: nb["cells"][0].update(source='open("/home/ada/x.txt")'), "'/home/ada/x.txt'"),
    "home path": (lambda nb: nb["cells"][0].update(source="open('~/data/x.txt')"), "'~/data/x.txt'"),
    "drive": (lambda nb: nb["cells"][0].update(source='open("C:\\\\Users\\\\ada")'), "absolute path"),
    "path in a link": (lambda nb: nb["cells"][0].update(source="[x](/home/ada/x.png)"), "'/home/ada/x.png'"),
}


def test_a_good_notebook_has_no_problem(tmp_path):
    assert problems(tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_is_the_only_one(tmp_path, fault):
    change, expected = FAULTS[fault]
    found = problems(tmp_path, change)
    assert len(found) == 1, found
    assert expected in found[0]


def test_an_assignment_needs_no_parameters(tmp_path):
    assert problems(tmp_path, set_code(metadata={}), folder="autograder/source/lora") == []


def test_system_paths_are_no_fault(tmp_path):
    assert problems(tmp_path, lambda nb: nb["cells"][0].update(source='open("/dev/shm/x")')) == []


def test_a_file_that_is_no_notebook_is_one_sentence(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text('{"cells": [', encoding="utf-8")
    assert notebook_check.check_notebook(path)[0].startswith("it cannot be read as a notebook")


def test_the_script_names_file_and_fault_and_fails(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({**GOOD, "cells": GOOD["cells"][:1]}), encoding="utf-8")
    script = ROOT / "course_lib/execution/notebooks/check.py"
    checked = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True)
    assert checked.returncode == 1
    assert checked.stderr == f"{path}: it has 0 cells tagged `parameters` and needs exactly one code cell\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_nbstripout_would_change_nothing(path):
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--dry-run", str(path)]
    assert "would strip" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
