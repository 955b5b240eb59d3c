"""What a run says about the machine it ran on: enough to judge its numbers, nothing that names it or its user."""

import subprocess

from course_lib.execution.environment import git_commit, hardware, kernel_environment, versions


def test_hardware_names_no_machine_and_no_user():
    found = hardware()
    assert found.keys() == {"system", "cpu", "cores", "memory_bytes", "gpus"}
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert len(found["cpu"]) > 2
    assert "/" not in found["system"] + "".join(found["gpus"]), "no paths"


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("course_lib.execution.environment.PACKAGES", ("numpy", "no-such-package"))
    assert versions().keys() == {"python", "course", "numpy"}


def test_commit_says_whether_files_differ_from_it(tmp_path):
    assert git_commit(tmp_path) is None

    def git(*arguments):
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "untracked").write_text("1")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == commit + "+changes"


def test_what_the_user_chose_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("PYTHONSTARTUP", "startup.py")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    environment = kernel_environment(tmp_path, threads=1)
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    assert "PYTHONSTARTUP" not in environment
    assert environment["IPYTHONDIR"].startswith(str(tmp_path))
