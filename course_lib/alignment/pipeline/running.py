"""Run the pipeline from its first stage to its report. A stage that is done is skipped, a killed one goes on.

`runs/pipeline/` holds a folder for each stage. Its folder `results/` holds what came out:

base_eval.json, sft_eval.json, dpo_eval.json, verifier_eval.json, baseline_eval.json
comparison_table.csv, inference_ok.json
report.md, report.html
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from course_lib.alignment.pipeline.inference_check import check_inference
from course_lib.alignment.pipeline.results import evaluate_stage, write_results
from course_lib.alignment.pipeline.settings import Evaluation, PipelineSettings, Problems, VerifierTraining
from course_lib.alignment.pipeline.stages import (
    Run,
    fine_tune,
    learn_the_tokenizer,
    prefer,
    pretrain,
    sample_pairs,
    train_baseline,
    train_the_verifier,
    write_judged,
)
from course_lib.alignment.pipeline.state import STARTED, Key, StageFolder, code_version
from course_lib.errors import CourseError
from course_lib.execution.environment import usable_threads
from course_lib.files import write_json
from course_lib.finetuning.folder import CHECKPOINTS
from course_lib.suggestions import did_you_mean

PIPELINE, RESULTS, REPORT = "pipeline.json", "results", "report"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: the name of the stage and of its folder.
        needs: the stages whose files it reads.
        run: the function that does the work in the stage's folder, and returns what the report needs.
        settings: the names of the pipeline's settings that decide its numbers.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[Run, Path], dict[str, Any]]
    settings: tuple[str, ...]


def _inference(run: Run, folder: Path) -> dict[str, Any]:
    """Load the last model anew, on the processor, and let it answer."""
    s = run.settings
    return check_inference(run.model_folder("dpo"), folder / "inference_ok.json", trained_on=s.profile, seed=s.seed)


ANSWERING = ("problems", "evaluation")
STAGES = (
    Stage("tokenizer", (), learn_the_tokenizer, ("data_config", "vocab_size")),
    Stage("pretrain", ("tokenizer",), pretrain, ("data_config", "model", "stages.pretrain")),
    Stage("baseline", ("tokenizer",), train_baseline, ("data_config", "model", "stages.pretrain", "stages.baseline")),
    Stage("sft", ("tokenizer", "pretrain"), fine_tune, ("stages.sft", "problems")),
    Stage("pairs", ("tokenizer", "sft"), sample_pairs, ("problems", "evaluation.batch_size")),
    Stage("dpo", ("sft", "pairs"), prefer, ("stages.dpo",)),
    Stage("answers", ("tokenizer", "dpo"), write_judged, ("problems", "evaluation.batch_size")),
    Stage("verifier", ("tokenizer", "dpo", "answers"), train_the_verifier, ("verifier",)),
    Stage("evaluate", ("tokenizer", "pretrain", "baseline", "sft", "dpo", "verifier"), evaluate_stage, ANSWERING),
    Stage("inference", ("dpo",), _inference, ()),
)
NAMES = (*(stage.name for stage in STAGES), REPORT)


def key_of(run: Run, stage: Stage) -> Key:
    """Collect what a stage depends on now.

    Args:
        run: the pipeline.
        stage: one of `STAGES`.

    Returns:
        The settings of the stage, the hashes of the files that it reads, and the version of the code.
    """
    whole = run.settings.to_dict()
    settings: dict[str, Any] = {"seed": run.settings.seed}
    for name in stage.settings:
        value: Any = whole
        for part in name.split("."):
            value = value[part]
        if isinstance(value, dict):
            settings |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            settings[name] = value
    inputs = {
        f"{need}/{name}": value
        for need in stage.needs
        for name, value in StageFolder(run.folder / need).outputs().items()
    }
    return Key(settings, inputs, code_version())


def run_pipeline(
    settings: PipelineSettings, folder: Path, begin_with: str | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run every stage that is not done or has changed, and write the results and the report.

    Args:
        settings: the settings of the pipeline.
        folder: a new folder, or the folder of an earlier run of the pipeline.
        begin_with: a stage that runs again, with all stages after it, although nothing has changed.
        say: the function that shows a line to the reader.

    Returns:
        {"rows": the rows of the comparison table}.

    Raises:
        CourseError: a stage failed, there is no stage `begin_with`, the folder holds something else, or another process
            is running a pipeline in it.
    """
    if begin_with is not None and begin_with not in NAMES:
        raise CourseError(
            f"--from {begin_with}: there is no such stage. Choose one of {', '.join(NAMES)}."
            f"{did_you_mean(begin_with, NAMES)}"
        )
    _claim(folder)
    with _locked(folder):
        write_json(folder / PIPELINE, {"settings": settings.to_dict()})
        if settings.threads:
            torch.set_num_threads(min(settings.threads, usable_threads()))
        run = Run(settings, folder, say)
        again = False
        for number, stage in enumerate(STAGES):
            again = again or stage.name == begin_with
            if again:
                StageFolder(folder / stage.name).forget()
            _run_stage(run, stage, f"[{number + 1}/{len(STAGES)}] {stage.name}")
        return write_results(run, folder / RESULTS, [stage.name for stage in STAGES])


