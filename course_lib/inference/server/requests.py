"""What passes between the HTTP side of the server and the engine: a request, the pieces of its answer, its refusals."""

from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from course_lib.errors import CourseError
from course_lib.inference.sampling import SamplingSettings


class QueueFull(CourseError):
    """As many requests wait as may wait; the client should try again after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} requests wait already. Try again in {retry_after:.0f} s.")
        self.retry_after = retry_after


class UnknownAdapter(CourseError):
    """A request names an adapter that the engine does not hold."""


class TooLong(CourseError):
    """Prompt and answer do not fit into the model's positions, or into the pages of the cache."""


@dataclass(frozen=True)
class Request:
    """One text to continue.

    Args:
        prompt: its token ids, at least one.
        max_new_tokens: how many tokens to add at most.
        sampling: how each token is chosen; by default the likeliest.
        stop: texts at which the answer ends; they are not part of it.
        adapter: the name of the adapter to answer with; None: the base model.
        seed: of the draws.
        ignore_end: go on past the model's end token (benchmarks do).
        use_cache: False computes all keys and values again for each token: slow, to see what a cache saves.
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
    """Refuse what no engine could answer.

    Args:
        request: what is asked for.
        adapters: the names that there are.
        max_positions: of the model.

    Raises:
        UnknownAdapter: the adapter's name is not among them.
        TooLong: prompt and answer do not fit into the positions.
        CourseError: the prompt is empty, or there is nothing to generate.
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
        tokens: the ids that have become certain, maybe none.
        text: what they add, never a part of a character.
        finish_reason: None while more follows, then "stop" (end token or stop text), "length", "cancelled", or
            "error".
        error: a sentence, where the reason is "error".
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None


class Ticket(Protocol):
    """A request that the engine has taken. Its pieces can be read once, either way; the last has a finish reason."""

    def __iter__(self) -> Iterator[Piece]:
        """The pieces, from a thread."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces, from an event loop."""

    def cancel(self) -> None:
        """Nobody reads any more: free the request's slot and pages. Safe from any thread and more than once."""


class Engine(Protocol):
    """What the HTTP side needs of an engine. `submit` may be called from any thread and does not wait."""

    adapters: tuple[str, ...]  # the names that a request may give
    max_positions: int  # tokens of prompt and answer together

    def submit(self, request: Request) -> Ticket:
        """Queue a request.

        Raises:
            QueueFull: too many wait.
            UnknownAdapter: the adapter's name is not known.
            TooLong: prompt and answer cannot fit.
            CourseError: the prompt is empty, or the engine is stopping.
        """

    def statistics(self) -> dict[str, float]:
        """Counts and gauges for /metrics: running, waiting, pages_used, pages_total, requests_total, tokens_total,
        prompt_tokens_total, prefix_tokens_shared_total, and cancelled_total."""

    def shut_down(self, finish: bool = True) -> None:
        """Take no more requests, finish those that run (or cancel them), and stop the engine's thread."""
