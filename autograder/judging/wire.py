"""How the judge and a submission's process talk: frames of JSON that can only hold data.

A frame is its length in eight bytes, then JSON in UTF-8. JSON has no tuples, sets, arrays, or keys that are not texts,
so these are objects with one key: {"t": [...]} is a tuple. Nothing in a frame names code, and reading one builds only
Python's and NumPy's own plain objects, whatever the other side has written. There is no pickle.

The file stands alone: the process in the sandbox has it without the rest of the package.
"""

import base64
import json
import math
import re
from collections.abc import Callable
from typing import Any

DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|U\d{1,5})")  # numbers, truth values and texts; no objects
DEEPEST = 60  # how many containers may lie within one another
LENGTH = 8  # bytes of a frame's length


class WireError(Exception):
    """What cannot cross, or a frame that is damaged."""


def dump(value: Any, refer: Callable[[Any], Any] | None = None) -> bytes:
    """The JSON of a value.

    Args:
        value: Numbers, texts, None, lists, tuples, sets, dictionaries, and NumPy's arrays and numbers.
        refer: Called with anything else; returns an encoded stand-in for it.

    Returns:
        UTF-8.

    Raises:
        WireError: Something in the value is not data, and there is no `refer`; or it is nested too deeply.
    """
    return json.dumps(encode(value, refer), allow_nan=False).encode()


def load(data: bytes, resolve: Callable[[int, str], Any] | None = None) -> Any:
    """The value of a JSON text of `dump`.

    Args:
        data: What `dump` returned, or anything else.
        resolve: Called with the number and the type's name of a stand-in; returns what it stands for.

    Returns:
        Plain objects.

    Raises:
        WireError: The text is none of `dump`.
    """
    try:
        return decode(json.loads(data), resolve)
    except Exception as error:  # whatever a stranger's bytes lead to
        raise WireError(f"a damaged message ({type(error).__name__})") from error


def encode(value: Any, refer: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """What JSON can hold of a value; see `dump`.

    Args:
        value: The value.
        refer: As in `dump`.
        depth: How many containers it lies in.

    Returns:
        Numbers, texts, lists, and objects with one key.

    Raises:
        WireError: The value is neither data nor something that `refer` takes, or is nested too deep.
    """
    if depth > DEEPEST:
        raise WireError(f"a value that is nested more than {DEEPEST} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, bytes | bytearray):
        return {"b": _text(bytes(value))}
    numeric = _numpy(value)
    if numeric is not None:
        return numeric
    if isinstance(value, str | int):
        return str(value) if isinstance(value, str) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"f": repr(float(value))}
    if isinstance(value, complex):
        return {"c": [encode(value.real), encode(value.imag)]}
    return _container(value, refer, depth + 1)


def _container(value: Any, refer: Callable[[Any], Any] | None, depth: int) -> Any:
    """Lists and their kin; or a stand-in."""
    if isinstance(value, dict):
        return {"d": [[encode(k, refer, depth), encode(v, refer, depth)] for k, v in value.items()]}
    for kind, key in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "z")):
        if isinstance(value, kind):
            return {key: [encode(each, refer, depth) for each in value]}
    if refer is None:
        raise WireError(f"a {type(value).__name__}, which is not plain data")
    return refer(value)


def _numpy(value: Any) -> Any:
    """An array or a number of NumPy, encoded; None for anything else."""
    import numpy as np

    if not isinstance(value, np.ndarray | np.generic):
        return None
    array = np.asarray(value)
    if not DTYPE.fullmatch(array.dtype.str):
        raise WireError(f"an array of the type {array.dtype}, which is neither numbers nor text")
    raw = _text(np.ascontiguousarray(array).tobytes())
    if isinstance(value, np.generic):
        return {"n": [array.dtype.str, raw]}
    return {"a": [array.dtype.str, list(array.shape), raw, bool(array.flags.writeable)]}


def decode(node: Any, resolve: Callable[[int, str], Any] | None = None) -> Any:
    """The inverse of `encode`.

    Args:
        node: What JSON held.
        resolve: As in `load`.

    Returns:
        The value.

    Raises:
        ValueError: It is not something that `encode` makes.
    """
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a bare list")
        return node
    ((key, held),) = node.items()
    if key in ("l", "t", "s", "z"):
        kind = {"l": list, "t": tuple, "s": set, "z": frozenset}[key]
        return kind([decode(each, resolve) for each in held])
    if key == "d":
        return {decode(k, resolve): decode(v, resolve) for k, v in held}
    if key == "f":
        return float({"nan": "nan", "inf": "inf", "-inf": "-inf"}[held])
    if key == "c":
        return complex(decode(held[0]), decode(held[1]))
    if key == "b":
        return base64.b64decode(held, validate=True)
    if key == "r" and resolve is not None:
        number, kind_name = held
        return resolve(int(number), str(kind_name))
    return _array(key, held)


def _array(key: str, held: Any) -> Any:
    """An array ("a") or a number ("n") of NumPy."""
    import numpy as np

    dtype, raw = held[0], base64.b64decode(held[2 if key == "a" else 1], validate=True)
    if key not in ("a", "n") or not DTYPE.fullmatch(dtype):
        raise ValueError(f"the kind {key!r}")
    shape = held[1] if key == "a" else []
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape that is none")
    kind = np.dtype(dtype)
    if math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError("an array of another size than its data")
    array = np.frombuffer(bytearray(raw), dtype=kind).reshape(shape)
    if key == "n":
        return array[()]
    array.flags.writeable = bool(held[3])
    return array


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
