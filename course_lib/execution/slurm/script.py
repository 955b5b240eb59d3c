"""The batch script of a job: what it asks for, checked against the site's rules, and the text from a Jinja template."""

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
    """What is submitted.

    Attributes:
        name: of the job; letters, digits, dots and dashes.
        command: the words to run after `course`, in the clone.
        partition: the queue.
        time: "HH:MM:SS", or "D-HH:MM:SS".
        nodes: how many.
        account: whom the time is charged to; empty: the login's only project.
        modules: loaded before the virtual environment is activated: its Python needs them.
        gpus: of a node, for sites that want `--gres`.
        cpus: of a task; 0: the site's own.
        mem: of a node, such as "32G", for sites that take `--mem`; empty: the site's own.
        distributed: one process for each GPU of each node, started by torchrun.
        legs: jobs in a row, each going on from the checkpoint of the one before.
        array: one element for each of these words, which takes the place of {} in the command.
        requeue: the job puts itself back into the queue when its time is over.
        restarts: how often it does so at most.
        lead: seconds before the limit at which the run is asked to save and stop.
        after: a job that has to end first.
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
    """A Slurm time limit in seconds. Raises CourseError where it is written otherwise than Slurm wants it.

    Args:
        time: "MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS".
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
    """Refuse what the site would refuse, or would accept and kill hours later.

    Args:
        job: what is to be submitted.
        site: where.

    Returns:
        What the user should know: the charge, and rules that nobody verified.

    Raises:
        CourseError: the site does not take it.
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
    """The batch script.

    Args:
        job: what to run.
        site: where.
        folder: where the job's output, its stop file and its record go.
        root: the clone.
        template: one's own Jinja template in place of ours.

    Returns:
        The text.

    Raises:
        CourseError: a path or word cannot stand in a batch script, or the template is not valid.
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
