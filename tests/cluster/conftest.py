"""A real Slurm of two virtual nodes on this machine, started once for the tests of this folder.

It needs Debian's `slurm-wlm` and `munge`, and root, which CI has. Elsewhere the tests are skipped with the reason.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_chapters import write_chapter
from tiny_runs import model_folders, tokenizer  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
CONFIGURATION = """ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=2000
ReturnToService=2
SlurmUser=root
KillWait=5
MinJobAge=3600
SchedulerParameters=bf_interval=1,sched_interval=1,default_queue_depth=100
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=6000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=6000
PartitionName=gpu-a100 Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """The running daemons, and what the tests ask of Slurm."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def start(self):
        host, (port, first, second) = socket.gethostname(), free_ports(3)
        text = CONFIGURATION.format(host=host, folder=self.folder, port=port, first=first, second=second)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.run_daemon(
            "munged", "--foreground", f"--key-file={key}", f"--socket={self.folder}/munge.socket", "--force",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        self.wait(lambda: (self.folder / "munge.socket").exists(), "munged's socket")
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.run_daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.run_daemon("slurmd", "-D", "-N", node)
        self.wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], "both nodes idle")

    def run_daemon(self, *command):
        with (self.folder / f"{command[0]}.out").open("a") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def stop(self):
        subprocess.run(["scancel", "--state=RUNNING"], capture_output=True)
        subprocess.run(["scancel", "--state=PENDING"], capture_output=True)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, *command):
        return subprocess.run(command, capture_output=True, text=True).stdout

    def state(self, job):
        told = self.ask("scontrol", "show", "job", "-o", str(job))
        return [word.partition("=")[2] for word in told.split() if word.startswith("JobState=")]

    def wait(self, is_so, what, seconds=120):
        end = time.monotonic() + seconds
        while not (value := is_so()):
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))
                pytest.fail(f"{what}: not after {seconds} s\n{self.ask('squeue')}\n{logs}")
            time.sleep(0.3)
        return value

    def start_again(self, job):
        """Start a requeued job now: Slurm waits two minutes by itself.

        Within that time the first start's last message has long arrived. It must have arrived here too, or it would be
        taken for the second start's.
        """
        self.wait(lambda: self.state(job) == ["PENDING"], f"job {job} in the queue again")
        logs = [self.folder / f"slurmd-{node}.log" for node in ("n1", "n2")]
        done = f"[{job}.batch] done with job"
        self.wait(lambda: any(done in log.read_text() for log in logs), "the end of the first start")
        end = time.monotonic() + 10
        while f"_job_complete: JobId={job} " not in (self.folder / "slurmctld.log").read_text():
            if time.monotonic() > end:
                break
            time.sleep(0.3)
        time.sleep(2)  # a node refuses to start again what it has killed within the same second
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait_for(self, job, seconds=240):
        """The states that a job or the elements of an array end in."""
        over = lambda: (states := self.state(job)) and all(each in ENDED for each in states) and states  # noqa: E731
        return self.wait(over, f"the end of job {job}", seconds)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI has to install slurm-wlm and munge: there is no {', '.join(missing)}")
    if missing:
        pytest.skip(f"no Slurm here ({', '.join(missing)}): apt install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("the daemons of the test cluster have to be started by root")
    folder = Path("/tmp") / f"course-slurm-{os.getpid()}"  # short: names of sockets have a limit
    folder.mkdir(mode=0o755)
    made = Cluster(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            made.start()
            yield made
        finally:
            made.stop()
            shutil.rmtree(folder, ignore_errors=True)


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
