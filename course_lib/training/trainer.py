"""The Trainer: micro-batches in, a loss curve out."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from course_lib.errors import CourseError
from course_lib.files import write_whole
from course_lib.training.checkpoint import Checkpoints
from course_lib.training.distributed import World, share, whole
from course_lib.training.loss import count_targets, training_loss
from course_lib.training.memory import peak_memory, reset_peak_memory
from course_lib.training.schedule import schedule_named

Batch = np.ndarray | torch.Tensor | dict


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step. loss: nats a token; norm: of all gradients before clipping; seconds: wall clock; tokens: all
    that were computed; eval_loss: where the step was followed by an evaluation; skipped: a gradient overflowed in
    float16, so the weights stayed as they were and the loss scale was lowered."""

    step: int
    loss: float
    lr: float
    norm: float
    seconds: float
    tokens: int
    eval_loss: float | None = None
    peak_memory: int | None = None
    skipped: bool = False

    def line(self) -> str:
        """`step 10 | loss 3.89 | lr 6.6e-05 | norm 0.89 | 42 ms | 15238 tok/s`."""
        speed = self.tokens / self.seconds
        evaluated = "" if self.eval_loss is None else f" | eval {self.eval_loss:.4f}"
        return (
            f"step {self.step} | loss {self.loss:.4f} | lr {self.lr:.1e} | norm {self.norm:.2f} | "
            f"{1000 * self.seconds:.0f} ms | {speed:.0f} tok/s{evaluated}{' | skipped' if self.skipped else ''}"
        )


