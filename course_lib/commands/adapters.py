"""`course adapters`: list adapters, look into one, take one out of a checkpoint."""

import argparse
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers, require_adapter
from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths

if TYPE_CHECKING:
    from course_lib.adapters.changes import LayerChange

LORA_CHANGE = """change: how much the adapter adds to the weight of a layer, as the Frobenius norm of scaling * B A
(the square root of the sum of all its squared entries). Before training it is 0."""
BUTTERFLY_CHANGE = """change: how far the rotation turns the input of a layer, as the root mean square of its angles in
radians. Before training it is 0."""


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
        description="An adapter's settings, and the shapes of its layers with the size of their change: the Frobenius\n"
        "norm of scaling * B A for LoRA, the root mean square of the angles for a butterfly.\n\n"
        "  course adapters info runs/notes\n"
        "  course adapters info runs/notes --layers",
    )
    one.add_argument("folder", type=Path, metavar="DIR", help="the adapter's folder, ours or PEFT's")
    one.add_argument("--layers", action="store_true", help="one line for each layer, instead of one for those alike")
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
    """Print one line for each adapter. A damaged one is named below the table, with the reason."""
    if not args.folder.is_dir():
        raise CourseError(
            f"There is no folder {args.folder}.{similar_paths(args.folder)} Give the folder that holds the runs."
        )
    found = sorted(path.parent for path in args.folder.rglob("adapter_config.json"))
    if not found:
        where = args.folder.resolve().name or args.folder
        raise CourseError(
            f"There is no adapter below {where}. course train makes one: course train --mode lora --help."
        )
    rows: list[tuple[str, ...]] = [("adapter", "kind", "targets", "base", "parameters", "bytes")]
    damaged = []
    for folder in found:
        try:
            rows.append(_row(folder))
        except CourseError as problem:
            damaged.append(f"damaged: {problem}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = zip(row, widths, (False, False, False, False, True, True), strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())
    print(*damaged, sep="\n", end="\n" if damaged else "")
    return 0


def _row(folder: Path) -> tuple[str, ...]:
    from course_lib.adapters.files import adapter_config, describe, tensor_shapes

    config, shapes = adapter_config(folder), tensor_shapes(folder)
    count = sum(math.prod(shape) for shape in shapes.values())
    size = (folder / "adapter_model.safetensors").stat().st_size
    base = str(config.get("base_model_name_or_path") or "not said")
    return (str(folder), describe(config), _targets(config), base, f"{count:,}", f"{size:,}")


def _targets(config: dict) -> str:
    targets = config.get("target_modules") or []
    names = [targets] if isinstance(targets, str) else sorted(targets)
    return " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def run_info(args: argparse.Namespace) -> int:
    """Print the settings, then one line for the layers that are alike, or with --layers one for each layer."""
    args.folder = require_adapter(args.folder)
    from safetensors.torch import load_file

    from course_lib.adapters.changes import layer_changes
    from course_lib.adapters.files import adapter_config, describe, tensor_shapes
    from course_lib.finetuning.export import run_settings

    config, shapes = adapter_config(args.folder), tensor_shapes(args.folder)
    count = sum(math.prod(shape) for shape in shapes.values())
    print(f"{args.folder}: {describe(config)}, {count:,} parameters")
    print(f"  base     {config.get('base_model_name_or_path') or 'not said'}")
    print(f"  targets  {_targets(config)}")
    if run := run_settings(args.folder):
        print(f"  trained  {run['mode']} on {run['dataset']}, learning rate {run['lr']:g}, seed {run['seed']}")
    changes = layer_changes(config, load_file(args.folder / "adapter_model.safetensors"))
    print(*(_each(changes) if args.layers else _grouped(changes)), sep="\n")
    butterfly = str(config.get("peft_type")).upper() == "BUTTERFLY"
    print(BUTTERFLY_CHANGE if butterfly else LORA_CHANGE)
    return 0


def _each(changes: "Mapping[str, LayerChange]") -> list[str]:
    return [f"  {name}: {_about(change)}, change {change.size:.4g}" for name, change in changes.items()]


def _grouped(changes: "Mapping[str, LayerChange]") -> list[str]:
    """One line for the layers that differ by their block's number alone, as the header of `course train` has it."""
    groups: dict[tuple[str, str], list[float]] = {}
    for name, change in changes.items():
        key = re.sub(r"\.\d+\.", ".*.", name), _about(change)
        groups.setdefault(key, []).append(change.size)
    lines = []
    for (name, about), sizes in groups.items():
        if len(sizes) == 1:
            lines.append(f"  {name}: {about}, change {sizes[0]:.4g}")
        else:
            smallest, median, largest = min(sizes), statistics.median(sizes), max(sizes)
            lines.append(
                f"  {name}, {len(sizes)} layers: {about} each, change {smallest:.4g} to {largest:.4g}, "
                f"median {median:.4g}"
            )
    return lines


def _about(change: "LayerChange") -> str:
    return f"{change.shape}, +{change.parameters:,}" if change.shape else f"+{change.parameters:,} angles"


def run_export(args: argparse.Namespace) -> int:
    """Export a checkpoint as an adapter, and say how large it is."""
    if not args.checkpoint.exists():
        hint = similar_paths(args.checkpoint)
        raise CourseError(f"There is no checkpoint {args.checkpoint}.{hint} Give a folder in RUN/checkpoints.")
    from course_lib.finetuning.export import export

    count = export(args.checkpoint, args.output)
    print(f"{args.output}: {count:,} parameters of {args.checkpoint.name}")
    return 0
