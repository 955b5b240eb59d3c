"""`course bench`: speed and memory beside the library of reference."""

import argparse
import json
import os
from pathlib import Path


def add_parser(subparsers) -> None:
    """Register `course bench` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory beside the library of reference",
        description="Paired measurements in one process: both sides in turn, medians, and the median of the ratios "
        "(below 1: ours is faster). Close other programs first.",
    )
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True)
    scratch = subjects.add_parser("scratch", help="the NumPy edition's training step, import and tokenizer")
    scratch.add_argument("--text", type=Path, help="train and time the tokenizer on this file (default: bundled text)")
    _common(scratch, run_scratch)
    data = subjects.add_parser("data", help="text to token shards, records to packed rows")
    data.add_argument("--text", type=Path, help="tokenise this file (default: bundled text)")
    _common(data, run_data)


def _common(parser, run) -> None:
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch's threads (2)")
    parser.add_argument("--pairs", type=int, default=50, help="how many pairs to time (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, with the machine")
    parser.set_defaults(run=run)


def run_scratch(args: argparse.Namespace) -> int:
    """Print the figures of `bench_scratch`."""
    from course_lib.execution.benchmarks.scratch import bench_scratch

    return report("scratch", bench_scratch(args.threads, args.pairs, args.text), args)


def run_data(args: argparse.Namespace) -> int:
    """Print the figures of `bench_data`, with the packaged tokenizer."""
    from course_lib.execution.benchmarks.data import bench_data
    from course_lib.execution.data_commands import load_tokenizer

    return report("data", bench_data(load_tokenizer(None), args.text), args)


def report(subject: str, figures: dict[str, float], args: argparse.Namespace) -> int:
    """Print the figures, and write them as JSON with versions and hardware where asked to."""
    from course_lib.execution.environment import hardware, versions

    for name, value in figures.items():
        print(f"{name:24} {value:,.4g}")
    if args.json:
        machine = {"versions": versions(), "hardware": hardware(), "threads": args.threads, "pairs": args.pairs}
        temporary = args.json.with_name(f".{args.json.name}.tmp")
        temporary.write_text(json.dumps({"subject": subject, "figures": figures} | machine, indent=1))
        os.replace(temporary, args.json)
    return 0
