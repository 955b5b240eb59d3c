"""Running chapters headless: `course run`.

Each chapter is executed in a process of its own (`worker`), in a hidden folder beside its result, and the folder is
renamed when everything in it is whole. A failed or stopped run leaves the last good result where it was.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

import course_lib
from course_lib.errors import CourseError
from course_lib.execution.environment import git_commit, hardware, kernel_environment, versions
from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.profile import profile_path
from course_lib.files import write_json


@dataclass
class Result:
    """What became of one chapter. status: "executed", "unchanged" or "failed"."""

    chapter: str
    status: str
    seconds: float = 0.0
    memory: int = 0
    message: str = ""
    recorded: dict = field(default_factory=dict)
    cells: list[dict] = field(default_factory=list)
    """{"cell": number from 1, "line": its first, "seconds": ...} of each code cell that ended"""


class Runner:
    """Executes chapters into `out`, at most `jobs` at a time. `say` prints a line of progress."""

    def __init__(
        self,
        out: Path,
        profile: str,
        *,
        seed: int = 0,
        timeout: float | None = None,
        jobs: int = 1,
        force: bool = False,
        say: Callable[[str], None] = print,
    ):
        self.out, self.profile, self.seed = out.resolve(), profile, seed
        self.timeout, self.jobs, self.force, self.say = timeout, jobs, force, say
        self.profile_file = profile_path(profile)
        self.workers: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def run(self, chapters: list[Chapter]) -> list[Result]:
        """Execute each chapter that changed since its last result; an interrupt stops all and leaves nothing behind.

        CourseError, before anything is executed, where a chapter cannot be given its parameters.
        """
        chapters = self._checked(chapters)
        self._clear_what_a_killed_run_left()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                pending = [pool.submit(self._run_one, chapter) for chapter in chapters]
                return [future.result() for future in pending]
            except BaseException:
                with _deaf_to_signals():  # a second Ctrl-C must not stop the cleaning up
                    self.stopping.set()
                    for worker in list(self.workers):
                        _kill_with_descendants(worker)
                    pool.shutdown(cancel_futures=True)
                raise

    def _checked(self, chapters: list[Chapter]) -> list[Chapter]:
        """Each chapter once, and ready to be executed into a folder that can be written."""
        chosen: dict[str, Chapter] = {}
        for chapter in chapters:
            if (same := chosen.setdefault(chapter.id, chapter)) != chapter:
                raise CourseError(f"{chapter.path} and {same.path} would both be written to {chapter.id}: rename one.")
            if missing := self._parameters(chapter).keys() - chapter.parameters():
                names = ", ".join(sorted(missing))
                raise CourseError(f"The `parameters` cell of {chapter.path.name} does not set: {names}.")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"Cannot write to --out {self.out}: {error.strerror}.") from error
        return list(chosen.values())

    def _run_one(self, chapter: Chapter) -> Result:
        if self.stopping.is_set():
            return Result(chapter.id, "failed")
        wanted = content_hash(chapter, self.profile_file, self._parameters(chapter))
        if not self.force and (before := self._unchanged(chapter, wanted)):
            self.say(f"{chapter.id}  unchanged, skipped")
            return before
        partial = self.out / f".partial-{os.getpid()}-{chapter.id}"
        home = Path(tempfile.mkdtemp(prefix="course-run-"))
        try:
            partial.mkdir()
            result = self._execute(chapter, partial, home)
            if result.status == "executed":
                self._publish(chapter, partial, result, wanted)
            return result
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)

    def _unchanged(self, chapter: Chapter, wanted: str) -> Result | None:
        """The last result, if it is whole and of the same content."""
        folder = self.out / chapter.id
        before = _read_json(folder / "metrics.json") or {}
        if before.get("content_hash") != wanted or not (folder / "notebook.ipynb").is_file():
            return None
        time_, memory = before["duration_s"], before["peak_memory_bytes"]
        return Result(chapter.id, "unchanged", time_, memory, recorded=before["recorded"])

    def _parameters(self, chapter: Chapter) -> dict:
        """What is injected after the notebook's `parameters` cell. Relative: no path of this machine on a page."""
        profile = self.profile_file.name if self.profile.endswith(".toml") else self.profile
        return {"profile": profile, "seed": self.seed, "output_dir": "outputs"}

    def _execute(self, chapter: Chapter, partial: Path, home: Path) -> Result:
        """The chapter in a worker of its own, followed to its end or to the end of its time."""
        if self.profile.endswith(".toml"):
            shutil.copy(self.profile_file, partial)
        output, timed_out = partial / "notebook.ipynb", threading.Event()
        worker = self._start(chapter, output, home)
        if self.stopping.is_set():  # since before the worker was among those to be killed
            _kill_with_descendants(worker)

        def stop() -> None:
            timed_out.set()
            _kill_with_descendants(worker)

        timer = threading.Timer(self.timeout or 0, stop)
        try:
            if self.timeout:
                timer.start()
            result, last = self._listen(chapter, worker)
        finally:
            timer.cancel()
            _kill_with_descendants(worker)
            self.workers.discard(worker)
        if result.status == "failed" and not self.stopping.is_set():
            if timed_out.is_set():
                result.message = f"the chapter took longer than --timeout {self.timeout:g} s"
            error = result.message or _why(worker.returncode, home / "stderr")
            result.message = self._failure(chapter, last, error, output)
        return result

    def _start(self, chapter: Chapter, output: Path, home: Path) -> subprocess.Popen:
        task = {
            "notebook": str(chapter.path),
            "output": str(output),
            "parameters": self._parameters(chapter),
            "parent": os.getpid(),
            "scratch": [str(output.parent), str(home)],
        }
        with (home / "stderr").open("w") as stderr:
            worker = subprocess.Popen(
                [sys.executable, "-m", "course_lib.execution.notebooks.worker", json.dumps(task)],
                cwd=output.parent,
                env=kernel_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the worker and its kernel in order
            )
        self.workers.add(worker)
        return worker

    def _listen(self, chapter: Chapter, worker: subprocess.Popen) -> tuple[Result, dict]:
        """Follow the worker's events to its end, one line of progress a cell. Returns also the last cell begun."""
        started, result, last = time.perf_counter(), Result(chapter.id, "failed"), {}
        for line in worker.stdout or ():
            event = json.loads(line)
            if event["event"] == "cell":
                last = event
                where = f"[{event['cell']:>2}/{event['cells']}]"
                self.say(f"{chapter.id} {where} {time.perf_counter() - started:6.1f} s  {event['line'][:70]}")
            elif event["event"] == "cell done":
                result.memory = max(result.memory, event["memory"])
                seconds = round(event["seconds"], 3)
                result.cells.append({"cell": last["cell"], "line": last["line"], "seconds": seconds})
            elif event["event"] == "done":
                result.status = "executed"
            elif event["event"] == "failed":
                result.message = event["error"]
        worker.wait()
        result.seconds = time.perf_counter() - started
        return result, last

    def _failure(self, chapter: Chapter, cell: dict, error: str, output: Path) -> str:
        """The message of a failed chapter; the partial notebook is kept where the message says."""
        message = f"{chapter.id} failed"
        if cell:
            message += f" in cell {cell['cell']} of {cell['cells']}, `{cell['line'][:100]}`"
        message += f": {error}"
        if output.is_file():
            kept = self.out / ".failed" / f"{chapter.id}.ipynb"
            kept.parent.mkdir(exist_ok=True)
            os.replace(output, kept)
            message += f"\n  the partial notebook is {kept}"
        return message

    def _publish(self, chapter: Chapter, partial: Path, result: Result, wanted: str) -> None:
        """Complete the folder of a finished chapter and put it in the place of the old one."""
        notebook = json.loads((partial / "notebook.ipynb").read_text(encoding="utf-8"))
        for key in ("input_path", "output_path"):  # folders of this machine
            notebook["metadata"].get("papermill", {}).pop(key, None)
        write_json(partial / "notebook.ipynb", notebook)
        result.recorded = _read_json(partial / "outputs" / "record.json") or {}
        write_json(partial / "metrics.json", self._metrics(chapter, result, wanted))
        final, old = self.out / chapter.id, self.out / f".old-{os.getpid()}-{chapter.id}"
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)
        (self.out / ".failed" / f"{chapter.id}.ipynb").unlink(missing_ok=True)

    def _metrics(self, chapter: Chapter, result: Result, wanted: str) -> dict:
        """What metrics.json says. The peak memory is the kernel's own process's; cells count from 1, text cells too."""
        return {
            "chapter": chapter.id,
            "profile": self.profile_file.stem,
            "seed": self.seed,
            "recorded": result.recorded,
            "duration_s": round(result.seconds, 1),
            "peak_memory_bytes": result.memory,
            "cells": result.cells,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(chapter.path.parent),
            "versions": versions(),
            "hardware": hardware(),
            "content_hash": wanted,
        }

    def _clear_what_a_killed_run_left(self) -> None:
        """Remove hidden folders whose run is gone; put back an old result whose replacement never came."""
        for folder in self.out.iterdir():
            named = re.fullmatch(r"\.(partial|old)-(\d+)-(.+)", folder.name)
            if not named or _is_alive(int(named[2])):
                continue
            if named[1] == "old" and not (self.out / named[3]).exists():
                os.replace(folder, self.out / named[3])
            else:
                shutil.rmtree(folder, ignore_errors=True)


