"""Other programs' names for options and values, and what is made of a mistyped one."""

import argparse
import re

import pytest

from course_lib import cli
from course_lib.errors import CourseError
from course_lib.vocabulary import OTHER_NAMES, OTHER_VALUES, canonical, canonical_value, nearest_option, other_names


def words(line):
    return canonical(line.split())


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("train --learning_rate 1e-4", "train --lr 1e-4"),
        ("train --learning-rate=1e-4", "train --lr=1e-4"),
        ("train --block_size 256", "train --seq-len 256"),
        ("train --butterfly_block_size 256", "train --butterfly-block-size 256"),
        ("train --no_cuda --lora_r 4", "train --device cpu --rank 4"),
        ("train --fp16 --bf16", "train --autocast float16 --autocast bfloat16"),
        ("align run gpt2-lora --data_dir d", "align run gpt2-lora --data d"),
        ("train --data d", "train --dataset d"),
        ("merge --lora x.pt", "merge --adapter x.pt"),
        ("prepare --output_dir d", "prepare --output d"),
    ],
)
def test_other_names_become_ours(given, meant):
    assert words(given) == meant.split()


@pytest.mark.parametrize(
    "given",
    [
        ["compare", "--prompt", "--well_said: he spoke"],
        ["compare", "--prompt", "-- and_so on"],
        ["compare", "--prompt=--lora_r"],
        ["train", "--dataset", "my_data_file.txt"],
        ["train", "--target-modules", "c_attn", "q_proj"],
        ["train", "--", "--learning_rate", "--no_cuda"],
        ["train", "--model", "a=b_c"],
        ["train", "--alpha", "-1_000"],
        [],
        ["--"],
    ],
)
def test_values_are_never_changed(given):
    assert canonical(given) == given


def test_a_value_after_an_equals_sign_keeps_its_signs():
    assert canonical(["train", "--data=a_b=--c_d", "--output_dir="]) == ["train", "--dataset=a_b=--c_d", "--output="]


def test_an_option_that_brings_its_value_takes_none():
    with pytest.raises(CourseError, match="--no-cuda takes no value: it stands for --device cpu"):
        canonical(["train", "--no_cuda=1"])


def parsers(parser):
    """Every parser that takes options, the sub-commands' too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)
            return
    yield parser


def test_no_commands_own_option_is_taken_for_another():
    for parser in parsers(cli.parser()):
        path = parser.prog.split()[1:]
        for option in parser._option_string_actions:
            assert canonical([*path, option]) == [*path, option], parser.prog


def test_every_other_name_leads_to_an_option_of_its_command():
    known = {}
    for parser in parsers(cli.parser()):
        verb = parser.prog.split()[1]
        known.setdefault(verb, set()).update(parser._option_string_actions)
    known[""] = set().union(*known.values())
    for verb, table in OTHER_NAMES.items():
        for other, meant in table.items():
            assert (meant if isinstance(meant, str) else meant[0]) in known[verb], (verb, other)
            assert other == other.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("text", "choices", "value"),
    [
        ("butterfly_block", ("full", "butterfly-block"), "butterfly-block"),
        ("baseline", ("full", "lora"), "full"),
        ("bf16", ("float32", "bfloat16"), "bfloat16"),
        ("fp16", ("float32", "bfloat16"), "fp16"),  # not possible here: argparse says so
        ("constant_with_warmup", ("cosine", "constant"), "constant"),
        ("lora", ("lora", "full"), "lora"),
        ("gpt2_lora", ("gpt2_lora", "gpt2-lora"), "gpt2_lora"),
    ],
)
def test_values_from_a_list(text, choices, value):
    assert canonical_value(text, choices) == value


def test_help_names_what_a_command_understands_and_nothing_else():
    text = other_names("train", ["--lr", "--device", "--seq-len", "--mode"])
    lines = dict(re.findall(r"^  (--\S+(?: \w+)?) +(--.*)$", text, re.M))
    assert lines["--lr"] == "--learning-rate"
    assert lines["--device cpu"] == "--no-cuda --use-cpu"
    assert "--block-size" in lines["--seq-len"]
    assert "--rank" not in text
    assert all(f"{other} for {own}" in text for other, own in OTHER_VALUES.items())


@pytest.mark.parametrize("command", [["train"], ["align", "run"], ["compare"], ["merge"]])
def test_the_help_of_each_command_lists_them(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out
    for other, meant in OTHER_NAMES[command[0]].items():
        first = meant if isinstance(meant, str) else meant[0]
        if first in shown:
            assert other in shown, other


@pytest.mark.parametrize(
    ("flag", "verb", "nearest"),
    [
        ("--stepps", "train", "--steps"),
        ("--learning-rat", "train", "--lr"),
        ("--learning_rat", "train", "--lr"),
        ("--blok-size", "train", "--seq-len"),
        ("--xyzzy", "train", None),
        ("--no-cuda", "prepare", None),
    ],
)
def test_the_nearest_option_is_named_as_ours(flag, verb, nearest):
    assert nearest_option(flag, ["--steps", "--lr", "--seq-len", "--help", "-h"], verb) == nearest
