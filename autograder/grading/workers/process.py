"""The processes that work while a class is graded: started once, told what to do, listened to."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from course_lib.errors import CourseError

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerProcess:
    """A module of this package that takes tasks and tells events (see `gradebook.worker`); use it in a `with` block.

    Args:
        module: Its name.
        arguments: What it is given on its command line.
        folder: Its working folder.
        alone: One of several: its libraries get one thread each, so that jobs do not fight for the processors.
        held: File descriptors that it keeps open for as long as it lives.
    """

    what = "a worker's process"

    def __init__(self, module: str, *arguments: str, folder: Path, alone: bool = False, held: tuple[int, ...] = ()):
        # nbgrader calls the program alembic, which is installed beside our Python and not always on a user's PATH
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed at the end
        self.process = subprocess.Popen(
            # -P: the course's folder, where the worker runs, may be the autograder package itself with its notebook.py
            [sys.executable, "-P", "-m", module, *arguments],
            cwd=folder,
            env={
                **os.environ,
                **(ONE_THREAD if alone else {}),
                "PATH": path,
                "PYTHONPATH": os.pathsep.join(filter(None, _import_path())),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            encoding="utf-8",
            pass_fds=held,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it end; or end it, where something went wrong here."""
        if kind is not None:
            self.process.terminate()
        with self.process:
            pass
        self.log.close()

    def ask(self, **task: Any) -> Iterator[dict[str, Any]]:
        """Give it a task, and pass on what it tells until that is done. The tasks and events are in `gradebook.worker`.

        Raises:
            CourseError: It cannot do the task, in its words; or it ended, with the end of what nbgrader had logged.
        """
        try:
            print(json.dumps(task), file=self.process.stdin, flush=True)
            for line in self.process.stdout or ():
                event = json.loads(line)
                if event["event"] == "done":
                    return
                if event["event"] == "refused":
                    raise CourseError(event["error"])
                yield event
        except BrokenPipeError:
            pass
        self.process.wait()
        self.log.seek(0)
        raise CourseError(f"{self.what} ended with status {self.process.returncode}:\n{self.log.read()[-2000:]}")


def _import_path() -> list[str]:
    """PYTHONPATH for a process that starts in another folder: in a clone that is not installed, it needs the clone."""
    root = Path(__file__).parents[3]
    clone = [str(root)] if (root / "pyproject.toml").is_file() else []
    return [*clone, os.environ.get("PYTHONPATH", "")]
