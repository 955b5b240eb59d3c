"""Plain texts about the world of `pocket_problems`, without end: what a model reads before it is taught to answer.

None of them has a question with its answer. "worked" tells the facts of a problem and reckons, "exercises" only asks.
Problems of "development" and "held_out" never come into the training part of a text.
"""

from collections.abc import Callable, Iterator
from random import Random

from course_lib.data.generators.pocket_problems import KINDS, LARGEST, PARTS, PLACES, THINGS, Problem, part_of
from course_lib.data.generators.words import ADJECTIVES, NAMES, NOUNS
from course_lib.errors import CourseError

REMARKS = (
    "The wind came round to the {direction}.",
    "Rain fell on the {place} all day.",
    "The {place} was cold and quiet.",
    "A {adjective} {noun} stood by the {place}.",
    "{name} sang on the way to the {place}.",
    "Nobody saw the {adjective} {noun}.",
    "In the evening {name} lit the lamps.",
    "{name} wrote a letter about the {noun} and slept.",
    "The {adjective} {noun} was left in the {place}.",
)
DIRECTIONS = "north south east west".split()
GAINS = ("{name} gets {number} more.", "{name} buys {number} {things}.", "{name} finds {number} {things}.")
LOSSES = ("{name} gives {number} away.", "{name} sells {number} {things}.", "{name} loses {number}.")


def _remark(rng: Random) -> str:
    return rng.choice(REMARKS).format(
        direction=rng.choice(DIRECTIONS),
        place=rng.choice(PLACES),
        adjective=rng.choice(ADJECTIVES),
        noun=rng.choice(NOUNS),
        name=rng.choice(NAMES),
    )


def _problem(rng: Random, part: str) -> Problem:
    while True:
        problem = KINDS[rng.choice(list(KINDS))](rng)
        if part_of(problem) == part:
            return problem


def _prose(rng: Random, part: str) -> str:
    """Sentences about weather, people and places."""
    return " ".join(_remark(rng) for _ in range(rng.randint(3, 6)))


def _sums(rng: Random, part: str) -> str:
    """Equations, one on each line."""
    lines = []
    for _ in range(rng.randint(4, 8)):
        a = rng.randint(2, LARGEST - 2)
        if rng.random() < 0.5 or a < 4:
            b = rng.randint(2, LARGEST - a)
            lines.append(f"Note: {a} + {b} = {a + b}.")
        else:
            b = rng.randint(2, a - 1)
            lines.append(f"Note: {a} - {b} = {a - b}.")
    return "\n".join(lines)


def _story(rng: Random, part: str) -> str:
    """How many things somebody has, as they come and go."""
    name, things, count = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, LARGEST)
    told = [f"{name} has {count} {things}."]
    for _ in range(rng.randint(2, 4)):
        if rng.random() < 0.25:
            told.append(_remark(rng))
            continue
        gains = count < 4 or (count < LARGEST - 2 and rng.random() < 0.5)
        number = rng.randint(2, LARGEST - count) if gains else rng.randint(2, count - 1)
        after = count + number if gains else count - number
        event = rng.choice(GAINS if gains else LOSSES).format(name=name, number=number, things=things)
        told.append(f"{event} {count} {'+' if gains else '-'} {number} = {after}. Now {name} has {after} {things}.")
        count = after
    return " ".join(told)


def _worked(rng: Random, part: str) -> str:
    """The facts of a problem, and what follows from them, without a question."""
    problem = _problem(rng, part)
    first, second = problem.equations
    return f"{problem.facts} First {first}. Then {second}."


def _exercises(rng: Random, part: str) -> str:
    """A sheet of questions that nobody has answered."""
    return "\n".join(_problem(rng, part).question for _ in range(rng.randint(2, 4)))


TEXTS: dict[str, Callable[[Random, str], str]] = {
    "prose": _prose,
    "sums": _sums,
    "stories": _story,
    "worked": _worked,
    "exercises": _exercises,
}


def pocket_texts(name: str, part: str = "train", seed: int = 0) -> Iterator[str]:
    """Documents of one kind, without end; the arguments alone decide what they are.

    Args:
        name: a key of `TEXTS`.
        part: "train", "development" or "held_out".
        seed: decides what is drawn.

    Returns:
        An iterator over documents.

    Raises:
        CourseError: there is no such text or part.
    """
    if name not in TEXTS or part not in PARTS:
        raise CourseError(f"name={name!r}, part={part!r}: choose from {', '.join(TEXTS)} and {', '.join(PARTS)}.")
    return _documents(TEXTS[name], part, Random(f"pocket texts {name} {part} {seed}"))


def _documents(make: Callable[[Random, str], str], part: str, rng: Random) -> Iterator[str]:
    while True:
        yield make(rng, part)
