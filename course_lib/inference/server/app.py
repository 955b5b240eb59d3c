"""The FastAPI application around an engine."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

import course_lib
from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference.server.answers import ClientGone
from course_lib.inference.server.guard import Guard
from course_lib.inference.server.limits import Limits
from course_lib.inference.server.metrics import Metrics
from course_lib.inference.server.page import chat_page
from course_lib.inference.server.problems import answer_problem
from course_lib.inference.server.requests import Engine
from course_lib.inference.server.routes import make_router
from course_lib.inference.server.schemas import ChatBody, CompletionBody, GenerateBody, Health
from course_lib.inference.server.service import Service

PATHS = ("/", "/health", "/metrics", "/openapi.json", "/generate")
OPENAI_PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions")


def create_app(
    engine: Engine,
    tokenizer: ModelTokenizer,
    base: str,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    allowed_hosts: Iterable[str] = (),
    any_address: bool = False,
) -> FastAPI:
    """Make the application of a server. It shuts the engine down when it stops.

    Args:
        engine: the engine that answers.
        tokenizer: the tokenizer of the model.
        base: the name of the base model in calls.
        limits: the limits of a call (default: those of `Limits`).
        api_key: the key that every call has to contain; None for no key.
        allowed_hosts: see `Guard`.
        any_address: see `Guard`.

    Returns:
        An ASGI application, for uvicorn.

    Raises:
        CourseError: an adapter has the base's name, so that calls could not tell them apart.
    """
    if base in engine.adapters:
        raise CourseError(f"The base and an adapter are both called {base}. Give the adapter another name: NAME=PATH.")
    limits = limits or Limits()
    metrics = Metrics(engine.statistics, PATHS + OPENAI_PATHS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.shut_down)  # uvicorn has finished the calls by now

    # FastAPI's pages of documentation load scripts from another host, so only the description itself is served.
    app = FastAPI(
        title="Adapting language models",
        version=course_lib.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(make_router(Service(engine, tokenizer, base, limits, metrics)))
    _add_plain_routes(app, metrics)
    app.state.engine = engine
    app.state.models = (base, *engine.adapters)
    _name_the_models(app)
    for kind in (HTTPException, RequestValidationError, CourseError):
        app.add_exception_handler(kind, answer_problem)
    app.add_exception_handler(ClientGone, _nobody_reads)
    app.add_middleware(
        Guard, limits=limits, metrics=metrics, api_key=api_key, allowed_hosts=allowed_hosts, any_address=any_address
    )
    return app


def _name_the_models(app: FastAPI) -> None:
    """Let the description say which names a call's model may have: they are known only now."""
    schema = app.openapi()  # FastAPI keeps it, and serves this very object
    for body in (GenerateBody, CompletionBody, ChatBody):
        model = schema["components"]["schemas"][body.__name__]["properties"]["model"]
        model.get("anyOf", [model])[0]["enum"] = list(app.state.models)


def _nobody_reads(*_: object) -> Response:
    return Response(status_code=499)  # as nginx notes it


def _add_plain_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """The chat page."""
        html, headers = chat_page()
        return HTMLResponse(html, headers=headers)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers."""
        return Health()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def numbers() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
