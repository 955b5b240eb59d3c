"""Small word problems and the texts about their world."""

import re
from itertools import islice
from random import Random

import pytest

from course_lib.data.generators.pocket_problems import (
    KINDS,
    LARGEST,
    PARTS,
    is_right,
    part_of,
    pocket_problems,
    result_of,
)
from course_lib.data.generators.pocket_texts import TEXTS, pocket_texts
from course_lib.errors import CourseError

EQUATION = re.compile(r"(\d+) ([-+]) (\d+) = (\d+)")


def true(text):
    return [result_of(int(a), sign, int(b)) == int(c) for a, sign, b, c in EQUATION.findall(text)]


@pytest.mark.parametrize("part", PARTS)
def test_solutions_are_right_and_end_with_the_answer(part):
    items = pocket_problems(part, 300)
    assert {item["kind"] for item in items} == set(KINDS)
    for item in items:
        assert true(item["solution"]) == [True, True]
        assert is_right(item, item["solution"])
        assert is_right(item, item["short"])
        assert not is_right(item, f"#### {int(item['answer']) + 1}")
        assert max(map(int, re.findall(r"\d+", item["question"] + item["solution"]))) <= LARGEST
        assert int(item["answer"]) >= 0


def sums_of(texts):
    return {tuple(EQUATION.findall(text)) for text in texts}


def test_the_parts_share_no_sums():
    """A problem of another part with other names, or in another story, would be the same sums."""
    sums = {part: sums_of(item["solution"] for item in pocket_problems(part, 600)) for part in PARTS}
    for one, other in (("train", "development"), ("train", "held_out"), ("development", "held_out")):
        assert sums[one]
        assert not sums[one] & sums[other]


def test_a_smaller_set_begins_a_larger_one_and_seeds_differ():
    assert pocket_problems("train", 50) == pocket_problems("train", 80)[:50]
    assert pocket_problems("train", 50) != pocket_problems("train", 50, seed=1)
    questions = [item["question"] for item in pocket_problems("train", 2000)]
    assert len(set(questions)) == 2000


@pytest.mark.parametrize("name", TEXTS)
def test_texts_have_true_equations_and_no_answered_question(name):
    for text in islice(pocket_texts(name), 300):
        assert all(true(text))
        assert not ("?" in text and "=" in text)
        assert "####" not in text
    assert list(islice(pocket_texts(name), 20)) == list(islice(pocket_texts(name), 20))


def test_worked_texts_only_have_problems_of_their_part():
    held_out = sums_of(item["solution"] for item in pocket_problems("held_out", 800))
    assert not held_out & sums_of(islice(pocket_texts("worked", "train"), 3000))
    assert len(held_out & sums_of(islice(pocket_texts("worked", "held_out"), 9000))) / len(held_out) > 0.8


def test_the_sums_alone_decide_the_part():
    drawn = [KINDS[kind](Random(seed)) for kind in KINDS for seed in range(400)]
    parts = {}
    for problem in drawn:
        assert parts.setdefault(problem.steps, part_of(problem)) == part_of(problem)
    shares = {part: sum(each == part for each in parts.values()) / len(parts) for part in PARTS}
    assert abs(shares["held_out"] - 0.2) < 0.04
    assert abs(shares["development"] - 0.08) < 0.03


def test_unknown_parts_and_sizes_are_refused():
    with pytest.raises(CourseError, match="part='test' is unknown"):
        pocket_problems("test")
    with pytest.raises(CourseError, match="size=0"):
        pocket_problems("train", 0)
    with pytest.raises(CourseError, match="name='poems'"):
        pocket_texts("poems")
