"""A cluster that keeps accounts, as TACC does: Slurm's own database daemon on a MariaDB, for these tests alone.

Without the database Slurm takes any account: it refuses one only where it knows the user's own.
"""

import os
import re
import secrets
import socket
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Cluster, free_ports, needs, running

from course_lib.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]
SETTINGS = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
"""
DAEMON = """DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=slurm
StoragePass={password}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def answers(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


class ClusterWithAccounts(Cluster):
    """The user may charge the account `lighthouse`, and no other."""

    def __init__(self, folder):
        self.port, self.storage = free_ports(2)
        super().__init__(folder, SETTINGS.format(port=self.port, folder=folder))

    def before_slurmctld(self):
        self.run_database(secrets.token_hex(16))
        self.run_daemon("slurmdbd", "-D")
        self.wait(lambda: answers(self.port), "slurmdbd")
        self.wait(lambda: "course" in self.ask("sacctmgr", "-nP", "list", "cluster") or self.add("cluster", "course"),
                  "the cluster in the accounts")  # fmt: skip
        self.add("account", "lighthouse", "Cluster=course")
        self.add("user", "root", "Account=lighthouse")

    def add(self, *what):
        self.ask("sacctmgr", "-i", "add", *what)

    def run_database(self, password):
        configuration = self.folder / "slurmdbd.conf"
        configuration.touch(0o600)
        configuration.write_text(
            DAEMON.format(folder=self.folder, port=self.port, storage=self.storage, password=password)
        )
        data, first = self.folder / "database", self.folder / "database.sql"
        first.write_text(
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
        )
        made = subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        self.run_daemon(
            "mariadbd", "--no-defaults", f"--datadir={data}", "--user=root", f"--socket={data}/socket",
            "--bind-address=127.0.0.1", f"--port={self.storage}", "--skip-name-resolve", f"--init-file={first}",
            f"--log-error={self.folder}/mariadbd.log", "--innodb-buffer-pool-size=32M",
        )  # fmt: skip
        self.wait(lambda: answers(self.storage), "the database")

    def forget_jobs(self):
        """Start slurmctld without its jobs, as it is when each of them has ended long ago."""
        old = next(process for process in self.processes if process.args[0] == "slurmctld")
        old.terminate()
        old.wait(60)
        self.processes.remove(old)
        self.run_daemon("slurmctld", "-D", "-c")
        self.wait(lambda: "UP" in self.ask("scontrol", "ping"), "slurmctld again")


@pytest.fixture(scope="module")
def accounts(cluster):
    """The test's cluster in place of the one without accounts; `cluster` says when there is no Slurm at all."""
    needs(["slurmdbd", "mariadbd", "mariadb-install-db"], "slurmdbd mariadb-server")
    with running(ClusterWithAccounts(Path("/tmp") / f"course-accounts-{os.getpid()}")) as made:
        yield made


def test_an_account_that_is_not_ours_is_refused(accounts, project, capsys):
    assert main(["submit", "01", "--profile", "test.toml", "--account", "nobody"]) == 2
    said = capsys.readouterr().err
    assert "sbatch refused: " in said
    assert "Invalid account or account/partition combination specified" in said, "Slurm's own words"
    assert not list((project / "build" / "jobs").glob("*"))
    named = re.search(r"`(sacctmgr [^`]+)`", said)[1]
    listed = subprocess.run(named, shell=True, capture_output=True, text=True, check=True)
    assert "lighthouse" in listed.stdout.split(), "the command that the message names lists our accounts"


def test_a_job_that_slurm_has_forgotten_is_found_in_its_accounts(accounts, project, capsys):
    numbers = []
    for chapter in ("01", "02"):
        assert main(["submit", chapter, "--profile", "test.toml", "--account", "lighthouse"]) == 0
        numbers += re.findall(r"\d+", capsys.readouterr().out.splitlines()[0].split(" to ")[0])
    assert [accounts.wait_for(number) for number in numbers] == [["COMPLETED"], ["FAILED"]]
    accounts.forget_jobs()
    assert [accounts.state(number) for number in numbers] == [[], []]
    assert main(["jobs"]) == 0
    listed = dict(re.findall(r"^ *(\d+) +([A-Z]+) ", capsys.readouterr().out, re.MULTILINE))
    assert listed == dict(zip(numbers, ["COMPLETED", "FAILED"], strict=True))
