"""Runs a submission whose tests run in its own process ("classic", as nbgrader has them) in the sandbox.

It can reach nothing that it should not see and leaves nothing behind. It shares its process with the tests, and so with
the hidden ones: it can read them and forge their results, which no sandbox changes.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import zmq
from traitlets import Integer

from autograder import notebook
from autograder.grading.gradebook.converters import Execute
from autograder.notebook import Cell, Notebook
from autograder.sandbox.bubblewrap import FORBIDDEN
from autograder.sandbox.kernel import COURSE, INSIDE, SandboxedKernel
from autograder.sandbox.limits import MIB, Limits
from course_lib.errors import CourseError

PACKAGE = Path(__file__).resolve().parents[2]
OURS = ("checks.py", "given.py", "own.py")  # what an assignment's cells may import of this package
STARTING = 120  # seconds that the kernel may take to start, on a slow disk
LONG = 3600  # seconds for a cell that has no limit of its own
OWN = 10  # so many times what a cell may take may all cells without a grade id take: a student can add any number
# the messages that become outputs; widgets have no page here, and echoing their state back would fill our memory
HEARD = {
    "clear_output",
    "display_data",
    "error",
    "execute_input",
    "execute_result",
    "status",
    "stream",
    "update_display_data",
}
UNREADABLE = "it sent the grader a message that cannot be read"
# what jupyter_client, nbclient and nbformat raise where they take such a message apart: it is not JSON, has another
# form, lacks a field, or holds too large a number; anything else is a fault of ours, and is not called the student's
UNREADABLE_ERRORS = (
    zmq.ZMQError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)
NOT_STARTED = f"The kernel for a submission did not start in the sandbox ({{why}}), so nothing was graded. {FORBIDDEN}"


class SandboxedExecute(Execute):
    """Executes a submission in the sandbox; its limits can be set in `nbgrader_config.py`."""

    shutdown_kernel = "immediate"  # nothing of it is left, so there is nothing to ask it for
    memory_mib = Integer(2048, help="MiB of memory for a submission, with all that it starts.").tag(config=True)
    scratch_mib = Integer(256, help="MiB of files for a submission, beside what the assignment gives.").tag(config=True)
    output_mib = Integer(16, help="MiB of output of a submission, figures included.").tag(config=True)
    tasks = Integer(128, help="Processes and threads of a submission.").tag(config=True)

    def preprocess(self, nb: Notebook, resources: Any, km: Any = None) -> tuple[Any, Any]:
        """nbconvert's.

        Args:
            nb: The submission, with the source's tests; its outputs are replaced.
            resources: nbconvert's own; the working folder's files are copied into the sandbox.
            km: Not used: the kernel is always a new one.

        Returns:
            The notebook and the resources.

        Raises:
            CourseError: There is no bubblewrap, or the system forbids what it needs.
        """
        self.files, self.printed = Path(resources["metadata"]["path"]), 0
        with ExitStack() as self.stack:
            try:
                return super().preprocess(nb, resources)
            except RuntimeError as error:  # what nbclient raises where a kernel does not start
                why = self.kernel.stopped or self.kernel.complaint or str(error)
                raise CourseError(NOT_STARTED.format(why=why)) from error

    def create_kernel_manager(self) -> SandboxedKernel:
        """A kernel in the sandbox."""
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="course-classic-")))
        seen, packages = what_it_sees(folder)
        self.km = self.kernel = SandboxedKernel(
            self.limits(), seen, packages, kernel_name="python3", config=self.config
        )
        self.stack.callback(self.kernel.close)
        return self.kernel

    def limits(self) -> Limits:
        """What the submission may use: each cell as long as it may take, within what the student's own ones may take
        together (`OWN`), and the system's limits."""
        cells = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        tracked = [min(self.limit_of(cell), LONG) for cell in cells if notebook.grade_id(cell) is not None]
        own = [min(self.limit_of(cell), LONG) for cell in cells if notebook.grade_id(cell) is None]
        wall = STARTING + sum(tracked) + min(sum(own), OWN * max(own, default=0))
        given = sum(file.stat().st_size for file in self.files.rglob("*") if file.is_file())
        scratch = self.scratch_mib * MIB + given
        return Limits(
            wall=wall,
            cpu=wall,
            memory=self.memory_mib * MIB,
            tasks=self.tasks,
            address_space=16 * self.memory_mib * MIB,  # libraries reserve far more than they use
            file_size=scratch,
            scratch=scratch,
            open_files=1024,
            output=self.output_mib * MIB,
        )

    async def _run(self, cell: Cell, cell_index: int, options: dict[str, Any]) -> None:
        """`CellRunner`'s. A kernel may send what is not one of Jupyter's messages, or one that lacks something:
        that ends its run, which keeps the points that it has earned."""
        try:
            await super()._run(cell, cell_index, options)
        except UNREADABLE_ERRORS:
            self.kernel.stop(UNREADABLE)
            self._kernel_ended(cell)

    async def _async_poll_output_msg(self, *args: Any) -> None:
        """nbclient's, which would notice an output that cannot be read only when the cell has ended."""
        try:
            await super()._async_poll_output_msg(*args)
        except UNREADABLE_ERRORS:
            self.kernel.stop(UNREADABLE)
            assert self.task_poll_for_reply is not None
            self.task_poll_for_reply.cancel()  # as nbclient does where the kernel is dead; it then cancels us
            await asyncio.Event().wait()

    async def _async_poll_kernel_alive(self) -> None:
        """nbclient's, which it does not end where it cannot read a reply: later on there is no client any more."""
        with suppress(AssertionError):
            await super()._async_poll_kernel_alive()

    def process_message(self, msg: dict[str, Any], cell: Cell, cell_index: int) -> Any:
        """nbclient's: what the kernel prints is in our memory, so there is an end to it.

        Args:
            msg: Jupyter's message.
            cell: The cell that runs.
            cell_index: Its place in the notebook.

        Returns:
            What nbclient makes of the message; None where it is left out.
        """
        self.printed += len(json.dumps(msg["content"], default=str)) + sum(map(len, msg.get("buffers", [])))
        if self.printed > self.output_mib * MIB:
            self.kernel.stop(f"it printed over {self.output_mib} MiB")
            return None
        if msg["msg_type"] not in HEARD:
            return None
        return super().process_message(msg, cell, cell_index)

    def why_ended(self) -> str:
        """Which limit the submission exceeded."""
        return self.kernel.stopped


