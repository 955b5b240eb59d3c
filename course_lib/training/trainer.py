"""The Trainer: micro-batches in, a loss curve out. `Trainer.step` is one training step, in one screen."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from course_lib.data import block_diagonal
from course_lib.errors import CourseError
from course_lib.models.masks import mask_for
from course_lib.models.modes import evaluating
from course_lib.training.checkpoint import Checkpoints
from course_lib.training.clipping import clip_grad_norm
from course_lib.training.config import CheckpointConfig, TrainingConfig
from course_lib.training.distributed import World, full_tensor, wrap_distributed
from course_lib.training.log import StepRecord, TrainingLog
from course_lib.training.master_weights import make_adamw
from course_lib.training.memory import peak_memory, reset_peak_memory, return_freed_memory, trimmed_backward
from course_lib.training.objective import NextToken, Objective
from course_lib.training.stopping import Stopped, stop_wanted

Batch = np.ndarray | torch.Tensor | dict


class Trainer:
    """Trains whichever parameters of `model` require gradients, all of them or an adapter's few, with AdamW.

    Parameters of 16 bits get master weights and moments in float32 (see `master_weights`).

    Args:
        model: maps token ids (batch, time) to an object with `.logits` (batch, time, vocabulary), as transformers' do.
        config: everything that decides the steps.
        evaluate: gives the held-out loss of the model. It is called every `eval_every` steps and after the last one;
            the weights with the lowest result so far are kept as the checkpoint `best`.
        eval_every: steps between evaluations; 0: only after the last step.
        checkpoints: where and how often to save; None: never.
        log_every: steps between printed lines; 0: none.
        log_path: a JSONL file for the record of every step.
        world: this process among several (see `distributed`), each with its rows of every micro-batch.
        objective: what is minimised; None: the loss of the next token.

    Raises:
        CourseError: nothing in the model requires gradients, or settings exclude each other.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"])
        >>> trainer = Trainer(model, TrainingConfig(lr=1e-3), log_every=0)
        >>> records = trainer.train([torch.arange(16).reshape(2, 8)] * 3)
        >>> [record.step for record in records], records[2].loss < records[0].loss
        ([0, 1, 2], True)
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        *,
        evaluate: Callable[[nn.Module], float] | None = None,
        eval_every: int = 0,
        checkpoints: CheckpointConfig | None = None,
        log_every: int = 10,
        log_path: Path | str | None = None,
        world: World = World(),  # noqa: B008 - frozen
        objective: Objective | None = None,
    ):
        self.model, self.config, self.world = model, config, world
        self.objective = objective or NextToken()
        self.evaluate, self.eval_every = evaluate, eval_every
        self.log = TrainingLog(log_every, log_path, enabled=world.is_main)
        return_freed_memory()  # earlier cells of a notebook leave holes in the heap: see `training.memory`
        if config.shard and world.size > 1 and config.autocast == "float16":
            raise CourseError(
                "shard=True does not go with autocast='float16', whose loss scale is each process's own. Take bfloat16."
            )
        if config.gradient_checkpointing:
            enable_gradient_checkpointing(model)

        # Sharding replaces the parameters, so the optimiser has to be given those from after it.
        self.wrapped_model: Any = wrap_distributed(model, world, config.shard)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise CourseError(
                "Nothing to train: no parameter of the model requires gradients. Inject an adapter first, or call "
                "model.requires_grad_(True)."
            )
        self.device = self.parameters[0].device
        self.optimizer = make_adamw(self.parameters, config.lr, config.weight_decay)
        # The loss scale of float16; with any other dtype it does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.autocast == "float16")
        self.checkpoint_every = checkpoints.every if checkpoints else 0
        self.checkpoints = None
        if checkpoints:
            self.checkpoints = Checkpoints(checkpoints.folder, model, self.optimizer, checkpoints.keep, world)
        if config.compile:
            self.wrapped_model = torch.compile(self.wrapped_model)

    def train(self, batches: Iterable[Batch], resume: bool = False) -> list[StepRecord]:
        """Train on micro-batches, one after another.

        Args:
            batches: token ids (batch, time), or {"input_ids", "labels", ...} as `pad` and `pack` give them. Without
                labels every token is a target.
            resume: go on from the newest checkpoint, if there is one, to the very losses of a run that was not
                interrupted. The batches must be the same. Records of earlier steps come from the log.

        Returns:
            The record of each step.

        Raises:
            CourseError: the loss or the gradients' norm is not a finite number. This is said before the step is
                taken: the weights, and the newest checkpoint, are those of the step before.
            Stopped: the run was asked to stop (see `stopping`), and saved a checkpoint.
        """
        batches = batches if isinstance(batches, Sequence) else list(batches)
        plan = self.plan_steps(batches)
        done, best = self._resume() if resume else (0, None)
        records = self.log.start(done)
        self.model.train()
        reset_peak_memory(self.device)
        # The bar goes to the terminal; in a notebook the log lines are what stays on the page.
        hide_bar = not (self.world.is_main and sys.stderr.isatty())
        with tqdm(initial=done, total=len(plan), desc="training", unit="step", leave=False, disable=hide_bar) as bar:
            for number in range(done, len(plan)):
                last = number == len(plan) - 1
                record = self.step(number, len(plan), [batches[i] for i in plan[number]])
                record, best = self._evaluate(record, last, best)
                records.append(record)
                self.log.add(record, last)  # before the checkpoint: a resumed run can cut the log but not fill it
                stopping = bool(self.checkpoints) and not last and stop_wanted(self.world)
                due = self.checkpoint_every and (last or (number + 1) % self.checkpoint_every == 0)
                if due or stopping:
                    self._save(number + 1, best)
                if stopping:
                    raise Stopped
                bar.update()
                bar.set_postfix(loss=f"{record.loss:.3f}")
        self.model.eval()
        return records

    def plan_steps(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Share out micro-batches among steps: `grad_accum_steps` of them, or as many as `tokens_per_step` takes.

        Args:
            batches: all micro-batches of the run.

        Returns:
            The indices of each step's micro-batches.
        """
        wanted = self.config.tokens_per_step
        if wanted is None:
            size = self.config.grad_accum_steps
            return [list(range(len(batches)))[start : start + size] for start in range(0, len(batches), size)]
        steps, current, tokens = [], [], 0
        for index in range(len(batches)):
            current.append(index)
            tokens += count_real_tokens(batches[index])
            if tokens >= wanted or index == len(batches) - 1:
                steps.append(current)
                current, tokens = [], 0
        return steps

    def step(self, number: int, steps: int, micro_batches: list[Batch]) -> StepRecord:
        """One optimiser step: forward, loss, backward, clip, step.

        The loss is the mean over all targets of the step, as if its micro-batches were one large batch.

        Args:
            number: the step, from 0.
            steps: how many there are in the whole run, which the learning rate depends on.
            micro_batches: what to train on.

        Returns:
            The step's loss, learning rate, gradient norm, time and memory.

        Raises:
            CourseError: the step has no target, or its loss or its gradient norm is not a finite number.
        """
        started, lr = time.perf_counter(), self.config.lr_at(number, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        batches = [self.to_tensors(batch) for batch in micro_batches]
        targets = self.world.total(sum(self.objective.count(batch) for batch in batches))
        if not targets:
            raise CourseError("Every label of this step is -100, so there is nothing to train on. Look at its records.")
        # Data-parallel gradients are averages over the processes; multiplying by their number makes them sums.
        weight = self.world.size / targets

        loss = 0.0
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.maybe_no_sync(last):
                with self.autocast():
                    # Forward pass and loss: ids (batch, time) -> logits -> weight * the sum of the targets' losses, a
                    # scalar. Both in one call, so that our Decoder need never hold all logits: see `NextToken`.
                    batch_loss = self.objective.loss(self.wrapped_model, batch, weight)
                with trimmed_backward(self.parameters):  # returns freed activations to the system on its way
                    self.scaler.scale(batch_loss).backward()  # adds to each parameter's .grad
            loss += batch_loss.item()
        metrics = self.objective.report()
        # `weight` holds a factor world.size for the sake of the gradients; it is taken out again here.
        loss = self.world.total(loss) / self.world.size
        if not math.isfinite(loss):
            raise not_finite("loss", loss, number, lr)

        self.scaler.unscale_(self.optimizer)  # first: the norm to clip to is that of the true gradients
        norm = float(full_tensor(clip_grad_norm(self.parameters, self.config.max_grad_norm)))
        overflow = not math.isfinite(norm)
        # At a scale of 1 the loss was not scaled up, so that the overflow is real; else the scale is to blame.
        if overflow and (not self.scaler.is_enabled() or self.scaler.get_scale() <= 1):
            raise not_finite("gradient norm", norm, number, lr)
        if not overflow:
            self.scaler.step(self.optimizer)
        self.scaler.update()  # halves the scale after an overflow, and doubles it after many steps without one
        self.optimizer.zero_grad(set_to_none=True)

        tokens = sum(count_tokens(batch) for batch in micro_batches)
        seconds, memory = time.perf_counter() - started, peak_memory(self.device)
        return StepRecord(  # a line of the log
            number, loss, lr, norm, seconds, tokens, peak_memory=memory, skipped=overflow, metrics=metrics
        )

    def to_tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        """This process's rows of a batch as tensors on the device.

        Args:
            batch: token ids (batch, time), or a dictionary of such arrays.

        Returns:
            "input_ids" and "labels" (batch, time), and the batch's other tensors. A packed batch's "segment_ids" become
            an "attention_mask".
        """
        batch = dict(batch) if isinstance(batch, dict) else {"input_ids": batch}
        batch.setdefault("labels", batch["input_ids"])
        tensors = self.world.rows({key: _ids_or_numbers(value) for key, value in batch.items()})
        if "segment_ids" in tensors:
            # (batch, time) -> (batch, 1, time, time): True where a token may see another of its own document
            allowed = torch.as_tensor(block_diagonal(tensors.pop("segment_ids").numpy()))
            tensors["attention_mask"] = mask_for(self.model, allowed)
        return {key: value.to(self.device) for key, value in tensors.items()}

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of the forward pass, which computes in the dtype of `config.autocast` where there is one."""
        if self.config.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.autocast))

    def maybe_no_sync(self, last: bool) -> contextlib.AbstractContextManager:
        """The context of a backward pass: only the last micro-batch of a step sends gradients between processes."""
        if self.world.size > 1 and not last and hasattr(self.wrapped_model, "no_sync"):
            return self.wrapped_model.no_sync()
        return contextlib.nullcontext()

    def _evaluate(self, record: StepRecord, last: bool, best: float | None) -> tuple[StepRecord, float | None]:
        """Evaluate where it is time to, and keep the weights if they are the best so far."""
        done = record.step + 1
        due = last or (self.eval_every and done % self.eval_every == 0)
        if not (self.evaluate and due):
            return record, best
        with evaluating(self.model):
            loss = self.evaluate(self.model)
        record = replace(record, eval_loss=loss)
        if best is None or loss < best:
            best = loss
            self._save(done, best, "best")
        return record, best

    def _save(self, done: int, best: float | None, name: str | None = None) -> None:
        if self.checkpoints:
            self.checkpoints.save(done, {"best": best, "scaler": self.scaler.state_dict()}, name)

    def _resume(self) -> tuple[int, float | None]:
        """Restore the newest checkpoint: (how many steps it has done, the best evaluation so far)."""
        if self.checkpoints is None:
            raise CourseError(
                "resume=True needs the folder of the checkpoints: Trainer(..., checkpoints=CheckpointConfig(FOLDER))."
            )
        state = self.checkpoints.load()
        if state is None:
            return 0, None
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["extra"]["scaler"])
        return state["step"], state["extra"]["best"]


