"""Assignments whose tests run in the student's process, in the sandbox: what they reach, and what floods come to.

What is tried here is harmless by construction: the floods are small, the child only sleeps, and the limits are low.
"""

import shutil
import time
from pathlib import Path

import nbformat
import pytest
from traitlets.config import Config

from autograder import course
from autograder.grading.run import classic
from autograder.grading.run.classic import SandboxedExecute
from autograder.grading.run.evaluate import NOT_GIVEN
from autograder.notebook import ENDED, NOT_REACHED, TOO_LONG
from autograder.sandbox import kernel
from autograder.sandbox.process import python
from autograder.sandbox.usage import alive, tree
from course_lib.errors import CourseError

CHILD = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)"


class Ran:
    """A notebook that was run in the sandbox."""

    def __init__(self, folder, *sources, **limits):
        (folder / "files").mkdir()
        (folder / "files/rows.csv").write_text("a,b\n1,2\n")
        (folder / "files/beside.py").write_text("answer = 42\n")
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        self.nb = nbformat.v4.new_notebook(cells=cells, metadata={"course": {"seconds_per_cell": 60}})
        self.processes, self.execute = set(), SandboxedExecute(timeout=60, **limits)
        self.execute.tell = self.heard
        self.execute.preprocess(self.nb, {"metadata": {"path": str(folder / "files")}})

    def heard(self, event, cell, text):
        """After each cell, see what runs."""
        if event == "end":
            self.processes |= set(tree(self.execute.kernel.process.sandbox.process.pid))

    def said(self, number):
        """What a cell printed, and its result."""
        outputs = self.nb.cells[number].outputs
        errors = [output.evalue for output in outputs if output.output_type == "error"]
        assert not errors, errors
        texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
        return "".join(texts).strip()

    def errors(self):
        """The names of the errors by cell."""
        return [[o.ename for o in cell.outputs if o.output_type == "error"] for cell in self.nb.cells]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_submission_reaches_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    for name in ("source/x.ipynb", "gradebook.db", "submitted/ann/x.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    hidden = [str(tmp_path), str(course.SOURCES), str(Path(__file__)), "/home", "/etc/passwd"]
    ran = Ran(
        tmp_path,
        f"import os\n[os.path.exists(path) for path in {hidden!r}]",
        "import autograder\n[sorted(os.listdir(folder)) for folder in autograder.__path__]",
        "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError as e: print(e.errno)",
        "for place in ('/x', '/usr/x', '/kernel/x', '/kernel/files/x', '/kernel/packages/0/x', '/dev/x'):\n"
        "    try: open(place, 'w'); print('written', place)\n    except OSError: pass",
        "try: open('large', 'wb').write(b'x' * 2**23)\nexcept OSError as e: print(e.errno)",
        "sorted(p for p in os.listdir('/proc') if p.isdigit()), 'A_SECRET' in os.environ",
        CHILD,
        "os.kill(os.getppid(), 0), len([p for p in os.listdir('/proc') if p.isdigit()])",
        scratch_mib=4,
    )
    assert ran.said(0) == "[False, False, False, False, False]"
    assert ran.said(1) == "[['__init__.py', 'checks.py', 'given.py', 'own.py']]"
    assert ran.said(2) == "101"  # ENETUNREACH
    assert ran.said(3) == ""
    assert ran.said(4) in ("27", "28")  # EFBIG, ENOSPC
    assert ran.said(5) == "(['1', '2'], False)"
    assert ran.said(7) == "(None, 3)"  # bwrap's first process, the kernel, and the child
    assert len(ran.processes) >= 4
    wait_for(lambda: not any(map(alive, ran.processes)))
    assert not Path(ran.execute.kernel.connection_file).parent.exists()


def test_what_an_honest_one_does_works(tmp_path):
    ran = Ran(
        tmp_path,
        "import beside, csv, os\nbeside.answer, os.listdir(), list(csv.reader(open('rows.csv')))",
        "open('rows.csv', 'a').write('3,4\\n'); open('mine.txt', 'w').write('x')",
        "import sys, warnings\nwarnings.warn('careful'); print('working', file=sys.stderr); print('ünï')",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()",
        "import numpy as np, course_lib.scratch, autograder.checks, autograder.given, autograder.own\nnp.arange(3)",
        "import subprocess\nout = '-c', 'import numpy; print(numpy.ones(2))'\n"
        "print(subprocess.run([sys.executable, *out], capture_output=True, text=True).stdout)",
        "help, quit, input\n'there'",
        "%%timeit -n 1 -r 1\nsum(range(3))",
        "import threading\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()",
        "1 / 0",
        "'after'",
        "import os\nfor stream in (sys.__stdout__, sys.__stderr__):\n"
        "    for _ in range(20): stream.write('x' * 10_000); stream.flush()",
    )
    assert ran.said(0).startswith("(42, ")
    assert ran.said(0).endswith("[['a', 'b'], ['1', '2']])")
    assert "rows.csv" in ran.said(0)
    assert ".ipython" not in ran.said(0)
    assert (tmp_path / "files/rows.csv").read_text() == "a,b\n1,2\n", "it had a copy"
    assert [word in ran.said(2) for word in ("careful", "working", "ünï")] == [True, True, True]
    assert any("image/png" in output.get("data", {}) for output in ran.nb.cells[3].outputs)
    assert not any(output.get("name") == "stderr" for output in ran.nb.cells[3].outputs)
    assert (ran.said(4), ran.said(5), ran.said(6)) == ("array([0, 1, 2])", "[1. 1.]", "'there'")
    assert "per loop" in ran.said(7)
    assert ran.said(8) == "thread"
    assert ran.errors()[9:] == [["ZeroDivisionError"], [], []]


REST = "; import time; time.sleep(50)"  # a flood that is not stopped is found out
PRINTS = "for _ in range(40): print('x' * 60_000, flush=True)"
FORKS = "import os, time\nfor _ in range(30):\n    if os.fork() == 0: time.sleep(50); os._exit(0)\ntime.sleep(50)"
FLOODS = {
    "much output at once": (f"print('x' * 3 * 2**19){REST}", {"output_mib": 1}, "it printed over 1 MiB"),
    "much output in pieces": (f"{PRINTS}\nimport time; time.sleep(50)", {"output_mib": 1}, "it printed over 1 MiB"),
    "memory": (f"x = bytearray(400 * 2**20){REST}", {"memory_mib": 256}, "it took over 256 MiB of memory"),
    "processes": (FORKS, {"tasks": 40}, "it started more than 40 processes and threads"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_kernel_and_keeps_what_was_before(tmp_path, kind):
    flood, limits, why = FLOODS[kind]
    ran = Ran(tmp_path, "print('earned')", flood, "print('behind')", **limits)
    assert ran.said(0) == "earned"
    assert ran.errors()[1:] == [[ENDED], [NOT_REACHED]]
    assert ran.execute.stopped == f"your own cell that begins {flood.splitlines()[0][:60]!r} ended its kernel: {why}"
    wait_for(lambda: not any(map(alive, ran.processes)))


def test_a_message_that_is_far_too_large_is_never_read(tmp_path):
    ran = Ran(tmp_path, "print('earned')", "print('x' * 4 * 2**20)", "print('behind')", output_mib=1)
    assert ran.said(0) == "earned"
    assert ran.errors()[1:] == [[TOO_LONG], [NOT_REACHED]]
    assert ran.execute.stopped.endswith("did not arrive: it may have printed too much at once")
    assert ran.execute.printed < 2**20


FLOODED = """
import os, socket, threading

def flood(line):
    line.setblocking(True)
    while True:  # the first byte says that more pieces of this message follow, the others how long this one is
        line.sendall(bytes([3]) + (2**20).to_bytes(8, "big") + bytes(2**20))

# the line for questions to the user: nothing of the kernel's own comes between the pieces
questions = get_ipython().kernel.stdin_socket.last_endpoint.decode().removeprefix("ipc://")
for name in os.listdir("/proc/self/fd"):
    try:
        line = socket.socket(fileno=os.dup(int(name)))
        if line.getsockname() == questions and not line.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            threading.Thread(target=flood, args=(line,), daemon=True).start()
    except OSError:
        pass
import time
time.sleep(50)
"""


def test_a_message_without_end_fills_no_memory_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "GROWTH", 64 * 2**20)
    ran = Ran(tmp_path, "print('earned')", FLOODED, "print('behind')", output_mib=1)
    assert ran.said(0) == "earned"
    assert ran.errors()[1:] == [[ENDED], [NOT_REACHED]]
    assert ran.execute.stopped.endswith("what it sent took over 64 MiB to read")


def test_a_line_that_is_cut_ends_the_run(tmp_path, monkeypatch):
    def cut(self, event, cell, text):
        if event == "end" and cell.source == "'earned'":
            line = self.execute.kc.shell_channel.socket  # our own end: what a kernel can do to it has the same effect
            line.disconnect(line.last_endpoint)

    monkeypatch.setattr(kernel, "SENDING", 0.5)
    monkeypatch.setattr(Ran, "heard", cut)
    ran = Ran(tmp_path, "'earned'", "'sent'", "'behind'")
    assert ran.said(0) == "'earned'"
    assert ran.errors()[1:] == [[ENDED], [NOT_REACHED]]
    assert ran.execute.stopped.endswith("it cut the line to the grader")


KERNEL = "kernel = get_ipython().kernel"
NO_TEXT = f"{KERNEL}\nkernel.session.send(kernel.iopub_socket, 'stream', {{'name': 'stdout'}}, kernel.get_parent())"
NO_REPLY = f"{KERNEL}\nasync def no_reply(*_, **__):\n    return {{'status': 'ok', 'payload': [3]}}\n"
UNREADABLE = {
    "an output without its text": NO_TEXT,
    "a reply of another form": f"{NO_REPLY}kernel.do_execute = no_reply",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_message_that_cannot_be_read_ends_the_run_and_keeps_what_was_before(tmp_path, kind):
    ran = Ran(tmp_path, "'earned'", UNREADABLE[kind], "'next'", "'behind'")
    assert ran.said(0) == "'earned'"
    assert ran.errors()[2:] in ([[ENDED], [NOT_REACHED]], [[NOT_REACHED], [NOT_REACHED]])
    assert ran.execute.stopped.endswith("ended its kernel: it sent the grader a message that cannot be read")
    wait_for(lambda: not any(map(alive, ran.processes)))


def test_frames_that_are_no_message_end_the_run(tmp_path, monkeypatch):
    def garble(self, event, cell, text):
        if event == "end" and cell.source == "'earned'":
            self.execute.kc.session.unpack = lambda data: []  # our own reading: what it makes of other frames

    monkeypatch.setattr(Ran, "heard", garble)
    ran = Ran(tmp_path, "'earned'", "'sent'", "'behind'")
    assert ran.said(0) == "'earned'"
    assert ran.errors()[1:] == [[ENDED], [NOT_REACHED]]
    assert ran.execute.stopped.endswith("a message that cannot be read")


@pytest.mark.parametrize("place", ["process_message", "on_cell_executed"])
def test_a_fault_of_ours_is_not_called_the_students(tmp_path, monkeypatch, place):
    def faulty(self, *arguments, **named):
        raise ImportError("ours")

    monkeypatch.setattr(SandboxedExecute, place, faulty)
    with pytest.raises(ImportError, match="ours"):
        Ran(tmp_path, "'sent'", "'behind'")


def test_no_thread_of_ours_waits_for_the_kernels_heart(tmp_path, monkeypatch):
    beating = []
    monkeypatch.setattr(Ran, "heard", lambda self, *_: beating.append(self.execute.kc.hb_channel.is_alive()))
    assert Ran(tmp_path, "'there'").said(0) == "'there'"
    assert set(beating) == {False}


WIDGET = """
from comm import create_comm
from IPython.display import display
state = {"_model_module": "@jupyter-widgets/output", "_model_name": "OutputModel", "outputs": []}
message = get_ipython().get_parent()["header"]["msg_id"]
comm = create_comm(target_name="jupyter.widget", data={"state": state})
comm.send({"state": {"msg_id": message}})
display("shown")
"""


def test_what_widgets_capture_is_not_sent_back(tmp_path):
    ran = Ran(tmp_path, WIDGET)
    assert ran.said(0) == "'shown'"
    assert not ran.execute.comm_objects
    assert "widgets" not in ran.nb.metadata


def test_cells_that_a_student_adds_do_not_add_time_without_end():
    cells = [nbformat.v4.new_code_cell("1") for _ in range(1000)]
    asked = nbformat.v4.new_code_cell("2", metadata={"nbgrader": {"grade_id": "a", "solution": True}})
    execute = SandboxedExecute(timeout=60)
    execute.files, execute.nb = Path("/nowhere"), nbformat.v4.new_notebook(cells=[asked, *cells])
    assert execute.limits().wall == classic.STARTING + 60 + classic.OWN * 60
    execute.nb.cells = execute.nb.cells[:3]
    assert execute.limits().wall == classic.STARTING + 3 * 60


def test_what_is_hidden_beside_a_source_is_not_given():
    beside = ["rows.csv", "helper.py", "images", ".env", ".git", ".ipynb_checkpoints", "__pycache__", "x.ipynb"]
    assert set(beside) - NOT_GIVEN("source/x", beside) == {"rows.csv", "helper.py", "images"}


def test_the_limits_can_be_set_in_nbgraders_configuration():
    chosen = SandboxedExecute(config=Config({"SandboxedExecute": {"memory_mib": 300, "tasks": 40}}))
    assert (chosen.memory_mib, chosen.tasks, chosen.output_mib) == (300, 40, 16)


def test_a_kernel_that_cannot_start_says_so_and_what_to_try(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "python", lambda *arguments: python("-c", "raise SystemExit('no namespaces')"))
    with pytest.raises(CourseError, match=r"did not start in the sandbox \(no namespaces\).*bwrap --unshare-all"):
        Ran(tmp_path, "1")


def test_without_bubblewrap_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match=r"bubblewrap.*not installed.*--no-sandbox"):
        Ran(tmp_path, "1")