def what_it_sees(folder: Path) -> tuple[dict[Path, str], list[str]]:
    """What a classic submission sees besides Python itself: all installed packages, the course's library, and of this
    package what the cells of an assignment import. The sources of the assignments, with solutions and hidden tests, are
    not there.

    Args:
        folder: An empty folder, for as long as the submission runs.

    Returns:
        Files and folders by their places in the sandbox, for `Sandbox`; and those that hold installed packages.
    """
    import course_lib

    ours = folder / "course" / "autograder"
    ours.mkdir(parents=True)
    (ours / "__init__.py").touch()
    for name in OURS:
        shutil.copy(PACKAGE / name, ours)
    library = Path(course_lib.__file__).resolve().parent
    seen = {ours: f"{COURSE}/autograder", library: f"{COURSE}/course_lib"}
    if (fonts := Path("/etc/fonts")).is_dir():  # without them fontconfig complains on stderr
        seen[fonts] = str(fonts)
    packages = []
    installed = [Path(path) for path in dict.fromkeys(sys.path) if path.endswith(("site-packages", "dist-packages"))]
    for number, place in enumerate(place for place in installed if place.is_dir()):
        inside = f"{INSIDE}/packages/{number}"
        seen[place] = inside
        packages.append(inside)
        if (place / "autograder").is_dir():
            hidden = folder / f"hidden-{number}"
            hidden.mkdir()
            seen[hidden] = f"{inside}/autograder"
    return seen, packages
