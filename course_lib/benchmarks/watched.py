"""Run a module, and end it when the process that started it is gone, however that one died.

    python -m course_lib.benchmarks.watched MODULE [WORDS ...]

A process that is killed cannot stop its children. It can only let go of what it holds: the system closes its end of
the pipe that is this process's standard input, and the read below returns. That works wherever there are pipes.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 30.0  # so long may the module take to end by itself


def main() -> None:
    """Watch, and run the module that the command line names as `python -m` would."""
    del sys.argv[0]
    threading.Thread(target=_end_when_the_pipe_closes, daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_when_the_pipe_closes() -> None:
    # Not sys.stdin: its lock, held by this thread, would crash the interpreter at its end.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # gently first: a server finishes what it has begun
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
