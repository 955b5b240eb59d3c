"""What the assignments' checks have in common: comparisons that say what was wrong, with the value, and what to do.

The first cell of each assignment imports what it needs. A complaint is an AssertionError.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

NOTHING = "nothing: end it with `return` (print only shows a value)"


class Points:
    """The points of a part, property by property.

    A test cell begins with `_points = Points(shape=1, values=2)`, has its checks in blocks `with _points("shape"):`,
    and ends with `_points.earned()`. A check that fails costs the points of its property, and the cell goes on.
    nbgrader takes the number at the end as the score; the judge reads the blocks themselves, see `judging.checks`.

    Attributes:
        worth: The points of each property.
        lost: What the first check that failed complained about, by property.
    """

    def __init__(self, **worth: float) -> None:
        """Nothing is lost yet.

        Args:
            worth: The points of each property, by its name.
        """
        self.worth, self.lost = worth, dict[str, Exception]()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A block of checks of one property.

        Args:
            name: The property, one of `worth`.
        """
        points = self.worth[name]
        try:
            yield
        except Exception as error:
            if name not in self.lost:
                print(f"{name.replace('_', ' ')} ({points:g} of {sum(self.worth.values()):g} points): {error}")
            self.lost.setdefault(name, error)

    def earned(self) -> float:
        """The points of the properties whose checks all passed.

        Raises:
            Exception: There are none: what the first check complained about.
        """
        if self.lost.keys() == self.worth.keys():
            raise next(iter(self.lost.values()))
        return sum(points for name, points in self.worth.items() if name not in self.lost)


def result_of(function: Callable, *arguments: Any, **named: Any) -> Any:
    """What a student's function returns for these arguments.

    Complains where it returns nothing, and where it changes the lists, dictionaries and arrays that it was given.

    Args:
        function: The student's.
        arguments: What it is called with, by place.
        named: What it is called with, by name.

    Returns:
        What it returned.
    """
    before = copy.deepcopy((arguments, named))
    result = function(*arguments, **named)
    given = _by_name(function, arguments, named)
    for name, old in _by_name(function, *before).items():
        assert _unchanged(old, given[name]), (
            f"{_title(function)} changed {name}, which it was given: work on a copy of it "
            f"(sorted(x) instead of x.sort(), x = x + y instead of x += y)"
        )
    assert result is not None, f"{_title(function)} returned {NOTHING}"
    return result


def returned(count: int, result: Any) -> tuple:
    """Complain where an answer is not a tuple of the right length.

    Args:
        count: How many things the tuple must hold.
        result: What the student's function returned.

    Returns:
        The result.

    Raises:
        AssertionError: It is something else, or a tuple of another length.
    """
    if isinstance(result, tuple) and len(result) == count:
        return result
    what = f"{len(result)} things" if isinstance(result, tuple) else f"a {type(result).__name__}"
    what = NOTHING if result is None else what
    raise AssertionError(f"your function returned {what}, expected a tuple of {count} things")


def check_close(name: str, got: Any, expected: Any, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    """Complain with shapes and numbers when `got` is not `expected`.

    Args:
        name: What it is, for the complaint.
        got: The student's number, array or tensor.
        expected: The right one.
        rtol: Relative tolerance, as in np.allclose.
        atol: Absolute tolerance.

    Raises:
        AssertionError: They differ; the message says where and by how much.
    """
    got, expected = _array(name, got, expected), np.asarray(expected)
    assert got.shape == expected.shape, f"{name} has shape {got.shape}, expected {expected.shape}"
    if expected.ndim and expected.dtype.kind == "f":
        assert got.dtype.kind == "f", f"{name} has the type {got.dtype}, expected floating-point numbers"
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(got))
    assert not len(wrong), f"{name} is not a finite number{_at(wrong[0])}: {got[tuple(wrong[0])]}"
    if np.allclose(got, expected, rtol=rtol, atol=atol):
        return
    off = np.abs(got - expected)
    place = np.unravel_index(off.argmax(), off.shape)
    mine, right = apart(got[place], expected[place])
    worst = f"off by up to {off.max():.3g}: {mine} instead of {right}{_at(place)}" if got.size > 1 else ""
    raise AssertionError(f"{name} is {worst or f'{mine}, expected {right}'}")


