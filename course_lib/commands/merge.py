"""`course merge`: fold an adapter into its base."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers, require_adapter, require_model
from course_lib.errors import CourseError
from course_lib.files import refuse_filled
from course_lib.options import one_of
from course_lib.vocabulary import DTYPES

if TYPE_CHECKING:
    from course_lib.adapters.merge import MergeReport


def add_parser(subparsers: Subparsers) -> None:
    """Register `course merge` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "merge",
        help="fold an adapter into its base: a plain model, as fast as the base",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Fold an adapter into its base's weights; save a plain model, which transformers loads by itself.

  course merge --adapter runs/notes --output merged
  course merge --base gpt2 --adapter runs/lora --output merged --dtype bfloat16

The sum is taken in float32 and rounded once. In bfloat16 a weight keeps 8 bits, and a small change may
be lost in the rounding: the report says how large both are. An adapter trained on a 4-bit base (qlora)
is merged into what its 4-bit numbers stand for, since it corrects their errors too; --original-weights
merges it into the base as it was before, which is another model than the trained one.

Then, in Python: AutoModelForCausalLM.from_pretrained("merged")""",
    )
    parser.add_argument(
        "--base", metavar="NAME", help="the model to merge into: a name or a folder (the one the adapter names)"
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        required=True,
        metavar="DIR",
        help="the adapter's folder, ours or PEFT's, or a .pt file (needed)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder for the model (needed)"
    )
    parser.add_argument(
        "--dtype",
        **one_of(DTYPES),
        default="float32",
        help="dtype in which the base is loaded and the result saved (float32)",
    )
    parser.add_argument(
        "--original-weights",
        action="store_true",
        help="for an adapter of mode qlora: merge into the base as it was before 4 bits, on which the adapter was not "
        "trained",
    )
    parser.set_defaults(run=run_merge)


def run_merge(args: argparse.Namespace) -> int:
    """Merge, save, print the rounding report."""
    refuse_filled(args.output)
    args.adapter = require_adapter(args.adapter)
    require_model(args.base)
    from course_lib.adapters import load_adapter, merge, save_merged
    from course_lib.adapters.files import readable_config
    from course_lib.finetuning.export import as_adapter, named_base, other_bases, quantization_of_adapter
    from course_lib.finetuning.model import load_qlora_base
    from course_lib.models.pretrained import load

    with tempfile.TemporaryDirectory() as scratch:
        adapter = as_adapter(args.adapter, Path(scratch))
        readable_config(adapter)
        base = args.base or named_base(adapter)
        how = quantization_of_adapter(args.adapter, adapter)
        if args.original_weights and how is None:
            raise CourseError(f"--original-weights is for an adapter of mode qlora, and {args.adapter} is not one.")
        for name, other in other_bases(base, {str(args.adapter): adapter}).items():
            print(f"note: {name} was trained on {other}, and is merged into {base} here", flush=True)
        if how is not None and not args.original_weights:
            model, tokenizer = load_qlora_base(base, how, args.dtype)
        else:
            model, tokenizer = load(base, args.dtype)
        print(f"{base}: {sum(p.numel() for p in model.parameters()):,} parameters in {args.dtype}", flush=True)
        load_adapter(model, adapter)
    report = merge(model)
    save_merged(model, args.output)
    tokenizer.save_pretrained(args.output)
    print(f"merged {args.adapter} into {report.layers} layers of {base}")
    print(f"  mean change of a weight   {report.mean_change:.3e}")
    print(f"  mean rounding error       {report.mean_error:.3e} ({_share(report)} of the change)")
    print(f"  largest rounding error    {report.max_error:.3e}")
    if how is not None and args.original_weights:
        print("The adapter was trained on this base in 4 bits: it corrects errors that the full base does not have.")
    elif how is not None:
        print(f"The weights are those that the base's {how['quant_type'].upper()} stands for, with the adapter added.")
    print(f"saved in {args.output}: AutoModelForCausalLM.from_pretrained({str(args.output)!r}) loads it")
    return 0


def _share(report: "MergeReport") -> str:
    return f"{report.mean_error / report.mean_change:.2%}" if report.mean_change else "there is none"
