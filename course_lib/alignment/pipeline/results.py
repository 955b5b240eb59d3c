"""The evaluation of every model of a pipeline, its JSON files and its comparison table."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_lib.alignment.pipeline.evaluating import Subject, evaluate_model
from course_lib.alignment.pipeline.report import write_report
from course_lib.alignment.pipeline.stages import MODEL, Run
from course_lib.alignment.verifier import evaluate_scores
from course_lib.data.generators.pocket_problems import pocket_problems
from course_lib.data.judged import Judged
from course_lib.errors import CourseError
from course_lib.evaluation.calibration import reliability
from course_lib.files import write_json, write_whole
from course_lib.models.verifier import Verifier

# The stage that trained a model, and the name under which it is evaluated.
MODELS = {"baseline": "baseline", "pretrain": "base", "sft": "sft", "dpo": "dpo"}
TITLES = {"baseline": "GPT-2 (same size)", "base": "Base", "sft": "SFT", "dpo": "DPO", "verifier": "+Verifier"}
COLUMNS = (
    *("model", "parameters", "exact_match", "exact_match_low", "exact_match_high", "problems"),
    *("one_sample", "majority", "verifier_exact_match", "verifier_low", "verifier_high", "pass_at_n", "n"),
    *("perplexity", "word_perplexity", "long_sink_on", "long_sink_off"),
)


def evaluate_stage(run: Run, folder: Path) -> dict[str, Any]:
    """Evaluate every model; one that was evaluated before an interruption is not evaluated again.

    Args:
        run: the pipeline.
        folder: the stage's.

    Returns:
        Exact match by model.
    """
    s = run.settings
    items = pocket_problems("held_out", s.problems.held_out, s.seed)
    tokenizer, verifier = run.tokenizer(), Verifier.load(run.folder / "verifier" / MODEL)
    found = {}
    for stage, name in MODELS.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            subject = Subject(name, run.decoder(stage), tokenizer)
            about = evaluate_model(subject, items, s.problems, s.evaluation, verifier, s.seed)
            write_json(path, about)
            found[name] = about
        else:
            found[name] = read_json(path)
        share = found[name]["exact_match"]
        run.say(f"{TITLES[name]}: exact match {share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})")
    write_json(folder / "verifier.json", reranked(found["dpo"], verifier))
    return {name: about["exact_match"]["value"] for name, about in found.items()}


def reranked(dpo: dict[str, Any], verifier: Verifier) -> dict[str, Any]:
    """The row of DPO's model with the verifier, from DPO's own samples; and how well the verifier judges them.

    Args:
        dpo: the evaluation of the model whose samples were scored.
        verifier: the verifier.

    Returns:
        What verifier_eval.json says.
    """
    judgements = dpo["judgements"]
    answers = [
        Judged(row["problem"], text, mark)
        for row in judgements
        for text, mark in zip(row["answers"], row["correct"], strict=True)
    ]
    scores = [score for row in judgements for score in row["scores"]]
    about = {key: value for key, value in dpo.items() if key not in ("judgements", "exact_match_by_kind")}
    about |= {
        "model": "verifier",
        "kind": verifier.config.kind,
        "temperature": verifier.config.temperature,
        "verifier_parameters": sum(p.numel() for p in verifier.network.parameters()),
        "exact_match": dpo["samples"]["verifier"],
    }
    if len({each.correct for each in answers}) == 2:
        about["judging"] = evaluate_scores(_array(scores), answers).to_dict()
        about["reliability"] = [
            _plain(each) for each in reliability(_array(scores), _array([each.correct for each in answers]))
        ]
    else:
        about |= {"judging": None, "reliability": []}
    return about


def _array(values: Sequence[Any]) -> Any:
    import numpy as np

    return np.array(values)


def _plain(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def read_json(path: Path) -> dict[str, Any]:
    """A result. CourseError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} cannot be read ({type(error).__name__}). `course pipeline run --from evaluate` makes it anew."
        ) from error


def table_rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparison table.

    Args:
        found: evaluations by name: baseline, base, sft, dpo, verifier.

    Returns:
        One dictionary for each model, with the keys of `COLUMNS`; None where a number was not measured.
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
                "pass_at_n": list(samples["pass_at"].values())[-1] if samples else None,
                "n": samples.get("count"),
                "perplexity": first_text["perplexity"],
                "word_perplexity": first_text["word_perplexity"],
                "long_sink_on": long.get("on"),
                "long_sink_off": long.get("off"),
            }
        )
    return rows


def write_results(run: Run, folder: Path) -> dict[str, Any]:
    """Write results/: the four evaluations and the baseline's, the table, inference_ok.json and the report.

    Args:
        run: a pipeline whose stages are done.
        folder: results/.

    Returns:
        {"rows": the table's}.
    """
    found = {name: read_json(run.folder / "evaluate" / f"{name}.json") for name in TITLES}
    for name, about in found.items():
        shown = {key: value for key, value in about.items() if key != "judgements"}
        write_json(folder / f"{name}_eval.json", shown)
    rows = table_rows(found)
    write_whole(folder / "comparison_table.csv", as_csv(rows))
    inference = read_json(run.folder / "inference" / "inference_ok.json")
    write_json(folder / "inference_ok.json", inference)
    write_report(run, folder, found, rows, inference)
    return {"rows": rows}


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The table as CSV, all digits; a field is empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a terminal: exact match with its interval, and what comes from N samples."""
    head = ["model", "exact match", "95 % interval", "verifier", "pass@N", "perplexity", "sink on", "sink off"]
    cells = [head]
    for row in rows:
        cells.append(
            [
                row["model"],
                f"{row['exact_match']:.1%}",
                f"{row['exact_match_low']:.1%} to {row['exact_match_high']:.1%}",
                _percent(row["verifier_exact_match"]),
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
    """Whether each stage is better than the one before, by intervals that do not overlap.

    Args:
        rows: of the table: Base, SFT, DPO, +Verifier in this order, perhaps among others.

    Returns:
        One sentence for each step.
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

