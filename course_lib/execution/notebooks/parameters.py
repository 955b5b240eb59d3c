"""Values for a chapter's `parameters` cell, as `course run -p NAME VALUE` takes them.

papermill reads a value as YAML 1.1, where 1e-4 is a text, and only warns of a name that the notebook does not have.
Here a value is written as in TOML, and a name or a type that does not fit is refused before anything runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.profile import parse_value
from course_lib.suggestions import did_you_mean

OPTIONS = {"profile": "--profile", "seed": "--seed", "output_dir": "--out"}
KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}


def parse_parameters(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The values of `-p NAME VALUE`, given any number of times.

    Args:
        pairs: names with texts.

    Returns:
        The values by name.

    Raises:
        CourseError: the command has another option for this name.
    """
    for name, text in pairs:
        if name in OPTIONS:
            raise CourseError(f"-p {name} {text}: `course run` sets this parameter. Use {OPTIONS[name]} instead.")
    return {name: parse_value(text) for name, text in pairs}


def check_parameters(chapter: Chapter, given: Mapping[str, Any]) -> None:
    """Refuse what a chapter's `parameters` cell does not have, and a value of another type.

    Args:
        chapter: the chapter.
        given: the values by name.

    Raises:
        CourseError: with the nearest name, or the value that stands in the notebook.
    """
    defaults = chapter.defaults()
    for name, value in given.items():
        if name not in chapter.parameters():
            raise CourseError(
                f"{chapter.path.name} has no parameter {name!r}. It has: {', '.join(sorted(chapter.parameters()))}."
                f"{did_you_mean(name, chapter.parameters())}"
            )
        default = defaults.get(name)
        if default is not None and KINDS[type(value)] != KINDS.get(type(default)):
            raise CourseError(
                f"-p {name} {value!r}: in {chapter.path.name} this parameter is "
                f"{KINDS.get(type(default), 'of another type')}, such as {default!r}. Give a value of that kind."
            )
