"""What an assignment's answers see of the course's library: the names that its source lists, and no solution."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import course
from autograder.judging import slices

NAMES = sorted(name for name in course.assignments() if course.find(name).read().metadata.course.get("library"))
SOLUTIONS = {
    "lora": ["LoRAModel", "inject_lora", "lora_parameter_count", "merge_all_lora_weights"],
    "merging": ["LoRAMerger", "Benchmark", "LoRAModel", "load_adapter", "combine_adapters"],
}


def cut(name, folder):
    """Write the assignment's slice; return the names that its files define."""
    slices.write(folder, course.find(name).read().metadata.course.library)
    trees = [ast.parse(path.read_text()) for path in Path(folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", [name for name in NAMES if name in SOLUTIONS])
def test_no_solution_is_among_what_may_be_used(name, tmp_path):
    assert not cut(name, tmp_path) & set(SOLUTIONS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported_alone(name, tmp_path):
    cut(name, tmp_path)
    listed = [full for full in course.find(name).read().metadata.course.library if ".scratch." in full]
    lines = [f"from {full.rpartition('.')[0]} import {full.rpartition('.')[2]}" for full in listed]
    code = "\n".join(
        [
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})",
            *lines,
            "import course_lib",
            "print(course_lib.__file__)",
        ]
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_what_is_not_listed_says_so(tmp_path):
    slices.write(tmp_path, ["course_lib.scratch.Tensor"])
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom course_lib import scratch\nscratch.GPT"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env={}, check=False)
    assert "your answer hands its work to course_lib.scratch.GPT: write it yourself" in done.stderr


def test_a_name_that_is_not_there_is_a_mistake_of_the_assignment(tmp_path):
    with pytest.raises(ImportError, match="has no Nothing"):
        slices.write(tmp_path, ["course_lib.scratch.Nothing"])


def test_a_module_that_is_imported_from_its_package_is_there(tmp_path):
    slices.write(tmp_path, ["course_lib.adapters.LoRALinear"])
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch\nfrom course_lib import adapters\n"
        "print(adapters.LoRALinear(torch.nn.Linear(3, 2), 1, 2.0)(torch.ones(1, 3)).shape)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env={}, check=False)
    assert done.stdout == "torch.Size([1, 2])\n", done.stderr
    (imported,) = (path for path in tmp_path.rglob("fused.py"))
    assert "from course_lib.models import onednn" in imported.read_text()
