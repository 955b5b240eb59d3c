"""The sandbox: what a program in it sees, each limit, and that nothing is left. All programs are small and bounded."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder.sandbox import bubblewrap
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.process import Sandbox, python, run
from autograder.sandbox.usage import alive, tree, usage
from course_lib.errors import CourseError

SLEEPER = "import time; time.sleep(60)"


def limited(**changed):
    return Limits(**{"wall": 30.0, "cpu": 20.0, "memory": 300 * MIB, "tasks": 12, "scratch": 4 * MIB} | changed)


def out(code, seen=None, **changed):
    """What a program printed, which ran to its end."""
    result = run(python("-c", code), limited(**changed), seen)
    assert (result.status, result.stopped) == (0, ""), result
    return result.stdout.decode().strip()


def stopped(code, **changed):
    return run(python("-c", code), limited(**changed)).stopped


def test_it_sees_neither_the_course_nor_the_home_nor_other_processes(tmp_path):
    (tmp_path / "gradebook.db").write_text("secret")
    places = [str(tmp_path), str(Path(__file__)), "/etc/passwd", "/home"]
    seen = out(f"import os; print([os.path.exists(p) for p in {places!r}])")
    assert seen == "[False, False, False, False]"
    assert out("import os; print(sorted(p for p in os.listdir('/proc') if p.isdigit()))") == "['1', '2']"
    assert out("import os; print(os.path.expanduser('~'), os.listdir('/tmp'), os.getcwd())") == "/tmp [] /tmp"


def test_the_course_is_hidden_where_it_is_installed_beside_what_is_shown(monkeypatch):
    monkeypatch.setattr(bubblewrap, "_course", lambda: [Path(os.__file__).resolve().parent / "json"])
    assert out("import os, sys; print(os.listdir(os.path.dirname(os.__file__) + '/json'))") == "[]"


def test_it_has_no_network():
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError as e: print(e.errno)"
    assert out(code) == "101"  # ENETUNREACH, at once
    assert out("import os; print(os.listdir('/sys') if os.path.exists('/sys') else 'none')") == "none"


def test_it_knows_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setenv("A_TOKEN", "secret")
    assert out("import os; print([n for n in os.environ if 'NBGRADER' in n or 'TOKEN' in n])") == "[]"
    every = "import glob; print([p for p in glob.glob('/proc/[0-9]*/environ') if b'TOKEN' in open(p, 'rb').read()])"
    assert out(every) == "[]"


def test_it_has_no_packages_but_pythons_own():
    find = "import glob, sys; print(glob.glob(f'{sys.base_prefix}/lib/python3*/site-packages/*'))"
    assert out(find) == "[]"
    assert out("import glob; print(glob.glob('/usr/lib/python3/dist-packages/*'))") == "[]"


@pytest.mark.parametrize("place", ["/x", "/dev/x", "/usr/x", "/judge/x", "/proc/x"])
def test_it_writes_nowhere_but_in_its_scratch_folder(place, tmp_path):
    code = f"try: open({place!r}, 'w'); print('written')\nexcept OSError: print('refused')"
    assert out(code, {tmp_path: "/judge"}) == "refused"
    assert list(tmp_path.iterdir()) == []


def test_files_and_the_scratch_folder_have_a_size():
    write = "open(f'/tmp/{i}', 'wb').write(b'x' * 2**20)"
    code = f"try:\n for i in range(9): {write}\nexcept OSError as e: print(i, e.errno)"
    assert out(code) == "4 28"  # ENOSPC after four
    one = "try: open('/tmp/x', 'wb').write(b'x' * 2**21)\nexcept OSError as e: print(e.errno)"
    assert out(one, file_size=MIB) == "27"  # EFBIG
    shm = "try: open('/dev/shm/x', 'wb').write(b'x' * 2**23)\nexcept OSError as e: print(e.errno)"
    assert out(shm) == "28"


def test_files_that_are_open():
    code = "f = []\ntry:\n for i in range(99): f.append(open('/dev/null'))\nexcept OSError as e: print(e.errno)"
    assert out(code, open_files=32) == "24"  # EMFILE


def test_wall_time():
    started = time.monotonic()
    assert stopped(SLEEPER, wall=1.0) == "it took over 1 seconds"
    assert time.monotonic() - started < 15


def test_cpu_time_of_the_whole_tree():
    """Two processes, of which neither alone reaches the limit soon; both are endless for ten seconds at most."""
    code = (
        "import os, time\nos.fork()\nend = time.process_time() + 10\nwhile time.process_time() < end: pass\nos.wait()"
    )
    assert stopped(code, cpu=1.0, wall=60.0) == "it used over 1 seconds of CPU time"


def test_an_ignored_interrupt_is_no_help():
    code = "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (2, 15, 1)]\ntime.sleep(60)"
    assert stopped(code, wall=1.0) == "it took over 1 seconds"


def test_memory_of_the_whole_tree():
    """Three processes of 60 MiB each, below the limit of one process."""
    code = "import os, time\nfor _ in range(2): os.fork()\nx = b'x' * (60 * 2**20)\ntime.sleep(20)"
    assert stopped(code, memory=150 * MIB) == "it took over 150 MiB of memory"


def test_memory_of_one_process():
    code = "try: x = bytearray(2**30)\nexcept MemoryError: print('refused')"
    assert out(code, address_space=512 * MIB) == "refused"


def test_processes():
    """At most thirty children, which sleep."""
    code = f"import os\nfor _ in range(30):\n if os.fork() == 0: {SLEEPER}; os._exit(0)\n{SLEEPER}"
    assert stopped(code) == "it started more than 12 processes and threads"


def test_threads_count_too():
    code = "import threading, time\nfor _ in range(30): threading.Thread(target=time.sleep, args=(60,)).start()"
    assert stopped(code) == "it started more than 12 processes and threads"


def test_output():
    result = run(python("-c", "for _ in range(100): print('x' * 10_000)"), limited(output=100_000))
    assert result.stopped == "it printed over 100000 bytes"
    assert len(result.stdout) == 100_000


def test_nothing_is_left_of_it():
    """A child, a grandchild that left the session, and a daemon that nobody waits for."""
    code = (
        "import os, time, sys\n"
        "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)\n"
        "if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with Sandbox(python("-c", code), limited()) as running:
        assert running.stdout.readline() == b"ready\n"
        # the daemon may start after the line: two of bwrap, this program, and what it has started
        wait_for(lambda: len(tree(running.process.pid)) == 6)
        below = tree(running.process.pid)
        assert usage(running.process.pid).tasks == len(below) - 1
    wait_for(lambda: not any(alive(pid) for pid in below))


def test_nothing_is_left_where_the_grader_itself_is_killed(tmp_path):
    """By SIGKILL, so that it cannot clean up."""
    grader = (
        "from autograder.sandbox.process import *; from autograder.sandbox.limits import Limits\n"
        f"s = Sandbox(python('-c', {SLEEPER!r}), Limits()); print(s.process.pid, flush=True); s.process.wait()"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-c", grader], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    top = int(process.stdout.readline())
    wait_for(lambda: len(tree(top)) >= 3)
    below = tree(top)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: not any(alive(pid) for pid in below))


def test_without_bubblewrap_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match=r"bubblewrap.*not installed.*apt-get install bubblewrap.*--no-sandbox"):
        run(python("-c", ""), limited())


def test_an_old_bubblewrap_is_refused(monkeypatch):
    monkeypatch.setattr(bubblewrap, "_version", lambda bwrap: "0.6.1")
    with pytest.raises(CourseError, match=r"its version 0\.6\.1 is older than 0\.8"):
        bubblewrap.require()


def test_without_the_sandbox_time_is_limited_all_the_same():
    assert run(python("-c", SLEEPER), limited(wall=1.0), sandbox=False).stopped == "it took over 1 seconds"


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
