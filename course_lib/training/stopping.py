"""Stopping a run from outside, between two steps: how a batch script says that its time is nearly over.

A signal does not do it. Under `torchrun` and `srun` it reaches some process or other: the agent of torchrun dies of
SIGUSR1, and the batch shell's children do not get what the shell gets. A file reaches all of them. The batch script
names it in the environment and creates it when its signal comes (`execution/slurm/templates/job.sh.j2`); the Trainer
looks for it after each step, saves a checkpoint and leaves with a status of its own.
"""

import os
from pathlib import Path

from course_lib.training.distributed import World

VARIABLE = "COURSE_STOP_FILE"
STATUS = 75  # EX_TEMPFAIL: try again later


class Stopped(SystemExit):
    """The run was asked to stop, and saved a checkpoint to go on from. The process leaves with `STATUS`."""

    def __init__(self) -> None:
        super().__init__(STATUS)


def stop_wanted(world: World) -> bool:
    """Whether the file is there for any process of the run: all of them have to stop after the same step.

    Args:
        world: this process among all. Every process has to ask.

    Returns:
        The same answer in every process; False where the environment names no file.
    """
    name = os.environ.get(VARIABLE)
    return name is not None and world.total(float(Path(name).exists())) > 0
