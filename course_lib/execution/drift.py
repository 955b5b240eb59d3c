"""What newer releases of the libraries change: which package, and of it which argument, name or number.

`versions_drifted` holds what is installed against constraints.txt. `diagnose` reads what a failed test or chapter said,
and names the kind of drift and the library that it came from: of those that changed, the one whose code was running
last, or the one that the message names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "adapting-language-models"
# What a message says when a function, a name or a number is not what it was.
ARGUMENT = re.compile(r"([\w.<>]+)\(\) (?:got an unexpected keyword argument|got multiple values for argument) '(\w+)'")
LACKING = re.compile(r"([\w.<>]+)\(\) missing \d+ required (?:\w+-?\w* )?arguments?: '(\w+)'")
NAME_FROM = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
NAME_OF = re.compile(r"(?:module|type object) '([\w.]+)' has no attribute '(\w+)'")
ATTRIBUTE = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
MODULE = re.compile(r"No module named '([\w.]+)'")
EXPECTED = re.compile(r"(?m)^\s*(?:E\s+)?\S[^\n]*? (?:is [^\n]*, expected|was not recorded; expected) [^\n]*")
APART = re.compile(
    r"(?m)^\s*(?:E\s+)?(Greatest absolute difference: \S+|assert .* == .*approx.*|assert \S+ [<>=]+ \S+)"
)
FRAME = re.compile(r"site-packages/(\w+)(?:/|\.py)")


@dataclass(frozen=True)
class Package:
    """A package that is not the pinned one.

    Attributes:
        name: its normal name.
        pinned: the versions in constraints.txt; "not pinned" where it stands in none of its lines.
        here: the installed version.
    """

    name: str
    pinned: str
    here: str


@dataclass(frozen=True)
class Drift:
    """Something that newer libraries broke or changed.

    Attributes:
        where: the test or the chapter.
        kind: "argument", "name", "number" or "behaviour".
        library: with its old and new version; "unknown" where no package that changed can be blamed.
        what: the argument, the name or the number with both values, in a few words.
    """

    where: str
    kind: str
    library: str
    what: str


def versions_drifted(constraints: Path) -> list[Package]:
    """What is installed here and not pinned so.

    Args:
        constraints: the file with the pins; a package may have a line for each Python.
    """
    pins: dict[str, list[str]] = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            pins.setdefault(canonicalize_name(requirement.name), []).append(next(iter(requirement.specifier)).version)
    found = []
    for name, here in sorted({(canonicalize_name(each.metadata["Name"]), each.version) for each in distributions()}):
        if here.split("+")[0] not in pins.get(name, []) and name != OURS:
            found.append(Package(name, " or ".join(pins.get(name, [])) or "not pinned", here))
    return found


def diagnose(where: str, said: str, changed: Mapping[str, Package]) -> Iterator[Drift]:
    """Name the drift in what a failed test or chapter said.

    Args:
        where: the test or the chapter.
        said: the whole message with its traceback.
        changed: packages that are not the pinned ones, by the names they are imported by.

    Yields:
        One drift; for numbers that are not as expected one for each.
    """
    for kind, pattern in (("argument", ARGUMENT), ("argument", LACKING)):
        if match := pattern.search(said):
            yield Drift(where, kind, _blamed(said, changed), f"{match[1]}({match[2]}=...)")
            return
    if match := NAME_FROM.search(said):
        yield Drift(where, "name", _blamed(said, changed, match[2]), f"{match[2]}.{match[1]}")
    elif match := NAME_OF.search(said):
        yield Drift(where, "name", _blamed(said, changed, match[1]), f"{match[1]}.{match[2]}")
    elif match := MODULE.search(said):
        yield Drift(where, "name", _blamed(said, changed, match[1]), match[1])
    elif match := ATTRIBUTE.search(said):
        yield Drift(where, "name", _blamed(said, changed), f"{match[1]}.{match[2]}")
    elif numbers := [match[0].strip() for match in EXPECTED.finditer(said)]:
        for number in numbers:
            yield Drift(where, "number", _blamed(said, changed), number)
    elif match := APART.search(said):
        yield Drift(where, "number", _blamed(said, changed), match[1])
    else:
        yield Drift(where, "behaviour", _blamed(said, changed), _last_words(said))


def _blamed(said: str, changed: Mapping[str, Package], module: str = "") -> str:
    """The package that changed and whose code ran last, or that the message names."""
    places = [module.partition(".")[0]] if module else []
    places += reversed(FRAME.findall(said))
    places += [name for name in changed if re.search(rf"\b{re.escape(name)}\b", said)]
    package = next((changed[place] for place in places if place in changed), None)
    return f"{package.name} {package.pinned} → {package.here}" if package else "unknown"


def _last_words(said: str) -> str:
    errors = [line[1:].strip() for line in said.splitlines() if line.startswith("E ")]
    lines = errors or [line.strip() for line in said.splitlines() if line.strip()]
    return (errors[0] if errors else lines[-1])[:160] if lines else "no message"


def by_import_name(packages: Iterable[Package]) -> dict[str, Package]:
    """The packages by the names that they are imported by, as well as by their own."""
    own = {package.name: package for package in packages}
    found = dict(own)
    for module, names in packages_distributions().items():
        for name in names:
            if (package := own.get(canonicalize_name(name))) is not None:
                found[module] = package
    return found


def failures(junit: Path) -> dict[str, str]:
    """What failed in a JUnit report: the message and text of each failed case by its name.

    Args:
        junit: the file. One that is missing or damaged has nothing to say.
    """
    try:
        root = ElementTree.parse(junit).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    found = {}
    for case in root.iter("testcase"):
        for trouble in (*case.findall("failure"), *case.findall("error")):
            name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
            found[name.removeprefix("chapters::")] = f"{trouble.get('message', '')}\n{trouble.text or ''}"
    return found


def markdown(packages: list[Package], drifts: list[Drift]) -> str:
    """Both as tables.

    Args:
        packages: what is not pinned so.
        drifts: what it changed.

    Returns:
        The text of the report.
    """
    lines = ["## What drifted", "", "| where | kind | library | what |", "| --- | --- | --- | --- |"]
    for each in drifts:
        cells = [
            text.replace("|", "\\|").replace("\n", " ") for text in (each.where, each.kind, each.library, each.what)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if not drifts:
        lines = ["## Nothing drifted", "", "Every test and chapter that ran is as it was with the pins."]
    lines += ["", "| package | pinned | here |", "| --- | --- | --- |"]
    lines += [f"| {each.name} | {each.pinned} | {each.here} |" for each in packages]
    return "\n".join(lines) + "\n"
