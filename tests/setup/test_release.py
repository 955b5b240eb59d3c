"""Versions, the changelog, the release workflow, and what the wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import yaml

import course_lib

ROOT = Path(__file__).resolve().parents[2]
VERSION = course_lib.__version__
UNRELEASED = re.compile(r"^## \[Unreleased\]\n.*?(?=^## \[)", re.MULTILINE | re.DOTALL)


def release_script():
    loader = SourceFileLoader("release_script", str(ROOT / ".ci/release"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """The files that a release is checked against, to change them."""
    for name in [*release_script().PLACES, "CHANGELOG.md", ".ci/release"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    log = tmp_path / "CHANGELOG.md"  # between two releases there is something under [Unreleased]
    log.write_text(UNRELEASED.sub("## [Unreleased]\n\n", log.read_text(encoding="utf-8")), encoding="utf-8")
    return tmp_path


def release(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, checkout / ".ci/release", *arguments], capture_output=True, text=True)


def test_the_version_is_the_same_everywhere():
    assert set(release_script().stated_versions(ROOT).values()) == {VERSION}


def test_a_right_tag_prints_its_section_of_the_changelog(checkout):
    result = release(checkout, f"v{VERSION}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("### ")
    assert "## [" not in result.stdout.replace("### [", "")
    assert len(result.stdout) > 500


@pytest.mark.parametrize("tag", [VERSION, f"v{VERSION}.1", "v9.9.9"])
def test_another_tag_is_refused(checkout, tag):
    result = release(checkout, tag)
    assert (result.returncode, result.stdout) == (1, "")
    for name in release_script().PLACES:
        assert f"release: {name} states {VERSION}, and the tag is {tag}." in result.stderr


@pytest.mark.parametrize(
    "section", ["", f"## [{VERSION}] - 2026-01-01\n\n", f"## [{VERSION}0]\n\nOf another version.\n\n"]
)
def test_a_changelog_without_the_section_is_refused(checkout, section):
    old = "## [0.0.1]\n\nSomething.\n"
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{section}{old}")
    result = release(checkout, f"v{VERSION}")
    assert result.returncode == 1
    assert result.stderr == f"release: CHANGELOG.md has no section [{VERSION}] with text in it.\n"


def test_a_changelog_with_unreleased_text_is_refused(checkout):
    """Otherwise today's code would be published under notes that do not mention it."""
    log = checkout / "CHANGELOG.md"
    log.write_text(log.read_text(encoding="utf-8").replace("## [Unreleased]\n", "## [Unreleased]\n\n- More.\n"))
    result = release(checkout, f"v{VERSION}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"release: CHANGELOG.md has text under [Unreleased]: move it into the section [{VERSION}].\n"
    )


def test_without_a_tag_it_says_how_it_is_called(checkout):
    result = release(checkout)
    assert (result.returncode, result.stderr) == (2, "usage: .ci/release TAG\n")


def test_the_changelog_has_an_unreleased_section_and_dated_versions_in_order():
    titles = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles[0] == ("Unreleased", "")
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in titles[1:])
    numbers = [tuple(map(int, version.split("."))) for version, _ in titles[1:]]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == tuple(map(int, VERSION.split(".")))


# --- the workflow ---


def test_the_release_workflow_builds_from_the_pins_checks_the_tag_and_publishes_what_was_built():
    flow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    assert flow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    build, publish = flow["jobs"]["build"], flow["jobs"]["publish"]
    commands = "\n".join(step.get("run", "") for step in build["steps"])
    assert commands.index('.ci/release "$GITHUB_REF_NAME"') < commands.index("hatchling build")
    for line in re.findall(r"pip install .*", commands):
        assert line.startswith("pip install -c constraints.txt ")
    assert publish["needs"] == "build"
    names = [s["with"]["name"] for job in (build, publish) for s in job["steps"] if "artifact" in s.get("uses", "")]
    assert names == ["release", "release"]
    assert 'gh release create "$GITHUB_REF_NAME" dist/* --verify-tag' in publish["steps"][-1]["run"]


# --- the wheel ---


def test_the_wheel_holds_every_file_of_the_packages(tmp_path, tracked_files):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"adapting_language_models-{VERSION}-py3-none-any.whl"
    held = set(zipfile.ZipFile(wheel).namelist())
    packages = ("course_lib/", "autograder/")
    ours = {name for path in tracked_files if (name := path.relative_to(ROOT).as_posix()).startswith(packages)}
    assert {
        "autograder/py.typed",
        "course_lib/py.typed",
        "course_lib/execution/profiles/cpu.toml",
        "autograder/source/lora/lora.ipynb",
    } <= ours
    assert ours - held == set()


def test_the_release_script_can_be_run():
    assert os.access(ROOT / ".ci/release", os.X_OK)
