"""The log of a run: one record for each step, printed as a line and kept as JSONL."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from course_lib.files import write_whole


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step.

    Attributes:
        step: its number, from 0.
        loss: the mean over the step's targets, in nats per token.
        lr: the learning rate.
        norm: of all gradients, before clipping.
        seconds: wall-clock time.
        tokens: all that were computed, padding included.
        eval_loss: where the step was followed by an evaluation.
        peak_memory: in bytes, see `training.memory`.
        skipped: a gradient overflowed in float16, so the weights stayed as they were and the loss scale was lowered.
        metrics: what the objective reports besides the loss, such as the rewards of a preference loss.
    """

    step: int
    loss: float
    lr: float
    norm: float
    seconds: float
    tokens: int
    eval_loss: float | None = None
    peak_memory: int | None = None
    skipped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """`step 10 | loss 3.89 | lr 6.6e-05 | norm 0.89 | 42 ms | 15238 tok/s`."""
        parts = [
            f"step {self.step}",
            f"loss {self.loss:.4f}",
            f"lr {self.lr:.1e}",
            f"norm {self.norm:.2f}",
            f"{1000 * self.seconds:.0f} ms",
            f"{self.tokens / self.seconds:.0f} tok/s",
        ]
        parts += [f"{name} {value:.3f}" for name, value in self.metrics.items()]
        if self.eval_loss is not None:
            parts.append(f"eval {self.eval_loss:.4f}")
        if self.skipped:
            parts.append("skipped")
        return " | ".join(parts)


class TrainingLog:
    """Prints some records and appends all of them to a JSONL file.

    Args:
        every: print each record whose step is a multiple of this; 0: none.
        path: the JSONL file; None: none is written.
        enabled: False: print and write nothing. Of several processes only one is enabled.
    """

    def __init__(self, every: int = 10, path: Path | str | None = None, enabled: bool = True):
        self.every, self.path, self.enabled = every, Path(path) if path else None, enabled

    def start(self, done: int) -> list[StepRecord]:
        """Cut the file to the first `done` steps and return their records: what comes after them is done again."""
        records = []
        if done and self.path and self.path.is_file():
            records = read_log(self.path)[:done]
        if self.path and self.enabled:
            write_whole(self.path, "".join(json.dumps(asdict(record)) + "\n" for record in records))
        return records

    def add(self, record: StepRecord, last: bool) -> None:
        """Append a record to the file, and print it where its turn has come.

        Args:
            record: the step's record. One with an evaluation is printed too.
            last: whether it is the run's last step, which is printed too.
        """
        if not self.enabled:
            return
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        if self.every and (record.step % self.every == 0 or last or record.eval_loss is not None):
            tqdm.write(record.line(), file=sys.stdout)


def read_log(path: Path | str) -> list[StepRecord]:
    """The records of a JSONL log. A last line that a kill has cut short is left out, and what follows it."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(StepRecord(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return records
