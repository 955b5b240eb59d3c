"""The engine for what cannot be batched: the text of `complete`, one request after another."""

import asyncio
import threading

import pytest
from scripted_engine import wait_until
from tiny_runs import loaded, save_random_adapter

from course_lib.adapters import inject_butterfly, load_adapter, save_adapter
from course_lib.errors import CourseError
from course_lib.inference import SamplingSettings, complete, generate
from course_lib.inference.server.plain import PlainEngine
from course_lib.inference.server.requests import Engine, QueueFull, Request, TooLong, UnknownAdapter


@pytest.fixture
def gpt2(letters):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(letters)}
    return GPT2LMHeadModel(
        GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **ids)
    ).eval()


@pytest.fixture
def engine(gpt2, letters):
    running: Engine = PlainEngine(gpt2, letters, max_queue=3)
    yield running
    running.shut_down()


def asked(tokenizer, text, new=12, **options):
    return Request(tuple(tokenizer(text)["input_ids"]), new, **options)


def read(ticket):
    pieces = list(ticket)
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 20}])
def test_the_text_of_complete(engine, gpt2, letters, use_cache, options):
    (ids,) = generate(gpt2, [letters("The wind")["input_ids"]], 12, seed=3, **options)
    request = asked(letters, "The wind", sampling=SamplingSettings(**options), seed=3, use_cache=use_cache)
    assert read(engine.submit(request)) == (letters.decode(ids), "length" if len(ids) == 12 else "stop")


def test_stop_texts_and_end_tokens(engine, gpt2, letters):
    whole, _ = read(engine.submit(asked(letters, "a", 20)))
    stop = whole[3:5]
    assert read(engine.submit(asked(letters, "a", 20, stop=(stop,)))) == (whole[: whole.index(stop)], "stop")
    gpt2.lm_head.weight.data[2] = 100 * gpt2.lm_head.weight.data.mean(0)
    with_end = [read(engine.submit(asked(letters, text, 20)))[1] for text in "abcdef"]
    assert "stop" in with_end
    ignored = [read(engine.submit(asked(letters, text, 20, ignore_end=True)))[1] for text in "abcdef"]
    assert ignored == ["length"] * 6


def test_adapters_by_request(base, letters, tmp_path):
    folders = {name: save_random_adapter(base, tmp_path / name) for name in ("one", "two")}
    engine = PlainEngine(loaded(base), letters, folders)
    tickets = {name: engine.submit(asked(letters, "The wind", adapter=name)) for name in (None, "one", "two")}
    texts = {name: read(ticket)[0] for name, ticket in tickets.items()}
    engine.shut_down()
    for name, text in texts.items():
        model = loaded(base)
        if name:
            load_adapter(model, folders[name])
        assert complete(model, letters, ["The wind"], 12)[0] == text
    assert len(set(texts.values())) == 3


def test_a_butterfly(base, letters, tmp_path):
    import torch

    model = loaded(base)
    inject_butterfly(model, ["q_proj"], stages=2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    save_adapter(model, tmp_path / "turned", str(base))
    engine = PlainEngine(loaded(base), letters, {"turned": tmp_path / "turned"})
    texts = [read(engine.submit(asked(letters, "The wind", adapter=name)))[0] for name in (None, "turned")]
    engine.shut_down()
    assert texts == [complete(each, letters, ["The wind"], 12)[0] for each in (loaded(base), model)]


def test_what_is_refused(engine, letters):
    with pytest.raises(TooLong, match="64 positions"):
        engine.submit(asked(letters, "a" * 60, 5))
    with pytest.raises(UnknownAdapter, match="'x'"):
        engine.submit(asked(letters, "a", adapter="x"))
    with pytest.raises(CourseError, match="at least one token"):
        engine.submit(Request((), 3))


def test_the_queue_cancelling_and_the_end(engine, letters):
    tickets = []

    def submit_many():
        for _ in range(10):
            tickets.append(engine.submit(asked(letters, "a", 60, ignore_end=True)))

    with pytest.raises(QueueFull):
        submit_many()
    for ticket in tickets[1:]:
        ticket.cancel()

    async def last_reason():
        return [piece async for piece in tickets[0]][-1].finish_reason

    assert asyncio.run(last_reason()) == "length"
    wait_until(lambda: engine.statistics()["cancelled_total"] == len(tickets) - 1)
    assert engine.statistics()["waiting"] == 0
    engine.shut_down()
    with pytest.raises(CourseError, match="stopping"):
        engine.submit(asked(letters, "a"))


def test_a_cancelled_request_frees_its_place_and_is_not_read(engine, letters, gpt2, monkeypatch):
    """The model stands still in the first request until the others are cancelled."""
    forward, read_rows, go_on = gpt2.forward, [], threading.Event()

    def held(tokens, **options):
        read_rows.append(tokens[0, 0].item())
        assert go_on.wait(120)
        return forward(tokens, **options)

    monkeypatch.setattr(gpt2, "forward", held)
    first = engine.submit(asked(letters, "a", 1, ignore_end=True))
    wait_until(lambda: read_rows)
    waiting = [engine.submit(asked(letters, "b", 1, ignore_end=True)) for _ in range(3)]
    with pytest.raises(QueueFull):
        engine.submit(asked(letters, "c", 1))
    for ticket in waiting:
        ticket.cancel()
    last = engine.submit(asked(letters, "c", 1, ignore_end=True))
    go_on.set()
    assert [read(ticket)[1] for ticket in (first, *waiting, last)] == ["length", *["cancelled"] * 3, "length"]
    assert read_rows == [letters(text)["input_ids"][0] for text in "ac"]


def test_a_model_that_fails_ends_the_request_alone(engine, gpt2, letters, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(gpt2, "forward", broken)
        (piece,) = engine.submit(asked(letters, "a"))
        assert piece.finish_reason == "error"
        assert "RuntimeError: no memory" in piece.error
    assert read(engine.submit(asked(letters, "a", ignore_end=True)))[1] == "length"
