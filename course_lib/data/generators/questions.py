"""The question that a family of `families` draws, before it is worded, and what the families share."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Question:
    """One question before it is worded.

    Attributes:
        fact: what is asked, in any wording or direction. Questions about one fact fall on one side of the split.
        asks: wordings of the question; ``{x}`` in one of them is where the content goes.
        content: the material that is asked about.
        answer: the right answer; ``|`` stands between several that are equally right.
        wrong: an answer that is wrong in a likely way.
        reply: a sentence with ``{a}`` where an answer goes.
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
    """A number close to another one. It is not below zero, unless the other one is.

    Args:
        rng: decides which.
        number: the other number.
        steps: how far away the result may be.

    Returns:
        The number, in digits.
    """
    return str(number + rng.choice([step for step in steps if number < 0 or number + step >= 0]))


def swapped(rng: Random, items: list[str]) -> list[str]:
    """A list with two unequal neighbours exchanged.

    Args:
        rng: decides which two.
        items: the list, in which not all items are equal.

    Returns:
        A new list.
    """
    at = rng.choice([i for i in range(len(items) - 1) if items[i] != items[i + 1]])
    return items[:at] + [items[at + 1], items[at]] + items[at + 2 :]


def shuffled(rng: Random, items: list[str], unlike: list[str]) -> list[str]:
    """A random order of a list that differs from a given one.

    Args:
        rng: decides the order.
        items: the list.
        unlike: the order that must not come out.

    Returns:
        A new list.
    """
    mixed = rng.sample(items, len(items))
    return mixed if mixed != unlike else swapped(rng, mixed)


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
