"""A class of which a third is hostile, graded by two jobs that are killed again and again: nothing is lost or doubled.

CI has a small class. The whole of it: COURSE_CLASS=300 COURSE_KILLS=20 make test ARGS="-k test_class -n 0".
"""

import os
import random
import signal
import subprocess

import pytest
from small_class import book, hand_in, new_course, start, students

from autograder.grading.standing import standings

COUNT = int(os.environ.get("COURSE_CLASS", "24"))
KILLS = int(os.environ.get("COURSE_KILLS", "4"))
MOST_MIB = 600  # of the largest of our processes


def handed_in(folder):
    """The course and what each student deserves."""
    assignment, deserved = new_course(folder), {}
    for student, answers, points in students(COUNT):
        hand_in(folder, student, answers)
        deserved[student] = points
    return assignment, deserved


def ended(run):
    """What a run said until its end, and the MiB of the largest of its own processes, not of another test's."""
    said = run.stdout.read()
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    return said, usage.ru_maxrss / 1024


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
        said, alone = ended(run)
    assert run.returncode == 0, said
    chance, moments = random.Random(300), 0
    for _ in range(KILLS):
        with start(resumed, jobs=2) as run:
            moments += killed(run, chance)
    assert moments > 0
    with start(resumed, jobs=2) as run:
        said, beside = ended(run)
    assert run.returncode == 0, said
    assert {each.student: each.points for each in standings(assignment, sequential)} == deserved
    assert book(resumed) == book(sequential)
    assert len(book(resumed)) == COUNT * len(next(iter(deserved.values())))
    peak = max(alone, beside)
    print(f"{COUNT} submissions, killed {moments} times: the largest process had {peak:.0f} MiB")
    assert peak < MOST_MIB
