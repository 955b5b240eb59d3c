"""`course align`: the reference runs of the alignment table, ours beside them, and the comparison of any two runs."""

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path

from course_lib.commands import Subparsers, add_device, require_adapter
from course_lib.errors import CourseError
from course_lib.files import refuse_missing_path
from course_lib.finetuning.settings import BUNDLED
from course_lib.options import add_options, flag_of
from course_lib.parity.recipes import RECIPES, AlignSettings, targets_of
from course_lib.suggestions import similar_paths

EXAMPLES = """The same training run by PEFT and by our code, and how far two runs are apart.

  course align run gpt2-lora --dataset wikitext2 --output runs/peft --steps 100
  course align run gpt2-lora --dataset wikitext2 --output runs/ours --steps 100 --ours
  course align compare runs/ours runs/peft --tolerance 0.0001"""
ADAPTER_SETTINGS = ("rank", "alpha", "lora_dropout", "target_modules", "target_mode")


def add_parser(subparsers: Subparsers) -> None:
    """Register `course align` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "align",
        help="train PEFT's reference or the same run with our code; compare any two runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=EXAMPLES,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_run(actions)
    _add_compare(actions)


def _add_run(actions: Subparsers) -> None:
    run = actions.add_parser(
        "run",
        usage="course align run RECIPE [options]",
        help="train a reference, or --ours",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Train with PEFT and transformers in a plain torch loop, or (--ours) with our LoRA and
Trainer, from the same start on the same batches. Writes loss.jsonl, the adapter in PEFT's layout,
the one it started from (initial/) and run.json. Defaults, which depend on the recipe, are in
brackets.

  gpt2-lora      LoRA on the attention of GPT-2
  gpt2-full      all weights of GPT-2
  gemma-lora     LoRA on the attention of google/gemma-3-270m
  smollm2-lora   LoRA on the queries and values of SmolLM2-135M-Instruct, which a package carries

  course align run gpt2-lora --dataset wikitext2 --output runs/peft --steps 100
  course align run gpt2-lora --dataset wikitext2 --output runs/ours --steps 100 --ours
  course align run smollm2-lora --dataset notes.txt --output runs/notes --target-mode full --rank 16""",
    )
    run.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help="one of the above")
    run.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="a new or empty folder for the run (runs/RECIPE)",
    )
    run.add_argument("--ours", action="store_true", help="train with our code instead of the reference's")
    run.add_argument("--init", type=Path, metavar="DIR", help="start from this adapter (PEFT's layout)")
    add_device(run)
    run.add_argument("--dry-run", action="store_true", help="print the settings, and stop")
    run.add_argument(
        "--target-mode",
        choices=("light", "full", "all"),
        help="LoRA on: light, queries and values; full, all of attention; all, every linear layer",
    )
    add_options(run, AlignSettings)
    run.set_defaults(run=run_run)


def _add_compare(actions: Subparsers) -> None:
    compare = actions.add_parser(
        "compare",
        help="losses, gradients and weights of two runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Compare two runs step by step and tensor by tensor. A run is a folder of `course align run`,
or what another program wrote: a JSONL log, a bare log with lines like
"step 10 | loss: 3.89 | lr: 1e-4", a .safetensors adapter, or a folder with one log and one adapter.

  course align compare runs/ours runs/peft --tolerance 0.0001
  course align compare runs/ours their_log.txt --offset 1 --html comparison.html

Exit status: 0 within the tolerance, 1 outside it, 2 where the runs cannot be compared.""",
    )
    compare.add_argument("a", metavar="RUN_A", help="the run to judge")
    compare.add_argument("b", metavar="RUN_B", help="the reference: relative differences are relative to it")
    compare.add_argument(
        "--tolerance", type=float, default=0.02, metavar="X", help="largest relative difference (0.02)"
    )
    compare.add_argument(
        "--offset", type=int, default=0, metavar="N", help="what the steps of RUN_B are shifted by (0)"
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write every step and tensor there")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write a page with table and plot there")
    compare.add_argument("--plot", type=Path, metavar="FILE", help="write the plot there (.png, .svg or .pdf)")
    compare.set_defaults(run=run_compare)


def run_run(args: argparse.Namespace) -> int:
    """Train, and say where the run is."""
    settings = _settings(args)
    _check_inputs(args, settings)
    output = args.output or Path("runs", f"{args.recipe}-ours" if args.ours else args.recipe)
    if args.dry_run:
        for name, value in (asdict(settings) | {"output": output}).items():
            print(f"{name:17} {value}")
        return 0
    import warnings

    from course_lib.parity.reference import run

    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's, of transformers
    run(settings, output, ours=args.ours, init=args.init, device=args.device)
    print(f"{output}: compare it with another run by `course align compare`")
    return 0


def _check_inputs(args: argparse.Namespace, settings: AlignSettings) -> None:
    """Raise CourseError where a named file or folder does not exist, before torch is imported."""
    from course_lib.data.corpora import NAMED, no_corpus

    refuse_missing_path("--model", settings.model)
    if settings.dataset not in (BUNDLED, *NAMED) and not Path(settings.dataset).expanduser().exists():
        raise no_corpus(settings.dataset, (BUNDLED,))
    if args.init:
        args.init = require_adapter(args.init)


def _settings(args: argparse.Namespace) -> AlignSettings:
    """The recipe's settings, changed by what was given. Raises CourseError where options exclude each other."""
    names = {each.name for each in fields(AlignSettings)}
    given = {name: value for name, value in vars(args).items() if name in names}
    adapter = [flag_of(name) for name in ADAPTER_SETTINGS if getattr(args, name, None) is not None]
    if args.recipe == "gpt2-full" and (adapter or args.init):
        raise CourseError(f"gpt2-full trains all weights: {', '.join(adapter) or '--init'} is for an adapter.")
    if args.init and adapter:
        raise CourseError(f"{', '.join(adapter)} cannot be given with --init: the adapter there decides.")
    if "steps" in given and "epochs" in given:
        raise CourseError("Give --steps or --epochs, not both.")
    if args.target_mode:
        given["target_modules"] = targets_of(args.recipe, args.target_mode)
    elif "target_modules" in given:
        given["target_modules"] = tuple(given["target_modules"])
    return replace(RECIPES[args.recipe], **given)


def run_compare(args: argparse.Namespace) -> int:
    """Print the table; the exit status says whether the runs agree."""
    for run in (args.a, args.b):
        if not Path(run).exists():
            hint = similar_paths(Path(run)) or " Give a folder, a log (JSONL or text) or a .safetensors file."
            raise CourseError(f"There is no run {run}.{hint}")
    from course_lib.parity.compare import compare_runs, draw, write_new
    from course_lib.parity.runs import read_run

    kind = args.plot.suffix.removeprefix(".").lower() if args.plot else "png"
    if kind not in ("png", "svg", "pdf"):
        raise CourseError(f"A plot's file ends in .png, .svg or .pdf, not {args.plot.name}.")
    for path in filter(None, (args.json, args.html, args.plot)):
        if path.exists():
            raise CourseError(f"{path} exists: choose another name or remove it first.")
    comparison = compare_runs(read_run(args.a), read_run(args.b), args.tolerance, args.offset)
    print(comparison)
    if args.json:
        write_new(args.json, comparison.to_json().encode())
    if args.html:
        write_new(args.html, comparison.to_html().encode())
    if args.plot:
        write_new(args.plot, draw(comparison, kind))
    return 0 if comparison.within else 1
