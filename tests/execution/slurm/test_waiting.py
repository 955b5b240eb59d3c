"""`course submit --after JOB`: Slurm itself starts a job at once that waits for one which it has forgotten."""

import json
from dataclasses import replace

import pytest

from course_lib.errors import CourseError
from course_lib.execution.slurm.jobs import submit
from course_lib.execution.slurm.script import Job
from course_lib.execution.slurm.site import load_site

JOB = Job("lesson", ("run", "03_lora", "--profile", "tacc_h100"), "h100", "02:00:00", after="12")


def submitted(tmp_path, job=JOB):
    """Submit the job; returns the words that sbatch got."""
    submit(job, load_site("stampede3"), tmp_path / "jobs" / "a", tmp_path)
    return next(call for call in (tmp_path / "calls").read_text().splitlines() if call.startswith("sbatch"))


def refuses(tmp_path, said):
    with pytest.raises(CourseError, match=said):
        submitted(tmp_path)
    calls = tmp_path / "calls"
    assert not calls.exists() or "sbatch" not in calls.read_text()
    assert not (tmp_path / "jobs" / "a").exists()


@pytest.mark.parametrize(
    ("shown", "accounted"),
    [
        ("JobId=12 JobState=RUNNING Reason=None", ""),
        ("JobId=12 JobState=PENDING Reason=Priority", ""),
        ("JobId=12 JobState=COMPLETED Reason=None", ""),
        ("", "COMPLETED"),  # slurmctld has forgotten it, the accounts have not
    ],
)
def test_a_job_that_may_end_well_is_waited_for(slurm, tmp_path, shown, accounted):
    slurm("sbatch", "4711")
    slurm("scontrol", shown)
    slurm("sacct", accounted)
    assert "--dependency=afterok:12 --kill-on-invalid-dep=yes" in submitted(tmp_path)


@pytest.mark.parametrize(
    ("shown", "accounted", "said"),
    [
        ("", "CANCELLED by 1000", "--after 12: this job is CANCELLED, so yours would never start"),
        ("", "PREEMPTED", "--after 12: this job is PREEMPTED"),
        ("JobId=12 JobState=FAILED Reason=NonZeroExitCode", "", "--after 12: this job is FAILED"),
        ("", "", "--after 12: Slurm does not know this job, or has forgotten how it ended"),
    ],
)
def test_a_failed_or_forgotten_job_is_refused(slurm, tmp_path, shown, accounted, said):
    slurm("sbatch", "4711")
    slurm("scontrol", shown)
    slurm("sacct", accounted)
    refuses(tmp_path, said)


def test_of_a_chain_the_last_leg_is_waited_for(slurm, tmp_path):
    """A leg that saves and stops at its limit is FAILED for Slurm, although the chain is well."""
    slurm("sbatch", "4711")
    slurm("scontrol", "JobId=13 JobState=RUNNING Reason=None")
    chain = tmp_path / "jobs" / "chain" / "job.json"
    chain.parent.mkdir(parents=True)
    chain.write_text(json.dumps({"jobs": ["12", "13"], "submitted": "2026-11-29T10:00:00+0000"}))
    refuses(tmp_path, "--after 12: this is a leg of a chain, .* Give the chain's last leg: --after 13.")
    assert "afterok:13" in submitted(tmp_path, replace(JOB, after="13"))


def test_a_controller_that_does_not_answer_is_not_taken_for_one_that_knows_no_job(slurm, tmp_path):
    slurm("scontrol", "Slurmctld(primary) at login1 is DOWN", 1)
    refuses(tmp_path, "scontrol refused:.*is DOWN")


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refuses(tmp_path, "There is no scontrol here: submit from a login node")
