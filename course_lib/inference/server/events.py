"""An answer as server-sent events while it comes, as OpenAI's clients read them."""

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
# (index, text, finish reason) -> the choices that say so, one for each event; the text None begins an answer.
Part: TypeAlias = Callable[[int, str | None, str | None], list[dict[str, Any]]]


def event(data: Mapping[str, Any]) -> str:
    """One server-sent event. It is ASCII: some readers take U+2028 in a text for the end of a line."""
    return f"data: {json.dumps(data, allow_nan=False)}\n\n"


def completion_part(index: int, text: str | None, reason: str | None) -> list[dict[str, Any]]:
    """A part of a text, in /v1/completions' form.

    Args:
        index: which answer.
        text: what is new; None: nothing yet.
        reason: why it ended, if it did.

    Returns:
        The choices to send.
    """
    if text is None:
        return []
    return [{"index": index, "text": text, "finish_reason": reason, "logprobs": None}]


def chat_part(index: int, text: str | None, reason: str | None) -> list[dict[str, Any]]:
    """The same in /v1/chat/completions' form: the role first, and the reason by itself at the end.

    Args:
        index: which answer.
        text: what is new; None: nothing yet.
        reason: why it ended, if it did.

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
    """All events of a call. Several answers are computed at once, and sent one after another.

    Args:
        call: the call.
        metrics: see `pieces_of`.
        head: what stands in every event.
        part: the form of a choice.
        usage: new tokens -> the counts to send at the end; None: send none.

    Yields:
        Events.

    Raises:
        Problem: see `pieces_of`.
    """
    head, new = head | {"object": "chat.completion.chunk" if part is chat_part else "text_completion"}, 0
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
    """The events; where it goes wrong, an error in the form that the `openai` package raises on.

    A line ``event: error`` would become an empty part there. No finish reason and no [DONE] follow, so that other
    readers see that the text is not complete.

    Args:
        stream: the events.

    Yields:
        Events.
    """
    try:
        async for each in stream:
            yield each
    except Problem as problem:
        yield event(problem.body())


class EventStream(StreamingResponse):
    """Events as they come. When the client goes away, or anything else ends it, its call is cancelled.

    Args:
        stream: the events.
        call: what they are about.
    """

    def __init__(self, stream: AsyncIterator[str], call: Call):
        # Proxies such as nginx would otherwise collect the events.
        super().__init__(or_error(stream), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them. The generator's own `finally` would not do: one that has not begun never gets there."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.call.cancel()
