"""`course submit` and `course jobs` on a real Slurm of two virtual nodes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cluster_chapters import write_chapter
from safetensors.torch import load_file
from tiny_runs import TEXT

from course_lib.cli import main

ROOT = Path(__file__).parents[2]
STEPS = 40
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


@pytest.fixture
def submit(cluster, project, capsys):
    def _submit(*arguments, profile="test.toml"):
        assert main(["submit", "--profile", profile, *arguments]) == 0
        return re.findall(r"\d+", capsys.readouterr().out.splitlines()[0].split(" to ")[0])

    return _submit


def output(project):
    return "\n".join(path.read_text() for path in sorted((project / "build" / "jobs").glob("*/*.out")))


def test_a_chapter_is_executed_and_collected(cluster, submit, project, capsys):
    (job,) = submit("01")
    assert cluster.wait_for(job) == ["COMPLETED"], output(project)
    recorded = json.loads((project / "build/run/test/01_good/metrics.json").read_text())["recorded"]
    assert recorded["answer"] == 42
    assert main(["jobs"]) == 0
    assert re.search(rf"{job}  COMPLETED +01 ", capsys.readouterr().out)
    assert main(["jobs", "logs", job]) == 0
    assert "ends with status 0" in capsys.readouterr().out
    assert main(["jobs", "collect", job, "--to", "results"]) == 0
    assert {"01_good", "job.json", "job.sh"} <= {path.name for path in (project / "results").iterdir()}
    assert main(["jobs", "collect", job, "--to", "results"]) == 2  # nothing is overwritten
    assert main(["jobs", "cancel", job]) == 0  # it has ended already
    record = json.loads((project / "results" / "job.json").read_text())
    assert record["command"][:2] == ["run", "01_good"]


def test_of_an_array_one_element_fails_and_what_depends_on_it_never_starts(cluster, submit, project, capsys):
    (array,) = submit("--array")
    (dependent,) = submit("01", "--after", array)
    assert sorted(cluster.wait_for(array)) == ["COMPLETED", "FAILED"], output(project)
    assert cluster.wait_for(dependent) == ["CANCELLED"]
    assert main(["jobs", "logs", array]) == 0
    assert "a bad chapter" in capsys.readouterr().out
    assert main(["jobs", "logs", dependent]) == 0
    assert "because the job that it waited for did not end well" in capsys.readouterr().out
    assert main(["jobs"]) == 0
    assert re.search(rf"{array}  FAILED", capsys.readouterr().out)


def test_a_bad_partition_is_refused_in_slurms_words(submit, project, capsys):
    assert main(["submit", "01", "--profile", "test.toml", "--partition", "gpu-b200"]) == 2
    assert "sbatch refused: " in (said := capsys.readouterr().err)
    assert "invalid partition" in said
    assert "`sinfo -s` lists them" in said
    assert not list((project / "build" / "jobs").glob("*"))  # nothing half submitted is left


def test_a_cancelled_job(cluster, submit, project, capsys):
    write_chapter(project / "notebooks" / "03_long.ipynb", "import time\ntime.sleep(600)")
    first, second = submit("--legs", "2", "--lead", "60", "03", "--set", "slurm.time=00:05:00")
    cluster.wait(lambda: f"job {first} on " in output(project), "the start of the first leg")
    assert main(["jobs", "cancel", second]) == 0
    assert cluster.wait_for(first) == cluster.wait_for(second) == ["CANCELLED"]
    capsys.readouterr()
    assert main(["jobs", "logs", first]) == 0
    said = capsys.readouterr().out
    assert "the job was cancelled, with `course jobs cancel` or scancel" in said
    assert f"job {second} is CANCELLED and has written nothing" in said


def test_a_missing_module_is_named(cluster, submit, project):
    (job,) = submit("01", "--set", 'slurm.modules=["python3/9.9"]')
    assert cluster.wait_for(job) == ["FAILED"]
    assert "there is no module python3/9.9 here; try: module spider python3" in output(project)


def test_lmod_loads_a_module_and_names_one_that_is_not_there(cluster, submit, project, modules):
    """A stale name in a profile, after the site renewed its modules."""
    write_chapter(project / "notebooks" / "01_good.ipynb", "import os\nrecord(module=os.environ['COURSE_TEST_MODULE'])")
    (good,) = submit("01", "--set", 'slurm.modules=["python3/3.9.7"]')
    assert cluster.wait_for(good) == ["COMPLETED"], output(project)
    recorded = json.loads((project / "build/run/test/01_good/metrics.json").read_text())["recorded"]
    assert recorded["module"] == "loaded"
    (stale,) = submit("01", "--set", 'slurm.modules=["python3/9.9"]')
    assert cluster.wait_for(stale) == ["FAILED"]
    assert 'The following module(s) are unknown: "python3/9.9"' in " ".join(output(project).split()), "Lmod's own words"
    assert "there is no module python3/9.9 here; try: module spider python3" in output(project)


def losses(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines)]


@pytest.fixture(scope="module")
def training(tmp_path_factory, model_folders):
    """The words of a run of some seconds, and its losses without an interruption."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "notes.txt").write_text(TEXT)
    words = ["train", "--mode", "full", "--model", str(model_folders / "llama"), "--seq-len", "32", "--threads", "1"]
    words += ["--dataset", str(folder / "notes.txt"), "--steps", str(STEPS), "--batch-size", "4", "--log-every", "1"]
    command = [sys.executable, "-m", "course_lib.cli", *words, "--output", str(folder / "alone")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return words, losses(folder / "alone")


class TestOutlivingTheLimit:
    """The signal that Slurm sends before the limit is sent by hand but for one test: its limits are whole minutes."""

    def interrupt(self, cluster, project, job):
        """Send what `--signal` sends, once the run has taken some steps."""
        log = project / "out" / "log.jsonl"
        cluster.wait(lambda: log.exists() and len(log.read_text().splitlines()) > 2, "the first steps")
        cluster.ask("scancel", "--batch", "--signal=USR1", job)

    def test_a_chain_goes_on_from_the_checkpoint(self, cluster, submit, project, training, capsys):
        words, expected = training
        first, second = submit("--legs", "2", "--", *slowly(words, project), "--output", "out")
        self.interrupt(cluster, project, first)
        assert cluster.wait_for(first) == ["FAILED"], output(project)  # 75: to be continued
        assert "the next leg goes on from here" in output(project)
        assert 0 < len(losses(project / "out")) < STEPS
        assert cluster.wait_for(second) == ["COMPLETED"], output(project)
        assert losses(project / "out") == expected
        assert main(["jobs", "logs", first]) == 0
        assert capsys.readouterr().out.count("this says: time limit") == 1, "of the first leg, not of the second"

    def test_a_requeued_job_goes_on_from_the_checkpoint(self, cluster, submit, project, training):
        words, expected = training
        (job,) = submit("--requeue", "--", *slowly(words, project), "--output", "out")
        self.interrupt(cluster, project, job)
        cluster.wait(lambda: "going back into the queue" in output(project), "the requeue")
        cluster.start_again(job)
        assert cluster.wait_for(job) == ["COMPLETED"], output(project)
        assert "start 1," in output(project)
        assert losses(project / "out") == expected

    def test_legs_that_are_not_needed_end_at_once(self, cluster, submit, project, training):
        words, expected = training
        first, second = submit("--legs", "2", "--", *words, "--output", "out")
        assert cluster.wait_for(second) == ["COMPLETED"], output(project)
        assert "an earlier leg has finished the work" in output(project)
        assert losses(project / "out") == expected


def slowly(words, project, pause=0.5):
    """The same run with a pause in each step of a job's first start, so that a test can interrupt it."""
    folder = project / "slowly"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "first = os.environ.get('SLURM_RESTART_COUNT', '0') == '0'\n"
        "if 'SLURM_JOB_ID' in os.environ and first and 'course_lib.cli' in sys.orig_argv:\n"
        "    import course_lib.training.trainer as trainer\n"
        "    step = trainer.Trainer.step\n"
        f"    trainer.Trainer.step = lambda *args: (time.sleep({pause}), step(*args))[1]\n"
    )
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"  # `project` puts it back
    return words


