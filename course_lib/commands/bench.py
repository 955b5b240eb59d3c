"""`course bench`: speed and memory beside the library of reference."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_lib.commands import Subparsers, add_device
from course_lib.files import write_json
from course_lib.options import count, one_of
from course_lib.vocabulary import FORMATS, TRAINED_DTYPES

STORY = "Tell me a short story about robots."


def add_parser(subparsers: Subparsers) -> None:
    """Register `course bench` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory beside the library of reference",
        description="Paired measurements in one process: both sides in turn, medians, and the median of the ratios "
        "(below 1: ours is faster). Close other programs first.",
    )
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True)
    scratch = subjects.add_parser("scratch", help="the NumPy edition's training step, import and tokenizer")
    scratch.add_argument("--text", type=Path, help="train and time the tokenizer on this file (default: bundled text)")
    _common(scratch, run_scratch)
    data = subjects.add_parser("data", help="text to token shards, records to packed rows")
    data.add_argument("--text", type=Path, help="tokenise this file (default: bundled text)")
    _common(data, run_data)
    subjects_of_steps = {
        "lora": "a LoRA step on SmolLM2 beside transformers and PEFT",
        "train": "a full fine-tuning step on SmolLM2 beside transformers",
        "qlora": "a QLoRA step on SmolLM2, and quantising it, beside bitsandbytes and PEFT",
    }
    for subject, what in subjects_of_steps.items():
        step = subjects.add_parser(subject, help=f"{what}: time and peak memory")
        step.add_argument(
            "--model", default="smollm2-135m-instruct", help="a Llama of vocabulary 49,152, by name or folder"
        )
        add_device(step, "; both sides compute there")
        step.add_argument(
            "--dtype", **one_of(TRAINED_DTYPES), default="float32", help="dtype of both sides' weights (float32)"
        )
        step.add_argument("--compile", action="store_true", help="torch.compile both sides")
        _common(step, run_step, pairs=10)
        step.set_defaults(mode="full" if subject == "train" else subject)
    dpo = subjects.add_parser("dpo", help="a preference step with long prompts beside TRL: pairs a second, peak memory")
    dpo.add_argument("--model", default="smollm2-135m-instruct", help="a Llama of vocabulary 49,152, by name or folder")
    dpo.add_argument("--batch-size", type=count, default=2, metavar="N", help="preference pairs of a step (2)")
    dpo.add_argument("--prompt-tokens", type=count, default=280, metavar="N", help="tokens of each prompt (280)")
    dpo.add_argument("--response-tokens", type=count, default=35, metavar="N", help="tokens of a response, about (35)")
    dpo.add_argument("--cached", action="store_true", help="both sides have the reference's values at hand (off)")
    _common(dpo, run_dpo, pairs=5)
    load = subjects.add_parser("load", help="loading SmolLM2's weights beside transformers: time and peak memory")
    load.add_argument("--model", default="smollm2-135m-instruct", help="a model by name or folder")
    _common(load, run_load, pairs=10)
    memory = subjects.add_parser("memory", help="bases and training peaks, measured beside the calculator's prediction")
    memory.add_argument("--model", default="smollm2-135m-instruct", help="a Llama by name or folder")
    memory.add_argument("--batch-size", type=count, default=4, help="rows of a training step (4)")
    memory.add_argument("--seq-len", type=count, default=64, help="tokens of a row (64)")
    memory.add_argument(
        "--dtype", **one_of(TRAINED_DTYPES), default="float32", help="dtype of the base in training (float32)"
    )
    memory.add_argument("--autocast", **one_of(("bfloat16",)), help="dtype in which the forward pass computes (off)")
    memory.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations (off)")
    memory.add_argument("--json", type=Path, metavar="FILE", help="write figures and machine to this file too")
    memory.set_defaults(run=run_memory, threads=1, pairs=1)
    _add_sft(subjects)
    _add_generate(subjects)
    _add_serve(subjects)
    _add_grading(subjects)


