"""The judge's verdicts on right, other right and wrong answers are those of the tests in the answers' own process."""

import copy
import importlib
import warnings

import pytest
from in_process import edited, references

from autograder import course, notebook
from autograder.judging.judge import Judge

NAMES = sorted(name for name in course.assignments() if course.find(name).read().metadata.course.get("judged"))
ANSWERS = {name: references(course.find(name).read()) for name in NAMES}
WRONG = {name: importlib.import_module(f"wrong_answers.{name}").WRONG for name in NAMES}
OTHERS = {name: importlib.import_module(f"other_answers.{name}").OTHERS for name in NAMES}
PARTS = [(name, part) for name in NAMES for part in ANSWERS[name]]


@pytest.fixture(scope="module")
def judges():
    """A judge of each assignment's source, without the sandbox: a wrong answer is then one fork."""
    opened = {}
    for name in NAMES:
        opened[name] = Judge(copy.deepcopy(course.find(name).read()), sandbox=False, seed=7)
        opened[name].clock.left = 10_000  # for all wrong answers together
        opened[name].__enter__()
    yield opened
    for judge in opened.values():
        judge.__exit__()


def verdict(judge, name, part, answer):
    """The verdict on one answer, with right ones to the other parts."""
    by_id = {notebook.grade_id(cell): cell for cell in judge.whole.cells}
    judge.lost.clear()
    try:
        by_id[part].source = answer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return judge.verdict(next(p for p in notebook.parts(judge.whole) if p.id == f"check-{part}"))
    finally:
        by_id[part].source = ANSWERS[name][part]


def test_which_assignments_are_judged():
    assert "kv_cache" in NAMES


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_right_answers_get_their_points_with_any_secret(judges, name, part):
    for secret in (None, 0, 2**40 + 1):
        judges[name].seed = secret
        found = verdict(judges[name], name, part, ANSWERS[name][part])
        assert (found.points, found.message) == (found.part.points, ""), secret
    judges[name].seed = 7
    other = verdict(judges[name], name, part, OTHERS[name][part])
    assert (other.points, other.message) == (other.part.points, "")


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_wrong_answers_get_none(judges, name, part):
    passed, messages = [], []
    for requirement, edits in WRONG[name][part].items():
        found = verdict(judges[name], name, part, edited(ANSWERS[name][part], edits))
        messages.append(found.message)
        if found.points:
            passed.append(requirement)
    assert not passed, f"nothing tests that {passed}"
    assert all(messages)
