"""Collect the engine's pieces into a complete answer. `events` has the answers that are sent in parts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request as HTTPRequest

from course_lib.inference.server.metrics import Metrics
from course_lib.inference.server.problems import ONCE, Problem
from course_lib.inference.server.requests import Piece, Ticket
from course_lib.inference.server.service import Call


@dataclass(frozen=True)
class Answer:
    """A finished text."""

    text: str
    tokens: int
    finish_reason: Any  # "stop" or "length"


class ClientGone(Exception):
    """The client has disconnected, so nobody reads the answer."""


async def pieces_of(call: Call, ticket: Ticket, metrics: Metrics) -> AsyncIterator[Piece]:
    """The pieces of one answer, the last with its finish reason.

    Args:
        call: whose time limit holds.
        ticket: the answer.
        metrics: where the time to the first token is noted.

    Yields:
        Pieces.

    Raises:
        Problem: the time is over, the engine failed, or the server stops.
    """
    pieces, waiting = aiter(ticket), True
    while True:
        try:
            # No yield in here: the timeout would then cancel whoever reads the pieces.
            async with asyncio.timeout_at(call.deadline):
                piece = await anext(pieces)
        except TimeoutError:
            message = "The answer took longer than the server's time limit. Ask for fewer tokens."
            raise Problem(408, message, code="timeout", headers=ONCE) from None
        except StopAsyncIteration:
            raise Problem(500, "The answer ended without a reason.") from None
        if waiting and piece.tokens:
            metrics.first_token.observe(time.perf_counter() - call.started)
            waiting = False
        if piece.finish_reason == "error":
            raise Problem(500, piece.error or "The model failed.")
        if piece.finish_reason == "cancelled":
            raise Problem(503, "The server stops, and the answer is not complete.", headers={"Retry-After": "5"})
        yield piece
        if piece.finish_reason is not None:
            return


async def _read(call: Call, ticket: Ticket, metrics: Metrics) -> Answer:
    text, tokens, reason = "", 0, None
    async for piece in pieces_of(call, ticket, metrics):
        text += piece.text
        tokens += len(piece.tokens)
        reason = piece.finish_reason
    return Answer(text, tokens, reason)


async def complete_answers(request: HTTPRequest, call: Call, metrics: Metrics) -> list[Answer]:
    """All answers of a call, in order.

    Args:
        request: the client's.
        call: what was queued for it. It is cancelled at the end: what has not ended by then is not wanted.
        metrics: see `pieces_of`.

    Returns:
        The answers.

    Raises:
        Problem: see `pieces_of`.
        ClientGone: the client went away. An endpoint is not told so: it has to listen.
    """
    readers = [asyncio.create_task(_read(call, ticket, metrics)) for ticket in call.tickets]
    reading = asyncio.gather(*readers)
    gone = asyncio.create_task(_disconnect(request))
    try:
        either: tuple[asyncio.Future[Any], ...] = (reading, gone)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return list(reading.result())
        raise ClientGone
    finally:
        call.cancel()
        for task in (*readers, gone):
            task.cancel()
        with suppress(asyncio.CancelledError, Problem):
            await reading


async def _disconnect(request: HTTPRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
