"""Load on a real server: `course serve` in a process of its own, and clients that read its streams over HTTP.

The time to the first token is what a user of the server waits: a connection, the call's JSON, the queue, the prompt's
pass, the text of the token and its event all count. Clients are threads of this process. They wait for sockets nearly
all of the time, and on few cores the rest is taken from the server, so figures are rather too high than too low.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from course_lib.benchmarks.server_process import ServerProcess
from course_lib.errors import CourseError

NAME = "bench"  # the name by which calls mean the model
ANSWER_S = 300.0  # a server has so many seconds to send the next part of an answer


@dataclass(frozen=True)
class Served:
    """One answer.

    Attributes:
        first_s: seconds from the request to its first token.
        total_s: seconds until the last one.
        tokens: how many there were.
    """

    first_s: float
    total_s: float
    tokens: int


@dataclass(frozen=True)
class Call:
    """One request for a text of known length.

    Attributes:
        prompt: token ids.
        new: how many tokens the answer has; it goes on past an end token.
    """

    prompt: tuple[int, ...]
    new: int


def course_serve(model: str, options: Sequence[str] = (), threads: int = 1) -> ServerProcess:
    """Start a `course serve` on a free port of this machine.

    Args:
        model: a name or a folder.
        options: further words of its command line.
        threads: how many threads torch may use there.

    Returns:
        The server, which answers. Use it in a `with` statement.

    Raises:
        CourseError: as for `ServerProcess`.
    """
    words = ["serve", "--model", model, "--served-model-name", NAME, "--port", "0", *options]
    return ServerProcess(words, environment={"OMP_NUM_THREADS": str(threads)})


def ask_over_http(port: int, call: Call) -> Served:
    """Send one call of /v1/completions on a connection of its own, and read its stream to the end.

    Args:
        port: of the server on this machine.
        call: what to ask for.

    Returns:
        When its tokens came. The first one counts when its text arrives: a token that is only half of a character
        has none, and waits for the other half.

    Raises:
        CourseError: the server refused, sent an error, or the answer is not complete.
    """
    body = {"model": NAME, "prompt": list(call.prompt), "max_tokens": call.new, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    started, first, tokens, done = time.perf_counter(), None, None, False
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise CourseError(f"The server refused a call with {answer.status}: {answer.read(500)!r}")
        for line in answer:
            if not line.startswith(b"data: "):
                continue  # the empty line between two events
            if line.strip() == b"data: [DONE]":
                done = True
                break
            event = json.loads(line.removeprefix(b"data: "))
            if first is None and event.get("choices"):
                first = time.perf_counter() - started
            tokens = _tokens_of(event) or tokens
    except (OSError, HTTPException) as error:
        raise CourseError(f"The connection to the server broke: {error!r}") from error
    finally:
        connection.close()
    if not done or first is None or tokens != call.new:
        raise CourseError(f"An answer is not complete: {tokens} of {call.new} tokens, and the stream's end is {done}.")
    return Served(first, time.perf_counter() - started, tokens)


def _tokens_of(event: dict[str, Any]) -> int | None:
    """The count of new tokens, which the last event of a stream holds."""
    if "error" in event:
        raise CourseError(f"The server sent an error in a stream: {event['error']}")
    usage = event.get("usage")
    return None if usage is None else usage["completion_tokens"]


def load_over_http(port: int, calls: Sequence[Call], clients: int) -> tuple[list[Served], float]:
    """Send calls from several clients at once; each sends its next call when its answer is complete.

    Args:
        port: of the server on this machine.
        calls: all of them, in the order in which they are taken.
        clients: how many are under way at once.

    Returns:
        The answers in the order of the calls, and the seconds for all of them together.
    """
    # The first pass of all makes tables. Backwards, so that no call finds the beginning of its prompt in the cache.
    ask_over_http(port, Call(calls[0].prompt[::-1], 2))
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        served = list(threads.map(lambda call: ask_over_http(port, call), calls))
    return served, time.perf_counter() - started
