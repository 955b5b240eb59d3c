"""The rules of clusters. One site accepts what another refuses, so each has a file with its rules and their sources.

A site file says which options `sbatch` accepts there, how processes are started, and what the limits of each queue are.
Its table `unverified` lists rules that nobody could verify. You can override a rule with `course submit --site-set
gres=true`.
"""

import socket
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

LAUNCHERS = ("srun", "ibrun", "ssh")


@dataclass(frozen=True)
class Queue:
    """The limits of a partition.

    Attributes:
        nodes: the largest number of nodes of a job.
        hours: the longest time limit of a job, in hours.
        running: how many jobs of one user may run at the same time.
        submitted: how many jobs of one user may be submitted, including those that wait.
        rate: the charge for one node and one hour, in the site's units.
        gpus: the number of GPUs of a node.
        gpu_memory_gb: the memory of one GPU.
    """

    nodes: int
    hours: float
    running: int
    submitted: int
    rate: float
    gpus: int
    gpu_memory_gb: float


@dataclass(frozen=True)
class Site:
    """The rules of a cluster.

    Attributes:
        name: the name of its file.
        description: the cluster in a few words.
        launcher: the program that starts one process on each node of a job: srun, TACC's ibrun, or ssh.
        gres: whether `--gres` is accepted. Where it is not, a job gets whole nodes.
        mem: whether `--mem` is accepted.
        array: whether job arrays are accepted.
        requeue: whether a job may put itself back into the queue.
        submit_from_nodes: whether a job may submit other jobs.
        account: when a job has to name an account, in words.
        arch: the architecture of its nodes, as `uname -m` prints it; empty where it is not known.
        purge_days: after how many days files on scratch that nobody has read are removed; 0 for never.
        hosts: how the names of its hosts end.
        queues: the limits of each partition, by name; empty where they are not known.
        unverified: the rules that nobody could verify, and how to find out.
        sources: where the facts come from, with dates.
    """

    name: str
    description: str
    launcher: str = "srun"
    gres: bool = True
    mem: bool = True
    array: bool = True
    requeue: bool = True
    submit_from_nodes: bool = True
    account: str = ""
    arch: str = ""
    purge_days: int = 0
    hosts: tuple[str, ...] = ()
    queues: dict[str, Queue] = field(default_factory=dict)
    unverified: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def queue(self, name: str) -> Queue | None:
        """Look up the limits of a queue.

        Args:
            name: the partition.

        Returns:
            The limits; None where the site file lists no queues.

        Raises:
            CourseError: the site file lists queues, but none of this name.
        """
        if name in self.queues or not self.queues:
            return self.queues.get(name)
        hint = did_you_mean(name, self.queues)
        raise CourseError(f"{self.name} has no partition {name!r}; it has {', '.join(self.queues)}.{hint}")


def available_sites() -> dict[str, str]:
    """The name and the description of each site that the package knows."""
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8"))["description"] for path in _files()}


def _files() -> list[Path]:
    folder = Path(str(files("course_lib.execution.slurm") / "sites"))
    return sorted(folder.glob("*.toml"))


def load_site(name: str, overrides: Sequence[str] = ()) -> Site:
    """Load a site by its name, or from a file of your own.

    Args:
        name: one of `available_sites`, or the path of a TOML file.
        overrides: rules that replace those of the file, such as "gres=true".

    Returns:
        The site.

    Raises:
        CourseError: the site does not exist, or its file or an override is not valid.

    Example:
        >>> vista = load_site("vista")
        >>> vista.launcher, vista.mem, vista.queue("gh-dev").hours
        ('srun', False, 2)
    """
    paths = {path.stem: path for path in _files()}
    path = Path(name) if name.endswith(".toml") else paths.get(name)
    if path is None or not path.is_file():
        hint = did_you_mean(name, paths)
        raise CourseError(f"There is no site {name!r}. Choose one of {', '.join(paths)}, or give a TOML file.{hint}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        rules = dict(table.get("rules", {})) | dict(_rule(text) for text in overrides)
        _check_rules(rules)
        queues = {key: Queue(**value) for key, value in table.get("queues", {}).items()}
        site = Site(
            path.stem,
            table.get("description", path.stem),
            **rules,
            hosts=tuple(table.get("hosts", ())),
            queues=queues,
            unverified=table.get("unverified", {}),
            sources=table.get("sources", {}),
        )
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise CourseError(f"Site file {path} is not valid: {error}. Compare it with one of ours.") from error
    if site.launcher not in LAUNCHERS:
        raise CourseError(f"{path}: launcher = {site.launcher!r}: choose {' or '.join(LAUNCHERS)}.")
    return site


def _check_rules(rules: dict[str, Any]) -> None:
    """Refuse rules that do not exist, and values of another type."""
    known = {each.name: each.default for each in fields(Site) if isinstance(each.default, bool | int | str)}
    for name, value in rules.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise CourseError(f"There is no rule {name!r} for a site; there are {', '.join(known)}.{hint}")
        if type(value) is not type(known[name]):
            kind = {bool: "true or false", int: "a whole number", str: "a text"}[type(known[name])]
            raise CourseError(f"The rule {name} = {value!r} of a site is not possible: it has to be {kind}.")


def _rule(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CourseError(f"--site-set {text}: write it as RULE=VALUE, such as gres=true.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def this_site() -> str:
    """The name of the site that this host belongs to; "any" where no site file lists the host."""
    host = socket.getfqdn()
    for name in available_sites():
        if any(host.endswith(end) for end in load_site(name).hosts):
            return name
    return "any"
