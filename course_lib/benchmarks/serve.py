"""Serving: several clients at once beside one after another, and the time to the first token, also over HTTP.

Both ways run on one engine, in turn, and the ratio is the median over the rounds. `generate` with the same prepared
model stands beside them: it pads no rows and uses no pages, so it shows what the engine costs a client that is alone.
The same requests then go to a `course serve` in a process of its own: see `http_load`.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from course_lib.benchmarks.http_load import Call, Served, course_serve, load_over_http
from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference import generate
from course_lib.inference.server.engine import BatchingEngine
from course_lib.inference.server.requests import Request
from course_lib.inference.server.settings import EngineSettings

# Openings of unlike length, so that prompts are read while others generate
OPENINGS = (
    "Tell me a short story about robots.",
    "What is the capital of France?",
    "Write a poem about the sea, the wind and a lighthouse whose keeper counts the ships that pass in the night.",
    "Explain why the sky is blue.",
    "List ten animals that live in the forest, with a sentence about what each of them eats and where it sleeps.",
    "Hello!",
    "A farmer has 17 sheep, buys 12 more and sells 9 of them. How many sheep does the farmer have now?",
    "Summarise: the engine reads one token of each running request in a step and shares the rest out to the prompts.",
)


def ask(engine: BatchingEngine, request: Request) -> Served:
    """Send a request and read its answer.

    Args:
        engine: runs.
        request: what to ask for.

    Returns:
        When its tokens came.

    Raises:
        CourseError: the answer ended with an error.
    """
    started, first, tokens = time.perf_counter(), None, 0
    for piece in engine.submit(request):
        tokens += len(piece.tokens)
        if piece.error:
            raise CourseError(piece.error)
        if tokens and first is None:
            first = time.perf_counter() - started
    total = time.perf_counter() - started
    return Served(total if first is None else first, total, tokens)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Args:
        values: at least one.
        share: above 0 and at most 1; 0.99 stands for p99.

    Returns:
        One of the values.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def bench_serve(
    model: str,
    clients: int,
    requests: int,
    max_new_tokens: int,
    threads: int,
    rounds: int,
    formats: Sequence[str] = ("float32", "bfloat16", "int8", "int4"),
    over_http: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Tokens a second of clients at once and one after another, and how long they wait for the first token.

    Args:
        model: a Llama by name or folder.
        clients: how many ask at once.
        requests: how many requests they send for the times to the first token, each client one after another.
        max_new_tokens: of each answer.
        threads: how many threads torch may use.
        rounds: how often both ways are timed.
        formats: the weight formats of `prepare`.
        over_http: also start a server for each format, and time the same requests from outside.
        progress: is given a line for each figure when it is known.

    Returns:
        Figures by name.

    Raises:
        CourseError: the model is not a Llama, or the server could not be started.
    """
    from course_lib.models.pretrained import load

    torch.set_num_threads(threads)
    base, tokenizer = load(model)
    prompts = [tuple(tokenizer(OPENINGS[n % len(OPENINGS)] + " " * (n // 8))["input_ids"]) for n in range(clients)]
    calls = mixed_calls(tokenizer, max_new_tokens, requests)
    figures: dict[str, float] = {"clients": clients, "requests": requests, "new tokens": max_new_tokens}
    for weights in formats:
        if over_http:  # first, so that what is missing for a server is said before minutes have gone by
            _add(figures, weights, _over_http(model, weights, calls, clients, threads), progress)
        settings = EngineSettings(max_batch=clients, max_queue=max(requests, clients), keep_prefixes=False)
        engine = BatchingEngine(base, tokenizer, settings=settings, weights=weights)
        try:
            _add(figures, weights, _throughput(engine, prompts, max_new_tokens, rounds), progress)
            _add(figures, weights, _first_tokens(engine, calls, clients), progress)
        finally:
            engine.shut_down(finish=False)
    return figures


def _add(figures: dict[str, float], weights: str, measured: dict[str, float], progress: Callable[[str], None]) -> None:
    """Put what was measured among the figures, and say it at once: the other formats take minutes."""
    for name, value in measured.items():
        figures[f"{weights}, {name}"] = value
        progress(f"{weights}, {name}: {value:,.4g}")


def _throughput(engine: BatchingEngine, prompts: Sequence[tuple[int, ...]], new: int, rounds: int) -> dict[str, float]:
    """Tokens a second: together, one after another, and one after another with `generate`."""
    asked = [Request(prompt, new, ignore_end=True) for prompt in prompts]
    ways = {
        "clients at once": lambda: _together(engine, asked),
        "one after another": lambda: [ask(engine, request) for request in asked],
        "generate, one after another": lambda: [
            generate(engine.prepared, [prompt], new, eos_token_id=()) for prompt in prompts
        ],
    }
    ask(engine, Request(prompts[0], 2))  # the first pass of all makes tables
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    figures = {f"{name}, tok/s": len(asked) * new / statistics.median(times) for name, times in seconds.items()}
    at_once, one_by_one, generated = seconds.values()
    ratios = {"one after another": one_by_one, "generate, one after another": generated}
    for name, times in ratios.items():
        figures[f"at once / {name}"] = statistics.median(b / a for a, b in zip(at_once, times, strict=True))
    return figures


def _together(engine: BatchingEngine, requests: Sequence[Request]) -> list[Served]:
    with ThreadPoolExecutor(len(requests)) as clients:
        return list(clients.map(lambda request: ask(engine, request), requests))


def _first_tokens(engine: BatchingEngine, calls: Sequence[Call], clients: int) -> dict[str, float]:
    """Milliseconds to the first token while all clients are busy, each sending its next request after its answer."""
    asked = [Request(call.prompt, call.new, ignore_end=True) for call in calls]
    with ThreadPoolExecutor(clients) as threads:
        served = list(threads.map(lambda request: ask(engine, request), asked))
    return _waits(served)


def _over_http(model: str, weights: str, calls: Sequence[Call], clients: int, threads: int) -> dict[str, float]:
    """The same requests to a server in a process of its own: tokens a second, and the times to the first token."""
    longest = max(2, *(call.new for call in calls))
    limits = {"max-batch": clients, "max-queue": max(len(calls), clients), "max-new-tokens": longest}
    options = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    with course_serve(model, ["--weights", weights, *options], threads) as server:
        served, seconds = load_over_http(server.port, calls, clients)
    speed = {"tok/s": sum(each.tokens for each in served) / seconds}
    return {f"over HTTP, {name}": value for name, value in (speed | _waits(served)).items()}


def mixed_calls(tokenizer: ModelTokenizer, new: int, requests: int) -> list[Call]:
    """Requests of unlike lengths, so that prompts are read while other answers are generated.

    Each begins with its number. A server keeps the pages of prompts that it has read, and prompts that began alike
    would cost it next to nothing.

    Args:
        tokenizer: of the model.
        new: the most tokens of an answer.
        requests: how many.

    Returns:
        Prompts and the lengths of their answers.
    """
    texts = [f"{n}. {OPENINGS[n % len(OPENINGS)]}" for n in range(requests)]
    return [Call(tuple(tokenizer(text)["input_ids"]), 1 + (7 * n) % new) for n, text in enumerate(texts)]


def _waits(served: Sequence[Served]) -> dict[str, float]:
    waits = [1e3 * each.first_s for each in served]
    return {"first token p50 ms": quantile(waits, 0.5), "first token p99 ms": quantile(waits, 0.99)}