def test_a_limit_of_two_minutes(cluster, submit, project, training):
    """Slurm's own signal, which may come up to a minute early, so each leg may take a few steps only."""
    words, expected = training
    legs = submit(
        "--legs", "3", "--time", "00:02:00", "--lead", "60", "--", *slowly(words, project, 2.0), "--output", "out"
    )
    assert cluster.wait_for(legs[-1], 500) == ["COMPLETED"], output(project)
    assert "the time is nearly over" in output(project)
    assert losses(project / "out") == expected


def test_a_node_that_goes_down_in_the_middle(cluster, submit, project, training, capsys):
    """Slurm puts a job that may be requeued on another node, and it goes on from its last checkpoint."""
    words, expected = training
    (job,) = submit("--requeue", "--", *slowly(words, project), "--checkpoint-every", "3", "--output", "out")
    log = project / "out" / "log.jsonl"
    cluster.wait(lambda: log.exists() and len(log.read_text().splitlines()) > 6, "the first steps")
    node = re.search(r" NodeList=(n\d)", cluster.ask("scontrol", "show", "job", "-o", job))[1]
    cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    # the daemon there is alive and reports back at once, but nothing new may start there
    cluster.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        cluster.wait(lambda: "DUE TO NODE FAILURE" in output(project), "the reason in the output")
        assert main(["jobs", "logs", job]) == 0
        assert "this says: bad node" in capsys.readouterr().out
        cluster.start_again(job)
        assert cluster.wait_for(job) == ["COMPLETED"], output(project)
    finally:
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert f"job {job} on {({'n1', 'n2'} - {node}).pop()}, start 1" in output(project)
    assert losses(project / "out") == expected


