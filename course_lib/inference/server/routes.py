"""The paths that answer: OpenAI's, and /generate."""

import time
import uuid
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest

from course_lib.inference.server.answers import Answer, complete_answers
from course_lib.inference.server.bodies import StrictRoute
from course_lib.inference.server.events import EventStream, Part, chat_part, completion_part, events
from course_lib.inference.server.requests import Request
from course_lib.inference.server.schemas import (
    AssistantMessage,
    ChatBody,
    ChatChoice,
    ChatCompletion,
    Completion,
    CompletionBody,
    CompletionChoice,
    ErrorAnswer,
    GenerateAnswer,
    GenerateBody,
    Message,
    ModelList,
    OpenAIBody,
    ServedModel,
    Usage,
)
from course_lib.inference.server.service import Call, Service

# Where a call does not say how many tokens it wants: `course generate`'s number, and OpenAI's.
GENERATE_TOKENS, COMPLETION_TOKENS = 128, 16


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in statuses}


REFUSED = _errors(400, 401, 403, 404, 408, 413, 415, 422, 429)
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def make_router(service: Service) -> APIRouter:
    """The routes of a service."""
    router = APIRouter(route_class=StrictRoute)
    _add_generate(router, service)
    _add_models(router, service)
    _add_completions(router, service)
    _add_chat(router, service)
    return router


def _add_generate(router: APIRouter, service: Service) -> None:
    @router.post("/generate", responses=REFUSED)
    async def generate(body: GenerateBody, request: HTTPRequest) -> GenerateAnswer:
        """Continue a text."""
        started, model = time.perf_counter(), body.model or service.default
        service.adapter(model)  # a name that is not known is refused before anything else
        if body.chat:
            ids = await service.chat_ids([Message(role="user", content=body.prompt)])
        else:
            ids = await service.text_ids(body.prompt)
        asked = service.request(ids, body, model, body.max_new_tokens, GENERATE_TOKENS, use_cache=body.use_cache)
        call = service.submit([asked], model, started)
        (answer,) = await complete_answers(request, call, service.metrics)
        return _generated(call, answer)


def _add_models(router: APIRouter, service: Service) -> None:
    @router.get("/v1/models", responses=_errors(401, 403))
    async def models() -> ModelList:
        """The base and its adapters."""
        return ModelList(data=service.models())

    @router.get("/v1/models/{name:path}", responses=_errors(401, 403, 404))
    async def model(name: str) -> ServedModel:
        """One of them."""
        return service.model(name)


def _add_completions(router: APIRouter, service: Service) -> None:
    @router.post("/v1/completions", response_model=Completion, responses=REFUSED | STREAMED)
    async def completions(body: CompletionBody, request: HTTPRequest) -> Any:
        """Continue one text or several."""
        started = time.perf_counter()
        service.adapter(body.model)
        service.refuse_more_answers(len(_prompts(body.prompt)) * body.n)
        prompts = [await _ids(service, prompt) for prompt in _prompts(body.prompt)]
        call = _submit(service, prompts, body, body.max_tokens, started, COMPLETION_TOKENS)
        head = _head("cmpl", call)
        if body.stream:
            return _stream(service, call, head, completion_part, body)
        answers = await complete_answers(request, call, service.metrics)
        choices = [
            CompletionChoice(index=index, text=answer.text, finish_reason=answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return Completion(**head, choices=choices, usage=_usage(call, sum(answer.tokens for answer in answers), body.n))


def _add_chat(router: APIRouter, service: Service) -> None:
    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=REFUSED | STREAMED)
    async def chat(body: ChatBody, request: HTTPRequest) -> Any:
        """Answer a conversation."""
        started = time.perf_counter()
        service.adapter(body.model)
        service.refuse_more_answers(body.n)
        ids = await service.chat_ids(body.messages)
        call = _submit(service, [ids], body, body.max_completion_tokens or body.max_tokens, started)
        head = _head("chatcmpl", call)
        if body.stream:
            return _stream(service, call, head, chat_part, body)
        answers = await complete_answers(request, call, service.metrics)
        choices = [
            ChatChoice(index=index, message=AssistantMessage(content=answer.text), finish_reason=answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        new = sum(answer.tokens for answer in answers)
        return ChatCompletion(**head, choices=choices, usage=_usage(call, new, body.n))


def _generated(call: Call, answer: Answer) -> GenerateAnswer:
    seconds = time.perf_counter() - call.started
    (asked,) = call.requests
    return GenerateAnswer(
        text=answer.text,
        finish_reason=answer.finish_reason,
        model=call.model,
        prompt_tokens=len(asked.prompt),
        new_tokens=answer.tokens,
        seconds=seconds,
        tokens_per_second=answer.tokens / seconds,
        seed=asked.seed,
    )


def _prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[Any]:
    """Each prompt, a text or a list of ids."""
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(part, int) for part in prompt):
        return [prompt]
    return list(prompt)


async def _ids(service: Service, prompt: str | list[int]) -> tuple[int, ...]:
    return await service.text_ids(prompt) if isinstance(prompt, str) else service.check_ids(prompt)


def _submit(
    service: Service,
    prompts: list[tuple[int, ...]],
    body: OpenAIBody,
    wanted: int | None,
    started: float,
    usual: int | None = None,
) -> Call:
    """Queue `n` answers for each prompt. With a seed, answer i has the seed plus i."""
    requests: list[Request] = []
    for ids in prompts:
        for number in range(body.n):
            seeded = body if body.seed is None else body.model_copy(update={"seed": (body.seed + number) % 2**63})
            requests.append(service.request(ids, seeded, body.model, wanted, usual, ignore_end=body.ignore_eos))
    return service.submit(requests, body.model, started)


def _head(kind: str, call: Call) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.model}


def _usage(call: Call, new: int, n: int) -> Usage:
    """Counts of a call; a prompt counts once, however many answers it gets."""
    prompt = sum(len(request.prompt) for request in call.requests[::n])
    return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


def _stream(service: Service, call: Call, head: dict[str, Any], part: Part, body: OpenAIBody) -> EventStream:
    """The events of a call, with its usage at the end where that was asked for."""
    counts = body.stream_options is not None and body.stream_options.include_usage
    usage = (lambda new: _usage(call, new, body.n).model_dump()) if counts else None
    return EventStream(events(call, service.metrics, head, part, usage), call)
