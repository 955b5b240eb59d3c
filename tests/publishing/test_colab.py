"""Colab's copies of the chapters: the same notebooks behind one more cell, on a branch that the buttons lead to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.publishing.colab import BRANCH, CELL_ID, CHOSEN, colab_copy, write_copies
from course_lib.publishing.mending import mend

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/someone/course"


def test_every_chapter_has_a_copy_that_differs_by_the_cell_and_the_profile_alone(tmp_path):
    paths = write_copies(ROOT, tmp_path, ADDRESS)
    assert [path.name for path in paths] == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        before = json.loads((ROOT / "notebooks" / path.name).read_text(encoding="utf-8"))
        after = json.loads(path.read_text(encoding="utf-8"))
        first, *cells = after["cells"]
        assert first["id"] == CELL_ID
        assert f"--branch {BRANCH} {ADDRESS} ~/course" in "".join(first["source"])
        assert {**after, "cells": []} == {**before, "cells": []}
        changed = [(old, new) for old, new in zip(before["cells"], cells, strict=True) if old != new]
        ((old, new),) = changed
        assert "parameters" in old["metadata"]["tags"]
        assert "".join(new["source"]).splitlines() == [CHOSEN, *"".join(old["source"]).splitlines()[1:]]


def test_a_chapter_without_the_line_is_refused():
    with pytest.raises(
        CourseError, match="x: Colab's copy needs one cell tagged `parameters` with a line `profile = \""
    ):
        colab_copy({"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["seed = 0"]}]}, ADDRESS, "x")


def test_the_address_is_the_published_one_unless_another_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["book", "--colab", str(tmp_path / "copies")]) == 0
    count = len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert f"{count} chapters for Colab in" in capsys.readouterr().out
    published = (ROOT / "book/_config.yml").read_text(encoding="utf-8").split("  url: ")[1].split()[0]
    assert published in (tmp_path / "copies/03_lora.ipynb").read_text(encoding="utf-8")


def test_the_buttons_lead_to_the_branch_with_the_copies(tmp_path):
    (tmp_path / "_static").mkdir()
    colab = "https://colab.research.google.com/github/someone/course/blob"
    binder = '<a href="https://mybinder.org/v2/gh/someone/course/main?urlpath=lab/tree/notebooks/03_lora.ipynb">'
    page = tmp_path / "03_lora.html"
    page.write_text(f'<a href="{colab}/release/1.0/notebooks/03_lora.ipynb">{binder}')
    mend(tmp_path)
    assert page.read_text() == f'<a href="{colab}/{BRANCH}/notebooks/03_lora.ipynb">{binder}'


def test_the_script_pushes_the_copies_and_leaves_this_clone_alone(tmp_path):
    """On a clone, into an empty repository, twice: a later push replaces the branch."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    clone, published = tmp_path / "clone", tmp_path / "published"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    for name in (".ci/colab", "course_lib/publishing/colab.py", "course_lib/commands/book.py"):
        (clone / name).write_bytes((ROOT / name).read_bytes())  # as they are now
        (clone / name).chmod(0o755)
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run(
        ["git", *identity, "commit", "--quiet", "--all", "--allow-empty", "-m", "now"], cwd=clone, check=True
    )
    subprocess.run(["git", "init", "--quiet", "--bare", str(published)], check=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for _ in range(2):
        command = [str(clone / ".ci/colab"), ADDRESS, str(published)]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def git(*words: str, at: Path = published) -> str:
        return subprocess.run(["git", *words], cwd=at, check=True, capture_output=True, text=True).stdout

    assert git("rev-parse", f"{BRANCH}~").strip() == git("rev-parse", "HEAD", at=clone).strip()
    changed = git("diff", "--name-only", f"{BRANCH}~", BRANCH).split()
    assert changed == sorted(f"notebooks/{path.name}" for path in (clone / "notebooks").glob("*.ipynb"))
    assert git("status", "--porcelain", at=clone) == ""
    assert len(git("worktree", "list", at=clone).splitlines()) == 1
