"""`course data`: look at data sets, check files of records, and turn text into token shards."""

import argparse

from course_lib.commands import Subparsers, prepare
from course_lib.errors import CourseError


def add_parser(subparsers: Subparsers) -> None:
    """Register `course data` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "data", help="check files of records, turn text into token shards, see the embedded data sets"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    prepare.add_parser(actions)
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
        description="Read records (Alpaca, chat, ShareGPT, preference, HH-RLHF, OpenAssistant, GSM8K) from a .json or "
        ".jsonl file (also .gz), a folder, or the hub; count them and name every malformed row. Exit status 1 if there "
        "is one.",
    )
    check.add_argument("source", help="file, folder, or a data set's name on the hub")
    check.add_argument("--format", default="auto", help="the format, if it is not to be told by the keys")
    check.add_argument("--split", default="train", help="with a hub name: which split (train)")
    check.add_argument("--config", help="with a hub name: which configuration, such as main of openai/gsm8k")
    check.add_argument("--show", type=int, default=1, metavar="N", help="print the first N records (1)")
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print the counts, the first problems and the first records."""
    from course_lib.data import read_records

    reading = read_records(args.source, args.format, malformed="skip", split=args.split, config=args.config)
    print(reading)
    for record in reading.records[: max(args.show, 0)]:
        print(f"\n{record.source}")
        for message in record.messages:
            print(f"  {message['role']}: {message['content']}")
        if record.rejected is not None:
            print(f"  rejected: {record.rejected}")
        if record.answer is not None:
            print(f"  answer to check: {record.answer}")
    return 1 if reading.problems else 0


def run_card(args: argparse.Namespace) -> int:
    """Print one card, or the names."""
    from course_lib.data.generators import cards

    known = cards()
    if args.name is None:
        print("\n".join(known))
    elif args.name in known:
        print(known[args.name])
    else:
        raise CourseError(f"There is no data set {args.name!r} in the package: choose from {', '.join(known)}.")
    return 0