def _claim(folder: Path) -> None:
    """Refuse a folder that holds something else than a pipeline."""
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file. Give --output a folder.")
    filled = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if filled and not (folder / PIPELINE).is_file():
        raise CourseError(f"{folder} holds other files, and no pipeline. Choose another --output.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one pipeline at a time run in a folder. The lock of a process that was killed is free again."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CourseError(
            f"Another process is running the pipeline in {folder}. Wait until it ends, or choose another --output."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run_stage(run: Run, stage: Stage, title: str) -> None:
    """Run one stage, unless it is done and unchanged."""
    place, key = StageFolder(run.folder / stage.name), key_of(run, stage)
    reasons = place.changes(key)
    if not reasons:
        run.say(f"{title}: done and unchanged")
        return
    goes_on = place.begin(key)
    if goes_on:
        why = "continues where it was interrupted"
    elif reasons == ["it is not done"]:
        why = "begins"
    else:
        why = f"runs again: {'; '.join(reasons[:3])}"
    run.say(f"{title}: {why}")
    wall, cpu = time.perf_counter(), time.process_time()
    summary = stage.run(run, place.path)
    times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    place.finish(key, {"summary": summary, "resumed": goes_on} | times)
    (place.path / STARTED).unlink(missing_ok=True)
    run.say(f"{title}: done in {times['seconds']:.0f} s ({times['cpu_seconds']:.0f} s of processor time)")


def pipeline_status(settings: PipelineSettings, folder: Path) -> list[dict[str, Any]]:
    """Find out how far each stage is. Nothing is written.

    Args:
        settings: the settings of the pipeline.
        folder: the folder of the pipeline.

    Returns:
        {"stage", "state", "why", "seconds"} for each stage and the report. The state is "done", "changed",
        "interrupted" or "waiting".
    """
    run, rows = Run(settings, folder), []
    for stage in STAGES:
        place, key = StageFolder(folder / stage.name), key_of(run, stage)
        reasons, record = place.changes(key), place.record()
        state = "done" if not reasons else "changed" if record else "waiting"
        if record is None and (place.path / STARTED).is_file():
            state, reasons = "interrupted", [_how_far(place.path)]
        why = "" if state in ("done", "waiting") else "; ".join(reasons[:3])
        rows.append({"stage": stage.name, "state": state, "why": why, "seconds": (record or {}).get("seconds")})
    report = folder / RESULTS / "report.html"
    rows.append({"stage": REPORT, "state": "done" if report.is_file() else "waiting", "why": "", "seconds": None})
    return rows


def _how_far(folder: Path) -> str:
    """Name the newest checkpoint of an interrupted stage, in words."""
    newest = max(folder.glob(f"**/{CHECKPOINTS}/step_??????"), default=None, key=lambda path: path.name)
    return f"a checkpoint after step {int(newest.name[5:])}" if newest else "no checkpoint yet: it starts again"


def read_pipeline(folder: Path) -> PipelineSettings:
    """Read the settings with which the pipeline of a folder was last run.

    Args:
        folder: the folder of the pipeline.

    Returns:
        The settings.

    Raises:
        CourseError: the folder holds no pipeline, or its settings cannot be read.
    """
    path = folder / PIPELINE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["settings"]
        known["evaluation"]["perplexity_on"] = tuple(known["evaluation"]["perplexity_on"])
        parts = {
            "problems": Problems(**known["problems"]),
            "evaluation": Evaluation(**known["evaluation"]),
            "verifier": VerifierTraining(**known["verifier"]),
        }
        return PipelineSettings(**known | parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"{folder} holds no pipeline that can be read ({type(error).__name__}). `course pipeline run --output "
            f"{folder}` begins one."
        ) from error
