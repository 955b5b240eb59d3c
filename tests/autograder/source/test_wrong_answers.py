"""Tests of the tests: each requirement that an assignment's text states has a test that a plausible wrong answer fails.

The wrong answers are in wrong_answers/, part by part. The right ones are the sources' own, and must pass.
"""

import functools
import importlib.util
import inspect
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from in_process import InProcess, edited, references, refusing

from autograder import course

NAMES = sorted(course.assignments())
SLACK = 20  # how many times faster than its limit a cell must be


def wrong_answers(name):
    """{part: {requirement: edits of the reference}}."""
    path = Path(__file__).parents[1] / "wrong_answers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_answers_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


WRONG = {name: wrong_answers(name) for name in NAMES}
ANSWERS = {name: references(course.find(name).read()) for name in NAMES}


def parts(asked=lambda answer: True):
    """Parametrize a test with the parts of all assignments whose reference is `asked` for."""
    params = [
        pytest.param(name, part, marks=pytest.mark.xdist_group(f"assignment-{name}"), id=f"{name}-{part}")
        for name in NAMES
        for part, answer in ANSWERS[name].items()
        if asked(answer)
    ]
    return pytest.mark.parametrize(("name", "part"), params)


def returns_something(answer):
    """Whether a solution's functions return anything; `merged_into` yields."""
    return "    return" in answer and "yield" not in answer


@functools.lru_cache
def executed(name):
    """The assignment, executed once in this process."""
    return InProcess(name)


@pytest.fixture(autouse=True)
def quiet():
    """Wrong answers divide by zero, and libraries warn of what they will do some day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class TestPart:
    @parts()
    def test_the_reference_passes(self, name, part):
        assignment = executed(name)
        started = time.process_time()
        complaint = assignment.complaint(part)
        assert complaint is None, complaint
        limit = course.find(name).read().metadata.course.seconds_per_cell
        assert time.process_time() - started < limit / SLACK

    @parts()
    def test_wrong_answers_fail(self, name, part):
        assignment, passed = executed(name), []
        for requirement, edits in WRONG[name][part].items():
            answer = edited(assignment.answers[part], edits)
            assert answer != assignment.answers[part], requirement
            compile(answer, requirement, "exec")  # a slip of ours would fail without being tested
            if assignment.complaint(part, answer) is None:
                passed.append(requirement)
        assert not passed, f"nothing tests that {passed}"

    @parts(returns_something)
    def test_a_printed_answer_is_told_to_return(self, name, part):
        complaint = executed(name).complaint(part, wrap=printing)
        assert isinstance(complaint, AssertionError), repr(complaint)
        assert "return" in str(complaint)

    @parts()
    def test_lists_do_not_pass_for_arrays(self, name, part):
        assignment, seen = executed(name), []
        complaint = assignment.complaint(part, wrap=functools.partial(listing, seen=seen))
        assert not seen or isinstance(complaint, AssertionError), repr(complaint)
        assert not seen or "list" in str(complaint) or "a copy" in str(complaint)

    @parts(lambda answer: "raise ValueError" in answer)
    def test_another_exception_is_told_to_be_a_valueerror(self, name, part):
        assignment = executed(name)
        complaint = assignment.complaint(part, refusing(assignment.answers[part], "RuntimeError"))
        assert isinstance(complaint, AssertionError)
        assert "must raise a ValueError, and your code raised RuntimeError" in str(complaint)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_wrong_answers(name):
    assert list(WRONG[name]) == list(ANSWERS[name])
    assert min(map(len, WRONG[name].values())) >= 5


def printing(function):
    """The function as a beginner ends it: with print instead of return."""

    @functools.wraps(function)
    def printed(*arguments, **named):
        function(*arguments, **named)

    return printed


def listing(function, seen):
    """The function with lists for the arrays in what it returns; notes in `seen` that there were any."""

    def converted(value):
        if isinstance(value, np.ndarray) and value.ndim:
            seen.append(value)
            return value.tolist()
        if isinstance(value, tuple | list):
            return type(value)(map(converted, value))
        if isinstance(value, dict):
            return {key: converted(each) for key, each in value.items()}
        if inspect.isfunction(value):
            return lambda *arguments: converted(value(*arguments))
        return value

    @functools.wraps(function)
    def listed(*arguments, **named):
        return converted(function(*arguments, **named))

    return listed
