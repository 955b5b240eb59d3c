"""How the pieces of an answer get from the engine's thread to their reader, which is a thread or an event loop."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from course_lib.inference.server.requests import Piece


class PieceQueue:
    """A `Ticket`: the engine puts pieces in, and one reader takes them out.

    A reader that stops before the last piece cancels the request.

    Args:
        wake: called when the request was cancelled, so that the engine looks at it.
    """

    def __init__(self, wake: Callable[[], None]):
        self._wake_engine = wake
        self._pieces: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._wake_reader: Callable[[], object] | None = None  # where the reader is an event loop
        self.cancelled = self.finished = False

    def put(self, piece: Piece) -> None:
        """Hand over a piece; the engine's thread calls this. What comes after the last piece is dropped."""
        with self._changed:
            if self.finished:
                return
            self._pieces.append(piece)
            self.finished = piece.finish_reason is not None
            self._changed.notify_all()
            wake = self._wake_reader
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the reader's event loop is closed, so nobody reads any more
                self.cancel()

    def cancel(self) -> None:
        """Free the request's slot and pages, because nobody reads the answer any more.

        Any thread may call this, and more than once.
        """
        if not self.cancelled and not self.finished:
            self.cancelled = True
            self._wake_engine()

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces to a thread, which waits for each."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._pieces)
                    piece = self._pieces.popleft()
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the pieces to an event loop."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake_reader = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                arrived.clear()  # before looking, since a piece that comes after the look sets it again
                piece = None
                with self._changed, contextlib.suppress(IndexError):
                    piece = self._pieces.popleft()
                if piece is None:
                    await arrived.wait()
                    continue
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self.cancel()
