"""Two runs compared: losses step by step, gradients and final tensors, as text, JSON, HTML and a plot.

Left out: tensors that one side stores transposed, which are reported as of another shape.
"""

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import torch

from course_lib.errors import CourseError
from course_lib.files import write_whole
from course_lib.parity.runs import Run, Tensors, opened


@dataclass(frozen=True)
class Difference:
    """One step's loss or one tensor in both runs.

    Attributes:
        where: the step or the tensor's name.
        a: A's loss, or its tensor's norm.
        b: the same of B.
        absolute: the difference of the losses, or the largest difference of any entry.
        relative: the absolute difference divided by B's loss; for tensors the difference's norm divided by B's norm.
    """

    where: str
    a: float
    b: float
    absolute: float
    relative: float


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side.

    Attributes:
        a: the first run.
        b: the second run, which relative differences are taken to.
        parts: lists of differences for "loss", "gradients" and "weights", as far as they were compared.
        tolerance: the largest relative difference that counts as agreement.
        unmatched: what only one run has, or has in another shape.
        notes: what else a reader should know.
    """

    a: Run
    b: Run
    parts: dict[str, list[Difference]]
    tolerance: float
    unmatched: list[str]
    notes: list[str]

    @property
    def within(self) -> bool:
        """Whether every difference is a number of at most `tolerance`, and nothing is unmatched."""
        return not self.unmatched and all(d.relative <= self.tolerance for part in self.parts.values() for d in part)

    @property
    def verdict(self) -> str:
        """Whether the runs agree, in words."""
        return f"{'within' if self.within else 'outside'} the tolerance of {self.tolerance:.3g} (relative)"

    def summary(self) -> list[tuple[str, ...]]:
        """Rows of text: what, how many, the largest absolute and relative differences and where they are."""
        rows: list[tuple[str, ...]] = [("compared", "number", "largest absolute", "at", "largest relative", "at")]
        for kind, part in self.parts.items():
            absolute = max(part, key=lambda difference: _rank(difference.absolute))
            relative = max(part, key=lambda difference: _rank(difference.relative))
            numbers = f"{absolute.absolute:.3g}", absolute.where, f"{relative.relative:.3g}", relative.where
            rows.append((kind, str(len(part)), *numbers))
        return rows

    def remarks(self) -> list[str]:
        """All notes, and what is unmatched (the first five of it)."""
        more = [f"and {len(self.unmatched) - 5} more"] if len(self.unmatched) > 5 else []
        return [*self.notes, *self.unmatched[:5], *more]

    def __str__(self) -> str:
        rows = self.summary()
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        lines = ["  ".join(row).rstrip() for row in padded]
        notes = [f"note: {remark}" for remark in self.remarks()]
        return "\n".join([f"A: {self.a.name}", f"B: {self.b.name}", "", *lines, "", *notes, self.verdict])

    def to_json(self) -> str:
        """Every step and tensor as JSON. NaN and infinity become text, since JSON does not have them as numbers."""
        parts = {kind: [_finite(asdict(d)) for d in part] for kind, part in self.parts.items()}
        head = {"a": self.a.name, "b": self.b.name, "within": self.within, "tolerance": self.tolerance}
        return json.dumps(head | {"notes": self.notes, "unmatched": self.unmatched} | parts, indent=1, allow_nan=False)

    def to_html(self) -> str:
        """One page that needs no other file and runs no script; all that comes from the runs is escaped."""
        picture = ""
        if "loss" in self.parts:
            source = "data:image/svg+xml;base64," + base64.b64encode(draw(self, "svg")).decode()
            picture = f'<img alt="Loss of both runs by step, and their relative difference" src="{source}">'
        notes = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks())
        parts = "".join(
            f"<details><summary>{escape(kind)}, one by one</summary>{_html_table(_rows_of(part))}</details>"
            for kind, part in self.parts.items()
        )
        return PAGE.format(
            a=escape(self.a.name),
            b=escape(self.b.name),
            verdict=escape(self.verdict),
            summary=_html_table(self.summary()),
            notes=notes,
            picture=picture,
            parts=parts,
        )


def compare_runs(a: Run, b: Run, tolerance: float = 0.02, offset: int = 0) -> RunComparison:
    """Compare two runs in all that both have.

    Args:
        a: the first run.
        b: the second run, which relative differences are taken to.
        tolerance: the largest relative difference that counts as agreement.
        offset: added to B's step numbers, for programs of which one counts from 0 and the other from 1.

    Returns:
        The differences of losses, gradients and weights.

    Raises:
        CourseError: nothing is in both runs, or both have losses but not one step in common.
    """
    if not 0 <= tolerance < math.inf:
        raise CourseError(f"The tolerance is a number of at least 0, not {tolerance}.")
    notes = [*a.notes, *b.notes, *_different_settings(a, b)]
    losses, rates = ({step + offset: value for step, value in curve.items()} for curve in (b.losses, b.rates))
    unmatched: list[str] = []
    parts = {"loss": _compare_losses(a, b.name, losses, notes)}
    if first := [step for step in sorted(a.rates.keys() & rates.keys()) if _apart(a.rates[step], rates[step])]:
        pair = f"{a.rates[first[0]]:.4g} in A and {rates[first[0]]:.4g} in B"
        notes.append(
            f"The learning rates differ by more than 1 % at {len(first)} steps, first at step {first[0]}: {pair}."
        )
    gradients = {step + offset: tensors for step, tensors in b.gradients.items()}
    parts["gradients"] = [
        difference
        for step in sorted(a.gradients.keys() & gradients.keys())
        for difference in _compare_tensors(a.gradients[step], gradients[step], f"step {step}: ", unmatched)
    ]
    if not parts["gradients"] and (
        without := [run.name for run in (a, b) if run.settings.get("dump_gradients") == "0"]
    ):
        notes.append(
            f"No gradients are compared: {' and '.join(without)} wrote none. With --dump-gradients N each run writes "
            "those of its first N steps."
        )
    if a.weights and b.weights:
        parts["weights"] = _compare_tensors(a.weights, b.weights, "", unmatched)
    parts = {kind: part for kind, part in parts.items() if part}
    if not parts:
        raise CourseError(
            f"{a.name} and {b.name} have nothing in common: no steps with losses, no tensors of one name."
        )
    return RunComparison(a, b, parts, tolerance, unmatched, notes)


def _compare_losses(a: Run, name: str, losses: Mapping[int, float], notes: list[str]) -> list[Difference]:
    if not (a.losses and losses):
        if missing := [run for run, curve in ((a.name, a.losses), (name, losses)) if not curve]:
            notes.append(f"No losses in {' and '.join(missing)}.")
        return []
    common = sorted(a.losses.keys() & losses.keys())
    ranges = [f"{len(curve)} steps from {min(curve)} to {max(curve)}" for curve in (a.losses, losses)]
    if not common:
        raise CourseError(f"No step is in both runs: A has {ranges[0]}, B {ranges[1]} (try --offset).")
    if len(common) < max(len(a.losses), len(losses)):
        notes.append(f"A has {ranges[0]}, B {ranges[1]}: the {len(common)} common steps are compared.")
    if {min(a.losses), min(losses)} == {0, 1}:
        shift = min(a.losses) - min(losses)
        notes.append(f"One run counts from 0 and the other from 1: where they began alike, give --offset {shift}.")
    return [_of_losses(step, a.losses[step], losses[step]) for step in common]


def _of_losses(step: int, x: float, y: float) -> Difference:
    return Difference(f"step {step}", x, y, abs(x - y), _ratio(abs(x - y), abs(y)))


def _compare_tensors(ours: Tensors, theirs: Tensors, label: str, unmatched: list[str]) -> list[Difference]:
    """The differences of the tensors of one name and shape; the others are added to `unmatched`."""
    unmatched += [f"{label}{name} is only in A." for name in sorted(ours.keys() - theirs.keys())]
    unmatched += [f"{label}{name} is only in B." for name in sorted(theirs.keys() - ours.keys())]
    differences = []
    for name in sorted(ours.keys() & theirs.keys()):
        x, y = _tensor(*ours[name]), _tensor(*theirs[name])
        if x.shape != y.shape:
            unmatched.append(f"{label}{name} is {tuple(x.shape)} in A and {tuple(y.shape)} in B.")
            continue
        # The largest entry finds one wrong number among millions; the norms say how large the error is as a whole.
        largest = (x - y).abs().max().item() if x.numel() else 0.0
        norms = [torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in (x, y, x - y)]
        differences.append(Difference(label + name, norms[0], norms[1], largest, _ratio(norms[2], norms[1])))
    return differences


def _tensor(file: Path, name: str) -> torch.Tensor:
    with opened(file) as content:
        tensor = content.get_tensor(name)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else torch.float64)


def _ratio(difference: float, size: float) -> float:
    """difference / size, which also has an answer for a size of 0. NaN stays NaN."""
    if difference == 0:
        return 0.0
    if size:
        return difference / size
    return math.inf if difference > 0 else math.nan


def _apart(x: float, y: float) -> bool:
    return not abs(x - y) <= 0.01 * max(abs(x), abs(y))


def _rank(value: float) -> float:
    """NaN counts as the largest difference of all."""
    return math.inf if math.isnan(value) else value


def _different_settings(a: Run, b: Run) -> list[str]:
    keys = [key for key in a.settings if key in b.settings and a.settings[key] != b.settings[key]]
    return [f"Different settings: {key} is {a.settings[key]} in A and {b.settings[key]} in B." for key in keys]


def _finite(entry: dict) -> dict:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


# --- pages and pictures ---------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Two runs compared</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}img{{max-width:100%}}
table{{border-collapse:collapse;display:block;overflow-x:auto;white-space:nowrap}}
td,th{{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}}</style></head><body>
<h1>Two runs compared</h1><p>A: {a}<br>B: {b}</p><p><strong>{verdict}</strong></p>
{summary}<ul>{notes}</ul>{picture}{parts}</body></html>
"""


