"""What a job says when it dies, and that `explain` names the cause: the ways that test_slurm.py does not provoke."""

import json
import os
import re
import subprocess

import pytest
from cluster_chapters import write_chapter

from course_lib.cli import main
from course_lib.execution.slurm.causes import explain

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


@pytest.fixture
def ends(cluster, project, capsys):
    """Submit, wait for the end, and return the job's output with what `course jobs logs` says of it."""

    def _ends(*arguments):
        assert main(["submit", "--profile", "test.toml", *arguments]) == 0
        (job,) = re.findall(r"\d+", capsys.readouterr().out.splitlines()[0].split(" to ")[0])
        state = cluster.wait_for(job)
        text = "\n".join(path.read_text() for path in sorted((project / "build" / "jobs").glob("*/*.out")))
        assert main(["jobs", "logs", job]) == 0
        said = capsys.readouterr().out
        return state, text, said

    return _ends


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB: too small for a checkpoint."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_torn_checkpoint(ends, small_disk, model_folders, tmp_path):
    (tmp_path / "notes.txt").write_text("\n\n".join(f"The keeper lit lamp {n}." for n in range(80)))
    state, text, said = ends(
        "--", "train", "--mode", "full", "--model", str(model_folders / "llama"), "--seq-len", "32", "--threads", "1",
        "--dataset", str(tmp_path / "notes.txt"), "--steps", "4", "--batch-size", "4", "--checkpoint-every", "2",
        "--output", str(small_disk / "out"),
    )  # fmt: skip
    assert state == ["FAILED"], text
    assert explain(text).name == "full disk", text
    assert "this says: full disk" in said
    assert not list(small_disk.rglob("step_000002"))  # what was not whole was not renamed


def test_a_lost_rendezvous_is_named(ends, project):
    """One of two processes never comes. (torchrun's own limit is ten minutes: this is the store below it.)"""
    source = (
        "import datetime, socket, torch.distributed as dist\n"
        "with socket.socket() as free:\n    free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]\n"
        "dist.TCPStore('127.0.0.1', port, 2, True, datetime.timedelta(seconds=2))"
    )
    write_chapter(project / "notebooks" / "04_alone.ipynb", source)
    state, text, said = ends("04")
    assert state == ["FAILED"], text
    assert explain(text).name == "lost rendezvous", text
    assert "this says: lost rendezvous" in said


def test_a_module_that_the_site_no_longer_has_is_named(ends):
    state, text, said = ends("01", "--set", 'slurm.modules=["python3/9.9"]')
    assert state == ["FAILED"]
    assert explain(text).name == "missing module"
    assert "module spider" in said


if os.environ.get("RECORD_ENDINGS"):  # a folder: keep what the jobs said

    @pytest.fixture(autouse=True)
    def _record(request, project):
        yield
        text = "\n".join(path.read_text() for path in sorted((project / "build" / "jobs").glob("*/*.out")))
        with open(os.path.join(os.environ["RECORD_ENDINGS"], request.node.name + ".json"), "w") as file:
            json.dump(text, file)
