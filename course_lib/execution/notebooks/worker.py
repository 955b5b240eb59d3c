"""Executes one notebook with papermill, in a process of its own:

    python -m course_lib.execution.notebooks.worker JSON

It reports on standard output, one JSON object per line: {"event": "cell", ...} before each code cell, {"event": "cell
done", ...} after it, and {"event": "done", ...} or {"event": "failed", ...} at the end. `runner` starts it and listens.
"""

import ctypes
import json
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import papermill
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from course_lib.execution.notebooks.kernel import ThisInterpreter
from course_lib.files import write_json


class NothingRaised(Exception):
    """A cell is tagged `raises-exception` and raised nothing."""


class Client(PapermillNotebookClient):
    """Reports each cell as it starts; at its end also its time, and the memory that the kernel has used so far."""

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """nbclient's method, with an event before and after each code cell (the `parameters` cells are left out).

        Args:
            cell: the cell to run.
            cell_index: its place in the notebook with papermill's injected cell.
            options: nbclient's own.

        Returns:
            What nbclient returns: the executed cell.

        Raises:
            NothingRaised: the cell announces an error, and none came. nbclient's own errors pass through.
        """
        given = {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
        code = cell.cell_type == "code" and cell.source.strip() and not given
        where = {"cell": self.number(cell_index), "cells": self.number(len(self.nb.cells) - 1)}
        if code:
            tell("cell", **where, line=first_line(cell.source))
        started, cpu_before = time.perf_counter(), self.kernel_cpu_seconds()
        try:
            done = super().execute_cell(cell, cell_index, **options)
            if code and expects_error(cell) and not errors_of(cell):
                raise NothingRaised
            return done
        except (DeadKernelError, CellTimeoutError, NothingRaised):
            self.nb_man.cell_exception(cell, cell_index)  # papermill would write that the cell was completed
            self.shutdown_kernel = "immediate"  # a kernel that hangs would be asked, and waited for
            raise
        finally:
            if code:
                times = {
                    "seconds": time.perf_counter() - started,
                    "cpu_seconds": max(0.0, self.kernel_cpu_seconds() - cpu_before),  # 0 if the kernel is dead
                }
                tell("cell done", **where, **times, memory=self.kernel_memory())

    def number(self, index: int) -> int:
        """The cell's number, from 1, in the notebook as it is in the repository: without papermill's injected cell."""
        injected = sum("injected-parameters" in cell.metadata.get("tags", []) for cell in self.nb.cells[: index + 1])
        return index + 1 - injected

    def kernel_pid(self) -> int | None:
        """The kernel's process id; None before it runs."""
        return self.km.provisioner.pid if self.km and self.km.provisioner else None

    def kernel_cpu_seconds(self) -> float:
        """Processor time that the kernel and its finished children have used; 0 once the kernel is dead."""
        try:
            return sum(psutil.Process(self.kernel_pid()).cpu_times()[:4])
        except psutil.Error:
            return 0.0

    def kernel_memory(self) -> int:
        """The kernel's peak resident memory in bytes (Linux); elsewhere its resident memory now. 0 once it is dead."""
        pid = self.kernel_pid()
        try:
            status = Path(f"/proc/{pid}/status")
            if status.is_file():
                peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                return 1024 * int(peak.split()[1])
            return psutil.Process(pid).memory_info().rss
        except (psutil.Error, StopIteration, OSError):
            return 0


class Engine(NBClientEngine):
    """papermill's own engine with our client."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        start_timeout: int = 60,
        cell_timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Run all cells by `Client`, in this interpreter; papermill calls this.

        papermill takes every error in the notebook for a failure. So the errors that the notebook expects are kept in
        `expected_errors` until papermill has looked.

        Args:
            nb_man: papermill's manager of the notebook.
            kernel_name: the kernel that the notebook asks for.
            start_timeout: seconds that the kernel may take to start.
            cell_timeout: seconds that a cell may take; None: no limit.
            options: papermill's other options, which are not used.
        """
        client = Client(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=ThisInterpreter,
            startup_timeout=start_timeout,
            timeout_func=lambda cell: cell_timeout,  # `runner` watches the time of the chapter as a whole
            resources={"metadata": {"path": os.getcwd()}},
        )
        client.execute()
        for cell in nb_man.nb.cells:
            if expects_error(cell) and errors_of(cell):
                expected_errors[cell.id] = cell.outputs
                cell.outputs = [output for output in cell.outputs if output.output_type != "error"]


# The outputs of cells whose errors are expected, by the cell's id.
expected_errors: dict[str, list] = {}


def put_expected_errors_back(path: Path) -> None:
    """Give the executed notebook the outputs that papermill was not to see."""
    if expected_errors and path.is_file():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell.get("id") in expected_errors:
                cell["outputs"] = expected_errors[cell["id"]]
        write_json(path, notebook)


def expects_error(cell: Any) -> bool:
    """Whether a cell is tagged as one whose error the text wants to show."""
    return "raises-exception" in cell.metadata.get("tags", [])


def errors_of(cell: Any) -> list:
    """The outputs of a cell that are errors."""
    return [output for output in cell.get("outputs", []) if output.output_type == "error"]


def why_incomplete(notebook: Any) -> str:
    """What is wrong with a notebook that papermill takes for finished; empty where every cell ran to its end.

    For papermill, `sys.exit(0)` is a good end, whatever comes after it.
    """
    ours = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    code = [cell for cell in ours if cell.cell_type == "code" and cell.source.strip()]
    statuses = [cell.metadata.papermill["status"] for cell in code]
    if "failed" not in statuses:
        return ""
    return (
        "the cell ended the program (SystemExit), so nothing after it ran: "
        f"{statuses.count('pending')} of {len(code)} code cells are left. Take the exit out"
    )


def first_line(source: str) -> str:
    """The first line of a cell that is code and not a comment."""
    lines = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith(("#", "%"))]
    return (lines or source.splitlines() or [""])[0].strip()


