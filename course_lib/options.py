"""Options declared once: a dataclass field says what a setting is, and the command's parser is made from it."""

import argparse
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import Field, field, fields
from typing import Any, TypeVar

from course_lib.errors import CourseError
from course_lib.vocabulary import canonical_value

Value = TypeVar("Value")
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", tuple: "a list of names"}


def option(
    default: Any,
    help: str,
    *,
    group: str,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    shown: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    modes: tuple[str, ...] | None = None,
    free: bool = False,
) -> Any:
    """A dataclass field that is also an option of a command.

    Args:
        default: its value where nothing is given.
        help: what it is, in a few words; the default is added in brackets.
        group: the heading it stands under.
        metavar: what stands for its value in the help (N for whole numbers, X for others).
        choices: the values it can have.
        shown: what the help says about the default, where the value itself says too little.
        at_least: the smallest value that is possible.
        above: the value has to be larger than this.
        below: the value has to be smaller than this.
        modes: only these modes have it.
        free: it changes neither the numbers of a run nor its files, so it may differ when the run is resumed.

    Returns:
        The field.
    """
    about = {key: value for key, value in locals().items() if key != "default"}
    return field(default=default, metadata=about)


def filled(value: Value | None) -> Value:
    """A setting whose default depends on others, once it has its value: for the type checker, and an early stop."""
    assert value is not None, "a setting was used before its default was filled in"
    return value


def one_of(choices: Iterable[str]) -> dict[str, Any]:
    """The keywords of `add_argument` for a choice, which takes the names of other programs too (`OTHER_VALUES`)."""
    known = tuple(choices)
    return {"choices": known, "type": lambda text: canonical_value(text, known)}


def count(text: str) -> int:
    """The number of an option that counts something; argparse reports what is not a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it has to be a whole number of at least 1")
    return int(text)


def add_options(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add every `option` of a dataclass to a parser, under its heading.

    Whatever is not given on the command line is absent from the result: defaults may depend on other settings.

    Args:
        parser: the parser of a command.
        settings: the dataclass. Fields that were not made by `option` are left out. Its class may have SHOWN, what the
            help says about defaults that a subclass has changed, and UNSHOWN, the headings of options that it refuses.
    """
    kinds = typing.get_type_hints(settings)
    shown, unshown = getattr(settings, "SHOWN", {}), getattr(settings, "UNSHOWN", ())
    groups: dict[str, Any] = {}
    for each in fields(settings):
        if not each.metadata:
            continue
        title = each.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        keywords = _argument(each, kinds[each.name], shown.get(each.name))
        if title in unshown:
            keywords["help"] = argparse.SUPPRESS  # it is still parsed, so that a sentence can refuse it
        groups[title].add_argument(flag_of(each.name), **keywords)


def flag_of(name: str) -> str:
    """The option of a setting: --batch-size for batch_size."""
    return "--" + name.replace("_", "-")


def _argument(each: Field, kind: Any, shown: str | None = None) -> dict[str, Any]:
    """The keywords of `add_argument` for one field of type `kind`; `shown` goes before the field's own."""
    about, default = each.metadata, each.default
    shown = about["shown"] if shown is None else shown
    if shown is None and default is not None and default is not False:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    help_text = about["help"] + (f" ({shown})" if shown else "")
    common = {"help": help_text.replace("%", "%%"), "default": argparse.SUPPRESS}
    value = value_type(kind)
    if value is bool and default is None:  # the default depends on others, so both answers can be given
        return common | {"action": argparse.BooleanOptionalAction}
    if value is bool:
        return common | {"action": "store_true"}
    if value is tuple:
        return common | {"nargs": "+", "metavar": about["metavar"]}
    if about["choices"]:
        return common | one_of(about["choices"])
    letters = {int: "N", float: "X"}
    return common | {"type": value, "metavar": about["metavar"] or letters.get(value)}


def value_type(kind: Any) -> type:
    """The plain type of an annotation: int for `int | None`, tuple for `tuple[str, ...] | None`."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return typing.get_origin(kind) or kind


def check_options(settings: Any) -> None:
    """CourseError where a value of `settings` is of another type, out of the range or not a choice of its `option`."""
    kinds = typing.get_type_hints(type(settings))
    for each in fields(settings):
        value, about = getattr(settings, each.name), each.metadata
        if value is None or not about:
            continue
        given, kind = f"{flag_of(each.name)} {value}", value_type(kinds[each.name])
        if not is_of_kind(value, kind):
            raise CourseError(f"{given} is not possible. It has to be {KINDS[kind]}.")
        if about["choices"] and value not in about["choices"]:
            raise CourseError(f"{given} is not possible. Choose one of {', '.join(about['choices'])}.")
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(given, value, about)


def is_of_kind(value: Any, kind: type) -> bool:
    """Whether a value is of a type, as settings mean it: a whole number counts as a number, and true as neither.

    Args:
        value: from a command line, a profile or a program.
        kind: see `value_type`.

    Returns:
        True where it is.
    """
    if kind is tuple:
        return isinstance(value, tuple | list)
    if isinstance(value, bool) or kind is bool:  # True is an int to Python
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _check_number(given: str, value: float, about: typing.Mapping[str, Any]) -> None:
    limits = []
    if about["above"] is not None:
        limits.append((value > about["above"], f"above {about['above']:g}"))
    if about["at_least"] is not None:
        limits.append((value >= about["at_least"], f"at least {about['at_least']:g}"))
    if about["below"] is not None:
        limits.append((value < about["below"], f"below {about['below']:g}"))
    if limits and not (math.isfinite(value) and all(holds for holds, _ in limits)):
        raise CourseError(f"{given} is not possible. It has to be {' and '.join(text for _, text in limits)}.")
