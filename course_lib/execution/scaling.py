"""Scaling arithmetic: from operations to hours, node hours and what a site charges; what an all-reduce costs.

Operations and memory need a model's shape: see `models.flops` and `finetuning.memory`.
"""

import math
from dataclasses import dataclass

from course_lib.errors import CourseError

MINIMUM_CHARGE_HOURS = 0.25  # TACC bills a quarter of an hour of each node at least


@dataclass(frozen=True)
class Accelerator:
    """A GPU as its maker describes it.

    Attributes:
        name: as on the data sheet.
        peak: operations a second in bfloat16, dense, with float32 sums.
        memory_gb: in GB of 1e9 bytes.
        source: where the numbers stand.
    """

    name: str
    peak: float
    memory_gb: float
    source: str


# The data sheets print twice these numbers "with sparsity", which training does not use.
ACCELERATORS = {
    "a100": Accelerator("A100 PCIe 40 GB", 312e12, 40, "NVIDIA A100 data sheet, 2021-06"),
    "h100-pcie": Accelerator("H100 PCIe 80 GB", 756e12, 80, "NVIDIA H100 data sheet, 2023-03"),
    "h100-sxm": Accelerator("H100 SXM5 96 GB", 989e12, 96, "NVIDIA H100 data sheet, 2023-03 (80 GB edition)"),
    "gh200": Accelerator("GH200 96 GB", 990e12, 96, "NVIDIA GH200 data sheet, 2023-08"),
}


def training_hours(flops: float, devices: int, peak: float, utilisation: float) -> float:
    """Hours of a run.

    Args:
        flops: operations of the whole run.
        devices: how many share the work.
        peak: operations a second of one device at best.
        utilisation: the share of the peak that is reached (model FLOPs utilisation, MFU), above 0 and at most 1.

    Returns:
        flops / (devices x peak x utilisation), in hours.

    Raises:
        CourseError: a number is not possible.
    """
    if devices < 1 or peak <= 0 or not 0 < utilisation <= 1:
        raise CourseError(
            f"training_hours: devices = {devices}, peak = {peak:g}, utilisation = {utilisation:g}: give at least one "
            "device, a peak above 0, and a utilisation above 0 and at most 1."
        )
    return flops / (devices * peak * utilisation) / 3600


def charge(nodes: int, hours: float, rate: float, jobs: int = 1) -> float:
    """Units that a site charges, as TACC computes them: nodes x max(hours, a quarter) x rate.

    Args:
        nodes: of a job. Nodes are not shared, so a whole node counts, whatever the job uses of it.
        hours: that one job ran.
        rate: units for an hour of one node of the queue.
        jobs: how many such jobs; each has the minimum.

    Returns:
        The units.
    """
    return jobs * nodes * max(hours, MINIMUM_CHARGE_HOURS) * rate


def legs_needed(hours: float, limit: float, overhead: float = 0.0) -> int:
    """How many jobs in a row a run takes where each may last `limit` hours.

    Args:
        hours: of the run without interruption.
        limit: the queue's, in hours.
        overhead: hours of every job in which nothing is learnt: start, loading, the time before the limit at which it
            saves.

    Returns:
        At least 1.

    Raises:
        CourseError: the overhead leaves no time to train.
    """
    if overhead >= limit:
        raise CourseError(f"legs_needed: {overhead:g} h of overhead leave nothing of a limit of {limit:g} h.")
    return max(1, math.ceil(hours / (limit - overhead)))


def all_reduce_bytes(size: float, processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce (Patarasuk and Yuan 2009).

    Args:
        size: of what is summed, in bytes.
        processes: n, in the ring.

    Returns:
        2 (n - 1) / n x size: half of it to add the parts up (reduce-scatter), half to hand them round (all-gather).
    """
    return 2 * (processes - 1) / processes * size


def checkpoint_interval(save_seconds: float, mean_time_to_failure: float) -> float:
    """The time between two checkpoints that loses least (Young 1974): sqrt(2 x save x mean time to failure).

    Args:
        save_seconds: what one checkpoint takes.
        mean_time_to_failure: of the whole job in seconds; n nodes fail n times as often as one.

    Returns:
        Seconds. Shorter intervals spend more on saving, longer ones repeat more work after a failure.
    """
    return math.sqrt(2 * save_seconds * mean_time_to_failure)
