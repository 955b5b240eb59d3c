"""The comparison table with a row for each model, as CSV and as text, and whether each stage is better."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError

TITLES = {"baseline": "GPT-2 (same size)", "base": "Base", "sft": "SFT", "dpo": "DPO", "verifier": "+Verifier"}
COLUMNS = (
    *("model", "parameters", "exact_match", "exact_match_low", "exact_match_high", "problems"),
    *(
        "one_sample",
        "majority",
        "verifier_exact_match",
        "verifier_low",
        "verifier_high",
        "weighted_vote",
        "pass_at_n",
        "n",
    ),
    *("perplexity", "word_perplexity", "long_sink_on", "long_sink_off"),
)


def read_json(path: Path) -> dict[str, Any]:
    """Read a result. Raises CourseError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} cannot be read ({type(error).__name__}). `course pipeline run --from evaluate` makes it again."
        ) from error


def table_rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the rows of the comparison table.

    Args:
        found: the evaluations by name: baseline, base, sft, dpo and verifier.

    Returns:
        One dictionary for each model, with the keys of `COLUMNS`. A number that was not measured is None.
    """
    rows = []
    for name in TITLES:
        about = found[name]
        samples, long = about["samples"] or {}, about["long_context"] or {}
        first_text = next(iter(about["perplexity"].values()))
        chosen, exact = samples.get("verifier") or {}, about["exact_match"]
        rows.append(
            {
                "model": TITLES[name],
                "parameters": about["parameters"],
                "exact_match": exact["value"],
                "exact_match_low": exact["low"],
                "exact_match_high": exact["high"],
                "problems": exact["problems"],
                "one_sample": (samples.get("one") or {}).get("value"),
                "majority": (samples.get("majority") or {}).get("value"),
                "verifier_exact_match": chosen.get("value"),
                "verifier_low": chosen.get("low"),
                "verifier_high": chosen.get("high"),
                "weighted_vote": (samples.get("weighted_vote") or {}).get("value"),
                "pass_at_n": list(samples["pass_at"].values())[-1] if samples else None,
                "n": samples.get("count"),
                "perplexity": first_text["perplexity"],
                "word_perplexity": first_text["word_perplexity"],
                "long_sink_on": long.get("on"),
                "long_sink_off": long.get("off"),
            }
        )
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The table as CSV with all digits. A field is empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a terminal, with exact match, its interval, and what comes from N samples."""
    head = [
        "model",
        "exact match",
        "95 % interval",
        "majority",
        "verifier",
        "vote",
        "pass@N",
        "perplexity",
        "sink on",
        "sink off",
    ]
    cells = [head]
    for row in rows:
        cells.append(
            [
                row["model"],
                f"{row['exact_match']:.1%}",
                f"{row['exact_match_low']:.1%} to {row['exact_match_high']:.1%}",
                _percent(row["majority"]),
                _percent(row["verifier_exact_match"]),
                _percent(row["weighted_vote"]),
                _percent(row["pass_at_n"]),
                f"{row['perplexity']:.2f}",
                _number(row["long_sink_on"]),
                _number(row["long_sink_off"]),
            ]
        )
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def gains(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say whether each stage is better than the one before, by intervals that do not overlap.

    Args:
        rows: the rows of the table, with Base, SFT, DPO and +Verifier in this order, perhaps among others.

    Returns:
        One sentence for each step from one stage to the next.

    Example:
        >>> before = {"model": "Base", "exact_match": 0.1, "exact_match_low": 0.08, "exact_match_high": 0.12}
        >>> after = {"model": "SFT", "exact_match": 0.3, "exact_match_low": 0.27, "exact_match_high": 0.33}
        >>> gains([before, after])
        ['Base to SFT: +20.0 points; SFT is better, and the intervals do not overlap.']
    """
    stages = [row for row in rows if row["model"] in ("Base", "SFT", "DPO", "+Verifier")]
    lines = []
    for before, after in zip(stages, stages[1:], strict=False):
        if after["exact_match_low"] > before["exact_match_high"]:
            verdict = "is better, and the intervals do not overlap"
        elif after["exact_match"] > before["exact_match"]:
            verdict = "is better, but the intervals overlap"
        else:
            verdict = "is not better"
        difference = 100 * (after["exact_match"] - before["exact_match"])
        lines.append(f"{before['model']} to {after['model']}: {difference:+.1f} points; {after['model']} {verdict}.")
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
