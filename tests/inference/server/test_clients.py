"""Real clients against a real server: the openai package, curl, and sockets that close."""

import json
import shutil
import socket
import subprocess
import threading
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from scripted_engine import ScriptedEngine, endless, wait_until

from course_lib.inference.server.limits import Limits
from course_lib.inference.server.requests import Piece

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def asking(listening):
    """asking(engine, **options): a client of the openai package, and the address."""

    def make(engine, key="none", **options):
        address = listening(engine, **options)
        return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0), address

    return make


def test_the_openai_package(asking):
    client, _ = asking(ScriptedEngine())
    assert [model.id for model in client.models.list()] == ["tiny", "one", "two"]
    assert client.models.retrieve("one").id == "one"
    answer = client.chat.completions.create(model="one", messages=HELLO, max_tokens=2)
    assert answer.choices[0].message.content.startswith("one:")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 21
    # The answer's own message, with all its empty fields, goes into the next call.
    again = [*HELLO, answer.choices[0].message, {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model="one", messages=again, max_tokens=2).choices[0].message.content
    assert client.completions.create(model="tiny", prompt=["a", "b"]).choices[1].text == "base:68 "


def test_the_openai_package_streams(asking):
    client, _ = asking(ScriptedEngine())
    options = {"include_usage": True}
    parts = list(client.chat.completions.create(model="two", messages=HELLO, stream=True, stream_options=options))
    whole = client.chat.completions.create(model="two", messages=HELLO)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert parts[-1].usage == whole.usage
    pieces = list(client.completions.create(model="two", prompt="abc", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "two:67 two:68 two:69 "
    with client.chat.completions.stream(model="two", messages=HELLO) as stream:  # the helper that adds the parts up
        assert stream.get_final_completion().choices[0].message.content == text


def test_the_openai_package_raises_what_it_should(asking):
    client, _ = asking(ScriptedEngine(places=0), key="k", api_key="k")
    with pytest.raises(openai.RateLimitError, match="wait already") as full:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert full.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-4o' here"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    with pytest.raises(openai.BadRequestError, match="The prompt has") as long:
        client.completions.create(model="tiny", prompt="a" * 100)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError, match="not the API key"):
        client.with_options(api_key="x").models.list()
    # The status comes before a stream begins, so a streaming call raises the same.
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="tiny", messages=HELLO, stream=True)


def test_a_full_queue_is_tried_again(asking):
    class Full(ScriptedEngine):
        """Full once."""

        tries = 0

        def submit(self, request):
            self.tries += 1
            self.places = 0 if self.tries == 1 else 4
            return super().submit(request)

    engine = Full()
    client, _ = asking(engine)
    answer = client.with_options(max_retries=1).completions.create(model="tiny", prompt="a")
    assert answer.choices[0].text == "base:67 "
    assert engine.tries == 2


def broken(request):
    yield Piece((1,), "Once upon ")
    yield Piece(finish_reason="error", error="The model broke.")


def test_a_stream_that_fails_raises(asking):
    client, _ = asking(ScriptedEngine(broken))
    for stream in (
        client.completions.create(model="tiny", prompt="a", stream=True),
        client.chat.completions.create(model="tiny", messages=HELLO, stream=True),
    ):
        parts = []
        with pytest.raises(openai.APIError, match="The model broke"):
            parts.extend(stream)  # what came before the error is kept
        assert all(part.choices[0].finish_reason is None for part in parts)
    with pytest.raises(openai.InternalServerError, match="The model broke"):
        client.completions.create(model="tiny", prompt="a")


def test_a_time_limit_is_said_and_not_tried_again(asking):
    engine = ScriptedEngine(endless, delay=0.01)
    client, _ = asking(engine, limits=Limits(time_limit=0.2))
    with pytest.raises(openai.APIStatusError, match="time limit") as over:
        client.with_options(max_retries=2).completions.create(model="tiny", prompt="a")
    assert over.value.status_code == 408
    with pytest.raises(openai.APIError, match="time limit"):
        list(client.completions.create(model="tiny", prompt="a", stream=True))
    assert len(engine.requests) == 2
    wait_until(lambda: not engine.running)


def test_a_stream_that_the_client_closes(asking):
    engine = ScriptedEngine(endless, delay=0.01)
    client, _ = asking(engine)
    with client.chat.completions.create(model="tiny", messages=HELLO, stream=True) as stream:
        for _ in range(3):
            next(stream)
        assert len(engine.running) == 1
    wait_until(lambda: not engine.running)
    assert engine.cancelled == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects_before_the_first_token(listening, stream):
    quiet = threading.Event()

    def silent(request):
        quiet.wait(20)
        yield Piece(finish_reason="stop")

    engine = ScriptedEngine(silent)
    address = urlsplit(listening(engine))
    body = json.dumps({"model": "tiny", "prompt": "abc", "stream": stream, "n": 3})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: len(engine.running) == 3)
    wait_until(lambda: not engine.running)
    assert engine.cancelled == 3
    quiet.set()
    assert "499" in httpx.get(f"{address.geturl()}/metrics").text or stream


def curl(*words):
    """What curl prints, its last line being the status."""
    run = subprocess.run(
        ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *words], capture_output=True, text=True, check=True
    )
    text, _, status = run.stdout.rpartition("\n")
    return int(status), text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(listening):
    address = listening(ScriptedEngine(max_positions=128))
    json_body = ("-H", "Content-Type: application/json", "-d")
    # The request of the program that this server takes the place of
    seed = """{
        "prompt": "Write a bedtime story about fireflies.",
        "max_new_tokens": 64,
        "temperature": 0.7,
        "use_cache": true
      }"""
    status, text = curl("-X", "POST", f"{address}/generate", *json_body, seed)
    assert (status, json.loads(text)["finish_reason"]) == (200, "stop")
    status, text = curl(
        "-N", f"{address}/v1/completions", *json_body, '{"model": "one", "prompt": "ab", "stream": true}'
    )
    assert status == 200
    assert text.rstrip().endswith("data: [DONE]")
    status, text = curl(f"{address}/generate", *json_body, '{"prompt": "a", "temperature": NaN}')
    assert (status, "NaN" in text) == (422, True)
    assert curl(f"{address}/generate", "-d", '{"prompt": "a"}')[0] == 415
    large = '{"prompt": "' + "a" * 100_000 + '"}'
    assert (
        curl(f"{listening(ScriptedEngine(), limits=Limits(max_body_bytes=99))}/generate", *json_body, large)[0] == 413
    )
