"""`course submit`: chapters, the pipeline or any other command as a job on a cluster with Slurm."""

import argparse
import math
import os
import pkgutil
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import commands
from course_lib.commands import Subparsers
from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

if TYPE_CHECKING:
    from course_lib.execution.slurm.script import Job
    from course_lib.execution.slurm.site import Site

DESCRIPTION = """Submit work to Slurm. The partition, nodes, time and modules come from the profile's table `slurm`, and
what the site allows from a site file (course_lib/execution/slurm/sites).

  course submit 03 04 --profile tacc_h100             two chapters in one job
  course submit --array --profile tacc_a100           every chapter as an element of an array
  course submit pipeline --profile tacc_gh200 --legs 3     all stages, in one process
  course submit pretrain --profile tacc_h100               the profile's model and corpora, on all its GPUs
  course submit --profile tacc_h100 -- train --mode full --dataset notes.txt --output runs/notes
  course submit --profile tacc_h100 -- train --mode full --shard --output runs/big    a model that one GPU cannot hold
  course submit pipeline --profile tacc_h100 --dry-run    print the script, submit nothing

A run can outlive its time limit in two ways. With --requeue the job saves a checkpoint before the limit and goes back
into the queue. Where a site does not requeue (TACC), --legs N submits N jobs that wait for each other, each going on
from the checkpoint of the one before; legs that are not needed end at once. Either way the losses are those of a run
that was not interrupted.

`course jobs` shows what became of it."""

# They have --resume, and run on several processes. The pipeline and the chapters go on by themselves, in one process.
TRAINING = ("train", "pretrain", "sft", "dpo")


def add_parser(subparsers: Subparsers) -> None:
    """Register `course submit` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "submit",
        help="submit chapters, the pipeline or a command to Slurm",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", metavar="CHAPTER", help="chapters (default: all), pipeline, or a command")
    parser.add_argument("--profile", help="a name of `course profile list` or a file (needed)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
    )
    parser.add_argument("--site", help="a name of --list-sites or a TOML file (default: the profile's, else this one)")
    parser.add_argument(
        "--site-set", action="append", default=[], metavar="RULE=VALUE", help="a rule in place of the site file's"
    )
    parser.add_argument("--account", help="the account that pays for the time")
    parser.add_argument("--partition", help="the queue")
    parser.add_argument("--time", help="the time limit: HH:MM:SS, or D-HH:MM:SS")
    parser.add_argument("--nodes", type=int, help="how many nodes")
    parser.add_argument("--cpus-per-task", type=int, default=0, metavar="N", help="cores of each process")
    parser.add_argument("--mem", default="", help="memory of a node, such as 32G, where the site takes it")
    parser.add_argument("--name", help="the name of the job")
    parser.add_argument("--array", action="store_true", help="each chapter as an element of an array")
    parser.add_argument("--legs", type=int, default=1, metavar="N", help="jobs in a row that go on from each other (1)")
    parser.add_argument("--requeue", action="store_true", help="go back into the queue before the time limit")
    parser.add_argument("--lead", type=int, metavar="S", help="seconds before the limit to save and stop (300)")
    parser.add_argument(
        "--after", default="", metavar="JOB", help="wait until that job has ended well; one that failed is refused"
    )
    parser.add_argument("--template", type=Path, help="a Jinja template of your own for the script")
    parser.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    parser.add_argument("--list-sites", action="store_true", help="list the sites, and do nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Submit, or print what would be submitted."""
    from course_lib.execution.notebooks.project import find_chapters, find_root
    from course_lib.execution.profile import profile_path, read_profile
    from course_lib.execution.profile_check import check_profile
    from course_lib.execution.slurm.jobs import submit
    from course_lib.execution.slurm.script import check, render
    from course_lib.execution.slurm.site import available_sites, load_site, this_site

    if args.list_sites:
        for name, description in available_sites().items():
            print(f"{name:12} {description}")
        return 0
    if not args.profile:
        raise CourseError("Give --profile: a name of `course profile list`, or the path of a TOML file.")
    root = find_root()
    table = read_profile(profile_path(args.profile), args.overrides)
    check_profile(args.profile, table, others=[chapter.id for chapter in find_chapters([])])
    wanted = table.get("slurm", {})
    site = load_site(args.site or wanted.get("site") or this_site(), args.site_set)
    job = make_job(args, table, site)
    for remark in [*check(job, site), *long_limits(job, table)]:
        print(f"course: {remark}", file=sys.stderr)
    folder = jobs_folder(root) / f"{time.strftime('%Y%m%d-%H%M%S')}-{job.name}"
    if args.dry_run:
        print(render(job, site, folder, root, args.template), end="")
        return 0
    record = submit(job, site, folder, root, args.template)
    print(f"submitted {', '.join(record['jobs'])} to {job.partition} of {site.name}")
    print(f"the script and the output: {folder}\nfollow it: course jobs logs {record['jobs'][0]}")
    return 0


def jobs_folder(root: Path) -> Path:
    """Where scripts, outputs and records of jobs are."""
    return root / "build" / "jobs"


