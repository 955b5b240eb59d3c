"""What the tests of the project's files share."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """Every file that git knows of and that is there; the tests of it are skipped outside a checkout."""
    git = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]


def clone_of_working_tree(folder: Path) -> Path:
    """A clone in `folder`, on the branch `colab`, of what git tracks here with its present changes."""
    tree = subprocess.run(["git", "stash", "create"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "fetch", "--quiet", str(ROOT), tree or "HEAD"], cwd=folder, check=True)
    subprocess.run(["git", "switch", "--quiet", "--create", "colab", "FETCH_HEAD"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def published(tracked_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that stands for the published repository; nothing may change it."""
    return clone_of_working_tree(tmp_path_factory.mktemp("published") / "course")
