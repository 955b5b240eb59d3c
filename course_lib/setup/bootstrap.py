"""Set-up and the everyday targets, run as a file before anything is installed:

    python3 course_lib/setup/bootstrap.py help

`make TARGET` calls this file and does nothing else, so a machine without make loses nothing. Standard library
only. Old Pythons must be able to read it (3.6 syntax): it is here that they are told in one sentence that they
are too old, so annotations newer than 3.6 stand in quotes.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
if HERE not in sys.path:  # the other files of this folder are imported without their package, which needs more
    sys.path.insert(0, HERE)

import virtual_environment  # type: ignore[import-not-found]  # noqa: E402

SetupError = virtual_environment.SetupError


def work_environment(root: str, **more: str) -> dict:
    """Make the environment of what we start: .venv comes first on the PATH, Jupyter's files lie inside the clone.

    Args:
        root: the clone.
        more: variables to add, by name.

    Returns:
        All variables by name.
    """
    jupyter = os.path.join(root, "build", "jupyter")
    environment = virtual_environment.clean_environment()
    environment.update(
        VIRTUAL_ENV=os.path.join(root, ".venv"),
        PATH=os.path.join(root, ".venv", "bin") + os.pathsep + os.environ.get("PATH", os.defpath),
        JUPYTER_CONFIG_DIR=os.path.join(jupyter, "config"),
        JUPYTER_DATA_DIR=os.path.join(jupyter, "data"),
        JUPYTER_RUNTIME_DIR=os.path.join(jupyter, "runtime"),
        IPYTHONDIR=os.path.join(jupyter, "ipython"),
        MPLCONFIGDIR=os.path.join(jupyter, "matplotlib"),
    )
    environment.update(more)
    return environment


def call(command: list, root: str, environment: dict) -> None:
    """Run a step that others follow; pass SIGTERM on, and let the step itself answer Ctrl-C. Exit if it fails.

    Args:
        command: the words of the step.
        root: the clone, where it runs.
        environment: its environment.
    """
    process = subprocess.Popen(command, cwd=root, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            continue
    if status:
        sys.exit(status if status > 0 else 128 - status)


def become(command: list, root: str, environment: dict) -> None:
    """Run the last step in place of this process, so that signals and the exit status are its own.

    Args:
        command: the words of the step.
        root: the clone, where it runs.
        environment: its environment.
    """
    os.chdir(root)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def user_arguments() -> list:
    return shlex.split(os.environ.get("ARGS", ""))


def book(root: str) -> None:
    """set everything up, execute every chapter (profile cpu), build the book"""
    virtual_environment.setup(root)
    environment = work_environment(root, HF_HUB_OFFLINE="1")
    course = os.path.join(root, ".venv", "bin", "course")
    call([course, "run", "--profile", "cpu", *user_arguments()], root, environment)
    call([course, "book"], root, environment)
    page = os.path.join(root, "build", "book", "html", "index.html")
    print(f"\nThe book is at {os.path.relpath(page)}\nOpen it: file://{page}\n     or: make serve")


def worker_count() -> int:
    """One worker a core, at most 8, and 3 GB of memory for each: a worker may hold the real model and a copy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return max(1, min(cores, 8, int(memory_gb // 3)))


def run_tests(root: str) -> None:
    """set everything up and run all tests (ARGS="-k lora" for some of them)"""
    virtual_environment.setup(root)
    environment = work_environment(root, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    command = [virtual_environment.venv_python(root), "-m", "pytest", "-n", str(worker_count())]
    become(command + user_arguments(), root, environment)


def lab(root: str) -> None:
    """open JupyterLab at the notebooks, with the kernel and nbgrader ready"""
    virtual_environment.setup(root)
    grading = os.path.join(root, "autograder")  # where nbgrader_config.py is
    search = grading + os.pathsep + os.environ.get("JUPYTER_CONFIG_PATH", "")
    command = [virtual_environment.venv_python(root), "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.default_url=/lab/tree/notebooks"]
    if os.geteuid() == 0:  # in a container root is often the only user; the server still listens on localhost only
        command.append("--allow-root")
    environment = work_environment(root, JUPYTER_CONFIG_PATH=search.rstrip(os.pathsep))
    become(command + user_arguments(), root, environment)


def serve(root: str) -> None:
    """serve the built book on localhost"""
    virtual_environment.setup(root)
    course = os.path.join(root, ".venv", "bin", "course")
    become([course, "book", "--serve", *user_arguments()], root, work_environment(root, HF_HUB_OFFLINE="1"))


def clean(root: str) -> None:
    """remove build/ (the book, executed notebooks, logs); never notebooks, submissions or the gradebook"""
    shutil.rmtree(os.path.join(root, "build"), ignore_errors=True)


def distclean(root: str) -> None:
    """as clean, and remove .venv too"""
    clean(root)
    shutil.rmtree(os.path.join(root, ".venv"), ignore_errors=True)


def setup(root: str) -> None:
    """install everything into .venv from constraints.txt (TORCH=cpu|cuda, TORCH_INDEX=URL, EXTRAS=gemma)"""
    virtual_environment.setup(root)


def show_help(root: str) -> None:
    """this list"""
    for name, target in TARGETS.items():
        print(f"  {name:<10} {target.__doc__}")


TARGETS = {
    "help": show_help,
    "setup": setup,
    "book": book,
    "test": run_tests,
    "lab": lab,
    "serve": serve,
    "clean": clean,
    "distclean": distclean,
}


def main(arguments: list) -> int:
    """Do the named targets in turn; `NAME=value` sets a variable, as with make."""
    for word in (word for word in arguments if "=" in word):
        name, value = word.split("=", 1)
        os.environ[name] = value
    targets = [word for word in arguments if "=" not in word] or ["help"]
    try:
        unknown = [name for name in targets if name not in TARGETS]
        if unknown:
            raise SetupError(f"there is no target {unknown[0]!r}: choose from {', '.join(TARGETS)}.")
        other = virtual_environment.choose_python(tuple(sys.version_info)) if targets != ["help"] else None
        if other:
            os.execv(other, [other, os.path.abspath(__file__), *arguments])
        for name in targets:
            TARGETS[name](ROOT)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nset-up: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
