"""What a cluster allows. One site accepts what another refuses, so each has a file with its rules and their sources.

A site file says which options `sbatch` takes there, how processes are launched, and each queue's limits. What nobody
could verify stands in its table `unverified`, and a rule can be overridden (`course submit --site-set gres=true`).
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
    """A partition and its limits.

    Attributes:
        nodes: the most nodes of a job.
        hours: the longest time of a job.
        running: the most jobs of a user that run at a time.
        submitted: the most jobs of a user, waiting ones included.
        rate: what an hour of a node costs, in the site's units.
        gpus: of a node.
        gpu_memory_gb: of one GPU.
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
    """A cluster's rules.

    Attributes:
        name: of its file.
        description: what it is.
        launcher: what starts one process on each node of a job: srun, TACC's ibrun, or ssh.
        gres: whether `--gres` may be given. Where it may not, a node is taken whole.
        mem: whether `--mem` may be given.
        array: whether arrays may be submitted.
        requeue: whether a job may put itself back into the queue.
        submit_from_nodes: whether a job may submit others.
        arch: of its nodes, as `uname -m` says; empty: not known.
        purge_days: files on scratch that nobody read for so long are removed; 0: never.
        queues: by name; empty: nothing is known of them.
        unverified: what could not be verified, by rule, and how to find out.
        sources: where the facts are from, with dates.
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
        """A queue's limits; None where the site file lists no queues.

        Raises:
            CourseError: the site has queues, and none of this name.
        """
        if name in self.queues or not self.queues:
            return self.queues.get(name)
        hint = did_you_mean(name, self.queues)
        raise CourseError(f"{self.name} has no partition {name!r}; it has {', '.join(self.queues)}.{hint}")


def available_sites() -> dict[str, str]:
    """The description of each site that the package knows, by its name."""
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8"))["description"] for path in _files()}


def _files() -> list[Path]:
    folder = Path(str(files("course_lib.execution.slurm") / "sites"))
    return sorted(folder.glob("*.toml"))


def load_site(name: str, overrides: Sequence[str] = ()) -> Site:
    """A site by its name, or from a user's own file.

    Args:
        name: one of `available_sites`, or the path of a TOML file.
        overrides: rules in place of the file's, such as "gres=true".

    Returns:
        The site.

    Raises:
        CourseError: there is no such site, or its file or an override is not valid.
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
    """The site whose login or compute node this is; "any" where none of ours fits the host's name."""
    host = socket.getfqdn()
    for name in available_sites():
        if any(host.endswith(end) for end in load_site(name).hosts):
            return name
    return "any"
