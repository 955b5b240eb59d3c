"""The `course` command: parse, call, print. The verbs are the files of `course_lib.commands`."""

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from importlib.metadata import entry_points
from types import FrameType

import course_lib
from course_lib import commands
from course_lib.errors import CourseError
from course_lib.vocabulary import canonical

DESCRIPTION = """Adapting language models: run the chapters, build the book, take and grade the assignments.

  course run 03 --profile smoke     execute a chapter headless
  course book --serve               build the book and read it in a browser
  course assignment get lora        fetch an assignment to work on
  course data prepare --help        text to token shards
  course train --mode lora --help   train a model, or an adapter for it
  course compare --adapter DIR      what an adapter changed, side by side
  course weights                    which models load without a network"""


def parser() -> argparse.ArgumentParser:
    """The whole command line. Cheap: the rooms' heavy imports wait until a command runs."""
    top = argparse.ArgumentParser(
        prog="course", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"course {course_lib.__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in pkgutil.iter_modules(commands.__path__):  # every file of course_lib/commands is a verb
        importlib.import_module(f"{commands.__name__}.{verb.name}").add_parser(subparsers)
    for plugin in entry_points(group="course.commands"):  # the autograder's: course_lib does not import it
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
        args = parser().parse_args(canonical(sys.argv[1:] if argv is None else argv))
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
