"""`course chat`: a conversation in the terminal."""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from course_lib.commands import (
    Subparsers,
    add_device,
    prepared_on,
    printable,
    require_adapter,
    require_base,
    require_text,
)
from course_lib.commands.generate import add_sampling, sampling_of, speed
from course_lib.errors import CourseError
from course_lib.options import one_of
from course_lib.serve.settings import named_adapters
from course_lib.vocabulary import FORMATS

if TYPE_CHECKING:
    from course_lib.serve.conversation import Conversation

COMMANDS = """/reset            begin a new conversation
/adapter [NAME]   answer with an adapter, or with the base; without a name: list them
/help             this list
/quit             end (so does Ctrl-D); Ctrl-C stops an answer"""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course chat` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "chat",
        help="talk with a model in the terminal, with or without an adapter",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"""Talk with a model. Each line is a message; the answer comes as it is generated.

  course chat
  course chat --adapter notes=runs/notes --temperature 0.7
  echo "What is a cache?" | course chat --weights int8

In the conversation:
{COMMANDS}""",
    )
    parser.add_argument("--model", metavar="NAME", help="a name or a folder (the adapter's base, or SmolLM2)")
    parser.add_argument(
        "--adapter", nargs="+", action="extend", default=[], metavar="NAME=PATH",
        help="adapters to switch to; without NAME= the folder's name counts. A single one answers from the start",
    )  # fmt: skip
    parser.add_argument(
        "--system", metavar="TEXT",
        help="a message of the system before the conversation; \"\" for an empty one. Without it the model's template "
        "decides, and SmolLM2's writes one of its own",
    )  # fmt: skip
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer (512)")
    parser.add_argument(
        "--weights", **one_of(FORMATS), help="prepare the model for a CPU, with its weights in this format (as it is)"
    )
    add_device(parser, "; with --weights the CPU")
    add_sampling(parser)
    parser.set_defaults(run=run_chat)


def run_chat(args: argparse.Namespace) -> int:
    """Load, then read lines until the end."""
    if args.max_new_tokens < 1:
        raise CourseError(f"--max-new-tokens is {args.max_new_tokens}; it has to be at least 1.")
    require_text(args.system or "", "--system")
    adapters = {name: require_adapter(path) for name, path in named_adapters(tuple(args.adapter)).items()}
    require_base(args.model)
    sampling = sampling_of(args)  # a value out of range is refused before the model is loaded
    device = prepared_on(args.device, args.weights)
    from course_lib.serve.conversation import Conversation
    from course_lib.serve.loading import load_base

    with ExitStack() as stack:
        loaded = load_base(args.model, adapters, stack, device)
        conversation = Conversation(loaded, args.weights, args.system, seed=args.seed, **sampling)
    typed = sys.stdin.isatty()
    if typed:
        print(f"{', '.join(conversation.names)} of {loaded.name}. /help lists the commands.", flush=True)
    _talk(conversation, args.max_new_tokens, typed)
    return 0


def _talk(conversation: "Conversation", max_new_tokens: int, typed: bool) -> None:
    """Read lines until the end of the input or /quit."""
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise CourseError("A line of the input is not UTF-8. Convert the file, for example with iconv.") from error
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                print(_obey(conversation, line), flush=True)
            elif line:
                require_text(line, "The line")
                _answer(conversation, line, max_new_tokens, typed)
        except CourseError as error:
            # Somebody who types can go on; a script should not, for what follows would not be what it expects.
            if not typed:
                raise
            print(f"course: {error}", file=sys.stderr, flush=True)


def _obey(conversation: "Conversation", line: str) -> str:
    """Do what a command says.

    Args:
        conversation: the conversation.
        line: the command.

    Returns:
        What to print.

    Raises:
        CourseError: there is no such command, or no such adapter.
    """
    command, *words = line.split()
    if command == "/help":
        return COMMANDS
    if command == "/reset":
        conversation.reset()
        return "A new conversation."
    if command == "/adapter":
        if words:
            conversation.choose(" ".join(words))
        return f"Answering: {conversation.adapter}. There are: {', '.join(conversation.names)}."
    raise CourseError(f"There is no command {command}. /help lists them.")


def _answer(conversation: "Conversation", text: str, max_new_tokens: int, typed: bool) -> None:
    """Print the answer as it comes, and its speed for somebody who reads along. Ctrl-C stops it."""
    started = time.perf_counter()
    pieces = conversation.ask(text, max_new_tokens)
    try:
        for piece in pieces:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        if not typed:
            raise
        pieces.close()
        print(" … stopped", end="")
    seconds = time.perf_counter() - started
    print(flush=True)
    if typed:
        print(f"({speed(len(conversation.new_tokens), seconds)})", file=sys.stderr, flush=True)
