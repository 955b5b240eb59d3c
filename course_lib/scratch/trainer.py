"""The training loop (level 2 of the fine-tuning exercise)."""

import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from course_lib.files import write_whole
from course_lib.scratch.functional import IGNORE
from course_lib.scratch.instructions import DataCollator, FinetuneDataset
from course_lib.scratch.nn import LanguageModel, evaluating, refuse_other_shapes
from course_lib.scratch.optim import Optimizer, clip_grad_norm, warmup_cosine


class Trainer:
    """Forward, loss, backward, clip, update, over `epochs` shuffled passes.

    The learning rate warms up in a straight line over a tenth of the steps, and then falls in a cosine to a tenth.

    Args:
        model: it has loss(ids, labels) and named_parameters(), and `rng` if it draws dropouts.
        optimizer: decides what is trained. Its learning rate is the peak of the schedule.
        dataset: the examples.
        batch_size: examples of a batch; the last batch of a pass may be smaller.
        epochs: passes over the examples.
        max_grad_norm: the limit of the gradients' joint norm.
        seed: decides the order of the examples.
        say: called with one line for each step; None for silence.

    Raises:
        ValueError: `dataset` is empty, or batch_size or epochs is below 1.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        dataset: FinetuneDataset,
        batch_size: int = 4,
        epochs: int = 3,
        *,
        max_grad_norm: float = 1.0,
        seed: int = 0,
        say: Callable[[str], None] | None = lambda line: print(line, file=sys.stdout),
    ):
        if not len(dataset) or batch_size < 1 or epochs < 1:
            raise ValueError(f"batch_size {batch_size}, epochs {epochs}, {len(dataset)} examples: each at least 1.")
        self.model, self.optimizer, self.dataset = model, optimizer, dataset
        self.batch_size, self.max_grad_norm, self.seed = batch_size, max_grad_norm, seed
        self.say = say or (lambda line: None)
        self.collator, self.peak_lr, self.step = DataCollator(), optimizer.lr, 0
        self.steps_a_pass = math.ceil(len(dataset) / batch_size)
        self.steps = epochs * self.steps_a_pass
        self.rng: np.random.Generator | None = getattr(model, "rng", None)

    def train(self, max_steps: int | None = None) -> list[float]:
        """Train from the current step to the last, or for `max_steps` more.

        Returns:
            The loss of each step done, in nats per token.

        Raises:
            ValueError: the loss or the gradients' norm is not finite. The weights are those of the step before.
        """
        last = self.steps if max_steps is None else min(self.steps, self.step + max_steps)
        losses = []
        while self.step < last:
            losses.append(self._train_step())
        return losses

    def _train_step(self) -> float:
        """One update from one batch, input_ids and labels (batch, longest). Returns the loss before the update."""
        started, batch = time.perf_counter(), self._batch(self.step)
        self.optimizer.lr = self.peak_lr * warmup_cosine(self.step, self.steps, max(1, self.steps // 10))
        self.optimizer.zero_grad()
        loss = self.model.loss(batch["input_ids"], batch["labels"])
        self._refuse_not_finite("loss", loss.item())  # before backward, which would make every gradient NaN
        loss.backward()
        norm = clip_grad_norm(self.optimizer.parameters, self.max_grad_norm)
        self._refuse_not_finite("gradient norm", norm)
        self.optimizer.step()
        seconds = time.perf_counter() - started
        self.say(
            f"step {self.step} | loss {loss.item():.4f} | lr {self.optimizer.lr:.1e} | norm {norm:.2f} | "
            f"{1000 * seconds:.0f} ms | {batch['input_ids'].size / seconds:.0f} tok/s"
        )
        self.step += 1
        return loss.item()

    def _refuse_not_finite(self, what: str, value: float) -> None:
        if not np.isfinite(value):
            raise ValueError(f"The {what} at step {self.step} is {value}: lower the learning rate {self.peak_lr}.")

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step.

        The order of a pass follows from the seed and the pass alone, so a resumed run sees what an unbroken one would
        have seen.
        """
        a_pass, place = divmod(step, self.steps_a_pass)
        order = np.random.default_rng([self.seed, a_pass]).permutation(len(self.dataset))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.collator.collate([self.dataset[int(i)] for i in chosen])

    def evaluate(self, eval_data: FinetuneDataset) -> float:
        """Mean loss over all trained-on labels of `eval_data`, in nats per token; no weight changes."""
        return evaluate(self.model, eval_data, self.batch_size)

    def save_checkpoint(self, path: Path | str) -> None:
        """Write the weights, the optimiser's memory, position, schedule and random states in one .npz without pickle.

        The file is written whole or not at all.
        """
        buffer = io.BytesIO()
        arrays = {"state": np.array(json.dumps(self._state()))} | self._arrays()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_whole(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Path | str) -> None:
        """Go back to where `save_checkpoint` was: training on gives the losses that it would have given.

        Raises:
            ValueError: the file is damaged or of another model or optimiser, or its position would mean other batches
                here. Then nothing has changed.
        """
        arrays, saved = _read(path)
        own = self._state()
        state = own | saved
        refuse_other_shapes(self._arrays(), arrays, f"{path} is of another model or optimiser")
        for what in ("batch_size", "examples"):
            if state[what] != own[what]:
                raise ValueError(f"{path} was saved with {what} {state[what]}, and here it is {own[what]}.")
        if state["rng"] and self.rng is not None:
            self.rng.bit_generator.state = state["rng"]  # first, as it refuses what is not a state
        for name, parameter in self.model.named_parameters():
            parameter.data = arrays[f"model/{name}"].astype(parameter.dtype, copy=False)
        for slot, memory in self.optimizer.memory.items():
            memory[:] = [arrays[f"optimizer/{slot}/{i}"] for i in range(len(memory))]
        self.step, self.optimizer.steps = state["step"], state["optimizer_steps"]
        self.peak_lr, self.seed = state["peak_lr"], state["seed"]

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"model/{name}": p.data for name, p in self.model.named_parameters()}
        for slot, memory in self.optimizer.memory.items():
            arrays |= {f"optimizer/{slot}/{i}": value for i, value in enumerate(memory)}
        return arrays

    def _state(self) -> dict:
        return {
            "step": self.step,
            "optimizer_steps": self.optimizer.steps,
            "optimizer": type(self.optimizer).__name__,
            "peak_lr": self.peak_lr,
            "seed": self.seed,  # the order of the examples
            "batch_size": self.batch_size,
            "examples": len(self.dataset),
            "rng": self.rng and self.rng.bit_generator.state,  # dropout goes on where it was
        }


def _read(path: Path | str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the state of a checkpoint. Raises ValueError where the file is not one."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        return arrays, dict(json.loads(arrays.pop("state").item()))
    except (ValueError, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a checkpoint of this Trainer ({error}).") from error


def evaluate(model: LanguageModel, data: FinetuneDataset, batch_size: int = 4) -> float:
    """The mean loss over every trained label, without dropout.

    Each batch counts by its trained tokens, so the result does not depend on how the examples are batched.

    Args:
        model: what is evaluated.
        data: the examples.
        batch_size: examples of a batch.

    Returns:
        The loss, in nats per token.
    """
    total, count, collator = 0.0, 0, DataCollator()
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            batch = collator.collate([data[i] for i in range(start, min(start + batch_size, len(data)))])
            tokens = int((batch["labels"][:, 1:] != IGNORE).sum())  # nothing predicts a first token
            total += model.loss(batch["input_ids"], batch["labels"]).item() * tokens
            count += tokens
    return total / count
