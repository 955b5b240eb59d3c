"""What a family of `families` draws: a question before it is worded; and what the families share."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Question:
    """One question before it is worded. ``{a}`` in `reply` is where an answer goes.

    fact: what is asked, whatever the wording or direction: questions about one fact fall on one side of the split.
    asks: wordings; content: the material that they ask about. answer, wrong: right, and wrong in a likely way.
    misformatted: the right content in a form that was not asked for, or "" where the form is free.
    """

    fact: str
    asks: tuple[str, ...]
    content: str
    answer: str
    wrong: str
    reply: str = "{a}"
    misformatted: str = ""


def read_pairs(table: str) -> list[list[str]]:
    """A table "a b,c d" as [["a", "b"], ["c", "d"]]."""
    return [pair.split() for pair in table.split(",")]


def nearby(rng: Random, number: int, steps: tuple[int, ...] = (-2, -1, 1, 2)) -> str:
    """A number close to `number`, not below zero unless `number` is."""
    return str(number + rng.choice([step for step in steps if number < 0 or number + step >= 0]))


def swapped(rng: Random, items: list[str]) -> list[str]:
    """`items` with two different neighbours exchanged."""
    at = rng.choice([i for i in range(len(items) - 1) if items[i] != items[i + 1]])
    return items[:at] + [items[at + 1], items[at]] + items[at + 2 :]


def shuffled(rng: Random, items: list[str], unlike: list[str]) -> list[str]:
    """A random order of `items` that is not `unlike`."""
    mixed = rng.sample(items, len(items))
    return mixed if mixed != unlike else swapped(rng, mixed)


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
