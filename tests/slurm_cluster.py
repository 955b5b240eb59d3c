"""A real Slurm of two virtual nodes on this machine: its daemons, and what the tests of tests/cluster ask it."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time

import pytest

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
    """Ports below the ones that the system gives to whoever asks for any, which a test beside us would get."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


class Cluster:
    """The running daemons, and what the tests ask of Slurm."""

    def __init__(self, folder, more=""):
        """`more` is what slurm.conf says besides."""
        self.folder, self.more, self.processes = folder, more, []

    def start(self):
        host, (port, first, second) = socket.gethostname(), free_ports(3)
        text = CONFIGURATION.format(host=host, folder=self.folder, port=port, first=first, second=second)
        (self.folder / "slurm.conf").write_text(text + self.more)
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
        self.before_slurmctld()
        self.run_daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.run_daemon("slurmd", "-D", "-N", node)
        self.wait(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "gpu-a100", "-o", "%T").split() == ["idle", "idle"],
            "both nodes idle",
        )

    def before_slurmctld(self):
        """What else has to run: nothing, where there is no accounting."""

    def run_daemon(self, *command):
        with (self.folder / f"{command[0]}.out").open("a") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

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


@contextlib.contextmanager
def running(made):
    """Start a cluster in its new folder, with SLURM_CONF pointing at it, until the block ends."""
    made.folder.mkdir(mode=0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.folder / "slurm.conf"))
        try:
            made.start()
            yield made
        finally:
            made.stop()
            shutil.rmtree(made.folder, ignore_errors=True)


def needs(programs, packages):
    """Skip where a program is missing, and say which packages have it; CI has to have them all."""
    missing = ", ".join(name for name in programs if shutil.which(name) is None)
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI has to install {packages}: there is no {missing}")
    if missing:
        pytest.skip(f"there is no {missing} here: apt install {packages}")
