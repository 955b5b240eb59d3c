"""The process in which a submission's code runs, and nothing of the course but what its answers may use:

    python -I -S -B -c "import sys; sys.path[:0] = [FOLDER]; import worker; worker.main(FOLDER, ALONE, IMPORTS)"

or, where the imports are done once for many submissions, `worker.keep(FOLDER, SCRATCH, IMPORTS)`, which forks it.

It reads requests from standard input and answers on standard output, in frames of `wire`. The request "part" brings
the cells up to an answer; a child of this process runs them, and calls what they define as it is told ("call", "get",
"set", "find", "describe", "iterate") until "end". The parent never runs a submission's code, so each part begins in a
clean process.

Nothing here is trusted: the judge believes only that what comes back is data. The file stands alone, see `wire`.

FOLDER holds this file, `wire.py`, `site` (the libraries that answers may use) and `given` (what the assignment gives).
ALONE is True where the process has a process tree of its own, in which whatever a part leaves behind may be killed.
IMPORTS are the import statements of the assignment's own cells, which this process runs before any part.
"""

import contextlib
import gc
import inspect
import itertools
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

import light  # type: ignore[import-not-found]  # beside this file
import wire  # type: ignore[import-not-found]

GIVEN = "given: "  # how the names of cells begin that nobody was asked to write
MOST_ITEMS = 100_000  # of a generator


class Channel:
    """Frames on two file descriptors that no code of a submission is given."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = os.dup(0), os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # what a submission prints is nobody's
            os.dup2(nowhere, standard)

    def receive(self) -> Any:
        """The next request; None where the judge has closed the pipe."""
        head = self._read(wire.LENGTH)
        return None if head is None else self._read(struct.unpack(">Q", head)[0])

    def send(self, data: bytes) -> None:
        """Write a frame."""
        left = memoryview(struct.pack(">Q", len(data)) + data)
        while left:
            left = left[os.write(self.outgoing, left) :]

    def _read(self, count: int) -> bytes | None:
        found = bytearray()
        while len(found) < count:
            piece = os.read(self.incoming, count - len(found))
            if not piece:
                return None
            found += piece
        return bytes(found)


class Part:
    """The submission's names after the cells of one part, and the objects that the judge has stand-ins for."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.names: dict[str, Any] = {"__name__": "__main__", "get_ipython": Magics}
        self.objects: list[Any] = []  # kept for as long as the part runs, so that their ids stay theirs
        self.numbers: dict[int, int] = {}  # their places by their ids

    def run(self, cells: list[tuple[str, str]]) -> None:
        """Run cells in order, whatever becomes of each; say which begins, and at the end which failed."""
        failed = {}
        for name, source in cells:
            self.channel.send(wire.dump({"cell": name}))
            try:
                exec(compile(source, f"<{name}>", "exec"), self.names)
            except BaseException as error:
                failed[name] = described(error)
        self.channel.send(wire.dump({"failed": failed}))

    def answer(self, request: dict) -> bytes:
        """Do what a request asks for, and say what came of it."""
        try:
            return getattr(self, f"do_{request['do']}")(request)
        except wire.WireError as error:
            return wire.dump({"error": {"kinds": ["TypeError"], "text": f"your code returned {error}", "where": ""}})
        except BaseException as error:
            return wire.dump({"error": described(error)})

    def do_call(self, request: dict) -> bytes:
        """Call something; also say what its arguments are afterwards where it changed them."""
        function = self._target(request)
        before = wire.encode([request["args"], request["named"]], self._refer)
        arguments = wire.decode(before, lambda number, kind: self.objects[number])
        result = function(*arguments[0], **arguments[1])
        after = wire.encode(arguments, self._refer)
        reply = {"value": result, "changed": arguments if after != before else None}
        return wire.dump(reply, self._refer)

    def do_get(self, request: dict) -> bytes:
        """Read an attribute."""
        return wire.dump({"value": getattr(self._target(request), request["name"])}, self._refer)

    def do_set(self, request: dict) -> bytes:
        """Set an attribute."""
        setattr(self._target(request), request["name"], request["value"])
        return wire.dump({"value": None})

    def do_find(self, request: dict) -> bytes:
        """What a name stands for."""
        return wire.dump({"value": self._target(request)}, self._refer)

    def do_iterate(self, request: dict) -> bytes:
        """All items of something that can be iterated over."""
        return wire.dump({"value": list(itertools.islice(self._target(request), MOST_ITEMS))}, self._refer)

    def do_describe(self, request: dict) -> bytes:
        """The names of a function's parameters."""
        return wire.dump({"value": [str(name) for name in inspect.signature(self._target(request)).parameters]})

    def _target(self, request: dict) -> Any:
        target = request["target"]
        if isinstance(target, str):
            if target not in self.names:
                raise NameError(f"name {target!r} is not defined")
            return self.names[target]
        return self.objects[target]

    def _refer(self, value: Any) -> Any:
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return {"r": [self.numbers[id(value)], type(value).__name__]}