class Trainer:
    """Trains whichever parameters of `model` require gradients: all of them, or an adapter's few.

    model: maps token ids (batch, time) to an object with `.logits` (batch, time, vocabulary), as transformers' do.
    AdamW; `schedule` (cosine, linear, constant) after `warmup` steps, down to `floor` (default: the schedule's own);
    gradients clipped to norm `clip`.

    accumulate: micro-batches a step. tokens_per_step: instead, as many micro-batches as bring the step to so many
    tokens. Either way the step's loss is the mean over all its target tokens, as if it were one large batch.
    autocast: "bfloat16" or "float16" for the forward pass; float16 scales the loss, and a step whose gradients overflow
    is skipped and the scale halved (Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2).
    checkpoint_activations: recompute them in the backward pass. compile: torch.compile the forward pass.
    evaluate: called every `eval_every` steps and after the last; the lowest result so far is kept as `best`.
    checkpoints: a folder for a checkpoint every `checkpoint_every` steps (the newest `keep` stay).
    log_every: steps between printed log lines (0: none). log_path: a JSONL file with every step's record.
    world: this process among several (see `distributed`), each with its rows of every micro-batch; shard: FSDP2.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        warmup: int = 0,
        schedule: str = "cosine",
        floor: float | None = None,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        accumulate: int = 1,
        tokens_per_step: int | None = None,
        autocast: str | None = None,
        checkpoint_activations: bool = False,
        compile: bool = False,
        evaluate: Callable[[nn.Module], float] | None = None,
        eval_every: int = 0,
        checkpoints: Path | str | None = None,
        checkpoint_every: int = 0,
        keep: int = 2,
        log_every: int = 10,
        log_path: Path | str | None = None,
        world: World = World(),  # noqa: B008 - frozen
        shard: bool = False,
    ):
        if accumulate < 1 or (tokens_per_step is not None and tokens_per_step < 1):
            raise CourseError(f"accumulate={accumulate}, tokens_per_step={tokens_per_step}: each at least 1.")
        self.model, self.lr, self.warmup, self.clip, self.world = model, lr, warmup, clip, world
        self.factor = schedule_named(schedule)
        self.floor = {} if floor is None else {"floor": floor}
        self.accumulate, self.tokens_per_step = accumulate, tokens_per_step
        self.evaluate, self.eval_every = evaluate, eval_every
        self.checkpoint_every = checkpoint_every
        self.log_every, self.log_path = log_every, Path(log_path) if log_path else None
        if shard and world.size > 1 and autocast == "float16":
            raise CourseError("shard=True does not go with autocast='float16', whose loss scale is each process's own.")
        if checkpoint_activations:
            _checkpoint_activations(model)
        self.forward = share(model, world, shard)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise CourseError(
                "Nothing to train: no parameter of the model requires gradients (inject an adapter first?)."
            )
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay, fused=_can_fuse(self))
        self.autocast = _autocast(self.device.type, autocast)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast == "float16")
        self.checkpoints = Checkpoints(checkpoints, model, self.optimizer, keep, world) if checkpoints else None
        if compile:
            self.forward = torch.compile(self.forward)

    def train(self, batches: Iterable[Batch], resume: bool = False) -> list[StepRecord]:
        """Train on micro-batches: token ids (batch, time), or {"input_ids", "labels", ...} as `pad` and `pack` give
        them; without labels every token is a target. Returns the record of each step.

        resume: go on from the newest checkpoint, if there is one, to the very losses of a run that was not
        interrupted; the batches must be the same. Records of earlier steps come from the log.
        Raises CourseError where the loss or the gradients' norm is not a finite number, before the step is taken: the
        weights, and the newest checkpoint, are those of the step before.
        """
        batches = batches if isinstance(batches, Sequence) else list(batches)
        steps = self._plan(batches)
        done, best = self._resume() if resume else (0, None)
        records = self._read_log(done)
        self._write_log(records)
        self.model.train()
        reset_peak_memory(self.device)
        # The bar goes to the terminal; in a notebook the log lines are what stays on the page.
        hidden = not (self.world.is_main and sys.stderr.isatty())
        with tqdm(initial=done, total=len(steps), desc="training", unit="step", leave=False, disable=hidden) as bar:
            for step in range(done, len(steps)):
                record = self._step(step, len(steps), [batches[i] for i in steps[step]])
                record, best = self._evaluated(record, len(steps), best)
                records.append(record)
                self._log(record, len(steps))  # before the checkpoint: a resumed run cuts the log, it cannot fill it
                if self.checkpoint_every and (step + 1 == len(steps) or (step + 1) % self.checkpoint_every == 0):
                    self._save(step + 1, best)
                bar.update()
                bar.set_postfix(loss=f"{record.loss:.3f}")
        self.model.eval()
        return records

    def _plan(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Which micro-batches make up each step."""
        if self.tokens_per_step is None:
            starts = range(0, len(batches), self.accumulate)
            return [list(range(start, min(start + self.accumulate, len(batches)))) for start in starts]
        steps, current, tokens = [], [], 0
        for index in range(len(batches)):
            current.append(index)
            tokens += _real_tokens(batches[index])
            if tokens >= self.tokens_per_step or index == len(batches) - 1:
                steps.append(current)
                current, tokens = [], 0
        return steps

    def _step(self, step: int, steps: int, micro_batches: list[Batch]) -> StepRecord:
        started = time.perf_counter()
        lr = self.lr * self.factor(step, steps, self.warmup, **self.floor)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        parts = [self._tensors(batch) for batch in micro_batches]
        loss = self._backward(parts)
        if not math.isfinite(loss):
            raise _not_finite("loss", loss, step, lr)
        self.scaler.unscale_(self.optimizer)
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.clip)))
        if taken := math.isfinite(norm):
            self.scaler.step(self.optimizer)
        elif not self.scaler.is_enabled() or self.scaler.get_scale() <= 1:  # it is not the scale that overflows
            raise _not_finite("gradient norm", norm, step, lr)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(map(_size, micro_batches))
        seconds, memory = time.perf_counter() - started, peak_memory(self.device)
        return StepRecord(step, loss, lr, norm, seconds, tokens, peak_memory=memory, skipped=not taken)

    def _backward(self, parts: list[dict[str, torch.Tensor]]) -> float:
        """Add up the gradients of the mean loss over all targets of the step; returns that mean.

        Each micro-batch contributes its summed loss divided by the whole step's targets. Data-parallel gradients are
        averages over the processes, which their number undoes.
        """
        targets = self.world.total(sum(count_targets(part["labels"]) for part in parts))
        if not targets:
            raise CourseError("Every label of this step is -100: there is nothing to train on.")
        total = 0.0
        for number, part in enumerate(parts):
            labels = part.pop("labels")
            with self._synchronised(number == len(parts) - 1):
                with self.autocast():
                    loss = training_loss(self.forward, part, labels, self.world.size / targets)
                self.scaler.scale(loss).backward()
            total += loss.item()
        return self.world.total(total) / self.world.size

    def _synchronised(self, last: bool):
        """Gradients travel between processes once a step, with the last micro-batch."""
        waits = self.world.size > 1 and not last and hasattr(self.forward, "no_sync")
        return self.forward.no_sync() if waits else contextlib.nullcontext()

    def _tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        """This process's rows on the device; a packed batch's segments become an attention mask."""
        batch = dict(batch) if isinstance(batch, dict) else {"input_ids": batch}
        batch.setdefault("labels", batch["input_ids"])
        tensors = self.world.rows({key: torch.as_tensor(value).long() for key, value in batch.items()})
        if "segment_ids" in tensors:
            from course_lib.data import block_diagonal

            tensors["attention_mask"] = torch.as_tensor(block_diagonal(tensors.pop("segment_ids").numpy()))
        return {key: value.to(self.device) for key, value in tensors.items()}

    # --- evaluation, checkpoints, log ---

    def _evaluated(self, record: StepRecord, steps: int, best: float | None) -> tuple[StepRecord, float | None]:
        """Evaluate where it is time to, and keep the weights if they are the best so far."""
        done, last = record.step + 1, record.step + 1 == steps
        if self.evaluate and (last or (self.eval_every and done % self.eval_every == 0)):
            self.model.eval()
            record = StepRecord(**asdict(record) | {"eval_loss": self.evaluate(self.model)})
            self.model.train()
            if best is None or record.eval_loss < best:
                best = record.eval_loss
                self._save(done, best, "best")
        return record, best

    def _save(self, done: int, best: float | None, name: str | None = None) -> None:
        if self.checkpoints:
            self.checkpoints.save(done, {"best": best, "scaler": self.scaler.state_dict()}, name)

    def _resume(self) -> tuple[int, float | None]:
        if self.checkpoints is None:
            raise CourseError("resume=True needs the folder of the checkpoints: Trainer(..., checkpoints=FOLDER).")
        state = self.checkpoints.load()
        if state is None:
            return 0, None
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["extra"]["scaler"])
        return state["step"], state["extra"]["best"]

    def _log(self, record: StepRecord, steps: int) -> None:
        if not self.world.is_main:
            return
        if self.log_path:
            with self.log_path.open("a") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        last, evaluated = record.step == steps - 1, record.eval_loss is not None
        if self.log_every and (record.step % self.log_every == 0 or last or evaluated):
            tqdm.write(record.line(), file=sys.stdout)

    def _read_log(self, done: int) -> list[StepRecord]:
        """The records of the first `done` steps; a line that a kill cut short is of a later step."""
        if not (done and self.log_path and self.log_path.is_file()):
            return []
        return read_log(self.log_path)[:done]

    def _write_log(self, records: list[StepRecord]) -> None:
        if self.log_path and self.world.is_main:
            write_whole(self.log_path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def read_log(path: Path | str) -> list[StepRecord]:
    """The records of a JSONL log, up to a last line that was cut short."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(StepRecord(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return records


def _not_finite(what: str, value: float, step: int, lr: float) -> CourseError:
    return CourseError(
        f"The {what} at step {step} is {value}: lower the learning rate ({lr:.1e}) or the clipping norm, compute in "
        "bfloat16 or float32 rather than float16, or look at the batch of that step. The weights are those before it."
    )


def _size(batch: Batch) -> int:
    return math.prod(np.shape(batch["input_ids"] if isinstance(batch, dict) else batch))


def _real_tokens(batch: Batch) -> int:
    """Tokens that are no padding."""
    masked = isinstance(batch, dict) and "attention_mask" in batch
    return int(np.sum(batch["attention_mask"]) if masked else _size(batch))


def _checkpoint_activations(model: nn.Module) -> None:
    if hasattr(model, "activation_checkpointing_enable"):  # transformers' new name for it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        raise CourseError(f"{type(model).__name__} cannot recompute its activations.")


def _can_fuse(trainer: Trainer) -> bool:
    """Whether AdamW's one-kernel update takes these parameters: floating-point, on a CPU or a GPU, not sharded."""
    return all(p.is_floating_point() and type(p.data) is torch.Tensor for p in trainer.parameters)


def _autocast(device: str, dtype: str | None):
    if dtype not in (None, "bfloat16", "float16"):
        raise CourseError(f"autocast={dtype!r}: choose bfloat16, float16 or none.")
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(device, getattr(torch, dtype))
