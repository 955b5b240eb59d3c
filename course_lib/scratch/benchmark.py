"""Comparing models on the same held-out examples (level 4 of the fine-tuning exercise)."""

import math
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from course_lib.scratch.functional import IGNORE
from course_lib.scratch.instructions import DataCollator, FinetuneDataset
from course_lib.scratch.lora import LoRAModel
from course_lib.scratch.nn import LanguageModel, evaluating
from course_lib.scratch.trainer import evaluate


class Benchmark:
    """Loss, perplexity, accuracy and parameter counts on one evaluation set.

    Args:
        model: what `evaluate` looks at. It may be left out where only `compare` is used.
        eval_dataset: held-out examples, at least one.

    Raises:
        ValueError: eval_dataset is missing or empty.
    """

    def __init__(self, model: LanguageModel | None = None, eval_dataset: FinetuneDataset | None = None):
        if eval_dataset is None or not len(eval_dataset):
            raise ValueError("A benchmark needs an eval_dataset with at least one example.")
        self.model, self.eval_dataset = model, eval_dataset

    def evaluate(self) -> dict[str, float]:
        """Measure the benchmark's own model.

        Returns:
            "loss": nats per token; "perplexity": e to the power of the loss; "accuracy": the share of trained labels
            that are the model's likeliest token; "total_params" and "trainable_params".

        Raises:
            ValueError: the benchmark was made without a model.
        """
        if self.model is None:
            raise ValueError("This benchmark was made without a model: use compare({...}).")
        return self._measure(self.model)

    def compare(self, models: Mapping[str, LanguageModel], training: dict[str, dict] | None = None) -> dict[str, dict]:
        """Measure several models on the same examples.

        Args:
            models: the models by name.
            training: what `measured` returned for a model's training, by the same names.

        Returns:
            By name, what `evaluate` returns, and what `training` adds.
        """
        return {name: self._measure(model) | (training or {}).get(name, {}) for name, model in models.items()}

    def _measure(self, model: LanguageModel) -> dict[str, float]:
        loss = evaluate(model, self.eval_dataset)
        total = sum(p.size for p in model.parameters())
        trained = model.lora_parameters() if isinstance(model, LoRAModel) else model.parameters()
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "accuracy": _accuracy(model, self.eval_dataset),
            "total_params": total,
            "trainable_params": sum(p.size for p in trained),
        }


def _accuracy(model: LanguageModel, data: FinetuneDataset) -> float:
    right = count = 0
    with evaluating(model):
        for index in range(len(data)):
            batch = DataCollator().collate([data[index]])
            wanted = batch["labels"][:, 1:]
            guessed = model(batch["input_ids"]).data[:, :-1].argmax(axis=-1)  # position t guesses token t + 1
            right += int(((guessed == wanted) & (wanted != IGNORE)).sum())
            count += int((wanted != IGNORE).sum())
    return right / count


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Run `work` and measure it. Watching memory slows the work down by some tens of percent.

    Returns:
        "training_time" in seconds, and "peak_memory": the most bytes that NumPy and Python held beyond those they held
        before.
    """
    watching = tracemalloc.is_tracing()
    if not watching:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    started = time.perf_counter()
    work()
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    if not watching:
        tracemalloc.stop()
    return {"training_time": seconds, "peak_memory": float(np.maximum(0, peak - before))}
