"""Why a job died: six causes, how each of them shows in a job's output, and what to do next.

The messages are those of Slurm, torch and the shell; tests/cluster provokes each of them. `endings.json` keeps what
they said there, for chapter 09.
"""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One cause of a job's death.

    Attributes:
        name: the cause in two or three words.
        pattern: a regular expression that finds the cause in a job's output.
        advice: what to do next.
    """

    name: str
    pattern: str
    advice: str


# Where several patterns match, the first is the cause: the others are what followed from it.
CAUSES = (
    Cause(
        "full disk",
        r"No space left on device|Disk quota exceeded|SQLITE_FULL",
        "Make room (`df -h`, `quota`), and write to $SCRATCH. A checkpoint that was not whole was not renamed, so the "
        "one before it is the last.",
    ),
    Cause(
        "missing module",
        r"there is no module|Lmod has detected the following error|Unable to locate a modulefile|module: command not",
        "`module spider NAME` shows what there is today. Change slurm.modules in the profile, and make the virtual "
        "environment anew where its Python came from the module.",
    ),
    Cause(
        "out of memory",
        r"exceeded memory limit|[Oo]om[-_ ]kill|Out Of Memory|OUT_OF_MEMORY|out of memory|can't allocate memory",
        "Halve batch_size and double grad_accum_steps: the losses stay the same. Then gradient_checkpointing, then "
        "sharding. `course memory` says what a run takes.",
    ),
    Cause(
        "bad node",
        r"DUE TO NODE FAILURE|NODE_FAIL|uncorrectable (NVLink|ECC)|Xid ",
        "Submit again: the run goes on from its last checkpoint. Tell the site which node it was.",
    ),
    Cause(
        "time limit",
        r"DUE TO TIME LIMIT|the time is nearly over|State=TIMEOUT",
        "Go on from the checkpoint: --requeue, or a chain with --legs where the site does not requeue.",
    ),
    Cause(
        "lost rendezvous",
        r"Rendezvous\w*Error|waiting for clients|socket has timed out|failed to connect to|DistNetworkError"
        r"|DistStoreError|Connection closed by peer|Watchdog caught collective operation timeout",
        "Look at the other nodes' outputs first: one of them died, or never came. Otherwise compare the address and "
        "port that each node was given.",
    ),
)


def explain(output: str) -> Cause | None:
    """Find in a job's output why the job died.

    Args:
        output: what the job wrote.

    Returns:
        The first of `CAUSES` whose pattern occurs in the output; None where none does.

    Example:
        >>> explain("slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***").name
        'time limit'
        >>> explain("loss 2.31") is None
        True
    """
    return next((cause for cause in CAUSES if re.search(cause.pattern, output)), None)


def verdict(output: str, state: str = "") -> str:
    """Say in a sentence or two what a job died of.

    Args:
        output: what the job wrote. Where it was requeued, only its last start counts.
        state: the job's state in Slurm, where it is known.

    Returns:
        The cause and what to do next; empty where the job ended well, still runs, or shows nothing that we know.

    Example:
        >>> verdict("job 7 on n1, start 0, now\\njob 7 ends with status 0")
        ''
    """
    last = re.split(r"^job \d+ on \S+, start \d+, ", output, flags=re.MULTILINE)[-1]
    if re.search(r"^job \d+ ends with status 0$|^an earlier leg has finished", last, re.MULTILINE):
        return ""
    if cause := explain(last):
        return f"this says: {cause.name}. {cause.advice}"
    if state == "CANCELLED" or re.search(r"CANCELLED AT \S+ \*\*\*", last):
        return (
            "the job was cancelled, with `course jobs cancel` or scancel, or by the site. What it saved is still "
            "there: submit the same command again, with --resume for a training run."
        )
    return ""


def recorded_endings() -> dict[str, Any]:
    """What jobs wrote when tests provoked each cause on a small cluster: {"about": ..., "endings": {cause: text}}."""
    return json.loads((files("course_lib.execution.slurm") / "endings.json").read_text(encoding="utf-8"))
