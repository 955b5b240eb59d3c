"""What the pre-commit hooks check, for all files: ruff, mypy, codespell; and that the prose is British English."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# American spellings that are also British words in another sense, and names of things that are spelt so.
ALSO_BRITISH = {"artifact", "biased", "license", "licensed", "licenses", "meter", "meters", "practice", "program"}
ALSO_BRITISH |= {"stories", "story"}


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True)


# --- ruff ---


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    result = run("ruff", *command, ".", ".ci/binder", ".ci/gpu", ".ci/release")  # the last three have no ending
    assert result.returncode == 0, result.stdout + result.stderr


# --- mypy ---


@pytest.mark.slow
def test_the_types_are_right():
    result = run("mypy")
    assert result.returncode == 0, result.stdout + result.stderr


WRONG = """\
def f(x) -> int: return 1
def g(x: int): return 1
def h(x: int) -> str: return x
x: int = ""  # type: ignore
def right(x: int) -> int: return x
"""


def test_mypy_refuses_what_the_house_rules_refuse(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    result = run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "wrong.py", cwd=tmp_path)
    found = re.findall(r"^wrong\.py:(\d): error: .*\[([\w-]+)\]$", result.stdout, re.MULTILINE)
    assert found == [
        ("1", "no-untyped-def"),
        ("2", "no-untyped-def"),
        ("3", "return-value"),
        ("4", "ignore-without-code"),
    ]


def test_a_type_checker_of_a_user_sees_the_types():
    """PEP 561: without this file the annotations of an installed package are ignored."""
    assert (ROOT / "course_lib/py.typed").is_file()
    assert (ROOT / "autograder/py.typed").is_file()


# --- spelling ---


def test_codespell_finds_no_misspelling(tracked_files):
    result = run("codespell_lib", *(str(path.relative_to(ROOT)) for path in tracked_files))
    assert result.returncode == 0, result.stdout + result.stderr


def test_codespell_would_find_one(tmp_path):
    (tmp_path / "page.md").write_text("We recieve the colour.\n")  # codespell:ignore recieve
    result = run("codespell_lib", "--toml", str(ROOT / "pyproject.toml"), "page.md", cwd=tmp_path)
    assert result.stdout.split() == ["page.md:1:", "recieve", "==>", "receive"]  # codespell:ignore recieve


def american_words() -> dict[str, str]:
    """{American spelling: British one}, from the dictionary that codespell has for the other direction."""
    text = (resources.files("codespell_lib") / "data/dictionary_en-GB_to_en-US.txt").read_text(encoding="utf-8")
    pairs = (line.split("->") for line in text.splitlines() if "->" in line)
    return {american.split(",")[0].strip(): british for british, american in pairs}


def without_code(markdown: str) -> str:
    """Prose without code blocks (fenced, or set in), code in the line, formulas, links' targets and HTML tags."""
    markdown = re.sub(r"(?<=\n\n)(?: {4}.*\n+)+", "", markdown)
    markdown = re.sub(r"^ *(`{3,}|:{3,}).*?^ *\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.*?``|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>|https?:\S+|\*\*\w+\*\*", "", markdown)


def prose_of(path: Path) -> str:
    """Markdown, a notebook's Markdown cells, or a module's comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    elif path.suffix == ".py":
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = [ast.get_docstring(n) or "" for n in ast.walk(ast.parse(text)) if isinstance(n, documented)]
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
        text = "\n".join(docstrings + comments)
    return without_code(text)


def test_prose_is_british(tracked_files):
    american = american_words().keys() - ALSO_BRITISH
    found = []
    for path in tracked_files:
        if path.suffix in {".md", ".ipynb", ".py"}:
            # What a colon follows is the name of an argument in a docstring.
            words = re.findall(r"(?<![\w./-])[A-Za-z][a-z]+(?![\w(/:-]|\.\w)", prose_of(path))
            found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word.lower() in american]
    assert found == []


def test_an_american_word_would_be_found():
    assert {"color", "optimizer", "behavior"} <= american_words().keys() - ALSO_BRITISH
    assert without_code("the `color` of $center$ in\n```\ncolor\n```\n[color](color.md)").count("color") == 1
