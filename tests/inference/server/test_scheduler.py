"""The scheduler, step by step: random schedules, pages that run out, prompts in parts."""

import copy
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_servers import assert_as_generated, random_requests, tiny_decoder

from course_lib.inference import prepare
from course_lib.inference.server.jobs import Job
from course_lib.inference.server.requests import Request
from course_lib.inference.server.rows import RowModel
from course_lib.inference.server.scheduler import Scheduler
from course_lib.inference.server.settings import EngineSettings
from course_lib.inference.server.tickets import PieceQueue

MODEL = tiny_decoder()
REQUESTS = random_requests(30)


@cache
def prepared():
    """The tiny decoder made fast, once."""
    return prepare(MODEL)


def scheduler(**changes):
    """A scheduler on the tiny decoder, with the chunks that it has read."""
    limits = EngineSettings(**{"max_batch": 3, "max_pages": 24, "page_size": 4, "step_rows": 8} | changes)
    rows, chunks = RowModel(prepared(), limits.max_pages, limits.page_size), []

    def read(step):
        chunks.append([copy.copy(chunk) for chunk in step])
        return rows.read(step)

    return Scheduler(read, limits), chunks


def submit(to, request):
    """A job in the queue."""
    job = Job(request, PieceQueue(lambda: None), set(), None)
    to.waiting.append(job)
    return job


def answer(job):
    """Its tokens and finish reason, all there already."""
    assert job.ticket.finished
    pieces = list(job.ticket)
    return [token for piece in pieces for token in piece.tokens], pieces[-1].finish_reason


def check_pages(scheduler):
    """The pages' invariants: those who wait hold nothing."""
    assert all(not job.held.table.pages for job in scheduler.waiting)
    scheduler.pages.check([job.held for job in scheduler.running])


@cache
def alone(number, cached=True):
    """The tokens that a request of `REQUESTS` gets alone."""
    request = REQUESTS[number]
    by_itself, _ = scheduler()
    job = submit(by_itself, Request(request.prompt, request.max_new_tokens, use_cache=cached))
    while by_itself.step():
        pass
    tokens, reason = answer(job)
    assert reason == "length"
    return tokens


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_alone_a_request_gets_what_generate_gives(number):
    assert_as_generated(MODEL, REQUESTS[number], alone(number))


actions = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, len(REQUESTS) - 1)),
    st.tuples(st.just("submit uncached"), st.integers(0, len(REQUESTS) - 1)),
    st.tuples(st.just("cancel"), st.integers(0, 100)),
    st.tuples(st.just("step"), st.integers(1, 6)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(actions, max_size=30), st.sampled_from([1, 3, 5]), st.sampled_from([14, 24]), st.booleans())
def test_random_schedules(schedule, max_batch, max_pages, keep_prefixes):
    many, _ = scheduler(max_batch=max_batch, max_pages=max_pages, keep_prefixes=keep_prefixes)
    jobs = []
    for action, number in schedule:
        if action.startswith("submit"):
            request = REQUESTS[number]
            changed = Request(request.prompt, request.max_new_tokens, use_cache=action == "submit")
            jobs.append((number, submit(many, changed)))
        elif action == "cancel" and jobs:
            jobs[number % len(jobs)][1].ticket.cancel()
        elif action == "step":
            for _ in range(number):
                many.step()
                check_pages(many)
    while many.step():
        check_pages(many)
    for number, job in jobs:
        tokens, reason = answer(job)
        expected = alone(number)
        if reason == "cancelled":
            assert tokens == expected[: len(tokens)]
        else:
            assert (tokens, reason) == (expected, "length")  # the same as alone, without any tolerance
    many.pages.drop_kept()
    assert many.pages.pool.free_pages == max_pages


def test_without_the_cache_the_answer_is_the_same():
    for number in range(5):
        assert alone(number, cached=False) == alone(number)


def test_a_long_prompt_does_not_hold_the_others_up():
    many, chunks = scheduler(max_pages=64)
    talking = submit(many, Request((5, 9), 20))
    many.step()
    long = submit(many, Request(tuple(range(90)), 1))
    short = submit(many, Request((7, 8, 9), 1))
    for _ in range(2):
        many.step()
    assert talking.generated == 3  # a token in every step
    assert short.done  # the rows are shared evenly, so it waited for one step alone
    assert not long.done
    assert max(sum(len(chunk.tokens) for chunk in step) for step in chunks) <= 8 + 1


def test_requests_that_begin_alike_are_read_once_even_at_the_same_time():
    many, chunks = scheduler()
    jobs = [submit(many, Request((*range(40), 50 + n), 2)) for n in range(3)]
    while many.step():
        pass
    assert all(job.done for job in jobs)
    read = sum(len(chunk.tokens) for step in chunks for chunk in step)
    assert read == 40 + 3 * 1 + 3 * 1  # the beginning once, each one's last token, and each one's first new token
    assert many.counts.prefix_tokens_shared == 80


def test_where_pages_run_out_the_last_request_starts_again_later():
    many, _ = scheduler(max_pages=14, keep_prefixes=False)
    numbers = [n for n, request in enumerate(REQUESTS) if request.max_new_tokens > 8 and len(request.prompt) < 20][:3]
    jobs = [submit(many, Request(REQUESTS[n].prompt, 30)) for n in numbers]
    while many.step():
        check_pages(many)
    assert many.counts.set_back > 0
    for number, job in zip(numbers, jobs, strict=True):
        assert answer(job)[0][: len(alone(number))] == alone(number)


def test_a_failing_model_ends_the_requests_of_that_step_alone():
    many, _ = scheduler()
    working, broken = many.read, False

    def read(step):
        if broken:
            raise RuntimeError("the kernel is on fire")
        return working(step)

    many.read = read
    first = submit(many, REQUESTS[0])
    many.step()
    broken = True
    many.step()
    broken = False
    second = submit(many, REQUESTS[1])
    while many.step():
        pass
    last = list(first.ticket)[-1]
    assert last.finish_reason == "error"
    assert "RuntimeError: the kernel is on fire" in last.error
    assert answer(second) == (alone(1), "length")
    many.pages.drop_kept()
    assert many.pages.pool.free_pages == 24


def test_logits_that_are_no_numbers_end_one_request():
    many, _ = scheduler()
    working = many.read

    def read(step):
        logits = working(step).clone()
        logits[0] = float("nan")
        return logits

    jobs = [submit(many, REQUESTS[0]), submit(many, REQUESTS[1])]
    while not all(job.held.table.length >= len(job.request.prompt) for job in jobs):
        many.step()
    many.read = read
    many.step()
    many.read = working
    while many.step():
        pass
    assert answer(jobs[0])[1] == "error"
    assert answer(jobs[1]) == (alone(1), "length")
