"""Right and wrong answers to generated problems; the problems' own exact verifiers decide which is which.

A wrong answer looks like the right one: the same sentence with another result, or the same steps with one slip that is
carried to the end. So length and wording tell nothing, and a verifier has to read the problem.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from course_lib.data.generators.instructions import SIZES as INSTRUCTION_SIZES
from course_lib.data.generators.instructions import check_instruction, questions, split_size
from course_lib.data.generators.problems import EQUATION, SIZES, check_answer, final_number, word_problems
from course_lib.data.generators.questions import nearby
from course_lib.data.judged import Judged
from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

TRIES = 20  # a slip that happens to give the right number is drawn again


def judged_answers(name: str, split: str = "train", size: int | None = None, seed: int = 0) -> list[Judged]:
    """One right and one wrong answer to each problem of a generated set; the arguments alone decide what they are.

    Args:
        name: a key of `GENERATORS`.
        split: "train" or "held_out"; no problem is in both.
        size: how many problems.
        seed: decides what is drawn.

    Returns:
        The answers, two for each problem.

    Raises:
        CourseError: the name or the split is unknown, or the size is below 1.
    """
    if name not in GENERATORS:
        raise CourseError(
            f"There are no generated answers {name!r}: choose from {', '.join(GENERATORS)}."
            f"{did_you_mean(name, GENERATORS)}"
        )
    return GENERATORS[name](split, size, seed)


def judged_word_problems(split: str = "train", size: int | None = None, seed: int = 0) -> list[Judged]:
    """The solution of each of `word_problems`, and a wrong one.

    Args:
        split: see `judged_answers`.
        size: see `judged_answers`.
        seed: see `judged_answers`.

    Returns:
        Two answers for each problem.
    """
    size = split_size(split, size, SIZES)
    rng, found = Random(f"judged word problems {split} {seed}"), []
    for number, item in enumerate(word_problems(split, size, seed)):
        source = f"word_problems:{split}:{number}"
        how, wrong = wrong_solution(item, rng)
        found += [
            Judged(item["question"], item["solution"], True, "reference", source),
            Judged(item["question"], wrong, False, how, source),
        ]
    return found


def wrong_solution(item: dict, rng: Random) -> tuple[str, str]:
    """A wrong solution of a word problem in the form of the right one.

    Args:
        item: from `word_problems`.
        rng: decides which mistake is made.

    Returns:
        (the kind of mistake, the solution): "slip" miscalculates the last step, "step" takes an earlier number of the
        solution for the result, and "result" writes another number behind "####".
    """
    kinds: dict[str, Callable[[dict, Random], str | None]] = {"slip": _slip, "step": _step, "result": _result}
    for _ in range(TRIES):
        how = rng.choice(list(kinds))
        wrong = kinds[how](item, rng)
        if wrong is not None and not check_answer(item, wrong):
            return how, wrong
    return "result", _with_result(item, str(int(item["answer"]) + 1))


def _with_result(item: dict, result: str) -> str:
    steps = item["solution"].rpartition("####")[0]
    return f"{steps}#### {result}"


def _result(item: dict, rng: Random) -> str:
    return _with_result(item, nearby(rng, int(item["answer"]), (-10, -2, -1, 1, 2, 10)))


def _step(item: dict, rng: Random) -> str | None:
    """An earlier result of the solution, as if the last step had been forgotten; of a sum without steps, a number."""
    text = item["solution"].rpartition("####")[0] or item["question"]
    numbers = [each for each in re.findall(r"(?<![\d.])\d+(?![\d.])", text) if each != item["answer"]]
    return _with_result(item, rng.choice(numbers)) if numbers else None


def _slip(item: dict, rng: Random) -> str | None:
    """The last equation with another result, which then is the final answer too."""
    steps = item["solution"].rpartition("####")[0]
    last = None
    for last in EQUATION.finditer(steps):  # noqa: B007 - the last one is wanted
        pass
    if last is None or last[5] != item["answer"]:
        return None
    result = nearby(rng, int(last[5]), (-10, -2, -1, 1, 2, 10))
    return f"{steps[: last.start(5)]}{result}{steps[last.end(5) :]}#### {result}"


def judged_instructions(split: str = "train", size: int | None = None, seed: int = 0) -> list[Judged]:
    """The right reply to each of `instruction_set`, and the same sentence with the family's likely mistake.

    Args:
        split: see `judged_answers`.
        size: see `judged_answers`.
        seed: see `judged_answers`.

    Returns:
        Two answers for each problem.
    """
    size, found = split_size(split, size, INSTRUCTION_SIZES), []
    for number, (item, wrong) in enumerate(islice(_with_wrong(split, seed), size)):
        problem = "\n\n".join(filter(None, (item["instruction"], item["input"])))
        source = f"instructions:{split}:{number}"
        found += [
            Judged(problem, item["output"], True, "reference", source),
            Judged(problem, wrong, False, item["task"], source),
        ]
    return found


def _with_wrong(split: str, seed: int) -> Iterator[tuple[dict, str]]:
    """Items of the instruction set, each with a reply that its check refuses."""
    for item, question in questions(split, f"instructions {seed}"):
        wrong = question.reply.replace("{a}", question.wrong)
        if not check_instruction(item, wrong):
            yield item, wrong


def same_number(answer: str, response: str) -> bool:
    """Whether a response settles on the number of a record's `answer`; a text is compared letter for letter.

    Args:
        answer: the right final answer.
        response: what was answered.

    Returns:
        Whether it is right.
    """
    expected = final_number(answer)
    if expected is None:
        return response.rpartition("####")[2].strip() == answer.strip()
    return final_number(response) == expected


GENERATORS: dict[str, Callable[[str, int | None, int], list[Judged]]] = {
    "word_problems": judged_word_problems,
    "instructions": judged_instructions,
}
