"""The batch script of a job: its requests, checked against the site's rules, and its text from a Jinja template."""

import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.scaling import charge
from course_lib.execution.slurm.site import Site

LEAD_SECONDS = 300  # before the limit: more than a step and a checkpoint take


@dataclass(frozen=True)
class Job:
    """A job to submit.

    Attributes:
        name: the job's name: letters, digits, dots, dashes and underscores.
        command: the words to run after `course`, in the clone.
        partition: the queue.
        time: the time limit, "HH:MM:SS" or "D-HH:MM:SS".
        nodes: the number of nodes.
        account: the project that is charged; empty for the only project of the login.
        modules: environment modules to load first, because the Python of the virtual environment needs them.
        gpus: GPUs of each node, for sites that accept `--gres`.
        cpus: CPUs of each task; 0 for the site's default.
        mem: memory of each node, such as "32G", for sites that accept `--mem`; empty for the site's default.
        distributed: whether torchrun starts one process for each GPU of each node.
        legs: the number of jobs in a chain; each continues from the checkpoint of the one before.
        array: one word for each element of a job array; it replaces {} in the command.
        requeue: whether the job puts itself back into the queue when its time is over.
        restarts: how many times it may do so.
        lead: how many seconds before the limit the run is asked to save and stop.
        after: the number of a job that has to succeed first.

    Example:
        >>> Job("sft", ("sft", "--output", "runs/sft"), partition="gpu", time="02:30:00").hours
        2.5
    """

    name: str
    command: tuple[str, ...]
    partition: str
    time: str
    nodes: int = 1
    account: str = ""
    modules: tuple[str, ...] = ()
    gpus: int = 0
    cpus: int = 0
    mem: str = ""
    distributed: bool = False
    legs: int = 1
    array: tuple[str, ...] = ()
    requeue: bool = False
    restarts: int = 20
    lead: int = LEAD_SECONDS
    after: str = ""

    @property
    def hours(self) -> float:
        """The time limit in hours."""
        return seconds_of(self.time) / 3600


