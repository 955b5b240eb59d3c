"""Whether an answer is the student's own: the course's library and what the assignments give compute nearly all of it.

It looks at what an answer calls by name and refuses honest shortcuts and accidents with one sentence. Left out, for the
work on hostile submissions: anything that hides what it calls.
"""

import builtins
import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

LIBRARIES = ("course_lib", "autograder")  # the library, and autograder.given, which some parts may call
COMPARISONS = {name: getattr(np, name) for name in ("allclose", "array_equal", "isfinite", "abs", "asarray")}


def own_work(names: dict) -> Callable[..., None]:
    """Make the check of an assignment: its first cell ends with `check_own = own_work(globals())`.

    The result is called with an answer, a function, and raises AssertionError where it calls course_lib or autograder
    for itself, by an import, by the library's name or through another function of the notebook; or where the names that
    the checks rely on have changed since. Names that the first cell defined may be used, except modules and those with
    a leading underscore, which are the checks' own.

    Args:
        names: The notebook's global names. What they are now is remembered.

    Returns:
        `check_own(answer, *forbidden)`, which looks at one answer. It also forbids the names that are given to it, of
        helpers that only other parts may use.
    """
    given = dict(names)

    def check_own(answer: object, *forbidden: str) -> None:
        """Complain where an answer hands its work to course_lib, itself or through other code of the notebook.

        Args:
            answer: The function or class that the student wrote.
            forbidden: Names of the first cell that only other parts may use.

        Raises:
            AssertionError: The answer calls or imports something of course_lib; or names that the checks rely on are
                not what they were after the first cell.
        """
        _check_names(names, given)
        title = getattr(answer, "__name__", "the answer")
        allowed = {name: value for name, value in given.items() if name not in forbidden}
        used = next(_library_calls(answer, allowed, set()), None)
        assert used is None, f"{title} hands its work to {used}: write it yourself"

    return check_own


def _check_names(names: dict, given: dict) -> None:
    """AssertionError where a name that the checks rely on is now something else."""
    for name, value in given.items():
        if isinstance(value, FunctionType | type | ModuleType) and not name.startswith("__"):
            same = names.get(name) is value
            assert same, f"{name} of the first cell was replaced: give yours another name and run all cells again"
    for name in sorted(vars(builtins).keys() & names.keys() - given.keys()):
        same = name.startswith("_") or names[name] is getattr(builtins, name)
        assert same, f"your notebook gives Python's {name} another meaning: choose another name"
    for name, value in COMPARISONS.items():
        assert getattr(np, name) is value, f"np.{name} was replaced: the checks need NumPy's own"


def _library_calls(answer: Any, given: dict, seen: set) -> Iterator[str]:
    """The library's names that `answer` uses, itself or through functions and classes of the notebook."""
    if id(answer) in seen:
        return
    seen.add(id(answer))
    if _of_library(answer):
        yield f"{answer.__module__}.{answer.__name__}"
    elif inspect.isclass(answer):
        for base in [*answer.__bases__, *filter(inspect.isfunction, vars(answer).values())]:
            yield from _library_calls(base, given, seen)
    elif inspect.isfunction(function := inspect.unwrap(answer) if callable(answer) else answer):
        for name in _names_in(function.__code__):
            value = function.__globals__.get(name)
            if name.split(".")[0] in LIBRARIES or _of_library(value, ModuleType):
                yield name if value is None else value.__name__
            elif name.startswith("_") or given.get(name) is not value:
                yield from _library_calls(value, given, seen)


def _of_library(value: object, kinds: Any = FunctionType | MethodType | type) -> bool:
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(value, kinds) and str(home).split(".")[0] in LIBRARIES


def _names_in(code: CodeType) -> Iterator[str]:
    """The global names and the modules that `code` asks for, also in the functions defined within it."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
