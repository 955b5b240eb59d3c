"""Running chapters headless: `course run`.

Each chapter is executed in a process of its own (`worker`), in a hidden folder beside its result. When everything in
that folder is complete, it is renamed. So a run that failed or was stopped leaves the last good result where it was.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.environment import kernel_environment
from course_lib.execution.notebooks.folders import clear_what_killed_runs_left, hidden_folder, put_in_place
from course_lib.execution.notebooks.parameters import check_parameters
from course_lib.execution.notebooks.processes import kill_with_descendants, signals_ignored, why_it_ended
from course_lib.execution.notebooks.progress import Lines
from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.notebooks.results import Result, content_hash, metrics, read_json, unchanged_result
from course_lib.execution.notebooks.side_by_side import ChapterQueue, Cost, jobs_for, refuse_circles, threads_for
from course_lib.execution.profile import SUFFIXES, profile_path, read_profile
from course_lib.execution.profile_check import check_hardware, check_profile
from course_lib.files import write_json, write_whole


class Runner:
    """Executes chapters into a folder.

    Args:
        out: where the results go, one folder for each chapter.
        profile: the name of a profile, or the path of a TOML file.
        overrides: settings in place of the profile's, such as "03_lora.steps=50".
        seed: given to every chapter.
        parameters: more values for every chapter's `parameters` cell.
        timeout: seconds that a chapter may take; None: no limit.
        cell_timeout: seconds that one cell may take; None: no limit.
        jobs: chapters at a time; None: as many as there are cores and memory for.
        force: also execute what has not changed.
        progress: what is told of each chapter and cell (see `progress`).
    """

    def __init__(
        self,
        out: Path,
        profile: str,
        *,
        overrides: Sequence[str] = (),
        seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        cell_timeout: float | None = None,
        jobs: int | None = None,
        force: bool = False,
        progress: Lines | None = None,
    ):
        self.out, self.profile, self.seed = out.resolve(), profile, seed
        self.timeout, self.cell_timeout, self.given = timeout, cell_timeout, dict(parameters or {})
        self.jobs, self.force, self.progress = jobs, force, progress or Lines()
        self.profile_file = profile_path(profile)
        self.sizes = read_profile(self.profile_file, overrides)
        # A profile that is not one of ours as it stands travels with the notebook, whole and in one file.
        self.own_profile = f"{self.profile_file.stem}.json" if overrides or profile.endswith(SUFFIXES) else None
        self.workers: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def run(self, chapters: list[Chapter]) -> list[Result]:
        """Execute each chapter that has changed since its last result.

        Args:
            chapters: what to execute. A chapter that is named twice runs once.

        Returns:
            What came of each, in the order of `chapters`.

        Raises:
            CourseError: before anything is executed, where a chapter cannot be given its parameters or two chapters
                would be written to one folder.
            KeyboardInterrupt: everything that was running is killed and leaves nothing behind.
        """
        chapters = self._checked(chapters)
        reading = [chapter.id for chapter in chapters if self._reads_profile(chapter)]
        beside = {path.stem for chapter in chapters for path in chapter.path.parent.glob("*.ipynb")}
        check_profile(self.profile, self.sizes, reading, beside)
        check_hardware(self.profile, self.sizes)
        clear_what_killed_runs_left(self.out)
        needs = {chapter: [each for each in chapters if each.id in chapter.needs()] for chapter in chapters}
        refuse_circles(needs)
        contents = self._contents(chapters)
        results = self._unchanged(contents)
        queue = ChapterQueue({c: Cost.of(c.id, self.sizes) for c in chapters if c not in results}, needs=needs)
        jobs = self.jobs or jobs_for(len(queue.waiting), self.sizes.get("device", "cpu"))
        self.progress.begin(len(queue.waiting))
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(self._work, queue, jobs, contents, results) for _ in range(jobs)]
                # An error of ours in one thread, such as a full disk, must not wait for the other chapters.
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                with signals_ignored():  # a second Ctrl-C must not stop the cleaning up
                    self.stopping.set()
                    queue.clear()
                    for worker in list(self.workers):
                        kill_with_descendants(worker)
                    pool.shutdown(cancel_futures=True)
                raise
            finally:
                self.progress.close()
        return [results[chapter] for chapter in chapters]

    def _work(
        self, queue: ChapterQueue, jobs: int, contents: dict[Chapter, str], results: dict[Chapter, Result]
    ) -> None:
        """One of `jobs` threads: execute chapters until none is left."""
        while (chapter := queue.take()) is not None:
            try:
                needed = [results[each] for each in queue.needs.get(chapter, ()) if each in results]
                if failed := [each.chapter for each in needed if each.status == "failed"]:
                    message = f"{chapter.id} was not run: it needs {' and '.join(failed)}, which failed"
                    results[chapter] = Result(chapter.id, "failed", message=message)
                    self.progress.end(results[chapter])
                    continue
                threads = self.sizes.get(chapter.id, {}).get("threads", self.sizes.get("threads", 1))
                results[chapter] = self._run_one(chapter, contents[chapter], threads_for(jobs, threads))
                if not self.stopping.is_set():
                    self.progress.end(results[chapter])
            finally:
                queue.done(chapter)

    def _contents(self, chapters: list[Chapter]) -> dict[Chapter, str]:
        """The content hash of each chapter, with those of the chapters that it needs.

        A needed chapter that does not run now counts as its last result does.
        """
        own = {chapter: content_hash(chapter, self.sizes, self._parameters()) for chapter in chapters}
        by_id = {chapter.id: chapter for chapter in chapters}

        def whole(chapter: Chapter) -> str:
            """The hash of a chapter and of what it needs."""
            needed = []
            for name in chapter.needs():
                if name in by_id:
                    needed.append(whole(by_id[name]))
                else:
                    needed.append((read_json(self.out / name / "metrics.json") or {}).get("content_hash", ""))
            return hashlib.sha256("".join([own[chapter], *needed]).encode()).hexdigest() if needed else own[chapter]

        return {chapter: whole(chapter) for chapter in chapters}

    @staticmethod
    def _reads_profile(chapter: Chapter) -> bool:
        """Whether a chapter asks its profile for a table of its own."""
        return any("load_profile(" in "".join(cell["source"]) for cell in chapter.read()["cells"])

    def _unchanged(self, contents: dict[Chapter, str]) -> dict[Chapter, Result]:
        """The results that are still good."""
        found = {}
        for chapter, content in contents.items():
            if not self.force and (before := unchanged_result(chapter, self.out / chapter.id, content)):
                self.progress.say(f"{chapter.id}  unchanged, skipped")
                found[chapter] = before
        return found

    def _checked(self, chapters: list[Chapter]) -> list[Chapter]:
        """Each chapter once, and ready to be executed into a folder that can be written."""
        chosen: dict[str, Chapter] = {}
        for chapter in chapters:
            if (same := chosen.setdefault(chapter.id, chapter)) != chapter:
                raise CourseError(f"{chapter.path} and {same.path} would both be written to {chapter.id}: rename one.")
            if missing := self._parameters().keys() - self.given.keys() - chapter.parameters():
                names = ", ".join(sorted(missing))
                raise CourseError(f"The `parameters` cell of {chapter.path.name} does not set: {names}.")
            check_parameters(chapter, self.given)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(f"Cannot write to --out {self.out}: {error.strerror}.") from error
        return list(chosen.values())

    def _run_one(self, chapter: Chapter, content: str, threads: int) -> Result:
        if self.stopping.is_set():
            return Result(chapter.id, "failed")
        partial = hidden_folder(self.out, "partial", chapter.id)
        home = Path(tempfile.mkdtemp(prefix="course-run-"))
        try:
            partial.mkdir()
            result = self._execute(chapter, partial, home, threads)
            if result.status == "executed":
                self._publish(chapter, partial, result, content)
            return result
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)

    def _parameters(self) -> dict:
        """What is injected after the notebook's `parameters` cell. Paths are relative: no page may show one of ours."""
        ours = {"profile": self.own_profile or self.profile, "seed": self.seed, "output_dir": "outputs"}
        return {**self.given, **ours}

    def _execute(self, chapter: Chapter, partial: Path, home: Path, threads: int) -> Result:
        """Execute the chapter in a worker, and follow it to its end or to the end of its time."""
        if self.own_profile:
            write_whole(partial / self.own_profile, json.dumps(self.sizes, indent=1, default=str))
        output, timed_out = partial / "notebook.ipynb", threading.Event()
        worker = self._start(chapter, output, home, threads)
        if self.stopping.is_set():  # the run was stopped before this worker was among those to be killed
            kill_with_descendants(worker)

        def stop() -> None:
            timed_out.set()
            kill_with_descendants(worker)

        timer = threading.Timer(self.timeout or 0, stop)
        try:
            if self.timeout:
                timer.start()
            result, last = self._listen(chapter, worker)
        finally:
            timer.cancel()
            kill_with_descendants(worker)
            self.workers.discard(worker)
        result.threads = threads
        if result.status == "failed" and not self.stopping.is_set():
            if timed_out.is_set():
                result.message = f"the chapter took longer than --timeout {self.timeout:g} s"
            error = result.message or why_it_ended(worker.returncode, home / "stderr")
            result.message = self._failure(chapter, last, error, output)
        return result

    def _start(self, chapter: Chapter, output: Path, home: Path, threads: int) -> subprocess.Popen:
        """Start the worker that executes the chapter into `output`."""
        task = {
            "notebook": str(chapter.path),
            "output": str(output),
            "parameters": self._parameters(),
            "cell_timeout": self.cell_timeout,
            "parent": os.getpid(),
            "scratch": [str(output.parent), str(home)],
        }
        with (home / "stderr").open("w") as stderr:
            worker = subprocess.Popen(
                [sys.executable, "-m", "course_lib.execution.notebooks.worker", json.dumps(task)],
                cwd=output.parent,
                env=kernel_environment(home, threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop the worker and its kernel in order
            )
        self.workers.add(worker)
        return worker

    def _listen(self, chapter: Chapter, worker: subprocess.Popen) -> tuple[Result, dict]:
        """Follow the worker to its end, with one line of progress for each cell.

        Returns the result and the last event of a cell that began.
        """
        started, result, last = time.perf_counter(), Result(chapter.id, "failed"), {}
        for line in worker.stdout or ():
            event = json.loads(line)
            if event["event"] == "cell":
                last, seconds = event, time.perf_counter() - started
                self.progress.cell(chapter.id, event["cell"], event["cells"], seconds, event["line"])
            elif event["event"] == "cell done":
                result.memory = max(result.memory, event["memory"])
                times = {key: round(event[key], 3) for key in ("seconds", "cpu_seconds")}
                result.cells.append({"cell": last["cell"], "line": last["line"], **times})
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

    def _publish(self, chapter: Chapter, partial: Path, result: Result, content: str) -> None:
        """Complete the folder of a finished chapter and put it in the place of the old one."""
        notebook = json.loads((partial / "notebook.ipynb").read_text(encoding="utf-8"))
        for key in ("input_path", "output_path"):  # folders of this machine
            notebook["metadata"].get("papermill", {}).pop(key, None)
        write_json(partial / "notebook.ipynb", notebook)
        result.recorded = read_json(partial / "outputs" / "record.json") or {}
        write_json(partial / "metrics.json", metrics(chapter, result, self.profile_file.stem, self.seed, content))
        put_in_place(partial, self.out / chapter.id)
        (self.out / ".failed" / f"{chapter.id}.ipynb").unlink(missing_ok=True)
