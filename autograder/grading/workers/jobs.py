"""Tasks in several processes at once, and what they tell in one stream: a single reader needs no lock."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from autograder.grading.workers.process import WorkerProcess
from course_lib.errors import CourseError

Event = dict[str, Any]


def at_once(tasks: list[dict[str, Any]], jobs: int, start: Callable[[], WorkerProcess]) -> Iterator[Event]:
    """Do the tasks in so many processes; each has one task at a time, and takes the next when it is done.

    A process that ends takes its task with it, whose student gets the event "problem", and no other one: the next task
    has a new process.

    Args:
        tasks: What `WorkerProcess.ask` takes, each with the key "student".
        jobs: How many processes at most.
        start: Starts one.

    Yields:
        The events, "started" first for each task. Those of one task are in their order.

    Raises:
        BaseException: What a thread of ours did not expect, as it was raised there.
    """
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    job_list = [_Job(waiting, events, start) for _ in range(min(jobs, len(tasks)))]
    for job in job_list:
        job.thread.start()
    try:
        left = len(job_list)
        while left:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                left -= 1
            else:
                yield event
    finally:
        for job in job_list:
            job.stop()
        for job in job_list:
            job.thread.join()


class _Job:
    """A thread that keeps one process busy."""

    def __init__(self, waiting: queue.SimpleQueue, events: queue.SimpleQueue, start: Callable[[], WorkerProcess]):
        self.waiting, self.events, self.start = waiting, events, start
        self.process: WorkerProcess | None = None
        self.stopped = False
        self.thread = threading.Thread(target=self._work, daemon=True)

    def stop(self) -> None:
        """Do no further task, and end the one that is being done."""
        self.stopped = True
        if self.process is not None and self.thread.is_alive():
            self.process.process.terminate()

    def _work(self) -> None:
        try:
            while not self.stopped:
                task = self.waiting.get_nowait()
                self.events.put({"event": "started", "student": task["student"]})
                self._do(task)
        except queue.Empty:
            pass
        except BaseException as error:  # a mistake of ours, which the reader raises
            self.events.put(error)
        finally:
            self._close()
            self.events.put(None)

    def _do(self, task: dict[str, Any]) -> None:
        try:
            if self.process is None:
                self.process = self.start()
            for event in self.process.ask(**task):
                self.events.put(event)
        except CourseError as error:
            self._close()
            self.events.put({"event": "problem", "student": task["student"], "error": str(error)})

    def _close(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            process.__exit__(None, None, None)
