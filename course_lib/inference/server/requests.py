"""What passes between the HTTP side of the server and the engine: a request, the pieces of its answer, its refusals."""

from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from course_lib.errors import CourseError
from course_lib.inference.sampling import SamplingSettings


class QueueFull(CourseError):
    """The queue is full, and the client should try again later.

    Args:
        waiting: how many requests wait.
        retry_after: after how many seconds to try again.
    """

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} requests wait already. Try again in {retry_after:.0f} s.")
        self.retry_after = retry_after


class UnknownAdapter(CourseError):
    """A request names an adapter that the engine does not hold."""


class TooLong(CourseError):
    """Prompt and answer together do not fit into the model's positions, or into the pages of the cache."""


@dataclass(frozen=True)
class Request:
    """One text to continue.

    Args:
        prompt: its token ids, at least one.
        max_new_tokens: how many tokens to add at most.
        sampling: how each token is chosen; by default the likeliest one is taken.
        stop: texts at which the answer ends; they are not part of the answer.
        adapter: the name of the adapter that answers; None stands for the base model.
        seed: for the random draws.
        ignore_end: go on after the model's end token, as benchmarks do.
        use_cache: False computes all keys and values again for each token. That is slow, and shows what a cache saves.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    seed: int = 0
    ignore_end: bool = False
    use_cache: bool = True


def check_request(request: Request, adapters: Collection[str], max_positions: int) -> None:
    """Refuse a request that no engine could answer.

    Args:
        request: the request.
        adapters: the names of the adapters that the engine holds.
        max_positions: how many tokens the model has positions for.

    Raises:
        UnknownAdapter: the engine holds no adapter of that name.
        TooLong: prompt and answer together do not fit into the positions.
        CourseError: the prompt is empty, or the request asks for no new token.

    Example:
        >>> check_request(Request(prompt=(5, 6), max_new_tokens=3), adapters=("notes",), max_positions=4)
        Traceback (most recent call last):
            ...
        course_lib.inference.server.requests.TooLong: A prompt of 2 tokens and 3 new ones do not fit into this
        model's 4 positions: shorten the prompt, or ask for less.
    """
    if not request.prompt:
        raise CourseError("The prompt is empty; it needs at least one token.")
    if request.max_new_tokens < 1:
        raise CourseError(f"max_new_tokens is {request.max_new_tokens}; it has to be at least 1.")
    if request.adapter is not None and request.adapter not in adapters:
        known = ", ".join(adapters) or "none"
        raise UnknownAdapter(f"There is no adapter {request.adapter!r} here; there are: {known}.")
    if len(request.prompt) + request.max_new_tokens > max_positions:
        raise TooLong(
            f"A prompt of {len(request.prompt)} tokens and {request.max_new_tokens} new ones do not fit into this "
            f"model's {max_positions} positions: shorten the prompt, or ask for less."
        )


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Args:
        tokens: the ids that are certain by now; there may be none.
        text: the text that they add. It never ends inside a character.
        finish_reason: None while more pieces follow. The last piece has "stop" (an end token or a stop text),
            "length", "cancelled" or "error".
        error: a sentence that says what went wrong, if the reason is "error".
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None


class Ticket(Protocol):
    """A request that the engine has taken.

    Its pieces can be read once, either in a thread or in an event loop. The last one has a finish reason.
    """

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces to a thread, which waits for each."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the pieces to an event loop."""

    def cancel(self) -> None:
        """Free the request's slot and pages, because nobody reads the answer any more.

        Any thread may call this, and more than once.
        """


class Engine(Protocol):
    """What the HTTP side needs from an engine."""

    adapters: tuple[str, ...]  # the names that a request may give
    max_positions: int  # tokens of prompt and answer together

    def submit(self, request: Request) -> Ticket:
        """Queue a request. Any thread may call this, and it does not wait.

        Args:
            request: the request.

        Returns:
            A ticket, from which the answer can be read.

        Raises:
            QueueFull: too many requests wait already.
            UnknownAdapter: the engine holds no adapter of that name.
            TooLong: prompt and answer together cannot fit.
            CourseError: the prompt is empty, or the engine is stopping.
        """

    def statistics(self) -> dict[str, float]:
        """Counts and gauges for /metrics.

        Returns:
            running, waiting, pages_used, pages_total, requests_total, tokens_total, prompt_tokens_total,
            prefix_tokens_shared_total and cancelled_total, as far as the engine has them.
        """

    def shut_down(self, finish: bool = True) -> None:
        """Take no more requests, and stop the engine's thread once the requests that it has taken have ended.

        Args:
            finish: answer those requests to their end; False cancels them.
        """
