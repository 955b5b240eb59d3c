"""A class of which a third is hostile, graded by two jobs that are killed again and again: nothing is lost or doubled.

CI has a small class. The whole of it: COURSE_CLASS=300 COURSE_KILLS=20 make test ARGS="-k test_class -n 0".
"""

import os
import random
import signal
import subprocess

import pytest
from small_class import book, hand_in, new_course, start, students

from autograder.grading.gradebook.standing import standings

COUNT = int(os.environ.get("COURSE_CLASS", "24"))
KILLS = int(os.environ.get("COURSE_KILLS", "4"))
MOST_MIB = 300  # of the largest of our processes, which was seen to take 122


def handed_in(folder):
    """The course and what each student deserves."""
    assignment, deserved = new_course(folder), {}
    for student, answers, points in students(COUNT):
        hand_in(folder, student, answers)
        deserved[student] = points
    return assignment, deserved


def peak_of(run):
    """The MiB of the largest process of a run, which succeeds."""
    said = run.stdout.read()
    assert run.wait() == 0, said
    return int(said.rpartition("peak ")[2])


def killed(run, chance):
    """Kill a run a random time after it has begun with a random one of the next submissions; whether it still ran."""
    for _ in range(chance.randint(1, 2 + 2 * COUNT // KILLS)):
        run.stdout.readline()
    try:
        run.wait(2 * chance.random())
        return False
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.wait()
        return True


@pytest.mark.slow
@pytest.mark.xdist_group("class")
def test_killed_at_random_moments_and_resumed_the_gradebook_is_the_sequential_one(tmp_path):
    sequential, resumed = tmp_path / "sequential", tmp_path / "resumed"
    assignment, deserved = handed_in(sequential)
    handed_in(resumed)
    with start(sequential, jobs=1) as run:
        alone = peak_of(run)
    chance, moments = random.Random(300), 0
    for _ in range(KILLS):
        with start(resumed, jobs=2) as run:
            moments += killed(run, chance)
    assert moments > 0
    with start(resumed, jobs=2) as run:
        beside = peak_of(run)
    assert {each.student: each.points for each in standings(assignment, sequential)} == deserved
    assert book(resumed) == book(sequential)
    assert len(book(resumed)) == COUNT * len(next(iter(deserved.values())))
    peak = max(alone, beside)
    print(f"{COUNT} submissions, killed {moments} times: the largest process had {peak:.0f} MiB")
    assert peak < MOST_MIB
