"""Other programs' names for options and values, and what is made of a mistyped one."""

import argparse
import re

import pytest

from course_lib import cli
from course_lib.errors import CourseError
from course_lib.vocabulary import (
    FORMATS,
    OTHER_NAMES,
    OTHER_VALUES,
    SCHEDULES,
    VERIFIER_HEADS,
    VERIFIER_KINDS,
    canonical,
    canonical_value,
    nearest_option,
    other_names,
)

# The flags of the seeds and of the programs that their readers know, as they are written there, and what they mean.
FLAGS = {
    "--output_dir": "--output",
    "--lora_out": "--output",
    "--model_dir": "--model",
    "--model_path": "--model",
    "--model_name_or_path": "--model",
    "--pretrained_dir": "--model",
    "--data": "--dataset",
    "--data_dir": "--dataset",
    "--lora": "--adapter",
    "--adapter_path": "--adapter",
    "--learning_rate": "--lr",
    "--num_train_epochs": "--epochs",
    "--batch": "--batch-size",
    "--per_device_train_batch_size": "--batch-size",
    "--per_device_eval_batch_size": "--eval-batch-size",
    "--grad_accum": "--grad-accum-steps",
    "--lora_r": "--rank",
    "--lora_alpha": "--alpha",
    "--block_size": "--seq-len",
    "--max_train_samples": "--max-train-samples",
    "--max_eval_samples": "--max-eval-samples",
    "--max_new_tokens": "--max-new-tokens",
    "--target_modules": "--target-modules",
    "--target_tokens_per_step": "--tokens-per-step",
    "--gradient_checkpointing": "--gradient-checkpointing",
    "--evaluation_strategy": "--eval-strategy",
    "--eval_steps": "--eval-every",
    "--eval_interval": "--eval-every",
    "--logging_steps": "--log-every",
    "--log_interval": "--log-every",
    "--torch_dtype": "--dtype",
    "--resume_from_checkpoint": "--resume auto",
    "--no_cuda": "--device cpu",
    "--bf16": "--autocast bfloat16",
    "--fp16": "--autocast float16",
}


def parsers(parser):
    """Every parser that takes options, the sub-commands' too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)
            return
    yield parser


LEAVES = {parser.prog.removeprefix("course "): parser for parser in parsers(cli.parser())}


def words(line, command):
    return canonical(line.split(), LEAVES[command]._option_string_actions)


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("train", "--learning_rate 1e-4", "--lr 1e-4"),
        ("train", "--learning-rate=1e-4", "--lr=1e-4"),
        ("train", "--block_size 256", "--seq-len 256"),
        ("train", "--butterfly_block_size 256", "--butterfly-block-size 256"),
        ("train", "--no_cuda --lora_r 4", "--device cpu --rank 4"),
        ("train", "--fp16 --bf16", "--autocast float16 --autocast bfloat16"),
        ("train", "--data d", "--dataset d"),
        ("align run", "gpt2-lora --data_dir d", "gpt2-lora --dataset d"),
        ("align run", "gpt2-lora --data d", "gpt2-lora --dataset d"),
        ("memory", "tiny-gpt --block_size 256", "tiny-gpt --seq-len 256"),
        ("pretrain", "--block_size 256 --no_cuda", "--seq-len 256 --device cpu"),
        ("verifier train", "--model_dir d --resume_from_checkpoint", "--model d --resume auto"),
        ("serve", "--block-size 16 --no-cuda", "--page-size 16 --device cpu"),  # vLLM's meaning: there are no rows
        ("generate", "--block-size 16 --max_length 9", "--page-size 16 --max-new-tokens 9"),
        ("merge", "--lora x.pt --model m", "--adapter x.pt --base m"),
        ("compare", "--model_path m", "--base m"),
        ("dpo", "--lora x", "--adapter x"),
        ("data prepare", "--output_dir d", "--output d"),
        ("run", "--output d --timeout 9", "--out d --timeout 9"),
    ],
)
def test_other_names_become_ours(command, given, meant):
    assert words(given, command) == meant.split()


def example(action):
    """Words that an option can be given."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return []
    if action.choices:
        return [str(next(iter(action.choices)))]
    return ["3"]


@pytest.mark.parametrize("command", LEAVES)
def test_every_flag_works_on_every_command_that_has_its_option(command):
    """One rule, and no list of names for each command: the same namespace comes out of either spelling."""
    parser = next(each for each in parsers(cli.parser()) if each.prog == f"course {command}")
    for action in parser._actions:
        action.required = False
    options = parser._option_string_actions
    tried = 0
    for flag, meaning in FLAGS.items():
        option, *value = meaning.split()
        if option not in options or flag in options:
            continue
        choices = options[option].choices
        if value and choices and value[0] not in choices:
            continue  # course bench memory has no float16
        given = [] if value else example(options[option])
        assert vars(parser.parse_args([flag, *given])) == vars(parser.parse_args([option, *value, *given])), flag
        assert vars(parser.parse_args([flag.replace("_", "-"), *given])) == vars(parser.parse_args([flag, *given]))
        tried += 1
    if command in ("train", "sft", "dpo", "pretrain"):
        assert tried >= 25


