"""What a job's output says, and which cause that is. tests/cluster provokes them on a real Slurm."""

import pytest

from course_lib.execution.slurm.causes import CAUSES, explain, recorded_endings, verdict

SAID = {
    "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2026-11-28T10:00:00 DUE TO TIME LIMIT ***": "time limit",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": "out of memory",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=8.batch.": "out of memory",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.": "out of memory",
    "OSError: [Errno 122] Disk quota exceeded": "full disk",
    "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError": "lost rendezvous",
    "Lmod has detected the following error: The following module(s) are unknown: cuda/12.9": "missing module",
}


@pytest.mark.parametrize("text", SAID)
def test_the_cause_is_named(text):
    assert explain(f"step 10 | loss 3.89\n{text}\njob 7 ends with status 1").name == SAID[text]


@pytest.mark.parametrize(
    "text", ["", "step 10 | loss 3.89", "job 7 ends with status 0", "memory 370 MB, rows left out"]
)
def test_a_run_that_ended_well_has_no_cause(text):
    assert explain(text) is None


def test_a_full_disk_is_the_cause_of_what_follows():
    """When rank 0 cannot save, the others lose it."""
    text = "Connection closed by peer [127.0.0.1]:2280\nOSError: [Errno 28] No space left on device"
    assert explain(text).name == "full disk"


def test_each_recorded_ending_is_explained():
    endings = recorded_endings()["endings"]
    assert set(endings) == {cause.name for cause in CAUSES}
    assert {name: explain(text).name for name, text in endings.items()} == {name: name for name in endings}


STARTED = "job 7 on n1, start {}, Sat Nov 28 14:28:11 UTC 2026\n"
KILLED = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-28T16:48:56 {}***\n"


def test_of_a_requeued_job_only_the_last_start_counts():
    lost = STARTED.format(0) + KILLED.format("DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ")
    assert verdict(lost).startswith("this says: bad node. Submit again")
    assert verdict(lost + STARTED.format(1) + "step 10 | loss 3.89") == ""
    assert verdict(lost + STARTED.format(1) + "job 7 ends with status 0") == ""
    full = STARTED.format(1) + "OSError: [Errno 28] No space left on device\njob 7 ends with status 1"
    assert verdict(lost + full).startswith("this says: full disk.")


def test_a_job_that_ended_well_died_of_nothing():
    """A warning that another try then overcame is no cause."""
    assert verdict(STARTED.format(0) + "socket has timed out, trying again\njob 7 ends with status 0") == ""


def test_a_cancelled_job_is_told_from_one_that_slurm_killed():
    assert verdict(STARTED.format(0) + KILLED.format("")).startswith("the job was cancelled")
    assert verdict(STARTED.format(0), "CANCELLED").startswith("the job was cancelled")
    assert "StepId=1.batch exceeded memory limit" in (ended := recorded_endings()["endings"]["out of memory"])
    assert verdict(ended, "CANCELLED").startswith("this says: out of memory.")
