"""A real Slurm of two virtual nodes on this machine, started once for the tests of this folder.

It needs Debian's `slurm-wlm` and `munge`, and root, which CI has. Elsewhere the tests are skipped with the reason.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_chapters import write_chapter
from slurm_cluster import Cluster, needs, running
from tiny_runs import model_folders, tokenizer  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


@pytest.fixture(scope="session")
def cluster():
    needs(NEEDED, "slurm-wlm munge")
    if os.geteuid():
        pytest.skip("the daemons of the test cluster have to be started by root")
    with running(Cluster(Path("/tmp") / f"course-slurm-{os.getpid()}")) as made:  # short: names of sockets have a limit
        yield made


LMOD = Path("/usr/share/lmod/lmod/init/bash")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Lmod as TACC has it: each bash knows `module`. The folder holds one module, python3/3.9.7."""
    if not LMOD.is_file():
        if os.environ.get("CI"):
            pytest.fail("CI has to install lmod: .ci/run does")
        pytest.skip("no Lmod here: apt install lmod")
    tree = tmp_path / "modulefiles" / "python3"
    tree.mkdir(parents=True)
    (tree / "3.9.7.lua").write_text('setenv("COURSE_TEST_MODULE", "loaded")\n')
    monkeypatch.setenv("BASH_ENV", str(LMOD))
    monkeypatch.setenv("MODULEPATH", str(tree.parent))
    return tree.parent


class SmallDisk:
    """A folder that takes so many MB and no more: a file system of its own in memory.

    Where mounting is refused (a container without that right), a checkpoint beyond the limit meets the same error from
    Python, raised by the job's `sitecustomize`.
    """

    def __init__(self, folder, megabytes):
        self.folder, self.megabytes = folder, megabytes
        folder.mkdir()
        self.mounted = self._mount("-o", f"size={megabytes}m") == 0

    def _mount(self, *options):
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode

    @property
    def startup(self):
        """Lines for the job's sitecustomize."""
        if self.mounted:
            return ""
        return (
            "import errno\n"
            "from pathlib import Path\n"
            f"disk = Path({str(self.folder)!r})\n"
            "import course_lib.training.checkpoint as points\n"
            "save = points.Checkpoints.save\n"
            "def limited(self, *args, **named):\n"
            "    used = sum(path.stat().st_size for path in disk.rglob('*') if path.is_file())\n"
            f"    if used > {self.megabytes}e6 and not (disk / 'enlarged').exists():\n"
            "        raise OSError(errno.ENOSPC, 'No space left on device', str(disk))\n"
            "    return save(self, *args, **named)\n"
            "points.Checkpoints.save = limited\n"
        )

    def enlarge(self):
        if self.mounted:
            assert self._mount("-o", "remount,size=500m") == 0
        else:
            (self.folder / "enlarged").touch()

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk", 2)
    yield disk
    disk.close()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that `course submit` takes for a clone: two tiny chapters, and this environment as its .venv."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name, source in (("01_good", "record(answer=42)"), ("02_bad", "raise ValueError('a bad chapter')")):
        write_chapter(tmp_path / "notebooks" / f"{name}.ipynb", source)
    profile = tmp_path / "test.toml"
    profile.write_text(
        'extends = "smoke"\n["01_good"]\nsteps = 1\n["02_bad"]\nsteps = 1\n'
        '[slurm]\nsite = "any"\npartition = "gpu-a100"\ntime = "00:10:00"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SCRATCH", raising=False)
    return tmp_path
