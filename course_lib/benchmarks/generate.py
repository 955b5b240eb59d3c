"""Generating a text: ours in every weight format beside transformers' `generate`, with the cache on and off.

All contenders run in one process and in turn, and each ratio is the median over the rounds, so that a busy moment of
the machine falls on all of them.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from course_lib.errors import CourseError
from course_lib.inference import SamplingSettings, kv_bytes_per_token, prepare, prompt_ids
from course_lib.inference.caches import StaticCache
from course_lib.inference.compiled import require_compiler
from course_lib.inference.generate import decode_steps
from course_lib.inference.prepared import PreparedDecoder
from course_lib.inference.stopping import Row

PEER = "transformers float32"  # what every contender is compared with
LLAMA = "llama.cpp 4-bit"  # what ours are compared with besides
COMPILED = ", compiled"
# Shapes whose cache sizes are published, as (layers, width of all heads of keys), beside what 16 bits take.
PUBLISHED = {"OPT-13B": (40, 5120), "Llama-2-7B": (32, 4096), "Llama-3-8B": (32, 1024)}


@dataclass(frozen=True)
class Run:
    """One generation.

    Attributes:
        first_s: seconds until the first token.
        total_s: seconds until the last one.
        tokens: new tokens of one row.
        rows: how many rows there were.
    """

    first_s: float
    total_s: float
    tokens: int
    rows: int

    @property
    def tokens_per_s(self) -> float:
        """New tokens of all rows in a second, the reading of the prompt included."""
        return self.rows * self.tokens / self.total_s

    @property
    def token_ms(self) -> float:
        """Milliseconds for each step after the first token."""
        return 1e3 * (self.total_s - self.first_s) / max(self.tokens - 1, 1)


Contender = Callable[[], Run]


def ours(model: Any, rows: list[list[int]], new: int, cache: str = "static") -> Contender:
    """Make a function that generates with our loop, greedily, and times it.

    Args:
        model: what `generate` takes.
        rows: the prompts.
        new: how many tokens to add to each.
        cache: by name.

    Returns:
        The function; each call is one timed run.
    """

    def run() -> Run:
        started = time.perf_counter()
        ends = [Row(()) for _ in rows]
        times = [time.perf_counter() for _ in decode_steps(model, rows, new, ends, SamplingSettings(), cache)]
        return Run(times[0] - started, times[-1] - started, new, len(rows))

    return run


def theirs(model: Any, rows: list[list[int]], new: int, use_cache: bool = True) -> Contender:
    """Make the same with transformers' `generate`.

    Args:
        model: transformers' own.
        rows: the prompts, all of one length.
        new: how many tokens to add to each.
        use_cache: as transformers has it.

    Returns:
        The function; each call is one timed run.
    """
    tokens = torch.tensor(rows)
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def run() -> Run:
        times: list[float] = []

        def stamp(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        started = time.perf_counter()
        model.generate(
            tokens, attention_mask=torch.ones_like(tokens), use_cache=use_cache, stopping_criteria=[stamp], **options
        )
        return Run(times[0] - started, times[-1] - started, new, len(rows))

    return run


def bench_generate(
    model: str,
    prompt: str,
    max_new_tokens: int,
    threads: int,
    rounds: int,
    formats: Sequence[str] = ("float32", "bfloat16", "int8", "int4"),
    batch_size: int = 1,
    compile: bool = False,
    cache_off: bool = True,
    llama_cpp: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Tokens a second, time to the first token and for each further one, and bytes, of all contenders.

    Args:
        model: a Llama by name or folder.
        prompt: the text to continue.
        max_new_tokens: how many tokens to add.
        threads: how many threads torch may use.
        rounds: how often each contender runs, after once to warm up.
        formats: the weight formats of `prepare`; transformers runs in bfloat16 too where that is one of them.
        batch_size: how many rows are generated at once, all of the same prompt.
        compile: our prepared models also take part compiled.
        cache_off: also generate without a cache, once each.
        llama_cpp: where node-llama-cpp was installed: llama.cpp takes part, with one thread and with `threads`.
        progress: is given a line after each run, since on a busy machine all of them take minutes.

    Returns:
        Figures by name.

    Raises:
        CourseError: the prompt is empty, there is nothing to generate, or there is no compiler for `compile`.
    """
    from course_lib.models.pretrained import load, load_model

    if compile:
        require_compiler()
    torch.set_num_threads(threads)
    peer, tokenizer = load(model)
    ids = prompt_ids(tokenizer, prompt)
    if not ids or max_new_tokens < 2 or batch_size < 1:
        raise CourseError("bench generate needs a prompt, at least 2 new tokens and at least one row.")
    progress(f"loaded {model}; preparing its weights as {', '.join(formats)}")
    prepared = _prepare_all(peer, formats, compile)
    rows = [ids] * batch_size
    contenders = {PEER: theirs(peer, rows, max_new_tokens)}
    if "bfloat16" in formats:
        contenders["transformers bfloat16"] = theirs(load_model(model, "bfloat16"), rows, max_new_tokens)
    models = {"ours unprepared": peer} | prepared
    contenders |= {name: ours(each, rows, max_new_tokens) for name, each in models.items()}
    figures: dict[str, float] = {"prompt tokens": len(ids), "new tokens": max_new_tokens, "rows": batch_size}
    with contextlib.ExitStack() as stack:
        contenders |= _llama_cpp(stack, llama_cpp, model, ids, max_new_tokens, threads)
        figures |= _compare(contenders, rounds, progress)
    if cache_off:
        off = {name: ours(each, rows, max_new_tokens, "none") for name, each in prepared.items() if each.step is None}
        off |= {PEER: theirs(peer, rows, max_new_tokens, use_cache=False)}
        figures |= _without_cache(off, figures, progress)
    return figures | _of_prepared(prepared, figures) | cache_sizes(peer, ids, max_new_tokens)


