"""The settings of a server: options of `course serve`, and variables of the environment. Cheap: no torch.

The variable of a setting is ``COURSE_SERVE_`` and its name in capitals. MODEL_PATH and ADAPTER_PATH are understood too.
"""

import ipaddress
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.options import check_options, flag_of, option, value_type
from course_lib.vocabulary import FORMATS, canonical_value

PREFIX = "COURSE_SERVE_"
OTHER_VARIABLES = {"MODEL_PATH": "model", "ADAPTER_PATH": "adapter"}
BACKENDS = ("ours", "vllm")
MODEL, NETWORK, LIMITS, ENGINE = "what is served", "who may ask", "limits of a call", "batch and cache"
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class ServeSettings:
    """Everything about a server.

    Raises:
        CourseError: a value is out of its range, or the server would be open to the network without a key.
    """

    adapter: tuple[str, ...] = field(default=())
    allowed_host: tuple[str, ...] = field(default=())
    model: str | None = option(
        None, "a model's name or folder", group=MODEL, metavar="NAME", shown="the adapter's base, or SmolLM2"
    )
    served_model_name: str | None = option(
        None, "the name of the base in calls", group=MODEL, metavar="NAME", shown="the name of its folder, or its own"
    )
    weights: str = option("float32", "the format of the weights", group=MODEL, choices=FORMATS)
    backend: str = option("ours", "which engine computes; vllm has to be installed", group=MODEL, choices=BACKENDS)
    device: str = option(
        "auto",
        "where to compute: cpu, cuda, cuda:1 or auto. Requests share batches on a CPU alone, so auto is the CPU where "
        "they can; a GPU answers them one after another",
        group=MODEL,
        metavar="NAME",
    )
    host: str = option("127.0.0.1", "the address to listen on", group=NETWORK, metavar="ADDRESS")
    port: int = option(8000, "the port to listen on; 0: any that is free", group=NETWORK, at_least=0, below=65536)
    api_key: str | None = option(
        None, "the key of every call; others see it in ps: COURSE_SERVE_API_KEY is safer", group=NETWORK,
        metavar="KEY",
    )  # fmt: skip
    without_key: bool = option(False, "listen on other addresses than loopback without an API key", group=NETWORK)
    max_body_bytes: int = option(1_000_000, "bytes of a call's body", group=LIMITS, at_least=1)
    max_prompt_tokens: int | None = option(
        None, "tokens of a prompt", group=LIMITS, shown="what the model has room for", at_least=1
    )
    max_new_tokens: int = option(1024, "tokens of an answer", group=LIMITS, at_least=1)
    max_answers: int = option(8, "answers to one call: prompts times n", group=LIMITS, at_least=1)
    time_limit: float = option(300.0, "seconds for a whole answer", group=LIMITS, above=0)
    max_queue: int = option(64, "requests that wait; the next one is sent away (429)", group=ENGINE, at_least=1)
    max_batch: int = option(8, "requests that are answered at once", group=ENGINE, at_least=1)
    page_size: int = option(16, "tokens in a page of the cache", group=ENGINE, at_least=1)
    max_pages: int = option(512, "pages of the cache, for all requests together", group=ENGINE, at_least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if not (self.api_key or self.without_key or is_loopback(self.host)):
            raise CourseError(
                f"--host {self.host} lets other machines in, and there is no API key. Set COURSE_SERVE_API_KEY (or "
                "--api-key KEY), or say --without-key if everybody may use this model."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name counts as open, but for localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def from_environment(environment: Mapping[str, str], **given: Any) -> ServeSettings:
    """The settings that the environment names.

    Args:
        environment: its variables. Lists are separated by commas; an empty value counts as not given.
        given: settings that are known already and win.

    Returns:
        The settings.

    Raises:
        CourseError: a variable that begins with ``COURSE_SERVE_`` is not known, or a value is not possible.
    """
    kinds = typing.get_type_hints(ServeSettings)
    choices = {each.name: each.metadata.get("choices") or () for each in fields(ServeSettings)}
    known = {PREFIX + each.name.upper(): each.name for each in fields(ServeSettings)}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            # The names are compared without what they all begin with.
            near = get_close_matches(variable.removeprefix(PREFIX), [name.upper() for name in known.values()], n=1)
            hint = f" Did you mean {PREFIX}{near[0]}?" if near else ""
            raise CourseError(f"There is no setting {variable}.{hint} course serve --help lists them.")
    found = {}
    for variable, name in (OTHER_VARIABLES | known).items():
        if text := environment.get(variable, ""):
            found[name] = _value(variable, text, kinds[name], choices[name])
    return ServeSettings(**(found | given))


def _value(variable: str, text: str, kind: Any, choices: tuple[str, ...]) -> Any:
    plain = value_type(kind)
    if plain is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if plain is bool:
        if text.lower() not in WORDS:
            raise CourseError(f"{variable} is {text!r}; it has to be true or false.")
        return WORDS[text.lower()]
    if plain is str:
        return canonical_value(text, choices)
    try:
        return plain(text)
    except ValueError:
        raise CourseError(f"{variable} is {text!r}; it has to be a number.") from None


def as_environment(settings: ServeSettings) -> dict[str, str]:
    """The variables that give these settings again, for a process of uvicorn's that loads the application anew."""
    found = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if value != each.default and value is not None:
            found[PREFIX + each.name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    return found


def named_adapters(given: tuple[str, ...]) -> dict[str, Path]:
    """NAME=PATH, or a PATH whose last part is the name, as paths by name.

    Raises:
        CourseError: a name or path is empty, or two adapters have one name.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():  # a folder's own name may hold a "="
            name, path = Path(text).resolve().name, text
        if not name or not path:
            raise CourseError(f"--adapter {text} is not possible. Write NAME=PATH, or a path.")
        if name in found:
            raise CourseError(
                f"Two adapters are called {name}. Give each its own name: {flag_of('adapter')} NAME=PATH."
            )
        found[name] = Path(path)
    return found
