"""Grading in several processes, stopped and taken up: the gradebook is the one that one process makes."""

import pytest
import small_class
from small_class import NAME, hand_in, new_course, students

from autograder.grading.collect.submissions import find_submissions
from autograder.grading.run.grade import grade
from autograder.grading.run.progress import Bar, Lines
from autograder.grading.workers.jobs import at_once

COUNT = 6


class Class:
    """A small class, graded by one job."""

    def __init__(self, folder):
        self.state = folder / "course"
        self.assignment = new_course(self.state)
        self.deserved = {}
        for student, answers, points in students(COUNT):
            hand_in(self.state, student, answers)
            self.deserved[student] = points
        self.said = []
        self.grades = self.run()

    def run(self, **options):
        found = find_submissions(self.assignment, self.state / "submitted")
        return {g.student: g for g in grade(self.assignment, found, self.state, say=self.said.append, **options)}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return Class(tmp_path_factory.mktemp("one-job"))


def test_lines_in_a_log_and_a_bar_in_a_terminal(capsys):
    lines = []
    shown = Lines(lines.append)
    shown.started("ann", 1, 2)
    shown.booked("ann", 2)
    assert lines == ["[1/2] ann"]
    with Bar(print) as bar:
        bar.started("ann", 1, 2)
        bar.booked("ann", 2)
        bar.say("a note")
        bar.started("bob\x1b[2J", 2, 2)
    said = capsys.readouterr()
    assert said.out == "a note\n"
    assert "1/2" in said.err
    assert "bob" in said.err
    assert "\x1b[2J" not in said.err


@pytest.mark.slow
@pytest.mark.xdist_group("jobs")
class TestJobs:
    def test_each_gets_what_it_deserves(self, graded):
        assert {student: g.points for student, g in graded.grades.items()} == graded.deserved
        assert not any(g.problem for g in graded.grades.values())

    def test_what_is_graded_is_not_graded_again(self, graded):
        graded.said.clear()
        again = graded.run(jobs=2)
        assert again == graded.grades
        assert not [line for line in graded.said if line.startswith("[")]


@pytest.mark.slow
@pytest.mark.xdist_group("jobs")
class TestOnePart:
    """The tests of a part are edited after the class was graded."""

    @pytest.fixture
    def judged(self, monkeypatch):
        """The parts that each submission's task names."""
        asked = {}
        real = at_once

        def noted(tasks, jobs, start):
            asked.update({task["student"]: task["parts"] for task in tasks})
            return real(tasks, jobs, start)

        monkeypatch.setattr("autograder.grading.run.grade.at_once", noted)
        return asked

    @pytest.fixture
    def term(self, tmp_path):
        """A course with an honest student, and one who is wrong in two parts."""
        new_course(tmp_path)
        hand_in(tmp_path, "ann", {})
        hand_in(tmp_path, "bob", {"double": "def double(x):\n    return 7\n", "counter": "pass\n"})
        run = Class.__new__(Class)
        run.state, run.assignment, run.said = (
            tmp_path,
            small_class.Assignment(NAME, tmp_path / "source/mini/mini.ipynb"),
            [],
        )
        run.grades = run.run()
        return run

    def edit(self, term, part, old, new):
        text = term.assignment.path.read_text()
        assert old in text
        term.assignment.path.write_text(text.replace(old, new))

    def test_only_that_part_is_judged(self, term, judged):
        assert term.grades["bob"].total == 6
        self.edit(term, "double", "result_of(double, 3), 6)", "result_of(double, 3), 7)")
        self.edit(term, "double", "result_of(double, [1]), [1, 1])", "result_of(double, [1]), 7)")
        again = term.run()
        assert judged == {"ann": ["check-double"], "bob": ["check-double"]}
        assert again["ann"].points == term.grades["ann"].points | {"check-double": 0}
        assert again["bob"].points == term.grades["bob"].points
        judged.clear()
        assert term.run() == again
        assert judged == {}

    def test_a_part_that_is_named_is_judged_again(self, term, judged):
        again = term.run(parts=["check-counter"])
        assert judged == {"ann": ["check-counter"], "bob": ["check-counter"]}
        assert again == term.grades

    def test_new_answers_are_judged_as_a_whole(self, term, judged):
        self.edit(term, "double", "# Hint: twice", "# Hint: two times")
        hand_in(term.state, "bob", {"counter": "pass\n"})
        again = term.run()
        assert judged == {"ann": ["check-double"], "bob": None}
        assert again["bob"].total == 8
