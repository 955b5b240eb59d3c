"""`course train`: full fine-tuning, LoRA, QLoRA or butterflies, from one command line."""

import argparse
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.commands import Subparsers, add_resume
from course_lib.errors import CourseError
from course_lib.finetuning.folder import CHECKPOINTS, claim, clear
from course_lib.finetuning.naming import find_model
from course_lib.finetuning.settings import GPT2, Settings, check_files, setting_names
from course_lib.options import add_options, filled
from course_lib.vocabulary import HALF_DTYPES

if TYPE_CHECKING:
    from course_lib.finetuning.plan import Plan
    from course_lib.training.distributed import World

DESCRIPTION = """Train a model or an adapter for it, and say what it cost and what it brought.

  course train --mode lora --dataset notes.txt --output runs/notes
  course train --mode lora --dataset my_data --steps 500 --rank 8 --lr 3e-4 --output runs/mine
  course train --mode lora --model gpt2 --dataset tinystories --max-train-samples 10000 \\
      --rank 16 --alpha 32 --target-modules c_attn c_proj --epochs 1 --output runs/lora
  course train --mode full --model distilgpt2 --dataset wikitext2 --lr 5e-5 --output runs/full
  course train --mode full --model modern-5m --dataset book.txt --lr 1e-3 --output runs/scratch
  course train --mode butterfly-block --butterfly-stages 8 --butterfly-block-size 64 --output runs/turned
  course train --mode qlora --rank 16 --output runs/qlora          a frozen base in 4 bits
  course train --mode lora --tokens-per-step 512 --seq-len 256 --epochs 1 --output runs/by_tokens
  course train --output runs/notes --resume     go on after an interruption
  course train --dataset notes.txt --output runs/notes --resume auto    begin, or go on where there is a run
  course train --mode full --dry-run            the plan and the memory it takes; touches nothing
  torchrun --nproc-per-node 2 -m course_lib.cli train ...    on two GPUs, or two processes of a CPU
  torchrun --nproc-per-node 2 -m course_lib.cli train --mode full --shard ...    each holds half of the model

--dataset: keepers_log (in the package), tinystories or wikitext2 (from the hub or its cache), a text
file, a folder with wiki.train.raw, a folder of token shards (course prepare), or records (.json,
.jsonl, .ndjson, .csv, .parquet or a folder of them: Alpaca, chat, ShareGPT ...), of which the
response is trained. A part is held out: the data set's own validation or test part, else the last
tenth. course data check says what is in a file of records.

--model: smollm2-135m-instruct (in a package), a folder, a hub name; or a shape of ours to train from
random weights: tiny-gpt, tiny-llama, modern-200k, modern-1m, modern-5m, modern-15m, modern-60m,
modern-125m, modern-400m.

Defaults are in brackets."""

EPILOG = """Out of memory? --dry-run says what takes how much: lower --batch-size or --seq-len, raise
--grad-accum-steps, or give --gradient-checkpointing. Loss not a number, or gibberish? Lower --lr. Nothing
changed? Give more --steps, or a higher --lr or --rank. Then look:
course compare --adapter runs/notes --prompt "Once upon a time"

"""

LOOK = 'course compare --adapter {folder} --prompt "Once upon a time"'  # what to do with an adapter
MANY_PASSES = "  so many passes teach a text by heart: watch --eval-every, or give fewer --steps or --epochs 3"


@dataclass(frozen=True)
class Stage:
    """A command that trains something: what is its own.

    Attributes:
        settings: the class of its settings, which also has its name.
        check_data: refuses a source that cannot be one, before torch is imported.
        make_plan: the plan of complete settings; it imports what is heavy.
    """

    settings: type[Settings]
    check_data: Callable[[Settings], None]
    make_plan: Callable[[Settings], "Plan"]


