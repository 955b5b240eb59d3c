"""Many submissions, one after the other, in forks of a process that has done the imports: none finds another's traces.

What a submission sees is told by the error that its answer's cell raises. All of it is small and bounded.
"""

import os
import platform
import signal
import threading
import time

import pytest
from attacks.mini import HONEST, POINTS, TOTAL, submission

from autograder.judging import session, stage
from autograder.judging.judge import Judge
from autograder.judging.warm import Warm
from autograder.sandbox import calls
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.usage import alive, tree

LIMITS = Limits(wall=120, cpu=60, memory=256 * MIB, tasks=24, scratch=4 * MIB)
SETTLING = 30.0  # seconds after which a process that still lives has not been killed

REFUSED_CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
new_user, new_mounts, attach = 0x10000000, 0x00020000, 16
found = []
for call, *arguments in (
    (libc.memfd_create, b"mine", 0),  # memory of a file that has no folder
    (libc.shmget, 0x5EED, 4096, 0o1666),  # memory that outlives its process
    (libc.msgget, 0x5EED, 0o1666),
    (libc.unshare, new_user | new_mounts),  # where it may mount a folder of any size
    (libc.ptrace, attach, 1, 0, 0),
    (libc.mount, b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(0), b""),
):
    ctypes.set_errno(0)
    call(*arguments)
    found.append(ctypes.get_errno())
"""
CLONES = """
import ctypes, platform
clone, clone3 = {'x86_64': 56, 'aarch64': 220}[platform.machine()], 435
libc = ctypes.CDLL(None, use_errno=True)
found = []
for number, flags in ((clone, 0x10000000 | 17), (clone3, 0)):
    status = libc.syscall(number, ctypes.c_long(flags), 0, 0, 0, 0)
    if status == 0:
        libc._exit(0)
    found.append((status, ctypes.get_errno()))
"""
FILES_OPEN = """
import os, stat
found = []
for number in range(256):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        continue
    found.append('pipe' if stat.S_ISFIFO(mode) else 'device' if stat.S_ISCHR(mode) else 'other')
"""
MODES = """
import os
found = []
for folder, names in (('/dev', ('null', 'zero', 'full', 'random', 'urandom', 'tty', 'pts', 'ptmx')),
                      ('/proc', os.listdir('/proc')), ('/', ('dev', 'proc', 'judge', 'usr'))):
    for name in names:
        path = os.path.join(folder, name)
        for change in (lambda: os.chmod(path, os.stat(path).st_mode & 0o7777), lambda: os.utime(path)):
            try:
                change()
                found.append(path)
            except OSError:
                pass
"""
USE_A_PORT = """
import socket
with socket.create_server(('127.0.0.1', 40123)) as server:
    with socket.create_connection(('127.0.0.1', 40123)):
        server.accept()[0].close()  # the side that closes first remembers it for a minute
with socket.socket(socket.AF_UNIX) as named:
    named.bind('\\0mine')
found = 'used'
"""
FIND_A_PORT = """
import socket
with socket.socket() as server:
    try:
        server.bind(('127.0.0.1', 40123))
        found = 'free'
    except OSError as error:
        found = str(error)
"""
SIGNALS = """
import os
found = []
for pid in range(3, 100):
    try:
        os.kill(pid, 0)
        found.append(pid)
    except OSError:
        pass
found = found, os.getpgid(0), os.getsid(0)
"""
MANY_BYTES = """
kept = []
for _ in range(40):
    kept.append(bytearray(b'x' * 16_000_000))
"""
TASKS = """
import threading, time
for _ in range(40):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
time.sleep(30)
"""
SLOW = "import time\nopen('/tmp/began', 'w').close()\ntime.sleep({seconds})\ndef double(x):\n    return 2 * x\n"
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


def test_without_the_sandbox_the_next_submission_has_a_process_of_its_own(warm):
    for _ in range(2):
        with Judge(submission({}), sandbox=False, limits=LIMITS, warm=warm) as judge:
            assert points(judge.verdicts()) == TOTAL
            running = [each.running.process for each in judge.sessions.values() if each.running is not None]
        assert running
        assert all(process.poll() is not None for process in running)
        assert not warm.plain


def test_the_imports_are_done_once(warm):
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    assert before
    assert points(judged(warm, {})) == TOTAL
    assert keepers(warm) == before


def test_the_files_of_an_earlier_submission_are_gone(warm):
    assert seen(warm, LEAVE_FILES) == "left"
    assert seen(warm, FIND_FILES) == ([], [])


def test_a_port_that_an_earlier_submission_has_used_is_free(warm):
    """A port is remembered for a minute, by which one submission could tell the next one something."""
    assert seen(warm, USE_A_PORT) == "used"
    assert seen(warm, FIND_A_PORT) == "free"


def test_it_has_two_pipes_and_no_other_line_to_anybody(warm):
    """The keeper's socket, above all, is not among what it has open."""
    opened = seen(warm, FILES_OPEN)
    assert opened.count("pipe") == 2
    assert set(opened) == {"pipe", "device"}


def test_it_signals_nobody_but_itself(warm):
    others, group, session = seen(warm, SIGNALS)
    assert others == []
    assert (group, session) == (1, 1)


def test_calls_that_no_answer_needs_are_refused(warm):
    not_permitted = 1
    assert seen(warm, REFUSED_CALLS) == [not_permitted] * 6


