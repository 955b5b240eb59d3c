"""Dockerfile and apptainer.def say what Binder's files say. They are read, not built: no registry is needed."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from course_lib.cli import parser
from course_lib.execution.environment import git_commit

ROOT = Path(__file__).resolve().parents[2]
INSTALL = re.compile(r"python3 course_lib/setup/hosted\.py (\S+)")


def dockerfile():
    """(instruction, rest) of each line, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(word, rest) for word, rest in lines]


def apptainer():
    """The header and the sections by their names, as lists of lines."""
    sections = {"": []}
    name = ""
    for line in (ROOT / "apptainer.def").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"%(\w+)", line):
            name = match[1]
            assert name not in sections, f"%{name} twice"
            sections[name] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            sections[name].append(line.strip())
    return sections


def header():
    return dict(line.split(": ") for line in apptainer()[""])


def test_both_begin_with_binders_python():
    environment = yaml.safe_load((ROOT / "binder/environment.yml").read_text(encoding="utf-8"))
    (python,) = [each for each in environment["dependencies"] if each.startswith("python=")]
    image = f"python:{python.removeprefix('python=')}-slim-bookworm"
    assert [rest for word, rest in dockerfile() if word == "FROM"] == [image]
    assert header() == {"Bootstrap": "docker", "From": image}


def test_both_install_what_binder_installs_by_the_script_that_pins():
    wanted = INSTALL.findall((ROOT / "binder/postBuild").read_text(encoding="utf-8"))
    assert INSTALL.findall("\n".join(rest for word, rest in dockerfile() if word == "RUN")) == wanted
    assert INSTALL.findall("\n".join(apptainer()["post"])) == wanted
    for text in ((ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()):
        assert "pip install" not in text, "a second way to install would have pins of its own"


def test_known_instructions_and_sections_alone():
    known = {"FROM", "RUN", "ARG", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "CMD"}
    assert {word for word, _ in dockerfile()} <= known
    assert apptainer().keys() == {"", "arguments", "files", "post", "environment", "runscript", "test"}


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_what_is_copied_exists_and_is_what_the_installation_reads(kind):
    if kind == "docker":
        sources = [path for word, rest in dockerfile() if word == "COPY" for path in rest.split()[:-1]]
    else:
        sources = [line.split()[0] for line in apptainer()["files"]]
    for source in sources:
        assert (ROOT / source).exists(), source
    assert {"pyproject.toml", "constraints.txt", "course_lib", "autograder", "README.md", "LICENSE"} <= set(sources)


def copied_before_the_installation(kind):
    """Sources of what is in the image when hosted.py runs."""
    if kind == "apptainer":
        return [line.split()[0] for line in apptainer()["files"]]
    install = next(n for n, (word, rest) in enumerate(dockerfile()) if word == "RUN" and INSTALL.search(rest))
    return [path for word, rest in dockerfile()[:install] if word == "COPY" for path in rest.split()[:-1]]


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_the_package_can_be_built_from_what_was_copied_by_then(kind, tmp_path):
    """By hatchling without an environment of its own, as pip does it there; and hosted.py starts."""
    image = tmp_path / "course"
    image.mkdir()
    for source in copied_before_the_installation(kind):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, image / source, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
        else:
            shutil.copy(ROOT / source, image / source)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    built = subprocess.run(command, cwd=image, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (declared,) = [archive.read(name).decode() for name in names if name.endswith("METADATA")]
    assert {"course_lib/cli.py", "autograder/commands/__init__.py"} <= set(names)
    extras = INSTALL.findall((ROOT / "binder/postBuild").read_text(encoding="utf-8"))[0].split(",")
    assert set(extras) <= set(re.findall(r"(?m)^Provides-Extra: (\S+)$", declared))
    helped = subprocess.run([sys.executable, "course_lib/setup/hosted.py", "--help"], cwd=image, capture_output=True)
    assert helped.returncode == 0


def test_what_docker_leaves_out_is_nothing_that_is_needed():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert {".git", ".venv", "build"} <= set(ignored)
    tracked = {"course_lib", "autograder", "notebooks", "book", "constraints.txt", "pyproject.toml", "README.md"}
    assert not tracked & set(ignored)


def test_what_students_handed_in_stays_out():
    """What nbgrader makes in an instructor's clone is what git ignores there."""
    made = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("autograder/")]
    assert len(made) >= 8
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    removed = next(line for line in apptainer()["post"] if "cd autograder" in line).strip("()").split()
    for path in made:
        assert path.rstrip("/") in ignored
        assert path.rstrip("/").removeprefix("autograder/") in removed


def test_nothing_but_the_installation_runs_as_root():
    words = [word for word, _ in dockerfile()]
    assert ("USER", "reader") in dockerfile()
    assert words.index("USER") < words.index("CMD")


def test_the_commands_are_ours():
    """Every `course ...` of the two files is one that our parser takes."""
    text = (ROOT / "Dockerfile").read_text() + (ROOT / "apptainer.def").read_text()
    found = re.findall(r"(?:RUN|course|\.sif|cache) course ((?:run|weights)[^\n]*)", text)
    assert len(found) == 4
    for words in found:
        parser().parse_args(shlex.split(words))


def test_torchs_build_is_a_choice_that_setup_knows():
    assert ("ARG", "TORCH=cpu") in dockerfile()
    assert apptainer()["arguments"] == ["torch=cuda", "commit="]
    assert any("TORCH=$TORCH python3" in rest for _, rest in dockerfile())
    assert any(line.startswith("TORCH={{ torch }} python3") for line in apptainer()["post"])


def test_the_commit_is_said_at_build_time_and_stands_in_the_results(tmp_path, monkeypatch):
    """A container holds a copy, not a clone."""
    assert ".git" in (ROOT / ".dockerignore").read_text().split()
    assert ("ENV", "HF_HUB_OFFLINE=1 COURSE_COMMIT=$COMMIT") in dockerfile()
    assert "export COURSE_COMMIT={{ commit }}" in apptainer()["environment"]
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("COURSE_COMMIT", "")  # built without saying it
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("COURSE_COMMIT", "0" * 40)
    assert git_commit(tmp_path) == "0" * 40
