"""Runs the cells of a notebook so that one bad cell costs no more than it must: used by `check` and by nbgrader.

A cell that takes too long is interrupted. A cell that ends its kernel, or that cannot be interrupted, ends the run: the
cells before it keep their results, and the ones behind it say that they were not reached.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from autograder import notebook
from autograder.notebook import ENDED, IMPORTS, NOT_REACHED, TOO_LONG, Cell
from course_lib.execution.notebooks.kernel import ThisInterpreter

LONGEST = 10_000  # characters of a message: the kernel's reply is not among its outputs, which are counted
QUIET = 3.0  # seconds after which a user wants to hear that something is still happening


class CellRunner:
    """To be put before a `nbclient.NotebookClient` among a class's bases.

    `tell(event, cell, text)` is called with "start" before a code cell is run, "slow" when it takes longer than three
    seconds, "stopped" when it was the last that could be run, and "end" after each code cell, run or not.
    """

    tell: Callable[[str, Cell, str], object] = staticmethod(lambda event, cell, text: None)
    stopped = ""  # why the run ended early

    def create_kernel_manager(self) -> ThisInterpreter:
        """A kernel of our own Python: a `python3` on JUPYTER_PATH may be one that has not even NumPy."""
        self.km = ThisInterpreter(kernel_name="python3", config=self.config)  # type: ignore[attr-defined]
        return self.km

    def reset_execution_trackers(self) -> None:
        """Called by nbclient before each notebook."""
        self.stopped = ""
        super().reset_execution_trackers()  # type: ignore[misc]

    def on_cell_executed(self, cell: Cell, execute_reply: dict[str, Any], **_: Any) -> None:
        """Note a call of exit(), after which IPython goes on for a while; and keep the error of a cell that was
        interrupted and went on to its end as if nothing had happened.

        Args:
            cell: The cell that ended.
            execute_reply: The kernel's answer, as Jupyter's messaging protocol has it.
        """
        reply = execute_reply["content"]
        if any(payload.get("source") == "ask_exit" for payload in reply.get("payload", [])):
            self.stopped = f"{named(cell)} ended its kernel with exit()"
        if reply["status"] == "error" and reply["ename"] not in [o.get("ename") for o in cell.outputs]:
            notebook.add_error(cell, reply["ename"], reply["evalue"][:LONGEST])

    def limit_of(self, cell: Cell) -> float:
        """Seconds: the assignment's own limit for the tests and what the student wrote; what is given, such as the
        import of a large library, may take as long as any cell (`timeout`)."""
        most = self.timeout or math.inf  # type: ignore[attr-defined]
        if _is_given(cell):
            return most
        own = self.nb.metadata.get("course", {}).get("seconds_per_cell")  # type: ignore[attr-defined]
        return min(own or most, most)

    def _get_timeout(self, cell: Cell | None) -> float | None:
        """nbclient's way to ask for it."""
        limit = self.limit_of(cell) if cell is not None else self.timeout  # type: ignore[attr-defined]
        return None if limit == math.inf else limit

    async def async_execute_cell(self, cell: Cell, cell_index: int, **options: Any) -> Cell:
        """nbclient's, and what is to become of the rest of the notebook when the kernel is gone.

        Args:
            cell: The cell to run, of any type.
            cell_index: Its place in the notebook.
            options: nbclient's own.

        Returns:
            The cell, with its outputs or with an error that says why it was not run.
        """
        if cell.cell_type != "code":
            return cell
        if self.stopped:
            notebook.add_error(cell, NOT_REACHED, f"not run: {self.stopped}")
        elif cell.source.strip():
            await self._run(cell, cell_index, options)
            if self.stopped:
                self.tell("stopped", cell, self.stopped)
        self.tell("end", cell, "")
        return cell

    async def _run(self, cell: Cell, cell_index: int, options: dict[str, Any]) -> None:
        self.tell("start", cell, "")
        slow, started = asyncio.ensure_future(self._say_when_slow(cell)), time.monotonic()
        try:
            await super().async_execute_cell(cell, cell_index, **options)  # type: ignore[misc]
        except DeadKernelError:
            self._kernel_ended(cell)
        except CellTimeoutError:  # it was interrupted, and went on
            self.stopped = f"{named(cell)} took over {self.limit_of(cell):g} seconds and could not be interrupted"
            if time.monotonic() - started < self.limit_of(cell):
                self.stopped = f"the output of {named(cell)} did not arrive: it may have printed too much at once"
            notebook.add_error(cell, TOO_LONG, self.stopped)
            await self.km.shutdown_kernel(now=True)  # type: ignore[attr-defined]
        finally:
            slow.cancel()

    execute_cell = run_sync(async_execute_cell)  # what nbconvert calls

    def _kernel_ended(self, cell: Cell) -> None:
        """Nothing behind the cell can be run."""
        self.stopped = f"{named(cell)} ended its kernel"
        why = "a call of os._exit, too much memory, or a crash in compiled code"
        if limit := self.why_ended():
            self.stopped, why = f"{self.stopped}: {limit}", "a limit of the sandbox"
        notebook.add_error(cell, ENDED, f"{self.stopped} ({why})")

    def why_ended(self) -> str:
        """Which limit ended the kernel, in words; "" where none is known."""
        return ""

    async def _say_when_slow(self, cell: Cell) -> None:
        await asyncio.sleep(QUIET)
        self.tell("slow", cell, f"{named(cell)} is still running (it may take {self.limit_of(cell):g} s)")


def not_reached(cell: Cell) -> bool:
    """Whether the cell's checks never came to an end because the kernel was gone: neither passed nor failed."""
    return any(o.output_type == "error" and o.ename in (NOT_REACHED, ENDED) for o in cell.get("outputs", []))


def _is_given(cell: Cell) -> bool:
    """Whether it only prepares the ground: one of the template's own cells that imports something, and no test. The
    other given cells call what the student wrote."""
    asked = notebook.grade_id(cell) is None or notebook.is_solution(cell) or notebook.is_test(cell)
    return not asked and IMPORTS.search(cell.source) is not None


def named(cell: Cell) -> str:
    """A cell as a student knows it: by its grade id, or by its first line."""
    name = notebook.grade_id(cell)
    if name is not None:
        return f"the cell {name!r}"
    return f"your own cell that begins {cell.source.strip().splitlines()[0][:60]!r}"
