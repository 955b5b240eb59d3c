"""A server in a process of its own: what it says, how it is stopped, and that it never stays behind."""

import signal
import subprocess
import sys

import psutil
import pytest
from scripted_engine import wait_until
from served import ROOT

from course_lib.benchmarks import server_process
from course_lib.benchmarks.server_process import ServerProcess
from course_lib.errors import CourseError

LIGHT = """
import http.server, os, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("key:", os.environ.get("COURSE_SERVE_API_KEY"))
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"light server on http://127.0.0.1:{server.server_port} now", flush=True)
server.serve_forever()
"""
PARENT = """
import signal, sys
from pathlib import Path
from course_lib.benchmarks.server_process import ServerProcess

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where a shell started us in the background
with ServerProcess([], "light", Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()  # until a signal comes
"""


@pytest.fixture
def light(tmp_path):
    """A folder with a server that starts at once."""
    (tmp_path / "light.py").write_text(LIGHT)
    return tmp_path


def has_ended(process):
    """Ended, also where nobody has collected its exit status yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_server_answers_and_is_stopped(light, monkeypatch):
    """Settings of another server do not reach it."""
    environment(monkeypatch)
    monkeypatch.setenv("COURSE_SERVE_API_KEY", "of-another-server")
    with ServerProcess([], "light", light) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert "key: None" in server.output
        assert server.process.poll() is None
    assert server.process.returncode == -signal.SIGTERM


def test_a_server_that_does_not_listen_to_sigterm_is_killed(light, monkeypatch):
    environment(monkeypatch)
    with ServerProcess(["stubborn"], "light", light) as server:
        monkeypatch.setattr(server_process, "STOP_S", 0.2)
    assert server.process.returncode == -signal.SIGKILL


def test_a_server_that_ends_at_once_is_quoted(tmp_path, monkeypatch):
    environment(monkeypatch)
    (tmp_path / "broken.py").write_text("raise SystemExit('no such model')")
    with pytest.raises(CourseError, match="ended before it could be asked anything: no such model"):
        ServerProcess([], "broken", tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_whoever_started_it(light, monkeypatch, number):
    environment(monkeypatch)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(light)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(number)
        parent.wait(120)
    wait_until(lambda: has_ended(server), 120)


def test_a_module_that_does_not_listen_to_sigterm_is_ended_too(light, monkeypatch):
    environment(monkeypatch)
    code = "from course_lib.benchmarks import watched; watched.GRACE_S = 0.2; watched.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "light", "stubborn"],
        cwd=light, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        while "now" not in child.stdout.readline():  # SIGTERM is ignored from here on
            pass
        child.stdin.close()
        assert child.wait(120) == 1
