"""Applications around a scripted engine, in this process and on a port of this machine."""

import contextlib
import copy
import shutil
import threading
import time

import pytest
import uvicorn
from browsing import browser  # noqa: F401
from fastapi.testclient import TestClient
from served import served
from tiny_runs import base, letters, save_random_adapter  # noqa: F401

from course_lib.inference.server.app import create_app

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('late system') }}"
    "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def chatty(letters):  # noqa: F811
    """A tokenizer of single bytes with a chat template."""
    chatty = copy.deepcopy(letters)
    chatty.chat_template = TEMPLATE
    return chatty


@pytest.fixture(scope="session")
def folders(tmp_path_factory, base, chatty):  # noqa: F811
    """A model's folder with a chat template, and those of two adapters, by the names that requests give."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(base, folder / "tiny")
    chatty.save_pretrained(folder / "tiny")
    return {"tiny": folder / "tiny"} | {
        name: save_random_adapter(folder / "tiny", folder / name) for name in ("one", "two")
    }


@pytest.fixture(scope="session")
def server(folders):
    """`course serve` with this model and these adapters, in a process of its own."""
    adapters = [f"{name}={folders[name]}" for name in ("one", "two")]
    words = ["--model", folders["tiny"], "--adapter", *adapters, "--max-pages", 64, "--max-queue", 60]
    with served(*words) as running:
        yield running


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
