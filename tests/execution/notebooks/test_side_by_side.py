"""Which chapters run side by side, in which order, and on which share of the machine."""

import re
import threading
from pathlib import Path

import psutil
import pytest

from course_lib.execution.environment import available_memory
from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.notebooks.side_by_side import ChapterQueue, Cost, jobs_for, threads_for
from course_lib.execution.profile import available_profiles, profile_path, read_profile

GB = 1e9


def chapters_of(*names):
    return [Chapter(Path(f"/nowhere/{name}.ipynb")) for name in names]


def queue_of(memory_gb, **costs):
    """A queue for chapters a=(memory in GB, seconds), and the chapters by name."""
    chapters = {name: Chapter(Path(f"/nowhere/{name}.ipynb")) for name in costs}
    return ChapterQueue({chapters[n]: Cost(gb * GB, s) for n, (gb, s) in costs.items()}, memory_gb * GB), chapters


class TestCost:
    def test_it_is_what_the_profile_says(self):
        (chapter,) = chapters_of("03_lora")
        assert Cost.of(chapter.id, {"03_lora": {"cost": {"memory_gb": 1.8, "seconds": 70}}}) == Cost(1.8 * GB, 70)

    def test_a_chapter_that_the_profile_does_not_know_is_guessed_with_caution(self):
        """It may need as much memory as the largest chapter, and it does not go before one whose time is known."""
        (chapter,) = chapters_of("42_new")
        assert Cost.of(chapter.id, {}) == Cost(3 * GB, 0)
        assert Cost.of(chapter.id, {"42_new": {"cost": {"seconds": 5}}}) == Cost(3 * GB, 5)

    @pytest.mark.parametrize("profile", sorted(available_profiles()))
    def test_every_profile_says_what_every_chapter_takes(self, profile):
        table = read_profile(profile_path(profile))
        chapters = [name for name in table if re.match(r"\d\d_", name)]
        assert chapters
        for name in chapters:
            assert table[name]["cost"].keys() == {"memory_gb", "seconds"}, name


class TestPlan:
    @pytest.mark.parametrize(
        ("cores", "chapters", "device", "jobs"),
        [(2, 5, "cpu", 2), (8, 5, "cpu", 5), (1, 5, "cpu", 1), (2, 1, "cpu", 1), (2, 0, "cpu", 1), (8, 5, "cuda", 1)],
    )
    def test_one_chapter_for_each_core_and_one_at_a_time_on_a_gpu(self, machine, cores, chapters, device, jobs):
        machine(cores)
        assert jobs_for(chapters, device) == jobs

    @pytest.mark.parametrize(
        ("cores", "jobs", "asked", "threads"),
        [(2, 2, 2, 1), (2, 1, 2, 2), (8, 2, 16, 4), (8, 2, 1, 1), (7, 2, 7, 3), (2, 5, 2, 1)],
    )
    def test_no_more_threads_than_cores_or_than_the_profile_asks_for(self, machine, cores, jobs, asked, threads):
        machine(cores)
        assert threads_for(jobs, asked) == threads

    def test_the_longest_goes_first_and_equals_keep_their_order(self):
        queue, _ = queue_of(100, a=(1, 5), b=(1, 50), c=(1, 5), d=(1, 500))
        taken = [queue.take().id for _ in range(4)]
        assert taken == ["d", "b", "a", "c"]
        assert queue.take() is None

    def test_a_chapter_without_room_is_passed_over_until_there_is(self):
        queue, chapters = queue_of(5, long=(3, 90), large=(4, 50), small=(2, 10))
        assert [queue.take().id, queue.take().id] == ["long", "small"]
        queue.done(chapters["long"])
        queue.done(chapters["small"])
        assert queue.take().id == "large"

    def test_who_finds_no_room_waits_for_it(self, monkeypatch):
        queue, chapters = queue_of(5, long=(3, 90), large=(4, 50))
        queue.take()
        waits, taken = spied_wait(queue, monkeypatch), []
        thread = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
        thread.start()
        assert waits.wait(60)
        assert taken == []
        queue.done(chapters["long"])
        thread.join(60)
        assert taken == [chapters["large"]]

    def test_a_chapter_larger_than_the_machine_runs_alone(self, monkeypatch):
        queue, chapters = queue_of(2, giant=(64, 90), small=(1, 10))
        assert queue.take().id == "giant"
        waits, taken = spied_wait(queue, monkeypatch), []
        thread = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
        thread.start()
        assert waits.wait(60)
        queue.done(chapters["giant"])
        thread.join(60)
        assert taken == [chapters["small"]]

    def test_what_waits_is_let_go_when_the_run_is_stopped(self, monkeypatch):
        queue, _ = queue_of(5, long=(3, 90), large=(4, 50))
        queue.take()
        waits, taken = spied_wait(queue, monkeypatch), []
        thread = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
        thread.start()
        assert waits.wait(60)
        queue.clear()
        thread.join(60)
        assert taken == [None]

    def test_the_memory_is_what_is_available_when_the_run_starts(self, machine):
        machine(memory_gb=3.5)
        assert ChapterQueue({}).memory == 3.5 * GB
        assert 0 < available_memory() <= psutil.virtual_memory().total


def spied_wait(queue, monkeypatch):
    """An event that is set as soon as somebody waits for memory."""
    waits, wait = threading.Event(), queue.changed.wait

    def spy(timeout=None):
        waits.set()
        return wait(timeout)

    monkeypatch.setattr(queue.changed, "wait", spy)
    return waits
