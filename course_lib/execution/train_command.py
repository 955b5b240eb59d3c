"""`course train`: full fine-tuning, LoRA, QLoRA or butterflies, from one command line; and `course prepare`."""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.execution.data_commands import add_prepare

DESCRIPTION = """Train a model or an adapter for it, and say what it cost and what it brought.

  course train --mode lora --dataset notes.txt --output runs/notes
  course train --mode lora --dataset my_data --steps 500 --rank 8 --lr 3e-4 --output runs/mine
  course train --mode lora --model gpt2 --dataset tinystories --max-train-samples 10000 \\
      --rank 16 --alpha 32 --targets c_attn c_proj --epochs 1 --output runs/lora
  course train --mode full --model distilgpt2 --dataset wikitext2 --lr 5e-5 --output runs/full
  course train --mode full --model modern-5m --dataset book.txt --lr 1e-3 --output runs/scratch
  course train --mode butterfly-block --stages 8 --block-size 64 --output runs/turned
  course train --mode lora --target-tokens 512 --seq-len 256 --epochs 1 --output runs/by_tokens
  course train --output runs/notes --resume     go on after an interruption
  course train --mode full --dry-run            the plan and the memory it takes; touches nothing

--dataset: keepers_log (in the package), tinystories or wikitext2 (from the hub or its cache), a text
file, a folder with wiki.train.raw, a folder of token shards (course prepare), or records (.json,
.jsonl, also .gz: Alpaca, chat, ShareGPT ...), of which the response is trained.

--model: smollm2-135m-instruct (in a package), a folder, a hub name; or a shape of ours to train from
random weights: tiny-gpt, modern-1m, modern-5m, modern-15m, modern-60m, modern-125m, modern-400m."""

EPILOG = """Out of memory? --dry-run says what takes how much: lower --batch-size or --seq-len, raise --accumulate,
or --checkpoint-activations. Loss not a number, or gibberish? Lower --lr. Nothing changed? More --steps,
a higher --lr or --rank. Then look: course compare --adapter runs/notes --prompt "Once upon a time"
"""

MANY_PASSES = "  so many passes teach a text by heart: watch --eval-every, or give fewer --steps or --epochs 3"


def add_parser(subparsers) -> None:
    """Register `course train` and `course prepare` (cheap: nothing heavy is imported before they run)."""
    parser = subparsers.add_parser(
        "train",
        help="train a model, or an adapter for it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what was not given is not there: the defaults depend on the mode
    )
    _add_run(parser)
    _add_data(parser)
    _add_adapter(parser)
    _add_steps(parser)
    _add_memory(parser)
    parser.set_defaults(run=run_train)
    add_prepare(subparsers)


def _add_run(parser) -> None:
    group = parser.add_argument_group("the run")
    modes = ("full", "lora", "qlora", "butterfly", "butterfly-block")
    group.add_argument(
        "--mode",
        type=lambda text: text.replace("_", "-").replace("baseline", "full"),
        choices=modes,
        help="what is trained (lora); qlora: LoRA on a base in 4 bits, by bitsandbytes until chapter 05",
    )
    group.add_argument("--model", metavar="NAME", help="name, folder or shape (smollm2-135m-instruct)")
    group.add_argument(
        "--from-scratch", action="store_true", help="random weights for a shape that the hub has too, such as gpt2"
    )
    group.add_argument("--output", type=Path, default=None, metavar="DIR", help="the run's folder, new or empty")
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    group.add_argument("--force", action="store_true", help="replace the run that is in --output")
    group.add_argument("--dry-run", action="store_true", help="print the plan and a memory estimate, and stop")
    group.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints (50; 0: none)")
    group.add_argument("--keep", type=int, metavar="N", help="how many checkpoints stay (2)")
    group.add_argument("--eval-every", type=int, metavar="N", help="steps between held-out evaluations (0: at the end)")
    group.add_argument("--log-every", type=int, metavar="N", help="steps between log lines (10)")
    group.add_argument("--seed", type=int, help="of weights, batches and dropout (0)")
    group.add_argument("--threads", type=int, metavar="N", help="torch's threads (0: torch decides)")
    group.add_argument("--device", help="cpu, cuda, or auto: the GPU where there is one (auto)")


