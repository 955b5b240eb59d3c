"""`course chat`: a conversation by piped lines, its commands, and a real terminal."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import course, loaded

from course_lib.adapters import load_adapter
from course_lib.adapters.files import adapter_config
from course_lib.commands import printable
from course_lib.errors import CourseError
from course_lib.inference import complete
from course_lib.models.pretrained import DEFAULT

ROOT = Path(__file__).parents[2]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture
def chatty(base, letters, tmp_path):
    """The folder of a model with a chat template."""
    import copy

    loaded(base).save_pretrained(tmp_path / "chatty")
    tokenizer = copy.deepcopy(letters)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "chatty")
    return tmp_path / "chatty"


def chat(monkeypatch, capsys, lines, *words):
    """What a conversation prints when these lines are piped into it."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    status = course("chat", *words)
    return status, capsys.readouterr()


def test_turns_follow_each_other_and_reset_forgets_them(chatty, letters, monkeypatch, capsys):
    model = loaded(chatty)

    def answer(prompt):
        return complete(model, letters, [prompt], 6)[0]

    first = answer("<user>a<assistant>")
    second = answer(f"<user>a<assistant>{first}<user>b<assistant>")
    words = ("--model", chatty, "--max-new-tokens", 6)
    _, printed = chat(monkeypatch, capsys, ["a", "", "b", "/reset", "b", "/quit", "never"], *words)
    expected = [first, second, "A new conversation.", answer("<user>b<assistant>")]
    assert printed.out == "".join(printable(text) + "\n" for text in expected)
    _, printed = chat(monkeypatch, capsys, ["a"], *words, "--system", "be kind")
    assert printed.out == printable(answer("<system>be kind<user>a<assistant>")) + "\n"


def test_an_empty_message_of_the_system_reaches_the_template(chatty, letters, monkeypatch, capsys):
    words = ("--model", chatty, "--max-new-tokens", 6, "--system", "")
    _, printed = chat(monkeypatch, capsys, ["a"], *words)
    assert printed.out == printable(complete(loaded(chatty), letters, ["<system><user>a<assistant>"], 6)[0]) + "\n"


@pytest.mark.parametrize("command", ["chat", "serve", "evaluate"])
def test_a_mistyped_model_is_refused_before_torch_is_imported(command, capsys):
    code = (
        "import sys\nfrom course_lib.cli import main\n"
        f"assert main(['{command}', '--model', 'smollm2']) == 2\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Did you mean {DEFAULT}?" in done.stderr


def test_a_verifier_is_named_where_an_adapter_is_expected(base, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "course_verifier"}')
    status, printed = chat(monkeypatch, capsys, [], "--model", base, "--adapter", tmp_path)
    assert status == 2
    assert "holds a verifier, which judges answers" in printed.err
    with pytest.raises(CourseError, match="holds a verifier, which judges answers"):
        adapter_config(tmp_path)


def test_adapters(base, adapter, letters, monkeypatch, capsys):
    folders = {name: adapter(name) for name in ("one", "two")}

    def answer(name):
        model = loaded(base)
        if name:
            load_adapter(model, folders[name])
        return printable(complete(model, letters, ["The"], 6)[0])  # a model without a chat template goes on

    lines = ["The", "/reset", "/adapter two", "The", "/reset", "/adapter", "/adapter base", "The"]
    given = [f"{name}={folder}" for name, folder in folders.items()]
    words = ("--adapter", *given, "--max-new-tokens", 6)
    for more in ((), ("--weights", "float32")):
        status, printed = chat(monkeypatch, capsys, lines, *words, *more)
        assert status == 0
        texts = printed.out.split("\n")
        assert [texts[0], texts[3], texts[7]] == [answer(None), answer("two"), answer(None)]
        assert texts[2] == texts[5] == "Answering: two. There are: base, one, two."
    _, printed = chat(monkeypatch, capsys, ["The"], "--adapter", folders["one"], "--max-new-tokens", 6)
    assert printed.out == answer("one") + "\n"  # a single adapter answers from the start


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        (["/forget"], [], "There is no command /forget. /help lists them."),
        (["/adapter x"], [], "There is no adapter x here. There are: base."),
        (["a" * 200], [], "do not fit into the model's 128. /reset begins a new one; --max-new-tokens"),
        ([], ["--adapter", "a=nowhere"], "There is no adapter nowhere"),
        ([], ["--adapter", "=x"], "Write NAME=PATH"),
        ([], ["--top-p", "0"], "top_p is 0.0"),
        ([], ["--max-new-tokens", "0"], "at least 1"),
        ([], ["--seed", str(2**64)], "at most 64 bits"),
        (["\udcff"], [], "The line holds bytes that are not UTF-8"),
        ([], ["--system", "\udcff"], "--system holds bytes that are not UTF-8"),
    ],
)
def test_what_is_refused(base, monkeypatch, capsys, lines, words, said):
    status, printed = chat(monkeypatch, capsys, lines, "--model", base, "--max-new-tokens", 4, *words)
    assert status == 2
    assert said in printed.err


def test_input_that_is_not_utf8(base, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    assert course("chat", "--model", base) == 2
    assert "A line of the input is not UTF-8" in capsys.readouterr().err


def test_help_and_control_characters(base, monkeypatch, capsys):
    _, printed = chat(monkeypatch, capsys, ["/help", "a"], "--model", base, "--max-new-tokens", 40)
    assert "/adapter [NAME]" in printed.out
    assert all(letter == "\n" or letter.isprintable() for letter in printed.out.replace("\t", ""))


def test_ctrl_c_stops_an_answer_and_not_the_conversation(base, letters, monkeypatch, capsys):
    from contextlib import ExitStack

    from course_lib.commands import chat as command
    from course_lib.serve.conversation import Conversation
    from course_lib.serve.loading import load_base

    def interrupted(*_, **__):
        yield "one "
        raise KeyboardInterrupt

    monkeypatch.setattr("course_lib.serve.conversation.stream", interrupted)
    with ExitStack() as stack:
        conversation = Conversation(load_base(str(base), {}, stack))
    command._answer(conversation, "hi", 5, typed=True)
    assert capsys.readouterr().out == "one  … stopped\n"
    assert conversation.turns[-1] == {"role": "assistant", "content": "one "}
    with pytest.raises(KeyboardInterrupt):
        command._answer(conversation, "hi", 5, typed=False)


class Terminal:
    """A program in a real terminal."""

    def __init__(self, *words):
        self.end, other = pty.openpty()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
        program = [sys.executable, "-m", "course_lib.cli", *map(str, words)]
        self.process = subprocess.Popen(
            program, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(other)
        self.text = ""

    def type(self, text):
        os.write(self.end, text.encode())

    def wait_for(self, pattern, seconds=90):
        """Read until the pattern comes, and forget what was read."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text, re.S)):
            assert time.monotonic() < until, self.text
            if select.select([self.end], [], [], 0.2)[0]:
                self.text += os.read(self.end, 4096).decode(errors="replace")
        self.text = self.text[found.end() :]
        return found[0]


def test_in_a_terminal(base):
    terminal = Terminal("chat", "--model", base, "--max-new-tokens", 100, "--temperature", 1)
    try:
        terminal.wait_for(r"base of .*/help lists the commands\..*> ")
        terminal.type("/what\n")
        terminal.wait_for(r"There is no command /what.*> ")  # and goes on
        terminal.type("hello\n")
        terminal.wait_for(r"\(\d+ tokens in [\d.]+ s: [\d.]+ tokens/s\).*> ")
        terminal.type("\x04")  # Ctrl-D
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.end)
