"""Who may ask, from where, and how large a body may be."""

import asyncio
import http.client
import logging
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from scripted_engine import ScriptedEngine, wait_until

from course_lib.inference.server.guard import Guard, as_address, host_name
from course_lib.inference.server.limits import Limits
from course_lib.inference.server.metrics import Metrics
from course_lib.serve.settings import from_environment

BODY = {"prompt": "abc"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.0.2.7:8000", 200),  # an address cannot be rebound
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("", 403),
    ],
)
def test_a_rebound_name_is_refused(client, host, status):
    answer = client(ScriptedEngine()).post("/generate", json=BODY, headers={"Host": host})
    assert answer.status_code == status


def test_names_that_were_allowed_and_any_name_with_a_key(client):
    headers = {"Host": "Course.example:80"}
    assert client(ScriptedEngine(), allowed_hosts=["course.example"]).get("/health", headers=headers).is_success
    assert client(ScriptedEngine(), api_key="k").get("/health", headers=headers).is_success


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9000", "null", "http://[", ""])
def test_a_page_of_another_site_is_refused(client, origin):
    asked = client(ScriptedEngine(), api_key="k")
    headers = {"Origin": origin, "Authorization": "Bearer k"}
    assert asked.post("/generate", json=BODY, headers=headers).status_code == 403
    preflight = asked.options("/generate", headers=headers | {"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_own_page_is_not(client):
    assert client(ScriptedEngine()).post("/generate", json=BODY, headers={"Origin": "http://localhost:8000"}).is_success


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_page_can_send_without_asking_is_refused(client, kind):
    answer = client(ScriptedEngine()).post("/generate", content=b'{"prompt": "abc"}', headers={"Content-Type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Bearer sécret".encode("latin-1"), 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer secret", 200),
        ("bearer secret", 200),
    ],
)
def test_the_api_key(client, header, status):
    asked = client(ScriptedEngine(), api_key="secret")
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", "/generate"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        answer = asked.request(method, path, json=BODY if method == "POST" else None, headers=headers)
        assert answer.status_code == status, path
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert asked.get("/health").is_success
    assert asked.get("/").is_success


def test_a_key_beyond_ascii(client):
    asked = client(ScriptedEngine(), api_key="clé")
    assert asked.get("/v1/models", headers={"Authorization": "Bearer clé".encode()}).is_success


def test_without_a_key_only_loopback_is_answered(chatty):
    from fastapi.testclient import TestClient

    from course_lib.inference.server.app import create_app

    def asked(**options):
        app = create_app(ScriptedEngine(), chatty, "tiny", **options)
        # The test client takes the connection's address from the URL.
        with TestClient(app, base_url="http://192.0.2.7:8000") as client:
            return client.post("/generate", json=BODY, headers={"Authorization": "Bearer k"})

    answers = [asked(), asked(any_address=True), asked(api_key="k")]
    assert [answer.status_code for answer in answers] == [403, 200, 200]
    from_environment({"COURSE_SERVE_API_KEY": "k"})  # the variable that the message names exists
    assert "Set COURSE_SERVE_API_KEY." in answers[0].json()["error"]["message"]


def test_hosts_and_addresses():
    assert [host_name(host) for host in ("a:1", "A", "[::1]:8", "[::1]", "1.2.3.4:5", "")] == [
        "a", "a", "::1", "::1", "1.2.3.4", ""
    ]  # fmt: skip
    assert as_address("::1").is_loopback
    assert as_address("2130706433") is None  # 127.0.0.1 as one number: not a form that browsers send in Host


def test_a_body_that_is_too_large(listening):
    address = listening(ScriptedEngine(), limits=Limits(max_body_bytes=1000))
    large = b'{"prompt": "' + b"a" * 200_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    whole = httpx.post(f"{address}/generate", content=large, headers=headers)
    in_chunks = httpx.post(f"{address}/generate", content=iter([large]), headers=headers)
    for answer in (whole, in_chunks):
        assert answer.status_code == 413
        assert "larger than 1000 bytes" in answer.json()["error"]["message"]
    assert httpx.post(f"{address}/generate", json={"prompt": "a" * 60, "max_new_tokens": 1}).is_success


def test_a_body_that_takes_too_long(listening):
    address = urlsplit(listening(ScriptedEngine(), limits=Limits(body_time_limit=0.1)))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.putrequest("POST", "/generate")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["x-should-retry"]) == (408, "false")


def test_a_client_that_leaves_within_its_body(listening):
    engine = ScriptedEngine()
    address = urlsplit(listening(engine))
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.05)
    assert httpx.get(f"{address.geturl()}/health").is_success
    assert engine.requests == []


def test_a_mistake_of_ours_is_a_500_that_shows_and_logs_no_text(client, caplog):
    class Broken(ScriptedEngine):
        def submit(self, request):
            raise KeyError(text)

    text = "a secret text"  # the log shows lines of the program, and so none may hold it
    with caplog.at_level(logging.DEBUG):
        answer = client(Broken()).post("/generate", json={"prompt": text})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "KeyError in POST /generate" in caplog.text
    assert "in submit" in caplog.text
    assert "secret" not in answer.text + caplog.text


def test_text_is_not_logged(listening, capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        address = listening(ScriptedEngine())
        httpx.post(f"{address}/generate", json={"prompt": "a secret text"})
        httpx.post(f"{address}/generate", json={"prompt": "a secret text", "top_p": 7})
        wait_until(lambda: "HTTP Request" in caplog.text)  # httpx' own line, which has no body
    out, err = capfd.readouterr()
    assert "secret" not in out + err + caplog.text


def test_headers_that_every_answer_has(client):
    asked = client(ScriptedEngine())
    for answer in (asked.get("/"), asked.post("/generate", json={}), asked.get("/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_server_that_is_stopped_at_once_says_so():
    """A second Ctrl-C cancels what runs. uvicorn would answer 500, with a traceback in the log."""
    sent = []

    async def endless(scope, receive, send):
        await asyncio.Event().wait()

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def call():
        guard = Guard(endless, Limits(), Metrics(dict, ("/generate",)))
        scope = {"type": "http", "path": "/generate", "headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 1)}
        task = asyncio.create_task(guard(scope, receive, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(call())
    assert sent[0]["status"] == 503
    assert b"The server was stopped before the answer was complete" in sent[1]["body"]