def _add_grading(subjects: Subparsers) -> None:
    grading = subjects.add_parser(
        "grading",
        help="`course grade` beside `nbgrader autograde` on the same folder",
        epilog="example: course bench grading kv_cache --submissions 30 --jobs 2",
    )
    grading.add_argument("name", metavar="NAME", nargs="?", default="lora", help="the assignment (lora)")
    grading.add_argument("--submissions", type=count, default=30, metavar="N", help="how many students (30)")
    grading.add_argument("--jobs", type=count, default=2, metavar="N", help="processes of ours (2)")
    grading.add_argument("--pairs", type=count, default=1, help="how often each side grades the class (1)")
    grading.add_argument("--json", type=Path, metavar="FILE", help="write figures and machine to this file too")
    grading.set_defaults(run=run_grading, threads=1)


def _add_sft(subjects: Subparsers) -> None:
    sft = subjects.add_parser("sft", help="supervised fine-tuning of SmolLM2 beside TRL: tokens per second")
    sft.add_argument("--model", default="smollm2-135m-instruct", help="a Llama, by name or folder")
    sft.add_argument(
        "--dataset", type=Path, metavar="FILE", help="records to train on (default: generated instructions)"
    )
    sft.add_argument("--examples", type=count, default=64, metavar="N", help="examples of a pass (64)")
    sft.add_argument("--batch-size", type=count, default=8, metavar="N", help="examples of a step (8)")
    sft.add_argument(
        "--dtype", **one_of(TRAINED_DTYPES), default="float32", help="dtype of both sides' weights (float32)"
    )
    _common(sft, run_sft, pairs=3)


def _add_generate(subjects: Subparsers) -> None:
    generate = subjects.add_parser(
        "generate", help="tokens a second beside transformers' generate, in every weight format, cache on and off"
    )
    generate.add_argument("--model", default="smollm2-135m-instruct", help="a Llama, by name or folder")
    generate.add_argument("--prompt", default=STORY, metavar="TEXT", help=f"what to continue ({STORY!r})")
    generate.add_argument("--max-new-tokens", type=count, default=128, metavar="N", help="tokens to add (128)")
    generate.add_argument("--batch-size", type=count, default=1, metavar="N", help="rows at once (1)")
    generate.add_argument("--weights", nargs="+", **one_of(FORMATS), default=FORMATS, help="formats of ours (all)")
    generate.add_argument("--compile", action="store_true", help="ours also compiled, and how long compiling takes")
    generate.add_argument("--cached-only", action="store_true", help="leave out the slow runs without a cache")
    generate.add_argument(
        "--llama-cpp", type=Path, metavar="DIR", help="llama.cpp takes part: a folder with `npm install node-llama-cpp`"
    )
    generate.add_argument("--plot", type=Path, metavar="FILE", help="draw the speeds")
    _common(generate, run_generate, pairs=3)


def _add_serve(subjects: Subparsers) -> None:
    serve = subjects.add_parser(
        "serve", help="clients at once beside one after another, and the time to the first token, also over HTTP"
    )
    serve.add_argument("--model", default="smollm2-135m-instruct", help="a Llama, by name or folder")
    serve.add_argument("--clients", type=count, default=8, metavar="N", help="how many ask at once (8)")
    # p99 of fewer than 101 waits is the longest of them.
    serve.add_argument(
        "--requests", type=count, default=128, metavar="N", help="requests whose time to the first token is taken (128)"
    )
    serve.add_argument("--max-new-tokens", type=count, default=64, metavar="N", help="tokens of each answer (64)")
    serve.add_argument("--weights", nargs="+", **one_of(FORMATS), default=FORMATS, help="formats of the base (all)")
    serve.add_argument("--engine-only", action="store_true", help="start no server: leave out the requests over HTTP")
    _common(serve, run_serve, pairs=3)


def _common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], pairs: int = 50) -> None:
    parser.add_argument("--threads", type=count, default=min(2, os.cpu_count() or 1), help="threads of torch (2)")
    parser.add_argument("--pairs", type=count, default=pairs, help=f"how many pairs to time ({pairs})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and machine to this file too")
    parser.set_defaults(run=run)


def _progress(line: str) -> None:
    """A line for whoever waits, beside the figures that may go into a file."""
    print(line, file=sys.stderr, flush=True)


def run_scratch(args: argparse.Namespace) -> int:
    """Print the figures of `bench_scratch`."""
    from course_lib.benchmarks.scratch import bench_scratch

    return report("scratch", bench_scratch(args.threads, args.pairs, args.text), args)