def seconds_of(time: str) -> int:
    """Convert a Slurm time limit to seconds.

    Args:
        time: "MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS".

    Returns:
        The number of seconds.

    Raises:
        CourseError: the time has none of these forms.

    Example:
        >>> seconds_of("90"), seconds_of("01:30:00"), seconds_of("1-12")
        (5400, 5400, 129600)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise CourseError(f"--time {time}: write it as HH:MM:SS, or as D-HH:MM:SS for days.")
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    if days is not None:
        return ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    if third is not None:
        return ((first or 0) * 60 + (second or 0)) * 60 + third
    return (first or 0) * 60 + (second or 0)


def check(job: Job, site: Site) -> list[str]:
    """Refuse a job that the site would refuse, or would accept and kill hours later.

    Args:
        job: the job to submit.
        site: the rules of the cluster.

    Returns:
        Remarks for the user: the most that is charged, and rules that nobody has verified.

    Raises:
        CourseError: the site does not accept the job.

    Example:
        >>> from course_lib.execution.slurm.site import load_site
        >>> job = Job("try", ("run", "03"), partition="gh-dev", time="00:30:00")
        >>> check(job, load_site("vista"))[0]
        'at most 0.5 units are charged (jobs: 1, nodes: 1, hours: 0.5, units for each hour of a node: 1)'
    """
    if not re.fullmatch(r"[\w.-]+", job.name):
        raise CourseError(f"--name {job.name!r}: a job's name has letters, digits, dots and dashes.")
    _check_numbers(job)
    for word in (job.partition, job.account, *job.modules):
        if word and not re.fullmatch(r"[\w./+-]+", word):
            raise CourseError(f"{word!r} is not a name of a partition, an account or a module.")
    if job.after and not re.fullmatch(r"\d+(_\d+)?", job.after):
        raise CourseError(f"--after {job.after}: give the number of a job, as `course jobs` shows it.")
    if job.mem and not site.mem:
        raise CourseError(f"{site.name} takes no --mem: its nodes are not shared, and a job has all their memory.")
    if job.mem and not re.fullmatch(r"\d+[KMGT]?", job.mem):
        raise CourseError(f"--mem {job.mem}: write it as 32G or 500M.")
    if job.array and not site.array:
        raise CourseError(f"{site.name} takes no arrays: submit the chapters one by one, or let one job run them all.")
    if job.requeue and not site.requeue:
        why = site.unverified.get("requeue", "")
        raise CourseError(f"{site.name} does not requeue jobs. {why} Use --legs N, or --site-set requeue=true.".strip())
    if job.requeue and job.legs > 1:
        raise CourseError("--requeue and --legs both outlive a time limit: choose one.")
    if job.lead >= seconds_of(job.time) and (job.requeue or job.legs > 1):
        raise CourseError(f"--time {job.time} leaves no time before the {job.lead} s in which a checkpoint is saved.")
    return [*_within_limits(job, site), *(f"not verified, {rule}: {why}" for rule, why in site.unverified.items())]


def _check_numbers(job: Job) -> None:
    """Refuse numbers that Slurm would refuse, or would understand otherwise."""
    for name, given, least in (
        ("--nodes", job.nodes, 1),
        ("--legs", job.legs, 1),
        ("--lead", job.lead, 1),
        ("--cpus-per-task", job.cpus, 0),
    ):
        if given < least:
            raise CourseError(f"{name} {given} is not possible: it has to be at least {max(least, 1)}.")
    if seconds_of(job.time) < 1:  # to Slurm, 0 means that there is no limit at all
        raise CourseError(f"--time {job.time} is not possible: a job needs a time limit above 0.")


def _within_limits(job: Job, site: Site) -> list[str]:
    """The charge, where the queue is known and the job is within its limits."""
    queue = site.queue(job.partition)
    if queue is None:
        return []
    jobs = max(job.legs, len(job.array), 1)
    for given, most, what in (
        (job.nodes, queue.nodes, "nodes"),
        (job.hours, queue.hours, "hours"),
        (jobs, queue.submitted, "jobs of one user"),
    ):
        if given > most:
            raise CourseError(f"{site.name}'s {job.partition} takes at most {most:g} {what}, and this is {given:g}.")
    if job.distributed and not queue.gpus:
        raise CourseError(f"{site.name}'s {job.partition} has no GPUs, and the profile wants them.")
    units = charge(job.nodes, job.hours, queue.rate, jobs)
    amounts = f"jobs: {jobs}, nodes: {job.nodes}, hours: {job.hours:.3g}, units for each hour of a node: {queue.rate:g}"
    return [f"at most {units:.4g} units are charged ({amounts})"]


def render(job: Job, site: Site, folder: Path, root: Path, template: Path | None = None) -> str:
    """Write the text of the batch script.

    Args:
        job: what to run.
        site: the rules of the cluster.
        folder: the folder for the job's output, its stop file and its record.
        root: the clone of the course.
        template: a Jinja template of your own, to be used instead of ours.

    Returns:
        The text.

    Raises:
        CourseError: a path contains characters that a batch script cannot have, or the template is not valid.

    Example:
        >>> from course_lib.execution.slurm.site import load_site
        >>> job = Job("try", ("run", "03"), partition="gpu", time="00:30:00")
        >>> text = render(job, load_site("any"), Path("jobs/1"), Path("course"))
        >>> [line for line in text.splitlines() if "--time" in line]
        ['#SBATCH --time=00:30:00']
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    for path in (folder, root):
        # sbatch reads its comment lines itself: no quoting and no variables there.
        if re.search(r"[\s%\"'$`\\]", str(path)):
            raise CourseError(f"{path} cannot stand in a batch script: use a folder without blanks, quotes, % and $.")
    text = (
        template.read_text(encoding="utf-8")
        if template
        else (files("course_lib.execution.slurm") / "templates" / "job.sh.j2").read_text(encoding="utf-8")
    )
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quoted"] = shlex.quote
    try:
        return environment.from_string(text).render(**_words(job, site, folder, root))
    except TemplateError as error:
        raise CourseError(f"The template of the batch script cannot be rendered: {error}.") from error


def _words(job: Job, site: Site, folder: Path, root: Path) -> dict[str, Any]:
    """What a template may use."""
    return {
        "job": job,
        "site": site,
        "folder": folder,
        "root": root,
        "command": shlex.join(job.command),
        "element": shlex.join(job.command).replace("'{}'", '"$word"', 1),
        "processes": max(job.gpus, 1),
        "outlives_its_limit": job.requeue or job.legs > 1,
    }
