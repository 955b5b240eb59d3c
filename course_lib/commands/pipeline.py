"""`course pipeline`: Base → SFT → DPO → +Verifier on a decoder of our own, from one command."""

import argparse
from pathlib import Path

from course_lib.commands import Subparsers
from course_lib.errors import CourseError

TOP = """Train a decoder of our own through every stage, and measure each.

  course pipeline run                          profile cpu, into runs/pipeline: minutes on two cores
  course pipeline run --profile smoke          seconds: does every stage run? The numbers mean nothing
  course pipeline run --from dpo               this stage and all after it again
  course pipeline status                       which stages are done, changed or interrupted
  course pipeline report                       the table, and report.html anew"""

RUN = """Run the stages: tokenizer, pretrain, baseline (a GPT-2 of the same size), sft, pairs (sampled from the SFT
model and labelled by the exact check), dpo, answers, verifier, evaluate, inference.

A stage that is done is skipped, unless its settings, what it reads or the code have changed. A run that was stopped or
killed goes on: give the same command again. All sizes are in the table [pipeline] of the profile, corpora and tokens in
[pipeline.data_config].

What is written to --output: a folder for each stage, and results/ with base_eval.json, sft_eval.json, dpo_eval.json,
verifier_eval.json, baseline_eval.json, comparison_table.csv, inference_ok.json, report.md and report.html."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course pipeline` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "pipeline",
        help="Base, SFT, DPO and a verifier on a decoder of our own, evaluated, from one command",
        description=TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    run = actions.add_parser(
        "run", help="run every stage that is not done", description=RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_output(run)
    run.add_argument("--profile", default="cpu", metavar="NAME", help="one of our profiles, or a TOML file (cpu)")
    run.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn (0)")
    run.add_argument("--from", dest="begin_with", metavar="STAGE", help="run this stage and all after it again")
    run.set_defaults(run=run_run)
    status = actions.add_parser("status", help="how far each stage is; changes nothing")
    _add_output(status)
    status.add_argument("--profile", metavar="NAME", help="compare with this profile (that of the last run)")
    status.add_argument("--seed", type=int, metavar="N", help="compare with this seed (that of the last run)")
    status.set_defaults(run=run_status)
    report = actions.add_parser("report", help="print the table, and write results/ anew from finished stages")
    _add_output(report)
    report.set_defaults(run=run_report)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/pipeline"),
        metavar="DIR",
        help="the pipeline's folder (runs/pipeline)",
    )


def _say(text: str) -> None:
    print(text, flush=True)


def run_run(args: argparse.Namespace) -> int:
    """Run the stages and print the table."""
    from course_lib.alignment.pipeline.settings import load_pipeline

    settings = load_pipeline(
        args.profile, args.seed, args.overrides
    )  # what is wrong with the profile is said before torch is imported
    from course_lib.alignment.pipeline.running import RESULTS, run_pipeline
    from course_lib.models.devices import choose_device

    choose_device(settings.device)
    try:
        found = run_pipeline(settings, args.output, args.begin_with, _say)
    except KeyboardInterrupt:
        _say(f"\nstopped: course pipeline run --output {args.output} --profile {args.profile} goes on from here")
        raise
    _print_table(found["rows"], args.output / RESULTS)
    return 0


def _print_table(rows: list[dict], results: Path) -> None:
    from course_lib.alignment.pipeline.table import as_text, gains

    _say("")
    _say(as_text(rows))
    _say("")
    for line in gains(rows):
        _say(line)
    _say(f"{results / 'report.html'} has curves, samples and how it was made")


def run_status(args: argparse.Namespace) -> int:
    """Print one line for each stage."""
    from dataclasses import replace

    from course_lib.alignment.pipeline.running import pipeline_status, read_pipeline
    from course_lib.alignment.pipeline.settings import load_pipeline

    settings = read_pipeline(args.output)
    if args.profile is not None:
        settings = load_pipeline(args.profile, settings.seed)
    if args.seed is not None:
        settings = replace(settings, seed=args.seed)
    _say(f"{args.output}: profile {settings.profile}, seed {settings.seed}")
    for row in pipeline_status(settings, args.output):
        took = f"{row['seconds']:.0f} s" if row["seconds"] is not None else ""
        _say(f"  {row['stage']:10} {row['state']:12} {took:>6}  {row['why']}".rstrip())
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Write the results of a pipeline whose stages are done, and print the table."""
    from course_lib.alignment.pipeline.results import write_results
    from course_lib.alignment.pipeline.running import RESULTS, STAGES, read_pipeline
    from course_lib.alignment.pipeline.stages import Run
    from course_lib.alignment.pipeline.state import StageFolder

    settings = read_pipeline(args.output)
    undone = [stage.name for stage in STAGES if StageFolder(args.output / stage.name).record() is None]
    if undone:
        raise CourseError(
            f"{args.output} is not done: {undone[0]} is missing. `course pipeline run --output {args.output}` goes on."
        )
    found = write_results(Run(settings, args.output, _say), args.output / RESULTS, [stage.name for stage in STAGES])
    _print_table(found["rows"], args.output / RESULTS)
    return 0