def _of_prepared(prepared: dict[str, PreparedDecoder], figures: dict[str, float]) -> dict[str, float]:
    """What a token reads, how fast by the times in `figures`, and how long compiling took."""
    found = {}
    for name, each in prepared.items():
        if each.step is not None:
            found[f"{name}, seconds to compile"] = sum(each.step.seconds.values())
        found[f"{name}, MB read a token"] = each.weight_bytes() / 1e6
        found[f"{name}, GB/s"] = each.weight_bytes() / 1e6 / figures[f"{name}, ms a token"]
    return found


def _prepare_all(model: Any, formats: Sequence[str], compile: bool) -> dict[str, PreparedDecoder]:
    """A prepared model in each format, and beside it the compiled one, whose weights may lie in another order.

    Args:
        model: what to prepare.
        formats: of the weights.
        compile: whether there is a compiled one of each.

    Returns:
        Models by the names of the contenders.
    """
    prepared = {}
    for weights in formats:
        prepared[f"ours {weights}"] = prepare(model, weights)
        if compile:
            prepared[f"ours {weights}{COMPILED}"] = prepare(model, weights, compile=True)
    return prepared


def _without_cache(
    contenders: dict[str, Contender], figures: dict[str, float], progress: Callable[[str], None]
) -> dict[str, float]:
    """The speeds without a cache, run once each, and what the cache of `figures` gains over them."""
    found = {}
    for name, contender in contenders.items():
        speed = _told(name + ", cache off", contender, progress).tokens_per_s
        found[f"{name}, cache off, tok/s"] = speed
        found[f"{name}, cache on / off"] = figures[f"{name}, tok/s"] / speed
    return found


def _llama_cpp(
    stack: contextlib.ExitStack, folder: Path | None, model: str, ids: list[int], new: int, threads: int
) -> dict[str, Contender]:
    """llama.cpp on the packaged 4-bit file with one thread and with `threads`, in processes that end with `stack`."""
    if folder is None:
        return {}
    from course_lib.benchmarks.llama_cpp import LlamaCpp
    from course_lib.models.pretrained import PACKAGED

    gguf = PACKAGED[model].gguf_path() if model in PACKAGED else None
    if gguf is None:
        raise CourseError(f"llama.cpp reads the packaged file of {', '.join(PACKAGED)}, and {model} has none here.")
    return {
        f"{LLAMA}, threads {count}": stack.enter_context(LlamaCpp(folder, gguf, ids, new, count))
        for count in sorted({1, threads})
    }


def plot_generate(figures: dict[str, float], path: Path) -> None:
    """Draw tokens a second of all contenders as bars, and the bandwidth that ours reach.

    Args:
        figures: what `bench_generate` returned.
        path: an image file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ends = ", tok/s"
    speeds = {
        name.removesuffix(ends): value
        for name, value in figures.items()
        if name.endswith(ends) and "cache off" not in name
    }
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(speeds) + 1))
    bars = axis.barh(list(speeds), list(speeds.values()))
    axis.bar_label(bars, [f"{value:.0f}" for value in speeds.values()], padding=3)
    axis.invert_yaxis()
    axis.set_xlabel(f"tokens a second, {figures['rows']:.0f} row(s), {figures['new tokens']:.0f} new tokens")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _told(name: str, contender: Contender, progress: Callable[[str], None]) -> Run:
    """One run, and a line about it."""
    started = time.perf_counter()
    run = contender()
    progress(f"{name}: {time.perf_counter() - started:.1f} s")
    return run


def _compare(contenders: dict[str, Contender], rounds: int, progress: Callable[[str], None]) -> dict[str, float]:
    """Run all in turn, back and forth, and take medians; ratios within each round."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for name, each in contenders.items():
        _told(f"warm-up, {name}", each, progress)
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            runs[name].append(_told(f"round {number + 1} of {rounds}, {name}", contenders[name], progress))
    figures = {}
    of_llama = [name for name in runs if name.startswith(LLAMA)]
    for name, of in runs.items():
        figures[f"{name}, tok/s"] = statistics.median(run.tokens_per_s for run in of)
        figures[f"{name}, first token ms"] = 1e3 * statistics.median(run.first_s for run in of)
        figures[f"{name}, ms a token"] = statistics.median(run.token_ms for run in of)
        others = [PEER]
        if name.startswith("ours"):
            others += of_llama
        if name.endswith(COMPILED):
            others.append(name.removesuffix(COMPILED))
        for other in others:
            pairs = zip(of, runs[other], strict=True)
            figures[f"{name} / {other}"] = statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in pairs)
    return figures


def cache_sizes(model: Any, ids: list[int], new: int) -> dict[str, float]:
    """The cache's bytes, measured and by formula; and the published ones by the same formula.

    Args:
        model: what generates.
        ids: the prompt.
        new: how many tokens are added.

    Returns:
        Bytes, and KiB a token in 16 bits.
    """
    cache = StaticCache(len(ids) + new)
    for _ in decode_steps(model, [ids], 1, [Row(())], SamplingSettings(), cache):
        pass
    formula = cache.capacity * kv_bytes_per_token(model.config, torch.float32)
    figures = {"cache bytes": float(cache.nbytes()), "cache bytes by formula": float(formula)}
    for name, (layers, width) in PUBLISHED.items():
        figures[f"{name}, KiB a token in 16 bits"] = 2 * layers * width * 2 / 1024
    return figures
