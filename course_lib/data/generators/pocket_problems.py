"""Small word problems with exact answers: two sums about people and their things, and how to solve them.

They are for models that are trained from scratch in minutes, for which the problems of GSM8K are out of reach. Their
form is GSM8K's: a question in words, a solution of equations, and the answer after "####". Two writers solve them. One
shows the work, the other one writes the answer alone:

    First 4 + 13 = 17. Then 17 - 5 = 12. #### 12                or                #### 12

The hash of a problem's two sums decides which part it is in, so that no part has the sums of another one with other
names, or in another story. "development" is for choosing a recipe, "held_out" for the one measurement at the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from random import Random

from course_lib.data.generators.problems import final_number
from course_lib.data.generators.words import NAMES
from course_lib.errors import CourseError

PARTS = ("train", "development", "held_out")
THINGS = "apples beads books buttons cards coins eggs figs keys lamps maps nuts pears pens plums shells".split()
PLACES = "barn box cellar garden house shop shed tent".split()
SHARES = {"development": 10, "held_out": 5}  # one problem in so many
LARGEST = 30  # of every number that occurs


@dataclass(frozen=True)
class Problem:
    """One problem before it is written as an item.

    Attributes:
        facts: what is told.
        asks: the question about it.
        steps: the equations that lead to the answer, each (a, sign, b).
    """

    facts: str
    asks: str
    steps: tuple[tuple[int, str, int], ...]

    @property
    def question(self) -> str:
        """What is asked, and then the facts, next to which the answer will stand."""
        return f"{self.asks} {self.facts}"

    @property
    def equations(self) -> list[str]:
        """The steps with their results: "14 + 23 = 37"."""
        return [f"{a} {sign} {b} = {result_of(a, sign, b)}" for a, sign, b in self.steps]

    @property
    def results(self) -> list[int]:
        """What each step gives; the last one is the answer."""
        return [result_of(*step) for step in self.steps]


def result_of(a: int, sign: str, b: int) -> int:
    """One sum.

    Args:
        a: a whole number.
        sign: "+", "-" or "*".
        b: a whole number.

    Returns:
        Its result.
    """
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _gets_and_gives(rng: Random) -> Problem:
    """a + b - c."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a = rng.randint(2, LARGEST - 4)
    b = rng.randint(2, LARGEST - a)
    c = rng.randint(2, a + b - 1)
    facts = f"{name} has {a} {things}. {name} gets {b} more and then gives {c} away."
    return Problem(facts, f"How many {things} does {name} have now?", ((a, "+", b), (a + b, "-", c)))


def _sells_and_buys(rng: Random) -> Problem:
    """a - b + c."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a = rng.randint(6, LARGEST - 2)
    b = rng.randint(2, a - 1)
    c = rng.randint(2, LARGEST - a + b)
    facts = f"{name} has {a} {things} and sells {b}. Later {name} buys {c}."
    return Problem(facts, f"How many {things} does {name} have now?", ((a, "-", b), (a - b, "+", c)))


def _sells_twice(rng: Random) -> Problem:
    """a - b - c."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a = rng.randint(6, LARGEST)
    b = rng.randint(2, a - 3)
    c = rng.randint(1, a - b - 1)
    facts = f"{name} has {a} {things} and sells {b}. Later {name} sells {c}."
    return Problem(facts, f"How many {things} does {name} have now?", ((a, "-", b), (a - b, "-", c)))


def _three_places(rng: Random) -> Problem:
    """a + b + c."""
    things, places = rng.choice(THINGS), rng.sample(PLACES, 3)
    a = rng.randint(2, LARGEST - 4)
    b = rng.randint(1, LARGEST - a - 2)
    c = rng.randint(1, LARGEST - a - b)
    facts = f"There are {a} {things} in the {places[0]}, {b} in the {places[1]} and {c} in the {places[2]}."
    return Problem(facts, f"How many {things} are there in all?", ((a, "+", b), (a + b, "+", c)))


def _difference(rng: Random) -> Problem:
    """a and b in one place, c in another: how many more."""
    things, (here, there) = rng.choice(THINGS), rng.sample(PLACES, 2)
    a = rng.randint(2, LARGEST - 4)
    b = rng.randint(2, LARGEST - a)
    c = rng.randint(2, a + b - 1)
    facts = f"The {here} holds {a} old and {b} new {things}. The {there} holds {c} {things}."
    return Problem(facts, f"How many more {things} does the {here} hold?", ((a, "+", b), (a + b, "-", c)))


KINDS: dict[str, Callable[[Random], Problem]] = {
    "gets_and_gives": _gets_and_gives,
    "sells_and_buys": _sells_and_buys,
    "sells_twice": _sells_twice,
    "three_places": _three_places,
    "difference": _difference,
}


def part_of(problem: Problem) -> str:
    """The part that a problem belongs to, by the SHA-256 of its sums: one of `PARTS`."""
    number = int.from_bytes(sha256(str(problem.steps).encode()).digest()[:8], "big")
    if number % SHARES["held_out"] == 0:
        return "held_out"
    return "development" if number // SHARES["held_out"] % SHARES["development"] == 0 else "train"


def shown_work(problem: Problem) -> str:
    """The solution of the writer who shows the work."""
    first, second = problem.equations
    return f"First {first}. Then {second}. #### {problem.results[-1]}"


def pocket_problems(part: str = "train", size: int = 1000, seed: int = 0) -> list[dict]:
    """Small word problems; the arguments alone decide what they are, and none comes twice.

    Args:
        part: "train", "development" or "held_out".
        size: how many.
        seed: decides what is drawn.

    Returns:
        Items {"question", "answer", "solution", "short", "kind"}: `solution` shows the work, `short` does not.

    Raises:
        CourseError: the part is unknown, or the size is below 1.
    """
    if part not in PARTS:
        raise CourseError(f"part={part!r} is unknown. Choose one of {', '.join(PARTS)}.")
    if size < 1:
        raise CourseError(f"size={size} is too small. Ask for at least one problem.")
    return list(islice(_problems(part, seed), size))


def _problems(part: str, seed: int) -> Iterator[dict]:
    """Endless problems of one part."""
    rng, seen, kinds = Random(f"pocket problems {part} {seed}"), set(), list(KINDS)
    while True:
        kind = rng.choice(kinds)
        problem = KINDS[kind](rng)
        if part_of(problem) != part or problem.question in seen:
            continue
        seen.add(problem.question)
        answer = str(problem.results[-1])
        yield {
            "question": problem.question,
            "answer": answer,
            "solution": shown_work(problem),
            "short": f"#### {answer}",
            "kind": kind,
        }


def is_right(item: dict, response: str) -> bool:
    """Whether a response settles on the answer of an item: see `final_number`.

    Args:
        item: from `pocket_problems`, or any other with a whole number as its "answer".
        response: what was answered.

    Returns:
        True where the answer is right.
    """
    return final_number(response) == item["answer"]
