"""The application of a server's settings, and uvicorn around it."""

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from course_lib.errors import CourseError
from course_lib.inference.server.app import create_app
from course_lib.inference.server.limits import Limits
from course_lib.serve.loading import Loaded, load_base, short_name
from course_lib.serve.settings import ServeSettings, as_environment, named_adapters

if TYPE_CHECKING:
    from fastapi import FastAPI


def build(settings: ServeSettings) -> "FastAPI":
    """Load the model and its adapters, start the engine, and put the application around it."""
    if settings.backend != "ours":
        raise CourseError(f"Start the backend {settings.backend} with course serve, which hands over to its server.")
    with ExitStack() as stack:
        loaded = load_base(settings.model, named_adapters(settings.adapter), stack)
        engine = make_engine(loaded, settings)
    limits = Limits(
        max_body_bytes=settings.max_body_bytes,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        time_limit=settings.time_limit,
        max_answers=settings.max_answers,
    )
    return create_app(
        engine,
        loaded.tokenizer,
        settings.served_model_name or short_name(loaded.name),
        limits=limits,
        api_key=settings.api_key,
        allowed_hosts=settings.allowed_host,
        any_address=settings.without_key,
    )


def make_engine(loaded: Loaded, settings: ServeSettings) -> Any:
    """The engine that batches requests."""
    raise NotImplementedError


def serve(settings: ServeSettings, reload: bool = False) -> int:
    """Serve until SIGTERM or Ctrl-C. What runs by then is finished; what comes after it is not taken.

    Args:
        settings: of the server.
        reload: load the application anew when a file of the package changes.

    Returns:
        The exit status.

    Raises:
        CourseError: the address cannot be listened on, or the model cannot be loaded.
    """
    import uvicorn

    # uvicorn waits for the calls that run, and each of them has its own limit of time.
    options: dict[str, Any] = {"timeout_graceful_shutdown": int(settings.time_limit) + 5, "server_header": False}
    if reload:
        os.environ.update(as_environment(settings))
        path = "course_lib.serve:app"
        uvicorn.run(path, factory=True, reload=True, host=settings.host, port=settings.port, **options)
        return 0
    listener = _listen(settings.host, settings.port)  # before the model is loaded: a port that is taken shows at once
    with listener:
        uvicorn.Server(uvicorn.Config(build(settings), **options)).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CourseError(f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port.") from error
    return listener
