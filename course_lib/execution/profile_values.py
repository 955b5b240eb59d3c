"""Which values of a profile's settings are possible: bounds by name, choices, and settings that belong together.

`profile_check` has found out before that each key exists and that its value has the right type.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.slurm.script import seconds_of
from course_lib.vocabulary import DTYPES, HALF_DTYPES

CHOICES = {"device": ("cpu", "cuda"), "dtype": DTYPES, "autocast": HALF_DTYPES}
# The seed's hardware table has a device of its own, which HardwareConfig checks.
CHECKED_ELSEWHERE = ("hardware",)

# The first pattern that fits a name decides: the least and the largest possible value, whether the least itself is
# possible, and the words for it. Everything else is a size, a count or a length.
Bound = tuple[str, float, float, bool]
BOUNDS: tuple[Bound, ...] = (
    (r"log_every|eval_every|warmup_steps|trained_blocks|weight_decay|sinks|max_grad_norm", 0, math.inf, True),
    (r"lora_dropout|label_smoothing", 0, 1, True),
    (r"(min_lr|warmup)_ratio|.*_share", 0, 1, True),
    (r"temperature|lm_weight|gpu_memory_gb|seconds", 0, math.inf, True),
    (r"lr|.*_lr|.*_rates|alpha|beta|epochs|max_epochs|memory_gb", 0, math.inf, False),
    (r"num_gpus", 0, math.inf, True),
    (r"seq_len", 2, math.inf, True),
    (r"vocab_size", 257, math.inf, True),  # the 256 bytes, and the end token
)
AT_LEAST_ONE: Bound = ("", 1, math.inf, True)


def impossible_values(table: dict, where: str = "") -> Iterator[str]:
    """Values that no run can use, one sentence each.

    Args:
        table: the content of a profile, or one of its tables. Keys and types are right.
        where: the names of the tables around it, each with a dot.

    Yields:
        Sentences.
    """
    for key, value in table.items():
        if key in CHECKED_ELSEWHERE or key == "dataset_mix":
            continue
        if isinstance(value, dict):
            yield from impossible_values(value, f"{where}{key}.")
            continue
        yield from _impossible(f"{where}{key}", key, value)
    yield from _contradictions(table, where)


def _impossible(name: str, key: str, value: Any) -> Iterator[str]:
    choices = CHOICES.get(key, ())
    if choices and value not in choices:
        yield f"{name} = {value!r} is not possible: choose {' or '.join(choices)}."
    if key == "time" and value:
        try:
            seconds_of(value)
        except CourseError:
            yield f"{name} = {value!r} is not a time limit: write it as HH:MM:SS, or as D-HH:MM:SS for days."
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and not isinstance(number, bool) and (need := _breach(key, number)):
            yield f"{name} = {value!r} is not possible: {'each number' if isinstance(value, list) else 'it'} {need}."


def _breach(key: str, number: float) -> str:
    """What a number has to be and is not; empty where it is possible."""
    _, least, most, inclusive = next((each for each in BOUNDS if re.fullmatch(each[0], key)), AT_LEAST_ONE)
    if not math.isfinite(number):
        return "has to be finite"
    if number < least or (number == least and not inclusive):
        return f"has to be {'at least' if inclusive else 'above'} {least:g}"
    return f"has to be at most {most:g}" if number > most else ""


def _contradictions(table: dict, where: str) -> Iterator[str]:
    """Settings of one table that exclude each other."""
    steps, warmup = _number(table, "steps"), _number(table, "warmup_steps")
    if steps is not None and warmup is not None and 0 < steps < warmup:
        yield f"{where}warmup_steps = {warmup} is more than {where}steps = {steps}: lower it, or give more steps."
    width, heads = _number(table, "embed_dim"), _number(table, "num_heads")
    if width and heads and heads > 0 and width % heads:
        yield f"{where}embed_dim = {width} is not a multiple of {where}num_heads = {heads}: every head gets a share."


def _number(table: dict, key: str) -> int | None:
    value = table.get(key)
    return value if isinstance(value, int) else None
