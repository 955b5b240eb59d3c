"""Submitting jobs and looking after them, through Slurm's own commands: sbatch, squeue, scontrol, sacct, scancel."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.environment import git_commit
from course_lib.execution.slurm.script import Job, check, render
from course_lib.execution.slurm.site import Site
from course_lib.files import write_json, write_whole

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")


def slurm(*command: str) -> str:
    """What one of Slurm's commands prints.

    Raises:
        CourseError: it is not installed, or it refuses; with what it said.
    """
    if shutil.which(command[0]) is None:
        raise CourseError(f"There is no {command[0]} here: submit from a login node of a cluster with Slurm.")
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        # TACC prints its refusals to stdout, below a banner.
        said = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip(" -")]
        raise CourseError(f"{command[0]} refused: " + " ".join(line.strip() for line in said[-4:]))
    return done.stdout


def job_number(printed: str) -> str:
    """The number in what `sbatch` printed: its last line that ends in digits. Some sites print a banner before it.

    Raises:
        CourseError: there is no number.
    """
    for line in reversed(printed.splitlines()):
        if match := re.fullmatch(r"(?:Submitted batch job )?(\d+)(?:;[\w-]+)?", line.strip()):
            return match[1]
    raise CourseError(f"sbatch said no job number: {printed.strip()[-300:]}")


def submit(job: Job, site: Site, folder: Path, root: Path, template: Path | None = None) -> dict[str, Any]:
    """Submit a job, or the legs of a chain, and write down what was submitted.

    Args:
        job: what to run.
        site: where.
        folder: a new folder for the script, the outputs and the record.
        root: the clone.
        template: one's own template in place of ours.

    Returns:
        The record: the numbers of all legs, the script, the commit, the time.

    Raises:
        CourseError: the site or Slurm refuses it. Legs that were submitted before are cancelled again.
    """
    check(job, site)
    script = folder / "job.sh"
    text = render(job, site, folder, root, template)
    folder.mkdir(parents=True)
    write_whole(script, text)
    numbers: list[str] = []
    try:
        for leg in range(max(job.legs, 1)):
            before = numbers[-1] if numbers else job.after
            # `afterany`: a leg that ends at its limit is not "ok". The first one waits for another's success.
            kind = "afterany" if leg else "afterok"
            waits = [f"--dependency={kind}:{before}", "--kill-on-invalid-dep=yes"] if before else []
            numbers.append(job_number(slurm("sbatch", *waits, str(script))))
    except BaseException:  # Ctrl-C too: nothing may run that is not written down
        for number in numbers:
            _try("scancel", number)
        shutil.rmtree(folder)
        raise
    record = {
        "name": job.name,
        "site": site.name,
        "jobs": numbers,
        "command": list(job.command),
        "array": list(job.array),
        "partition": job.partition,
        "nodes": job.nodes,
        "time": job.time,
        "commit": git_commit(root),
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(folder / "job.json", record)
    return record


def records(folder: Path) -> dict[Path, dict[str, Any]]:
    """All jobs that were submitted from this clone, the newest last."""
    found = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/job.json")}
    return dict(sorted(found.items(), key=lambda item: item[1]["submitted"]))


def states(numbers: Sequence[str]) -> dict[str, str]:
    """What Slurm knows of jobs: squeue for those that wait or run, scontrol for those that just ended, then sacct.

    Args:
        numbers: of the jobs.

    Returns:
        A state for each; "UNKNOWN" where Slurm has forgotten the job and there is no accounting. Of an array it is
        the state of the element that went worst.
    """
    found = dict.fromkeys(numbers, "UNKNOWN")
    for number in numbers:
        said = _try("scontrol", "show", "job", "-o", number)
        elements = re.findall(r"JobState=(\w+)", said)
        if not elements:
            accounted = _try("sacct", "-X", "-n", "-P", "-o", "State", "-j", number)
            elements = [line.split()[0] for line in accounted.splitlines() if line.strip()]
        if elements:
            found[number] = min(elements, key=_badness)
    return found


def _badness(state: str) -> int:
    """What is worth telling first: what runs, then what went wrong, then what waits, then what went well."""
    if state in ("RUNNING", "COMPLETING", "CONFIGURING"):
        return 0
    if state in ENDED and state != "COMPLETED":
        return 1
    return 3 if state == "COMPLETED" else 2


def _try(*command: str) -> str:
    try:
        return slurm(*command)
    except CourseError:
        return ""


def why_it_waits(number: str) -> str:
    """Slurm's reason for a job that waits, such as Priority or DependencyNeverSatisfied; empty where it does not."""
    match = re.search(r"JobState=PENDING Reason=(\S+)", _try("scontrol", "show", "job", "-o", number))
    return match[1] if match else ""


def outputs(folder: Path) -> list[Path]:
    """The files that the job's legs or elements wrote, in order."""
    return sorted(folder.glob("*.out"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)])


def cancel(record: dict[str, Any]) -> None:
    """Cancel all legs of a job, the last first, so that none starts in between.

    A job that has ended, or that Slurm has forgotten, needs no cancelling.

    Raises:
        CourseError: Slurm does not cancel one; the others are cancelled all the same.
    """
    refused = []
    for number in reversed(record["jobs"]):
        try:
            slurm("scancel", number)
        except CourseError as error:
            if not re.search("Invalid job id|already completing or completed", str(error)):
                refused.append(error)
    if refused:
        raise refused[0]
