"""The bodies of calls, as strict JSON.

FastAPI would accept duplicate keys and use the last one, would accept NaN and infinities as numbers, and would answer
status 500 to a NaN in place of an integer.
"""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from course_lib.inference.server.problems import Problem


def parse_json(body: bytes) -> Any:
    """Parse a JSON text strictly.

    Args:
        body: the text in UTF-8.

    Returns:
        The value. Its numbers are finite, its objects have each key once, and its strings are text.

    Raises:
        Problem: with status 400 if the text is not JSON, and 422 if it has a number or string that cannot be used.
    """
    try:
        value = json.loads(
            body.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_duplicates
        )
        # Half of a surrogate pair is possible in JSON, but it is not a character, and no tokenizer takes it.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Problem(
            422, r"A text holds half of a surrogate pair (\ud800 to \udfff). Send whole characters."
        ) from error
    except RecursionError as error:
        raise Problem(400, "The body is nested too deeply.", code="invalid_json") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of this kind
        where = f" at character {error.pos}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise Problem(400, f"The body is not JSON in UTF-8{where}.", code="invalid_json") from error
    return value


def _refuse(word: str) -> float:
    raise Problem(422, f"{word} is not a number in JSON. Send a finite number.", code="finite_number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse("A number beyond 1.8e308")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem(400, "An object in the body has the same key twice.", code="duplicate_key")
    return found


class StrictRequest(Request):
    """A request whose body is read by `parse_json`."""

    async def json(self) -> Any:
        """The body's value."""
        return parse_json(await self.body())


class StrictRoute(APIRoute):
    """A route that accepts only strict JSON.

    A page of another site can send a form or plain text without asking this server first, but it cannot send JSON. So
    the content type is part of the protection against such pages.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, on a `StrictRequest`."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise Problem(415, "Send the body as JSON, with the header Content-Type: application/json.")
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
