"""Running chapters headless: `course run`.

Each chapter is executed in a process of its own (`worker`), in a hidden folder beside its result, and the folder is
renamed when everything in it is whole. A failed or stopped run leaves the last good result where it was.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import course_lib
from course_lib.errors import CourseError
from course_lib.execution.environment import git_commit, hardware, kernel_environment, versions
from course_lib.execution.profile import profile_path
from course_lib.execution.project import Chapter


@dataclass
class Result:
    """What became of one chapter. status: "executed", "unchanged" or "failed"."""

    chapter: str
    status: str
    seconds: float = 0.0
    memory: int = 0
    message: str = ""
    recorded: dict = field(default_factory=dict)


class Runner:
    """Executes chapters into `out`, at most `jobs` at a time. `say` prints a line of progress."""

    def __init__(self, out: Path, profile: str, *, seed=0, timeout=None, jobs=1, force=False, say=print):
        self.out, self.profile, self.seed = out.resolve(), profile, seed
        self.timeout, self.jobs, self.force, self.say = timeout, jobs, force, say
        self.profile_file = profile_path(profile)
        self.workers: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def run(self, chapters: list[Chapter]) -> list[Result]:
        """Execute each chapter that changed since its last result; an interrupt stops all and leaves nothing behind."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._clear_what_a_killed_run_left()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                pending = [pool.submit(self._run_one, chapter) for chapter in chapters]
                return [future.result() for future in pending]
            except BaseException:
                self.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in list(self.workers):
                    _kill_with_descendants(worker)
                raise

    def _run_one(self, chapter: Chapter) -> Result:
        if self.stopping.is_set():
            return Result(chapter.id, "failed")
        wanted = content_hash(chapter, self.profile_file, self._parameters(chapter))
        metrics = self.out / chapter.id / "metrics.json"
        if not self.force and (before := _read_json(metrics)) and before.get("content_hash") == wanted:
            self.say(f"{chapter.id}  unchanged, skipped")
            time_, memory = before["duration_s"], before["peak_memory_bytes"]
            return Result(chapter.id, "unchanged", time_, memory, recorded=before["recorded"])
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-{chapter.id}-", dir=self.out))
        try:
            result = self._execute(chapter, partial)
            if result.status == "executed":
                self._publish(chapter, partial, result, wanted)
            return result
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _parameters(self, chapter: Chapter) -> dict:
        """What is injected after the notebook's `parameters` cell; refused where the notebook has none."""
        tagged = [c for c in chapter.read()["cells"] if "parameters" in c["metadata"].get("tags", [])]
        if len(tagged) != 1:
            raise CourseError(f"{chapter.path.name} has {len(tagged)} cells tagged `parameters`; a chapter has one.")
        return {"profile": str(self.profile), "seed": self.seed, "output_dir": "outputs"}

    def _execute(self, chapter: Chapter, partial: Path) -> Result:
        home = Path(tempfile.mkdtemp(prefix="course-run-"))
        parameters = self._parameters(chapter)
        if self.profile.endswith(".toml"):
            parameters["profile"] = str(self.profile_file.resolve())
        output = partial / "notebook.ipynb"
        task = {"notebook": str(chapter.path), "output": str(output), "parameters": parameters}
        worker = subprocess.Popen(
            [sys.executable, "-m", "course_lib.execution.worker", json.dumps(task)],
            cwd=partial,
            env=kernel_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(home / "stderr").open("w"),
            text=True,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop the worker and its kernel in order
        )
        self.workers.add(worker)
        timer = threading.Timer(self.timeout, _kill_with_descendants, [worker]) if self.timeout else None
        try:
            if timer:
                timer.start()
            return self._listen(chapter, worker, output, home / "stderr", timer)
        finally:
            if timer:
                timer.cancel()
            _kill_with_descendants(worker)
            self.workers.discard(worker)
            shutil.rmtree(home, ignore_errors=True)

    def _listen(self, chapter: Chapter, worker, output: Path, stderr: Path, timer) -> Result:
        """Follow the worker's events to its end, one line of progress a cell."""
        started, result, last = time.perf_counter(), Result(chapter.id, "failed"), {}
        for line in worker.stdout:
            event = json.loads(line)
            if event["event"] == "cell":
                last = event
                where = f"[{event['cell']:>2}/{event['cells']}]"
                self.say(f"{chapter.id} {where} {time.perf_counter() - started:6.1f} s  {event['line'][:70]}")
            elif event["event"] == "cell done":
                result.memory = max(result.memory, event["memory"])
            elif event["event"] == "done":
                result.status = "executed"
            elif event["event"] == "failed":
                result.message = event["error"]
        worker.wait()
        result.seconds = time.perf_counter() - started
        if result.status == "failed" and not self.stopping.is_set():
            if not result.message:
                result.message = self._why(worker, stderr, result.seconds)
            result.message = self._failure(chapter, last, result.message, output)
        return result

    def _why(self, worker, stderr: Path, seconds: float) -> str:
        if self.timeout and seconds >= self.timeout:
            return f"the chapter took longer than --timeout {self.timeout:g} s"
        said = stderr.read_text(errors="replace").strip().splitlines()
        return f"the process that ran the notebook ended with {worker.returncode}: {said[-1] if said else 'no message'}"

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
        notebook = _read_json(partial / "notebook.ipynb")
        for key in ("input_path", "output_path"):  # folders of this machine
            notebook["metadata"].get("papermill", {}).pop(key, None)
        _write_json(partial / "notebook.ipynb", notebook)
        result.recorded = _read_json(partial / "outputs" / "record.json") or {}
        _write_json(partial / "metrics.json", self._metrics(chapter, result, wanted))
        final, old = self.out / chapter.id, self.out / f".old-{os.getpid()}-{chapter.id}"
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)

    def _metrics(self, chapter: Chapter, result: Result, wanted: str) -> dict:
        return {
            "chapter": chapter.id,
            "profile": self.profile_file.stem,
            "seed": self.seed,
            "recorded": result.recorded,
            "duration_s": round(result.seconds, 1),
            "peak_memory_bytes": result.memory,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(chapter.path.parent),
            "versions": versions(),
            "hardware": hardware(),
            "content_hash": wanted,
        }

    def _clear_what_a_killed_run_left(self) -> None:
        """Remove hidden folders whose run is gone; put back an old result whose replacement never came."""
        for folder in [*self.out.glob(".partial-*"), *self.out.glob(".old-*")]:
            kind, pid, chapter = folder.name.split("-", 2)
            if _is_alive(int(pid)):
                continue
            if kind == ".old" and not (self.out / chapter).exists():
                os.replace(folder, self.out / chapter)
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
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
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


def _kill_with_descendants(worker: subprocess.Popen) -> None:
    """Kill the worker, its kernel and what that started; returns when the worker is gone."""
    import psutil

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
    import psutil

    return psutil.pid_exists(pid) and pid != os.getpid()


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: dict) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
