"""The judge's verdicts on right, other right and wrong answers are those of the tests in the answers' own process."""

import ast
import copy
import functools
import importlib
import warnings

import pytest
from in_process import edited, references

from autograder import course, notebook
from autograder.judging.checks import worth
from autograder.judging.judge import Judge

NAMES = sorted(name for name in course.assignments() if course.find(name).read().metadata.course.get("judged"))
ANSWERS = {name: references(course.find(name).read()) for name in NAMES}
WRONG = {name: importlib.import_module(f"wrong_answers.{name}").WRONG for name in NAMES}
OTHERS = {name: importlib.import_module(f"other_answers.{name}").OTHERS for name in NAMES}
DESERVED = {
    name: points
    for module in ("partial_credit", "partial_credit_scratch")
    for name, points in importlib.import_module(module).DESERVED.items()
}
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


@functools.cache
def cells_with_tests(name):
    """The test cells of an assignment by their names."""
    return {notebook.grade_id(c): c.source for c in course.find(name).read().cells if notebook.is_test(c)}


def test_which_assignments_are_judged():
    assert sorted(course.assignments()) == NAMES


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
def test_wrong_answers_lose_what_they_miss(judges, name, part):
    passed, messages, points = [], [], {}
    for requirement, edits in WRONG[name][part].items():
        found = verdict(judges[name], name, part, edited(ANSWERS[name][part], edits))
        messages.append(found.message)
        points[requirement] = found.points
        if found.points == found.part.points or (found.points and not worth(cells_with_tests(name)[f"check-{part}"])):
            passed.append(requirement)
    assert not passed, f"nothing tests that {passed}"
    assert all(messages)
    deserved = DESERVED.get(name, {}).get(part, {})
    assert {requirement: points[requirement] for requirement in deserved} == deserved


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_points_of_the_properties_are_the_parts_and_the_text_has_them(name, part):
    source = cells_with_tests(name)[f"check-{part}"]
    if shares := worth(source):
        cell = next(p for p in notebook.parts(course.find(name).read()) if p.id == f"check-{part}")
        assert sum(shares.values()) == cell.points
        said = ", ".join(f"{points:g} for {each.replace('_', ' ')}" for each, points in shares.items())
        assert any(f"*Points: {said}.*" in c.source for c in course.find(name).read().cells)
        visible = source.split("### BEGIN")[0]
        assert all(f'with _points("{each}"):' in visible for each in shares), "a property without a visible check"


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_an_answer_that_only_refuses_gets_nothing(judges, name, part):
    defined = [node for node in ast.parse(ANSWERS[name][part]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for body in ("raise ValueError('qproj proj 0 6 12 no role merged already not merged')", "return None"):
        lines = []
        for node in defined:
            if isinstance(node, ast.ClassDef):
                lines.append(f"class {node.name}:\n    def __init__(self, *a, **k):\n        {body}\n")
            else:
                lines.append(f"def {node.name}(*a, **k):\n    {body}\n")
        assert verdict(judges[name], name, part, "\n".join(lines)).points == 0, body
