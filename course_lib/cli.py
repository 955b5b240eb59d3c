"""The `course` command: parse, call, print. The verbs are the files of `course_lib.commands`."""

import argparse
import difflib
import importlib
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from types import FrameType
from typing import Any, NoReturn

import course_lib
from course_lib import commands
from course_lib.errors import CourseError
from course_lib.vocabulary import OPTION, OTHER_NAMES, canonical, nearest_option, other_names

DESCRIPTION = """Adapting language models: run the chapters, build the book, take and grade the assignments.

  course run 03 --profile smoke     execute a chapter headless
  course book --serve               build the book and read it in a browser
  course assignment get lora        fetch an assignment to work on
  course data prepare --help        text to token shards
  course train --mode lora --help   train a model, or an adapter for it
  course compare --adapter DIR      what an adapter changed, side by side
  course weights                    which models load without a network"""


class Parser(argparse.ArgumentParser):
    """A parser that knows other programs' names of its options, and whose errors name the nearest option or choice.

    argparse itself reports an unknown option of a sub-command with the usage of the top level. The parsers of the
    sub-commands are of this class too, because `add_subparsers` takes the class of its parent.
    """

    def format_help(self) -> str:
        """argparse's, and below it the names of other programs that are understood here."""
        listed = [flag for flag, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
        names = other_names(listed)
        return super().format_help() + (f"\n{names}\n" if names else "")

    def parse_known_args(  # type: ignore[override] # argparse's own overloads say the same in four signatures
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """argparse's, but a command without sub-commands knows other names of its options, and refuses all else.

        Args:
            args: the words of the command line; None: those that the program was started with.
            namespace: argparse's own, to which the values are added.

        Returns:
            The namespace, and the words that are left for a sub-command's parser.

        Raises:
            CourseError: an option that stands for another with its value (``--no-cuda``) was given a value.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is not None:
            return super().parse_known_args(words, namespace)
        if self.prog == "course serve":  # in uvicorn's command line, the application's own options follow a bare --
            words = [word for word in words if word != "--"]
        words = canonical(words, self._option_string_actions)
        self._refuse_unknown_options(words)
        namespace, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"{left[0]!r} belongs to no option. Each value follows the option that it is for.")
        return namespace, left

    def _refuse_unknown_options(self, words: list[str]) -> None:
        known = self._option_string_actions
        for word in words:
            if word == "--":
                return
            flag = word.partition("=")[0]
            if not OPTION.fullmatch(word) or flag in known:
                continue
            # A beginning is enough for argparse: --step is --steps. But what is another option's name in another
            # program is not a beginning: --lora is an adapter and not --lora-dropout.
            if flag.replace("_", "-") not in OTHER_NAMES and any(option.startswith(flag) for option in known):
                continue
            nearest = nearest_option(flag, known)
            hint = f" Did you mean {nearest}?" if nearest else ""
            self.error(f"there is no option {flag}.{hint} {self.prog} --help lists them all.")

    def error(self, message: str) -> NoReturn:
        """Print the usage and `message`, and exit with status 2."""
        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found and (near := difflib.get_close_matches(found[1], re.findall(r"[\w.-]+", found[2]), n=1)):
            message = f"{message}. Did you mean {near[0]}?"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")


def parser(wanted: str | None = None) -> Parser:
    """The whole command line. Cheap: the rooms' heavy imports wait until a command runs.

    Args:
        wanted: the command that is typed; where its file or its plug-in has its name, no other is imported. That halves
            the time until it begins.
    """
    top = Parser(prog="course", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"course {course_lib.__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verbs = [verb.name for verb in pkgutil.iter_modules(commands.__path__)]  # every file of course_lib/commands
    plugins = list(entry_points(group="course.commands"))  # the autograder's: course_lib does not import it
    known = {*verbs, *(plugin.name for plugin in plugins)}
    for verb in verbs:
        if wanted not in known or verb == wanted:
            importlib.import_module(f"{commands.__name__}.{verb}").add_parser(subparsers)
    for plugin in plugins:
        if wanted in known and plugin.name != wanted:
            continue
        try:
            plugin.load()(subparsers)
        except Exception as error:
            print(f"course: the commands of {plugin.value} are missing ({error})", file=sys.stderr)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status: 2 for an error the user can mend, 128 + the signal when stopped."""
    signal.signal(signal.SIGTERM, _terminated)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, _terminated)
    try:
        words = sys.argv[1:] if argv is None else argv
        args = parser(words[0] if words else None).parse_args(words)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except CourseError as error:
        print(f"course: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in {"", "course_lib", "autograder"}:
            raise  # ours to mend
        print(f"course: {error.name} is not installed: pip install '.[torch,book,grading]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("course: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `course ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # the disk is full, a folder is write-protected, a file is where a folder should be
        if error.errno is None:
            raise  # a library's own, not the operating system's
        print(f"course: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
        return 2


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
