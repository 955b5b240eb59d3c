"""The `course` command: quick help, clear errors, exit statuses."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import course_lib
from course_lib import cli


def course(*arguments, **options):
    command = [sys.executable, "-m", "course_lib.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def imported(*arguments):
    """The top-level names that a Python process imports, and what it writes besides."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    return names, done, [line for line in lines if not line.startswith("import time:")]


def test_help_is_quick_and_names_every_command():
    """Python's own modules and our two packages, and nothing that takes seconds to import: not even NumPy."""
    names, done, errors = imported("-m", "course_lib.cli", "--help")
    at_start, _, _ = imported("-c", "")  # what this environment imports into every process
    assert "course_lib" in names
    # org: Python's own `copy` asks for Jython's org.python, in vain.
    assert names - at_start - sys.stdlib_module_names - {"org"} == {"course_lib", "autograder"}
    assert done.returncode == 0
    assert errors == []
    for command in ("run", "book", "weights", "assignment", "grade"):
        assert f"\n    {command}" in done.stdout


@pytest.mark.parametrize("command", ["run", "book", "weights", "assignment", "grade"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_a_mistake_is_one_line_without_a_traceback():
    done = course("run", "42")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("course: '42' is not a chapter")


def test_outside_a_clone_is_explained(tmp_path):
    done = course("run", cwd=tmp_path)
    assert done.returncode == 2
    assert "not inside a clone" in done.stderr


def test_impossible_options(capsys):
    assert cli.main(["run", "03", "--jobs", "0"]) == 2
    assert "--jobs 0" in capsys.readouterr().err


def test_list_and_weights(capsys):
    assert cli.main(["run", "--list"]) == 0
    assert "03_lora" in capsys.readouterr().out
    assert cli.main(["weights"]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"course {course_lib.__version__}\n"


def test_the_command_line_imports_nothing_heavy():
    heavy = {"numpy", "torch", "transformers", "nbformat", "papermill", "jupyter_client", "nbgrader", "psutil"}
    heavy |= {"matplotlib", "safetensors", "peft", "datasets"}
    code = f"import sys; from course_lib import cli; cli.parser(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_a_broken_plug_in_is_named_and_the_rest_works(monkeypatch, capsys):
    broken = EntryPoint("broken", "no_such_module:add_parser", "course.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken])
    assert cli.main(["run", "--list"]) == 0
    assert capsys.readouterr().err == ""  # it has nothing to do with this command
    with pytest.raises(SystemExit):
        cli.main(["grade", "lora"])
    told = capsys.readouterr().err
    assert told.startswith("course: the commands of no_such_module:add_parser are missing (")
    assert "invalid choice: 'grade'" in told


@pytest.mark.parametrize("words", [["run", "--list"], ["assignment", "list", "--json"]])
def test_a_command_imports_no_other_commands(words):
    code = (
        "import sys; from course_lib import cli; cli.main(sys.argv[1:])\n"
        "others = ('course_lib.commands.train', 'course_lib.commands.book')\n"
        "print([name for name in others if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"


def test_a_reader_who_leaves_early_is_no_error():
    command = f"{sys.executable} -m course_lib.cli run --list | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize(("source", "status"), [("a = 1", 0), ("1 / 0", 1)])
def test_exit_status_and_streams_of_a_run(tmp_path, source, status):
    cells = [("parameters", 'profile = "x"\nseed = 1\noutput_dir = "x"'), ("code", source)]
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [{**code, "id": tag, "metadata": {"tags": [tag]}, "source": text} for tag, text in cells]
    path = tmp_path / "01_tiny.ipynb"  # no kernel in its metadata
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    done = course("run", str(path), "--profile", "smoke", "--out", "out", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert "[ 2/2]" in done.stdout
    assert ("01_tiny  executed" if status == 0 else "01_tiny  failed") in done.stdout
    if status:
        assert "course: 01_tiny failed in cell 2 of 2, `1 / 0`: ZeroDivisionError" in done.stderr
    else:
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "usage", "said"),
    [
        ("train --stepps 5", "course train [--output DIR]", "no option --stepps. Did you mean --steps?"),
        ("train --stepps=5", "course train [--output DIR]", "no option --stepps. Did you mean --steps?"),
        ("train --learning_rat 1", "course train [--output DIR]", "no option --learning-rat. Did you mean --lr?"),
        ("align run gpt2-lora --lora_rr 8", "course align run RECIPE", "no option --lora-rr. Did you mean --rank?"),
        ("compare --adaptr x", "course compare [-h]", "no option --adaptr. Did you mean --adapter?"),
        ("grade lora --forse", "course grade [-h]", "no option --forse. Did you mean --force?"),
        ("train --xyzzy", "course train [--output DIR]", "no option --xyzzy. course train --help lists them all."),
        ("train notes.txt", "course train [--output DIR]", "'notes.txt' belongs to no option"),
        ("train --mode lorra", "course train [--output DIR]", "Did you mean lora?"),
        ("trian", "course [-h]", "Did you mean train?"),
        ("align rum", "course align [-h]", "Did you mean run?"),
        ("train --steps", "course train [--output DIR]", "argument --steps: expected one argument"),
        ("train --eval 5", "course train [--output DIR]", "ambiguous option: --eval could match"),
    ],
)
def test_a_mistyped_word_names_the_nearest(capsys, line, usage, said):
    """With the usage of the command that was meant, and not of the top level."""
    with pytest.raises(SystemExit) as done:
        cli.main(line.split())
    assert done.value.code == 2
    told = capsys.readouterr().err
    assert f"usage: {usage}" in told
    *_, sentence = told.splitlines()
    assert sentence.startswith("course")
    assert said in sentence


def test_the_beginning_of_an_option_is_enough():
    args = cli.parser().parse_args(["train", "--step", "5", "--grad-acc=2"])
    assert (args.steps, args.grad_accum_steps) == (5, 2)


def test_what_the_operating_system_refuses_is_one_line(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("words " * 50)
    assert cli.main(["data", "prepare", "--input", str(text), "--output", str(text)]) == 2
    assert "is a file: shards need a folder" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "--input", str(text), "--output", str(text / "below")]) == 2
    assert capsys.readouterr().err == f"course: {text / 'below'}: Not a directory\n"


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    """`pip install .` brings NumPy only; a command that needs more says what to install."""
    monkeypatch.setitem(sys.modules, "nbformat", None)  # as if it were not installed
    assert cli.main(["assignment", "list"]) == 2
    assert capsys.readouterr().err == "course: nbformat is not installed: pip install '.[torch,book,grading]'\n"
