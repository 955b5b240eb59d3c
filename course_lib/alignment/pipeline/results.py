"""The evaluation of every model of a pipeline, its JSON files and its comparison table."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.alignment.pipeline.answers import judged, prompt_of, write_answers
from course_lib.alignment.pipeline.evaluating import Subject, evaluate_model, share_of
from course_lib.alignment.pipeline.report import write_report
from course_lib.alignment.pipeline.stages import MODEL, Run
from course_lib.alignment.pipeline.table import TITLES, as_csv, read_json, table_rows
from course_lib.alignment.verifier import evaluate_scores
from course_lib.data.generators.pocket_problems import pocket_problems
from course_lib.data.judged import Judged
from course_lib.evaluation.calibration import reliability
from course_lib.files import write_json, write_whole
from course_lib.models.verifier import Verifier

# The stage that trained a model, and the name under which it is evaluated.
MODELS = {"baseline": "baseline", "pretrain": "base", "sft": "sft", "dpo": "dpo"}


def evaluate_stage(run: Run, folder: Path) -> dict[str, Any]:
    """Evaluate every model; one that was evaluated before an interruption is not evaluated again.

    Args:
        run: the pipeline.
        folder: the folder of the stage.

    Returns:
        The exact match of each model.
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
    alone = {"alone": verifier_alone(run, verifier, items)}
    write_json(folder / "verifier.json", reranked(found["dpo"], verifier) | alone)
    return {name: about["exact_match"]["value"] for name, about in found.items()}


def verifier_alone(run: Run, verifier: Verifier, items: Sequence[dict]) -> dict[str, Any] | None:
    """Measure exact match of the verifier's own language model: it may answer better than the model that it judges.

    Args:
        run: the pipeline.
        verifier: the verifier.
        items: the held-out problems.

    Returns:
        The share, see `share_of`; None where the verifier has no head of a language model.
    """
    if verifier.config.head != "tokens":
        return None
    network: Any = verifier.network
    s, tokenizer = run.settings, run.tokenizer()
    prompts = [prompt_of(tokenizer, item["question"]) for item in items]
    answers = write_answers(
        network.decoder, tokenizer, prompts, s.problems.max_new_tokens, batch_size=s.evaluation.batch_size
    )
    return share_of(sum(each.correct[0] for each in judged(items, answers)), len(items))


def reranked(dpo: dict[str, Any], verifier: Verifier) -> dict[str, Any]:
    """Evaluate the DPO model with the verifier on the DPO model's own samples, and how well the verifier judges them.

    Args:
        dpo: the evaluation of the DPO model, with its samples and their scores.
        verifier: the verifier.

    Returns:
        What `verifier_eval.json` says.
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
        "head": verifier.config.head,
        "temperature": verifier.config.temperature,
        "verifier_parameters": sum(p.numel() for p in verifier.network.parameters()),
        "exact_match": dpo["samples"]["verifier"],
    }
    if len({each.correct for each in answers}) == 2:
        about["judging"] = evaluate_scores(np.array(scores), answers).to_dict()
        right = [each.correct for each in answers]
        about["reliability"] = [asdict(each) for each in reliability(scores, right)]
    else:
        about |= {"judging": None, "reliability": []}
    return about


def write_results(run: Run, folder: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Write the results: the evaluation of each model, the comparison table, inference_ok.json and the report.

    Args:
        run: a pipeline whose stages are done.
        folder: the folder for the results.
        stages: the names of the stages, in order.

    Returns:
        {"rows": the rows of the comparison table}.
    """
    found = {name: read_json(run.folder / "evaluate" / f"{name}.json") for name in TITLES}
    for name, about in found.items():
        shown = {key: value for key, value in about.items() if key != "judgements"}
        write_json(folder / f"{name}_eval.json", shown)
    rows = table_rows(found)
    write_whole(folder / "comparison_table.csv", as_csv(rows))
    inference = read_json(run.folder / "inference" / "inference_ok.json")
    write_json(folder / "inference_ok.json", inference)
    write_report(run, folder, found, rows, inference, stages)
    return {"rows": rows}
