"""The application of a server's settings, and uvicorn around it."""

import os
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from course_lib.adapters.files import readable_config
from course_lib.errors import CourseError
from course_lib.inference.server.app import create_app
from course_lib.inference.server.engine import BatchingEngine
from course_lib.inference.server.limits import Limits
from course_lib.inference.server.plain import PlainEngine
from course_lib.inference.server.requests import Engine
from course_lib.inference.server.settings import EngineSettings
from course_lib.models.devices import choose_device
from course_lib.serve.loading import Loaded, load_base, short_name
from course_lib.serve.settings import ServeSettings, as_environment, named_adapters

if TYPE_CHECKING:
    from fastapi import FastAPI


def build(settings: ServeSettings) -> "FastAPI":
    """Load the model and its adapters, start the engine, and put the application around it."""
    if settings.backend != "ours":
        raise CourseError(f"Start the backend {settings.backend} with course serve, which hands over to its server.")
    choose_device(settings.device)  # one that is not there is refused before anything is loaded
    with ExitStack() as stack:
        loaded = load_base(settings.model, named_adapters(settings.adapter), stack)
        engine = make_engine(loaded, settings)
    limits = Limits(
        max_body_bytes=settings.max_body_bytes,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        time_limit=settings.time_limit,
        max_answers=settings.max_answers,
        max_positions=settings.max_pages * settings.page_size + 1,  # the last token is not read, so it takes no slot
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


def make_engine(loaded: Loaded, settings: ServeSettings) -> Engine:
    """The engine that batches requests, or the plain one for what cannot be batched. It runs from now on.

    Args:
        loaded: base and adapters.
        settings: of the server.

    Returns:
        The engine.

    Raises:
        CourseError: the weights' format is not one of the plain engine's, or an adapter does not fit.
    """
    device = choose_device(settings.device)
    why = _not_batched(loaded)
    if why is None and settings.device != "auto" and not device.startswith("cpu"):
        why = f"the engine that batches requests is for the CPU, and the device is {device}"
    if why is None:
        if device != "cpu":
            told = "note: requests share batches on the CPU; --device cuda or --backend vllm computes on the GPU"
            print(told, file=sys.stderr, flush=True)
        limits = EngineSettings(
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            max_pages=settings.max_pages,
            page_size=settings.page_size,
        )
        return BatchingEngine(loaded.model, loaded.tokenizer, loaded.adapters, limits, settings.weights)
    if settings.weights != "float32":
        raise CourseError(f"{why}, and --weights {settings.weights} is for Llamas with LoRA on a CPU. Leave it out.")
    print(f"note: {why}, so requests are answered one after another", file=sys.stderr, flush=True)
    return PlainEngine(loaded.model.to(device), loaded.tokenizer, loaded.adapters, settings.max_queue)


def _not_batched(loaded: Loaded) -> str | None:
    """Why requests cannot share a batch; None where they can."""
    kind = getattr(loaded.model.config, "model_type", "unknown")
    if kind != "llama":
        return f"{loaded.name} is of type {kind}"
    for name, folder in loaded.adapters.items():
        if (method := readable_config(folder)["peft_type"]) != "LORA":
            return f"the adapter {name} is of type {method}"
    return None


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
        application = build(settings)
        names = ", ".join(application.state.models)
        print(f"serving {names} on {_url(listener)} (Ctrl-C stops)", flush=True)
        try:
            uvicorn.Server(uvicorn.Config(application, **options)).run(sockets=[listener])
        finally:  # after a second Ctrl-C it still runs, and a thread in torch's code would crash the process at its end
            application.state.engine.shut_down(finish=False)
    return 0


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CourseError(
            f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port or --host."
        ) from error
    return listener
