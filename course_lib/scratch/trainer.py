"""The training loop (level 2 of the fine-tuning exercise)."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from course_lib.scratch.functional import IGNORE
from course_lib.scratch.instructions import DataCollator, FinetuneDataset
from course_lib.scratch.nn import evaluating, refuse_other_shapes
from course_lib.scratch.optim import Optimizer, clip_grad_norm, warmup_cosine


class Trainer:
    """Forward, loss, backward, clip, update, over `epochs` shuffled passes.

    model: has loss(ids, labels) and named_parameters(). The optimiser decides what is trained; its learning rate is the
    peak of a linear warm-up over a tenth of the steps and a cosine down to a tenth of it. say: prints a line a step.
    """

    def __init__(
        self,
        model,
        optimizer: Optimizer,
        dataset: FinetuneDataset,
        batch_size: int = 4,
        epochs: int = 3,
        *,
        clip: float = 1.0,
        seed: int = 0,
        say: Callable[[str], None] | None = lambda line: print(line, file=sys.stdout),
    ):
        if not len(dataset) or batch_size < 1 or epochs < 1:
            raise ValueError(f"batch_size {batch_size}, epochs {epochs}, {len(dataset)} examples: each at least 1.")
        self.model, self.optimizer, self.dataset = model, optimizer, dataset
        self.batch_size, self.clip, self.seed, self.say = batch_size, clip, seed, say or (lambda line: None)
        self.collator, self.peak_lr, self.step = DataCollator(), optimizer.lr, 0
        self.steps_a_pass = -(-len(dataset) // batch_size)
        self.steps = epochs * self.steps_a_pass

    def train(self, max_steps: int | None = None) -> list[float]:
        """Go on from the current step to the last (or for `max_steps` more). Returns the loss of each step done."""
        last = self.steps if max_steps is None else min(self.steps, self.step + max_steps)
        losses = []
        while self.step < last:
            losses.append(self._train_step())
        return losses

    def _train_step(self) -> float:
        started, batch = time.perf_counter(), self._batch(self.step)
        self.optimizer.lr = self.peak_lr * warmup_cosine(self.step, self.steps, max(1, self.steps // 10))
        self.optimizer.zero_grad()
        loss = self.model.loss(batch["input_ids"], batch["labels"])
        if not np.isfinite(loss.item()):
            raise ValueError(f"The loss at step {self.step} is {loss.item()}: lower the learning rate {self.peak_lr}.")
        loss.backward()
        norm = clip_grad_norm(self.optimizer.parameters, self.clip)
        self.optimizer.step()
        seconds = time.perf_counter() - started
        self.say(
            f"step {self.step} | loss {loss.item():.4f} | lr {self.optimizer.lr:.1e} | norm {norm:.2f} | "
            f"{1000 * seconds:.0f} ms | {batch['input_ids'].size / seconds:.0f} tok/s"
        )
        self.step += 1
        return loss.item()

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step. The order of a pass follows from the seed and the pass alone, so a resumed run sees what
        an unbroken one would have seen."""
        a_pass, place = divmod(step, self.steps_a_pass)
        order = np.random.default_rng([self.seed, a_pass]).permutation(len(self.dataset))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.collator.collate([self.dataset[int(i)] for i in chosen])

    def evaluate(self, eval_data: FinetuneDataset) -> float:
        """Mean loss over all trained-on labels of `eval_data`, in nats a token; no weight changes."""
        return evaluate(self.model, eval_data, self.batch_size)

    def save_checkpoint(self, path: Path | str) -> None:
        """Weights, the optimiser's memory and the position, in one .npz without pickle; whole or not at all."""
        arrays = {f"model/{name}": p.data for name, p in self.model.named_parameters()}
        for slot, memory in self.optimizer.memory.items():
            arrays |= {f"optimizer/{slot}/{i}": value for i, value in enumerate(memory)}
        state = {"step": self.step, "optimizer_steps": self.optimizer.steps, "optimizer": type(self.optimizer).__name__}
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(state)), **arrays)
        os.replace(temporary, path)

    def load_checkpoint(self, path: Path | str) -> None:
        """Go back to where `save_checkpoint` was: training on gives the losses it would have given.

        ValueError, before anything is changed, where the file is of another model or optimiser.
        """
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        if "state" not in arrays:
            raise ValueError(f"{path} is no checkpoint of this Trainer.")
        state = json.loads(arrays.pop("state").item())
        expected = {f"model/{name}": p for name, p in self.model.named_parameters()}
        for slot, memory in self.optimizer.memory.items():
            expected |= {f"optimizer/{slot}/{i}": value for i, value in enumerate(memory)}
        refuse_other_shapes(expected, arrays, f"{path} is of another model or optimiser")
        for name, parameter in self.model.named_parameters():
            parameter.data = arrays[f"model/{name}"]
        for slot, memory in self.optimizer.memory.items():
            memory[:] = [arrays[f"optimizer/{slot}/{i}"] for i in range(len(memory))]
        self.step, self.optimizer.steps = state["step"], state["optimizer_steps"]


def evaluate(model, data: FinetuneDataset, batch_size: int = 4) -> float:
    """Mean loss over every trained-on label of `data`, whatever the batches: token-weighted, not a mean of means.
    Without dropout."""
    total, count, collator = 0.0, 0, DataCollator()
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            batch = collator.collate([data[i] for i in range(start, min(start + batch_size, len(data)))])
            tokens = int((batch["labels"][:, 1:] != IGNORE).sum())
            total += model.loss(batch["input_ids"], batch["labels"]).item() * tokens
            count += tokens
    return total / count
