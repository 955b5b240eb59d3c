"""Many submissions, one after the other, in forks of a process that has done the imports: none finds another's traces.

What a submission sees is told by the error that its answer's cell raises. All of it is small and bounded.
"""

import os
import signal
import time

import pytest
from attacks.mini import POINTS, TOTAL, submission

from autograder.judging import stage
from autograder.judging.judge import Judge
from autograder.judging.warm import Warm
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.usage import alive, tree

LIMITS = Limits(wall=120, cpu=60, memory=256 * MIB, tasks=24, scratch=4 * MIB)
SETTLING = 30.0  # seconds after which a process that still lives has not been killed

SHARED_MEMORY = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
number = libc.shmget(0x5EED, 4096, {flags})
found = number, ctypes.get_errno()
"""
LEAVE_FILES = "for place in ('/tmp/mine', '/dev/shm/mine'): open(place, 'w').write('solution')\nfound = 'left'"
FIND_FILES = "import os; found = os.listdir('/tmp'), os.listdir('/dev/shm')"
PROCESSES = "import os; found = os.getpid(), os.getppid(), [p for p in os.listdir('/proc') if p.isdigit()]"
LEAVE_A_PROCESS = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
found = 'left'
"""
KILL_ALL = """
import os, signal
for pid in (-1, 0, 1, os.getppid()):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
CAPABILITIES = """
import ctypes
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
status = ctypes.CDLL(None).capget(header, data)
found = status, list(data)
"""
UNMOUNT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = [libc.umount2(place, 2) for place in (b'/tmp', b'/proc', b'/')]
"""


@pytest.fixture
def warm():
    with Warm() as processes:
        yield processes


def judged(warm, answers):
    with Judge(submission(answers), limits=LIMITS, warm=warm) as judge:
        return judge.verdicts()


def seen(warm, code):
    """What some code in an answer's cell found."""
    verdict = judged(warm, {"double": f"{code}\nraise LookupError(repr(found))"})[0]
    text = verdict.message.split("LookupError: ")[1].rpartition(", in line")[0]
    return eval(text, {})


def points(verdicts):
    return sum(verdict.points for verdict in verdicts)


def keepers(warm):
    """The ids of the processes that are forked."""
    return [tree(keeper.sandbox.process.pid)[2] for keeper in warm.keepers.values()]


def below(warm):
    """The ids of what they have forked, and of all that this has started."""
    return [pid for keeper in keepers(warm) for pid in tree(keeper)[1:]]


def test_the_imports_are_done_once(warm):
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    assert before
    assert points(judged(warm, {})) == TOTAL
    assert keepers(warm) == before


def test_the_files_of_an_earlier_submission_are_gone(warm):
    assert seen(warm, LEAVE_FILES) == "left"
    assert seen(warm, FIND_FILES) == ([], [])


def test_the_shared_memory_of_an_earlier_submission_is_gone(warm):
    create, no_such_thing = 0o1666, 2
    assert seen(warm, SHARED_MEMORY.format(flags=create))[0] >= 0
    assert seen(warm, SHARED_MEMORY.format(flags=0o666)) == (-1, no_such_thing)


def test_a_submission_sees_no_process_but_its_own(warm):
    _, parent, others = seen(warm, PROCESSES)
    assert parent == 1
    assert set(others) <= {"1", *map(str, range(2, 12))}
    assert str(os.getpid()) not in others


def test_it_can_read_about_the_machine_and_writes_nowhere_new(warm):
    """PyTorch asks /proc/cpuinfo which kernels to use: another answer there changes results in 16 bits."""
    assert seen(warm, "found = open('/proc/cpuinfo').read(9)") == "processor"
    for place in ("/x", "/dev/x", "/proc/x", "/judge/x"):
        assert seen(warm, f"import os\nfound = os.access({os.path.dirname(place)!r}, os.W_OK)") is False


def test_what_an_earlier_submission_has_started_is_gone(warm):
    assert seen(warm, LEAVE_A_PROCESS) == "left"
    end = time.monotonic() + SETTLING
    while any(map(alive, below(warm))) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, below(warm)))
    assert seen(warm, PROCESSES)[0] < 4


def test_it_has_no_rights_over_its_namespaces(warm):
    assert seen(warm, CAPABILITIES) == (0, [0] * 6)
    assert seen(warm, UNMOUNT) == [-1, -1, -1]


def test_a_submission_that_kills_all_it_can_leaves_the_next_one_its_process(warm):
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    assert points(judged(warm, {"double": KILL_ALL})) == TOTAL - POINTS["double"]
    assert points(judged(warm, {})) == TOTAL
    assert keepers(warm) == before


def test_a_process_that_has_died_is_replaced(warm):
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert points(judged(warm, {})) == TOTAL
    assert not set(keepers(warm)) & set(before)


def test_nothing_is_left_of_it(warm):
    judged(warm, {})
    processes = [pid for keeper in warm.keepers.values() for pid in tree(keeper.sandbox.process.pid)]
    assert len(processes) > len(warm.keepers)
    warm.close()
    assert not any(map(alive, processes))
    assert not os.path.exists(warm.folder.name)


def test_where_the_system_allows_no_further_namespaces_each_submission_has_its_own_sandbox(warm, tmp_path, monkeypatch):
    real = (stage.PACKAGE / "judging" / "apart.py").read_text()
    (tmp_path / "judging").mkdir()
    for name in ("checks.py", "given.py", "judging/wire.py", "judging/worker.py"):
        (tmp_path / name).write_text((stage.PACKAGE / name).read_text())
    refused = real.replace("libc.unshare(USER | PROCESSES | MOUNTS | IPC)", "libc.unshare(-1)")
    assert refused != real
    (tmp_path / "judging" / "apart.py").write_text(refused)
    monkeypatch.setattr(stage, "PACKAGE", tmp_path)
    assert points(judged(warm, {})) == TOTAL
    assert warm.possible is False
    assert seen(warm, PROCESSES)[0] > 1
    assert points(judged(warm, {"double": KILL_ALL})) == TOTAL - POINTS["double"]


def test_this_system_allows_them(warm):
    """What the other tests are about; where it does not hold, they try the plain sandbox."""
    judged(warm, {})
    assert warm.possible
