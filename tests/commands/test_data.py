"""`course data check` and `course prepare`: what they print, and simple mistakes that are told at once."""

import subprocess
import sys

import pytest
from record_rows import ALPACA, HH, turn, write

from course_lib.cli import main, parser


def test_check_prints_counts_problems_and_records(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", [HH, {"question": "\ud800", "answer": "#### 1"}, ALPACA])
    assert main(["data", "check", str(path), "--show", "9"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 rows (1 hh-rlhf, 1 alpaca): 2 records, 1 malformed\n")
    assert out.endswith(f"{path}:3\n  user: Name a colour.\n  assistant: Red.\n")
    assert f"{path}:2: 'question' holds half a surrogate pair" in out
    assert "  rejected: Go away." in out
    assert main(["data", "check", str(write(path, [ALPACA])), "--show", "-1"]) == 0
    assert capsys.readouterr().out == "1 rows (1 alpaca): 1 records, 0 malformed\n"
    assert main(["data", "check", str(tmp_path / "absent.json")]) == 2
    assert capsys.readouterr().err == f"course: There is no file {tmp_path / 'absent.json'}.\n"


def test_check_says_what_is_not_trained_and_what_is_not_used(tmp_path, capsys):
    messages = [turn("user", "A"), turn("assistant", "B", weight=0), turn("user", "C"), turn("assistant", "D")]
    path = write(tmp_path / "rows.jsonl", [{"messages": messages, "source": "web"}])
    assert main(["data", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  assistant (not trained): B\n  user: C\n  assistant: D\n" in out
    assert "fields not used: source (1)" in out


def test_check_maps_keys_and_reads_a_part(tmp_path, capsys):
    write(tmp_path / "train.jsonl", [{"ask": "A", "say": "B"}])
    write(tmp_path / "test.jsonl", [{"ask": "C", "say": "D"}])
    assert main(["data", "check", str(tmp_path), "--split", "test", "--map", "prompt=ask,response=say"]) == 0
    assert capsys.readouterr().out.endswith("test.jsonl:1\n  user: C\n  assistant: D\n")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "The formats are: alpaca-preference (" in capsys.readouterr().err


MISTAKES = {
    "train --dataset nots.txt": "Did you mean notes.txt?",
    "train --dataset keepers_logs": "Did you mean keepers_log?",
    "train --dataset notes.txt --map prompt": "is not of the form",
    "prepare --input nots.txt --output shards": "There is no text file nots.txt. Did you mean notes.txt?",
    "prepare --input rows.csv --output shards": "course train --dataset rows.csv reads it as it is",
    "data prepare --input rows.jsonl --output shards": "is a file of records, not plain text",
    "prepare --input book.pdf --output shards": "book.pdf is not plain text: save it as plain text",
    "prepare --input pointer.txt --output shards": "is a Git LFS pointer",
    "prepare --input notes.txt --output shards --documents 3": "and notes.txt is neither",
    "prepare --input notes.txt --output shards --train-ratio 2": "--train-ratio 2.0 is not possible",
    "prepare --input notes.txt --output shards --shard-tokens 0": "--shard-tokens 0 is not possible",
    "data check row.jsonl": "There is no file row.jsonl. Did you mean rows.jsonl?",
    "data check rows.jsonl --format alpacca": "Did you mean alpaca",
    "data check book.pdf": "book.pdf is not a file of records: save it as plain text",
    "data card instruction": "There is no data set 'instruction' in the package",
    "train --model smolm2-135m-instruct": "Did you mean smollm2-135m-instruct?",
    "sft --model modern-5n --dataset rows.jsonl": "The model 'modern-5n' is not a directory here",
    "train --from-scratch --model gpt3": "There is no shape 'gpt3' to train from scratch",
    "generate --model smolm2-135m-instruct --prompt Hi": "Did you mean smollm2-135m-instruct?",
    "memory llama-3-8": "Shapes that `course memory` knows by name: llama-7b,",
    "train --target-modules c_attn": "layers of GPT-2, so --model is distilgpt2.)",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "book.pdf").write_text("x")
    (tmp_path / "pointer.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    (tmp_path / "rows.csv").write_text("instruction,output\nHi,Hello\n")
    write(tmp_path / "rows.jsonl", [ALPACA])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", MISTAKES)
def test_a_simple_mistake_is_named_with_what_to_do(folder, capsys, command):
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("course: ")
    assert MISTAKES[command] in error


def test_simple_mistakes_wait_for_no_heavy_import(folder):
    """All of them in one new process, which then has neither torch nor a library of data sets loaded."""
    code = (
        "import sys\nfrom course_lib.cli import main\n"
        f"assert {{main(command.split()) for command in {list(MISTAKES)}}} == {{2}}\n"
        "loaded = {'torch', 'transformers', 'datasets', 'pyarrow'} & sys.modules.keys()\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_both_names_of_prepare_say_that_they_are_one_command(capsys):
    for command, other in ((["--help"], "`course data prepare` is"), (["data", "--help"], "`course prepare` is")):
        with pytest.raises(SystemExit):
            parser().parse_args(command)
        assert f"{other} the same command" in " ".join(capsys.readouterr().out.split())


def test_a_very_long_turn_is_shown_by_its_two_ends(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", [ALPACA | {"instruction": "begin" + "x" * 9000 + "end"}])
    assert main(["data", "check", str(path)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  user: ")]
    assert line.startswith("  user: beginxxx")
    assert line.endswith("xxxend (9,008 characters)")
    assert len(line) < 2100