def check_shape(name: str, got: Any, shape: tuple[int, ...]) -> None:
    """Complain unless `got` is an array of this shape.

    Args:
        name: What it is, for the complaint.
        got: The student's array.
        shape: The right shape.
    """
    assert got is not None, f"{name}: your function returned {NOTHING}"
    assert hasattr(got, "__array__"), f"{name} is of type {type(got).__name__}, expected an array"
    assert np.shape(got) == shape, f"{name} has shape {np.shape(got)}, expected {shape}"


def check_each(names: Iterable[str], got: Any, expected: Iterable, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    """`check_close` for several arrays, which come as a tuple.

    Args:
        names: What they are, in order.
        got: The student's tuple.
        expected: The right arrays.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """
    names = list(names)
    what = NOTHING if got is None else f"a {type(got).__name__}"
    what = f"{len(got)} things" if isinstance(got, tuple) else what
    several = isinstance(got, tuple) and len(got) == len(names)
    assert several, f"got {what}, expected a tuple of {len(names)} arrays: {', '.join(names)}"
    for name, one, right in zip(names, got, expected, strict=True):
        check_close(name, one, right, rtol, atol)


def check_same(name: str, got: Any, expected: Any) -> None:
    """Complain when `got` is not `expected`, or not of its type; of long ones, with the first difference.

    Args:
        name: What it is, for the complaint.
        got: The student's value.
        expected: The right one: a text, a number, or lists, tuples and dictionaries of them.

    Raises:
        AssertionError: They differ; the message says where.
    """
    assert got is not None or expected is None, f"{name}: your function returned {NOTHING}"
    kind, wanted = type(got).__name__, type(expected).__name__
    assert expected is not None or got is None, f"{name} is {_short(got)}, expected None"
    assert isinstance(got, type(expected)), f"{name} is of type {kind}, expected {wanted}"
    if got != expected:
        raise AssertionError(f"{name} {difference(got, expected)}")


def check_array(name: str, got: Any, expected: Any, kind: str = "i") -> None:
    """Complain when `got` is not the array `expected`, entry by entry.

    Args:
        name: What it is, for the complaint.
        got: The student's array.
        expected: The right one, or lists of its numbers.
        kind: "i" for integers, "b" for bool.

    Raises:
        AssertionError: They differ; the message says where.
    """
    expected, wanted = np.asarray(expected), {"i": "integers", "b": "bool"}[kind]
    assert got is not None, f"{name}: your function returned {NOTHING}"
    assert isinstance(got, np.ndarray), f"{name} is of type {type(got).__name__}, expected an array"
    assert got.dtype.kind == kind, f"{name} has the type {got.dtype}, expected {wanted}"
    assert got.shape == expected.shape, f"{name} has shape {got.shape}, expected {expected.shape}"
    wrong = np.argwhere(got != expected)
    if len(wrong):
        place = tuple(wrong[0])
        rows = f"\n{got.astype(int)}\nexpected\n{expected.astype(int)}" if got.size <= 64 else ""
        raise AssertionError(f"{name} is {got[place]} instead of {expected[place]}{_at(place)}{rows}")


def check_refused(name: str, call: Callable[[], Any], *mentioned: str) -> str:
    """Complain unless call() raises a ValueError whose message has each of `mentioned` in it.

    Args:
        name: What is to be refused, for the complaint.
        call: Calls the student's function.
        mentioned: What the message must say, such as the value that is wrong.

    Returns:
        The message.

    Raises:
        AssertionError: It raised something else or nothing, or the message does not say what it must.
    """
    try:
        result = call()
    except ValueError as error:
        message = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise AssertionError(f"{name} must raise a ValueError, and your code raised {said}") from error
    else:
        gave = "" if result is None else f": the result was {_short(result)}"
        raise AssertionError(f"{name} must raise a ValueError, and nothing was raised{gave}")
    for what in mentioned:
        assert what in message, f"{name}: the message {message!r} of your ValueError does not say {what!r}"
    return message


def difference(got: Any, expected: Any) -> str:
    """Where two unequal values differ first, in words; both of them where they are short.

    Args:
        got: The student's value.
        expected: The right one, which is not equal to it.

    Returns:
        The end of a sentence that begins with what the value is.
    """
    both = f"is {got!r}, expected {expected!r}"
    if len(both) <= 160:
        return both
    if isinstance(got, dict) and isinstance(expected, dict):
        lacking, more = [key for key in expected if key not in got], [key for key in got if key not in expected]
        if lacking or more:
            return f"has the keys {sorted(map(str, got))}, expected {sorted(map(str, expected))}"
        key = next(key for key in expected if got[key] != expected[key])
        return f"differs at {key!r}, which {difference(got[key], expected[key])}"
    if isinstance(got, list | tuple | str) and isinstance(expected, list | tuple | str):
        return _first_difference(got, expected)
    return f"is {_short(got)}, expected {_short(expected)}"


def apart(got: float, expected: float) -> tuple[str, str]:
    """Two numbers as text, with as many digits as it takes to tell them apart, and at least four.

    Args:
        got: The student's number.
        expected: The right one.

    Returns:
        Both, in this order.
    """
    for digits in range(4, 18):
        mine, right = f"{got:.{digits}g}", f"{expected:.{digits}g}"
        if mine != right:
            return mine, right
    return f"{got:.17g}", f"{expected:.17g}"  # equal: 17 digits tell any two floats apart


def _first_difference(got: Any, expected: Any) -> str:
    """Of two sequences, or two texts."""
    shared = min(len(got), len(expected))
    place = next((i for i in range(shared) if got[i] != expected[i]), shared)
    what = "characters" if isinstance(expected, str) else "entries"
    length = "" if len(got) == len(expected) else f"has {len(got)} {what}, expected {len(expected)}; it "
    if isinstance(expected, str):
        around = slice(max(0, place - 20), place + 20)
        return f"{length}differs from character {place} on: …{got[around]!r}…, expected …{expected[around]!r}…"
    if place == shared:
        more = f"has {_short(got[place])} too much" if len(got) > shared else f"lacks {_short(expected[place])}"
        return f"{length}{more} at the end"
    return f"{length}differs from [{place}] on, which {difference(got[place], expected[place])}"


def _array(name: str, got: Any, expected: Any) -> np.ndarray:
    """`got` as an array; lists and other things are refused where an array is expected."""
    assert got is not None, f"{name} is None: does your function `return` it? (print only shows a value)"
    kind = type(got).__name__
    if np.ndim(expected):
        assert hasattr(got, "__array__"), f"{name} is of type {kind}, expected an array"
    else:
        number = np.ndim(got) == 0 and not isinstance(got, bool | str | bytes | dict | set)
        assert number or hasattr(got, "__array__"), f"{name} is of type {kind}, expected a number"
    array = np.asarray(got)
    assert array.dtype.kind in "biuf", f"{name} is of type {kind}, expected numbers"
    return array


def _at(place: Iterable[int]) -> str:
    """Where in an array, as one would index it; nothing for a number."""
    place = [int(i) for i in place]
    return f" at {place}" if place else ""


def _short(value: Any) -> str:
    """What a value is, on one line of a moderate length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 160 else f"{text[:120]} … ({len(text)} characters)"


def _title(function: Callable) -> str:
    return getattr(function, "__name__", "your function")


def _by_name(function: Callable, arguments: tuple, named: dict) -> dict[str, Any]:
    """The arguments by the names that the function's author gave them."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {number}" for number in range(len(names) + 1, len(arguments) + 1)]
    return dict(zip(names, arguments, strict=False)) | named


def _unchanged(old: Any, new: Any) -> bool:
    """Whether a list, dictionary or array is as it was; of anything else it is not known."""
    if isinstance(old, np.ndarray):
        has_nan = old.dtype.kind in "fc"  # NaN is not equal to itself
        return isinstance(new, np.ndarray) and np.array_equal(old, new, equal_nan=has_nan)
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_unchanged(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_unchanged, old, new))
    return not isinstance(old, str | int | float | bytes | None) or old == new
