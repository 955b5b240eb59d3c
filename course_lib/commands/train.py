"""`course train`: full fine-tuning, LoRA, QLoRA or butterflies, from one command line."""

import argparse
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.finetuning.settings import DTYPES, HALVES, MODES, SCHEDULES, Settings, setting_names

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
  torchrun --nproc-per-node 2 -m course_lib.cli train ...    on two GPUs, or two processes of a CPU

--dataset: keepers_log (in the package), tinystories or wikitext2 (from the hub or its cache), a text
file, a folder with wiki.train.raw, a folder of token shards (course prepare), or records (.json,
.jsonl, also .gz: Alpaca, chat, ShareGPT ...), of which the response is trained. A part is held out:
the corpus's own, else the last tenth.

--model: smollm2-135m-instruct (in a package), a folder, a hub name; or a shape of ours to train from
random weights: tiny-gpt, modern-1m, modern-5m, modern-15m, modern-60m, modern-125m, modern-400m.

Defaults are in brackets."""

EPILOG = """Out of memory? --dry-run says what takes how much: lower --batch-size or --seq-len, raise --accumulate,
or --checkpoint-activations. Loss not a number, or gibberish? Lower --lr. Nothing changed? More --steps,
a higher --lr or --rank. Then look: course compare --adapter runs/notes --prompt "Once upon a time"
"""

MANY_PASSES = "  so many passes teach a text by heart: watch --eval-every, or give fewer --steps or --epochs 3"


def add_parser(subparsers) -> None:
    """Register `course train` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "train",
        usage="course train --output DIR [options]",
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


def _add_run(parser) -> None:
    add, s = parser.add_argument_group("the run").add_argument, Settings
    add(
        "--mode",
        type=lambda text: text.replace("_", "-").replace("baseline", "full"),
        choices=MODES,
        help="full: all weights; lora, butterfly, butterfly-block: an adapter on a frozen base; qlora: LoRA on a base "
        f"in 4 bits, by bitsandbytes until chapter 05 ({s.mode})",
    )
    add("--model", metavar="NAME", help=f"a model's name or folder, or a shape: see above ({s.model})")
    add("--from-scratch", action="store_true", help="random weights for a shape that the hub has too, such as gpt2")
    add("--output", type=Path, default=None, metavar="DIR", help="the run's folder, new or empty (needed)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --output, with the run's settings")
    add("--force", action="store_true", help="replace the run that is in --output")
    add("--dry-run", action="store_true", help="print the plan and a memory estimate, and stop")
    add("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints; 0: none (50)")
    add("--keep", type=int, metavar="N", help="how many checkpoints stay, besides the best (10; full: 2)")
    add(
        "--eval-every",
        type=int,
        metavar="N",
        help=f"steps between held-out evaluations; 0: before and after the run alone ({s.eval_every})",
    )
    add("--log-every", type=int, metavar="N", help=f"steps between printed lines; 0: none ({s.log_every})")
    add("--seed", type=int, metavar="N", help=f"of new weights, the batches' order and dropout ({s.seed})")
    add("--threads", type=int, metavar="N", help=f"torch's threads; 0: torch decides ({s.threads})")
    add("--device", help=f"cpu, cuda, or auto: the GPU where there is one ({s.device})")


def _add_data(parser) -> None:
    add, s = parser.add_argument_group("data").add_argument, Settings
    add("--dataset", metavar="SOURCE", help=f"what to train on: see above ({s.dataset})")
    add(
        "--tokenizer",
        metavar="NAME",
        help="a model's name or folder, or a BPETokenizer's .json file (the model's own; for a shape, SmolLM2's)",
    )
    add("--seq-len", type=int, metavar="N", help=f"tokens in a row ({s.seq_len})")
    add(
        "--max-train-samples",
        type=int,
        metavar="N",
        help="take at most N documents of a corpus, records, or blocks of a text; 0: all (0)",
    )
    add("--max-eval-samples", type=int, metavar="N", help=f"held-out rows at most; 0: all ({s.max_eval_samples})")
    add(
        "--template",
        choices=("chat", "instruction"),
        help="how records become text (chat where the tokenizer has a chat template, else instruction)",
    )
    add(
        "--train-on",
        choices=("response", "assistant", "all"),
        help=f"which tokens of a record are targets: the last answer, every answer, or all ({s.train_on})",
    )


def _add_adapter(parser) -> None:
    add, s = parser.add_argument_group("the adapter").add_argument, Settings
    add("--rank", type=int, metavar="N", help=f"LoRA's rank ({s.rank})")
    add("--alpha", type=float, metavar="X", help=f"LoRA's alpha: the change is scaled by alpha / rank ({s.alpha:g})")
    add("--dropout", type=float, metavar="SHARE", help=f"of LoRA's inputs, while training ({s.dropout:g})")
    add("--rslora", action="store_true", help="scale by alpha / sqrt(rank) instead")
    add(
        "--targets",
        nargs="+",
        metavar="LAYER",
        help="layers that get an adapter, by the ends of their names (GPT-2: c_attn; Llama and its kin: q_proj v_proj)",
    )
    add("--stages", type=int, metavar="N", help="rotations of a butterfly (6; butterfly-block: 8)")
    add(
        "--block-size",
        type=int,
        metavar="N",
        help="width of butterfly-block's blocks, a power of two (the largest up to 256 that divides the inputs)",
    )


