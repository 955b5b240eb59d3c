"""Refusals and errors of the server, in OpenAI's form: {"error": {"message", "type", "param", "code"}}.

The `openai` package turns the status into an exception and shows the message. It repeats a call by itself after 408,
409, 429 and 5xx unless the header x-should-retry says otherwise.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteException

from course_lib.errors import CourseError
from course_lib.inference.server.requests import QueueFull, TooLong, UnknownAdapter

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
ONCE = {"x-should-retry": "false"}  # the same call would take as long again


class Problem(HTTPException):
    """A call that is refused or that fails.

    Args:
        status: the HTTP status of the answer.
        message: what was wrong, and what to do.
        param: the field of the body that was wrong, if it was one.
        code: a short name of the error, for programs.
        headers: further headers of the answer.

    Example:
        >>> problem = Problem(404, "There is no model 'x' here.", "model", "model_not_found")
        >>> problem.body()["error"]["type"]
        'not_found_error'
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers=dict(headers or {}))
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """The body of the answer, ready to be written as JSON."""
        default = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status_code, default)
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer with its status and headers."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def of_engine(error: CourseError) -> Problem:
    """Turn the engine's reason for not taking a request into an answer."""
    if isinstance(error, QueueFull):
        # The openai package obeys Retry-After for as long as it says, so it stays short.
        wait = str(max(1, min(30, round(error.retry_after))))
        return Problem(429, str(error), code="queue_full", headers={"Retry-After": wait})
    if isinstance(error, UnknownAdapter):
        return Problem(404, str(error), "model", "model_not_found")
    if isinstance(error, TooLong):
        return Problem(400, str(error), code="context_length_exceeded")
    return Problem(422, str(error))


def of_validation(error: RequestValidationError) -> Problem:
    """Turn the first mistake in a body into an answer.

    The answer does not repeat what was sent, since that may be anything, NaN included.
    """
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        message = f"{param} is not a setting of this server. Leave it out."
    elif param is None and first["type"] == "value_error":  # several fields do not go together
        message = first["msg"].removeprefix("Value error, ") + "."
    elif param is None:
        message = "The body has to be a JSON object with the fields of this call."
    else:
        message = f"{param}: {first['msg'].removeprefix('Value error, ')}."
    return Problem(422, message, param, first["type"])


async def answer_problem(request: Request, error: Exception) -> JSONResponse:
    """Turn every refusal into an answer: ours, FastAPI's about bodies, and Starlette's about paths and methods.

    Args:
        request: the call; FastAPI passes it to every such function.
        error: what was raised.

    Returns:
        The answer in OpenAI's form.
    """
    if isinstance(error, RequestValidationError):
        return of_validation(error).response()
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, CourseError):
        return of_engine(error).response()
    assert isinstance(error, StarletteException)
    messages = {
        404: "There is nothing at this path. /openapi.json lists the paths.",
        405: "This path does not answer this method. /openapi.json lists the methods.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return Problem(error.status_code, message, headers=error.headers).response()