def _ids_or_numbers(value: Any) -> torch.Tensor:
    """A batch's array as a tensor: token ids and masks as int64, what has fractions as it is."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.long()


def not_finite(what: str, value: float, step: int, lr: float) -> CourseError:
    """The error of a step whose loss or gradient norm is infinite or not a number.

    Args:
        what: "loss" or "gradient norm".
        value: what was computed.
        step: the step, from 0.
        lr: its learning rate.

    Returns:
        The error, for the caller to raise.
    """
    return CourseError(
        f"The {what} at step {step} is {value}. Lower the learning rate ({lr:.1e}) or max_grad_norm, compute in "
        "bfloat16 or float32 rather than float16, or look at the batch of that step. The weights are those before it."
    )


def count_tokens(batch: Batch) -> int:
    """All tokens of a micro-batch, padding included."""
    return math.prod(np.shape(batch["input_ids"] if isinstance(batch, dict) else batch))


def count_real_tokens(batch: Batch) -> int:
    """The tokens of a micro-batch without its padding."""
    if isinstance(batch, dict) and "attention_mask" in batch:
        return int(np.sum(batch["attention_mask"]))
    return count_tokens(batch)


def enable_gradient_checkpointing(model: Any) -> None:
    """Let a model recompute its activations in the backward pass.

    Args:
        model: a transformers model or our decoder. It is changed in place.

    Raises:
        CourseError: the model cannot recompute them.
    """
    if hasattr(model, "activation_checkpointing_enable"):  # transformers' new name for it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        raise CourseError(f"{type(model).__name__} cannot recompute its activations. Leave gradient_checkpointing out.")