def content_hash(chapter: Chapter, profile_file: Path, parameters: dict) -> str:
    """SHA-256 of all that decides a chapter's outputs: its cells, course_lib, the profile, parameters and versions."""
    digest = hashlib.sha256()
    cells = [[c["cell_type"], "".join(c["source"]), c["metadata"]] for c in chapter.read()["cells"]]
    digest.update(json.dumps([cells, parameters, versions()], sort_keys=True).encode())
    digest.update(profile_file.read_bytes())
    package = Path(course_lib.__file__).parent
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
            digest.update(str(name).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def summary(results: list[Result]) -> str:
    """A table, a row a chapter: status, time, peak memory of the kernel, and the first numbers it recorded."""
    rows = [("chapter", "status", "time", "memory", "recorded")]
    for r in results:
        numbers = [f"{k}={v:.4g}" for k, v in r.recorded.items() if isinstance(v, int | float)]
        time_, memory = f"{r.seconds:.0f} s", f"{r.memory / 1e9:.2f} GB"
        rows.append((r.chapter, r.status, time_, memory, " ".join(numbers[-3:])))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """No Ctrl-C and no SIGTERM meanwhile (only the main thread, which alone hears them, can say so)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why(status: int, stderr: Path) -> str:
    """Why a worker ended without saying so itself."""
    if status < 0:
        return f"the process that ran the notebook was killed by {signal.Signals(-status).name}"
    said = stderr.read_text(errors="replace").strip().splitlines()
    return f"the process that ran the notebook ended with {status}: {said[-1] if said else 'no message'}"


def _kill_with_descendants(worker: subprocess.Popen) -> None:
    """Kill the worker, its kernel and what that started; returns when the worker is gone."""
    try:
        family = psutil.Process(worker.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if worker.poll() is None:
        worker.send_signal(signal.SIGKILL)
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    worker.wait()


def _is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and pid != os.getpid()


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
