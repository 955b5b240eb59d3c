"""`course data`: look at data sets, check files of records, and turn text into token shards."""

import argparse

from course_lib.commands import Subparsers, prepare
from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

MOST_SHOWN = 2000  # characters of a turn that are printed

CHECK = """Read records, count them by format, and name every row that cannot be used and every field that is
not. Exit status 1 if a row is malformed.

  course data check my_records.jsonl
  course data check a_folder --split test
  course data check answers.csv --map prompt=question,response=answer
  course data check openai/gsm8k --config main

Formats: Alpaca, chat, ShareGPT, question and answer, preferences, HH-RLHF, OpenAssistant, GSM8K. Files:
.json, .jsonl, .ndjson, .csv, .tsv (also .gz, .bz2, .xz), .parquet, .arrow; a folder; a name on the hub."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course data` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "data", help="check files of records, turn text into token shards, see the embedded data sets"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    prepare.add_parser(actions, "text files to token shards; `course prepare` is the same command")
    _add_check(actions)
    cards = actions.add_parser(
        "card", help="what the data sets in the package are", description="Print a data set's card, or all names."
    )
    cards.add_argument("name", nargs="?", help="which one (default: list them)")
    cards.set_defaults(run=run_card)


def _add_check(actions: Subparsers) -> None:
    check = actions.add_parser(
        "check",
        help="which rows of a file of records can be used",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=CHECK,
    )
    check.add_argument("source", help="file, folder, or a data set's name on the hub")
    check.add_argument(
        "--format", default="auto", metavar="NAME", help="the format, if it is not to be told by the keys"
    )
    check.add_argument("--map", metavar="KEY=COLUMN,...", help="other keys: prompt=question,response=answer")
    check.add_argument(
        "--split", metavar="NAME", help="with a hub name: which split (train); with a folder: which part (all)"
    )
    check.add_argument("--config", metavar="NAME", help="with a hub name: which configuration")
    check.add_argument("--show", type=int, default=1, metavar="N", help="print the first N records (1)")
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print the counts, the first problems and the first records."""
    from course_lib.data import read_records

    reading = read_records(
        args.source, args.format, malformed="skip", split=args.split, config=args.config, map=args.map
    )
    print(reading)
    for record in reading.records[: max(args.show, 0)]:
        print(f"\n{record.source}")
        for number, message in enumerate(record.messages):
            context = " (not trained)" if number in record.untrained else ""
            print(f"  {message['role']}{context}: {_shown(message['content'])}")
        if record.rejected is not None:
            print(f"  rejected: {_shown(record.rejected)}")
        if record.answer is not None:
            print(f"  answer to check: {record.answer}")
    return 1 if reading.problems else 0


def _shown(text: str) -> str:
    """A text, or of a very long one its beginning, its end and how long it is: it need not fill the terminal."""
    if len(text) <= MOST_SHOWN:
        return text
    half = MOST_SHOWN // 2
    return f"{text[:half]} … {text[-half:]} ({len(text):,} characters)"


def run_card(args: argparse.Namespace) -> int:
    """Print one card, or the names."""
    from course_lib.data.generators import cards

    known = cards()
    if args.name is None:
        print("\n".join(known))
    elif args.name in known:
        print(known[args.name])
    else:
        hint = did_you_mean(args.name, known)
        raise CourseError(f"There is no data set {args.name!r} in the package: choose from {', '.join(known)}.{hint}")
    return 0