def _rows_of(part: Iterable[Difference]) -> list[tuple[str, ...]]:
    numbers = (tuple(f"{value:.6g}" for value in (d.a, d.b, d.absolute, d.relative)) for d in part)
    return [
        ("where", "A", "B", "absolute", "relative"),
        *((d.where, *row) for d, row in zip(part, numbers, strict=True)),
    ]


def _html_table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for row, tag in _tagged(rows)]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"


def _tagged(rows: list[tuple[str, ...]]) -> Iterable[tuple[tuple[str, ...], str]]:
    return ((row, "td" if number else "th") for number, row in enumerate(rows))


def draw(comparison: RunComparison, kind: str) -> bytes:
    """Plot both loss curves, and below them their relative difference beside the tolerance.

    Args:
        comparison: the runs side by side.
        kind: "png", "svg" or "pdf".

    Returns:
        The picture's file.

    Raises:
        CourseError: the losses were not compared.
    """
    from matplotlib.figure import Figure

    if "loss" not in comparison.parts:
        raise CourseError("There are no losses to plot: one of the runs has none.")
    part = comparison.parts["loss"]
    steps = [int(d.where.removeprefix("step ")) for d in part]
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(steps, [d.a for d in part], "o-", markersize=3, label=f"A: {comparison.a.name}")
    above.plot(steps, [d.b for d in part], "x--", markersize=4, label=f"B: {comparison.b.name}")
    above.set_ylabel("loss (nats per token)")
    for text in above.legend().get_texts():
        text.set_parse_math(False)  # a dollar sign in a file's name does not begin a formula
    below.plot(steps, [d.relative for d in part], ".-", color="black")
    below.axhline(comparison.tolerance, color="tab:red", linewidth=1)
    below.set_yscale("symlog", linthresh=1e-8)
    below.set(xlabel="step", ylabel="relative difference")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet, whole or not at all.

    Args:
        path: the file.
        content: all of its bytes.

    Raises:
        CourseError: the file exists.
    """
    if path.exists():
        raise CourseError(f"{path} exists: choose another name or remove it first.")
    write_whole(path, content)
