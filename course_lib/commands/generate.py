"""`course generate`: continue a text, with any of the caches."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from course_lib.commands import (
    Subparsers,
    add_device,
    prepared_on,
    printable,
    require_adapter,
    require_cpu,
    require_model,
    require_text,
)
from course_lib.errors import CourseError
from course_lib.options import one_of
from course_lib.vocabulary import CACHES, FORMATS

TEMPERATURE = "how evenly tokens are drawn; 0: always the likeliest"
TOP_P = "draw from the likeliest tokens that have this probability together (1: all)"
MIN_P = "leave out tokens whose probability is below this share of the likeliest one's (0)"
ROW_BYTES = 64  # of a token's id and its place in the mask, while they are lists of Python's


def add_parser(subparsers: Subparsers) -> None:
    """Register `course generate` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a text, with a paged cache, a sink cache or none",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Continue a text; print it as it comes, and then how many tokens came a second.

  course generate --prompt "Explain gravity to a kid:" --max-new-tokens 80 --temperature 0.9
  course generate --adapter runs/notes --prompt "The storm" --page-size 64 --max-pages 6
  course generate --chat --prompt "What is a cache?" --weights int8

With --max-pages a text that needs more pages forgets its oldest one. Defaults are in brackets.""",
    )
    parser.add_argument("--model", metavar="NAME", help="a name or a folder (the adapter's base, or SmolLM2)")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="an adapter's folder, a checkpoint or a .pt file")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to continue (needed)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="tokens to add at most (128)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this; may be repeated")
    add_device(parser, "; with --weights or --compile the CPU")
    parser.add_argument(
        "--weights", **one_of(FORMATS), help="prepare the model for a CPU, with its weights in this format (as it is)"
    )
    parser.add_argument(
        "--compile", action="store_true",
        help="torch.compile each step: up to minutes first, then up to twice as fast; "
        "course bench generate --compile measures yours",
    )  # fmt: skip
    _add_cache(parser)
    add_sampling(parser)
    parser.set_defaults(run=run_generate)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cache")
    group.add_argument("--cache", **one_of(CACHES), help="what is kept of the tokens so far (static)")
    group.add_argument("--page-size", type=int, metavar="N", help="tokens in a page of the paged cache (16)")
    group.add_argument(
        "--max-pages", type=int, metavar="N", help="the most pages; then the oldest is dropped (no limit)"
    )
    group.add_argument("--sinks", type=int, metavar="N", help="first tokens that the sink cache keeps (4)")
    group.add_argument("--window", type=int, metavar="N", help="last tokens that the sink cache keeps (252)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options that say how tokens are chosen."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help=f"{TEMPERATURE} (0)",
    )
    group.add_argument(
        "--top-k", type=int, default=0, metavar="N", help="draw from this many of the likeliest tokens; 0: from all (0)"
    )
    group.add_argument("--top-p", type=float, default=1.0, metavar="X", help=TOP_P)
    group.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="X",
        help=MIN_P,
    )
    repeated = "above 1: tokens that occurred become less likely (1)"
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help=repeated)
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (0)")


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of `add_sampling` but the seed. Raises CourseError where one of them or the seed is out of range."""
    from course_lib.inference import SamplingSettings

    sampling = {key: getattr(args, key) for key in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    SamplingSettings(**sampling)
    if not -(2**63) <= args.seed < 2**64:
        raise CourseError(f"--seed {args.seed} is not possible: it has to have at most 64 bits.")
    return sampling


def speed(tokens: int, seconds: float) -> str:
    """How many tokens came, and how fast, in words.

    Args:
        tokens: how many there were.
        seconds: the time that they took.

    Returns:
        One line without an end: `5 tokens in 0.50 s: 10.0 tokens/s`.
    """
    return f"{tokens} {'token' if tokens == 1 else 'tokens'} in {seconds:.2f} s: {tokens / seconds:.1f} tokens/s"


def run_generate(args: argparse.Namespace) -> int:
    """Load, print the text as it comes, then its speed and what the cache forgot."""
    name, options = cache_options(args)
    if args.max_new_tokens < 1 or not args.prompt:
        raise CourseError("--max-new-tokens has to be at least 1, and --prompt at least one character.")
    for where, text in (("--prompt", args.prompt), *(("--stop", text) for text in args.stop)):
        require_text(text, where)
    if not all(args.stop):
        raise CourseError("A --stop text is empty; each needs at least one character.")
    if args.adapter:
        args.adapter = require_adapter(args.adapter)
    if args.compile:
        _refuse_to_compile(name, args.device)
    require_model(args.model)
    device = prepared_on(args.device, args.weights or args.compile)
    from course_lib.data import chat_text
    from course_lib.inference import make_cache, prompt_ids, stream

    sampling = sampling_of(args)  # a value out of range is refused before the model is loaded
    model, tokenizer = load_with_adapter(args.model, args.adapter, device)
    prompt = chat_text(tokenizer, [{"role": "user", "content": args.prompt}], True) if args.chat else args.prompt
    ids = prompt_ids(tokenizer, prompt, args.chat)
    _refuse_too_much(len(ids) + args.max_new_tokens, model.config, name, args.max_pages)
    model, compiling = _prepared(model, args, len(ids) + args.max_new_tokens)
    cache = make_cache(name, model, len(ids) + args.max_new_tokens, **options)
    _note_beyond(len(ids) + args.max_new_tokens, model.config, cache)
    new: list[int] = []
    keep: dict[str, Any] = {"cache": cache or "none", "new_tokens": new}
    pieces = stream(model, tokenizer, ids, args.max_new_tokens, stop=args.stop, seed=args.seed, **keep, **sampling)
    started = time.perf_counter()
    print("" if args.chat else printable(args.prompt), end="", flush=True)
    for piece in pieces:
        print(printable(piece), end="", flush=True)
    print(f"\n\n{speed(len(new), time.perf_counter() - started)}, cache {name}{compiling}{_forgotten(cache)}")
    return 0


def _refuse_to_compile(cache: str, device: str) -> None:
    """CourseError where --compile cannot be done: said before anything is loaded."""
    from course_lib.inference.compiled import require_compiler

    if cache != "static":
        raise CourseError(f"--compile is for --cache static, and the cache is {cache}. Leave one of them out.")
    require_cpu(device, "--compile")
    require_compiler()


def _prepared(model: Any, args: argparse.Namespace, tokens: int) -> tuple[Any, str]:
    """The model as --weights and --compile want it, and how long compiling took, in words.

    Args:
        model: as it was loaded.
        args: of the command line.
        tokens: of prompt and answer together.
    """
    from course_lib.inference import prepare

    if not (args.weights or args.compile):
        return model, ""
    prepared = prepare(model, args.weights or "float32", args.compile)
    if prepared.step is None:
        return prepared, ""
    print("compiling, which may take some minutes ...", file=sys.stderr, flush=True)
    return prepared, f"; compiling took {prepared.step.ahead(tokens):.1f} s before"


def _refuse_too_much(tokens: int, config: Any, cache: str, max_pages: int | None) -> None:
    """CourseError where there is no memory for so many tokens.

    Args:
        tokens: of the prompt and the answer together.
        config: the model's.
        cache: which one it is.
        max_pages: of a paged one.
    """
    from course_lib.execution.environment import available_memory
    from course_lib.inference import kv_bytes_per_token

    forgets = cache == "sink" or max_pages is not None
    each = ROW_BYTES + (0 if forgets or cache == "none" else kv_bytes_per_token(config, 1 if cache == "int8" else 4))
    needed, free = tokens * each, available_memory()
    if needed > free:
        raise CourseError(
            f"{tokens} tokens of prompt and answer take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
            "Give a smaller --max-new-tokens, or a cache that forgets: --max-pages N, or --cache sink."
        )


def _note_beyond(tokens: int, config: Any, cache: Any) -> None:
    """Say that a text can get longer than the model has learnt. Rotary positions go on, so nothing else would.

    Args:
        tokens: of the prompt and the answer together.
        config: the model's.
        cache: an empty one, or None. A sink cache counts positions within what it keeps.
    """
    most, kept = getattr(config, "max_position_embeddings", None), getattr(cache, "capacity", tokens)
    if most is not None and min(tokens, kept) > most:
        print(
            f"note: prompt and answer may have {tokens} tokens, and the model was trained for {most}: what comes after "
            "these is seldom good. A sink cache (--window N) keeps within them.",
            file=sys.stderr,
            flush=True,
        )


def cache_options(args: argparse.Namespace) -> tuple[str, dict[str, int]]:
    """Which cache the flags mean, and its options: those of a kind of cache choose it.

    Raises:
        CourseError: the flags belong to different caches.
    """
    given: dict[str, dict[str, int]] = {"paged": {}, "sink": {}}
    for kind, keys in {"paged": ("page_size", "max_pages"), "sink": ("sinks", "window")}.items():
        for key in keys:
            if getattr(args, key) is not None:
                given[kind][key] = getattr(args, key)
    chosen = [kind for kind, options in given.items() if options]
    name = args.cache or (chosen[0] if chosen else "static")
    for kind in chosen:
        if kind != name:
            flags = ", ".join("--" + key.replace("_", "-") for key in given[kind])
            raise CourseError(f"{flags} belongs to --cache {kind}, and the cache is {name}. Leave one of them out.")
    return name, given.get(name, {})


def load_with_adapter(model: str | None, adapter: Path | None, device: str = "cpu") -> tuple[Any, Any]:
    """A model and its tokenizer, with an adapter on it.

    An adapter that was trained on a base in 4 bits goes on what these 4 bits stand for.

    Args:
        model: a name or a folder; None stands for the adapter's base, or the packaged SmolLM2.
        adapter: an adapter's folder, a checkpoint or a .pt file; or None.
        device: where to compute.

    Returns:
        The model, in evaluation, and its tokenizer.
    """
    from course_lib.models.pretrained import DEFAULT, load

    if adapter is None:
        return load(model or DEFAULT, device=device)
    from course_lib.adapters import load_adapter
    from course_lib.finetuning.export import as_adapter, named_base, other_bases, quantization_of_adapter
    from course_lib.finetuning.model import load_qlora_base

    with tempfile.TemporaryDirectory() as scratch:
        folder = as_adapter(adapter, Path(scratch))
        base = model or named_base(folder)
        for name, other in other_bases(base, {str(adapter): folder}).items():
            print(f"note: {name} was trained on {other}, and is put on {base} here", file=sys.stderr, flush=True)
        how = quantization_of_adapter(adapter, folder)
        if how is None:
            loaded, tokenizer = load(base, device=device)
        else:
            loaded, tokenizer = load_qlora_base(base, how, "float32", device)
        load_adapter(loaded, folder)
    return loaded.eval(), tokenizer


def _forgotten(cache: Any) -> str:
    """How many tokens an evicting cache has dropped, in words."""
    dropped = getattr(cache, "dropped", 0) + sum(table.dropped for table in getattr(cache, "tables", []))
    return f"; it has forgotten {dropped} tokens" if dropped else ""
