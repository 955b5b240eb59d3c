"""Stand-ins for what an answer defines: they are used like it, and what comes back is data, or another stand-in."""

import builtins
import contextlib
import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from autograder.judging import wire
from autograder.judging.session import Reference, Session

MARK = "_judge_target"
TITLE = "_judge_title"
CALLED_BY_NAME = ("method", "function")
ANSWER = "your answer"  # what a message calls a helper of the checks, which nobody was asked to write
SIGNATURE = "_judge_signature"


class Remote:
    """An object in the submission's process, known here by a name of its notebook or by a number.

    Calling it, and reading and setting its attributes, happen there. It is never equal to anything but itself, and it
    is neither true nor false: what counts is decided by data alone.

    Args:
        session: The process.
        target: Its name or number there.
        kind: The name of its type.
        title: What a message calls it.
    """

    def __init__(
        self, session: Session, target: str | int, kind: str = "function", title: str = "your function"
    ) -> None:
        object.__setattr__(self, MARK, (session, target, kind))
        object.__setattr__(self, TITLE, title)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        session, target, _ = _held(self)
        session.called = (self.__name__, arguments, named)
        reply = session.ask(do="call", target=target, args=list(arguments), named=named)
        changed = _value(session, reply.get("changed"))
        if changed is not None:
            session.called = copy.deepcopy(session.called)  # a message tells what the input was
            _write_back([list(arguments), named], changed)
        return _answer(session, reply)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        session, target, _ = _held(self)
        found = _answer(session, session.ask(do="get", target=target, name=name))
        if isinstance(found, Remote) and _held(found)[2] in CALLED_BY_NAME:
            object.__setattr__(found, TITLE, name)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        session, target, _ = _held(self)
        _answer(session, session.ask(do="set", target=target, name=name, value=value))

    def __repr__(self) -> str:
        _, target, kind = _held(self)
        return target if isinstance(target, str) else f"<{kind}>"

    def __iter__(self) -> Iterator[Any]:
        session, target, _ = _held(self)
        items = _answer(session, session.ask(do="iterate", target=target))
        return iter(items if isinstance(items, list) else [])

    def __bool__(self) -> bool:
        raise TypeError(f"a {_held(self)[2]} is neither true nor false")

    def __deepcopy__(self, memo: dict) -> "Remote":
        return self

    @property
    def __name__(self) -> str:
        return object.__getattribute__(self, TITLE)

    @property
    def __signature__(self) -> inspect.Signature:
        """The parameters, as their author named them. It is asked for once: the checks look at it for every call."""
        with contextlib.suppress(AttributeError):
            return object.__getattribute__(self, SIGNATURE)
        session, target, _ = _held(self)
        names = _answer(session, session.ask(do="describe", target=target))
        if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise ValueError("no names of parameters")
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in dict.fromkeys(names)])
        object.__setattr__(self, SIGNATURE, signature)
        return signature

    @staticmethod
    def reference_of(remote: "Remote") -> int:
        """Its number in the submission's process."""
        session, target, _ = _held(remote)
        if isinstance(target, int):
            return target
        found = session.ask(do="find", target=target)  # a name of the notebook: what it stands for gets a number
        if isinstance(found.get("error"), dict):
            raise _raised(found["error"])
        reference = found.get("value")
        if not isinstance(reference, Reference):
            raise wire.WireError(f"{target}, which is neither a function nor a class")
        return reference.number


def _held(remote: Remote) -> tuple[Session, Any, str]:
    return object.__getattribute__(remote, MARK)


def _answer(session: Session, reply: dict[str, Any]) -> Any:
    """The value of an answer; or what the submission's code raised, raised here."""
    if isinstance(reply.get("error"), dict):
        raise _raised(reply["error"])
    return _value(session, reply.get("value"))


def _value(session: Session, value: Any) -> Any:
    """Data as it is, with stand-ins where the other side kept an object."""
    if isinstance(value, Reference):
        kind = value.kind if value.kind.isidentifier() else "object"
        return type(kind, (Remote,), {})(session, value.number, kind)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_value(session, each) for each in value)
    if isinstance(value, dict):
        return {key: _value(session, each) for key, each in value.items()}
    return value


def _raised(error: dict[str, Any]) -> Exception:
    """An exception like the one there: the nearest of Python's own types, with its name and message."""
    kinds = [kind for kind in error.get("kinds") or ["Exception"] if isinstance(kind, str)]
    known: list[Any] = [getattr(builtins, kind, None) for kind in kinds]
    base = next((kind for kind in known if _can_be_made(kind)), Exception)
    text, where = str(error.get("text", "")), str(error.get("where", ""))
    name = kinds[0] if kinds and re.fullmatch(r"\w{1,80}", kinds[0]) else "Exception"
    # its own constructor may want other arguments
    like = type(name, (base,), {"__init__": lambda self: None, "__str__": lambda self: text, "where": where})
    return like()


def _write_back(old: Any, new: Any) -> None:
    """Make arguments here what they have become there, so that a check that compares them sees it."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            if isinstance(before, list | dict | tuple | np.ndarray):
                _write_back(before, after)
            else:
                old[place] = after
    elif isinstance(old, list) and isinstance(new, list):
        old[:] = new
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in [key for key in old if key not in new]:
            del old[key]
        for key, after in new.items():
            if isinstance(old.get(key), list | dict | tuple | np.ndarray):
                _write_back(old[key], after)
            else:
                old[key] = after
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            if isinstance(before, list | dict | tuple | np.ndarray):
                _write_back(before, after)
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.shape == new.shape and old.flags.writeable:
        old[...] = new
    else:
        raise AssertionError(f"your function changed the {type(old).__name__} that it was given: work on a copy of it")


def _can_be_made(kind: Any) -> bool:
    """Whether it is a type of exceptions, and not one of groups, which cannot be empty."""
    return isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, BaseExceptionGroup)
