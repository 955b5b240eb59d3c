"""The engine from outside: threads and event loops, refusals, cancelling, adapters, load, memory."""

import asyncio
import gc
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tiny_servers import (
    adapter_folders,
    assert_as_generated,
    random_requests,
    read,
    tiny_decoder,
    tiny_engine,
    with_adapter,
)

from course_lib.adapters import save_adapter
from course_lib.errors import CourseError
from course_lib.inference import SamplingSettings, generate, prepare
from course_lib.inference.server.engine import load_engine
from course_lib.inference.server.jobs import Job
from course_lib.inference.server.requests import QueueFull, Request, TooLong, UnknownAdapter
from course_lib.inference.server.tickets import PieceQueue


@pytest.fixture
def engine():
    running = tiny_engine()
    yield running
    running.shut_down(finish=False)


def assert_all_free(engine):
    """Nothing runs or waits, and every page is free once the kept ones are dropped."""
    now = engine.statistics()
    assert (now["running"], now["waiting"], now["pages_used"]) == (0, 0, 0)
    engine.drop_kept_prefixes()
    assert engine.scheduler.pages.pool.free_pages == now["pages_total"]


def wait_until(condition, seconds=120):
    """Wait for what another thread is to bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Gate:
    """Stands before the model and lets steps through while it is open."""

    def __init__(self, engine):
        self.read, self.open = engine.scheduler.read, threading.Event()
        engine.scheduler.read = self

    def __call__(self, chunks):
        self.open.wait(120)
        return self.read(chunks)


def test_answers_are_those_of_generate(engine):
    requests = random_requests(20, new=30)
    tickets = [engine.submit(request) for request in requests]
    for request, ticket in zip(requests, tickets, strict=True):
        tokens, reason = read(ticket)
        assert reason == "length"
        assert_as_generated(tiny_decoder(), request, tokens)
    assert_all_free(engine)


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_other_formats_too(weights):
    engine, requests = tiny_engine(weights=weights), random_requests(12)
    alone = [read(engine.submit(request)) for request in requests]
    assert [read(ticket) for ticket in [engine.submit(request) for request in requests]] == alone
    engine.shut_down()


def test_sampled_answers_do_not_depend_on_the_batch(engine):
    sampling = SamplingSettings(temperature=1.5, top_p=0.95, repetition_penalty=1.3)
    requests = [Request(each.prompt, 20, sampling, seed=n) for n, each in enumerate(random_requests(12))]
    alone = [read(engine.submit(request)) for request in requests]
    tickets = [engine.submit(request) for request in requests]
    assert [read(ticket) for ticket in tickets] == alone
    assert len({tuple(tokens) for tokens, _ in alone}) == len(requests)
    options = vars(sampling) | {"eos_token_id": (), "seed": 3}
    assert alone[3][0] == generate(prepare(tiny_decoder()), [requests[3].prompt], 20, **options)[0]


def test_end_tokens_end_an_answer():
    model = tiny_decoder()
    prompt = (5, 9, 31)
    whole = generate(model, [prompt], 12, eos_token_id=())[0]
    model.generation_config = type("Config", (), {"eos_token_id": whole[0]})()
    engine = tiny_engine(model)
    assert read(engine.submit(Request(prompt, 12))) == ([], "stop")
    assert read(engine.submit(Request(prompt, 12, ignore_end=True))) == (whole, "length")
    engine.shut_down()


def test_refusals(engine):
    for request, error, sentence in [
        (Request((), 1), CourseError, "at least one token"),
        (Request((96,), 1), CourseError, "0 to 95"),
        (Request((-1,), 1), CourseError, "0 to 95"),
        (Request((1,), 0), CourseError, "max_new_tokens is 0"),
        (Request((1,), 1, adapter="pirate"), UnknownAdapter, "'pirate'.*none"),
        (Request((1,) * 200, 57), TooLong, "256 positions"),
        (Request((1,), 1, stop=("x",)), CourseError, "tokenizer"),
    ]:
        with pytest.raises(error, match=sentence):
            engine.submit(request)
    assert engine.statistics()["requests_total"] == 0


def test_what_no_page_could_hold_is_refused():
    engine = tiny_engine(max_pages=3)
    assert len(read(engine.submit(Request((1,) * 10, 3)))[0]) == 3  # the last token takes no slot
    with pytest.raises(TooLong, match="3 pages of 4 tokens"):
        engine.submit(Request((1,) * 10, 4))
    engine.shut_down()


def test_a_full_queue_refuses_and_says_when_to_come_back():
    engine = tiny_engine(max_batch=1, max_queue=2)
    gate = Gate(engine)
    tickets = [engine.submit(Request((1,), 2))]
    wait_until(lambda: engine.statistics()["running"] == 1)
    tickets += [engine.submit(Request((1,), 2)) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests wait") as refusal:
        engine.submit(Request((1,), 2))
    assert refusal.value.retry_after > 0
    tickets[1].cancel()  # its place is free at once, although the engine is in the middle of a step
    tickets.append(engine.submit(Request((1,), 2)))
    gate.open.set()
    assert [read(ticket)[1] for ticket in tickets] == ["length", "cancelled", "length", "length"]
    engine.shut_down()


def test_cancelling_frees_slot_and_pages_running_or_waiting():
    engine = tiny_engine(max_batch=1)
    gate = Gate(engine)
    running, waiting, last = (engine.submit(Request((5, 9, n), 200)) for n in range(3))
    wait_until(lambda: engine.statistics()["running"] == 1)
    for ticket in (running, waiting, waiting):
        ticket.cancel()
    gate.open.set()
    assert read(running)[1] == read(waiting)[1] == "cancelled"
    last.cancel()
    assert read(last)[1] == "cancelled"
    wait_until(lambda: engine.statistics()["cancelled_total"] == 3)
    assert_all_free(engine)
    engine.shut_down()


def test_a_reader_that_stops_early_cancels(engine):
    pieces = iter(engine.submit(Request((5, 9), 200)))
    next(pieces)
    pieces.close()
    wait_until(lambda: engine.statistics()["cancelled_total"] == 1)


def test_event_loops_read_too(engine):
    requests = random_requests(8)
    expected = [read(engine.submit(request)) for request in requests]

    async def one(request):
        pieces = [piece async for piece in engine.submit(request)]
        return [token for piece in pieces for token in piece.tokens], pieces[-1].finish_reason

    async def all_of_them():
        return await asyncio.gather(*map(one, requests))

    assert asyncio.run(all_of_them()) == expected


def test_a_closed_event_loop_cancels(engine):
    async def begin():
        async for _ in engine.submit(Request((5, 9), 240)):
            break  # the generator is closed with the loop

    asyncio.run(begin())
    wait_until(lambda: engine.statistics()["running"] == 0)


@pytest.mark.parametrize("finish", [True, False])
def test_shutting_down(finish):
    engine = tiny_engine(max_batch=2)
    tickets = [engine.submit(Request((5, 9, n), 40)) for n in range(4)]
    engine.shut_down(finish)
    reasons = [read(ticket)[1] for ticket in tickets]
    assert reasons == ["length"] * 4 if finish else "cancelled" in reasons
    with pytest.raises(CourseError, match="stopping"):
        engine.submit(Request((1,), 1))
    engine.shut_down()  # once more does no harm


def test_a_bug_in_the_scheduler_leaves_nobody_waiting(engine, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "_plan", lambda: 1 / 0)
    pieces = list(engine.submit(Request((1,), 1)))
    assert pieces[-1].finish_reason == "error"
    assert "ZeroDivisionError" in pieces[-1].error
    monkeypatch.undo()
    assert read(engine.submit(Request((1,), 1)))[1] == "length"


def test_an_adapter_whose_numbers_overflow_harms_nobody_else(tmp_path):
    model = tiny_decoder()
    broken = with_adapter(model, 1, ("q_proj", "v_proj"))
    for name, parameter in broken.named_parameters():
        if name.endswith(".B"):
            parameter.data.mul_(1e38)
    save_adapter(broken, tmp_path / "broken")
    engine = tiny_engine(model, {"broken": tmp_path / "broken"}, max_pages=20, keep_prefixes=False)
    requests = random_requests(10, longest=10)
    alone = [read(engine.submit(request)) for request in requests]
    for _ in range(3):  # the pages of the broken ones get new owners
        tickets = []
        for request in requests:
            tickets += [engine.submit(request), engine.submit(replace(request, adapter="broken"))]
        assert [read(ticket) for ticket in tickets[::2]] == alone
        assert {list(ticket)[-1].finish_reason for ticket in tickets[1::2]} == {"error"}
    engine.shut_down()


def test_fifty_clients_with_adapters_get_their_own_answers(tmp_path):
    model = tiny_decoder()
    folders, models = adapter_folders(model, tmp_path, a=1, b=2)
    engine = tiny_engine(model, folders)
    requests = random_requests(500, (None, "a", "b"))
    alone = {}
    for request in requests:
        if request not in alone:
            alone[request] = read(engine.submit(request))
    for request in requests[:40]:
        assert_as_generated(models.get(request.adapter, model), request, alone[request][0])
    before = engine.statistics()
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda request: read(engine.submit(request)), requests))
    assert answers == [alone[request] for request in requests]
    now = engine.statistics()
    assert now["requests_total"] - before["requests_total"] == 500
    assert now["tokens_total"] - before["tokens_total"] == sum(request.max_new_tokens for request in requests)
    assert now["prefix_tokens_shared_total"] > before["prefix_tokens_shared_total"]
    assert_all_free(engine)
    engine.shut_down()


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_requests():
    engine, chance = tiny_engine(), random.Random(0)
    requests = random_requests(2000, new=4)

    def held():
        gc.collect()
        return sum(type(each) in (Job, PieceQueue) for each in gc.get_objects())

    def resident_kb():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    sizes = []
    for start in range(0, 2000, 250):
        tickets = [engine.submit(request) for request in requests[start : start + 250]]
        for ticket in tickets:
            if chance.random() < 0.1:
                ticket.cancel()
        reasons = {read(ticket)[1] for ticket in tickets}
        assert reasons <= {"length", "cancelled"}
        del tickets
        wait_until(lambda: engine.statistics()["running"] == engine.statistics()["waiting"] == 0)
        del ticket
        wait_until(lambda: held() == 0)  # the engine's thread may hold the last one for another moment
        sizes.append(resident_kb())
    assert sizes[-1] - sizes[1] < 1_500  # 1 kB lost for each of the 1,500 requests would be more
    assert_all_free(engine)
    engine.shut_down()


@pytest.mark.slow
def test_smollm2_with_stop_texts_in_a_mixed_batch():
    engine = load_engine("smollm2-135m-instruct")
    tokenizer = engine.tokenizer
    texts = ["The capital of France is", "Once upon a time", "1, 2, 3, 4,", "Übermäßig höflich:", "def add(a, b):"]
    requests = [Request(tuple(tokenizer(text)["input_ids"]), 24, stop=(" the", "\n\n")) for text in texts]

    def text_of(ticket):
        pieces = list(ticket)
        assert not any("\ufffd" in piece.text for piece in pieces)
        return "".join(piece.text for piece in pieces), pieces[-1].finish_reason

    alone = [text_of(engine.submit(request)) for request in requests]
    together = [engine.submit(request) for request in requests]
    assert [text_of(ticket) for ticket in together] == alone
    for request, (text, reason) in zip(requests, alone, strict=True):
        whole = read(engine.submit(Request(request.prompt, 24)))[0]
        whole = tokenizer.decode(whole)
        ends = [whole.find(stop) for stop in request.stop if stop in whole]
        assert text == (whole[: min(ends)] if ends else whole)
        assert not ends or reason == "stop"
    engine.shut_down()
