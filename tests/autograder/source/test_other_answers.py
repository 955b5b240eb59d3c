"""Answers that are right in another way than the reference pass; a wrong one costs its own part only.

The other answers are in other_answers/, for the assignments that have them, and the wrong ones in wrong_answers/.
"""

import functools
import importlib

import pytest
from in_process import InProcess, one_of_each, parts_that_fail

NAMES = ["cluster", "datasets", "dpo", "finetuning", "foundations", "kv_cache", "lora", "merging", "qlora", "sft"]
OTHERS = {name: importlib.import_module(f"other_answers.{name}").OTHERS for name in NAMES}
WRONG = {name: importlib.import_module(f"wrong_answers.{name}").WRONG for name in NAMES}


@functools.cache
def executed(name):
    """The assignment, executed once."""
    return InProcess(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_another_right_answer(name):
    assert list(OTHERS[name]) == list(executed(name).answers)


@pytest.mark.parametrize(("name", "part"), [(name, part) for name in NAMES for part in OTHERS[name]])
def test_another_right_answer_passes(name, part):
    complaint = executed(name).complaint(part, OTHERS[name][part])
    assert complaint is None, complaint


@pytest.mark.parametrize(
    ("name", "part", "requirement", "edits"), [(name, *each) for name in NAMES for each in one_of_each(WRONG[name])]
)
def test_a_wrong_answer_costs_its_own_part(name, part, requirement, edits):
    assert parts_that_fail(name, part, edits) == [part], requirement
