"""`course adapters`: list adapters, look into one, take one out of a checkpoint."""

import argparse
import math
from pathlib import Path

from course_lib.commands import Subparsers
from course_lib.errors import CourseError


def add_parser(subparsers: Subparsers) -> None:
    """Register `course adapters` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "adapters",
        help="list adapters, look into one, or take one out of a checkpoint",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""What adapters there are, what is in one, and those that a run's checkpoints hold.

  course adapters list runs
  course adapters info runs/notes
  course adapters export runs/notes/checkpoints/best --output runs/notes_best""",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    every = actions.add_parser(
        "list",
        help="all adapters below a folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="All adapters below a folder, ours and PEFT's: kind, size, base.\n\n  course adapters list runs",
    )
    every.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="where to look (the current folder)"
    )
    every.set_defaults(run=run_list)
    one = actions.add_parser(
        "info",
        help="one adapter's settings and layers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="An adapter's settings, and for each layer its shapes and how large its change is: the Frobenius\n"
        "norm of scaling * B A for LoRA, the root mean square of the angles for a butterfly.\n\n"
        "  course adapters info runs/notes",
    )
    one.add_argument("folder", type=Path, metavar="DIR", help="the adapter's folder, ours or PEFT's")
    one.set_defaults(run=run_info)
    export = actions.add_parser(
        "export",
        help="a checkpoint of a run as an adapter",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A checkpoint that a run has kept, in the layout that compare, merge and PEFT read: look at an\n"
        "earlier one where the last has learnt too much.\n\n"
        "  course adapters export runs/notes/checkpoints/best --output runs/notes_best\n"
        "  course adapters export runs/notes/checkpoints/step_000250 --output runs/notes_250",
    )
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a folder in RUN/checkpoints")
    export.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder for the adapter (needed)"
    )
    export.set_defaults(run=run_export)


def run_list(args: argparse.Namespace) -> int:
    """One line an adapter; a damaged one is named with its reason."""
    if not args.folder.is_dir():
        raise CourseError(f"There is no folder {args.folder}.")
    found = sorted(path.parent for path in args.folder.rglob("adapter_config.json"))
    if not found:
        raise CourseError(f"There is no adapter below {args.folder.resolve().name or args.folder}.")
    rows = [("adapter", "kind", "targets", "base", "parameters", "bytes"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = zip(row, widths, (False, False, False, False, True, True), strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())
    return 0


def _row(folder: Path) -> tuple[str, ...]:
    from course_lib.adapters.files import adapter_config, describe, tensor_shapes

    try:
        config, shapes = adapter_config(folder), tensor_shapes(folder)
    except CourseError as problem:
        return (str(folder), "damaged", str(problem), "", "", "")
    count = sum(_size(shape) for shape in shapes.values())
    size = (folder / "adapter_model.safetensors").stat().st_size
    base = str(config.get("base_model_name_or_path") or "not said")
    return (str(folder), describe(config), _targets(config), base, f"{count:,}", f"{size:,}")


def _targets(config: dict) -> str:
    targets = config.get("target_modules") or []
    names = [targets] if isinstance(targets, str) else sorted(targets)
    return " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _size(shape: list[int]) -> int:
    return math.prod(shape)


def run_info(args: argparse.Namespace) -> int:
    """Settings, then a line a layer."""
    from safetensors.torch import load_file

    from course_lib.adapters.files import adapter_config, describe, layer_lines, tensor_shapes
    from course_lib.finetuning.export import run_settings

    config, shapes = adapter_config(args.folder), tensor_shapes(args.folder)
    count = sum(_size(shape) for shape in shapes.values())
    print(f"{args.folder}: {describe(config)}, {count:,} parameters")
    print(f"  base     {config.get('base_model_name_or_path') or 'not said'}")
    print(f"  targets  {_targets(config)}")
    if run := run_settings(args.folder):
        print(f"  trained  {run['mode']} on {run['dataset']}, learning rate {run['lr']:g}, seed {run['seed']}")
    lines = layer_lines(config, load_file(args.folder / "adapter_model.safetensors"))
    in_order = sorted(lines, key=lambda name: [part.zfill(6) for part in name.split(".")])  # 2 before 10
    for layer, text in ((layer, lines[layer]) for layer in in_order):
        print(f"  {layer}: {text}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Export, and say how much."""
    from course_lib.finetuning.export import export

    count = export(args.checkpoint, args.output)
    print(f"{args.output}: {count:,} parameters of {args.checkpoint.name}")
    return 0
