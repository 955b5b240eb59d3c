"""The house rules on imports, read from the sources (see "The rooms" in CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import from rooms on lower floors and from itself. Single modules (errors, files, cache) are the ground.
FLOORS = {
    "data": 0,
    "scratch": 1,
    "models": 2,
    "training": 3,
    "adapters": 3,
    "quantization": 3,
    "inference": 3,
    "evaluation": 3,
    "alignment": 4,
    "execution": 5,
    "cli": 6,
}
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "safetensors"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def room(parts):
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules("course_lib"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path):
    here = room(path.relative_to(ROOT / "course_lib").parts)
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] != "autograder", f"course_lib must not import {name}"
        if here == "scratch":
            assert parts[0] not in HEAVY, f"the NumPy edition must not import {name}"
        if parts[0] == "course_lib" and len(parts) > 1 and parts[1] in FLOORS and here in FLOORS:
            same_floor = FLOORS[parts[1]] == FLOORS[here] and parts[1] != here
            assert FLOORS[parts[1]] <= FLOORS[here], f"{here} imports {name}, upwards"
            assert not same_floor or {here, parts[1]} <= {"adapters", "training", "evaluation", "inference"}, name
        if here == "scratch" and parts[0] == "course_lib" and len(parts) > 1:
            assert parts[1] in {"scratch", "data", "errors", "files"}, f"scratch imports {name}"


def test_the_rule_catches_an_offender(tmp_path, monkeypatch):
    offender = tmp_path / "course_lib" / "data" / "bad.py"
    offender.parent.mkdir(parents=True)
    offender.write_text("from course_lib.training import Trainer\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="upwards"):
        test_imports_run_downward(offender)


@pytest.mark.parametrize("name", ["course_lib", "course_lib.cli", "course_lib.data", "course_lib.scratch"])
def test_light_imports_bring_nothing_heavy(name):
    code = f"import {name}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_room_of_the_plan_has_something_in_it():
    for name in FLOORS:
        place = ROOT / "course_lib" / name
        files = modules(f"course_lib/{name}") if place.is_dir() else [place.with_suffix(".py")]
        assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) > 30, name
