"""Instruction-following items in the Alpaca format, generated, each with a check of its answer."""

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from random import Random

from course_lib.data.generators.checks import CHECKS, check_response
from course_lib.data.generators.families import FAMILIES
from course_lib.data.generators.questions import Question
from course_lib.errors import CourseError

SIZES = {"train": 1000, "held_out": 200}
HELD_OUT_SHARE = 5  # one fact in five


def split_of(content: str) -> str:
    """The split that `content` belongs to: "held_out" for one text in five, by its SHA-256, else "train".

    The content decides alone: no seed, size, order or process can move it to the other side.
    """
    number = int.from_bytes(sha256(content.encode()).digest()[:8], "big")
    return "train" if number % HELD_OUT_SHARE else "held_out"


def split_size(split: str, size: int | None, sizes: dict[str, int]) -> int:
    """How many items to make.

    Args:
        split: a key of `sizes`.
        size: how many are wanted; None for the split's own number.
        sizes: the number of items in each split.

    Returns:
        `size`, or the split's own number.

    Raises:
        CourseError: the split is unknown, or the size is below 1.
    """
    if split not in sizes:
        raise CourseError(f"split={split!r} is unknown; use one of {', '.join(map(repr, sizes))}.")
    if size is not None and size < 1:
        raise CourseError(f"size={size} is too small; ask for at least one item or leave it out.")
    return sizes[split] if size is None else size


def questions(split: str, seed_text: str) -> Iterator[tuple[dict, Question]]:
    """Draw questions without end; no pair of instruction and input comes twice.

    A question is drawn, its fact's hash says which split it is in, and the other split's questions are dropped.
    `random.Random` seeded with a text uses SHA-512, so a stream is the same in every process.

    Args:
        split: "train" or "held_out".
        seed_text: decides what is drawn.

    Yields:
        (item, question): the item as `instruction_set` returns it, and the question that it was made of.
    """
    rng, seen = Random(seed_text), set()
    tasks = list(FAMILIES)
    while True:
        task = rng.choice(tasks)
        question = FAMILIES[task](rng)
        ask = rng.choice(question.asks)
        instruction, given = ask.replace("{x}", question.content), "" if "{x}" in ask else question.content
        if split_of(f"{task}: {question.fact}") != split or (instruction, given) in seen:
            continue
        seen.add((instruction, given))
        main = question.answer.split("|")[0]
        item = {"instruction": instruction, "input": given, "output": question.reply.replace("{a}", main)}
        yield item | {"task": task, "answer": question.answer}, question


def instruction_set(split: str = "train", size: int | None = None, seed: int = 0) -> list[dict]:
    """Instructions from 24 task families, each with a checkable answer; the arguments alone decide what they are.

    The split holds out facts, not wordings: a model that trains on "14 as a Roman numeral" is never tested on XIV.
    Left out: questions without a computable answer (summaries, advice, stories).

    Args:
        split: "train" or "held_out".
        size: how many items; by default 1,000 and 200. A smaller size is a prefix of a larger one.
        seed: decides what is drawn.

    Returns:
        Items {"instruction", "input", "output", "task", "answer"}. All values are strings, and the first three are as
        in Stanford Alpaca (Taori et al. 2023). `check_instruction` looks for `answer` in a response; `output` states it
        in a short sentence or bare.

    Raises:
        CourseError: the split is unknown, or the size is below 1.
    """
    size = split_size(split, size, SIZES)
    return [item for item, _ in islice(questions(split, f"instructions {seed}"), size)]


def check_instruction(item: dict, response: str) -> bool:
    """Whether a response answers an item correctly and unambiguously.

    Wording around the answer is free as far as the task's rule in `checks` can tell it from a second answer. Refusals,
    hedges ("3 or 4"), repeated questions and wrong answers fail. Case counts where the task is about it.

    Args:
        item: from `instruction_set`.
        response: what a model answered.

    Returns:
        Whether the response is right.

    Raises:
        CourseError: answers to the item's task cannot be checked.
    """
    if item.get("task") not in CHECKS:
        raise CourseError(f"task={item.get('task')!r} cannot be checked; known tasks: {', '.join(CHECKS)}.")
    return check_response(item["task"], item["instruction"], item["input"], item["answer"], response)
