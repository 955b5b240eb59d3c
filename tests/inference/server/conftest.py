"""Applications around a scripted engine, in this process and on a port of this machine."""

import contextlib
import threading
import time

import pytest
import uvicorn
from fastapi.testclient import TestClient
from tiny_runs import letters, tokenizer  # noqa: F401

from course_lib.inference.server.app import create_app

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('late system') }}"
    "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def chatty(letters):  # noqa: F811
    """A tokenizer of single bytes with a chat template."""
    import copy

    chatty = copy.deepcopy(letters)
    chatty.chat_template = TEMPLATE
    return chatty


@pytest.fixture
def client(chatty):
    """client(engine, **options): calls into an application, without a network."""
    with contextlib.ExitStack() as stack:

        def make(engine, tokenizer=chatty, **options):
            app = create_app(engine, tokenizer, "tiny", **options)
            return stack.enter_context(TestClient(app, base_url="http://localhost:8000"))

        yield make


@pytest.fixture
def listening(chatty):
    """listening(engine, **options): the address of a real server in a thread."""
    with contextlib.ExitStack() as stack:

        def make(engine, tokenizer=chatty, **options):
            app = create_app(engine, tokenizer, "tiny", **options)
            server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.01)

            def stop():
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            stack.callback(stop)
            return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        yield make
