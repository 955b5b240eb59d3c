"""Submitting, watching and cancelling jobs, through Slurm's own commands: sbatch, scontrol, sacct, scancel."""

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

# What sbatch says when it refuses a job (pattern), and what to do next.
REFUSALS = {
    r"[Ii]nvalid account": "Give an account of your own with --account: "
    "`sacctmgr -n show associations user=$USER format=account%30` lists them.",
    r"invalid partition": "Give a queue that exists with --partition: `sinfo -s` lists them.",
    r"configuration source": "Slurm is installed here, but belongs to no cluster: submit from a login node.",
    r"time limit is invalid|PartitionTimeLimit": "Give less with --time: `sinfo -s` shows each queue's limit.",
}
HOPEFUL = (  # a job in one of these states may still end well, or has
    *("PENDING", "CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    *("RUNNING", "RESIZING", "SIGNALING", "STAGE_OUT", "COMPLETING", "COMPLETED"),
)
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")


def slurm(*command: str) -> str:
    """Run one of Slurm's commands.

    Args:
        command: the command and its arguments.

    Returns:
        What it printed.

    Raises:
        CourseError: the command is not installed, or it failed; the message quotes what it said.
    """
    if shutil.which(command[0]) is None:
        raise CourseError(f"There is no {command[0]} here: submit from a login node of a cluster with Slurm.")
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        # TACC prints its refusals to stdout, below a banner.
        said = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip(" -")]
        words = " ".join(line.strip() for line in said[-4:])
        advice = [next_step for pattern, next_step in REFUSALS.items() if re.search(pattern, words)]
        raise CourseError(" ".join([f"{command[0]} refused: {words}", *advice[:1]]))
    return done.stdout


def job_number(printed: str) -> str:
    """Find the number of a job in what `sbatch` printed. Some sites print a banner before it.

    Args:
        printed: the output of `sbatch`, with or without `--parsable`.

    Returns:
        The number, as text.

    Raises:
        CourseError: no line has a number.

    Example:
        >>> job_number("Welcome to the cluster!\\nSubmitted batch job 4711")
        '4711'
    """
    for line in reversed(printed.splitlines()):
        if match := re.fullmatch(r"(?:Submitted batch job )?(\d+)(?:;[\w-]+)?", line.strip()):
            return match[1]
    raise CourseError(f"sbatch said no job number: {printed.strip()[-300:]}")


def submit(job: Job, site: Site, folder: Path, root: Path, template: Path | None = None) -> dict[str, Any]:
    """Submit a job, or all legs of a chain, and record what was submitted.

    Args:
        job: what to run.
        site: the rules of the cluster.
        folder: a new folder for the script, the outputs and the record.
        root: the clone of the course.
        template: a template of your own, to be used instead of ours.

    Returns:
        The record: the numbers of all legs, the command, the commit, the time.

    Raises:
        CourseError: the site or Slurm refuses the job, or the one that it has to wait for did not end well. Legs that
            were already submitted are cancelled.
    """
    check(job, site)
    if job.after:
        check_can_wait_for(job.after, folder.parent)
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


def check_can_wait_for(number: str, folder: Path) -> None:
    """Refuse to wait for the success of a job that has failed, or that Slurm no longer knows.

    Slurm forgets a job `MinJobAge` seconds after its end, 300 by default. It takes a dependency on such a job for met,
    however the job ended, and also one on a number that never was a job. So ours would start at once.

    Args:
        number: of the job that has to succeed first.
        folder: where the jobs of this clone are recorded.

    Raises:
        CourseError: the job has failed, neither slurmctld nor the accounts know it, or it is not the last leg of its
            chain: a leg that stops at its time limit does not succeed.
    """
    for record in records(folder).values():
        if number in record["jobs"][:-1]:
            raise CourseError(
                f"--after {number}: this is a leg of a chain, and stops when its time is over. Give the chain's last "
                f"leg: --after {record['jobs'][-1]}."
            )
    slurm("scontrol", "ping")  # says so where Slurm is not installed, or does not answer
    state = states([number])[number]
    if state == "UNKNOWN":
        raise CourseError(
            f"--after {number}: Slurm does not know this job, or has forgotten how it ended, and would start yours at "
            "once. Look the number up with `course jobs`; if that job ended well, leave --after out."
        )
    if state not in HOPEFUL:
        raise CourseError(
            f"--after {number}: this job is {state}, so yours would never start. `course jobs logs {number}` says why; "
            "submit that one again, and give its new number."
        )


def records(folder: Path) -> dict[Path, dict[str, Any]]:
    """The records of all jobs that were submitted from this clone, by folder, the newest last."""
    found = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/job.json")}
    return dict(sorted(found.items(), key=lambda item: item[1]["submitted"]))


def states(numbers: Sequence[str]) -> dict[str, str]:
    """Ask Slurm for the states of jobs: scontrol knows those that wait, run or have just ended, and sacct older ones.

    Args:
        numbers: the numbers of the jobs.

    Returns:
        A state for each job; "UNKNOWN" where Slurm has forgotten the job and has no accounting. The state of an array
        is that of one element: of a running one, else of a failed one.
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
    """The order of interest: running jobs, then failed ones, then waiting ones, then those that went well."""
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
    """Slurm's reason why a job waits, such as Priority or DependencyNeverSatisfied; empty if the job does not wait."""
    match = re.search(r"JobState=PENDING Reason=(\S+)", _try("scontrol", "show", "job", "-o", number))
    return match[1] if match else ""


def outputs(folder: Path) -> list[Path]:
    """The output files of a job's legs or elements, in order."""
    return sorted(folder.glob("*.out"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)])


def cancel(record: dict[str, Any]) -> None:
    """Cancel all legs of a job, the last one first, so that none starts in the meantime.

    Legs that have ended, or that Slurm has forgotten, are left alone.

    Args:
        record: the record of the job, from `records`.

    Raises:
        CourseError: Slurm refuses to cancel a leg; the other legs are cancelled all the same.
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
