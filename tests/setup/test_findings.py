"""The scripts in findings/ keep the rules of their README; what they find is checked by the Drift workflow."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))


def head(script: Path) -> str:
    """The comment at the head of a script."""
    return re.match(r"#!.*\n((?:#.*\n)+)", script.read_text(encoding="utf-8"))[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_finding_keeps_the_rules(script):
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    packages = re.search(r"^packages=\((.*)\)$", text, re.MULTILINE)[1].split()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", package) for package in packages)
    for package in packages:  # the head states the version that the script installs
        assert package.replace("==", " ") in head(script)
    for word in ("Guess: ", "Behaviour: ", "Here: "):
        assert f"# {word}" in head(script)
    assert "course_lib" not in text
    assert "autograder" not in text
    assert 'if [ -n "${NEWEST:-}" ]; then' in text
    assert "trap 'rm -rf \"$folder\"' EXIT" in text


def test_the_table_lists_each_script_with_its_versions():
    table = (ROOT / "findings/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(.*?)\]\(\1\) \| (.*?) \|", table, re.MULTILINE))
    assert rows.keys() == {script.name for script in SCRIPTS}
    for script in SCRIPTS:
        packages = re.search(r"^packages=\((.*)\)$", script.read_text(encoding="utf-8"), re.MULTILINE)[1].split()
        assert rows[script.name] == ", ".join(packages).replace("==", " ")


def test_the_runner_tells_as_stated_changed_and_could_not_run_apart(tmp_path):
    for folder in (".ci", "findings"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci/findings", tmp_path / ".ci/findings")

    def finding(name: str, body: str) -> None:
        (tmp_path / f"findings/{name}.sh").write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / f"findings/{name}.sh").chmod(0o755)

    finding("gone", 'echo looked; [ -z "${NEWEST:-}" ]')
    finding("offline", "exit 2")
    finding("same", "exit 0")
    result = subprocess.run([tmp_path / ".ci/findings"], capture_output=True, text=True)
    assert result.stdout.splitlines()[2:] == [
        "| gone | as stated | **changed** |",
        "| offline | could not run | could not run |",
        "| same | as stated | as stated |",
    ]
    assert result.returncode == 1
    assert (tmp_path / "build/findings/gone.newest.log").read_text() == "looked\n"

    finding("gone", "exit 0")
    assert subprocess.run([tmp_path / ".ci/findings"], capture_output=True).returncode == 0

    def names(share: str) -> list[str]:
        said = subprocess.run([tmp_path / ".ci/findings", share], capture_output=True, text=True).stdout
        return re.findall(r"^\| (\w+) \| (?:as|could)", said, re.MULTILINE)

    shares = [names(f"{number}/2") for number in (1, 2)]
    assert shares == [["gone", "same"], ["offline"]]
    refused = subprocess.run([tmp_path / ".ci/findings", "3/2"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "3/2 is no share of the scripts" in refused.stderr
