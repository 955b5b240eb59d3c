"""Every `course` command of the README does what stands beside it, on small models."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_runs import TEXT

from course_lib.cli import main, parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
IN_BLOCKS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
IN_BLOCKS = [line for line in IN_BLOCKS if line.startswith("course ")]
IN_TEXT = [line for line in re.findall(r"`(course [^`]*)`", README) if "\u2026" not in line]
# They take minutes, and have tests of their own: here their arguments are checked.
LONG = ("run", "pipeline run", "bench", "chat", "grade", "serve", "assignment check")
SHORTER = {
    "sft": ["--steps", "2"],
    "dpo": ["--steps", "2"],
    "train": ["--steps", "3", "--seq-len", "32"],
    "align run": ["--steps", "4", "--seq-len", "32"],
}


def is_long(line):
    return line.startswith(tuple(f"course {verb}" for verb in LONG)) or "--help" in line


def test_the_readme_has_the_commands_that_this_file_is_about():
    verbs = {line.split()[1] for line in IN_BLOCKS}
    assert {
        "run",
        "assignment",
        "data",
        "train",
        "compare",
        "merge",
        "adapters",
        "sft",
        "dpo",
        "align",
        "bench",
        "grade",
    } <= verbs


def test_the_commands_run_one_after_another(workspace, capsys):
    """As a reader would type them, in one folder; training takes few steps, and every model is a small one."""
    (workspace / "my_text.txt").write_text(TEXT)
    record = {"instruction": "Say it.", "output": "It."}
    (workspace / "my_records.jsonl").write_text("".join(json.dumps(record) + "\n" for _ in range(4)))
    printed = {}
    for line in (line for line in IN_BLOCKS if not is_long(line)):
        words = shlex.split(line)[1:]
        more = next((options for verb, options in SHORTER.items() if line.startswith(f"course {verb} ")), [])
        assert main(words + more) == 0, line
        printed[line] = capsys.readouterr().out
    promised = {
        r"train .* --dry-run": "memory, estimated by formula",
        r"train .* my_adapter$": "rank 8, alpha 16",
        r"compare --adapter my_adapter": r"base +\| my_adapter\n",
        r"sft": "examples in the .* template",
        r"dpo": "held-out pairs .* are ordered rightly",
        r"merge": "AutoModelForCausalLM.from_pretrained",
        r"adapters info": "change: how much the adapter adds",
        r"align compare": r"loss +4 .*\n(.*\n)*gradients +\d+ .*\n(.*\n)*weights +\d+ .*within the tolerance",
        r"data check": "4 rows",
        r"data prepare": "Tokenized to|tokens",
    }
    for pattern, said in promised.items():
        shown = [text for line, text in printed.items() if re.search(f"^course {pattern}", line)]
        assert shown, pattern
        assert any(re.search(said, text, re.S) for text in shown), (pattern, shown)


@pytest.mark.parametrize("line", sorted({line for line in IN_BLOCKS + IN_TEXT if is_long(line) or line in IN_TEXT}))
def test_the_long_ones_have_arguments_that_exist(line, monkeypatch, capsys):
    from course_lib.execution.notebooks.project import find_chapters
    from course_lib.execution.profile import available_profiles

    monkeypatch.chdir(ROOT)
    words = shlex.split(line)[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as done:
            parser().parse_args(words)
        assert done.value.code == 0
        return
    args = parser().parse_args(words)
    assert callable(args.run)
    if words[0] == "run":
        assert find_chapters(args.chapters)
        assert args.profile in available_profiles()
    if words[0] == "grade":
        assert (ROOT / "autograder" / "source" / args.name).is_dir()
