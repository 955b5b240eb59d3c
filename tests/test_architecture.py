"""The house rules on imports, read from the sources (see "The rooms" in CONTRIBUTING.md)."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import from rooms on lower floors and from itself. Single modules (errors, files, cache) are the ground.
FLOORS = {
    "setup": 0,
    "data": 0,
    "scratch": 1,
    "models": 2,
    "execution": 2,
    "training": 3,
    "adapters": 3,
    "quantization": 3,
    "inference": 3,
    "evaluation": 3,
    "finetuning": 4,
    "alignment": 5,
    "parity": 5,
    "publishing": 6,
    "benchmarks": 6,
    "serve": 6,
    "commands": 7,
    "cli": 8,
}
# Rooms of one floor that may know each other: the methods and what measures them.
NEIGHBOURS = {"adapters", "training", "evaluation", "inference", "quantization"}

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
            assert not same_floor or {here, parts[1]} <= NEIGHBOURS, name
            assert parts[1] != "setup" or here == "setup", f"{here} imports {name}, which is only ever started"
            assert here != "execution" or parts[1] in {"execution", "data"}, f"execution imports {name}, a model room"
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


def test_every_room_has_a_floor_and_something_in_it():
    rooms = {path.name for path in (ROOT / "course_lib").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == FLOORS.keys() - {"cli"}
    for name in rooms:
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in modules(f"course_lib/{name}"))
        assert lines > 30, name


def test_the_page_about_the_rooms_says_what_the_test_holds():
    page = (ROOT / "book" / "architecture.md").read_text(encoding="utf-8")
    floors = {
        name.rstrip("/").removesuffix(".py"): int(floor)
        for name, floor in re.findall(r"^\| `([\w./]+)` \| (\d) \|", page, re.M)
    }
    assert floors == FLOORS
    named = set(re.findall(r"`((?:course_lib|autograder|tests)/[\w/]+\.py)`", page))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_no_file_is_longer_than_a_reading():
    for path in (path for folder in ("course_lib", "autograder", "tests") for path in modules(folder)):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_no_file_of_the_tests_hides_a_package():
    """pytest puts the folders of tests at the front of the path: tests/NAME.py would be what `import NAME` finds."""
    installed = importlib.metadata.packages_distributions().keys() | sys.stdlib_module_names
    folders = {path.parent for name in ("test_*.py", "conftest.py") for path in (ROOT / "tests").rglob(name)}
    helpers = [path for folder in folders for path in folder.glob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in helpers if path.stem in installed] == []
