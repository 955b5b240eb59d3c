"""`course merge` and `course adapters`: what can be done with a trained adapter, besides `course compare`."""

import argparse
import json
import math
import re
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.files import refuse_filled, write_json


def add_parser(subparsers) -> None:
    """Register the two commands (cheap: nothing heavy is imported before one runs)."""
    _add_merge(subparsers)
    _add_adapters(subparsers)


def _add_merge(subparsers) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="fold an adapter into its base: a plain model, as fast as the base",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Fold an adapter into its base's weights; save a plain model, which transformers loads by itself.

  course merge --adapter runs/notes --output merged
  course merge --base gpt2 --adapter runs/lora --output merged --dtype bfloat16

The sum is taken in float32 and rounded once. In bfloat16 a weight keeps 8 bits, and a small change may
be lost in the rounding: the report says how large both are. An adapter trained on a 4-bit base (qlora)
is merged into the base at full precision, which is not quite what it was trained on.

Then, in Python: AutoModelForCausalLM.from_pretrained("merged")""",
    )
    parser.add_argument(
        "--base", metavar="NAME", help="the model to merge into: a name or a folder (the one the adapter names)"
    )
    parser.add_argument(
        "--adapter", type=Path, required=True, metavar="DIR", help="the adapter's folder, ours or PEFT's (needed)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder for the model (needed)"
    )
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument(
        "--dtype",
        choices=dtypes,
        default="float32",
        help="what the base is loaded in and the result saved in (float32)",
    )
    parser.set_defaults(run=run_merge)


def _add_adapters(subparsers) -> None:
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


# --- merge -----------------------------------------------------------------------------------------------------------


def run_merge(args: argparse.Namespace) -> int:
    """Merge, save, print the rounding report."""
    from course_lib.adapters import load_adapter, merge, save_merged
    from course_lib.models.pretrained import load

    base = args.base or named_base(args.adapter)
    refuse_filled(args.output)
    model, tokenizer = load(base, args.dtype)
    print(f"{base}: {sum(p.numel() for p in model.parameters()):,} parameters in {args.dtype}", flush=True)
    load_adapter(model, args.adapter)
    report = merge(model)
    save_merged(model, args.output)
    tokenizer.save_pretrained(args.output)
    print(f"merged {args.adapter} into {report.layers} layers of {base}")
    print(f"  mean change of a weight   {report.mean_change:.3e}")
    print(f"  mean rounding error       {report.mean_error:.3e} ({_share(report)} of the change)")
    print(f"  largest rounding error    {report.max_error:.3e}")
    if (_run_of(args.adapter) or {}).get("mode") == "qlora":
        print("The adapter was trained on this base in 4 bits: it corrects errors that the full base does not have.")
    print(f"saved in {args.output}: AutoModelForCausalLM.from_pretrained({str(args.output)!r}) loads it")
    return 0


def _share(report) -> str:
    return f"{report.mean_error / report.mean_change:.2%}" if report.mean_change else "there is none"


def named_base(folder: Path) -> str:
    """The base that an adapter was trained on: the one made for its run, which lies beside it, or as its file says."""
    if (Path(folder) / "base" / "config.json").is_file():  # wherever the run's folder has been moved
        return str(Path(folder) / "base")
    name = adapter_config(folder).get("base_model_name_or_path")
    if not name:
        raise CourseError(f"{folder} does not say which model it belongs to: give --base.")
    return name


def adapter_config(folder: Path) -> dict:
    """adapter_config.json of `folder`. CourseError where there is none, or no such thing."""
    path = Path(folder) / "adapter_config.json"
    if not path.is_file():
        found = "a whole model, which needs no base" if (Path(folder) / "config.json").is_file() else "no adapter"
        if is_checkpoint(folder):
            found = "a checkpoint (course adapters export makes an adapter of it)"
        raise CourseError(f"{folder} holds {found}: there is no adapter_config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise CourseError(f"{path} is damaged: it holds no settings.")
    return config


def _run_of(folder: Path) -> dict | None:
    """The settings of the run that made the adapter, where it lies in the run's folder."""
    try:
        return json.loads((folder / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- list and info ---------------------------------------------------------------------------------------------------


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
    try:
        config, shapes = adapter_config(folder), _shapes(folder)
    except CourseError as problem:
        return (str(folder), "damaged", str(problem), "", "", "")
    count = sum(_size(shape) for shape in shapes.values())
    size = (folder / "adapter_model.safetensors").stat().st_size
    base = str(config.get("base_model_name_or_path") or "not said")
    return (str(folder), kind(config), _targets(config), base, f"{count:,}", f"{size:,}")


def kind(config: dict) -> str:
    """An adapter's method and settings in a few words: "lora rank 8 alpha 16"."""
    name = str(config.get("peft_type", "unknown")).lower()
    if name == "lora":
        rslora = " rslora" if config.get("use_rslora") else ""
        return f"lora rank {config.get('r', 8)} alpha {config.get('lora_alpha', 8):g}{rslora}"
    if name == "butterfly":
        block = f" block {config['block_size']}" if config.get("block_size") else ""
        return f"butterfly {config.get('stages')} stages{block}"
    return name


def _targets(config: dict) -> str:
    targets = config.get("target_modules") or []
    names = [targets] if isinstance(targets, str) else sorted(targets)
    return " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor shapes from the file's header: the tensors themselves are not read."""
    from safetensors import SafetensorError, safe_open

    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise CourseError(f"{path.name}: {error}") from error


def _size(shape: list[int]) -> int:
    return math.prod(shape)


def run_info(args: argparse.Namespace) -> int:
    """Settings, then a line a layer."""
    from safetensors.torch import load_file

    config, shapes = adapter_config(args.folder), _shapes(args.folder)
    count = sum(_size(shape) for shape in shapes.values())
    print(f"{args.folder}: {kind(config)}, {count:,} parameters")
    print(f"  base     {config.get('base_model_name_or_path') or 'not said'}")
    print(f"  targets  {_targets(config)}")
    if run := _run_of(args.folder):
        print(f"  trained  {run['mode']} on {run['dataset']}, learning rate {run['lr']:g}, seed {run['seed']}")
    lines = layer_lines(config, load_file(args.folder / "adapter_model.safetensors"))
    in_order = sorted(lines, key=lambda name: [part.zfill(6) for part in name.split(".")])  # 2 before 10
    for layer, text in ((layer, lines[layer]) for layer in in_order):
        print(f"  {layer}: {text}")
    return 0


def layer_lines(config: dict, tensors: dict) -> dict[str, str]:
    """For each layer its shapes and the size of its change: the Frobenius norm of s B A, or the angles' RMS."""
    from course_lib.adapters import lora_scaling

    lines = {}
    for key, tensor in tensors.items():
        layer = key.removeprefix("base_model.model.")
        if key.endswith(".lora_A.weight"):
            B = tensors[key.replace(".lora_A.", ".lora_B.")].float()
            scaling = lora_scaling(config.get("lora_alpha", 8), config.get("r", 8), config.get("use_rslora", False))
            norm = scaling * (B @ tensor.float()).norm().item()
            sizes = f"{B.shape[0]} x {tensor.shape[1]}"
            lines[layer.removesuffix(".lora_A.weight")] = f"{sizes}, +{tensor.numel() + B.numel():,}, change {norm:.4g}"
        elif key.endswith(".butterfly.angles"):
            rms = tensor.float().square().mean().sqrt().item()
            lines[layer.removesuffix(".butterfly.angles")] = f"+{tensor.numel():,} angles, RMS {rms:.4g} rad"
    return lines


def run_export(args: argparse.Namespace) -> int:
    """Export, and say how much."""
    count = export(args.checkpoint, args.output)
    print(f"{args.output}: {count:,} parameters of {args.checkpoint.name}")
    return 0


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a Trainer's checkpoint."""
    return (Path(folder) / "weights.safetensors").is_file()


def export(checkpoint: Path, output: Path) -> int:
    """Rename the checkpoint's tensors as PEFT does, and write the settings of its run beside them, into `output`.

    Returns the number of parameters. CourseError where it is no adapter's checkpoint, or `output` is not empty.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    folder = checkpoint.resolve().parent.parent
    run = _run_of(folder)
    if run is None or not is_checkpoint(checkpoint):
        raise CourseError(f"{checkpoint} is no checkpoint in the folder of a run of `course train`.")
    if run["mode"] == "full":
        raise CourseError(f"{checkpoint} holds a whole model's weights, and no adapter.")
    refuse_filled(output)
    try:
        tensors = load_file(checkpoint / "weights.safetensors")
    except SafetensorError as error:
        raise CourseError(f"{checkpoint} is damaged: {error}") from error
    output.mkdir(parents=True, exist_ok=True)
    save_file({peft_name(key): tensor for key, tensor in tensors.items()}, output / "adapter_model.safetensors")
    write_json(output / "adapter_config.json", exported_config(run, checkpoint.parent.parent))
    return sum(tensor.numel() for tensor in tensors.values())


def peft_name(name: str) -> str:
    """A tensor's name in a checkpoint to that in an adapter's file."""
    name = re.sub(r"\.adapters\.default\.([AB])$", r".lora_\1.weight", name)
    return "base_model.model." + name.replace(".rotation.angles", ".butterfly.angles")


def exported_config(run: dict, folder: Path) -> dict:
    """adapter_config.json for the settings of a run in `folder`."""
    base = folder / "base"
    if run["mode"] in ("lora", "qlora"):
        transposed = any(target.split(".")[-1].startswith("c_") for target in run["targets"])  # GPT-2's c_attn, c_proj
        method = {"peft_type": "LORA", "r": run["rank"], "lora_alpha": run["alpha"], "lora_dropout": run["dropout"]}
        method |= {"use_rslora": run["rslora"], "fan_in_fan_out": transposed, "bias": "none"}
    else:
        method = {"peft_type": "BUTTERFLY", "stages": run["stages"], "block_size": run["block_size"]}
    return method | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base) if base.is_dir() else run["model"],
        "target_modules": run["targets"],
        "inference_mode": True,
    }
