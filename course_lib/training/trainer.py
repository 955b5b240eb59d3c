"""The Trainer: batches in, a loss curve out.

Left out, for later chapters: gradient accumulation, mixed precision, evaluation during training, checkpoints.
"""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from course_lib.errors import CourseError
from course_lib.training.loss import next_token_loss
from course_lib.training.schedule import warmup_cosine


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step. loss: nats a token; norm: of all gradients before clipping; seconds: wall clock."""

    step: int
    loss: float
    lr: float
    norm: float
    seconds: float
    tokens: int

    def line(self) -> str:
        """`step 10 | loss 3.89 | lr 6.6e-05 | norm 0.89 | 42 ms | 15238 tok/s`."""
        speed = self.tokens / self.seconds
        return (
            f"step {self.step} | loss {self.loss:.4f} | lr {self.lr:.1e} | norm {self.norm:.2f} | "
            f"{1000 * self.seconds:.0f} ms | {speed:.0f} tok/s"
        )


class Trainer:
    """Trains whichever parameters of `model` require gradients: all of them, or an adapter's few.

    model: maps token ids (batch, time) to an object with `.logits` (batch, time, vocabulary), as transformers' do.
    AdamW with linear warmup then a cosine to a tenth of `lr`, gradients clipped to norm `clip`.
    log_every: steps between printed log lines (0: none). log_path: a JSONL file with every step's record.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        log_every: int = 10,
        log_path: Path | str | None = None,
    ):
        self.model, self.lr, self.warmup, self.clip = model, lr, warmup, clip
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise CourseError(
                "Nothing to train: no parameter of the model requires gradients (inject an adapter first?)."
            )
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay)
        self.log_every, self.log_path = log_every, Path(log_path) if log_path else None

    def train(self, batches: Iterable) -> list[StepRecord]:
        """One step a batch (token ids, integer array or tensor (batch, time)). Returns the record of each step.

        Raises CourseError where the loss is not a finite number.
        """
        batches = list(batches)
        device = self.parameters[0].device
        self.model.train()
        records = []
        # The bar goes to the terminal; in a notebook the log lines are what stays on the page.
        with tqdm(batches, desc="training", unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:
            for step, batch in enumerate(bar):
                records.append(self._step(step, len(batches), torch.as_tensor(batch, device=device).long()))
                bar.set_postfix(loss=f"{records[-1].loss:.3f}")
                if self.log_every and (step % self.log_every == 0 or step == len(batches) - 1):
                    tqdm.write(records[-1].line(), file=sys.stdout)
        self.model.eval()
        self._write_log(records)
        return records

    def _step(self, step: int, steps: int, tokens: torch.Tensor) -> StepRecord:
        started = time.perf_counter()
        lr = self.lr * warmup_cosine(step, steps, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        loss = next_token_loss(self.model(tokens).logits, tokens)
        if not torch.isfinite(loss):
            raise CourseError(
                f"The loss at step {step} is {loss.item()}: lower the learning rate ({lr:.1e}) or the clipping norm."
            )
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepRecord(step, loss.item(), lr, norm.item(), time.perf_counter() - started, tokens.numel())

    def _write_log(self, records: list[StepRecord]) -> None:
        if self.log_path:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.log_path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