def _add_data(parser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", metavar="SOURCE", help="see above (keepers_log)")
    group.add_argument("--tokenizer", metavar="NAME", help="another than the model's; a shape takes SmolLM2's")
    group.add_argument("--seq-len", type=int, metavar="N", help="tokens a row (128)")
    group.add_argument(
        "--max-train-samples", type=int, metavar="N", help="documents of a corpus, records, or blocks of a text (all)"
    )
    group.add_argument("--max-eval-samples", type=int, metavar="N", help="held-out rows (64; 0: all)")
    group.add_argument("--template", choices=("chat", "instruction"), help="of records (chat, where there is one)")
    group.add_argument("--train-on", choices=("response", "assistant", "all"), help="of records (response)")


def _add_adapter(parser) -> None:
    group = parser.add_argument_group("the adapter")
    group.add_argument("--rank", type=int, help="LoRA's rank (8)")
    group.add_argument("--alpha", type=float, help="LoRA's alpha: the change is scaled by alpha / rank (16)")
    group.add_argument("--dropout", type=float, help="on LoRA's input, while training (0)")
    group.add_argument("--rslora", action="store_true", help="scale by alpha / sqrt(rank)")
    group.add_argument("--targets", nargs="+", metavar="LAYER", help="ends of names (c_attn; Llama: q_proj v_proj)")
    group.add_argument("--stages", type=int, metavar="N", help="a butterfly's rotations (6; blocks: 8)")
    group.add_argument(
        "--block-size", type=int, metavar="N", help="of butterfly-block (256, or what divides the width)"
    )


def _add_steps(parser) -> None:
    group = parser.add_argument_group("steps")
    group.add_argument("--steps", type=int, metavar="N", help="optimiser steps (lora, qlora: 500)")
    group.add_argument("--epochs", type=float, metavar="N", help="or passes over the data (else 1)")
    group.add_argument("--batch-size", type=int, metavar="N", help="rows of a micro-batch (4)")
    group.add_argument("--accumulate", type=int, metavar="N", help="micro-batches of a step (lora, qlora: 4; else 1)")
    group.add_argument(
        "--target-tokens",
        type=int,
        metavar="N",
        help="token-aware steps: each document is a row of its own length, and a step takes micro-batches, each "
        "weighted by its tokens, until it has so many; a checkpoint after every step",
    )
    group.add_argument("--lr", type=float, help="peak learning rate (lora, qlora: 3e-4, butterflies: 1e-4, full: 5e-5)")
    group.add_argument("--schedule", choices=("cosine", "linear", "constant"), help="after the warm-up (cosine)")
    group.add_argument("--warmup-ratio", type=float, metavar="SHARE", help="share of the steps (0.1)")
    group.add_argument("--floor", type=float, metavar="SHARE", help="where it ends, of --lr (cosine: 0.1, linear: 0)")
    group.add_argument("--weight-decay", type=float, help="AdamW's (0)")
    group.add_argument("--clip", type=float, help="largest norm of a step's gradients (1)")


def _add_memory(parser) -> None:
    group = parser.add_argument_group("precision and memory")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the base's weights (float32)")
    group.add_argument("--autocast", choices=("bfloat16", "float16"), help="compute the forward pass in it (off)")
    group.add_argument("--checkpoint-activations", action="store_true", help="recompute them: less memory, more time")
    group.add_argument("--compile", action="store_true", help="torch.compile the forward pass")


def run_train(args: argparse.Namespace) -> int:
    """Print the plan, train, print what came out."""
    import torch

    from course_lib.execution.training_run import claim, clear, device_of, make_plan, setting_names, train

    given = vars(args)
    explicit = {key: value for key, value in given.items() if key in setting_names()}
    if "targets" in explicit:
        explicit["targets"] = tuple(explicit["targets"])
    resume, force, dry = (bool(given.get(name)) for name in ("resume", "force", "dry_run"))
    if resume and force:
        raise CourseError("--resume goes on with a run and --force replaces it: give one of them.")
    if args.output is None and not dry:
        raise CourseError("--output DIR is needed: the folder for the run.")
    folder = args.output or Path("(no --output)")
    settings, known = claim(folder, explicit, resume, force)
    device_of(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    plan = make_plan(settings)
    print(header(plan), flush=True)
    if dry:
        print(memory_table(plan))
        return 0
    if force and folder.is_dir():
        clear(folder)
    try:
        summary = train(plan, folder, resume, known, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"\ncourse train --output {folder} --resume goes on from the newest checkpoint", file=sys.stderr)
        raise
    except torch.OutOfMemoryError as error:
        raise CourseError(
            f"Out of memory: lower --batch-size or --seq-len, or --checkpoint-activations. {error}"
        ) from error
    print(closing(summary, folder))
    return 0


def header(plan) -> str:
    """The plan in the words of the course's guide: model, layers, data, schedule."""
    s, rule = plan.settings, "=" * 72
    percent = 100 * plan.trainable / plan.parameters
    precision = f"NF4, embeddings and norms {s.dtype}" if s.mode == "qlora" else s.dtype
    lines = [rule, f"{s.mode}: {s.model}, {plan.parameters:,} parameters in {precision}"]
    lines += _adapted(plan.adapted)
    lines += [f"trainable: {plan.trainable:,} of {plan.parameters:,} ({percent:.2f} %){_shape_of_adapter(s)}"]
    held_out = len(plan.source.held_out)
    lines += [rule, f"data: {s.dataset}: {plan.source.what}, {plan.source.tokens:,} tokens; {held_out:,} rows held out"]
    passes = len(plan.batches) / plan.batches.per_pass
    lines += [
        f"schedule: {plan.steps:,} steps ({passes:.1f} passes), learning rate {s.lr:.1e} after {plan.warmup} steps of "
        f"warm-up, {s.schedule} to {s.floor:.0%}",
        *([MANY_PASSES] if passes > 20 else []),
        f"batch: {_effective(plan)}",
        rule,
    ]
    return "\n".join(lines)


def _adapted(layers: dict[str, int]) -> list[str]:
    """A line for the layers that differ by their block's number alone."""
    alike = Counter((re.sub(r"\.\d+\.", ".*.", name), count) for name, count in layers.items())
    return [
        f"  {name}: +{count:,} trainable" + (f" each, {times} layers: +{times * count:,}" if times > 1 else "")
        for (name, count), times in alike.items()
    ]


def _shape_of_adapter(s) -> str:
    if s.mode in ("lora", "qlora"):
        return f", rank {s.rank}, alpha {s.alpha:g}{', rsLoRA' if s.rslora else ''}"
    if s.mode == "full":
        return ""
    return f", {s.stages} stages" + (f" in blocks of {s.block_size}" if s.block_size else "")


def _effective(plan) -> str:
    s = plan.settings
    if s.target_tokens:
        return f"micro-batches of {s.batch_size} rows until a step has {s.target_tokens:,} tokens"
    rows, seq_len = s.batch_size * s.accumulate, s.seq_len
    return (
        f"effective {rows} = {s.batch_size} rows x {s.accumulate} micro-batches, "
        f"up to {rows * seq_len:,} tokens a step (rows of up to {seq_len})"
    )


def memory_table(plan) -> str:
    """The estimate's parts in MB."""
    from dataclasses import asdict

    parts = asdict(plan.memory) | {"in all": plan.memory.total}
    lines = [f"  {name:12} {size / 1e6:12,.1f} MB" for name, size in parts.items()]
    title = "memory, estimated by formula; without Python and torch themselves, and what a CPU's allocator holds back:"
    return "\n".join([title, *lines])


def closing(summary: dict, folder: Path) -> str:
    """What came out, and where it lies."""
    s = summary
    what = "model" if s["mode"] == "full" else "adapter"
    lines = [
        "=" * 72,
        f"{what}: {folder / s['result']}, {s['result_bytes']:,} bytes; a checkpoint {s['checkpoint_bytes']:,} bytes",
        f"held-out loss {s['held_out_loss_before']:.4f} -> {s['held_out_loss_after']:.4f}, "
        f"perplexity {s['perplexity_before']:.2f} -> {s['perplexity_after']:.2f}",
        f"peak memory {s['peak_memory_bytes'] / 1e6:,.0f} MB, {s['tokens_per_second']:,.0f} tokens/s, "
        f"{s['steps']} steps in {s['seconds']:.0f} s",
        f"log.jsonl, loss.png, run.json and summary.json are in {folder}",
    ]
    if s["mode"] != "full":
        lines.append(f'next: course compare --adapter {folder} --prompt "Once upon a time"')
    return "\n".join(lines)