class Magics:
    """What IPython's magic commands call: none of them does anything, but a timed cell is run."""

    @staticmethod
    def run_line_magic(*_arguments: Any, **_named: Any) -> None:
        """Called for `%name …`."""
        return

    system = getoutput = run_line_magic

    @staticmethod
    def run_cell_magic(name: str, _line: str, cell: str) -> None:
        """Called for `%%name …`.

        Args:
            name: The command's name.
            cell: The lines below it.
        """
        if name in ("time", "timeit", "capture"):
            exec(compile(cell, "<cell>", "exec"), sys._getframe(1).f_globals)


def described(error: BaseException) -> dict[str, Any]:
    """An exception in words: the names of its types, its message, and the place in the submission's own code."""
    try:
        text = str(error)[:10_000]
    except BaseException as worse:
        text = f"(its message cannot be read: {type(worse).__name__})"
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith("<") and not frame.filename.startswith(f"<{GIVEN}"):
            where = f"line {frame.lineno} of {frame.filename[1:-1]}"
    if isinstance(error, SyntaxError) and error.lineno:
        text, where = str(error.msg), f"line {error.lineno}"
    return {"kinds": [kind.__name__ for kind in type(error).__mro__][:20], "text": text, "where": where}


def serve(channel: Channel, request: dict) -> None:
    """A part, in a process of its own.

    Args:
        channel: The line to the judge.
        request: The judge's first message, with the cells to run.
    """
    part = Part(channel)
    part.run(request["cells"])
    while (data := channel.receive()) is not None:
        request = wire.load(data, lambda number, kind: part.objects[number])
        if request["do"] == "end":
            return
        channel.send(part.answer(request))


def prepare(folder: str, imports: str) -> None:
    """Do the imports.

    Args:
        folder: See above.
        imports: See above.
    """
    sys.path[:0] = [f"{folder}/given", f"{folder}/site"]
    light.run_imports(f"import numpy\n{imports}")
    gc.freeze()  # no collection in a part's process then goes through a large library's objects, and copies their pages


def serve_parts(channel: Channel, alone: bool) -> None:
    """Serve parts until the judge closes the pipe.

    Args:
        channel: To the judge.
        alone: See above.
    """
    channel.send(wire.dump({"ready": True}))
    while (data := channel.receive()) is not None:
        child = os.fork()
        if child == 0:
            try:
                serve(channel, wire.load(data))
            finally:
                os._exit(0)
        ended, status = os.wait()
        while ended != child:  # an orphan: the first process of namespaces inherits them
            ended, status = os.wait()
        if alone:  # whatever the part has started: everything in this process tree but its first process and this one
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
        channel.send(wire.dump({"ended": os.waitstatus_to_exitcode(status)}))


def main(folder: str, alone: bool, imports: str = "") -> None:
    """One submission's process.

    Args:
        folder: See above.
        alone: See above.
        imports: See above. Each part then has the modules at once.
    """
    channel = Channel()
    prepare(folder, imports)
    serve_parts(channel, alone)


def keep(folder: str, scratch: int, imports: str = "") -> None:
    """Do the imports once, and fork a process for each submission: standard input is a socket, over which come the
    two ends of the pipes to the judge. This process never runs a submission's code, and its forks cannot reach it.

    Args:
        folder: See above.
        scratch: Bytes that each folder for scratch files can hold.
        imports: See above.
    """
    import socket

    import apart  # type: ignore[import-not-found]  # beside this file

    control = socket.socket(fileno=os.dup(0))
    prepare(folder, imports)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    while ends := socket.recv_fds(control, 1, 2)[1]:
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for standard, end in enumerate(ends):
                    os.dup2(end, standard)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the socket too, which is not for a submission
                _become(Channel(), lambda: apart.shut_in(scratch))
            finally:
                os._exit(0)
        for end in ends:
            os.close(end)


def _become(channel: Channel, shut_in: Callable[[], None]) -> None:
    """Serve a submission's parts, in namespaces of its own; or say why there can be none."""
    try:
        shut_in()
    except OSError as error:
        channel.send(wire.dump({"refused": str(error)}))
        return
    serve_parts(channel, alone=True)
