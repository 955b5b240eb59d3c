"""`course weights`: see which models load without a network, and convert the packaged ones ahead of time."""

import argparse

from course_lib.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register `course weights` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "weights",
        help="list the models that load offline; convert the packaged weights ahead of time",
        description="Without an action: list the models that load without a network.",
    )
    parser.add_argument("action", nargs="?", choices=["list", "prepare"], default="list")
    parser.add_argument("name", nargs="?", help="which weights to prepare (default: smollm2-135m-instruct)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list, or the folder that now holds the named weights."""
    from course_lib.models.pretrained import DEFAULT, available, resolve

    if args.action == "prepare":
        print(resolve(args.name or DEFAULT))
        return 0
    for name, source in sorted(available().items()):
        print(f"{name:32} {source}")
    return 0
