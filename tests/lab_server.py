"""A Jupyter server as a reader's browser sees it: sessions over REST, cells over the kernel's websocket, and the memory
that server and kernels take together."""

import contextlib
import json
import os
import secrets
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import websocket

PATIENCE_S = 300


class Server:
    """A running server of the notebooks in a folder."""

    def __init__(self, process: subprocess.Popen, port: int, token: str) -> None:
        self.process, self.port, self.token = process, port, token
        self.peak_bytes, self._running = 0, True
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    def get(self, path: str) -> dict:
        """What the server answers to a GET."""
        return self._ask(path)

    def open(self, path: str) -> "Kernel":
        """Open a notebook as JupyterLab does: a session with a kernel of its own.

        Args:
            path: of the notebook, from the server's folder.
        """
        body = {"path": path, "name": Path(path).name, "type": "notebook", "kernel": {"name": "python3"}}
        return Kernel(self, self._ask("api/sessions", body)["kernel"]["id"])

    def memory_bytes(self) -> int:
        """What the server and its kernels take now: a page that several share counts once (PSS)."""
        total = 0
        for process in family(self.process.pid):
            with contextlib.suppress(psutil.Error):
                taken = process.memory_full_info()
                total += getattr(taken, "pss", taken.rss)  # PSS is Linux's
        return total

    def stop(self) -> None:
        """End the server with its kernels."""
        self._running = False
        self._watch.join()
        processes = family(self.process.pid)
        self.process.terminate()
        for process in processes[1:]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(60)

    def _ask(self, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", json.dumps(body).encode() if body else None
        )
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def _sample(self) -> None:
        while self._running:
            self.peak_bytes = max(self.peak_bytes, self.memory_bytes())
            time.sleep(0.2)


class Kernel:
    """An opened notebook's kernel."""

    def __init__(self, server: Server, kernel_id: str) -> None:
        address = f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels"
        self.socket = websocket.create_connection(address, PATIENCE_S, header=[f"Authorization: token {server.token}"])

    def run(self, code: str) -> str:
        """Run a cell; what it printed and returned.

        Args:
            code: the cell's text.

        Raises:
            AssertionError: the cell ended with an error.
        """
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": "execute_request",
            "session": "x",
            "username": "x",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        self.socket.send(
            json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"})
        )
        said = []
        while True:
            message = json.loads(self.socket.recv())
            content = message["content"]
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "execute_result":
                said.append(content["data"].get("text/plain", ""))
            elif message["msg_type"] == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return "".join(said)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


@contextlib.contextmanager
def jupyter_lab(folder: Path, *before: str, log: Path, **environment: str) -> Iterator[Server]:
    """JupyterLab in a folder, until the block ends.

    Args:
        folder: where it starts.
        before: words in front of its command, as Binder's `start`.
        log: what it prints.
        environment: variables in addition to the running ones.
    """
    token = secrets.token_hex(16)
    command = [*before, "jupyter", "lab", "--ip=127.0.0.1", "--port=0", "--no-browser", "--allow-root"]
    runtime = log.parent / "jupyter-runtime"
    settings = os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_TOKEN": token} | environment
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=file, stderr=subprocess.STDOUT)
    server = None
    try:
        port = wait_for(lambda: _port(runtime, process, log))
        server = Server(process, port, token)
        yield server
    finally:
        if server is not None:
            server.stop()
        else:
            process.kill()
            process.wait(60)


def _port(runtime: Path, process: subprocess.Popen, log: Path) -> int:
    """The port that the server says it listens on; 0 as long as it does not."""
    assert process.poll() is None, log.read_text()
    for path in runtime.glob("jpserver-*.json"):
        with contextlib.suppress(ValueError):
            return int(json.loads(path.read_text())["port"])
    return 0


def wait_for(found: Callable[[], int]) -> int:
    """The first answer that is not 0."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if answer := found():
            return answer
        time.sleep(0.1)
    raise TimeoutError(f"no answer within {PATIENCE_S} s")
