"""Which tokens the next step reads: continuous batching (Orca, Yu et al. 2022) with prompts in parts (Sarathi-Serve,
arXiv:2403.02310).

Requests may join and leave between any two steps. In each step, every request that is past its prompt reads one token,
and the prompts share the rows that are left. When the pages run out, the request that came last gives back its own, and
reads its tokens again later. Since a token's keys and values always have the same bits (see `rows`), this does not
change the answer.

The scheduler is plain Python and has no thread, so that a test can step through it. `engine` runs it.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from course_lib.errors import first_line
from course_lib.inference.caches import OutOfPages
from course_lib.inference.server.jobs import Job
from course_lib.inference.server.prefixes import SharedPages
from course_lib.inference.server.rows import BLOCK, Chunk
from course_lib.inference.server.settings import EngineSettings
from course_lib.rounding import ceil_div

Read = Callable[[Sequence[Chunk]], Tensor]  # chunks to logits, (chunks that want them, vocabulary): `RowModel.read`


@dataclass
class Counts:
    """How often something has happened since the start."""

    tokens: int = 0
    prefix_tokens_shared: int = 0
    cancelled: int = 0
    errors: int = 0
    set_back: int = 0


class Scheduler:
    """Keeps the requests that wait and those that run, and decides what each step reads.

    Args:
        read: the function that computes the logits of chunks, such as `RowModel.read`.
        settings: the limits.
        adapters: the number of each adapter, by its name.
    """

    def __init__(self, read: Read, settings: EngineSettings, adapters: dict[str, int] | None = None):
        self.read, self.settings, self.adapters = read, settings, adapters or {}
        self.pages = SharedPages(settings.max_pages, settings.page_size)
        self.waiting: deque[Job] = deque()  # other threads may append; all else belongs to the engine's thread
        self.running: list[Job] = []  # in the order of their arrival
        self.counts = Counts()

    def step(self) -> bool:
        """Read the tokens of one step, and choose the next token of each request that has now been read to its end.

        Returns:
            Whether there was anything to do.
        """
        self._drop_cancelled()
        self._admit()
        jobs, chunks = self._plan()
        if not jobs:
            return False
        try:
            logits = self.read(chunks)
        except Exception as error:  # whatever the model raises ends these requests, and the engine goes on
            for job in jobs:
                self._fail(job, error)
            return True
        for job in jobs:
            if self._shares(job):
                self.pages.make_known(job.held, job.tokens)
        self._choose([job for job, chunk in zip(jobs, chunks, strict=True) if chunk.wanted], logits)
        return True

    def _shares(self, job: Job) -> bool:
        """Whether the request may use other requests' pages, and others may use its own."""
        return self.settings.keep_prefixes and job.request.use_cache

    def _choose(self, jobs: list[Job], logits: Tensor) -> None:
        """Choose the next token of each job; logits are (jobs, vocabulary)."""
        if not jobs:
            return
        highest, likeliest = logits.max(dim=-1)  # (jobs,) each; NaN counts as the highest
        for row, (job, top, token) in enumerate(zip(jobs, highest.tolist(), likeliest.tolist(), strict=True)):
            try:
                if not math.isfinite(top):
                    raise ArithmeticError(f"the model's logits are not numbers, the highest is {top}")
                job.take(token if job.is_greedy else job.choose(logits[row]))
                self.counts.tokens += 1
            except Exception as error:  # it comes from this request's settings or text; the others go on
                self._fail(job, error)
                continue
            if job.done:
                self._leave(job)
            elif not job.request.use_cache:
                self.pages.release(job.held)  # without a cache, the next step reads all its tokens again

    def _fail(self, job: Job, error: Exception) -> None:
        self.counts.errors += 1
        job.end("error", f"The model failed on this request: {type(error).__name__}: {first_line(error)}")
        self._leave(job)

    def _leave(self, job: Job) -> None:
        self.running.remove(job)
        self.pages.release(job.held)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self.running if job.ticket.cancelled]:
            self._cancel(job)
            self._leave(job)
        for job in [job for job in list(self.waiting) if job.ticket.cancelled]:
            self._cancel(job)
            self.waiting.remove(job)

    def _cancel(self, job: Job) -> None:
        self.counts.cancelled += 1
        job.end("cancelled")

    def fail_all(self, error: Exception) -> None:
        """End all requests and start with empty pages, because an error cannot be put down to any one request.

        Args:
            error: what was raised; the clients are told its kind and its first line.
        """
        while self.running or self.waiting:
            job = self.running.pop() if self.running else self.waiting.popleft()
            self.counts.errors += 1
            job.end("error", f"The engine failed: {type(error).__name__}: {first_line(error)}")
        self.pages = SharedPages(self.settings.max_pages, self.settings.page_size)

    def _admit(self) -> None:
        """Let requests in, in the order of their arrival, while there are a slot and enough pages for their tokens."""
        while self.waiting and len(self.running) < self.settings.max_batch:
            job = self.waiting[0]
            if self.running and ceil_div(len(job.tokens), self.settings.page_size) > self.pages.available:
                return
            self.running.append(self.waiting.popleft())

    def _plan(self) -> tuple[list[Job], list[Chunk]]:
        """Decide what each running request reads in this step.

        Returns:
            The requests that read something, and the chunk of each.
        """
        for job in self.running:
            if self._shares(job) and job.pending > 1:  # it takes over what others have read of the same beginning
                self.counts.prefix_tokens_shared += self.pages.take_known(job.held, job.tokens)
        reading = self._without_twins([job for job in self.running if job.pending > 1])
        new = [job for job in self.running if job.pending == 1]
        sizes = self._shares_of_rows(reading, max(self.settings.step_rows - len(new), BLOCK))
        sizes |= {id(job): 1 for job in new}
        planned = []
        for job in list(self.running):
            if job in self.running and id(job) in sizes:  # an earlier job may have taken its pages meanwhile
                start = job.held.table.length
                slots = self._slots(job, sizes[id(job)])
                if slots is not None:
                    planned.append((job, self._chunk(job, start, slots)))
        return [job for job, _ in planned], [chunk for _, chunk in planned]

    def _without_twins(self, reading: list[Job]) -> list[Job]:
        """Leave out the requests whose next page another request reads in this step: they take it over afterwards."""
        being_read, chosen = set(), []
        for job in reading:
            key = self.pages.next_key(job.held, job.tokens) if self._shares(job) else None
            if key is None or key not in being_read:
                chosen.append(job)
            if key is not None:
                being_read.add(key)
        return chosen

    def _shares_of_rows(self, reading: list[Job], room: int) -> dict[int, int]:
        """Divide the rows evenly among the prompts. What a short prompt does not need goes to the longer ones.

        Args:
            reading: the requests whose prompts are being read.
            room: how many rows there are for them.

        Returns:
            The number of rows of each request, by the `id` of its job.
        """
        sizes = {}
        for place, job in enumerate(sorted(reading, key=lambda job: job.pending)):
            size = min(job.pending, room // (len(reading) - place))
            if size:
                sizes[id(job)] = size
                room -= size
        return sizes

    def _slots(self, job: Job, tokens: int) -> list[int] | None:
        """Find slots for the tokens that the request reads now.

        If there are no pages left, the request that came last loses its own and waits again.

        Returns:
            The slots, or None if this request itself was the last one.
        """
        while True:
            try:
                return self.pages.append(job.held, tokens)
            except OutOfPages:
                last = self.running.pop()
                self.pages.release(last.held)
                self.waiting.appendleft(last)
                self.counts.set_back += 1
                if last is job:
                    return None

    def _chunk(self, job: Job, start: int, slots: list[int]) -> Chunk:
        stop = start + len(slots)
        adapter = -1 if job.request.adapter is None else self.adapters[job.request.adapter]
        return Chunk(
            job.tokens[start:stop], start, slots, job.held.table.pages, adapter, wanted=stop == len(job.tokens)
        )
