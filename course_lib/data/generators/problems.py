"""Word problems with exact answers from reasoning-gym (Stojanovski et al. 2025; Apache-2.0), and its verifiers."""

import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from itertools import count, islice
from random import Random
from types import ModuleType

from course_lib.data.generators.checks import numbers
from course_lib.data.generators.instructions import split_of, split_size
from course_lib.errors import CourseError

SIZES = {"train": 1000, "held_out": 200}
CHUNK = 200
# reasoning-gym's name -> (share of the items in tenths, its settings: numbers that one can work with on paper)
SOURCES: dict[str, tuple[int, dict]] = {
    "gsm_symbolic": (6, {}),
    "chain_sum": (1, {"min_terms": 2, "max_terms": 4, "max_digits": 2}),
    "basic_arithmetic": (1, {"min_terms": 2, "max_terms": 3, "max_digits": 2, "allow_negation": False}),
    "products": (1, {"max_digits": 2}),
    "lcm": (1, {"min_value": 2, "max_value": 30}),
}
EQUATION = re.compile(r"([-+*/x÷(]?)\s*(\d+(?:\.\d+)?)\s*([-+*/])\s*(\d+(?:\.\d+)?)\s*=\s*(-?\d+(?:\.\d+)?)")


@cache
def _reasoning_gym() -> ModuleType:
    """reasoning-gym's factory, with its arithmetic tasks registered.

    The package's own __init__ imports all its puzzles, and with them a SAT solver that has to be compiled. An empty
    package stands in its place while the arithmetic is imported, so that none of that is needed.
    """
    spec, loaded = find_spec("reasoning_gym"), sys.modules.get("reasoning_gym")
    if spec is None:
        raise CourseError("Word problems need reasoning-gym: `pip install --no-deps reasoning-gym==0.1.25`.")
    sys.modules["reasoning_gym"] = loaded or _empty_package(spec)
    try:
        for part in ("", ".gsm_symbolic.generators_00_49", ".gsm_symbolic.generators_50_99"):
            import_module(f"reasoning_gym.arithmetic{part}")
        return import_module("reasoning_gym.factory")
    except ImportError as error:
        raise CourseError(
            f"reasoning-gym did not import: {error}. `pip install python-dateutil pytz pyyaml`."
        ) from error
    finally:
        if loaded is None:
            del sys.modules["reasoning_gym"]


def _empty_package(spec: ModuleSpec) -> ModuleType:
    package = ModuleType(spec.name)
    # With its real path, its subpackages are found although its own code never runs.
    package.__path__ = spec.submodule_search_locations or []
    return package


def _holds(equation: tuple[str, str, str, str, str]) -> bool:
    """Whether "a + b = c" is true to a cent. An equation that continues an expression to its left passes unjudged."""
    before, a, sign, b, result = equation
    if before:
        return True
    left, right = float(a), float(b)
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else 0.0}[sign]
    return abs(value - float(result)) < 0.011


def _is_sound(question: str, answer: str, solution: str) -> bool:
    """Whether a problem may be used: a whole answer of at least 0, at most two decimals, and equations that hold.

    Some of gsm_symbolic's templates truncate ($65.02 - $7.02 = $57) and so have a wrong reference answer.
    """
    equations = EQUATION.findall(re.sub(r"[$,]", "", solution))
    return answer.isdigit() and not re.search(r"\d\.\d{3}", question + solution) and all(map(_holds, equations))


def _draw(name: str, seed: int) -> Iterator[dict]:
    """Endless items of one reasoning-gym task, in chunks whose seeds are hashes, so that no two seeds overlap."""
    gym, (_, settings) = _reasoning_gym(), SOURCES[name]
    for chunk in count():
        chunk_seed = int.from_bytes(sha256(f"{name} {seed} {chunk}".encode()).digest()[:4], "big")
        for entry in gym.create_dataset(name, seed=chunk_seed, size=CHUNK, **settings):
            question, answer = entry["question"].strip(), entry["answer"]
            steps = entry["metadata"].get("answer_cot", "").partition("####")[0]
            solution = f"{steps}#### {answer}"
            if name != "gsm_symbolic" or _is_sound(question, answer, solution):
                yield {
                    "question": question,
                    "answer": answer,
                    "solution": solution,
                    "source": f"reasoning_gym/{name}",
                }


def word_problems(split: str = "train", size: int | None = None, seed: int = 0) -> list[dict]:
    """Word problems with exact answers; the arguments alone decide what they are.

    reasoning-gym makes them, and is imported here. The hash of a problem's sorted words decides its split.
    Left out: gsm_symbolic problems whose reference is negative, fractional or rounded on the way.

    Args:
        split: "train" or "held_out".
        size: how many problems; by default 1,000 and 200.
        seed: decides what is drawn.

    Returns:
        Items {"question", "answer", "solution", "source"}. All values are strings. `solution` ends with GSM8K's
        "#### 42". It has steps for gsm_symbolic (Mirzadeh et al. 2024: GSM8K's problems with names and numbers drawn
        anew), and the answer alone for the arithmetic tasks.

    Raises:
        CourseError: the split is unknown, the size is below 1, or reasoning-gym is not installed.
    """
    size = split_size(split, size, SIZES)
    return list(islice(_problems(split, seed), size))


def _problems(split: str, seed: int) -> Iterator[dict]:
    """Endless problems of one split, from all sources in their shares; none comes twice."""
    rng, seen = Random(f"word problems {seed}"), set()
    streams = {name: _draw(name, seed) for name in SOURCES}
    shares = [share for share, _ in SOURCES.values()]
    while True:
        item = next(streams[rng.choices(list(SOURCES), shares)[0]])
        content = _content(item["question"])
        if split_of(content) == split and content not in seen:
            seen.add(content)
            yield item


def _content(question: str) -> str:
    """What makes a problem another one: its words and signs in any order (5 * 9 is 9 * 5)."""
    return " ".join(sorted(re.findall(r"\w+|[-+*/]", question.lower())))


def final_number(response: str) -> str | None:
    """The number that a response settles on: the first after its last "####", or the last one of a text without it.

    Returns:
        The number written plainly ("1,050.0" becomes "1050"), or None where there is none.
    """
    _, mark, tail = response.rpartition("####")
    found = numbers(tail)
    return None if not found else format(found[0 if mark else -1].normalize() + 0, "f")


@cache
def _verifier(source: str) -> Callable[[str, dict], float]:
    """reasoning-gym's scoring function for one source."""
    name = source.removeprefix("reasoning_gym/")
    if name not in SOURCES:
        known = ", ".join(f"reasoning_gym/{known}" for known in SOURCES)
        raise CourseError(f"source={source!r} cannot be verified; known sources: {known}.")
    return _reasoning_gym().get_score_answer_fn(name)


def check_answer(item: dict, response: str) -> float:
    """Whether the `final_number` of a response satisfies reasoning-gym's own verifier for the item.

    Its partial scores count as 0: they are given for form (0.01 for any number) or for containing the right digits
    (0.5 for 15 where 5 is right). Its gsm_symbolic verifier overlooks a minus sign at the start, so signs are compared
    here first.

    Args:
        item: from `word_problems`.
        response: what a model answered.

    Returns:
        1.0 or 0.0.

    Raises:
        CourseError: answers to the item's source cannot be verified, or reasoning-gym is not installed.
    """
    verifier, number = _verifier(item["source"]), final_number(response)
    if number is None or (Decimal(number) < 0) != item["answer"].startswith("-"):
        return 0.0
    return float(verifier(number, item) == 1.0)
