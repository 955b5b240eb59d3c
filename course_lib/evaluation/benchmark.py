"""Models compared on one held-out set: how well each predicts it, and what it took to get there.

Checked against independent arithmetic in tests/evaluation/test_benchmark.py. Left out: generated answers, error bars
over seeds, and masked prompts (every token after a row's first is predicted).
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from course_lib.errors import CourseError
from course_lib.evaluation.perplexity import evaluate, perplexity
from course_lib.files import write_whole
from course_lib.suggestions import similar_paths
from course_lib.training.log import StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vPX*"  # beside the colours, for those who cannot tell them apart


@dataclass(frozen=True)
class Result:
    """One model's row. None means that a number was not measured.

    Attributes:
        name: the row's name.
        loss: held-out loss in nats per token.
        perplexity: exp(loss).
        accuracy: the share of tokens whose likeliest guess is right.
        trainable: the number of trained parameters.
        total: the number of all parameters.
        seconds: the time of all training steps, without the evaluations between them.
        peak_memory: bytes, from the Trainer's records: of the GPU since training began, or of the whole process.
        checkpoint_bytes: the size of the checkpoint's file or folder.
    """

    name: str
    loss: float
    perplexity: float
    accuracy: float
    trainable: int
    total: int
    seconds: float | None = None
    peak_memory: int | None = None
    checkpoint_bytes: int | None = None


class Benchmark:
    """Results by name, in the order of `add`; it shows itself as a table.

        Benchmark(held_out).add("base", base).add("LoRA", adapted, training=records, checkpoint=adapter_folder)

    Args:
        held_out: token ids (rows, time) that no model was trained on, the same for all.
        batch_size: rows of one forward pass.

    Raises:
        CourseError: the held-out set is not such an array, or the batch size is below 1.
    """

    def __init__(self, held_out: np.ndarray, batch_size: int = 8):
        held_out = np.asarray(held_out)
        if held_out.ndim != 2 or not len(held_out) or held_out.shape[1] < 2:
            raise CourseError(
                f"A held-out set is rows of at least 2 token ids, not an array of shape {held_out.shape}."
            )
        if not np.issubdtype(held_out.dtype, np.integer):
            raise CourseError(f"A held-out set is token ids, integers, not {held_out.dtype}.")
        if batch_size < 1:
            raise CourseError(f"batch_size is at least 1, not {batch_size}.")
        self.held_out, self.batch_size = held_out, batch_size
        self.results: dict[str, Result] = {}

    def add(
        self,
        name: str,
        model: nn.Module,
        training: Sequence[StepRecord] = (),
        checkpoint: Path | str | None = None,
    ) -> "Benchmark":
        """Measure a model in its present state, and keep the row.

        Parameters that require gradients count as trainable. A model without training records of which nothing is
        frozen is a base that was only loaded, so its row says 0.

        Args:
            name: the row's name.
            model: maps token ids (batch, time) to `.logits`. Its mode (train or eval) is put back.
            training: what `Trainer.train` returned.
            checkpoint: the file or folder that has to be kept.

        Returns:
            The benchmark itself, so that calls can be chained.

        Raises:
            CourseError: the name is in use, the model does not know a token, the loss is not finite, or there is no
                such checkpoint.
        """
        if name in self.results:
            raise CourseError(f"This benchmark has a row {name!r} already: choose another name.")
        size = None if checkpoint is None else _size(Path(checkpoint))
        measured = evaluate(model, self.held_out, self.batch_size, accuracy=True)
        loss, accuracy = measured.loss, measured.accuracy
        assert accuracy is not None  # it was asked for
        if not math.isfinite(loss):
            raise CourseError(
                f"The held-out loss of {name!r} is {loss}: this model cannot be compared. Look for NaN in its weights, "
                "or at its training."
            )
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        peaks = [record.peak_memory for record in training if record.peak_memory is not None]
        self.results[name] = Result(
            name=name,
            loss=loss,
            perplexity=perplexity(loss),
            accuracy=accuracy,
            trainable=0 if trainable == total and not training else trainable,
            total=total,
            seconds=sum(record.seconds for record in training) if training else None,
            peak_memory=max(peaks, default=None),
            checkpoint_bytes=size,
        )
        return self

    def __getitem__(self, name: str) -> Result:
        try:
            return self.results[name]
        except KeyError:
            raise CourseError(f"This benchmark has no row {name!r}; it has: {list(self.results)}.") from None

    def table(self) -> str:
        """The table as text, with one row for each model. A notebook shows the same as HTML."""
        head, *rows = self._cells()
        widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
        lines = []
        for row in (head, *rows):  # names on the left, numbers on the right of their columns
            numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
        return "\n".join(lines)

    __str__ = table

    def _repr_html_(self) -> str:
        head, *rows = ([escape(cell) for cell in row] for row in self._cells())
        top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        body = "".join(f'<tr><th scope="row">{row[0]}</th><td>{"</td><td>".join(row[1:])}</td></tr>' for row in rows)
        return f'<table class="benchmark"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'

    def _cells(self) -> list[tuple[str, ...]]:
        return [tuple(COLUMNS)] + [tuple(show(result) for show in COLUMNS.values()) for result in self.results.values()]

    def to_json(self, path: Path | str, overwrite: bool = False) -> Path:
        """Write {"held_out": {"rows", "predicted_tokens"}, "results": [one dictionary for each row]}.

        Args:
            path: the file to write.
            overwrite: whether it may replace a file that exists.

        Returns:
            The path.

        Raises:
            CourseError: the file exists, and `overwrite` is False.
        """
        rows, time = self.held_out.shape
        held_out = {"rows": rows, "predicted_tokens": rows * (time - 1)}
        content = {"held_out": held_out, "results": [asdict(result) for result in self.results.values()]}
        return _write(Path(path), json.dumps(content, indent=1) + "\n", overwrite)

    def to_csv(self, path: Path | str, overwrite: bool = False) -> Path:
        """Write one line for each model, with all digits, and an empty field for what was not measured.

        Args:
            path: the file to write.
            overwrite: whether it may replace a file that exists.

        Returns:
            The path.

        Raises:
            CourseError: the file exists, and `overwrite` is False.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in self.results.values())
        return _write(Path(path), text.getvalue(), overwrite)

    def plot(self, axis: "Axes | None" = None) -> "Axes":
        """Plot the held-out loss against the trainable parameters (log scale).

        A model of which nothing was trained is a dashed line.

        Args:
            axis: where to draw. None: a new figure.

        Returns:
            The axis.

        Raises:
            CourseError: the benchmark is empty.
        """
        import matplotlib.pyplot as plt

        if not self.results:
            raise CourseError("This benchmark is empty: add a model before plotting.")
        axis = axis or plt.subplots(figsize=(7, 3.6))[1]
        for number, result in enumerate(self.results.values()):
            colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
            if not result.trainable:
                axis.axhline(result.loss, color=colour, linestyle="--", linewidth=1, label=result.name)
            else:
                axis.plot(result.trainable, result.loss, marker, color=colour, label=result.name)
        if any(result.trainable for result in self.results.values()):
            axis.set_xscale("log")
        axis.set(xlabel="trainable parameters", ylabel="held-out loss (nats per token)")
        axis.legend(fontsize="small")
        return axis


def _shown_size(size: int | None) -> str:
    if size is None:
        return "–"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.0f} kB"


COLUMNS = {
    "model": lambda result: result.name,
    "loss": lambda result: f"{result.loss:.3f}",
    "perplexity": lambda result: f"{result.perplexity:,.1f}",
    "accuracy": lambda result: f"{100 * result.accuracy:.1f} %",
    "trainable": lambda result: f"{result.trainable:,}",
    "total": lambda result: f"{result.total:,}",
    "training": lambda result: "–" if result.seconds is None else f"{result.seconds:.1f} s",
    "peak memory": lambda result: _shown_size(result.peak_memory),
    "checkpoint": lambda result: _shown_size(result.checkpoint_bytes),
}


def _size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    if not path.exists():
        raise CourseError(
            f"There is no checkpoint {path}.{similar_paths(path)} Leave checkpoint out where nothing was saved."
        )
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _write(path: Path, text: str, overwrite: bool) -> Path:
    if path.exists() and not overwrite:
        raise CourseError(f"{path} exists: choose another name, or say overwrite=True.")
    return write_whole(path, text)