@pytest.mark.parametrize(
    "given",
    [
        ["--prompt", "--well_said: he spoke"],
        ["--prompt", "-- and_so on"],
        ["--prompt=--lora_r"],
        ["--adapter", "my_adapter_file.pt"],
        ["--stop", "c_attn", "q_proj"],
        ["--", "--learning_rate", "--no_cuda"],
        ["--model", "a=b_c"],
        ["--temperature", "-1_000"],
        [],
        ["--"],
    ],
)
def test_values_are_never_changed(given):
    assert canonical(given, LEAVES["generate"]._option_string_actions) == given


def test_a_value_after_an_equals_sign_keeps_its_signs():
    assert words("--data=a_b=--c_d --output_dir=", "train") == ["--dataset=a_b=--c_d", "--output="]


def test_an_option_that_brings_its_value_takes_none():
    with pytest.raises(CourseError, match="--no-cuda takes no value: it stands for --device cpu"):
        words("--no_cuda=1", "train")


@pytest.mark.parametrize("command", LEAVES)
def test_a_name_that_means_nothing_here_is_not_the_beginning_of_an_option(command, capsys):
    """`course train --lora 0.1` would be --lora-dropout for argparse, and is an adapter everywhere else."""
    parser = LEAVES[command]
    own = parser._option_string_actions
    for other in OTHER_NAMES:
        if words(other, command) == [other] and other not in own:
            with pytest.raises(SystemExit):
                parser.parse_args([other, "1"])
            assert f"there is no option {other}" in capsys.readouterr().err


def test_a_beginning_of_an_own_option_is_enough():
    assert cli.parser().parse_args(["train", "--step", "3", "--output", "x"]).steps == 3


def test_every_other_name_leads_to_an_option_of_some_command():
    known = set().union(*(parser._option_string_actions for parser in LEAVES.values()))
    for other, meanings in OTHER_NAMES.items():
        assert {meaning.split()[0] for meaning in meanings} <= known, other
        assert other == other.lower().replace("_", "-")


def test_every_device_is_auto_by_default():
    """A model that was trained on the GPU is not compared, asked or served on the CPU without a word."""
    with_device = {name: parser for name, parser in LEAVES.items() if "--device" in parser._option_string_actions}
    assert {"train", "compare", "generate", "chat", "serve", "evaluate", "data make-preferences"} <= with_device.keys()
    for name, parser in with_device.items():
        action = parser._option_string_actions["--device"]
        assert action.default in ("auto", argparse.SUPPRESS), name  # a dataclass has the default of the latter
        assert action.help.endswith("(auto)"), name


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
    text = other_names(["--lr", "--device", "--seq-len", "--mode"])
    lines = dict(re.findall(r"^  (--\S+(?: \w+)?) +(--.*)$", text, re.M))
    assert lines["--lr"] == "--learning-rate"
    assert lines["--device cpu"] == "--no-cuda --use-cpu"
    assert "--block-size" in lines["--seq-len"]
    assert "--rank" not in text
    assert all(f"{other} for {own}" in text for other, own in OTHER_VALUES.items())
    assert other_names(["--jobs"]) == ""


@pytest.mark.parametrize("command", LEAVES)
def test_the_help_of_each_command_lists_them(command):
    actions = LEAVES[command]._option_string_actions
    shown = {option for option, action in actions.items() if action.help != argparse.SUPPRESS}
    flags = {flag.replace("_", "-") for flag, meaning in FLAGS.items() if meaning.split()[0] in shown} - actions.keys()
    listed = LEAVES[command].format_help().partition("names of other programs")[2]
    assert flags <= set(listed.split())


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--stepps", "--steps"),
        ("--learning-rat", "--lr"),
        ("--learning_rat", "--lr"),
        ("--blok-size", "--seq-len"),
        ("--xyzzy", None),
        ("--no-cuda", None),
    ],
)
def test_the_nearest_option_is_named_as_ours(flag, nearest):
    assert nearest_option(flag, ["--steps", "--lr", "--seq-len", "--help", "-h"]) == nearest


def test_the_words_are_those_that_the_rooms_implement():
    """They are listed apart from the rooms, which import torch."""
    from course_lib.alignment.pipeline.settings import VerifierTraining
    from course_lib.alignment.verifier_settings import GENERATED, RATES, VerifierSettings
    from course_lib.data.generators.judged import GENERATORS
    from course_lib.inference.products import PRODUCTS
    from course_lib.models.verifier_networks import VerifierConfig
    from course_lib.training import SCHEDULES as FUNCTIONS

    assert tuple(PRODUCTS) == FORMATS
    assert tuple(FUNCTIONS) == SCHEDULES
    assert tuple(GENERATORS) == GENERATED
    assert tuple(RATES) == VERIFIER_KINDS
    settings, config, pipeline = VerifierSettings(), VerifierConfig(300), VerifierTraining()
    assert (settings.seq_len, settings.encoder_dropout) == (config.max_length, config.dropout)
    for name in ("kind", "head", "hidden_size", "num_hidden_layers"):
        assert getattr(settings, name) == getattr(config, name)
    assert pipeline.head in VERIFIER_HEADS
    assert pipeline.kind in VERIFIER_KINDS