def add_parser(subparsers: Subparsers) -> None:
    """Register `course train` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "train",
        usage="course train [--output DIR] [options]",
        help="train a model, or an adapter for it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser, Settings, "runs/MODE-DATASET")
    parser.epilog = EPILOG
    parser.set_defaults(run=run_train)


def add_run_options(parser: argparse.ArgumentParser, settings: type[Settings], output: str) -> None:
    """Add the options of a run's folder, and those of its settings.

    Args:
        parser: the command's.
        settings: the class of its settings.
        output: the default folder, in words.
    """
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"the run's folder, new or empty ({output})")
    add_resume(parser, "from the newest checkpoint in --output, with the run's settings")
    parser.add_argument("--force", action="store_true", help="replace the run that is in --output")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and a memory estimate, and stop")
    add_options(parser, settings)


def run_train(args: argparse.Namespace) -> int:
    """`course train`."""
    return run_stage(args, Stage(Settings, _check_source, _make_plan))


def _check_source(settings: Settings) -> None:
    from course_lib.finetuning.sources import check_source

    check_source(settings.dataset, settings.format, settings.map)


def _make_plan(settings: Settings) -> "Plan":
    from course_lib.finetuning.plan import make_plan

    return make_plan(settings)


def run_stage(args: argparse.Namespace, stage: Stage) -> int:
    """Print the plan, train, print what came out. Under torchrun the first process alone prints.

    Args:
        args: of the command line.
        stage: the command.

    Returns:
        The exit status.

    Raises:
        CourseError: options exclude each other, or the run cannot be made.
    """
    explicit = {key: value for key, value in vars(args).items() if key in setting_names(stage.settings)}
    if "target_modules" in explicit:
        explicit["target_modules"] = tuple(explicit["target_modules"])
    if args.resume and args.force:
        raise CourseError("--resume continues a run, and --force replaces it. Give one of them.")
    folder = args.output or default_output(explicit, stage.settings)
    # All that can be refused without torch is refused before it is imported, which takes seconds.
    settings, known = claim(folder, explicit, args.resume, args.force, stage.settings)
    check_files(settings)
    stage.check_data(settings)
    with _told_of_gpt2(settings, args):
        find_model(settings)

    from course_lib.models.onednn import fast_products
    from course_lib.training.distributed import finish, start

    world = start(settings.device)
    try:
        with fast_products():
            return _train(settings, known, folder, world, args, stage)
    finally:
        finish()


def default_output(explicit: dict, settings: type[Settings] = Settings) -> Path:
    """runs/lora-notes for --mode lora --dataset data/notes.txt; of another command, its name stands for the mode's.

    Args:
        explicit: the settings that were given.
        settings: the class of the command's settings.

    Returns:
        The folder.
    """
    mode, dataset = explicit.get("mode", settings.mode), explicit.get("dataset", settings.dataset)
    mode = mode if settings.STAGE == "train" else settings.STAGE
    path = Path(dataset).expanduser()
    stem = (path.resolve() if path.exists() else path).stem  # "." and ".." have a name only when they are resolved
    return Path("runs", f"{mode}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)}")


def _train(
    settings: Settings, known: dict, folder: Path, world: "World", args: argparse.Namespace, stage: Stage
) -> int:
    import torch

    from course_lib.finetuning.run import train
    from course_lib.models.devices import choose_device

    def say(text: str) -> None:
        if world.is_main:
            print(text, flush=True)

    if args.resume and not known:
        say(f"{folder} holds no run to resume: a new one begins")
    elif args.resume and not any((folder / CHECKPOINTS).glob("step_*")):
        say(f"{folder} has no checkpoint yet: the run begins again at step 0")
    choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with _told_of_gpt2(settings, args):
        plan = stage.make_plan(settings)
    say(header(plan, world.size))
    if args.dry_run:
        say(memory_table(plan))
        return 0
    world.barrier()  # all have looked into the folder before the first writes there
    if args.force and folder.is_dir() and world.is_main:
        clear(folder)
    try:
        summary = train(plan, folder, bool(args.resume), known, say, world)
    except KeyboardInterrupt:
        if world.is_main:
            command = f"course {settings.STAGE} --output {shlex.quote(str(folder))} --resume"
            print(f"\n{command} goes on from the newest checkpoint", file=sys.stderr)
        raise
    except torch.OutOfMemoryError as error:
        raise CourseError(
            f"Out of memory: lower --batch-size or --seq-len, or give --gradient-checkpointing. {error}"
        ) from error
    if world.is_main:
        say(closing(summary, folder))
    return 0


@contextmanager
def _told_of_gpt2(settings: Settings, args: argparse.Namespace) -> Iterator[None]:
    """Inside, a CourseError about a model that nobody has named says why it is GPT-2."""
    try:
        yield
    except CourseError as error:
        if settings.model == GPT2 and "model" not in vars(args):
            raise CourseError(f"{error} (--target-modules names layers of GPT-2, so --model is {GPT2}.)") from error
        raise


def header(plan: "Plan", processes: int = 1) -> str:
    """The plan in the words of the course's guide: model, layers, data, schedule.

    Args:
        plan: the run before it begins.
        processes: how many of them share out each batch.

    Returns:
        Lines of text.
    """
    s, rule = plan.settings, "=" * 72
    percent = 100 * plan.trainable / plan.parameters
    precision = s.dtype
    if s.mode == "qlora":
        precision = f"{_four_bits(s)}, embeddings and norms {s.dtype}"
    elif s.mode == "full" and s.dtype in HALF_DTYPES:
        precision = f"{s.dtype}, trained with float32 master weights and saved in {s.dtype}"
    lines = [rule, f"{s.mode}: {s.model}, {plan.parameters:,} parameters in {precision}"]
    lines += _adapted(plan.adapted)
    lines += [f"trainable: {plan.trainable:,} of {plan.parameters:,} ({percent:.2f} %){_shape_of_adapter(s)}"]
    held_out = len(plan.source.held_out)
    lines += [rule, f"data: {s.dataset}: {plan.source.what}, {plan.source.tokens:,} tokens; {held_out:,} rows held out"]
    lines += [f"  {note}" for note in plan.source.notes]
    lines += plan.task.header(plan)
    passes = len(plan.batches) / plan.batches.per_pass
    lines += [
        f"schedule: {plan.steps:,} steps ({passes:.1f} passes), learning rate {s.lr:.1e} after "
        f"{plan.warmup_steps} steps of warm-up, {s.schedule} to {s.min_lr_ratio:.0%}",
        *([MANY_PASSES] if passes > 20 else []),
        f"batch: {_effective(plan)}{f', shared out to {processes} processes' if processes > 1 else ''}",
        rule,
    ]
    return "\n".join(lines)


def _four_bits(s: Settings) -> str:
    """How the base of --mode qlora is held, in words."""
    doubly = " with doubly quantised constants" if s.double_quant else ""
    return s.quant_type.upper() + doubly + (" by bitsandbytes" if s.backend == "bitsandbytes" else "")


def _adapted(layers: dict[str, int]) -> list[str]:
    """A line for the layers that differ by their block's number alone."""
    alike = Counter((re.sub(r"\.\d+\.", ".*.", name), count) for name, count in layers.items())
    return [
        f"  {name}: +{count:,} trainable" + (f" each, {times} layers: +{times * count:,}" if times > 1 else "")
        for (name, count), times in alike.items()
    ]