def _add_steps(parser) -> None:
    add, s = parser.add_argument_group("steps").add_argument, Settings
    add("--steps", type=int, metavar="N", help="optimiser steps (lora, qlora: 500; else by --epochs)")
    add("--epochs", type=float, metavar="N", help="passes over the data, instead of --steps (full, butterflies: 1)")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"rows of a micro-batch, which torchrun's processes share out ({s.batch_size})",
    )
    add("--accumulate", type=int, metavar="N", help="micro-batches of a step (lora, qlora: 4; else 1)")
    add(
        "--target-tokens",
        type=int,
        metavar="N",
        help="token-aware steps: each document is a row of its own length, and a step takes micro-batches, each "
        "weighted by its tokens, until it has N; a checkpoint after every step, one pass (off)",
    )
    add("--lr", type=float, metavar="X", help="peak learning rate (lora, qlora: 3e-4; butterflies: 1e-4; full: 5e-5)")
    add("--schedule", choices=SCHEDULES, help=f"of the learning rate after the warm-up ({s.schedule})")
    add("--warmup-ratio", type=float, metavar="SHARE", help=f"share of the steps that warm up ({s.warmup_ratio})")
    add(
        "--floor",
        type=float,
        metavar="SHARE",
        help="the last learning rate as a share of --lr (cosine: 0.1; linear: 0; constant: 1)",
    )
    add("--weight-decay", type=float, metavar="X", help=f"AdamW's ({s.weight_decay:g})")
    add("--clip", type=float, metavar="X", help=f"largest norm of a step's gradients ({s.clip:g})")


def _add_memory(parser) -> None:
    add, s = parser.add_argument_group("precision and memory").add_argument, Settings
    add("--dtype", choices=DTYPES, help=f"of the base's weights ({s.dtype})")
    add("--autocast", choices=HALVES, help="compute the forward pass in it (off)")
    add("--checkpoint-activations", action="store_true", help="recompute them: less memory, more time (off)")
    add("--compile", action="store_true", help="torch.compile the forward pass (off)")


def run_train(args: argparse.Namespace) -> int:
    """Print the plan, train, print what came out. Under torchrun the first process alone prints."""
    from course_lib.training.distributed import finish, start

    given = vars(args)
    explicit = {key: value for key, value in given.items() if key in setting_names()}
    if "targets" in explicit:
        explicit["targets"] = tuple(explicit["targets"])
    world = start(explicit.get("device", "auto"))
    try:
        return _train(explicit, args.output, world, *(bool(given.get(key)) for key in ("resume", "force", "dry_run")))
    finally:
        finish()


def _train(explicit: dict, output: Path | None, world, resume: bool, force: bool, dry: bool) -> int:
    import torch

    from course_lib.finetuning.folder import claim, clear
    from course_lib.finetuning.model import device_of
    from course_lib.finetuning.plan import make_plan
    from course_lib.finetuning.run import train

    def say(text: str) -> None:
        if world.is_main:
            print(text, flush=True)

    if resume and force:
        raise CourseError("--resume goes on with a run and --force replaces it: give one of them.")
    if output is None and not dry:
        raise CourseError("--output DIR is needed: the folder for the run.")
    folder = output or Path("(no --output)")
    settings, known = claim(folder, explicit, resume, force)
    if resume and not known:
        say(f"{folder} holds no run to go on with: a new one begins")
    device_of(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    plan = make_plan(settings)
    say(header(plan, world.size))
    if dry:
        say(memory_table(plan))
        return 0
    world.barrier()  # all have looked into the folder before the first writes there
    if force and folder.is_dir() and world.is_main:
        clear(folder)
    try:
        summary = train(plan, folder, resume, known, say, world)
    except KeyboardInterrupt:
        if world.is_main:
            command = f"course train --output {shlex.quote(str(folder))} --resume"
            print(f"\n{command} goes on from the newest checkpoint", file=sys.stderr)
        raise
    except torch.OutOfMemoryError as error:
        raise CourseError(
            f"Out of memory: lower --batch-size or --seq-len, or --checkpoint-activations. {error}"
        ) from error
    if world.is_main:
        say(closing(summary, folder))
    return 0


def header(plan, processes: int = 1) -> str:
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
        f"batch: {_effective(plan)}{f', shared out to {processes} processes' if processes > 1 else ''}",
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
    skipped = f" ({s['skipped_steps']} skipped: float16 overflowed)" if s["skipped_steps"] else ""
    lines = [
        "=" * 72,
        f"{what}: {folder / s['result']}, {s['result_bytes']:,} bytes; a checkpoint {s['checkpoint_bytes']:,} bytes",
        f"held-out loss {s['held_out_loss_before']:.4f} -> {s['held_out_loss_after']:.4f}, "
        f"perplexity {s['perplexity_before']:.2f} -> {s['perplexity_after']:.2f}",
        f"peak memory {s['peak_memory_bytes'] / 1e6:,.0f} MB, {s['tokens_per_second']:,.0f} tokens/s, "
        f"{s['steps']} steps{skipped} in {s['seconds']:.0f} s",
        f"log.jsonl, loss.png, run.json and summary.json are in {folder}",
    ]
    if s["mode"] != "full":
        lines.append(f'next: course compare --adapter {shlex.quote(str(folder))} --prompt "Once upon a time"')
    return "\n".join(lines)
