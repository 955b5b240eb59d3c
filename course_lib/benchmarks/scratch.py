"""The NumPy edition beside torch, and its tokenizer beside the `tokenizers` library."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from course_lib.benchmarks.timing import paired, timed
from course_lib.data import style_corpus


def bench_scratch(threads: int = 2, pairs: int = 50, text: Path | None = None) -> dict[str, float]:
    """A training step of the exercise's GPT against torch eager, the import, and the tokenizer's speed.

    Args:
        threads: torch's.
        pairs: how many pairs of steps are timed.
        text: what the tokenizer is trained on; None: the bundled log, 30 times over.

    Returns:
        Times in ms and s, rates in MB/s, and the median ratio of the steps (below 1: ours is faster).
    """
    return _training_step(threads, pairs) | _import_time() | _tokenizer(text)


def _training_step(threads: int, pairs: int) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from course_lib.benchmarks.torch_gpt import torch_forward
    from course_lib.scratch import GPT, AdamW

    torch.set_num_threads(threads)
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64)
    ids = np.random.default_rng(0).integers(0, 100, (8, 64))
    weights = {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}
    ours, theirs, tokens = AdamW(model.parameters(), 1e-3), torch.optim.AdamW(weights.values(), 1e-3), torch.tensor(ids)

    def numpy_step() -> None:
        """One AdamW step of our NumPy model."""
        ours.zero_grad()
        model.loss(ids, ids).backward()
        ours.step()

    def torch_step() -> None:
        """The same step in torch, from the same weights."""
        theirs.zero_grad()
        logits = torch_forward(weights, tokens, heads=4, layers=2)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        theirs.step()

    result = paired(numpy_step, torch_step, pairs)
    return {"step_ms": 1e3 * result.ours_s, "torch_step_ms": 1e3 * result.theirs_s, "step_ratio": result.ratio}


def _import_time() -> dict[str, float]:
    program = "import time; t = time.perf_counter(); import course_lib.scratch; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return {"import_s": float(np.median(times))}


def _tokenizer(path: Path | None) -> dict[str, float]:
    from course_lib.scratch import BPETokenizer

    text = path.read_text(encoding="utf-8") if path else style_corpus() * 30
    megabytes = len(text.encode()) / 1e6
    tokenizer, training = timed(lambda: BPETokenizer.train(text, 2_000))
    ids, encoding = timed(lambda: tokenizer.encode(text))
    if tokenizer.decode(ids) != text:
        raise AssertionError("the round trip changed the text")
    return {
        "text_mb": megabytes,
        "bpe_train_s": training,
        "bpe_encode_mb_s": megabytes / encoding,
        "bpe_bytes_per_token": 1e6 * megabytes / len(ids),
    }