def run_data(args: argparse.Namespace) -> int:
    """Print the figures of `bench_data`, with the packaged tokenizer."""
    from course_lib.benchmarks.data import bench_data
    from course_lib.models.pretrained import load_tokenizer

    return report("data", bench_data(load_tokenizer(), args.text), args)


def run_generate(args: argparse.Namespace) -> int:
    """Print the figures of `bench_generate`."""
    from course_lib.benchmarks.generate import bench_generate, plot_generate

    figures = bench_generate(
        args.model,
        args.prompt,
        args.max_new_tokens,
        args.threads,
        args.pairs,
        args.weights,
        args.batch_size,
        args.compile,
        not args.cached_only,
        args.llama_cpp,
        _progress,
    )
    if args.plot:
        plot_generate(figures, args.plot)
    return report("generate", figures, args)


def run_grading(args: argparse.Namespace) -> int:
    """Print the figures of `bench_grading`."""
    from course_lib.benchmarks.grading import bench_grading

    return report("grading", bench_grading(args.name, args.submissions, args.jobs, args.pairs), args)


def run_serve(args: argparse.Namespace) -> int:
    """Print the figures of `bench_serve`."""
    from course_lib.benchmarks.serve import bench_serve

    figures = bench_serve(
        args.model,
        args.clients,
        args.requests,
        args.max_new_tokens,
        args.threads,
        args.pairs,
        args.weights,
        not args.engine_only,
        _progress,
    )
    return report("serve", figures, args)


def run_step(args: argparse.Namespace) -> int:
    """Print the figures of `bench_step`, and for QLoRA also those of `bench_quantize`."""
    from course_lib.benchmarks.steps import bench_step
    from course_lib.models.devices import choose_device

    device = choose_device(args.device)
    figures = bench_step(args.mode, args.threads, args.pairs, args.model, device, args.compile, args.dtype)
    if args.mode == "qlora":
        from course_lib.benchmarks.qlora import bench_quantize

        figures |= bench_quantize(args.threads, args.pairs, args.model, device, args.dtype)
    return report(args.mode, figures, args, {"device": device})


def run_dpo(args: argparse.Namespace) -> int:
    """Print the figures of `bench_dpo`; the JSON says how either side was set up."""
    from course_lib.benchmarks.dpo import Shape, bench_dpo, configuration

    shape = Shape(args.batch_size, args.prompt_tokens, args.response_tokens)
    figures = bench_dpo(args.threads, args.pairs, args.model, shape, args.cached)
    return report("dpo", figures, args, configuration(shape, args.cached))


def run_sft(args: argparse.Namespace) -> int:
    """Print the figures of `bench_sft`."""
    from course_lib.benchmarks.sft import bench_sft

    given = (args.model, args.dataset, args.examples, args.batch_size, args.dtype)
    figures, configuration = bench_sft(args.threads, args.pairs, *given)
    return report("sft", figures, args, configuration)


def run_load(args: argparse.Namespace) -> int:
    """Print the figures of `bench_load`."""
    from course_lib.benchmarks.steps import bench_load

    return report("load", bench_load(args.threads, args.pairs, args.model), args)


def run_memory(args: argparse.Namespace) -> int:
    """Print the figures of `bench_memory`."""
    from course_lib.benchmarks.memory import bench_memory

    given = (args.model, args.batch_size, args.seq_len, args.dtype, args.autocast, args.gradient_checkpointing)
    return report("memory", bench_memory(*given), args)


def report(
    subject: str, figures: dict[str, float], args: argparse.Namespace, about: dict[str, Any] | None = None
) -> int:
    """Print the figures, and write them as JSON with versions and hardware where asked to.

    Args:
        subject: what was measured.
        figures: numbers by name.
        args: of the command line.
        about: how both sides were set up, for the JSON.

    Returns:
        The exit status 0.
    """
    from course_lib.execution.environment import hardware, versions

    widest = max(24, *map(len, figures))
    for name, value in figures.items():
        print(f"{name:{widest}} {value:,.4g}")
    if args.json:
        machine = {"versions": versions(), "hardware": hardware(), "threads": args.threads, "pairs": args.pairs}
        write_json(
            args.json, {"subject": subject, "figures": figures} | ({"configuration": about} if about else {}) | machine
        )
    return 0