@pytest.mark.skipif(platform.machine() not in calls.CLONE, reason="the filter of calls has no numbers for this machine")
def test_it_makes_no_process_in_a_namespace_where_it_has_rights(warm):
    not_permitted, no_such_call = 1, 38
    assert seen(warm, CLONES) == [(-1, not_permitted), (-1, no_such_call)]


def test_it_changes_no_file_of_the_machine(warm):
    """Whoever grades as root owns /dev/null: a submission could take it away from everybody, or leave signs there."""
    assert seen(warm, MODES) == []


def test_what_honest_code_may_need_is_allowed(warm):
    assert seen(warm, "import os\na, b = os.openpty()\nos.write(b, b'x')\nfound = os.read(a, 1)") == b"x"
    assert seen(warm, "import subprocess, sys\nfound = subprocess.run(['/bin/true']).returncode") == 0
    assert seen(warm, "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()\nfound = 1") == 1
    assert seen(warm, "import multiprocessing as m\nfound = m.get_context('fork').Lock().acquire()") is True


@pytest.mark.parametrize("code", [MANY_BYTES, TASKS], ids=["memory", "tasks"])
def test_limits_are_a_submission_s_and_not_a_class_s(warm, code):
    """One that takes too much is ended alone: the next one has all of its own, in the same keeper."""
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    assert points(judged(warm, {"double": code})) == TOTAL - POINTS["double"]
    assert points(judged(warm, {})) == TOTAL
    assert keepers(warm) == before


def test_a_keeper_s_own_time_is_nobody_s(warm):
    """Each fork's CPU time begins at nothing."""
    spend = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    few = Limits(wall=120, cpu=1.5, memory=256 * MIB, tasks=24, scratch=4 * MIB)
    for _ in range(4):
        answers = {"counter": spend + HONEST["counter"]}
        with Judge(submission(answers, seconds=60), limits=few, warm=warm) as judge:
            assert points(judge.verdicts()) == TOTAL


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


@pytest.mark.slow
def test_one_that_does_not_answer_is_replaced(warm, monkeypatch):
    monkeypatch.setattr(session, "STARTING", 10.0)  # a new one has to import NumPy in this time
    assert points(judged(warm, {})) == TOTAL
    before = keepers(warm)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    assert points(judged(warm, {})) == TOTAL
    assert not set(keepers(warm)) & set(before)
    assert not any(map(alive, before))


def test_its_end_in_the_middle_of_a_submission_costs_nobody_a_point(warm):
    """No submission can reach it: whatever has ended it, the part begins once more."""
    ended = threading.Event()

    def end_it():
        while not ended.is_set():
            known = [keeper.pid for keeper in list(warm.keepers.values()) if keeper.pid is not None]
            if busy := [pid for pid in known if len(tree(pid)) > 3]:  # of the process for a part, which sleeps
                time.sleep(0.2)
                for pid in busy:
                    os.kill(pid, signal.SIGKILL)
                ended.set()
            time.sleep(0.01)

    killer = threading.Thread(target=end_it, daemon=True)
    killer.start()
    with Judge(submission({"double": SLOW.format(seconds=1)}), limits=LIMITS, warm=warm) as judge:
        assert points(judge.verdicts()) == TOTAL
        assert judge.flagged == []
    assert ended.is_set()


def test_the_watchdog_of_one_submission_does_not_end_the_next_one(warm):
    """A look that was under way when its own submission ended."""
    assert points(judged(warm, {})) == TOTAL
    first = next(iter(warm.keepers.values())).fork()
    first.close()
    first.started = float("-inf")  # it would be over its time, if it were still looked at
    first._watch()
    assert first.stopped == ""


def test_nothing_is_left_of_it(warm):
    judged(warm, {})
    processes = [pid for keeper in warm.keepers.values() for pid in tree(keeper.sandbox.process.pid)]
    assert len(processes) > len(warm.keepers)
    warm.close()
    assert not any(map(alive, processes))
    assert not os.path.exists(warm.folder.name)


def test_where_the_system_allows_no_further_namespaces_each_submission_has_its_own_sandbox(warm, tmp_path, monkeypatch):
    real = (stage.PACKAGE / "judging" / "apart.py").read_text()
    for folder in ("judging", "sandbox"):
        (tmp_path / folder).mkdir()
    for name in ("checks.py", "given.py", *(each for each in stage.ALONE if each != "judging/apart.py")):
        (tmp_path / name).write_text((stage.PACKAGE / name).read_text())
    refused = real.replace("libc.unshare(USER | PROCESSES | MOUNTS | IPC | NETWORK)", "libc.unshare(-1)")
    assert refused != real
    (tmp_path / "judging" / "apart.py").write_text(refused)
    monkeypatch.setattr(stage, "PACKAGE", tmp_path)
    assert points(judged(warm, {})) == TOTAL
    assert warm.possible is False
    assert seen(warm, PROCESSES)[0] > 1
    assert seen(warm, REFUSED_CALLS) == [1] * 6
    assert seen(warm, "import os\nfound = os.access(f'/proc/{os.getppid()}/mem', os.W_OK)") is False
    assert points(judged(warm, {"double": KILL_ALL})) == TOTAL - POINTS["double"]


def test_this_system_allows_them(warm):
    """What the other tests are about; where it does not hold, they try the plain sandbox."""
    judged(warm, {})
    assert warm.possible