def _shape_of_adapter(s: Settings) -> str:
    if s.mode in ("lora", "qlora"):
        return f", rank {s.rank}, alpha {s.alpha:g}{', rsLoRA' if s.use_rslora else ''}"
    if s.mode == "full":
        return ""
    return f", {s.butterfly_stages} stages" + (
        f" in blocks of {s.butterfly_block_size}" if s.butterfly_block_size else ""
    )


def _effective(plan: "Plan") -> str:
    s = plan.settings
    if s.tokens_per_step:
        return f"micro-batches of {s.batch_size} rows until a step has {s.tokens_per_step:,} tokens"
    rows, seq_len = s.batch_size * filled(s.grad_accum_steps), filled(s.seq_len)
    return (
        f"effective {rows} = {s.batch_size} rows x {s.grad_accum_steps} micro-batches, "
        f"up to {rows * seq_len:,} tokens a step (rows of up to {seq_len})"
    )


def memory_table(plan: "Plan") -> str:
    """The estimate's parts, as `course memory` prints them."""
    from course_lib.commands.memory import table

    return table(plan.memory)


def closing(summary: dict, folder: Path) -> str:
    """What came out, and where it lies.

    Args:
        summary: what `finetuning.run.train` returned.
        folder: the run's folder.

    Returns:
        Lines of text.
    """
    s = summary
    what = "model" if s["mode"] == "full" else "adapter"
    skipped = f" ({s['skipped_steps']} skipped: float16 overflowed)" if s["skipped_steps"] else ""
    lines = [
        "=" * 72,
        f"{what}: {folder / s['result']}, {s['result_bytes']:,} bytes; a checkpoint {s['checkpoint_bytes']:,} bytes",
        _held_out(s),
        f"peak memory {s['peak_memory_bytes'] / 1e6:,.0f} MB, {s['tokens_per_second']:,.0f} tokens/s, "
        f"{s['steps']} steps{skipped} in {s['seconds']:.0f} s",
        f"log.jsonl, loss.png, run.json and summary.json are in {folder}",
    ]
    if s["mode"] != "full":
        lines.append(f"next: {LOOK.format(folder=shlex.quote(str(folder)))}")
    return "\n".join(lines)


def _held_out(s: dict) -> str:
    """The held-out numbers of a summary: perplexities, or the rewards of a preference run."""
    line = f"held-out loss {s['held_out_loss_before']:.4f} -> {s['held_out_loss_after']:.4f}"
    if "perplexity_after" in s:
        return f"{line}, perplexity {s['perplexity_before']:.2f} -> {s['perplexity_after']:.2f}"
    if "held_out_accuracies" in s:
        accuracy, margin = s["held_out_accuracies"], s["held_out_margins"]
        line += f"; of the held-out pairs {accuracy:.1%} are ordered rightly, margin {margin:+.3f}"
    return line
