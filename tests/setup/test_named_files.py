"""Every file of the repository that a source, a comment or a page names is there."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP = ("course_lib", "tests", "autograder", "book", "notebooks", "binder", "findings", ".ci", ".github")
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, TOP))})/[\w.*/-]*\w")
READ = {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".cff", ".sh", ""}
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}")  # notebooks/NN_name.ipynb


def comments_and_docstrings(source: str) -> str:
    """What a module says of itself. The strings of a test may name files that the test makes."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [ast.get_docstring(n) or "" for n in ast.walk(ast.parse(source)) if isinstance(n, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def names_in(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" and path.is_relative_to(ROOT / "tests"):
        text = comments_and_docstrings(text)
    return set(NAMED.findall(text))


def is_there(name: str) -> bool:
    """A file or folder, a pattern that matches one, a page named without its ending; or what git is told to ignore."""
    if any(ROOT.glob(name)) or any(ROOT.glob(f"{name}.*")) or PLACEHOLDER.search(name):
        return True
    ignored = ["git", "-C", str(ROOT), "check-ignore", name, f"{name}/"]  # some patterns are for folders alone
    return subprocess.run(ignored, capture_output=True).returncode == 0


def test_files_that_sources_and_pages_name_exist(tracked_files):
    named: dict[str, list[str]] = {}
    for path in tracked_files:
        if path.suffix in READ and "mathjax" not in path.parts and path.name not in (".gitignore", ".dockerignore"):
            for name in names_in(path):
                named.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert len(named) > 50
    assert {name: where for name, where in named.items() if not is_there(name)} == {}


def test_a_file_that_is_not_there_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("See tests/nowhere/test_x.py, (tests/setup), `course_lib/data/*.py` and autograder/gradebook.db.")
    assert {name for name in names_in(page) if not is_there(name)} == {"tests/nowhere/test_x.py"}
