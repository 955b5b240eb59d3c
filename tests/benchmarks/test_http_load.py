"""Load over HTTP: a real server in its own process, and what a broken answer is taken for."""

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from course_lib.benchmarks import http_load
from course_lib.benchmarks.http_load import Call, ask_over_http, course_serve, load_over_http
from course_lib.benchmarks.serve import mixed_calls
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.models.pretrained import load_tokenizer


def test_a_real_server_answers_all_calls_of_several_clients(model_folders, monkeypatch):
    """More clients than rows in a batch. A key for another server must not reach this one."""
    monkeypatch.setenv("COURSE_SERVE_API_KEY", "of-another-server")
    calls = [Call((5, 9, 31 + n % 7), 1 + n % 5) for n in range(24)]
    with course_serve(str(model_folders / "llama"), ["--max-batch", "2", "--max-queue", "24"]) as server:
        served, seconds = load_over_http(server.port, calls, clients=4)
        assert server.process.stdin is not None
        server.process.stdin.close()  # as the system does when this process is killed
        assert server.process.wait(120) == 128 + signal.SIGTERM
    assert [each.tokens for each in served] == [call.new for call in calls]
    assert all(0 < each.first_s <= each.total_s <= seconds for each in served)


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(CourseError, match="ended before it could be asked anything: .*no-such-model"):
        course_serve(str(tmp_path / "no-such-model"))


@pytest.mark.slow
def test_bench_serve_over_http(model_folders, tmp_path, capsys):
    out = tmp_path / "b.json"
    options = ["--clients", "3", "--requests", "9", "--max-new-tokens", "8", "--pairs", "1", "--threads", "1"]
    options += ["--weights", "int8", "--json", str(out)]
    assert main(["bench", "serve", "--model", str(model_folders / "llama"), *options]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["int8, over HTTP, tok/s"] > 0
    assert 0 < figures["int8, over HTTP, first token p50 ms"] <= figures["int8, over HTTP, first token p99 ms"]
    assert figures["int8, first token p99 ms"] > 0  # the engine's own, in this process
    printed = capsys.readouterr()
    assert "int8, over HTTP, first token p99 ms" in printed.out
    # Each figure is said when it is known, those over HTTP first
    assert printed.err.index("int8, over HTTP, tok/s: ") < printed.err.index("int8, first token p99 ms: ")


def test_no_prompt_begins_as_another_does(model_folders):
    """The server would find it in its cache, and its first token would cost next to nothing."""
    calls = mixed_calls(load_tokenizer(str(model_folders / "llama")), 8, 40)
    assert len({call.prompt[:16] for call in calls}) == 40
    assert {call.new for call in calls} == set(range(1, 9))


@pytest.fixture
def scripted():
    """scripted(events, status): the port of a server that answers every call with these events.

    A callable among the events is called when its turn comes.
    """
    script = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(script["status"])
            self.end_headers()
            for each in script["events"]:
                if callable(each):
                    each()
                else:
                    self.wfile.write(f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n".encode())
                    self.wfile.flush()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def start(events, status=200):
        script.update(events=events, status=status)
        return server.server_address[1]

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


TEXT = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}


def usage(tokens):
    return {"choices": [], "usage": {"completion_tokens": tokens}}


def test_the_first_token_is_timed_before_the_second_one_is_sent(scripted, monkeypatch):
    """The server holds the second event back until the client has handled the first one."""
    handled, in_time = threading.Event(), []
    tokens_of = http_load._tokens_of

    def watched(event):
        handled.set()
        return tokens_of(event)

    monkeypatch.setattr(http_load, "_tokens_of", watched)
    port = scripted([TEXT, lambda: in_time.append(handled.wait(60)), TEXT, usage(2), "[DONE]"])
    served = ask_over_http(port, Call((1,), 2))
    assert in_time == [True]
    assert served.first_s < served.total_s
    assert served.tokens == 2


@pytest.mark.parametrize(
    ("events", "status", "said"),
    [
        ([{"detail": "full"}], 429, "refused a call with 429: .*full"),
        ([TEXT, {"error": {"message": "time is up"}}], 200, "an error in a stream: .*time is up"),
        ([TEXT, usage(2)], 200, "2 of 2 tokens, and the stream's end is False"),
        ([TEXT, usage(1), "[DONE]"], 200, "1 of 2 tokens, and the stream's end is True"),
        ([usage(2), "[DONE]"], 200, "An answer is not complete"),
    ],
)
def test_a_broken_answer_is_not_a_figure(scripted, events, status, said):
    port = scripted(events, status)
    with pytest.raises(CourseError, match=said):
        ask_over_http(port, Call((1,), 2))


def test_a_connection_that_breaks_or_is_refused(scripted):
    port = scripted([lambda: 1 / 0])  # the server's thread dies in the middle of an answer
    with pytest.raises(CourseError, match="not complete|connection to the server broke"):
        ask_over_http(port, Call((1,), 2))
    with pytest.raises(CourseError, match="connection to the server broke"):
        ask_over_http(1, Call((1,), 2))
