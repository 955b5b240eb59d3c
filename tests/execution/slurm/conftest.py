"""Slurm's commands, as stand-ins."""

import pytest


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands: they write down their words and print what the test says."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def command(name, printed, status=0):
        script = folder / name
        script.write_text(
            f"#!/bin/sh\necho {name} \"$@\" >> {tmp_path}/calls\ncat <<'END'\n{printed}\nEND\nexit {status}\n"
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return command