def make_job(args: argparse.Namespace, table: dict, site: "Site") -> "Job":
    """The job that the arguments and the profile ask for.

    Args:
        args: of `course submit`.
        table: the profile's content.
        site: where it goes.

    Returns:
        The job, not checked yet.

    Raises:
        CourseError: something is missing.
    """
    from course_lib.execution.hardware import HardwareConfig
    from course_lib.execution.slurm.script import LEAD_SECONDS, Job

    wanted = table.get("slurm", {})
    hardware = HardwareConfig.of(table["hardware"]) if "hardware" in table else None
    name, command, array = work(args, table)
    training = command[0] in TRAINING
    if (args.requeue or args.legs > 1) and training and "--resume" not in command:
        command = [*command, "--resume", "auto"]  # the first leg begins, and the others go on
    given = {
        "partition": args.partition or wanted.get("partition", ""),
        "time": args.time or wanted.get("time", ""),
        "account": args.account or wanted.get("account", ""),
    }
    for key in ("partition", "time"):
        if not given[key]:
            raise CourseError(f"Profile {args.profile!r} says no slurm.{key}: give --{key}.")
    return Job(
        name=args.name or name,
        command=tuple(command),
        nodes=args.nodes if args.nodes is not None else (wanted.get("nodes", 1) if training else 1),
        modules=tuple(wanted.get("modules", ())),
        gpus=hardware.num_gpus if hardware and hardware.device != "cpu" else 0,
        distributed=bool(training and hardware and hardware.is_distributed),
        cpus=args.cpus_per_task,
        mem=args.mem,
        legs=args.legs,
        array=tuple(array),
        requeue=args.requeue,
        lead=args.lead if args.lead is not None else LEAD_SECONDS,
        after=args.after,
        **given,
    )


def long_limits(job: "Job", table: dict) -> list[str]:
    """A remark where chapters of minutes ask for days: a short job fits into the gaps between long ones.

    Args:
        job: the job to submit.
        table: the profile's content, with what each chapter costs.

    Returns:
        The remark, or nothing.
    """
    if job.command[0] != "run":
        return []
    costs = {name: values["cost"]["seconds"] for name, values in table.items() if is_chapter(name) and "cost" in values}
    named = [costs[word] for word in job.array or job.command if word in costs] or list(costs.values())
    seconds = max(named, default=0) if job.array else sum(named)
    hours = math.ceil(4 * seconds / 3600)  # nobody has timed the chapters on each machine
    if not hours or hours * 4 > job.hours:
        return []
    each = "the longest chapter takes" if job.array else "the work takes"
    return [
        f"the limit is {job.time}, and {each} about {math.ceil(seconds / 60)} min: with --time {hours:02}:00:00 "
        "the job would start sooner"
    ]


def work(args: argparse.Namespace, table: dict) -> tuple[str, list[str], list[str]]:
    """The job's name, the words after `course`, and the elements of an array.

    Args:
        args: of `course submit`.
        table: the profile's content.

    Returns:
        The three.

    Raises:
        CourseError: an array of something else than chapters, or a chapter that does not exist.
    """
    profile = [
        "--profile",
        str(Path(args.profile).resolve()) if args.profile.endswith((".toml", ".json")) else args.profile,
    ]
    profile += [word for text in args.overrides for word in ("--set", text)]
    first = args.what[0] if args.what else ""
    if first == "pipeline" and len(args.what) == 1:
        out = ["--output", scratch("pipeline", Path(args.profile).stem)] if os.environ.get("SCRATCH") else []
        if args.array:
            raise CourseError("--array is for chapters: the pipeline's stages follow each other.")
        return "pipeline", ["pipeline", "run", *profile, *out], []
    if first and not is_chapter(first):
        if args.array:
            raise CourseError("--array is for chapters.")
        _refuse_unknown(first)
        return first, pretraining(args, table) if args.what == ["pretrain"] else list(args.what), []
    from course_lib.execution.notebooks.project import find_chapters

    chapters = [chapter.id for chapter in find_chapters(args.what)]
    if args.array:
        return "chapters", ["run", "{}", *profile], chapters
    return (
        "-".join(Path(word).stem for word in args.what) or "chapters",
        ["run", *(args.what and chapters), *profile],
        [],
    )


def _refuse_unknown(command: str) -> None:
    """CourseError where the package has no such command: the job would wait for hours only to say so."""
    verbs = {each.name for each in pkgutil.iter_modules(commands.__path__)}
    verbs |= {each.name for each in entry_points(group="course.commands")}
    if command not in verbs:
        raise CourseError(
            f"{command!r} is neither a chapter (03, 03_lora or a notebook's path) nor a command of course."
            + did_you_mean(command, verbs)
        )


def pretraining(args: argparse.Namespace, table: dict) -> list[str]:
    """`course pretrain` with what the profile's tables model, data_config and hardware say.

    Args:
        args: of `course submit`.
        table: the profile's content.

    Returns:
        The words after `course`.

    Raises:
        CourseError: the profile lacks a table.
    """
    for name in ("model", "data_config"):
        if name not in table:
            raise CourseError(f"Profile {args.profile!r} has no table [{name}], which says what is pretrained.")
    model, data, hardware = table["model"], table["data_config"], table.get("hardware", {})
    words = ["pretrain", "--model", model["config"]]
    for key in ("seq_len", "batch_size", "grad_accum_steps"):
        words += [f"--{key.replace('_', '-')}", str(model[key])]
    words += ["--dataset-mix", *(f"{corpus}={share}" for corpus, share in data["dataset_mix"].items())]
    words += ["--tokens-target", str(data["tokens_target"]), "--max-epochs", str(data.get("max_epochs", 4.0))]
    halves = {"bf16": "bfloat16", "fp16": "float16"}
    if half := halves.get(hardware.get("mixed_precision", "no")):
        words += ["--autocast", half]
    words += ["--gradient-checkpointing"] if hardware.get("gradient_checkpointing") else []
    name = Path(args.profile).stem
    return [*words, "--output", scratch("pretrain", name) if os.environ.get("SCRATCH") else f"runs/pretrain-{name}"]


def is_chapter(word: str) -> bool:
    """Whether the word names a chapter and not a command: 03, 03_lora or a notebook's path."""
    return word[:1].isdigit() or word.endswith(".ipynb")


def scratch(*parts: str) -> str:
    """A folder on the site's large file system."""
    return str(Path(os.environ["SCRATCH"], "course", *parts))
