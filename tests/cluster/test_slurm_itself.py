"""What Slurm does that changes a job and that one would guess wrong: plain `sbatch` scripts, nothing of ours."""

import subprocess

import pytest

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture
def run(cluster, tmp_path):
    def _run(script, *options, wait=True):
        path = tmp_path / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        command = ["sbatch", "--parsable", f"--output={tmp_path}/%j.out", *options, str(path)]
        job = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if wait:
            assert cluster.wait_for(job) == ["COMPLETED"]
            return (tmp_path / f"{job}.out").read_text()
        return job

    return _run


@pytest.mark.library(
    package="Slurm",
    happens="A job whose dependency can never be met waits for ever",
    expected="When the first job fails, the job that needs it is cancelled.",
    instead="Submit with `--kill-on-invalid-dep=yes`, as `course submit --after` does, or use `afterany`.",
    chapter="cluster",
)
def test_a_dependency_that_can_never_be_met(cluster, run):
    first = run("exit 1", wait=False)
    assert cluster.wait_for(first) == ["FAILED"]
    second = run("true", f"--dependency=afterok:{first}", wait=False)
    reason = lambda: "DependencyNeverSatisfied" in cluster.ask("squeue", "-h", "-j", second, "-o", "%r")  # noqa: E731
    cluster.wait(reason, "the reason of the waiting job")
    assert cluster.state(second) == ["PENDING"]
    cluster.ask("scancel", second)
    third = run("true", f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes", wait=False)
    assert cluster.wait_for(third) == ["CANCELLED"]


@pytest.mark.library(
    package="Slurm",
    happens="`--signal=USR1@60` reaches the job's steps and not the batch script",
    expected="The script that was submitted gets the warning before the limit.",
    instead="Write `--signal=B:USR1@60` for the script, start `srun … &` and `wait`; or leave it without B: and let "
    "the "
    "program under `srun` handle the signal.",
    chapter="cluster",
)
def test_who_gets_the_signal(cluster, run):
    """`scancel --signal` takes the same two ways, without waiting for a time limit."""
    script = "trap 'echo shell' USR1\nsrun bash -c 'trap \"echo step\" USR1; touch {0}; for i in {{1..400}}; do \
[ -e {1} ] && exit; sleep 0.1; done' &\nwait; wait"
    folder = cluster.folder
    for option, heard in (("", "step"), ("--batch", "shell")):
        ready, stop = (folder / f"{name}{option}" for name in ("ready", "stop"))
        job = run(script.format(ready, stop), wait=False)
        cluster.wait(ready.exists, "the step")
        cluster.ask("scancel", "--signal=USR1", *filter(None, [option]), job)
        path = next(path for path in _outputs(cluster, job))
        cluster.wait(lambda: {"step", "shell"} & set(path.read_text().split()), "the trap", 60)  # noqa: B023
        stop.touch()
        assert cluster.wait_for(job) == ["COMPLETED"]
        assert {"step", "shell"} & set(path.read_text().split()) == {heard}


def _outputs(cluster, job):
    from pathlib import Path

    told = cluster.ask("scontrol", "show", "job", "-o", job)
    yield Path(next(word.partition("=")[2] for word in told.split() if word.startswith("StdOut=")))


@pytest.mark.library(
    package="Slurm",
    happens="A step gets all processors of the job, whatever `SLURM_CPUS_PER_TASK` says",
    expected="`srun` without options gives each task the `--cpus-per-task` of `sbatch`.",
    instead="Pass `-c $SLURM_CPUS_PER_TASK --exact`, or set `SRUN_CPUS_PER_TASK`, and set the number of threads "
    "yourself.",
    chapter="cluster",
)
def test_the_processors_of_a_step(run):
    printed = run('srun -n1 bash -c "echo $SLURM_CPUS_PER_TASK \\$SLURM_CPUS_ON_NODE"', "-n1", "-c2", "-N1")
    assert printed.split() == ["2", "2"]