def tell(event: str, **fields: Any) -> None:
    """Write one line of JSON to the listener.

    Args:
        event: its name, such as "cell".
        fields: what is known of it; the values have to fit into JSON.
    """
    print(json.dumps({"event": event, **fields}), file=listener, flush=True)


listener = sys.stdout


def keep_listener_to_ourselves() -> None:
    """Give file descriptor 1 to the kernel as a second standard error, and keep a private copy for the listener.

    The kernel inherits descriptor 1, and compiled code and child processes print to it. Our copy is not inherited, so
    the listener notices our end even while something that we started is still running.
    """
    global listener
    listener = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def adopt_orphans() -> None:
    """On Linux, let processes that outlive the kernel become our children, so that `kill_descendants` finds them."""
    if sys.platform == "linux":
        PR_SET_CHILD_SUBREAPER = 36
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Kill the kernel and everything that was started from it."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


def die_with(parent: int, scratch: list[str]) -> None:
    """When process `parent` is gone, even by SIGKILL: kill what we started, remove the `scratch` folders, and exit.

    Args:
        parent: the process id to watch.
        scratch: folders that nobody needs once the parent is gone.
    """

    def watch() -> None:
        """Look twice a second: a process whose parent is gone gets another parent."""
        while os.getppid() == parent:
            time.sleep(0.5)
        kill_descendants()
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(task: dict) -> int:
    """Execute task["notebook"] into task["output"] with task["parameters"]; return 0 if every cell ran.

    task["parent"] is the process to die with, and task["scratch"] the folders that nobody needs after it.
    """
    die_with(task["parent"], task["scratch"])
    keep_listener_to_ourselves()
    adopt_orphans()
    papermill_engines.register("course", Engine)
    try:
        return execute(task)
    finally:
        kill_descendants()


def execute(task: dict) -> int:
    """Run papermill, and tell the listener how it ended."""
    started = time.perf_counter()
    limit = task.get("cell_timeout")
    try:
        notebook = papermill.execute_notebook(
            task["notebook"],
            task["output"],
            parameters=task["parameters"],
            engine_name="course",
            kernel_name="python3",
            language="python",  # for a notebook whose metadata does not say
            progress_bar=False,
            log_output=False,
            cell_timeout=limit,
        )
    except PapermillExecutionError as error:
        tell("failed", line=first_line(error.source), error=f"{error.ename}: {error.evalue}")
        return 1
    except DeadKernelError:
        tell(
            "failed",
            error="the kernel died (killed, out of memory, a crash in compiled code, or `exit()` in an earlier cell)",
        )
        return 1
    except CellTimeoutError:
        tell("failed", error=f"the cell took longer than --cell-timeout {limit:g} s")
        return 1
    except NothingRaised:
        tell("failed", error="the cell is tagged `raises-exception`, and it raised nothing. Take the tag out")
        return 1
    finally:
        put_expected_errors_back(Path(task["output"]))
    if problem := why_incomplete(notebook):
        tell("failed", error=problem)
        return 1
    tell("done", seconds=time.perf_counter() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
