"""The house rules on imports, read from the sources (see "The rooms" in CONTRIBUTING.md)."""

import ast
import graphlib
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

# The grader's rooms, each above those that it may use. Its single modules are the ground, which uses no room.
GRADER_FLOORS = {
    "sandbox": 1,
    "judging": 2,
    "student": 3,
    "grading": 4,
    "export": 5,
    "authoring": 5,
    "commands": 6,
}
# The rooms inside `grading`. Its single modules are addresses for nbgrader's configuration, and use any of them.
GRADING_FLOORS = {"workers": 1, "collect": 1, "gradebook": 2, "report": 3, "run": 4}

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


def test_rooms_do_not_import_each_other_in_a_circle():
    graph = {name: set() for name in FLOORS}
    for path in modules("course_lib"):
        here = room(path.relative_to(ROOT / "course_lib").parts)
        for parts in (name.split(".") for name in imports(path)):
            if here in FLOORS and parts[0] == "course_lib" and len(parts) > 1 and parts[1] in FLOORS.keys() - {here}:
                graph[here].add(parts[1])
    assert graph["adapters"] >= {"models", "quantization"}  # the sources were read
    graphlib.TopologicalSorter(graph).prepare()
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph | {"quantization": {"adapters"}}).prepare()


def test_every_room_has_a_floor_and_something_in_it():
    rooms = {path.name for path in (ROOT / "course_lib").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == FLOORS.keys() - {"cli"}
    for name in rooms:
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in modules(f"course_lib/{name}"))
        assert lines > 30, name


def grader_floor(folder, name):
    """(room, floor) of a module of the grader, or of what one imports, in the folder whose rooms are meant."""
    floors, depth = {"autograder": (GRADER_FLOORS, 1), "autograder/grading": (GRADING_FLOORS, 2)}[folder]
    parts = name.split(".")
    if parts[:depth] != folder.split("/") or len(parts) == depth:
        return None
    ground = 0 if folder == "autograder" else max(floors.values()) + 1
    return parts[depth], floors.get(parts[depth], ground)


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def what_is_imported(path):
    """The modules that a file imports, where `from room import module` is room.module."""
    yield from imports(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


GRADER = [(folder, path) for folder in ("autograder", "autograder/grading") for path in modules(folder)]
GRADER_NAMES = [f"{folder}: {path.relative_to(ROOT / folder)}" for folder, path in GRADER]


@pytest.mark.parametrize(("folder", "path"), GRADER, ids=GRADER_NAMES)
def test_the_graders_imports_run_downward(folder, path):
    here = grader_floor(folder, module_name(path))
    for name in what_is_imported(path) if here else []:
        there = grader_floor(folder, name)
        if there and there[0] != here[0]:
            lower = there[1] < here[1] or there[1] == here[1] == 0  # modules of the ground may know each other
            assert lower, f"{module_name(path)} imports {name}, which is not below it"


@pytest.mark.parametrize(
    ("folder", "file", "line"),
    [
        ("autograder", "judging/bad.py", "from autograder.student.release import release"),
        ("autograder", "student/bad.py", "from autograder import authoring"),
        ("autograder", "export/bad.py", "import autograder.authoring.new"),  # the same floor
        ("autograder", "notebook.py", "from autograder.sandbox import limits"),
        ("autograder/grading", "collect/bad.py", "from autograder.grading.run.grade import grade"),
        ("autograder/grading", "workers/bad.py", "from autograder.grading import collect"),
    ],
)
def test_the_graders_rule_catches_an_offender(tmp_path, monkeypatch, folder, file, line):
    offender = tmp_path / folder / file
    offender.parent.mkdir(parents=True)
    offender.write_text(f"{line}\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="which is not below it"):
        test_the_graders_imports_run_downward(folder, offender)


@pytest.mark.parametrize(("folder", "floors"), [("autograder", GRADER_FLOORS), ("autograder/grading", GRADING_FLOORS)])
def test_every_room_of_the_grader_has_a_floor(folder, floors):
    assert {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")} == floors.keys()


def test_the_page_about_the_rooms_says_what_the_test_holds():
    page = (ROOT / "book" / "architecture.md").read_text(encoding="utf-8")
    floors = {
        name.rstrip("/").removesuffix(".py"): int(floor)
        for name, floor in re.findall(r"^\| `([\w./]+)` \| (\d) \|", page, re.M)
    }
    grader = {f"autograder/{name}": floor for name, floor in GRADER_FLOORS.items()}
    grader |= {f"autograder/grading/{name}": floor for name, floor in GRADING_FLOORS.items()}
    assert floors == FLOORS | grader
    named = set(re.findall(r"`((?:course_lib|autograder|tests)/[\w/]+\.py)`", page))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []
    course_lib = ROOT / "course_lib"
    inner = {path.parent.relative_to(course_lib).as_posix() for path in course_lib.glob("*/*/**/__init__.py")}
    assert "execution/slurm" in inner
    assert [name for name in sorted(inner) if f"`{name}/`" not in page] == []


def test_the_contributing_page_says_what_the_test_holds():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    chain = " ".join(re.search(r"`(cli →[^`]+)`", page)[1].split())
    floors = [set(level.strip("{}").split(", ")) for level in chain.split(" → ")]
    downward = sorted(set(FLOORS.values()), reverse=True)
    assert floors == [{name for name in FLOORS if FLOORS[name] == floor} for floor in downward]
    layout = page.split("```")[1]
    packages = [ROOT / "course_lib", ROOT / "autograder"]
    rooms = {path.parent.name for package in packages for path in package.glob("*/__init__.py")}
    mirrored = {path.name for package in packages for path in package.iterdir()}
    other_tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - mirrored - {"__pycache__"}
    named = set(re.findall(r"\b(\w+)/", layout))
    assert (rooms | other_tests | {"course_lib", "autograder", "tests"}) - named == set()


def test_no_file_is_longer_than_a_reading():
    for path in (path for folder in ("course_lib", "autograder", "tests") for path in modules(folder)):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_no_function_is_longer_than_a_screen():
    """With its docstring. The notebooks' sources, which students read, are not among them."""
    too_long = []
    for path in (path for folder in ("course_lib", "autograder") for path in modules(folder)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                too_long.append(f"{path.relative_to(ROOT)}: {node.name}, {node.end_lineno - node.lineno + 1} lines")
    assert too_long == []


def test_no_file_of_the_tests_hides_a_package():
    """pytest puts the folders of tests at the front of the path: tests/NAME.py would be what `import NAME` finds."""
    installed = importlib.metadata.packages_distributions().keys() | sys.stdlib_module_names
    folders = {path.parent for name in ("test_*.py", "conftest.py") for path in (ROOT / "tests").rglob(name)}
    helpers = [path for folder in folders for path in folder.glob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in helpers if path.stem in installed] == []