def test_a_full_disk_names_itself_and_the_run_goes_on_when_there_is_room(
    cluster, submit, project, training, small_disk
):
    words, expected = training
    (project / "startup").mkdir()
    (project / "startup" / "sitecustomize.py").write_text(small_disk.startup)
    os.environ["PYTHONPATH"] = f"{project / 'startup'}{os.pathsep}{ROOT}"  # `project` puts it back
    out = small_disk.folder / "out"
    command = [*words, "--checkpoint-every", "2", "--keep", "50", "--output", str(out)]
    (job,) = submit("--", *command)
    assert cluster.wait_for(job) == ["FAILED"], output(project)
    assert "No space left on device" in output(project)
    assert "Traceback" not in output(project)
    assert not list(out.glob("checkpoints/*.tmp*")), "half a checkpoint fills the disk for the next try, too"
    small_disk.enlarge()
    (job,) = submit("--", *command, "--resume")
    assert cluster.wait_for(job) == ["COMPLETED"], output(project)
    assert losses(out) == expected


def test_a_job_over_its_memory_is_killed_and_says_so(cluster, submit, project, capsys):
    source = "import time\nx = bytearray(300_000_000)\ntime.sleep(30)"  # Slurm looks every two seconds
    write_chapter(project / "notebooks" / "03_large.ipynb", source)
    (job,) = submit("03", "--mem", "200M")
    assert cluster.wait_for(job)[0] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED"), output(project)
    cluster.wait(lambda: "exceeded memory limit" in output(project), "the reason in the output")
    assert main(["jobs", "logs", job]) == 0
    assert "this says: out of memory. Halve batch_size" in capsys.readouterr().out


@pytest.mark.parametrize("how", [[], ["--shard"]], ids=["data parallel", "sharded"])
def test_two_nodes_give_the_losses_of_one_process(cluster, submit, project, training, how, monkeypatch):
    """torchrun on each node; they meet at the first one, of which Slurm knows the address.

    The folders of results have to be alike too: a sharded model is put together before it is saved. The job has its
    nodes whole, as at TACC, and names no CPUs: then its processes may use all of them.
    """
    words, expected = training
    monkeypatch.setenv("SBATCH_EXCLUSIVE", "exclusive")
    (project / "startup").mkdir()
    (project / "startup" / "sitecustomize.py").write_text(
        "import os\n"
        "if 'SLURM_STEP_ID' in os.environ:\n"
        f"    with open({str(project / 'cpus')!r}, 'a') as file:\n"
        "        print(os.environ['SLURM_NODEID'], os.environ['SLURM_CPUS_ON_NODE'], file=file)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{project / 'startup'}{os.pathsep}{ROOT}")
    hardware = ["device=cpu", "num_gpus=1", "is_distributed=true", "world_size=2", "mixed_precision=no"]
    settings = [word for each in hardware for word in ("--set", f"hardware.{each}")]
    rules = ["--site-set", "gres=false"]
    (job,) = submit("--nodes", "2", *settings, *rules, "--", *words, *how, "--output", "out")
    assert cluster.wait_for(job) == ["COMPLETED"], output(project)
    assert set((project / "cpus").read_text().splitlines()) == {"0 2", "1 2"}
    assert losses(project / "out") == pytest.approx(expected, abs=1e-5)
    alone = Path(words[words.index("--dataset") + 1]).with_name("alone")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (project / "out", alone))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():  # Adam's first steps have the size of lr, whichever way rounding points
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=0)
