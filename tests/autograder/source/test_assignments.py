"""The assignments as files: what a release may not contain, and what every source must."""

import re

import nbformat
import pytest

from autograder import course, notebook
from autograder.judging.checks import worth
from autograder.student.release import release, write_release
from course_lib.errors import CourseError

NAMES = sorted(course.assignments())


@pytest.fixture(scope="module", params=NAMES)
def assignment(request):
    return course.find(request.param)


def solutions(source):
    """The lines between the solution markers, cell by cell."""
    for cell in source.cells:
        if notebook.is_solution(cell):
            found = re.search(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell.source, re.S)
            yield cell, found[1]


def hidden_tests(source):
    for cell in source.cells:
        if notebook.is_test(cell):
            found = re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", cell.source, re.S)
            yield cell, found


def test_a_release_contains_no_solution_and_no_hidden_test(assignment):
    source, released = assignment.read(), release(assignment)
    text = "\n".join(cell.source for cell in released.cells)
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    for _, secret in [*solutions(source), *((c, found[1]) for c, found in hidden_tests(source))]:
        for line in filter(None, map(str.strip, secret.splitlines())):
            # a line such as `pass`, or one that a visible test shares, gives nothing away
            if len(line) > 25 and not any(line in cell.source.split("### BEGIN")[0] for cell in source.cells):
                assert line not in text, line
    asked = [cell for cell in source.cells if notebook.is_solution(cell)]
    assert text.count("raise NotImplementedError") == sum(cell.cell_type == "code" for cell in asked)
    assert text.count("YOUR ANSWER HERE") == sum(map(notebook.is_manual, asked))


def test_every_part_has_visible_checks_hidden_tests_and_points(assignment):
    source = assignment.read()
    assert len(notebook.parts(source)) >= 6
    for cell, found in hidden_tests(source):
        visible = cell.source[: found.start()] if found else ""
        assert found, f"{notebook.grade_id(cell)} has no hidden tests"
        assert re.search(r"assert |check_", visible), f"{notebook.grade_id(cell)} has no visible check"
        assert cell.metadata.nbgrader.points > 0
        assert cell.metadata.nbgrader.locked


def test_no_test_cell_ends_in_a_value(assignment):
    """To nbgrader a test cell's last value is a partial score, and a value that is no number is full marks."""
    import ast

    for cell, _ in hidden_tests(assignment.read()):
        last = ast.parse(cell.source).body[-1]
        returns_none = isinstance(last, ast.Expr) and ast.unparse(last.value).startswith("check_")
        if worth(cell.source):
            assert ast.unparse(last) == "_points.earned()"
            continue
        assert not isinstance(last, ast.Expr) or returns_none, ast.unparse(last)


def test_every_assertion_of_a_test_says_what_is_wrong(assignment):
    import ast

    for cell, _ in hidden_tests(assignment.read()):
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
        assert not [ast.unparse(node) for node in found if node.msg is None], notebook.grade_id(cell)


def test_source_is_valid_stripped_and_stable(assignment):
    source = assignment.read()
    nbformat.validate(source)
    ids = [cell.id for cell in source.cells]
    assert len(set(ids)) == len(ids)
    assert all(not cell.outputs and cell.execution_count is None for cell in source.cells if cell.cell_type == "code")
    for cell in source.cells:
        if notebook.grade_id(cell):
            assert cell.metadata.nbgrader.schema_version == 3


def test_get_never_overwrites_a_students_work(assignment, tmp_path):
    path = write_release(assignment, tmp_path)
    path.write_text("three hours of work")
    with pytest.raises(CourseError, match="exists and is left as it is"):
        write_release(assignment, tmp_path)
    assert path.read_text() == "three hours of work"
    write_release(assignment, tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unknown_assignment_lists_what_there_is():
    with pytest.raises(CourseError, match=r"no assignment 'loar': there .*lora"):
        course.find("loar")
