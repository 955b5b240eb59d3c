"""An engine whose answers a test writes: the HTTP side alone, in milliseconds."""

import asyncio
import queue
import threading
import time

from course_lib.errors import CourseError
from course_lib.inference.server.requests import Piece, QueueFull, TooLong, UnknownAdapter


def words(request):
    """The default script: one piece for each token of the prompt, the last with its reason."""
    for number, token in enumerate(request.prompt[: request.max_new_tokens]):
        yield Piece((token,), f"{request.adapter or 'base'}:{token} ")
        if number + 1 == request.max_new_tokens:
            break
    reason = "length" if len(request.prompt) >= request.max_new_tokens else "stop"
    yield Piece(finish_reason=reason)


def endless(request):
    """Tokens until the ticket is cancelled."""
    while True:
        yield Piece((1,), "on ")


class ScriptedTicket:
    def __init__(self, engine, request):
        self.engine, self.request = engine, request
        self.pieces, self.cancelled = queue.Queue(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        for piece in self.engine.script(self.request):
            if self.cancelled.wait(self.engine.delay):
                return
            self.pieces.put(piece)
        self.pieces.put(None)

    def __iter__(self):
        yield from iter(self.pieces.get, None)
        self.engine.finished(self)

    async def __aiter__(self):
        while True:
            try:
                piece = self.pieces.get_nowait()
            except queue.Empty:
                await asyncio.sleep(0.001)
                continue
            if piece is None:
                return
            if piece.finish_reason is not None:
                self.engine.finished(self)
            yield piece

    def cancel(self):
        self.cancelled.set()
        self.engine.finished(self, cancelled=True)


class ScriptedEngine:
    """An `Engine`. `running` are the tickets that have not ended."""

    def __init__(self, script=words, adapters=("one", "two"), max_positions=64, places=4, delay=0.0):
        self.script, self.adapters, self.max_positions, self.places = script, adapters, max_positions, places
        self.delay, self.running, self.requests, self.cancelled = delay, set(), [], 0
        self.stopped = None

    def submit(self, request):
        if self.stopped is not None:
            raise CourseError("The engine is stopping.")
        if not request.prompt:
            raise CourseError("A prompt is empty.")
        if request.adapter is not None and request.adapter not in self.adapters:
            raise UnknownAdapter(request.adapter)
        if len(request.prompt) + request.max_new_tokens > self.max_positions:
            raise TooLong(f"{len(request.prompt)} + {request.max_new_tokens} > {self.max_positions}.")
        if len(self.running) >= self.places:
            raise QueueFull(len(self.running), 3.0)
        self.requests.append(request)
        ticket = ScriptedTicket(self, request)
        self.running.add(ticket)
        return ticket

    def finished(self, ticket, cancelled=False):
        if ticket in self.running:
            self.running.discard(ticket)
            self.cancelled += cancelled

    def statistics(self):
        return {"running": float(len(self.running)), "pages_total": 8.0, "requests_total": float(len(self.requests))}

    def shut_down(self, finish=True):
        self.stopped = finish


def wait_until(true, seconds=120.0):
    """Wait for something that another thread does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)
