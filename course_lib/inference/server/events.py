"""An answer as server-sent events, sent while it is being generated, in the form that OpenAI's clients read."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from course_lib.inference.server.answers import pieces_of
from course_lib.inference.server.metrics import Metrics
from course_lib.inference.server.problems import Problem
from course_lib.inference.server.service import Call

DONE = "data: [DONE]\n\n"
# (index, text, finish reason) -> the choices to send, each in an event of its own. The text None begins an answer.
Part: TypeAlias = Callable[[int, str | None, str | None], list[dict[str, Any]]]


def event(data: Mapping[str, Any]) -> str:
    """One server-sent event, in ASCII, because some readers take U+2028 in a text for the end of a line.

    Args:
        data: what the event holds; it is written as JSON.

    Example:
        >>> event({"text": "é"})
        'data: {"text": "\\\\u00e9"}\\n\\n'
    """
    return f"data: {json.dumps(data, allow_nan=False)}\n\n"


def completion_part(index: int, text: str | None, reason: str | None) -> list[dict[str, Any]]:
    """A part of an answer, in the form of /v1/completions.

    Args:
        index: the number of the answer.
        text: the new text; None at the beginning, where there is none yet.
        reason: why the answer ended, if it did.

    Returns:
        The choices to send.
    """
    if text is None:
        return []
    return [{"index": index, "text": text, "finish_reason": reason, "logprobs": None}]


def chat_part(index: int, text: str | None, reason: str | None) -> list[dict[str, Any]]:
    """A part of an answer, in the form of /v1/chat/completions: the role comes first, and the reason alone at the end.

    Args:
        index: the number of the answer.
        text: the new text; None at the beginning, where there is none yet.
        reason: why the answer ended, if it did.

    Returns:
        The choices to send.
    """
    choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
    if text is None:
        return [choice | {"delta": {"role": "assistant", "content": ""}}]
    choices = [choice | {"delta": {"content": text}}] if text else []
    if reason is not None:
        choices.append(choice | {"delta": {}, "finish_reason": reason})
    return choices


async def events(
    call: Call,
    metrics: Metrics,
    head: dict[str, Any],
    part: Part,
    usage: Callable[[int], dict[str, int]] | None = None,
) -> AsyncIterator[str]:
    """Yield all events of a call. Several answers are computed at once, and sent one after another.

    Args:
        call: the call.
        metrics: where the time to the first token is noted.
        head: the fields that every event has.
        part: makes the choices of an event: `completion_part` or `chat_part`.
        usage: takes the number of new tokens and returns the counts to send at the end; None sends none.

    Yields:
        The events, and [DONE] after them.

    Raises:
        Problem: the model failed, or the call took too long; see `pieces_of`.
    """
    head = head | {"object": "chat.completion.chunk" if part is chat_part else "text_completion"}
    new = 0  # tokens of all answers
    for index, ticket in enumerate(call.tickets):
        for choice in part(index, None, None):
            yield event(head | {"choices": [choice]})
        async for piece in pieces_of(call, ticket, metrics):
            new += len(piece.tokens)
            if not piece.text and piece.finish_reason is None:
                continue
            for choice in part(index, piece.text, piece.finish_reason):
                yield event(head | {"choices": [choice]})
    if usage is not None:
        yield event(head | {"choices": [], "usage": usage(new)})
    yield DONE


async def or_error(stream: AsyncIterator[str]) -> AsyncIterator[str]:
    """Pass on the events; if something goes wrong, end with an error in the form on which the `openai` package raises.

    That package would read a line ``event: error`` as an empty part. No finish reason and no [DONE] follow, so that
    other readers see that the text is incomplete.

    Args:
        stream: the events.

    Yields:
        The events, and an error if there was one.
    """
    try:
        async for each in stream:
            yield each
    except Problem as problem:
        yield event(problem.body())


class EventStream(StreamingResponse):
    """Sends events as they come. Whatever ends the stream, a client that goes away included, cancels its call.

    Args:
        stream: the events.
        call: the call that they answer.
    """

    def __init__(self, stream: AsyncIterator[str], call: Call):
        # Proxies such as nginx would otherwise collect the events.
        super().__init__(or_error(stream), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. A `finally` in the generator would not do: one that never began does not reach it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.call.cancel()
