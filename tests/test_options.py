"""Settings declared once: the parser made of them, and the values that are refused."""

import argparse
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest

from course_lib.errors import CourseError
from course_lib.options import add_options, check_options, flag_of, option, value_type


@dataclass(frozen=True)
class Settings:
    """One field of each kind, made like those of the commands."""

    kind: str = option("a-b", "which", group="one", choices=("a-b", "float16", "full"))
    size: int | None = option(None, "how large", group="one", shown="7 %; c: 9", at_least=1)
    rate: float = option(0.5, "how fast, in % of all", group="two", above=0, below=1)
    names: tuple[str, ...] | None = option(None, "which layers", group="two", metavar="LAYER")
    fast: bool = option(False, "be quick", group="two")
    doubly: bool | None = option(None, "twice", group="two", shown="it depends")
    free: int = option(0, "changes nothing", group="two", free=True)
    plain: int = field(default=3)  # no option


def parsed(line):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Settings)
    return vars(parser.parse_args(line.split()))


def test_what_is_not_given_is_absent():
    assert parsed("") == {}


def test_each_kind_of_value():
    given = parsed("--kind a_b --size 3 --rate 1e-2 --names q v --fast")
    assert given == {"kind": "a-b", "size": 3, "rate": 0.01, "names": ["q", "v"], "fast": True}
    assert parsed("--kind baseline") == {"kind": "full"}
    assert parsed("--doubly") == {"doubly": True}
    assert parsed("--no-doubly") == {"doubly": False}
    with pytest.raises(argparse.ArgumentError, match="invalid int value"):
        parsed("--size 1.5")
    with pytest.raises(argparse.ArgumentError, match="invalid choice"):
        parsed("--kind z")


def test_the_help_has_headings_and_defaults():
    parser = argparse.ArgumentParser(prog="x")
    add_options(parser, Settings)
    text = " ".join(parser.format_help().split())
    assert text.index("one: --kind") < text.index("two: --rate")
    for shown in (
        "--doubly, --no-doubly twice (it depends)",
        "which (a-b)",
        "how large (7 %; c: 9)",
        "how fast, in % of all (0.5)",
        "changes nothing (0)",
    ):
        assert shown in text
    assert "be quick --" in text, "a switch has no default to show"
    assert "--plain" not in text


class Narrower(Settings):
    """A command with a default of its own, and without the options of one heading."""

    SHOWN = MappingProxyType({"size": "8"})
    UNSHOWN = ("two",)


def test_a_subclass_says_its_own_defaults_and_hides_what_it_refuses():
    parser = argparse.ArgumentParser(prog="x")
    add_options(parser, Narrower)
    text = " ".join(parser.format_help().split())
    assert "how large (8)" in text
    assert "which (a-b)" in text
    assert "two:" not in text
    assert "--rate" not in text
    assert vars(parser.parse_args(["--rate", "0.1"])) == {"rate": 0.1}  # a command can refuse it in a sentence


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "z"}, "--kind z is not possible. Choose one of a-b, float16, full."),
        ({"size": 0}, "--size 0 is not possible. It has to be at least 1."),
        ({"rate": 0.0}, "--rate 0.0 is not possible. It has to be above 0 and below 1."),
        ({"rate": 1.0}, "below 1"),
        ({"rate": float("nan")}, "--rate nan is not possible"),
        ({"rate": "fast"}, "--rate fast is not possible. It has to be a number."),
        ({"size": 1.5}, "--size 1.5 is not possible. It has to be a whole number."),
        ({"size": True}, "It has to be a whole number."),
        ({"fast": 1}, "--fast 1 is not possible. It has to be true or false."),
        ({"names": "q_proj"}, "--names q_proj is not possible. It has to be a list of names."),
        ({"rate": float("-inf")}, "--rate -inf is not possible"),
    ],
)
def test_impossible_values_are_named(values, message):
    with pytest.raises(CourseError) as error:
        check_options(Settings(**values))
    assert message in str(error.value)


def test_possible_values_pass():
    check_options(Settings())
    check_options(Settings(size=1, rate=0.999, names=(), fast=True, plain=-5))
    check_options(Settings(names=["q_proj"]))


def test_flags_and_types():
    assert flag_of("per_step_size") == "--per-step-size"
    assert value_type(int | None) is int
    assert value_type(tuple[str, ...] | None) is tuple
    assert value_type(bool) is bool
