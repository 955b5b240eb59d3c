"""`course memory`: what a model needs in training and in use, by formula, before anything is loaded."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.commands import Subparsers, require_model
from course_lib.errors import CourseError
from course_lib.files import refuse_missing_path, write_json
from course_lib.models.config import CONFIGS
from course_lib.models.published import PUBLISHED, known_shapes
from course_lib.options import count, one_of
from course_lib.vocabulary import DTYPES, HALF_DTYPES, MODES, QUANT_TYPES

if TYPE_CHECKING:
    from course_lib.finetuning.memory import MemoryEstimate

DESCRIPTION = """How much memory a model takes, part by part, from its shape alone. No weights are loaded.

  course memory smollm2-135m-instruct --mode full --seq-len 128 --batch-size 4
  course memory llama-3-8b --mode qlora --dtype bfloat16 --seq-len 2048 --rank 64 --target-modules all-linear
  course memory llama-65b --mode qlora --dtype bfloat16 --seq-len 512 --gradient-checkpointing
  course memory llama-3-70b --mode inference --dtype bfloat16 --seq-len 8192

MODEL: smollm2-135m-instruct, a folder with a config.json, a hub name in the cache, a shape of ours (gpt2,
modern-15m ...) or of a published model: llama-3-8b, llama-3-70b, llama-7b, llama-13b, llama-33b, llama-65b."""

GIB = 2**30


def add_parser(subparsers: Subparsers) -> None:
    """Register `course memory` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "memory",
        help="what a model needs in training and in use, by formula",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a name, a folder or a shape: see above")
    parser.add_argument("--mode", **one_of((*MODES, "inference")), default="lora", help="what is trained (lora)")
    parser.add_argument("--seq-len", type=count, default=512, metavar="N", help="tokens in a row (512)")
    parser.add_argument("--batch-size", type=count, default=1, metavar="N", help="rows of a micro-batch (1)")
    parser.add_argument("--dtype", **one_of(DTYPES), default="float32", help="dtype of the base's weights (float32)")
    parser.add_argument("--autocast", **one_of(HALF_DTYPES), help="dtype in which the forward pass computes (off)")
    parser.add_argument("--rank", type=count, default=8, metavar="N", help="LoRA's rank (8)")
    parser.add_argument(
        "--target-modules", nargs="+", metavar="LAYER", help="the layers with an adapter, or all-linear (q_proj v_proj)"
    )
    parser.add_argument("--quant-type", **one_of(QUANT_TYPES), default="nf4", help="kind of 4-bit numbers (nf4)")
    parser.add_argument(
        "--quant-block-size", type=count, default=64, metavar="N", help="weights in a block that shares a scale (64)"
    )
    parser.add_argument(
        "--double-quant",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="quantise the scales of the blocks as well, as course train does (on)",
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="recompute activations: less memory, more time (off)"
    )
    parser.add_argument(
        "--optimizer",
        choices=("adamw", "adamw-8bit", "sgd-momentum", "sgd"),
        default="adamw",
        help="the optimiser whose state is counted; course train has adamw (adamw)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the parts to this file too")
    parser.set_defaults(run=run_memory)


def run_memory(args: argparse.Namespace) -> int:
    """Print the table, and write the JSON file where one is asked for."""
    refuse_missing_path("MODEL", args.model)
    _require_shape(args.model)
    from course_lib.finetuning.memory import MemorySettings, estimate_memory
    from course_lib.finetuning.model import known_shape
    from course_lib.quantization.tensor import check_kind

    check_kind(args.quant_type, args.quant_block_size)
    model = known_shape(args.model, args.dtype)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and args.seq_len > limit:
        raise CourseError(f"--seq-len {args.seq_len}: {args.model} has {limit} positions.")
    parameters = sum(p.numel() for p in model.parameters())
    _adapt(model, args)
    settings = MemorySettings(
        mode=args.mode,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        dtype=args.dtype,
        autocast=args.autocast,
        gradient_checkpointing=args.gradient_checkpointing,
        optimizer=args.optimizer,
        block_size=args.quant_block_size,
        double_quant=args.double_quant,
    )
    estimate = estimate_memory(model, settings)
    print(f"{args.model}, {parameters:,} parameters, mode {args.mode}, {args.batch_size} x {args.seq_len} tokens")
    if args.model.lower() in PUBLISHED:
        print(f"shape: {PUBLISHED[args.model.lower()].source}")
    print(table(estimate))
    if args.json:
        given = {key: value for key, value in vars(args).items() if key not in ("run", "json")}
        write_json(args.json, {"settings": given, "parameters": parameters} | estimate.as_dict())
    return 0


def _require_shape(name: str) -> None:
    """Raise CourseError where no shape of that name is known here and no model is found. torch is not imported."""
    if Path(name).is_dir() or name.lower() in (*PUBLISHED, *CONFIGS):
        return
    try:
        require_model(name)
    except CourseError as error:
        raise CourseError(f"{error} {known_shapes()}") from error


def _adapt(model: Any, args: argparse.Namespace) -> None:
    """Freeze the model and put the adapter's shape on, in place."""
    from dataclasses import replace

    from course_lib.finetuning.model import adapt, with_adapter_shape
    from course_lib.finetuning.settings import complete

    if args.mode == "inference":
        model.requires_grad_(False)
        return
    explicit: dict[str, Any] = {"mode": args.mode}
    if args.mode in ("lora", "qlora"):
        explicit["rank"] = args.rank
    settings = complete(explicit)
    if args.mode != "full" and args.target_modules:
        settings = replace(settings, target_modules=_targets(model, args.target_modules))
    adapt(model, with_adapter_shape(settings, model))


def _targets(model: Any, given: list[str]) -> tuple[str, ...]:
    """The layers' names; `all-linear` means every linear layer but the head, as in PEFT."""
    if given != ["all-linear"]:
        return tuple(given)
    from course_lib.finetuning.memory import quantisable

    return tuple(sorted({name.rpartition(".")[2] for name in quantisable(model)}))


def table(estimate: "MemoryEstimate") -> str:
    """The parts in GiB, each with its formula and a mark at the moments when it exists.

    Args:
        estimate: of `finetuning.memory`.

    Returns:
        Lines of text.
    """
    from course_lib.finetuning.memory import LEFT_OUT

    moments = list(estimate.moments)
    letters = {moment: chr(ord("a") + index) for index, moment in enumerate(moments)}
    lines = []
    for part in estimate.parts:
        marks = "".join(letters[moment] if moment in part.when else " " for moment in moments)
        lines.append(f"  {marks}  {part.name:20} {part.bytes / GIB:10.3f} GiB   {part.formula}")
    for moment, size in estimate.moments.items():
        lines.append(f"  {letters[moment]:{len(moments)}}  {moment:20} {size / GIB:10.3f} GiB")
    blank = " " * len(moments)
    lines.append(f"  {blank}  {'total, the largest':20} {estimate.total / GIB:10.3f} GiB   ({estimate.total:,} bytes)")
    return "\n".join(["memory, estimated by formula:", *lines, "left out:", *(f"  - {what}" for what in LEFT_OUT)])
