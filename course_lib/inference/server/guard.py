"""The checks before every route: who may call, from where, and how large a body may be.

Pages in the user's browser can reach a server on loopback, too. Three checks keep them out:

- A request from a page of another site has that site in its Origin header, which has to match Host. The server never
  sends a CORS header.
- With DNS rebinding, such a page makes its own name point at 127.0.0.1; then Origin and Host match. So a name in Host
  has to be a known one. An address is not a name and cannot be rebound.
- Without an API key, only connections that arrive on a loopback address are answered, whatever uvicorn was told to
  listen on.

With an API key any name is accepted, since a strange page does not have the key.
"""

import asyncio
import hmac
import ipaddress
import logging
import time
import traceback
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course_lib.inference.server.limits import Limits
from course_lib.inference.server.metrics import Metrics
from course_lib.inference.server.problems import ONCE, Problem

log = logging.getLogger("course_lib.server")
OPEN_PATHS = ("/", "/health")  # without the API key: neither says nor starts anything
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Guard:
    """The ASGI application that wraps the application of the server and checks every call.

    Args:
        app: the application of the server.
        limits: the limits of bodies.
        metrics: where calls are counted.
        api_key: the key that calls need; without one, everybody on this machine may call.
        allowed_hosts: names in the header Host that are accepted besides localhost and addresses.
        any_address: answer on other addresses than loopback, even without an API key.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        api_key: str | None = None,
        allowed_hosts: Iterable[str] = (),
        any_address: bool = False,
    ):
        self.app, self.limits, self.metrics = app, limits, metrics
        self.api_key, self.any_address = api_key, any_address
        self.hosts = {"localhost", *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, read the body, and hand on. Nothing that goes wrong inside is shown, and no text is logged."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, arrived = time.perf_counter(), 0, False

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            self._check(scope)
            body = await _read_body(receive, scope, self.limits)
            arrived = True
            await self.app(scope, _replay(body, receive), count)
        except Problem as problem:
            await problem.response()(scope, receive, count)
        except _Gone:
            pass
        except asyncio.CancelledError:  # a second Ctrl-C; a stream is left as it is, which readers see is not complete
            if status == 0:
                stopped = Problem(503, "The server was stopped before the answer was complete.")
                await stopped.response()(scope, receive, count)
        except Exception as error:
            # The message of an exception may quote the text, so its kind and place have to do.
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in %s %s\n%s", type(error).__name__, scope["method"], scope["path"], places)
            if status == 0:
                mistake = Problem(500, "The server made a mistake. Its log says where.")
                await mistake.response()(scope, receive, count)
        finally:
            if arrived or status:
                self.metrics.count(scope, status or 499, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        self._check_address(scope)
        self._check_host(headers)
        _check_origin(headers)
        if scope["path"] not in OPEN_PATHS:
            self._check_key(headers.get(b"authorization", ""))

    def _check_address(self, scope: Scope) -> None:
        server = scope.get("server")  # the connection's own address, or a socket file and None
        if self.api_key or self.any_address or not server or server[1] is None:
            return
        address = as_address(server[0])
        if address is not None and not address.is_loopback:
            raise Problem(403, "This server has no API key, so it answers on loopback alone. Set COURSE_SERVE_API_KEY.")

    def _check_host(self, headers: dict[bytes, str]) -> None:
        name = host_name(headers.get(b"host", ""))
        if self.api_key or as_address(name) is not None or name in self.hosts:
            return
        raise Problem(
            403, "The name in the header Host is not one of this server's. Start it with --allowed-host NAME if it is."
        )

    def _check_key(self, given: str) -> None:
        if not self.api_key:
            return
        scheme, _, key = given.partition(" ")
        # Both sides as bytes, since compare_digest takes no other text than ASCII.
        same = hmac.compare_digest(key.strip().encode("latin-1"), self.api_key.encode())
        if scheme.lower() != "bearer" or not same:
            said = "That is not the API key." if given else "This server needs an API key."
            message = f"{said} Send the header Authorization: Bearer KEY."
            raise Problem(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _check_origin(headers: dict[bytes, str]) -> None:
    origin = headers.get(b"origin")
    if origin is None:
        return
    try:
        same = urlsplit(origin).netloc.lower() == headers.get(b"host", "").lower() != ""
    except ValueError:
        same = False
    if not same:
        raise Problem(403, f"A page of another site ({origin[:100]}) may not use this server.")


def host_name(host: str) -> str:
    """The name or address of a Host header, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address; None where the text is a name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class _Gone(Exception):
    """The client disconnected before its body had arrived."""


async def _read_body(receive: Receive, scope: Scope, limits: Limits) -> bytes:
    """The whole body, so that a size or a pace beyond the limits is refused before anything looks at it."""
    too_large = Problem(413, f"The body is larger than {limits.max_body_bytes} bytes. Send less text.")
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_time_limit):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.max_body_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Problem(408, f"The body took longer than {limits.body_time_limit:g} s.", headers=ONCE) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, and then what comes after it, which is the disconnect."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
