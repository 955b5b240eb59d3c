"""The embedded data sets: reproducible, split by content, and described by cards that cannot rot."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec

import pytest

from course_lib.data import style_corpus
from course_lib.data.generators import (
    cards,
    data_card,
    instruction_set,
    preference_pairs,
    word_problems,
)
from course_lib.errors import CourseError

needs_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
MAKERS = {"instructions": instruction_set, "preferences": preference_pairs, "word_problems": word_problems}
NAMES = ["instructions", "preferences", pytest.param("word_problems", marks=needs_gym)]
IDENTITY = {"instructions": ("instruction", "input"), "preferences": ("prompt",), "word_problems": ("question",)}


def digest(rows):
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def asked(name, rows):
    return [tuple(row[field] for field in IDENTITY[name]) for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_items_in_every_process(name):
    make = MAKERS[name]
    here = digest(make("train", 120, 3))
    code = (
        "import hashlib, json, course_lib.data.generators as g\n"
        f"rows = g.{make.__name__}('train', 120, 3)\n"
        "print(hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == here
    assert digest(make("train", 120, 4)) != here


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_size_is_a_prefix(name):
    make = MAKERS[name]
    assert make("held_out", 25, 5) == make("held_out", 90, 5)[:25]
    assert len(make("train", 1)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_twice_within_or_between_splits(name):
    """Also across seeds and sizes, as the content alone decides the split."""
    make = MAKERS[name]
    train, held_out = asked(name, make("train", 2500, 0)), asked(name, make("held_out", 600, 0))
    assert len(set(train)) == 2500
    assert len(set(held_out)) == 600
    other_seeds = [question for seed in (1, 2) for question in asked(name, make("held_out", 600, seed))]
    assert not set(train) & set(held_out + other_seeds)


@needs_gym
def test_no_problem_comes_back_in_another_order():
    train, held_out = (
        {tuple(sorted(re.findall(r"\w+|[*+/-]", item["question"]))) for item in word_problems(split)}
        for split in ("train", "held_out")
    )
    assert (len(train), len(held_out)) == (1000, 200)
    assert not train & held_out


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_items_take_less_than_a_second_of_the_processor(name):
    """Processor time, and the best of three: other programs do not count."""
    MAKERS[name]("train", 1)  # word problems import their library once
    times = []
    for seed in (11, 12, 13):
        start = time.process_time()
        MAKERS[name]("train", 1000, seed)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name):
    with pytest.raises(CourseError, match="split='test' is unknown; use one of 'train', 'held_out'"):
        MAKERS[name]("test")
    with pytest.raises(CourseError, match="size=0 is too small"):
        MAKERS[name]("train", 0)


def test_import_needs_neither_torch_nor_reasoning_gym():
    code = "import course_lib.data.generators, sys; sys.exit(bool({'torch', 'reasoning_gym'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def measured(name):
    """The numbers of a card, from the data."""
    if name == "keepers_log":
        text = style_corpus()
        return {"Entries": len(text.strip().split("\n\n")), "Words": len(text.split()), "Characters": len(text)}
    train, held_out = MAKERS[name]("train"), MAKERS[name]("held_out")
    if name == "instructions":
        return {
            "Items, train": len(train),
            "Items, held out": len(held_out),
            "Task families": len({item["task"] for item in train}),
            "Train items with an input": sum(bool(item["input"]) for item in train),
            "Train items answered in a sentence or equation": sum(
                item["output"] != item["answer"].split("|")[0] for item in train
            ),
            "Different instructions, train": len({item["instruction"] for item in train}),
            "Longest instruction with input, characters": max(
                len(item["instruction"] + item["input"]) for item in train + held_out
            ),
            "Longest output, characters": max(len(item["output"]) for item in train + held_out),
        }
    if name == "preferences":
        kinds = Counter(f"Train pairs rejected as {pair['why']}" for pair in train)
        families = {pair["task"] for pair in train}
        return {"Pairs, train": len(train), "Pairs, held out": len(held_out), "Task families": len(families)} | kinds
    sources = Counter(f"Train items from {item['source'].removeprefix('reasoning_gym/')}" for item in train)
    longest = max(len(item["question"]) for item in train + held_out)
    return {
        "Items, train": len(train),
        "Items, held out": len(held_out),
        "Longest question, characters": longest,
    } | sources


@pytest.mark.parametrize("name", ["keepers_log", *NAMES])
def test_card_numbers_are_the_datas(name):
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \|$", data_card(name), re.MULTILINE)
    assert {label: int(number.replace(",", "")) for label, number in rows} == measured(name)


def test_every_card_says_what_a_card_must():
    assert list(cards()) == ["keepers_log", "instructions", "preferences", "word_problems"]
    for card in cards().values():
        for part in ("How it was made", "Fields", "Licence", "Intended use", "Limits"):
            assert f"**{part}.**" in card
    families = re.search(r"\*\*Families\.\*\* ([^.]+)\.", data_card("instructions"))[1]
    assert set(re.split(r",\s+", families)) == {item["task"] for item in instruction_set()}
    with pytest.raises(CourseError, match="no data card 'poems'; the cards are keepers_log"):
        data_card("poems")
